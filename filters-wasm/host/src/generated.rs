//! How a filter asks a module that smpnet generated: one call of compiled code for a burst.
//!
//! A program's module reads the packets' headers itself, so the host hands over nothing but the cells. Modules that are not
//! a program's get a description of each packet.

use super::{BURST, Filter, Tally};
use crate::Action;
use crate::engine::{Descriptor, FilterInstance};
use crate::version::{CpuStats, FilterVersion};
use smpnet_abi::{CELL_NONE, Cell, PktHdr, verdict};
use smpnet_bpf::Program;

impl Filter {
    /// Judges the packets whose verdict is PASS. Those of several cells are judged by the interpreter over all of their
    /// bytes, when the version has a program.
    #[inline]
    pub(super) fn by_instance(
        &self,
        version: &FilterVersion,
        instance: &mut FilterInstance,
        stats: &CpuStats,
        gather: &mut [u8],
        cells: &[Cell],
        verdicts: &mut [u32],
    ) -> Tally {
        match &version.artefact.program {
            Some(program) if instance.in_cells() => {
                self.by_program(version, program, instance, stats, gather, cells, verdicts)
            }
            _ => self.by_descriptors(version, instance, stats, gather, cells, verdicts),
        }
    }

    #[inline]
    #[allow(clippy::too_many_arguments, reason = "the parts of a burst, of which each is used")]
    fn by_program(
        &self,
        version: &FilterVersion,
        program: &Program,
        instance: &mut FilterInstance,
        stats: &CpuStats,
        gather: &mut [u8],
        cells: &[Cell],
        verdicts: &mut [u32],
    ) -> Tally {
        let mut tally = Tally::default();
        let all = self.all_usual(cells, verdicts);
        let (odd, n) = if all {
            instance.cells()[..cells.len()].copy_from_slice(cells);
            (0, cells.len())
        } else {
            self.choose_cells(instance, cells, verdicts)
        };
        if odd != 0 {
            tally = self.by_odd(version, odd, gather, cells, verdicts);
        }
        if n == 0 {
            return tally;
        }
        if let Err(trap) = instance.run(n) {
            return self.by_fault(version, stats, &trap, odd, verdicts, tally);
        }
        let (bytes, chained) = instance.totals();
        tally.bytes += bytes;
        if chained {
            tally.interpreted += self.judge_chained(program, version.artefact.reach, instance, gather, n);
        }
        self.settle(version, &instance.results()[..n], odd, verdicts, tally)
    }

    /// Whether every cell is one of the pool and every packet is to be judged.
    #[inline]
    pub(super) fn all_usual(&self, cells: &[Cell], verdicts: &[u32]) -> bool {
        let count = self.pool.0.cells;
        let inside = cells.iter().fold(true, |all, &cell| all & (cell < count));
        let passing = verdicts.iter().fold(verdict::PASS, |all, &v| all | v) == verdict::PASS;
        inside & passing
    }

    /// Hands over the cells that are to be judged and are there. Returns a mask of the others, and how many were handed over.
    #[cold]
    fn choose_cells(&self, instance: &mut FilterInstance, cells: &[Cell], verdicts: &[u32]) -> (u64, usize) {
        let (mut odd, mut n) = (0u64, 0);
        for (i, (&cell, &verdict)) in cells.iter().zip(verdicts).enumerate() {
            if verdict == verdict::PASS && cell < self.pool.0.cells {
                instance.cells()[n] = cell;
                n += 1;
            } else {
                odd |= 1 << i;
            }
        }
        (odd, n)
    }

    /// Puts right the results of packets of several cells, of which the module saw only the first. Returns how many there
    /// are.
    #[cold]
    fn judge_chained(
        &self,
        program: &Program,
        reach: usize,
        instance: &mut FilterInstance,
        gather: &mut [u8],
        n: usize,
    ) -> u64 {
        let mut chained = 0;
        for i in 0..n {
            let cell = instance.cells()[i];
            if let Some(h) = self.pool.header(cell).filter(|h| h.next != CELL_NONE) {
                let bytes = self.pool.gathered(cell, h, reach, gather);
                instance.results_mut()[i] = program.run(bytes, h.pkt_len);
                chained += 1;
            }
        }
        chained
    }

    #[inline]
    fn by_descriptors(
        &self,
        version: &FilterVersion,
        instance: &mut FilterInstance,
        stats: &CpuStats,
        gather: &mut [u8],
        cells: &[Cell],
        verdicts: &mut [u32],
    ) -> Tally {
        let whole = version.artefact.program.is_some();
        let (odd, n, bytes) = self.describe(whole, instance.descriptors(), cells, verdicts);
        let mut tally = Tally::default();
        if odd != 0 {
            tally = self.by_odd(version, odd, gather, cells, verdicts);
        }
        if n == 0 {
            return tally;
        }
        tally.bytes += bytes;
        if let Err(trap) = instance.run(n) {
            return self.by_fault(version, stats, &trap, odd, verdicts, tally);
        }
        self.settle(version, &instance.results()[..n], odd, verdicts, tally)
    }

    /// Describes the packets of a burst that are to be judged and are there, those of several cells excepted when the bytes
    /// are to be `whole`. Returns a mask of the others, the number described, and their bytes.
    fn describe(
        &self,
        whole: bool,
        descriptors: &mut [Descriptor; BURST],
        cells: &[Cell],
        verdicts: &[u32],
    ) -> (u64, usize, u64) {
        let (mut odd, mut n, mut bytes) = (0u64, 0, 0u64);
        for (i, (&cell, &verdict)) in cells.iter().zip(verdicts).enumerate() {
            match self.pool.header(cell) {
                Some(h) if verdict == verdict::PASS && (h.next == CELL_NONE || !whole) => {
                    descriptors[n] = self.descriptor(cell, h);
                    n += 1;
                    bytes += u64::from(h.pkt_len);
                }
                _ => odd |= 1 << i,
            }
        }
        (odd, n, bytes)
    }

    fn descriptor(&self, cell: Cell, h: &PktHdr) -> Descriptor {
        Descriptor {
            off: cell * self.pool.0.cell_size + u32::from(h.data_off),
            buflen: u32::from(h.data_len),
            wirelen: h.pkt_len,
            reserved: 0,
        }
    }

    /// The code trapped: the policy judges what it was asked about.
    #[cold]
    fn by_fault(
        &self,
        version: &FilterVersion,
        stats: &CpuStats,
        trap: &crate::Trap,
        odd: u64,
        verdicts: &mut [u32],
        mut tally: Tally,
    ) -> Tally {
        if version.fault(stats, trap, self.fault_max()) {
            self.bell.ring();
        }
        usual(odd, verdicts).for_each(|verdict| self.policy(verdict, &mut tally));
        tally
    }

    /// Turns results into verdicts of the packets that are not `odd`, and counts them.
    #[inline]
    fn settle(
        &self,
        version: &FilterVersion,
        results: &[u32],
        odd: u64,
        verdicts: &mut [u32],
        mut tally: Tally,
    ) -> Tally {
        let matched = if odd == 0 {
            settle_all(results, version.action, verdicts.iter_mut())
        } else {
            settle_all(results, version.action, usual(odd, verdicts))
        };
        let n = results.len() as u64;
        tally.packets += n;
        tally.matched += matched;
        tally.dropped += if version.action == Action::Pass { n - matched } else { matched };
        tally
    }
}

/// [`settle`](super::settle) for the packets of a burst; returns how many matched.
#[inline(always)]
fn settle_all<'a>(results: &[u32], action: Action, verdicts: impl Iterator<Item = &'a mut u32>) -> u64 {
    let flip = u32::from(action == Action::Pass);
    let mut matched = 0;
    for (&result, verdict) in results.iter().zip(verdicts) {
        let m = u32::from(result != 0);
        matched += m;
        *verdict = m ^ flip;
    }
    u64::from(matched)
}

/// The verdicts of the packets that went the usual way, in order.
fn usual(odd: u64, verdicts: &mut [u32]) -> impl Iterator<Item = &mut u32> {
    verdicts.iter_mut().enumerate().filter(move |(i, _)| odd >> i & 1 == 0).map(|(_, v)| v)
}
