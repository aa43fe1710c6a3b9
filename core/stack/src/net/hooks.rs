//! Where packets pass the filters: the hooks for all interfaces first, then those of the interface.

use super::counters::{Account, IpStat};
use super::gso::insert_tag;
use super::ifnet::Ifnet;
use super::path::Path;
use crate::inet::decide::{ErrorKind, validate};
use crate::wire::be16;
use crate::wire::ethernet::{HEADER_LEN, TYPE_IPV4};
use smpnet_abi::{Cell, DropReason, pkt_flags, verdict};
use smpnet_runtime::{Burst, Dir, HookCx, Layer, PfilHead, PfilHook};

/// What became of the packets that are still there after the hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nobody was asked.
    No,
    /// They are as they were.
    Looked,
    /// They may have been changed.
    Edited,
}

impl<'a> Path<'a> {
    /// Asks the hooks about a burst and keeps what they pass, in its order. Costs two loads when there are none.
    #[inline(always)]
    pub(crate) fn run_hooks(&mut self, ifp: &'a Ifnet, layer: Layer, dir: Dir, burst: &mut Burst) -> Asked {
        let (global, own) = match (layer, dir) {
            (Layer::Ether, Dir::In) => (&self.s.hooks.ether_in, &ifp.shared.hooks.ether_in),
            (Layer::Ether, Dir::Out) => (&self.s.hooks.ether_out, &ifp.shared.hooks.ether_out),
            (_, Dir::In) => (&self.s.hooks.inet_in, &ifp.shared.hooks.inet_in),
            (_, Dir::Out) => (&self.s.hooks.inet_out, &ifp.shared.hooks.inet_out),
        };
        if (global.is_empty() && own.is_empty()) || burst.is_empty() {
            return Asked::No;
        }
        self.ask_hooks(ifp, layer, dir, burst, None)
    }

    /// Packets that a hook of the IP layer took on a worker go on here: with that hook, and those behind it. `from` is what
    /// it was attached as.
    pub(crate) fn resume_inet(&mut self, ifindex: u32, dir: Dir, from: &dyn PfilHook, burst: &mut Burst) {
        self.account(Account::FromPlugins, burst.len() as u64);
        let Some(ifp) = self.ifnet(ifindex).filter(|i| i.running && !i.faulted()) else {
            return self.drop_burst(ifindex, DropReason::IfDown, burst);
        };
        match dir {
            Dir::In => {
                self.ask_hooks(ifp, Layer::Inet, Dir::In, burst, Some(from));
                if !burst.is_empty() {
                    self.ip_filtered(ifp, burst);
                }
            }
            Dir::Out => {
                self.ask_hooks(ifp, Layer::Inet, Dir::Out, burst, Some(from));
                self.if_flush_filtered(ifp, burst);
            }
        }
    }

    #[inline(never)]
    fn ask_hooks(
        &mut self,
        ifp: &'a Ifnet,
        layer: Layer,
        dir: Dir,
        burst: &mut Burst,
        from: Option<&dyn PfilHook>,
    ) -> Asked {
        let (global, own) = match (layer, dir) {
            (Layer::Ether, Dir::In) => (&self.s.hooks.ether_in, &ifp.shared.hooks.ether_in),
            (Layer::Ether, Dir::Out) => (&self.s.hooks.ether_out, &ifp.shared.hooks.ether_out),
            (_, Dir::In) => (&self.s.hooks.inet_in, &ifp.shared.hooks.inet_in),
            (_, Dir::Out) => (&self.s.hooks.inet_out, &ifp.shared.hooks.inet_out),
        };
        if layer == Layer::Ether {
            self.tags_into_bytes(ifp, burst);
        }
        let cx = HookCx {
            cpu: self.cpu,
            pool: self.pool,
            section: self.section,
            dir,
            ifindex: ifp.index.get(),
            layer,
            now_ns: self.now,
        };
        let mut verdicts = [verdict::PASS; smpnet_abi::BURST_MAX as usize];
        let verdicts = &mut verdicts[..burst.len()];
        let mut heads = [(global, None), (own, None)];
        let mut heads = &mut heads[..];
        if let Some(from) = from {
            // A hook that is not there any more is none that was passed: all are asked.
            if let Some(at) = [global, own].iter().position(|h| h.holds(self.section, from)) {
                heads = &mut heads[at..];
                heads[0].1 = Some(from);
            }
        }
        let edits = if self.s.bpf.wants_drops() {
            self.ask_watched(ifp, heads, &cx, burst.as_slice(), verdicts)
        } else {
            heads.iter().fold(false, |edits, (h, first)| {
                edits
                    | match first {
                        None => h.run(&cx, burst.as_slice(), verdicts),
                        Some(_) => h.run_from(*first, &cx, burst.as_slice(), verdicts),
                    }
            })
        };
        let asked = if edits { Asked::Edited } else { Asked::Looked };
        // Mostly all of them pass.
        if verdicts.iter().fold(0, |all, v| all | v & 0xff) == verdict::PASS {
            return asked;
        }
        let mut kept = Burst::new();
        for (c, v) in burst.iter().zip(verdicts) {
            match *v & 0xff {
                verdict::PASS => kept.push(c),
                verdict::CONSUMED => self.account(Account::ToPlugins, 1),
                said => {
                    if said == verdict::REJECT {
                        self.reject(layer, c);
                    }
                    if layer == Layer::Inet {
                        self.ip_stat(if dir == Dir::In { IpStat::PfildropIn } else { IpStat::PfildropOut }, 1);
                    }
                    self.discard(ifp, DropReason::Filtered, c);
                }
            }
        }
        *burst = kept;
        asked
    }

    /// Asks the hooks while somebody listens to drops: what a filter drops is shown with the filter's name and word.
    #[cold]
    fn ask_watched(
        &self,
        ifp: &Ifnet,
        heads: &[(&PfilHead, Option<&dyn PfilHook>)],
        cx: &HookCx<'_>,
        cells: &[Cell],
        verdicts: &mut [u32],
    ) -> bool {
        let at = self.at(ifp);
        let mut edits = false;
        for (head, first) in heads {
            edits |= head.run_watched(*first, cx, cells, verdicts, &mut |hook, cell| {
                let mut shown = false;
                hook.why(cx, cell, &mut |note| {
                    if !std::mem::replace(&mut shown, true) {
                        self.s.bpf.tap_drop(&at, DropReason::Filtered, Some(cx.dir), note, cell);
                    }
                });
                if !shown {
                    self.s.bpf.tap_drop(&at, DropReason::Filtered, Some(cx.dir), hook.name(), cell);
                }
            });
        }
        edits
    }

    /// Filters of frames see an 802.1Q tag in its place, whether the device took it off (or will put it in) or not. What
    /// comes behind the hooks takes tags either way.
    fn tags_into_bytes(&mut self, ifp: &'a Ifnet, burst: &mut Burst) {
        let flags = burst.iter().fold(0, |all, c| all | self.packet(c).hdr().flags);
        if flags & pkt_flags::VLAN == 0 {
            return;
        }
        let mut kept = Burst::new();
        for c in burst.iter() {
            let mut p = self.packet(c);
            if p.hdr().flags & pkt_flags::VLAN != 0 && !insert_tag(&mut p) {
                self.drop_on(ifp, DropReason::NoBuffer, c);
                continue;
            }
            kept.push(c);
        }
        *burst = kept;
    }

    /// Tells the sender of a packet that a filter wants none of it. The packet stays the caller's.
    #[inline(never)]
    fn reject(&mut self, layer: Layer, c: Cell) {
        let mut p = self.packet(c);
        if layer == Layer::Ether {
            // A tagged frame is of another interface's network, which is not known here.
            let plain = p.data().get(12..HEADER_LEN).is_some_and(|t| be16(t, 0) == TYPE_IPV4);
            if !plain || p.hdr().flags & pkt_flags::VLAN != 0 || !p.pull_front(HEADER_LEN) {
                return;
            }
        }
        if let Ok(info) = validate(p.data(), p.len(), p.hdr().flags) {
            // What Ethernet padded is not the packet's.
            p.truncate(u32::from(info.total_len));
            self.icmp_error(c, ErrorKind::AdminProhibited);
        }
    }
}
