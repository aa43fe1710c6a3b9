//! What the tests of this crate share: modules run by wasmtime, seeded random numbers, libpcap or a named reason.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(dead_code, reason = "each test file uses its part")]

mod batch;

pub use batch::Batch;
use smpnet_bpf::pcap::Libpcap;
use smpnet_bpf::{CompileOptions, Insn, Program, compile_wasm};
use wasmtime::{Config, Engine, Instance, Memory, MemoryType, Module, Store, TypedFunc};

/// Pool size of test modules, in pages.
pub const POOL_PAGES: u32 = 2;
/// Bytes of a cell: 64 fill the pool.
pub const CELL_SIZE: usize = 2048;

/// How packets come to a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By descriptors.
    Described,
    /// In cells, as on the packet path.
    Cells,
}

impl Way {
    pub fn options(self) -> CompileOptions {
        CompileOptions { pool_pages: POOL_PAGES, cell_size: (self == Way::Cells).then_some(CELL_SIZE as u32) }
    }
}

/// One packet to judge: captured bytes and length on the wire.
pub type Packet<'a> = (&'a [u8], u32);

pub fn engine() -> Engine {
    let mut config = Config::new();
    // The property test compiles thousands of modules: quality of code does not matter there, speed of compiling does.
    config.cranelift_opt_level(wasmtime::OptLevel::None);
    config.generate_address_map(false).native_unwind_info(false).wasm_backtrace_max_frames(None);
    Engine::new(&config).unwrap()
}

pub fn fast_engine() -> Engine {
    Engine::default()
}

/// A compiled program in a store of its own.
pub struct WasmFilter {
    store: Store<()>,
    pool: Memory,
    io: Memory,
    filter: TypedFunc<i32, ()>,
    way: Way,
}

impl WasmFilter {
    pub fn new(engine: &Engine, program: &Program, way: Way) -> WasmFilter {
        WasmFilter::from_module(engine, &compile_wasm(program, &way.options()))
    }

    pub fn from_module(engine: &Engine, wasm: &[u8]) -> WasmFilter {
        let module = Module::new(engine, wasm).unwrap();
        let mut store = Store::new(engine, ());
        let pool = Memory::new(&mut store, MemoryType::new(POOL_PAGES, Some(POOL_PAGES))).unwrap();
        let instance = Instance::new(&mut store, &module, &[pool.into()]).unwrap();
        let io = instance.get_memory(&mut store, "io").unwrap();
        let filter = instance.get_typed_func(&mut store, "filter").unwrap();
        let abi = instance.get_global(&mut store, "abi").unwrap().get(&mut store).i32();
        let way = match abi {
            Some(0x0001_0000) => Way::Described,
            Some(0x0001_0001) => Way::Cells,
            other => panic!("abi {other:?}"),
        };
        WasmFilter { store, pool, io, filter, way }
    }

    /// Judges up to 64 packets in one call. Described ones lie in the pool back to back, the others end where their cells
    /// end, so that a read beyond a packet would find bytes; the last one ends where the pool ends.
    pub fn judge(&mut self, packets: &[Packet<'_>]) -> Vec<u32> {
        write_packets(&mut self.store, self.pool, self.io, packets, self.way);
        self.call(packets.len() as i32);
        let results = &self.io.data(&self.store)[1024..];
        (0..packets.len()).map(|i| u32::from_le_bytes(results[i * 4..i * 4 + 4].try_into().unwrap())).collect()
    }

    /// Calls the module over the packets that stand in `io`.
    pub fn call(&mut self, n: i32) {
        self.filter.call(&mut self.store, n).expect("a generated module does not trap");
    }

    pub fn io(&mut self) -> &mut [u8] {
        self.io.data_mut(&mut self.store)
    }

    pub fn pool(&mut self) -> &mut [u8] {
        self.pool.data_mut(&mut self.store)
    }
}

fn write_packets(store: &mut Store<()>, pool: Memory, io: Memory, packets: &[Packet<'_>], way: Way) {
    let words = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
    let total: usize = packets.iter().map(|(p, _)| p.len()).sum();
    let size = pool.data_size(&*store);
    let mut at = size - total;
    for (i, (bytes, wirelen)) in packets.iter().enumerate() {
        match way {
            Way::Described => {
                let descriptor = words(&[at as u32, bytes.len() as u32, *wirelen, 0xdead_beef]);
                io.write(&mut *store, i * 16, &descriptor).unwrap();
            }
            Way::Cells => {
                // The last packet in the last cell.
                let cell = size / CELL_SIZE - packets.len() + i;
                let (start, off) = (cell * CELL_SIZE, CELL_SIZE - bytes.len());
                assert!(off >= 64, "a packet of {} bytes", bytes.len());
                at = start + off;
                let header = words(&[u32::MAX, *wirelen, off as u32 | (bytes.len() as u32) << 16]);
                pool.write(&mut *store, start, &header).unwrap();
                io.write(&mut *store, i * 4, &words(&[cell as u32])).unwrap();
            }
        }
        pool.write(&mut *store, at, bytes).unwrap();
        at += bytes.len();
    }
}

/// libpcap, or `None` after saying that the test is skipped. With `SMPNET_REQUIRE_LIBPCAP=1` its absence fails the test.
pub fn libpcap(test: &str) -> Option<&'static Libpcap> {
    match Libpcap::load() {
        Ok(pcap) => Some(pcap),
        Err(error) if std::env::var("SMPNET_REQUIRE_LIBPCAP").is_ok_and(|v| v == "1") => {
            panic!("{test} needs libpcap: apt-get install -y libpcap0.8 ({error})")
        }
        Err(error) => {
            println!("SKIPPED: {test}: {error}");
            None
        }
    }
}

/// SplitMix64: small, seeded, the same on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to n - 1.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

/// How many rounds a property test makes: `long` when `SMPNET_LONG=1`.
pub fn rounds(normal: u64, long: u64) -> u64 {
    if std::env::var("SMPNET_LONG").is_ok_and(|v| v == "1") { long } else { normal }
}

/// Runs `work(thread, threads)` once on each CPU, and fails when one of them does.
pub fn on_all_cpus(work: impl Fn(u64, u64) + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(16) as u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let work = &work;
            scope.spawn(move || work(thread, threads));
        }
    });
}

/// The frames of `captures/linux.txt`: captured bytes and length on the wire.
pub fn captured_frames() -> Vec<(Vec<u8>, u32)> {
    let frame = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let [link, wirelen, hex] = fields[..] else { panic!("{line}") };
        assert_eq!(link, "1", "Ethernet");
        let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
        ((0..hex.len() / 2).map(byte).collect(), wirelen.parse().unwrap())
    };
    include_str!("../captures/linux.txt").lines().map(frame).collect()
}

/// One of the generated packets below: IPv4 or IPv6, TCP, UDP, ICMP or others, fragments, options, ARP, 802.2, noise.
pub fn packet(random: &mut Random, ethernet: bool) -> Vec<u8> {
    let mut p = Vec::new();
    let address = |r: &mut Random| r.pick(&[[10, 0, 0, 1], [10, 0, 0, 2], [10, 1, 2, 3], [192, 168, 2, 100], [0; 4]]);
    let port = |r: &mut Random| r.pick(&[80u16, 443, 53, 22, 1023, 1024, 1500, 2047, 2048, 0, 65535]).to_be_bytes();
    let kind = random.below(10);
    if ethernet {
        let mac = |r: &mut Random| [2, 0, 0, 0, 0, r.pick(&[1, 2, 3])];
        p.extend(mac(random));
        p.extend(mac(random));
        let ethertype: u16 = match kind {
            0..=4 => 0x0800,
            5..=6 => 0x86dd,
            7 => random.pick(&[0x0806, 0x8035]),
            8 => random.pick(&[0x8100, 0x05dc, 0x0040, 0x88cc]),
            _ => random.next() as u16,
        };
        p.extend(ethertype.to_be_bytes());
    }
    let protocol = random.pick(&[6u8, 17, 1, 2, 132, 47, 58, 44, 6, 17]);
    match kind {
        0..=4 => {
            let words = random.pick(&[5u8, 5, 5, 6, 15, 0, 4]);
            p.extend([0x40 | words, 0, 0, 60]);
            let fragment = random.pick(&[0u16, 0, 0, 0x4000, 0x2000, 0x2001, 0x0100, 0x1fff]);
            p.extend([0, 1]);
            p.extend(fragment.to_be_bytes());
            p.extend([64, protocol, 0, 0]);
            p.extend(address(random));
            p.extend(address(random));
            p.extend(random.bytes((usize::from(words) * 4).saturating_sub(20)));
        }
        5..=6 => {
            p.extend([0x60, 0, 0, 0, 0, 40, protocol, 64]);
            p.extend(random.bytes(32));
            if protocol == 44 {
                p.extend([random.pick(&[6u8, 17, 58, 132]), 0, 0, 0, 0, 0, 0, 1]);
            }
        }
        7 => {
            p.extend([0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1]);
            p.extend(address(random));
            p.extend([2, 0, 0, 0, 0, 2]);
            p.extend(address(random));
        }
        _ => p.extend(random.bytes(20)),
    }
    p.extend(port(random));
    p.extend(port(random));
    let payload = random.below(64) as usize;
    p.extend(random.bytes(payload));
    p
}

/// A random program that the validator accepts, of up to `max` instructions. Loads lie mostly near the first 80 bytes.
pub fn random_program(random: &mut Random, max: u64) -> Program {
    loop {
        let insns = random_insns(random, max);
        if let Ok(program) = Program::new(insns) {
            return program;
        }
    }
}

/// Rows of tests that leave to a few places, as compilers of filters make them: what the compiler to WebAssembly decides
/// together. Some of its jumps go into the rows.
fn random_rows(random: &mut Random, max: u64) -> Vec<Insn> {
    const EXITS: usize = 4;
    let n = 2 + random.below(max) as usize;
    let places = [12, 20, 23, 26, 30];
    let mut out = Vec::with_capacity(n + EXITS + 1);
    let mut exit = random.below(EXITS as u64) as usize;
    while out.len() < n {
        if random.chance(6) {
            exit = random.below(EXITS as u64) as usize;
        }
        match random.below(8) {
            0 | 1 => {
                let code = random.pick(&[0x20, 0x28, 0x30, 0x28, 0x48, 0x50, 0x40]);
                let place = if random.chance(5) { offset(random) } else { random.pick(&places) };
                out.push(Insn::stmt(code, place));
            }
            2 if random.chance(2) => out.push(Insn::stmt(0x54, random.pick(&[0xff, 0xf0f, 0xffff_0000, 0x0f0f_0f0f]))),
            2 => out.push(Insn::stmt(random.pick(&[0xb1, 0x01, 0x04, 0x80]), random.below(30) as u32)),
            _ => {
                let leave = (n - out.len() - 1 + exit).min(255) as u8;
                let other = if random.chance(12) { random.below(4) as u8 } else { 0 };
                let (jt, jf) = if random.chance(3) { (other, leave) } else { (leave, other) };
                let code = random.pick(&[0x15, 0x15, 0x15, 0x45, 0x25, 0x35]);
                out.push(Insn::jump(code, row_constant(random), jt, jf));
            }
        }
    }
    // A jump over the exits would be outside of the program: `other` is at most 3.
    out.extend([Insn::stmt(0x06, 0), Insn::stmt(0x06, 7), Insn::stmt(0x16, 0), Insn::stmt(0x06, 0)]);
    out
}

/// Values that small random bytes often have, in each of the widths.
fn row_constant(random: &mut Random) -> u32 {
    let byte = |r: &mut Random| r.below(16) as u32;
    match random.below(5) {
        0 => byte(random) << 8 | byte(random),
        1 => byte(random) << 24 | byte(random) << 16 | byte(random) << 8 | byte(random),
        2 => constant(random),
        _ => byte(random),
    }
}

fn random_insns(random: &mut Random, max: u64) -> Vec<Insn> {
    if random.chance(3) {
        return random_rows(random, max);
    }
    const LOADS: [u16; 10] = [0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x28, 0x20, 0x30, 0xb1];
    const ALU: [u16; 20] = [
        0x04, 0x0c, 0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3c, 0x44, 0x4c, 0x54, 0x5c, 0x64, 0x6c, 0x74, 0x7c, 0x94, 0x9c,
        0xa4, 0xac,
    ];
    const JUMPS: [u16; 9] = [0x15, 0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x45, 0x4d];
    let n = 1 + random.below(max) as usize;
    let mut written = 0u16;
    let mut out = Vec::with_capacity(n + 1);
    for i in 0..n {
        let left = (n - i) as u64;
        let k = constant(random);
        out.push(match random.below(20) {
            0..=6 => Insn::stmt(random.pick(&LOADS), offset(random)),
            7..=10 => {
                let code = random.pick(&ALU);
                // Constant shifts of 32 and more are undefined in libpcap; they are tested apart.
                let k = match code {
                    0x64 | 0x74 => k % 32,
                    0x34 | 0x94 => k.max(1),
                    _ => k,
                };
                Insn::stmt(code, k)
            }
            11..=14 => {
                let mut distance = || if random.chance(3) { 0 } else { random.below(left.min(256)) as u8 };
                let (jt, jf) = (distance(), distance());
                Insn::jump(random.pick(&JUMPS), k, jt, jf)
            }
            15 => {
                let word = random.below(4) as u32;
                written |= 1 << word;
                Insn::stmt(random.pick(&[0x02, 0x03]), word)
            }
            16 => {
                let word = random.below(4) as u32;
                let code = if written & 1 << word == 0 { 0x80 } else { 0x60 };
                Insn::stmt(code + random.below(2) as u16, word)
            }
            17 => Insn::stmt(random.pick(&[0x00, 0x01, 0x80, 0x81, 0x84, 0x07, 0x87]), k),
            18 if random.chance(3) => Insn::stmt(random.pick(&[0x06, 0x16]), k),
            18 => Insn::stmt(0x05, random.below(left) as u32),
            _ => Insn::stmt(random.pick(&[0x07, 0x87, 0x01]), offset(random)),
        });
    }
    out.push(Insn::stmt(random.pick(&[0x06, 0x16]), random.pick(&[0, 1, 65535, u32::MAX])));
    out
}

fn offset(random: &mut Random) -> u32 {
    match random.below(24) {
        0 => random.next() as u32,
        1 => u32::MAX - random.below(5) as u32,
        2 => random.below(2000) as u32,
        _ => random.below(80) as u32,
    }
}

fn constant(random: &mut Random) -> u32 {
    match random.below(6) {
        0 => random.next() as u32,
        1 => random.pick(&[0, 1, 0xff, 0x100, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, u32::MAX]),
        2 => random.next() as u32 & 0xffff,
        _ => random.below(32) as u32,
    }
}

/// Random packets for a random program: small values, so that comparisons meet, of all lengths from 0 to 200, longer on the
/// wire half of the time.
pub fn noise(random: &mut Random) -> (Vec<u8>, u32) {
    let length = if random.chance(2) { random.below(201) } else { random.below(80) } as usize;
    let mut bytes = random.bytes(length);
    if random.chance(2) {
        bytes.iter_mut().for_each(|b| *b &= 0x0f);
    }
    let wirelen = if random.chance(2) { length as u32 } else { length as u32 + random.below(2000) as u32 };
    (bytes, wirelen)
}
