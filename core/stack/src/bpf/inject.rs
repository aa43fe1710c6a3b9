//! Sending packets from outside: what write(2) on a bpf(4) descriptor does.

use super::{Injected, Link};
use crate::error::StackError;
use crate::net::ether::max_frame;
use crate::net::ifnet::Medium;
use crate::net::path::Path;
use crate::stack::Stack;
use crate::types::IfIndex;
use smpnet_abi::DropReason;
use smpnet_runtime::{Burst, Dir};

impl Stack {
    /// What a listener's packets begin with: on an interface, or on all (then Ethernet, see [`super::Listener::link`]).
    ///
    /// # Errors
    /// [`StackError::NoInterface`].
    pub fn bpf_link(&self, interface: Option<IfIndex>) -> Result<Link, StackError> {
        let Some(index) = interface else { return Ok(Link::Ether) };
        Ok(if self.interface(index)?.medium == Medium::Ether { Link::Ether } else { Link::Raw })
    }

    /// Sends complete frames (or IP packets, without a link layer) out of an interface, or takes them as received by it
    /// (`Dir::In`, what bpf(4) calls feedback). They pass the filters of the Ethernet layer as any others do.
    ///
    /// # Errors
    /// [`StackError::NoInterface`]; [`StackError::Bpf`] when it is down, or a packet is empty or too long: then none was sent.
    pub fn bpf_inject(&self, index: IfIndex, dir: Dir, packets: Vec<Vec<u8>>) -> Result<Injected, StackError> {
        let ifp = self.interface(index)?;
        if !ifp.running {
            return Err(StackError::Bpf(format!("interface `{}` is down, nothing was sent", ifp.name)));
        }
        let ether = ifp.medium == Medium::Ether;
        let (least, most) = if ether { (14, max_frame(ifp.mtu) as usize) } else { (20, ifp.mtu as usize) };
        for (n, p) in packets.iter().enumerate() {
            if !(least..=most).contains(&p.len()) {
                return Err(StackError::Bpf(format!(
                    "packet {}: {} bytes, interface `{}` takes {least} to {most}; nothing was sent",
                    n + 1,
                    p.len(),
                    ifp.name
                )));
            }
        }
        let total = packets.len() as u64;
        let weak = self.me.clone();
        let sent = self.rt.run_on_wait(0, move |cx| {
            let stack = weak.upgrade()?;
            Some(stack.pass(cx.cpu, cx.section(), cx.now_ns, |path| path.inject(index, dir, &packets)))
        });
        let sent = sent.flatten().unwrap_or(0);
        Ok(Injected { sent, refused: 0, failed: total - sent })
    }

    /// Sends packets through a listener: through its interface, those that its write filter accepts.
    ///
    /// # Errors
    /// As [`Stack::bpf_inject`]; [`StackError::NoListener`]; [`StackError::BpfLocked`] when the listener was locked before it
    /// could send; [`StackError::Bpf`] when it listens to no single interface.
    pub fn bpf_inject_as(&self, id: u64, dir: Dir, mut packets: Vec<Vec<u8>>) -> Result<Injected, StackError> {
        let listener = self.bpf_listener(id)?;
        let index = listener.settings.load_control().interface;
        let index = index.ok_or_else(|| {
            StackError::Bpf(format!("listener {id} listens to all interfaces; packets go out of one: name it"))
        })?;
        let filter = {
            let mut write = listener.write();
            if write.locked && !write.injects {
                return Err(StackError::BpfLocked(id, "it cannot be made to send packets"));
            }
            write.injects = true;
            write.filter.clone()
        };
        let before = packets.len() as u64;
        if let Some(filter) = filter {
            packets.retain(|p| filter.accepts(p));
        }
        let refused = before - packets.len() as u64;
        let done = Injected { refused, ..self.bpf_inject(index, dir, packets)? };
        let total = &mut listener.write().injected;
        *total = Injected {
            sent: total.sent + done.sent,
            refused: total.refused + done.refused,
            failed: total.failed + done.failed,
        };
        Ok(done)
    }
}

impl<'a> Path<'a> {
    /// How many of the packets there was memory for.
    fn inject(&mut self, index: IfIndex, dir: Dir, packets: &[Vec<u8>]) -> u64 {
        let Some(ifp) = self.ifnet(index.get()).filter(|i| i.running && !i.faulted()) else { return 0 };
        let mut n = 0;
        for part in packets.chunks(smpnet_abi::BURST_MAX as usize) {
            let mut burst = Burst::new();
            for bytes in part {
                let Some(cell) = self.packet_of(bytes) else { continue };
                n += 1;
                let mut p = self.packet(cell);
                p.hdr_mut().rcvif = if matches!(dir, Dir::In) { index.get() } else { 0 };
                burst.push(cell);
            }
            match dir {
                Dir::In => {
                    self.tap(ifp, Dir::In, burst.as_slice());
                    self.if_input(ifp, &burst);
                }
                Dir::Out => burst.iter().for_each(|c| self.stage_frame(index.get(), c)),
            }
        }
        n
    }

    /// A fresh packet of these bytes, over as many cells as it takes.
    fn packet_of(&mut self, bytes: &[u8]) -> Option<smpnet_abi::Cell> {
        let mut first = self.make()?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut c = [0; 1];
            let into_first = first.len() == 0;
            let mut target = first;
            if !into_first {
                if self.pool.alloc(self.cpu, &mut c) == 0 {
                    self.drop(0, DropReason::NoBuffer, first.cell());
                    return None;
                }
                target = self.packet(c[0]);
            }
            let n = rest.len().min(target.tailroom());
            let copied = n > 0 && target.set_data(&rest[..n]);
            if !copied || !into_first && !first.append(target) {
                if !into_first {
                    self.pool.free(self.cpu, &c);
                }
                self.drop(0, DropReason::NoBuffer, first.cell());
                return None;
            }
            rest = &rest[n..];
        }
        Some(first.cell())
    }
}
