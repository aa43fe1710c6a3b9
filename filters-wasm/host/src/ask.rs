//! How a filter asks a module of somebody else, and the shadow beside it.

use super::{Asked, BURST, Filter, Tally};
use crate::guest::{Fault, GuestInstance, Head, Meta, Said, apply};
use crate::shadow::{After, Unit};
use crate::slot::Instance;
use crate::version::FilterVersion;
use smpnet_abi::{Cell, pkt_flags, verdict};
use smpnet_filter_abi as abi;

// A module's word for it is the router's.
const _: () = assert!(abi::verdict::REJECT == verdict::REJECT && abi::verdict::DROP == verdict::DROP);

/// What a module said of a burst.
struct Heard {
    said: Said,
    /// Packets that it was asked about.
    n: usize,
    /// Their places in the burst.
    places: [u8; BURST],
    bytes: u64,
    /// Packets that are none: the pool has no such cell.
    strange: u64,
}

/// The places of a burst of which all packets are asked about.
const IN_ORDER: [u8; BURST] = {
    let mut places = [0; BURST];
    let mut i = 0;
    while i < BURST {
        places[i] = i as u8;
        i += 1;
    }
    places
};

impl Filter {
    /// Copies windows and calls the module once.
    #[inline]
    fn ask(&self, guest: &mut GuestInstance, asked: &Asked, cells: &[Cell], verdicts: &[u32]) -> Result<Heard, Fault> {
        let direction = if asked.out { abi::direction::OUT } else { abi::direction::IN };
        guest.begin(&Head { layer: asked.layer, direction, ifindex: asked.ifindex, now_ns: asked.now_ns })?;
        let mut heard = Heard { said: Said { any: false, patches: 0 }, n: 0, places: IN_ORDER, bytes: 0, strange: 0 };
        let mut chosen = [0; BURST];
        let cells = if self.all_usual(cells, verdicts) {
            cells
        } else {
            self.choose(&mut heard, &mut chosen, cells, verdicts);
            &chosen[..heard.n]
        };
        heard.n = cells.len();
        // SAFETY: these cells were compared with the pool's.
        let header = |cell| unsafe { self.pool.header_of(cell) };
        heard.bytes = guest.all_windows().fill(
            cells,
            // SAFETY: as above.
            |cells, bytes, window, caps| unsafe { self.pool.copy_burst(cells, bytes, window, caps) },
            |cell| Meta::of(header(cell)),
        );
        if heard.n > 0 {
            heard.said = guest.run(heard.n)?;
        }
        Ok(heard)
    }

    /// The packets that the module is asked about, when these are not all.
    #[cold]
    fn choose(&self, heard: &mut Heard, chosen: &mut [Cell; BURST], cells: &[Cell], verdicts: &[u32]) {
        for (i, (&cell, &verdict)) in cells.iter().zip(verdicts).enumerate() {
            if verdict != verdict::PASS {
                continue;
            }
            if self.pool.header(cell).is_none() {
                heard.strange |= 1 << i;
                continue;
            }
            (chosen[heard.n], heard.places[heard.n]) = (cell, i as u8);
            heard.n += 1;
        }
    }

    /// Asks a module of somebody else and does what it says. After a fault all packets are judged by the fault policy.
    #[inline]
    pub(super) fn by_guest(
        &self,
        version: &FilterVersion,
        guest: &mut GuestInstance,
        asked: &Asked,
        cells: &[Cell],
        verdicts: &mut [u32],
    ) -> Result<Tally, (Box<Fault>, Tally)> {
        let heard = match self.ask(guest, asked, cells, verdicts) {
            Ok(heard) => heard,
            Err(fault) => return Err((Box::new(fault), self.by_policy(cells, verdicts))),
        };
        let Heard { said, n, places, bytes, strange } = heard;
        let mut tally = Tally { packets: n as u64, bytes, ..Tally::default() };
        if strange != 0 {
            let all = verdicts.iter_mut().enumerate().filter(|(i, _)| strange >> i & 1 == 1);
            all.for_each(|(_, verdict)| self.policy(verdict, &mut tally));
        }
        if n == 0 {
            return Ok(tally);
        }
        for (counter, add) in version.counters[asked.worker].iter().zip(guest.counters()) {
            counter.add(*add);
        }
        if said.patches > 0 {
            self.edit(guest, said.patches, n, cells, &places, &mut tally);
        }
        if said.any {
            for (said, place) in guest.verdicts(n).iter().zip(places) {
                let (verdict, cell) = (&mut verdicts[usize::from(place)], cells[usize::from(place)]);
                match said.verdict & 0xff {
                    abi::verdict::PASS => {
                        if said.verdict & abi::verdict::MARK != 0 {
                            self.pool.with_header(cell, |h| h.mark = said.mark);
                            tally.marked += 1;
                        }
                    }
                    abi::verdict::REJECT => {
                        *verdict = verdict::REJECT;
                        tally.dropped += 1;
                        tally.rejected += 1;
                    }
                    _ => {
                        *verdict = verdict::DROP;
                        tally.dropped += 1;
                    }
                }
            }
        }
        Ok(tally)
    }

    /// Changes packets as the module asked, those that it drops excepted.
    #[cold]
    fn edit(
        &self,
        guest: &mut GuestInstance,
        bytes: usize,
        n: usize,
        cells: &[Cell],
        places: &[u8; BURST],
        tally: &mut Tally,
    ) {
        let passed: [bool; BURST] = {
            let said = guest.verdicts(n);
            std::array::from_fn(|i| said.get(i).is_some_and(|v| v.verdict & 0xff == abi::verdict::PASS))
        };
        let told: [_; BURST] = std::array::from_fn(|i| guest.told(i));
        let mut patches = guest.patches(bytes);
        let mut edited = 0u64;
        while let Ok(Some((patch, bytes))) = patches.next() {
            let i = usize::from(patch.packet);
            if !passed[i] {
                continue;
            }
            let cell = cells[usize::from(places[i])];
            let mut partial = false;
            self.pool.with_header(cell, |h| {
                partial = h.flags & pkt_flags::CSUM_PARTIAL != 0;
                // What was verified before the change was another packet.
                if patch.flags & abi::patch_flags::FIX_IPV4 == 0 {
                    h.flags &= !pkt_flags::RX_L3_OK;
                }
                if patch.flags & abi::patch_flags::FIX_L4 == 0 {
                    h.flags &= !pkt_flags::RX_L4_OK;
                }
            });
            apply(&mut self.pool.chain(cell), told[i].at(), partial, &patch, bytes);
            edited |= 1 << i;
        }
        tally.edited += u64::from(edited.count_ones());
    }

    /// Asks the shadow about packets that nobody has changed yet. False when it has nothing to say any more.
    #[cold]
    pub(super) fn ask_shadow(
        &self,
        unit: &mut Unit,
        asked: &Asked,
        gather: &mut [u8],
        cells: &[Cell],
        verdicts: &[u32],
    ) -> bool {
        if unit.prepared.broken || unit.shared.fault.get().is_some() {
            return false;
        }
        let notes = &mut unit.notes;
        (notes.judged, notes.edited) = (0, 0);
        for (i, (&cell, &verdict)) in cells.iter().zip(verdicts).enumerate() {
            if verdict == verdict::PASS
                && let Some(h) = self.pool.header(cell)
            {
                notes.lens[i] = self.pool.copy(cell, h, &mut notes.before[i]) as u16;
                notes.marks[i] = h.mark;
            }
        }
        match &mut unit.prepared.instance {
            Instance::Generated(instance) => {
                let (version, mut said) = (&unit.prepared.version, [verdict::PASS; BURST]);
                let said = &mut said[..cells.len()];
                said.copy_from_slice(verdicts);
                self.by_instance(version, instance, &version.stats[asked.worker], gather, cells, said);
                for (i, (&cell, _)) in cells.iter().zip(verdicts).enumerate().filter(|(_, (_, v))| **v == verdict::PASS)
                {
                    if self.pool.header(cell).is_some() {
                        notes.judged |= 1 << i;
                        notes.verdicts[i] = said[i];
                    }
                }
                if let Some(line) = version.first_fault.get() {
                    let fault = Fault { kind: crate::guest::FaultKind::Trap, line: line.clone(), trace: Vec::new() };
                    unit.fail(&fault);
                    return false;
                }
            }
            Instance::Guest { guest, .. } => match self.ask(guest, asked, cells, verdicts) {
                Ok(heard) => notes.take(guest, heard.n, heard.said.patches, &heard.places),
                Err(fault) => {
                    unit.fail(&fault);
                    return false;
                }
            },
        }
        true
    }

    /// Compares what the shadow said with what was done.
    #[cold]
    pub(super) fn compare(&self, unit: &Unit, asked: &Asked, gather: &mut [u8], cells: &[Cell], verdicts: &[u32]) {
        let notes = &unit.notes;
        for (i, (&cell, &verdict)) in cells.iter().zip(verdicts).enumerate().filter(|(i, _)| notes.judged >> i & 1 == 1)
        {
            let Some(h) = self.pool.header(cell) else { continue };
            let len = usize::from(notes.lens[i]);
            let bytes = self.pool.gathered(cell, h, len, gather);
            let bytes = &bytes[..len.min(bytes.len())];
            let after = After { verdict, mark: h.mark, bytes, wire_len: h.pkt_len };
            unit.shared.compare(notes, i, &after, asked);
        }
    }
}
