//! Packets that wait for a neighbour to answer, on the worker that has them.

use super::decide::ErrorKind;
use crate::neigh::control::Key;
use crate::net::counters::{Account, ArpStat};
use crate::net::ifnet::Ifnet;
use crate::net::path::Path;
use crate::slow::SlowEvent;
use crate::wire::ethernet::HEADER_LEN;
use smpnet_abi::{Cell, DropReason};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;

/// What waits on one worker.
#[derive(Default)]
pub(crate) struct Hold {
    waiting: HashMap<Key, VecDeque<Cell>>,
    total: usize,
}

impl Hold {
    fn take(&mut self, key: Key) -> VecDeque<Cell> {
        let list = self.waiting.remove(&key).unwrap_or_default();
        self.total -= list.len();
        list
    }

    fn keys_of(&self, ifindex: u32) -> Vec<Key> {
        self.waiting.keys().filter(|k| k.0 == ifindex).copied().collect()
    }
}

impl<'a> Path<'a> {
    /// Keeps a packet until its neighbour answers. A full queue loses its oldest packet (RFC 1122, section 2.3.2.2); all
    /// queues of a worker together hold at most an eighth of the pool's cells, shared among the workers.
    #[inline(never)]
    pub(crate) fn hold_packet(&mut self, out: &'a Ifnet, next: u32, c: Cell) {
        let key = (out.index.get(), next);
        self.arp_stat(ArpStat::DfrTotal);
        let limit = self.s.tunables.maxqueuelen.load(Relaxed).max(1) as usize;
        let most = (self.pool.cells() as usize / 8 / self.s.workers()).max(limit);
        let first = !self.w.hold.waiting.contains_key(&key);
        if self.w.hold.total >= most || first && !self.s.slow.push(self.wanted(key)) {
            self.drop_on(out, DropReason::ArpQueueFull, c);
            return;
        }
        let list = self.w.hold.waiting.entry(key).or_default();
        list.push_back(c);
        let oldest = if list.len() > limit { list.pop_front() } else { None };
        self.account(Account::HeldIn, 1);
        match oldest {
            Some(old) => {
                self.account(Account::HeldOut, 1);
                self.drop_on(out, DropReason::ArpQueueFull, old);
            }
            None => self.w.hold.total += 1,
        }
    }

    fn wanted(&self, key: Key) -> SlowEvent {
        SlowEvent::Wanted { ifindex: key.0, ip: key.1, worker: self.cpu.index() as u32 }
    }

    /// The neighbour answered: its packets go.
    pub(crate) fn release(&mut self, key: Key) {
        let list = self.w.hold.take(key);
        self.account(Account::HeldOut, list.len() as u64);
        for c in list {
            match self.ifnet(key.0).filter(|i| i.running) {
                Some(out) => {
                    self.arp_stat(ArpStat::DfrSent);
                    self.ip_send(out, c, key.1, false);
                }
                None => self.drop(key.0, DropReason::IfDown, c),
            }
        }
    }

    /// The neighbour did not answer: the senders are told (RFC 1812, section 5.2.7.1: host unreachable).
    pub(crate) fn fail(&mut self, key: Key) {
        let list = self.w.hold.take(key);
        self.account(Account::HeldOut, list.len() as u64);
        for c in list {
            self.icmp_error(c, ErrorKind::HostUnreach);
            self.drop(key.0, DropReason::ArpUnresolved, c);
        }
    }

    /// The interface goes away: what waits for its neighbours is dropped.
    pub(crate) fn forget_interface(&mut self, ifindex: u32) {
        for key in self.w.hold.keys_of(ifindex) {
            let list = self.w.hold.take(key);
            self.account(Account::HeldOut, list.len() as u64);
            for c in list {
                self.drop(ifindex, DropReason::Shutdown, c);
            }
        }
    }

    /// Frames a packet that was built for the wire: puts an Ethernet header in front and stages it as a frame.
    pub(crate) fn frame_out(&mut self, out: &'a Ifnet, c: Cell, header: [u8; HEADER_LEN]) {
        let mut p = self.packet(c);
        match p.push_front(HEADER_LEN) {
            Some(front) => front.copy_from_slice(&header),
            None => {
                self.drop_on(out, DropReason::NoBuffer, c);
                return;
            }
        }
        let off = p.hdr().data_off;
        let h = p.hdr_mut();
        h.l2_off = off;
        h.l3_off = off + HEADER_LEN as u16;
        self.stage_frame(out.index.get(), c);
    }
}
