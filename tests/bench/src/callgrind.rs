//! Instructions and simulated cache misses by callgrind: the same whatever else the machine does.
//!
//! The program that is watched says itself what counts: it prepares at valgrind's lowest cost, switches the simulation on
//! ([`start`]), warms its caches up, forgets what was counted so far ([`zero`]), and writes the counts after each stretch
//! ([`dump`]).

use std::{fmt, io, path::Path, process::Command};

/// The caches that are simulated, as size, ways and line: the first level and the third of the reference machine (Zen 4), so that
/// figures of different machines compare. Callgrind has two levels.
const CACHES: [&str; 3] = ["--I1=32768,8,64", "--D1=32768,8,64", "--LL=33554432,16,64"];

/// What a stretch took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instructions.
    pub instructions: u64,
    /// Reads and writes that missed the first level.
    pub d1_misses: u64,
    /// Those that missed the last level as well.
    pub ll_misses: u64,
}

/// Runs this program with `args` under callgrind and returns what each stretch took that it dumped.
///
/// # Errors
/// When valgrind is not installed or the program fails; the text says what to do.
pub fn watch(args: &[String]) -> io::Result<Vec<Counts>> {
    let out = std::env::temp_dir().join(format!("smpnet-bench-{}.callgrind", std::process::id()));
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--instr-atstart=no", "--cache-sim=yes"])
        .args(CACHES)
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args(args)
        .output()
        .map_err(|e| {
            io::Error::new(e.kind(), format!("valgrind: {e}; install it (Debian: apt-get install valgrind)"))
        })?;
    let dumps: Vec<_> =
        (1..).map(|n| out.with_extension(format!("callgrind.{n}"))).take_while(|f| f.exists()).collect();
    let counts = dumps.iter().map(|f| read(f)).collect::<io::Result<Vec<_>>>();
    for file in dumps.iter().chain([&out]) {
        // The files have served; one that was never written needs no removing.
        let _ = std::fs::remove_file(file);
    }
    if !run.status.success() {
        return Err(io::Error::other(format!("under valgrind: {}", String::from_utf8_lossy(&run.stderr))));
    }
    counts
}

fn read(file: &Path) -> io::Result<Counts> {
    let text = std::fs::read_to_string(file)?;
    parse(&text).ok_or_else(|| io::Error::other(format!("{}: callgrind wrote no counts", file.display())))
}

/// Reads the `events:` line, which names the counts, and the line with their sums.
fn parse(text: &str) -> Option<Counts> {
    let line = |name: &str| text.lines().find_map(|l| l.strip_prefix(name));
    let sums = line("totals: ").or_else(|| line("summary: "))?;
    let sums: Vec<u64> = sums.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let names: Vec<&str> = line("events: ")?.split_whitespace().collect();
    // Counts at the end of the line that are 0 are left out.
    let of = |name: &str| Some(names.iter().position(|n| *n == name)?).map(|i| sums.get(i).copied().unwrap_or(0));
    Some(Counts { instructions: of("Ir")?, d1_misses: of("D1mr")? + of("D1mw")?, ll_misses: of("DLmr")? + of("DLmw")? })
}

impl Counts {
    /// The share of one of `n`.
    pub fn per(self, n: u64) -> PerPacket {
        let share = |count| count as f64 / n as f64;
        PerPacket {
            instructions: share(self.instructions),
            d1_misses: share(self.d1_misses),
            ll_misses: share(self.ll_misses),
        }
    }
}

/// What one packet took.
#[derive(Clone, Copy, Debug)]
pub struct PerPacket {
    /// Instructions.
    pub instructions: f64,
    /// Misses of the first level.
    pub d1_misses: f64,
    /// Misses of the last level.
    pub ll_misses: f64,
}

impl std::ops::Sub for PerPacket {
    type Output = PerPacket;

    fn sub(self, less: PerPacket) -> PerPacket {
        PerPacket {
            instructions: self.instructions - less.instructions,
            d1_misses: self.d1_misses - less.d1_misses,
            ll_misses: self.ll_misses - less.ll_misses,
        }
    }
}

impl fmt::Display for PerPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} instructions, {:.2} D1 misses, {:.3} LL misses",
            self.instructions, self.d1_misses, self.ll_misses
        )
    }
}

/// In the program that is watched: simulates from here on.
pub fn start() {
    request(4);
}

/// In the program that is watched: what was counted until now does not count.
pub fn zero() {
    request(1);
}

/// In the program that is watched: writes the counts since the last [`zero`] or [`dump`].
pub fn dump() {
    request(0);
}

/// A client request of callgrind's (valgrind/callgrind.h); without valgrind it does nothing.
fn request(number: u64) {
    #[cfg(target_arch = "x86_64")]
    {
        let base = u64::from(b'C') << 24 | u64::from(b'T') << 16;
        let args = [base + number, 0, 0, 0, 0, 0];
        // SAFETY: the four rotations make up 128 bits and leave rdi as it was, the exchange changes nothing; valgrind knows the
        // sequence, reads the six words at rax and writes its answer into rdx.
        unsafe {
            std::arch::asm!(
                "rol rdi, 3",
                "rol rdi, 13",
                "rol rdi, 61",
                "rol rdi, 51",
                "xchg rbx, rbx",
                in("rax") args.as_ptr(),
                inout("rdx") 0u64 => _,
            );
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = number;
}

#[cfg(test)]
mod tests {
    use super::{Counts, parse};

    #[test]
    fn counts_are_read_by_the_names_of_their_events() {
        let text = "events: Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw\nfn=(1)\n1 5\n\ntotals: 1000 300 200 1 20 3 0 7\n";
        assert_eq!(parse(text), Some(Counts { instructions: 1000, d1_misses: 23, ll_misses: 7 }));
        assert_eq!(parse("events: Ir\ntotals: 5\n"), None, "without simulated caches");
    }
}
