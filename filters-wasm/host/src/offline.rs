//! Generated code without a router: a program is compiled, verified and run exactly as on the packet path, over a small
//! pool of its own. For tools that ask what a filter says (`smpnet bpf eval`); the packet path has [`crate::Filter`].

use crate::engine::Descriptor;
use crate::{FilterInstance, GeneratedEngine, Trap, WasmError};
use smpnet_abi::BURST_MAX;
use smpnet_bpf::{CompileOptions, Program, compile_wasm};
use smpnet_runtime::{HugePages, Pool, PoolConfig, PoolError};

/// Cells of the pool. Nobody allocates one: the pool is taken for its memory, which filters can map.
const CELLS: u32 = 512;

/// An engine with a pool of its own.
///
/// ```
/// use smpnet_bpf::{Dlt, compile_expr};
/// let mut evaluator = smpnet_wasm::Evaluator::new()?;
/// let program = compile_expr("ip and greater 60", Dlt::Raw)?.program;
/// let mut filter = evaluator.load(&program)?;
/// assert_ne!(filter.judge(&[0x45; 20], 60)?, 0);
/// assert_eq!(filter.judge(&[0x45; 20], 59)?, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Evaluator {
    engine: GeneratedEngine,
    pool: Pool,
}

/// A program in an [`Evaluator`].
pub struct Evaluation<'e> {
    instance: FilterInstance,
    pool: &'e mut Pool,
}

/// Why there is no evaluator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluatorError {
    /// No memory for the pool.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The engine does not start.
    #[error(transparent)]
    Wasm(#[from] WasmError),
}

/// Why a packet was not judged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError {
    /// It does not fit the evaluator's pool.
    #[error("a packet of {len} bytes is too long to be judged here: {max} bytes fit")]
    TooLong {
        /// Its length.
        len: usize,
        /// What fits.
        max: usize,
    },
    /// The compiled code stopped.
    #[error("the compiled code stopped: {0}")]
    Trap(#[from] Trap),
}

impl Evaluator {
    /// Starts an engine. It holds about one MiB of memory and 12 GiB of address space.
    ///
    /// # Errors
    /// When the system refuses either.
    pub fn new() -> Result<Evaluator, EvaluatorError> {
        let config = PoolConfig { cells: CELLS, huge_pages: HugePages::Never, ..PoolConfig::default() };
        let pool = Pool::new(&config)?;
        let engine = GeneratedEngine::new(pool.desc(), 1)?;
        Ok(Evaluator { engine, pool })
    }

    /// Compiles a program. Takes about a millisecond.
    ///
    /// # Errors
    /// When the module does not pass the verifier or the engine: a mistake of the compiler.
    pub fn load(&mut self, program: &Program) -> Result<Evaluation<'_>, WasmError> {
        let module = compile_wasm(program, &CompileOptions { cell_size: None, ..self.engine.options() });
        let instance = self.engine.instantiate(&self.engine.compile(&module)?)?;
        Ok(Evaluation { instance, pool: &mut self.pool })
    }
}

impl Evaluation<'_> {
    /// What the program returns for a packet: `packet` are the bytes that were captured, `wirelen` is the length it had
    /// on the wire.
    ///
    /// # Errors
    /// A packet of more than a million bytes; a trap, which would be a mistake of the compiler.
    pub fn judge(&mut self, packet: &[u8], wirelen: u32) -> Result<u32, EvaluateError> {
        Ok(self.judge_burst(&[(packet, wirelen)])?[0])
    }

    /// The same for up to 64 packets in one call, which together fit the pool; more than 64 are cut off. One result for
    /// each packet, in order; beyond those they are 0.
    ///
    /// The packets lie back to back and the last one ends where the pool ends, so that code that reads too far reads
    /// another packet or traps.
    ///
    /// # Errors
    /// As [`judge`](Self::judge); then no packet is judged.
    pub fn judge_burst(&mut self, packets: &[(&[u8], u32)]) -> Result<[u32; BURST_MAX as usize], EvaluateError> {
        let packets = &packets[..packets.len().min(BURST_MAX as usize)];
        let max = self.pool.desc().bytes as usize;
        let len = packets.iter().map(|(p, _)| p.len()).sum();
        let Some(mut at) = max.checked_sub(len) else {
            return Err(EvaluateError::TooLong { len, max });
        };
        let descriptors = self.instance.descriptors();
        for (&(packet, wirelen), descriptor) in packets.iter().zip(descriptors) {
            // SAFETY: `at + packet.len()` is at most `max`, the size of the mapping; the pool is borrowed mutably and none
            // of its cells was ever given out, so nobody else looks at its memory.
            unsafe { self.pool.desc().base.add(at).copy_from_nonoverlapping(packet.as_ptr(), packet.len()) };
            // Both fit: the pool is smaller than 4 GiB.
            *descriptor = Descriptor { off: at as u32, buflen: packet.len() as u32, wirelen, reserved: 0 };
            at += packet.len();
        }
        self.instance.run(packets.len())?;
        let mut results = [0; BURST_MAX as usize];
        results[..packets.len()].copy_from_slice(&self.instance.results()[..packets.len()]);
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smpnet_bpf::Insn;

    /// `ld [at]; ret a`
    fn word(at: u32) -> Program {
        Program::new(vec![Insn::stmt(0x20, at), Insn::stmt(0x16, 0)]).unwrap()
    }

    #[test]
    fn packets_of_a_burst_are_judged_one_by_one() {
        let mut evaluator = Evaluator::new().unwrap();
        let mut filter = evaluator.load(&word(1)).unwrap();
        let results = filter.judge_burst(&[(&[0, 0, 0, 0, 7], 5), (&[1; 4], 4), (&[2; 6], 9)]).unwrap();
        assert_eq!(results[..4], [7, 0, 0x0202_0202, 0]);
        assert_eq!(filter.judge(&[], 0).unwrap(), 0);
        let mut length =
            evaluator.load(&Program::new(vec![Insn::stmt(0x80, 0), Insn::stmt(0x16, 0)]).unwrap()).unwrap();
        assert_eq!(length.judge(&[], 1500).unwrap(), 1500);
    }

    #[test]
    fn the_longest_packet_of_a_capture_fits_and_one_beyond_the_pool_is_named() {
        let mut evaluator = Evaluator::new().unwrap();
        let mut filter = evaluator.load(&word(262_140)).unwrap();
        assert_eq!(filter.judge(&[1; 262_144], 262_144).unwrap(), 0x0101_0101);
        let error = filter.judge(&vec![0; 4 << 20], 0).unwrap_err();
        assert!(matches!(error, EvaluateError::TooLong { len: 4_194_304, .. }), "{error}");
        assert_eq!(filter.judge(&[1; 262_144], 262_144).unwrap(), 0x0101_0101);
    }
}
