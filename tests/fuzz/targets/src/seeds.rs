//! Inputs to begin with, and what becomes of them: written by hand or made by this project's own compilers, so that no
//! binary file has to be kept.

use smpnet_abi::pkt_flags::RX_L4_OK;
use smpnet_bpf::{Dlt, Engine, compile_expr_with};

/// Changes inputs, always in the same way from the same start.
pub struct Mutator<'s> {
    state: u64,
    seeds: &'s [Vec<u8>],
}

impl<'s> Mutator<'s> {
    /// Starts at `seed`; there must be at least one of `seeds`.
    pub fn new(seed: u64, seeds: &'s [Vec<u8>]) -> Self {
        Mutator { state: seed, seeds }
    }

    /// splitmix64.
    fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.number() % n.max(1) as u64) as usize
    }

    fn seed(&mut self) -> &'s [u8] {
        let n = self.below(self.seeds.len());
        &self.seeds[n]
    }

    /// The next input: a seed with a few changes, or (one in eight) nothing but chance.
    pub fn next_input(&mut self) -> Vec<u8> {
        if self.below(8) == 0 {
            let len = self.below(600);
            return (0..len).map(|_| self.number() as u8).collect();
        }
        let mut input = self.seed().to_vec();
        for _ in 0..=self.below(6) {
            self.change(&mut input);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len());
        match self.below(7) {
            0 if !input.is_empty() => input[at] ^= 1 << self.below(8),
            1 if !input.is_empty() => input[at] = self.number() as u8,
            2 if !input.is_empty() => input[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
            3 => input.truncate(at),
            4 => {
                // A piece of it once more, elsewhere.
                let len = self.below(input.len() - at).min(200);
                let piece = input[at..at + len].to_vec();
                let to = self.below(input.len());
                input.splice(to..to, piece);
            }
            5 => {
                let other = self.seed();
                let from = self.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                let len = self.below(9).min(input.len() - at);
                input.drain(at..at + len);
            }
        }
        input.truncate(1 << 16);
    }
}

fn texts(list: &[&str]) -> Vec<Vec<u8>> {
    list.iter().map(|t| t.as_bytes().to_vec()).collect()
}

const EXPRESSIONS: [&str; 10] = [
    "udp port 53",
    "tcp and not (dst host 10.0.0.1 or src net 192.168.0.0/16)",
    "ip[6:2] & 0x1fff = 0 and ip[8] < 64",
    "ether host 02:00:00:00:00:01 or ether proto 0x0800",
    "vlan 7 and icmp",
    "src portrange 1000-2000 or greater 100",
    "(tcp[tcpflags] & (tcp-syn|tcp-fin)) != 0",
    "ip proto 89 && len > 60",
    "not arp",
    "4\n40 0 0 12\n21 0 1 2048\n6 0 0 65535\n6 0 0 0\n",
];

/// For `bpf_expression`.
pub fn expressions() -> Vec<Vec<u8>> {
    texts(&EXPRESSIONS)
}

/// For `bpf_program`: programs of the compiler with a packet behind them.
pub fn programs() -> Vec<Vec<u8>> {
    let compiled = EXPRESSIONS.iter().filter_map(|e| compile_expr_with(e, Dlt::Raw, Engine::Subset).ok());
    let bytes = |c: smpnet_bpf::Compiled| {
        let insns = c.program.insns().iter().take(32);
        let mut out: Vec<u8> =
            insns.flat_map(|i| [&[i.code as u8, i.jt, i.jf, 0][..], &i.k.to_le_bytes()].concat()).collect();
        out.resize(8 * 32, 0);
        out.extend_from_slice(&udp(&[10, 0, 1, 2], &[10, 0, 2, 2])[14..]);
        out
    };
    compiled.map(bytes).collect()
}

/// For `config`.
#[cfg(feature = "program")]
pub fn configs() -> Vec<Vec<u8>> {
    texts(&[
        include_str!("../../../../core/smpnet/examples/router.toml"),
        include_str!("../../../../core/smpnet/examples/pcap.toml"),
        "[runtime]\nworkers = 2\ncpus = [0, 1]\nexit_when_done = true\n[pool]\ncells = 8192\ncell_size = 4096\nheadroom = 128\nhuge_pages = \"auto\"\n[plugins]\ndirs = [\"x\"]\nload = [\"y.so\"]\n[control]\nsocket = \"/run/x\"\n",
        "[[interface]]\nname = \"lan0\"\ndriver = \"af_packet\"\noptions = { device = \"eth0\", n = [1, 2.5, true] }\naddresses = [\"10.0.1.1/24\"]\nmtu = 1400\nup = false\npromisc = true\nrx_queues = 2\n[[interface]]\nname = \"v7\"\nkind = \"vlan\"\noptions = { parent = \"lan0\", vid = 7 }\n",
        "[[route]]\nto = \"default\"\nvia = [\"10.0.1.2\", \"10.0.1.3\"]\n[[route]]\nto = \"10.9.0.0/16\"\ntype = \"blackhole\"\n[[arp]]\naddress = \"10.0.1.7\"\nmac = \"02:00:00:00:00:07\"\npublish = true\ninterface = \"lan0\"\n",
        "[[filter]]\nname = \"f\"\ndrop = \"udp port 53\"\nattach = \"ether\"\ndirection = \"both\"\npriority = -3\non_fault = \"drop\"\n[[filter]]\nname = \"n\"\nnative = \"loss\"\noptions = { one_in = 3 }\n[[filter]]\nname = \"w\"\nmodule = \"x.wasm\"\non_fault = \"detach\"\nfaults = \"3/10\"\nallow = [\"tables\"]\ntables = { names = \"t\" }\nlimits = { burst_us = 50 }\n[[table]]\nname = \"t\"\nkind = \"exact\"\nentries = [\"a.example 1\"]\n[sysctl]\n\"net.inet.ip.ttl\" = 9\nnet.inet.ip.forwarding = 1\n",
    ])
}

/// For `control_request`.
#[cfg(feature = "program")]
pub fn requests() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"name":"g0","kind":"gif","options":{"local":"10.0.0.1"},"addresses":["10.7.0.1/24"],"mtu":1400,"up":true,"promisc":false,"rx_queues":1}"#,
        r#"{"up":false,"mtu":9000,"description":"x","add_addresses":["10.0.1.9/24"],"remove_addresses":["10.0.1.1/24"],"options":{"a":1}}"#,
        r#"{"to":"default","via":["10.0.1.2","10.0.1.3"],"dev":"lan0","type":"reject"}"#,
        r#"{"to":"10.0.0.0/8","via":"10.0.1.2"}"#,
        r#"{"address":"10.0.1.9","mac":"02:00:00:00:00:09","interface":"lan0","publish":true}"#,
        r#"{"name":"f2","drop":"udp","attach":"ether","direction":"out","priority":-1,"on_fault":"drop","interface":"all"}"#,
        r#"{"name":"n2","native":"loss","options":{"one_in":2}}"#,
        r#"{"native":"loss","options":{}}"#,
        r#"{"name":"net.inet.ip.ttl","value":64}"#,
        r#"{"interface":"lan0","packet":"02:00:00:00:01:01 0200 0000 0902 0800 4500"}"#,
        r#"{"file":"r.toml","text":"[[interface]]\nname=\"a\"\n","dry_run":true}"#,
        r#"{"expr":"udp port 53","dlt":"EN10MB"}"#,
    ])
}

/// An Ethernet frame of UDP.
fn udp(src: &[u8; 4], dst: &[u8; 4]) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 9, 1, 8, 0];
    f.extend([0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0]);
    f.extend(src);
    f.extend(dst);
    f.extend([0x0f, 0xa0, 0x13, 0x88, 0, 12, 0, 0, 1, 2, 3, 4]);
    f
}

/// For `frame`: settings, then frames with their controls.
pub fn bursts() -> Vec<Vec<u8>> {
    let arp: Vec<u8> = [
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 9, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 9, 1][..],
        &[10, 0, 1, 2, 0, 0, 0, 0, 0, 0, 10, 0, 1, 1],
    ]
    .concat();
    let mut fragment = udp(&[10, 0, 1, 2], &[10, 0, 1, 1]);
    fragment[20] = 0x20;
    let mut last = fragment.clone();
    (last[20], last[21]) = (0, 2);
    let mut echo = udp(&[10, 0, 1, 2], &[10, 0, 1, 1]);
    echo[23] = 1;
    echo[34..42].copy_from_slice(&[8, 0, 0, 0, 0, 1, 0, 1]);
    let mut options = udp(&[10, 0, 1, 2], &[10, 0, 2, 2]);
    options[14] = 0x47;
    options[34..42].copy_from_slice(&[7, 7, 4, 0, 0, 0, 0, 0]);
    let mut tcp = udp(&[10, 0, 1, 2], &[10, 0, 2, 2]);
    tcp[23] = 6;
    tcp.extend([0x50; 400]);
    let vlan = [&tcp[..12], &[0x81, 0, 0, 7], &tcp[12..]].concat();
    let far = udp(&[10, 0, 1, 2], &[10, 0, 2, 99]);
    let near = udp(&[10, 0, 1, 2], &[10, 0, 2, 2]);
    let one = |controls: u8, parameter: u8, frame: &[u8]| {
        let len = (frame.len() as u16).to_le_bytes();
        [&[controls, 0, 0, parameter, len[0], len[1]][..], frame].concat()
    };
    let all = |settings: u8, frames: &[Vec<u8>]| [&[settings][..], &frames.concat()].concat();
    const PLAIN: u8 = 2 | 4;
    let mut list: Vec<Vec<u8>> = (0..4)
        .map(|s| {
            all(
                s,
                &[
                    one(0, 0, &arp),
                    one(PLAIN, 0, &near),
                    one(PLAIN | 32, 0, &near),
                    one(PLAIN, 0, &near),
                    one(PLAIN | 8, 40, &tcp),
                    one(PLAIN, 0, &echo),
                    one(PLAIN, 0, &options),
                    one(PLAIN | 32, 0, &far),
                ],
            )
        })
        .collect();
    list.push(all(0, &[one(PLAIN, 0, &fragment), one(PLAIN | 32 | 64, 0, &last), one(0, 0, &vlan)]));
    list.push(all(2, &[one(PLAIN, 0, &last), one(PLAIN, 0, &fragment), one(PLAIN | 1, 0, &fragment)]));
    list.push(all(0, &[one(PLAIN | 16, 9, &tcp), one(PLAIN | 16 | 8, 60, &tcp)]));
    // Segments of TCP one after the other, with checksums that their device found right: they leave as one packet.
    let segment = |n: u8| {
        let mut f = udp(&[10, 0, 1, 2], &[10, 0, 2, 2]);
        f.truncate(34);
        f[18..24].copy_from_slice(&[0, n, 0x40, 0, 64, 6]);
        f.extend([0x0f, 0xa0, 0, 80, 0, 0, n / 2, n % 2 * 128, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        f.resize(54 + if n < 6 { 128 } else { 40 }, n);
        let (len, flags) = ((f.len() as u16).to_le_bytes(), (RX_L4_OK as u16).to_le_bytes());
        [&[PLAIN, flags[0], flags[1], 0, len[0], len[1]][..], &f].concat()
    };
    list.push(all(0, &[one(PLAIN | 32, 0, &near), (0..7).flat_map(segment).collect()]));
    list.push(all(1, &[(0..7).flat_map(segment).collect(), (3..7).flat_map(segment).collect()]));
    for place in 0..8u8 {
        let mut f = near.clone();
        f[33] = place;
        list.push(all(place & 3, &[one(PLAIN | 128, 0, &f), one(PLAIN | 128 | 1 | 32, 0, &f)]));
    }
    list
}

/// For `pcap_file`.
pub fn captures() -> Vec<Vec<u8>> {
    let frame = udp(&[10, 0, 1, 2], &[10, 0, 2, 2]);
    let n = frame.len() as u32;
    let words = |list: &[u32]| list.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let classic = [words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, 1, 7, 9, n, n]), frame.clone()].concat();
    let mut padded = frame;
    padded.resize(padded.len().next_multiple_of(4), 0);
    let block = |ty: u32, body: &[u8]| {
        let len = body.len() as u32 + 12;
        [words(&[ty, len]), body.to_vec(), words(&[len])].concat()
    };
    let section = block(0x0a0d_0d0a, &words(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX]));
    let interface = block(1, &[words(&[1, 65535]), vec![9, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0, 0]].concat());
    let packet = block(6, &[words(&[0, 0, 7, n, n]), padded.clone()].concat());
    let simple = block(3, &[words(&[n]), padded].concat());
    vec![classic, [section, interface, packet, simple].concat()]
}

/// For `memif`: whole dialogues, each with a ring of packets behind it.
pub fn dialogues() -> Vec<Vec<u8>> {
    use smpnet_memif_protocol::{
        desc::{Desc, NEXT},
        wire::{AddRing, Init, Message, RING_C2S, VERSION, secret_field},
    };
    let init = Init { version: VERSION, id: 1, mode: 0, secret: secret_field("s"), name: "client".into() };
    let ring = |flags, index| AddRing { flags, index, region: 0, offset: 4096, log2_size: 10, private_header: 0 };
    let messages = [
        (0, Message::Init(init)),
        (1, Message::AddRegion { index: 0, size: 1 << 20 }),
        (1, Message::AddRing(ring(RING_C2S, 0))),
        (1, Message::AddRing(ring(0, 0))),
        (1, Message::AddRing(ring(0, 1))),
        (0, Message::Connect("memif0/0".into())),
        (0, Message::Disconnect { code: 0, reason: "bye".into() }),
    ];
    let descs = [
        Desc { flags: 0, region: 0, length: 60, offset: 0 },
        Desc { flags: NEXT, region: 1, length: 2048, offset: 2048 },
        Desc { flags: 0, region: 1, length: 100, offset: 4096 },
        Desc { flags: 0, region: 0, length: 4096, offset: 0 },
    ];
    let bytes = |descs: &[Desc]| -> Vec<u8> {
        let words = descs.iter().flat_map(|d| [d.first_word(), d.second_word()]);
        words.flat_map(u64::to_ne_bytes).collect()
    };
    let mut all = vec![messages.len() as u8];
    for (fd, message) in &messages {
        all.push(*fd);
        all.extend(message.encode());
    }
    all.extend(bytes(&descs));
    vec![all, [vec![0], bytes(&descs.repeat(8))].concat()]
}

/// For `plugin_file`: the headers of a library, and files that are none.
#[cfg(feature = "program")]
pub fn libraries() -> Vec<Vec<u8>> {
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 62, 0, 1, 0, 0, 0];
    elf.resize(64, 0);
    elf[32] = 64; // program headers
    elf[52] = 64;
    elf[54] = 56;
    elf[56] = 2;
    elf.resize(64 + 2 * 56 + 128, 0);
    let mut all = texts(&["", "!<arch>\n", "#!/bin/sh\n", "\0asm", "text"]);
    all.push(elf);
    // A real library, if there is one beside this program: the plugins that tests use.
    let beside = std::env::current_exe().ok().and_then(|exe| exe.ancestors().nth(2).map(std::path::Path::to_owned));
    if let Some(bytes) = beside.and_then(|dir| std::fs::read(dir.join("libsmpnet_vlan.so")).ok()) {
        all.push(bytes);
    }
    all
}

/// For `wasm_verify`: patches to a good module, and that module itself.
#[cfg(feature = "program")]
pub fn modules() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = (0..40u8).map(|n| vec![0, n * 6, 0, n, n * 5, 1, 0x41, n * 3, 2, 0]).collect();
    all.push([&[1][..], &crate::wasm::good(3)].concat());
    all
}

/// Configurations of NPF.
pub fn npf_configs() -> Vec<Vec<u8>> {
    let more = "$a = { 10.0.0.0/8, fd00::/8 }\n$b = { 80, 443, 8000-8080 }\ngroup \"x\" in on eth0.7 {\n\tgroup \"y\" {\n\t\t\
                pass in final family inet6 proto ipv6-icmp icmp-type echo code 0 all\n\t}\n\truleset \"r\" on lo\n\tpass from ! $a port $b \
                to ifaddrs(eth0) tagged ! \"t\" tag \"u\" log name \"n\"\n}\ngroup default { block return-icmp all }\n";
    vec![crate::npf::CONFIG.into(), more.into()]
}

/// An IPv4 packet of that protocol, with nothing right but its lengths and its header's form.
fn ipv4(proto: u8, src: [u8; 4], dst: [u8; 4], body: &[u8]) -> Vec<u8> {
    let len = (20 + body.len()) as u16;
    let mut bytes = vec![0x45, 0, 0, 0, 0, 7, 0, 0, 64, proto, 0, 0];
    bytes[2..4].copy_from_slice(&len.to_be_bytes());
    bytes.extend(src.iter().chain(&dst));
    bytes.extend_from_slice(body);
    bytes
}

fn npf_packets_of_a_day() -> Vec<Vec<u8>> {
    let (inner, outer) = ([10, 0, 0, 5], [198, 51, 100, 1]);
    let tcp = |flags, seq: u32, ack: u32| {
        let mut body = vec![0, 99, 0, 80];
        body.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
        body.extend([0x60, flags, 16, 0, 0, 0, 0, 0, 2, 4, 5, 0xb4]);
        body
    };
    let udp = [0, 99, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4];
    let sent = ipv4(17, inner, outer, &udp);
    let error = [&[3, 4, 0, 0, 0, 0, 5, 0][..], &sent].concat();
    let mut first = ipv4(17, inner, outer, &[0, 1, 0, 53, 0, 24, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    first[6] = 0x20;
    let mut last = ipv4(17, inner, outer, &[9; 8]);
    last[7] = 2;
    let mut six = vec![0x60, 0, 0, 0, 0, 12, 17, 64];
    six.extend(
        [0xfd, 1, 2, 3, 4, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]
            .iter()
            .chain(&[0x20, 1, 13, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]),
    );
    six.extend(udp);
    vec![
        ipv4(6, inner, outer, &tcp(2, 1, 0)),
        ipv4(6, outer, inner, &tcp(0x12, 9, 2)),
        ipv4(6, inner, outer, &tcp(0x10, 2, 10)),
        sent,
        ipv4(1, inner, outer, &[8, 0, 0, 0, 0, 7, 0, 1]),
        ipv4(1, outer, inner, &error),
        ipv4(50, inner, outer, &[7; 16]),
        first,
        last,
        six,
    ]
}

/// Packets for NPF, as its target reads them.
pub fn npf_packets() -> Vec<Vec<u8>> {
    let all = npf_packets_of_a_day();
    let one = |(i, p): (usize, &Vec<u8>)| [&[p.len() as u8, (i % 2 * 4) as u8][..], p].concat();
    vec![all.iter().enumerate().flat_map(one).collect(), all.iter().rev().enumerate().flat_map(one).collect()]
}

/// Lines of packets for NPF.
pub fn npf_lines() -> Vec<Vec<u8>> {
    let line = |(i, p): (usize, &Vec<u8>)| {
        let hex: String = p.iter().map(|b| format!("{b:02x}")).collect();
        format!("{{\"t\":{i}.5,\"if\":\"eth0\",\"dir\":\"out\",\"pkt\":\"{hex}\"}}\n")
    };
    vec![npf_packets_of_a_day().iter().enumerate().map(line).collect::<String>().into_bytes()]
}
