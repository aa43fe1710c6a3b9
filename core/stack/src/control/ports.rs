//! The controls of a port: promiscuous mode, multicast list, Ethernet address, offloads, receive-side scaling.
//!
//! Workers see two of them in the interface's snapshot (`promisc`, `mac`); the device is told before the snapshot changes,
//! and when it refuses nothing changes.

use super::Control;
use super::interfaces::plugin_call;
use crate::error::StackError;
use crate::hash::RSS_KEY;
use crate::neigh::dad::Dad;
use crate::net::ifnet::{Attach, Ifnet, Medium, Port};
use crate::stack::Stack;
use crate::types::{AddrState, IfIndex, RssStatus, mac_text};
use crate::wire::ethernet::{BROADCAST, is_group};
use smpnet_abi::{ErrBuf, MacAddr, PortInfo, offload};
use smpnet_runtime::now_ns;
use std::ffi::c_void;

/// Bits of [`smpnet_abi::offload`] and their names in the configuration, in `ifconfig` and in the API.
pub const OFFLOADS: [(u32, &str); 10] = [
    (offload::RX_CSUM, "rx_csum"),
    (offload::TX_CSUM, "tx_csum"),
    (offload::TSO4, "tso4"),
    (offload::TSO6, "tso6"),
    (offload::USO, "uso"),
    (offload::LRO, "lro"),
    (offload::RX_VLAN, "rx_vlan"),
    (offload::TX_VLAN, "tx_vlan"),
    (offload::SCATTER, "scatter"),
    (offload::RSS, "rss"),
];

/// The names of offloads.
pub(super) fn offload_names(mask: u32) -> Vec<&'static str> {
    OFFLOADS.iter().filter(|(bit, _)| mask & bit != 0).map(|(_, n)| *n).collect()
}

/// What control knows of a port (or of a kind's interface) beside its snapshot.
#[derive(Default)]
pub(crate) struct PortControl {
    /// Who wants promiscuous mode: the operator, captures, interfaces that stand on this one.
    promisc_refs: u32,
    /// The operator is one of them.
    promisc_configured: bool,
    pub(super) multicast: Vec<MacAddr>,
    pub(super) allmulti: bool,
    /// The device's own address.
    pub(super) own_mac: MacAddr,
    /// The operator gave it another one.
    pub(super) mac_given: bool,
    /// Bits of `offload` that the device can do.
    pub(super) offered: u32,
    pub(super) rss: Option<RssStatus>,
    /// The interface below that is promiscuous for this one's sake.
    held_parent: Option<IfIndex>,
}

impl PortControl {
    /// What the plugin said when it made the interface.
    pub(super) fn opened(&mut self, mac: MacAddr, offered: u32, rss: Option<RssStatus>) {
        *self = PortControl { own_mac: mac, offered, rss, ..PortControl::default() };
    }
}

impl Stack {
    /// Wants an interface promiscuous: frames to other stations pass the Ethernet hooks and whoever captures, before they
    /// are dropped as `NotForUs`. Wishes are counted: the first one turns the mode on, the last [`Stack::promisc_release`]
    /// turns it off. An interface that stands on another one (a vlan) makes that one promiscuous too. Not on a worker.
    ///
    /// # Errors
    /// [`StackError::NoInterface`]; [`StackError::Plugin`] when the driver refuses or has no such mode.
    pub fn promisc_acquire(&self, index: IfIndex) -> Result<(), StackError> {
        self.promisc_step(&mut self.lock(), index, true)
    }

    /// Takes one [`Stack::promisc_acquire`] back. An interface that is gone has taken its wishes with it: no error.
    ///
    /// # Errors
    /// [`StackError::Plugin`] when the driver refuses; the wish is taken back all the same.
    pub fn promisc_release(&self, index: IfIndex) -> Result<(), StackError> {
        let mut control = self.lock();
        if self.ifs.get_control(index.get()).is_none() {
            return Ok(());
        }
        self.promisc_step(&mut control, index, false)
    }

    /// The operator's own wish for promiscuous mode, which counts once however often it is told.
    ///
    /// # Errors
    /// As [`Stack::promisc_acquire`].
    pub fn set_promisc(&self, index: IfIndex, on: bool) -> Result<(), StackError> {
        let mut control = self.lock();
        if control.ifs.get(&index).is_some_and(|ic| ic.port.promisc_configured == on) {
            return Ok(());
        }
        self.promisc_step(&mut control, index, on)?;
        if let Some(ic) = control.ifs.get_mut(&index) {
            ic.port.promisc_configured = on;
        }
        Ok(())
    }

    fn promisc_step(&self, control: &mut Control, index: IfIndex, more: bool) -> Result<(), StackError> {
        let ifp = self.interface(index)?;
        if matches!(ifp.attach, Attach::None) {
            return Err(StackError::Attachment(ifp.name.to_string(), "nothing is attached to it"));
        }
        let Some(ic) = control.ifs.get_mut(&index) else { return Err(StackError::NoInterface(ifp.name.to_string())) };
        let before = ic.port.promisc_refs;
        let after = if more { before + 1 } else { before.saturating_sub(1) };
        if (before > 0) == (after > 0) {
            ic.port.promisc_refs = after;
            return Ok(());
        }
        let told = match &ifp.attach {
            Attach::Port(port) if !ifp.faulted() => {
                let what = if more { "cannot be made promiscuous" } else { "cannot leave promiscuous mode" };
                // SAFETY: control thread, one at a time (the lock); the port is open.
                plugin_call(&ifp.name, what, |err| unsafe {
                    (port.table.set_promisc)(port.handle.0, u32::from(more), err)
                })
            }
            _ => Ok(()),
        };
        if more {
            told?;
            ic.port.promisc_refs = after;
            self.put(Ifnet { promisc: true, ..(*ifp).clone() });
            if let Err(e) = self.hold_parent_now(control, index) {
                if let Some(ic) = control.ifs.get_mut(&index) {
                    ic.port.promisc_refs = before;
                }
                self.put((*ifp).clone());
                return Err(e);
            }
            return Ok(());
        }
        ic.port.promisc_refs = after;
        self.put(Ifnet { promisc: false, ..(*ifp).clone() });
        self.hold_parent(control, index);
        told
    }

    /// Whether an interface needs frames that its parent does not receive for itself.
    fn parent_wanted(&self, control: &Control, index: IfIndex) -> Option<IfIndex> {
        let ifp = self.ifs.get_control(index.get())?;
        let parent = self.ifs.get_control(ifp.parent)?;
        let ic = control.ifs.get(&index)?;
        let other_address = ifp.medium == Medium::Ether && ifp.mac != parent.mac;
        (ic.port.promisc_refs > 0 || other_address).then_some(parent.index)
    }

    fn hold_parent_now(&self, control: &mut Control, index: IfIndex) -> Result<(), StackError> {
        let wanted = self.parent_wanted(control, index);
        let held = control.ifs.get(&index).and_then(|ic| ic.port.held_parent);
        if wanted == held {
            return Ok(());
        }
        if let Some(parent) = wanted {
            self.promisc_step(control, parent, true)?;
        }
        if let Some(ic) = control.ifs.get_mut(&index) {
            ic.port.held_parent = wanted;
        }
        if let Some(parent) = held {
            self.parent_released(control, parent);
        }
        Ok(())
    }

    /// Makes the interface below promiscuous, or no longer, as this one needs it.
    pub(super) fn hold_parent(&self, control: &mut Control, index: IfIndex) {
        if let Err(e) = self.hold_parent_now(control, index) {
            tracing::warn!(interface = %self.if_name(index.get()), error = %e, "frames to it may not arrive");
        }
    }

    /// An interface goes away: what it held below is given back.
    pub(super) fn let_parent_go(&self, control: &mut Control, index: IfIndex) {
        if let Some(parent) = control.ifs.get_mut(&index).and_then(|ic| ic.port.held_parent.take()) {
            self.parent_released(control, parent);
        }
    }

    fn parent_released(&self, control: &mut Control, parent: IfIndex) {
        if self.ifs.get_control(parent.get()).is_none() {
            return;
        }
        if let Err(e) = self.promisc_step(control, parent, false) {
            tracing::warn!(error = %e, "an interface stays promiscuous");
        }
    }

    /// The whole list of multicast addresses that a port receives, or every one (`all`). What the stack itself takes does
    /// not depend on it: it is for devices that filter, so that protocols and captures get what they wait for.
    ///
    /// # Errors
    /// [`StackError::NoInterface`]; [`StackError::Attachment`] for what is no port or is quarantined;
    /// [`StackError::BadMac`] for an address of a station or the broadcast address; [`StackError::Plugin`] when the driver
    /// refuses or has no such list.
    pub fn set_multicast(&self, index: IfIndex, list: &[MacAddr], all: bool) -> Result<(), StackError> {
        let mut control = self.lock();
        let ifp = self.interface(index)?;
        let port = usable_port(&ifp)?;
        if let Some(bad) = list.iter().find(|m| !is_group(&m.bytes) || **m == BROADCAST) {
            return Err(StackError::BadMac(ifp.name.to_string(), mac_text(*bad), "multicast address"));
        }
        let mut list = list.to_vec();
        list.sort_unstable_by_key(|m| m.bytes);
        list.dedup();
        let Some(ic) = control.ifs.get_mut(&index) else { return Err(StackError::NoInterface(ifp.name.to_string())) };
        if ic.port.multicast == list && ic.port.allmulti == all {
            return Ok(());
        }
        let (at, n, all_bit) = (list.as_ptr(), list.len() as u32, u32::from(all));
        plugin_call(&ifp.name, "cannot change the multicast list", |err| {
            // SAFETY: as in promisc_step; the list lives through the call.
            unsafe { (port.table.set_multicast)(port.handle.0, at, n, all_bit, err) }
        })?;
        ic.port.multicast = list;
        ic.port.allmulti = all;
        Ok(())
    }

    /// Gives an Ethernet interface another address; none gives it back the device's own. Addresses of ours on it are
    /// announced anew (RFC 5227), so that neighbours learn of it. Interfaces that stand on it and had its address (vlans)
    /// follow. A vlan that has an address of its own makes the interface below promiscuous.
    ///
    /// # Errors
    /// [`StackError::NoInterface`]; [`StackError::Attachment`] for an interface without an Ethernet address or in
    /// quarantine; [`StackError::BadMac`]; [`StackError::Plugin`] when the driver refuses or cannot.
    pub fn set_mac(&self, index: IfIndex, mac: Option<MacAddr>) -> Result<(), StackError> {
        let mut control = self.lock();
        let old = self.interface(index)?;
        if old.medium != Medium::Ether || matches!(old.attach, Attach::None | Attach::Loopback) {
            return Err(StackError::Attachment(old.name.to_string(), "has no Ethernet address"));
        }
        let own = control.ifs.get(&index).map_or(old.mac, |ic| ic.port.own_mac);
        let new = mac.unwrap_or(own);
        if new.bytes == [0; 6] || is_group(&new.bytes) {
            return Err(StackError::BadMac(old.name.to_string(), mac_text(new), "address of a station"));
        }
        if new != old.mac {
            if let Attach::Port(_) = &old.attach {
                let port = usable_port(&old)?;
                plugin_call(&old.name, "cannot change the Ethernet address", |err| {
                    // SAFETY: as in promisc_step; the address lives through the call.
                    unsafe { (port.table.set_mac)(port.handle.0, &new, err) }
                })?;
            }
            self.mac_changed(&mut control, &old, new);
        }
        if let Some(ic) = control.ifs.get_mut(&index) {
            ic.port.mac_given = mac.is_some();
        }
        self.hold_parent(&mut control, index);
        self.bump();
        drop(control);
        self.slow.wake();
        Ok(())
    }

    /// Publishes an interface's new address, announces it, and lets what stands on the interface follow.
    fn mac_changed(&self, control: &mut Control, old: &Ifnet, new: MacAddr) {
        self.put(Ifnet { mac: new, ..old.clone() });
        let now = now_ns();
        for a in old.addrs.iter().filter(|a| a.state == AddrState::Preferred) {
            let random = self.lock_arp().random();
            let mut dad = Dad::new(now, 0, random);
            // The address is in use already; the announcement is left to the clock.
            dad.step(now, random);
            control.dads.insert((old.index.get(), a.net.addr().to_bits()), dad);
        }
        self.emit("interface", &old.name, format!("Ethernet address {}", mac_text(new)));
        for child in self.ifs.all().iter().filter(|c| c.parent == old.index.get() && c.medium == Medium::Ether) {
            let given = control.ifs.get(&child.index).is_some_and(|ic| ic.port.mac_given);
            if !given && child.mac == old.mac {
                if let Some(ic) = control.ifs.get_mut(&child.index) {
                    ic.port.own_mac = new;
                }
                self.mac_changed(control, child, new);
            }
            self.hold_parent(control, child.index);
        }
    }

    /// Turns on exactly these offloads of a port (bits of [`smpnet_abi::offload`]); none turns on all that it offers. What
    /// is off is done in software, where it has to be done.
    ///
    /// # Errors
    /// [`StackError::NoInterface`]; [`StackError::Attachment`] for what is no port or is quarantined;
    /// [`StackError::Offloads`]; [`StackError::Plugin`] when the driver refuses or cannot change them.
    pub fn set_offloads(&self, index: IfIndex, mask: Option<u32>) -> Result<(), StackError> {
        let control = self.lock();
        let old = self.interface(index)?;
        let port = usable_port(&old)?;
        let offered = control.ifs.get(&index).map_or(0, |ic| ic.port.offered);
        let mask = mask.unwrap_or(offered);
        if mask & !offered != 0 {
            let names = |m: u32| match offload_names(m) {
                none if none.is_empty() => "none".to_owned(),
                some => some.join(", "),
            };
            let interface = old.name.to_string();
            return Err(StackError::Offloads { interface, missing: names(mask & !offered), offered: names(offered) });
        }
        if mask == old.offloads {
            return Ok(());
        }
        plugin_call(&old.name, "cannot change the offloads", |err| {
            // SAFETY: as in promisc_step.
            unsafe { (port.table.set_offloads)(port.handle.0, mask, err) }
        })?;
        self.put(Ifnet { offloads: mask, ..(*old).clone() });
        self.bump();
        Ok(())
    }

    /// Runs `f` while no other control function of a plugin's port is being called, as the ABI asks for. For whoever calls a
    /// driver's table himself (statistics, status). `f` calls no control function of the stack.
    pub fn with_ports<R>(&self, f: impl FnOnce() -> R) -> R {
        let _control = self.lock();
        f()
    }

    /// Programs a port that can spread flows itself with our symmetric key, so that packets of both directions arrive on
    /// the worker that [`crate::toeplitz`] names. A device that refuses keeps its own way.
    pub(super) fn program_rss(&self, name: &str, port: &Port, info: &PortInfo) -> Option<RssStatus> {
        let has = info.offloads & offload::RSS != 0 && info.rss_table > 0 && info.rss_key > 0;
        if info.rx_queues < 2 || !has {
            return None;
        }
        let key: Vec<u8> = RSS_KEY.iter().copied().cycle().take(info.rss_key.into()).collect();
        let workers = self.workers();
        let table = rss_table(info.rss_table, info.rx_queues, workers, port.first_worker);
        let told = plugin_call(name, "cannot program receive-side scaling", |err: *mut ErrBuf| {
            let handle: *mut c_void = port.handle.0;
            let (k, t) = (key.as_ptr(), table.as_ptr());
            // SAFETY: as in promisc_step; key and table live through the call.
            unsafe { (port.table.set_rss)(handle, k, u32::from(info.rss_key), t, u32::from(info.rss_table), err) }
        });
        if let Err(e) = &told {
            tracing::warn!(interface = name, error = %e, "flows are steered in software, if at all (rps_hash)");
        }
        Some(RssStatus {
            programmed: told.is_ok(),
            table: info.rss_table,
            queues: info.rx_queues,
            reason: told.err().map(|e| e.to_string()),
        })
    }
}

/// The port of an interface, if it may be called.
fn usable_port(ifp: &Ifnet) -> Result<&Port, StackError> {
    match &ifp.attach {
        Attach::Port(_) if ifp.faulted() => Err(StackError::Attachment(ifp.name.to_string(), "is quarantined")),
        Attach::Port(port) => Ok(port),
        _ => Err(StackError::Attachment(ifp.name.to_string(), "is no port")),
    }
}

/// A redirection table. An entry names a queue of the worker that software would steer its hashes to, in turns when there
/// are several; where that worker serves none of the queues, all queues take turns.
fn rss_table(entries: u16, queues: u16, workers: usize, first_worker: usize) -> Vec<u16> {
    (0..entries)
        .map(|i| {
            let (i, queues) = (usize::from(i), usize::from(queues));
            let first = (i % workers + workers - first_worker % workers) % workers;
            let of_worker = queues.saturating_sub(first).div_ceil(workers);
            let queue = if of_worker == 0 { i % queues } else { first + i / workers % of_worker * workers };
            queue as u16
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirection_table_names_the_queue_of_the_worker_that_owns_the_hash() {
        let (workers, queues) = (4usize, 4u16);
        for first in 0..4usize {
            let table = rss_table(128, queues, workers, first);
            for hash in 0..512usize {
                let queue = usize::from(table[hash % 128]);
                assert_eq!((first + queue) % workers, hash % workers, "queue {queue} from worker {first}");
            }
        }
    }

    #[test]
    fn a_redirection_table_uses_every_queue_about_as_often() {
        for (queues, workers) in [(2u16, 8usize), (8, 2), (3, 4), (16, 16)] {
            let table = rss_table(128, queues, workers, 1);
            let mut used = vec![0u32; queues.into()];
            table.iter().for_each(|q| used[usize::from(*q)] += 1);
            let fair = 128 / u32::from(queues);
            assert!(
                used.iter().all(|n| (fair / 2..=fair * 2).contains(n)),
                "{queues} queues, {workers} workers: {used:?}"
            );
        }
    }
}
