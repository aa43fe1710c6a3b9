//! Frames as an edge router sees them: mostly TCP and UDP over IPv4, of the usual three sizes, to the ports of popular
//! services and back, some IPv6, ICMP, ARP, options and fragments. The same in every run.

/// Frames that are judged, in 64 bursts; too many for a branch predictor to learn by heart.
pub const FRAMES: usize = 4096;

/// Ports of services, the popular ones more than once.
const SERVICES: [u16; 16] = [80, 80, 80, 80, 443, 443, 443, 443, 443, 443, 53, 53, 22, 123, 8080, 4500];

/// Makes the frames.
pub fn frames() -> Vec<Vec<u8>> {
    let mut random = Random(0x5eed_0b9f);
    (0..FRAMES).map(|_| frame(&mut random)).collect()
}

fn frame(random: &mut Random) -> Vec<u8> {
    // Least and most common sizes of Internet traffic, without FCS.
    let size = match random.below(12) {
        0..=6 => 60,
        7..=10 => 590,
        _ => 1514,
    };
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, random.below(8) as u8];
    match random.below(100) {
        0 => {
            f.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 192, 0, 2]);
            f.push(random.below(250) as u8);
            f.resize(60, 0);
            return f;
        }
        1..=6 => {
            f.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
            f.extend(random.bytes(32));
            ports(&mut f, random);
        }
        n => {
            let words = if n == 7 { 6 } else { 5 };
            let fragment: u16 = if n == 8 { 0x00b9 } else { 0x4000 };
            let protocol = match n {
                7..=79 => 6,
                80..=97 => 17,
                _ => 1,
            };
            f.extend([8, 0, 0x40 | words, 0]);
            f.extend((size as u16 - 14).to_be_bytes());
            f.extend(random.bytes(2));
            f.extend(fragment.to_be_bytes());
            f.extend([64 - random.below(20) as u8, protocol, 0, 0]);
            f.extend(address(random));
            f.extend([198, 51, 100, random.below(250) as u8]);
            f.resize(14 + usize::from(words) * 4, 1);
            ports(&mut f, random);
        }
    }
    f.resize(size.max(f.len()), 0xa5);
    f
}

/// A source: mostly anybody, now and then one that an edge list names.
fn address(random: &mut Random) -> [u8; 4] {
    match random.below(20) {
        0 => [10, 1, 2, random.below(250) as u8],
        1 => [203, 0, 113, random.below(250) as u8],
        _ => [20 + random.below(70) as u8, random.below(256) as u8, random.below(256) as u8, random.below(256) as u8],
    }
}

fn ports(f: &mut Vec<u8>, random: &mut Random) {
    let service = SERVICES[random.below(16) as usize];
    let ephemeral = 32_768 + random.below(28_000) as u16;
    let (src, dst) = if random.below(2) == 0 { (ephemeral, service) } else { (service, ephemeral) };
    f.extend(src.to_be_bytes());
    f.extend(dst.to_be_bytes());
    f.extend(random.bytes(16));
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(n)) >> 32) as u32
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.below(256) as u8).collect()
    }
}
