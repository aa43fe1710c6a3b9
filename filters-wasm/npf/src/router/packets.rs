//! A burst of cells as the engine sees it.

use super::{
    hook::Said,
    watch::{self, At, Traced, Watchers},
};
use crate::engine::{Burst, Glance, Item, Outcome, Overload, Passed, Ruleset};
use smpnet_abi::{BURST_MAX, Cell, pkt_flags, verdict};
use smpnet_runtime::{Cells as Places, Packet};

const MAX: usize = BURST_MAX as usize;

/// Where a packet's tag is: the upper half of its mark.
const TAG_SHIFT: u32 = 16;
/// The tag of what npf itself has sent: nobody asks rules about it.
pub(super) const OWN: u16 = u16::MAX - 1;
/// In the scratch of a packet that another worker handed over, together with its cell's number.
const HANDED_OVER: u64 = 0x6e70_665f_0000_0000;

/// The tag of a packet.
pub(super) fn tag_of(packet: &Packet<'_>) -> u16 {
    (packet.hdr().mark >> TAG_SHIFT) as u16
}

/// Puts a tag on a packet.
pub(super) fn put_tag(packet: &mut Packet<'_>, tag: u16) {
    let mark = &mut packet.hdr_mut().mark;
    *mark = *mark & 0xffff | u32::from(tag) << TAG_SHIFT;
}

/// Writes down where a packet that is handed over goes on, in its own scratch.
pub(super) fn address_to(packet: &mut Packet<'_>, ifindex: u32, out: bool) {
    let cell = u64::from(packet.cell());
    packet.hdr_mut().scratch = [u64::from(out) << 32 | u64::from(ifindex), HANDED_OVER ^ cell];
}

/// Where a packet that was handed over goes on: the interface, and whether it leaves by it.
pub(super) fn address_of(packet: &Packet<'_>) -> (u32, bool) {
    let place = packet.hdr().scratch[0];
    (place as u32, place >> 32 != 0)
}

/// No worker.
pub(super) const NOBODY: u8 = u8::MAX;

/// What a burst is worked on with, and what is left to be done for its packets when the engine is through.
pub(super) struct Work {
    /// Of a packet of several cells, at a time: its number and its bytes.
    gathered: (usize, Vec<u8>),
    /// What became of packets that do not go on, by their numbers, for who asks why.
    pub said: [Said; MAX],
    any_said: bool,
    /// Answers that are to be sent.
    pub replies: Vec<Vec<u8>>,
    /// To whom packets are to be handed over, by their numbers.
    pub steered: [u8; MAX],
    pub any_steered: bool,
    /// Some were not just passed: they may have been changed.
    pub any_looked_at: bool,
    /// Packets that leave by another interface than routes say: by the number of the ruleset's route.
    pub routed: Vec<(u16, Cell)>,
    /// Packets that come back from where they were going: to be routed again.
    pub turned: Vec<Cell>,
    /// Packets that came in and have to turn, by their numbers.
    pub inward: Vec<usize>,
    /// Packets that somebody traces.
    pub traced: Vec<Traced>,
    /// Sources that exceeded a limit.
    pub overloads: Vec<Overload>,
}

impl Work {
    pub fn new() -> Work {
        Work {
            gathered: (usize::MAX, Vec::new()),
            said: [Said::NOTHING; MAX],
            any_said: false,
            replies: Vec::with_capacity(MAX),
            steered: [NOBODY; MAX],
            any_steered: false,
            any_looked_at: false,
            routed: Vec::with_capacity(MAX),
            turned: Vec::with_capacity(MAX),
            inward: Vec::with_capacity(MAX),
            traced: Vec::new(),
            overloads: Vec::with_capacity(MAX),
        }
    }

    /// What was said of packets of another burst says nothing of those that have their cells now.
    pub fn forget_said(&mut self) {
        if std::mem::take(&mut self.any_said) {
            self.said = [Said::NOTHING; MAX];
        }
    }
}

/// Packets of a burst that go the same way.
pub(super) struct Cells<'a> {
    pub pool: Places<'a>,
    pub cells: &'a [Cell],
    pub verdicts: &'a mut [u32],
    /// The number of the first in the whole burst.
    pub first: usize,
    /// Rules may look at what is behind the headers: packets of several cells are shown to them as a whole.
    pub whole: bool,
    /// They have come in, and turn: those that do are routed afterwards anyway.
    pub turns: bool,
    /// Interfaces of the ruleset's routes; None for those that are not there.
    pub routes: &'a [Option<u32>],
    /// The interface that they leave by, or 0.
    pub leaves_by: u32,
    pub work: &'a mut Work,
    /// Who watches; mostly nobody.
    pub watchers: Option<(&'a Watchers, At<'a>)>,
    /// The packet that the engine has at the moment.
    pub current: Option<Packet<'a>>,
}

impl Cells<'_> {
    /// Whether a route leads elsewhere than the packet goes anyway. Where its interface is not there, routes are followed.
    fn routes(&self, route: u16) -> bool {
        let to = self.routes.get(usize::from(route)).copied().flatten();
        to.is_some_and(|to| to != self.leaves_by)
    }
}

impl Burst for Cells<'_> {
    fn len(&self) -> usize {
        self.cells.len()
    }

    fn item(&mut self, i: usize) -> Item<'_> {
        let packet = self.current.insert(self.pool.packet(self.cells[i]));
        let header = packet.hdr();
        let len = packet.len() as usize;
        let gathers = self.whole && header.nsegs > 1;
        let checksum_is_open = header.flags & pkt_flags::CSUM_PARTIAL != 0;
        let was_steered = header.scratch[1] == HANDED_OVER ^ u64::from(packet.cell());
        let tag = tag_of(packet);
        let bytes = if gathers {
            let (number, bytes) = &mut self.work.gathered;
            *number = i;
            bytes.resize(len, 0);
            packet.copy_to(bytes, 0);
            bytes
        } else {
            packet.data_mut()
        };
        Item { bytes, len, tag, checksum_is_open, was_steered }
    }

    #[inline(always)]
    fn glance<R>(&mut self, i: usize, look: impl FnOnce(Glance<'_>) -> R) -> Option<R> {
        let packet = self.pool.packet(self.cells[i]);
        let header = packet.hdr();
        // Who watches is shown all of it.
        if self.watchers.is_some() || self.whole && header.nsegs > 1 {
            return None;
        }
        let was_steered = header.scratch[1] == HANDED_OVER ^ u64::from(packet.cell());
        let (len, tag) = (packet.len() as usize, tag_of(&packet));
        (!was_steered).then(|| look(Glance { bytes: packet.data(), len, tag }))
    }

    #[inline(always)]
    fn passed(&mut self, i: usize, passed: Passed<'_>, _: &Ruleset) {
        let mut packet = self.pool.packet(self.cells[i]);
        if passed.is_translated {
            self.work.any_looked_at = true;
            packet.hdr_mut().flags &= !pkt_flags::HASH;
        }
        // Else it is as it was, and what a device knows of it is still true.
        if tag_of(&packet) != passed.tag {
            put_tag(&mut packet, passed.tag);
        }
        self.verdicts[i] = verdict::PASS;
    }

    fn done(&mut self, i: usize, outcome: Outcome, ruleset: &Ruleset) {
        let cell = self.cells[i];
        let mut packet = self.pool.packet(cell);
        if self.work.gathered.0 == i {
            // What may have changed is headers, which are in the first cell.
            let here = packet.data_mut();
            let n = here.len().min(self.work.gathered.1.len());
            here[..n].copy_from_slice(&self.work.gathered.1[..n]);
            self.work.gathered.0 = usize::MAX;
        }
        packet.hdr_mut().scratch[1] = 0;
        self.work.any_looked_at = true;
        if let Some((watchers, at)) = self.watchers {
            watch::after(watchers, self.work, self.first + i, &packet, &outcome, ruleset, at);
        }
        if let Some(overload) = outcome.overload {
            self.work.overloads.push(overload);
        }
        if outcome.pass {
            // What a device wrote there is of other addresses now, perhaps.
            packet.hdr_mut().flags &= !pkt_flags::HASH;
            put_tag(&mut packet, outcome.tag);
            self.verdicts[i] = verdict::PASS;
            if let Some(route) = outcome.route.filter(|r| self.routes(*r)) {
                self.verdicts[i] = verdict::CONSUMED;
                self.work.routed.push((route, cell));
                return;
            }
            if outcome.inward {
                self.work.inward.push(self.first + i);
            }
            if outcome.turned && !self.turns {
                self.verdicts[i] = verdict::CONSUMED;
                self.work.turned.push(cell);
            }
            return;
        }
        let number = self.first + i;
        self.work.any_said = true;
        self.work.said[number] = Said { cell, rule: outcome.rule, fault: outcome.fault };
        match outcome.steer {
            Some(worker) => {
                self.work.steered[number] = worker;
                self.work.any_steered = true;
            }
            None => self.verdicts[i] = verdict::DROP,
        }
        // Nobody is told about what was for more than one host (RFC 1122, section 3.2.2).
        if let Some(reply) = outcome.reply
            && packet.hdr().flags & (pkt_flags::BCAST | pkt_flags::MCAST) == 0
        {
            self.work.replies.push(reply);
        }
    }
}
