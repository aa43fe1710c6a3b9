//! Interfaces: reserve, attach, change, detach.

use super::{Control, IfControl};
use crate::error::StackError;
use crate::net::ifnet::{Attach, Handle, IfAddr, IfShared, Ifnet, Kind, Medium, Port};
use crate::net::poller::RxPoller;
use crate::stack::{LOOPBACK, Stack};
use crate::types::{AddrState, IfIndex, Ipv4Net, mac_text};
use smpnet_abi::{
    DriverTable, ErrBuf, IfKindInfo, IfKindTable, LinkState, MacAddr, PortInfo, UNSUPPORTED, if_type, port_flags,
};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

/// Least MTU of an interface (RFC 791: every link carries 68 bytes).
const MTU_MIN: u32 = 68;

impl Stack {
    /// Takes the lowest free index for a name. Drivers and interface kinds want the index before they are attached.
    ///
    /// # Errors
    /// [`StackError::BadName`], [`StackError::NameTaken`], [`StackError::NoIndex`].
    pub fn if_reserve(&self, name: &str) -> Result<IfIndex, StackError> {
        let mut control = self.lock();
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > 15 || !name.bytes().all(good) {
            return Err(StackError::BadName(name.to_owned()));
        }
        if self.if_by_name(name).is_some() {
            return Err(StackError::NameTaken(name.to_owned()));
        }
        let mut n = 1;
        for used in control.ifs.keys() {
            if used.get() != n {
                break;
            }
            n += 1;
        }
        let index = IfIndex::new(n).ok_or(StackError::NoIndex)?;
        control.ifs.insert(index, IfControl::default());
        self.names.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), index);
        self.put(Ifnet {
            index,
            name: name.into(),
            medium: Medium::Ether,
            attach: Attach::None,
            mac: MacAddr::default(),
            mtu: 1500,
            offloads: 0,
            promisc: false,
            up: false,
            link: 2,
            speed: 0,
            running: false,
            parent: 0,
            addrs: Arc::from([]),
            vlans: None,
            ether_types: Arc::from([]),
            shared: Arc::new(IfShared::new(self.workers(), &self.domain, &self.slab)),
        });
        drop(control);
        self.register_if_sysctl(name, index);
        Ok(index)
    }

    /// Makes a reserved index a port: `info` is what the driver's `open` filled in. Every receive queue gets a worker, every
    /// worker a transmit queue (its own, or one that it hands packets over to). The interface is down.
    ///
    /// # Errors
    /// [`StackError::NoInterface`], [`StackError::Attachment`], [`StackError::BadDescription`].
    pub fn attach_port(&self, index: IfIndex, table: &'static DriverTable, info: PortInfo) -> Result<(), StackError> {
        let mut control = self.lock();
        let old = self.reserved(index)?;
        let bad = |why: &str| Err(StackError::BadDescription(old.name.to_string(), why.to_owned()));
        if info.rx_queues == 0 || info.tx_queues == 0 {
            return bad("a port has at least one receive and one transmit queue");
        }
        if info.mtu < MTU_MIN || info.mtu > info.mtu_max {
            return bad(&format!("an MTU of {} with a largest one of {}", info.mtu, info.mtu_max));
        }
        let raw = info.flags & port_flags::RAW_IP != 0;
        if !raw && (info.mac.bytes == [0; 6] || info.mac.bytes[0] & 1 != 0) {
            return bad(&format!("{} is no address of a station", mac_text(info.mac)));
        }
        let port = Arc::new(Port {
            table,
            handle: Handle(info.port),
            rx_queues: info.rx_queues,
            tx_queues: info.tx_queues,
            mtu_max: info.mtu_max,
            first_worker: control.next_worker % self.workers(),
            rps: AtomicU8::new(0),
            missed: AtomicU64::new(0),
        });
        control.next_worker += usize::from(info.rx_queues);
        let rss = self.program_rss(&old.name, &port, &info);
        if let Some(ic) = control.ifs.get_mut(&index) {
            ic.port.opened(info.mac, info.offloads, rss);
        }
        let mut new = Ifnet {
            medium: if raw { Medium::RawIp } else { Medium::Ether },
            attach: Attach::Port(port.clone()),
            mac: info.mac,
            mtu: info.mtu,
            offloads: info.offloads,
            ..(*old).clone()
        };
        self.read_link(&mut control, &mut new);
        self.put(new);
        let Some(me) = self.me.upgrade() else { return Err(StackError::Runtime("the stack is going away".into())) };
        for queue in 0..info.rx_queues {
            let worker = self.worker_of_queue(&port, queue);
            let poller = RxPoller::new(me.clone(), port.clone(), index, u32::from(queue), info.flags);
            let id = self.rt.add_poller(worker, Box::new(poller));
            if let Some(ic) = control.ifs.get_mut(&index) {
                ic.pollers.push(id);
            }
        }
        Ok(())
    }

    /// Makes a reserved index an interface of a kind: `info` is what the kind's `create` filled in. The interface is down.
    ///
    /// # Errors
    /// [`StackError::NoInterface`], [`StackError::Attachment`], [`StackError::BadDescription`].
    pub fn attach_kind(&self, index: IfIndex, table: &'static IfKindTable, info: IfKindInfo) -> Result<(), StackError> {
        let mut control = self.lock();
        let old = self.reserved(index)?;
        let new = self.kind_snapshot(&old, table, &info)?;
        let new = self.follow_parent(&mut control, new);
        if let Some(ic) = control.ifs.get_mut(&index) {
            ic.port.opened(new.mac, info.offloads, None);
        }
        self.put(new);
        self.hold_parent(&mut control, index);
        Ok(())
    }

    /// The kind's `configure` succeeded with this description: MTU, address, offloads and parent follow it.
    ///
    /// # Errors
    /// [`StackError::NoInterface`], [`StackError::Attachment`], [`StackError::BadDescription`].
    pub fn kind_changed(&self, index: IfIndex, info: IfKindInfo) -> Result<(), StackError> {
        let mut control = self.lock();
        let old = self.interface(index)?;
        let Attach::Kind(kind) = &old.attach else {
            return Err(StackError::Attachment(old.name.to_string(), "is of no interface kind"));
        };
        let new = self.kind_snapshot(&old, kind.table, &info)?;
        let mut new = self.follow_parent(&mut control, new);
        if let Some(ic) = control.ifs.get_mut(&index) {
            ic.port.own_mac = new.mac;
            ic.port.offered = info.offloads;
            // An address that the operator gave stays.
            if ic.port.mac_given {
                new.mac = old.mac;
            }
        }
        self.put(new);
        self.hold_parent(&mut control, index);
        self.bump();
        Ok(())
    }

    fn kind_snapshot(&self, old: &Ifnet, table: &'static IfKindTable, info: &IfKindInfo) -> Result<Ifnet, StackError> {
        let bad = |why: String| StackError::BadDescription(old.name.to_string(), why);
        let medium = match info.if_type {
            if_type::ETHER => Medium::Ether,
            if_type::RAW_IP => Medium::RawIp,
            other => return Err(bad(format!("{other} is no interface type"))),
        };
        if info.mtu < info.mtu_min || info.mtu > info.mtu_max || info.mtu < MTU_MIN {
            return Err(bad(format!("an MTU of {} outside {} to {}", info.mtu, info.mtu_min, info.mtu_max)));
        }
        let mut mac = info.mac;
        if medium == Medium::Ether && mac.bytes == [0; 6] {
            mac = if old.mac.bytes == [0; 6] { chosen_mac(self.seed, old.index) } else { old.mac };
        }
        Ok(Ifnet {
            medium,
            attach: Attach::Kind(Arc::new(Kind {
                table,
                handle: Handle(info.handle),
                mtu_min: info.mtu_min.max(MTU_MIN),
                mtu_max: info.mtu_max,
            })),
            mac,
            mtu: info.mtu,
            offloads: info.offloads,
            parent: info.parent,
            link: 1,
            ..old.clone()
        })
    }

    /// Takes an interface out: its addresses, routes, neighbours, hooks and demultiplexer keys go with it. When this
    /// returns, no worker uses it or is in a function of its plugin; the caller then closes or destroys it. Never on a
    /// worker.
    ///
    /// # Errors
    /// [`StackError::NoInterface`]; [`StackError::Attachment`] for `lo0`.
    pub fn detach(&self, index: IfIndex) -> Result<(), StackError> {
        let mut control = self.lock();
        let old = self.interface(index)?;
        if index.get() == LOOPBACK {
            return Err(StackError::Attachment(old.name.to_string(), "is always there"));
        }
        self.put(Ifnet { running: false, up: false, ..(*old).clone() });
        self.let_parent_go(&mut control, index);
        self.addresses_removed(&mut control, &old);
        self.routes_without(&mut control, index);
        self.bump();
        let pollers = control.ifs.get_mut(&index).map(|ic| std::mem::take(&mut ic.pollers)).unwrap_or_default();
        self.hooks_of_removed(&mut control, index);
        self.bpf.interface_gone(index);
        self.keys_removed(&mut control, index);
        drop(control);
        for id in pollers {
            drop(self.rt.remove_poller(id));
        }
        // What is on its way between workers, and what waits on them, comes to its end while the snapshot says "down".
        self.domain.perform();
        self.tx_queue.barrier();
        self.input_queue.barrier();
        self.reass_queue.barrier();
        let n = index.get();
        self.on_all_workers(move |p| {
            p.forget_interface(n);
            p.forget_fragments(n);
        });
        self.neighbours_removed(index);
        self.remove_if_sysctl(&old.name);
        let mut control = self.lock();
        self.keep_counts(&old);
        self.ifs.set(&self.domain, index, None);
        self.names.write().unwrap_or_else(PoisonError::into_inner).remove(&*old.name);
        control.ifs.remove(&index);
        drop(control);
        self.domain.perform();
        self.emit("interface", &old.name, "detached".into());
        Ok(())
    }

    /// Lets packets wait in the ports (`true`) or takes them from there again. A router that starts holds them until all
    /// its interfaces are up: what the first one receives may leave through the last. Control threads.
    pub fn hold_reception(&self, hold: bool) {
        self.held.store(hold, Ordering::Release);
        self.wake_workers();
    }

    /// Lets workers that sleep look at their ports: what has to be polled may be running now.
    fn wake_workers(&self) {
        (0..self.workers()).for_each(|w| self.rt.wake(w));
    }

    /// Lets packets pass (`up`) or stops them. A quarantined interface stays down until it is attached anew.
    ///
    /// # Errors
    /// [`StackError::NoInterface`], [`StackError::Attachment`]; [`StackError::Plugin`] when the driver refuses.
    pub fn set_up(&self, index: IfIndex, up: bool) -> Result<(), StackError> {
        let mut control = self.lock();
        let old = self.interface(index)?;
        match &old.attach {
            Attach::None => return Err(StackError::Attachment(old.name.to_string(), "nothing is attached to it")),
            Attach::Port(port) if !old.faulted() => {
                let table = port.table;
                let handle = port.handle.0;
                plugin_call(&old.name, if up { "cannot be set up" } else { "cannot be set down" }, |err| {
                    // SAFETY: control thread, one at a time (the lock); the port is open.
                    let rc = unsafe { (table.set_up)(handle, u32::from(up), err) };
                    // A driver without the function is always up.
                    if rc == UNSUPPORTED { 0 } else { rc }
                })?;
            }
            _ => {}
        }
        let mut new = Ifnet { up, ..(*old).clone() };
        self.read_link(&mut control, &mut new);
        let new = self.follow_parent(&mut control, new);
        self.put(new);
        if !up {
            self.neighbours_removed(index);
        }
        self.state_changed(&mut control, index);
        self.emit("interface", &old.name, if up { "up".into() } else { "down".into() });
        Ok(())
    }

    /// Changes the MTU.
    ///
    /// # Errors
    /// [`StackError::NoInterface`], [`StackError::Mtu`]; [`StackError::Plugin`] when the driver refuses.
    pub fn set_mtu(&self, index: IfIndex, mtu: u32) -> Result<(), StackError> {
        let _control = self.lock();
        let old = self.interface(index)?;
        let (min, max) = match &old.attach {
            Attach::Port(p) => (MTU_MIN, p.mtu_max),
            Attach::Kind(k) => (k.mtu_min, k.mtu_max),
            _ => (MTU_MIN, 65535),
        };
        if mtu < min || mtu > max {
            return Err(StackError::Mtu { interface: old.name.to_string(), mtu, min, max });
        }
        if let Attach::Port(port) = &old.attach
            && mtu != old.mtu
        {
            plugin_call(&old.name, "cannot change the MTU", |err| {
                // SAFETY: as in set_up.
                let rc = unsafe { (port.table.set_mtu)(port.handle.0, mtu, err) };
                // A driver without the function does not care, as long as its largest MTU allows it.
                if rc == UNSUPPORTED { 0 } else { rc }
            })?;
        }
        self.put(Ifnet { mtu, ..(*old).clone() });
        self.bump();
        Ok(())
    }

    /// Changes the operator's note on an interface.
    ///
    /// # Errors
    /// [`StackError::NoInterface`].
    pub fn set_description(&self, index: IfIndex, text: &str) -> Result<(), StackError> {
        let mut control = self.lock();
        let ifp = self.interface(index)?;
        control.ifs.get_mut(&index).ok_or_else(|| StackError::NoInterface(ifp.name.to_string()))?.description =
            text.to_owned();
        Ok(())
    }

    /// Spreads what a port receives over all workers by the hash of the flow (`toeplitz`), or leaves it on the worker of
    /// its queue (`none`).
    ///
    /// # Errors
    /// [`StackError::NoInterface`]; [`StackError::Attachment`] for what is no port.
    pub fn set_rps(&self, index: IfIndex, on: bool) -> Result<(), StackError> {
        let _control = self.lock();
        let ifp = self.interface(index)?;
        match &ifp.attach {
            Attach::Port(p) => p.rps.store(u8::from(on), Ordering::Relaxed),
            _ => return Err(StackError::Attachment(ifp.name.to_string(), "is no port")),
        }
        Ok(())
    }

    /// Stops an interface for good: nothing of its plugin is called any more.
    ///
    /// # Errors
    /// [`StackError::NoInterface`].
    pub fn quarantine(&self, index: IfIndex, reason: &str) -> Result<(), StackError> {
        let mut control = self.lock();
        let old = self.interface(index)?;
        old.shared.faulted.store(true, Ordering::Release);
        if let Some(ic) = control.ifs.get_mut(&index) {
            // The first reason is the cause; what else is reported follows from it.
            if ic.quarantine.is_some() {
                return Ok(());
            }
            ic.quarantine = Some(reason.to_owned());
        }
        tracing::error!(interface = %old.name, reason, "interface quarantined");
        self.put((*old).clone());
        self.state_changed(&mut control, index);
        // The pollers go when their workers give them up; `detach` asks for them again and so waits for it.
        let pollers = control.ifs.get(&index).map(|ic| ic.pollers.clone()).unwrap_or_default();
        drop(control);
        let rt = self.rt.clone();
        let given_up = self.rt.work().enqueue(move || {
            for id in pollers {
                drop(rt.remove_poller(id));
            }
        });
        if given_up.is_err() {
            tracing::warn!(interface = %old.name, "the pollers of a quarantined interface stay until it is detached");
        }
        self.emit("quarantine", &old.name, reason.to_owned());
        Ok(())
    }

    /// The interface of a name. Any thread.
    pub fn if_by_name(&self, name: &str) -> Option<IfIndex> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    /// The name of an interface, or its number when there is none.
    pub(crate) fn if_name(&self, index: u32) -> String {
        self.ifs.get_control(index).map_or_else(|| format!("#{index}"), |i| i.name.to_string())
    }

    pub(crate) fn interface(&self, index: IfIndex) -> Result<Arc<Ifnet>, StackError> {
        self.ifs.get_control(index.get()).ok_or_else(|| StackError::NoInterface(format!("#{index}")))
    }

    fn reserved(&self, index: IfIndex) -> Result<Arc<Ifnet>, StackError> {
        let ifp = self.interface(index)?;
        match ifp.attach {
            Attach::None => Ok(ifp),
            _ => Err(StackError::Attachment(ifp.name.to_string(), "something is attached to it already")),
        }
    }

    /// Publishes a snapshot, with `running` made of the rest. Caller holds the control lock.
    pub(crate) fn put(&self, mut ifnet: Ifnet) {
        let attached = !matches!(ifnet.attach, Attach::None);
        ifnet.running = attached && ifnet.up && ifnet.link != 0 && !ifnet.faulted();
        self.ifs.set(&self.domain, ifnet.index, Some(Arc::new(ifnet)));
    }

    /// Asks a port for its link state.
    fn read_link(&self, control: &mut Control, ifnet: &mut Ifnet) {
        let Attach::Port(port) = &ifnet.attach else { return };
        if ifnet.faulted() {
            return;
        }
        let mut link = LinkState { state: 2, ..LinkState::default() };
        // SAFETY: control thread; `link` is valid to write to.
        unsafe { (port.table.link_state)(port.handle.0, &mut link) };
        ifnet.link = link.state.min(2);
        ifnet.speed = link.speed;
        if let Some(ic) = control.ifs.get_mut(&ifnet.index) {
            ic.full_duplex = link.full_duplex == 1;
        }
    }

    /// The link of an interface with a parent is its parent's.
    fn follow_parent(&self, _control: &mut Control, mut ifnet: Ifnet) -> Ifnet {
        if ifnet.parent != 0 {
            ifnet.link = self.ifs.get_control(ifnet.parent).map_or(0, |p| u32::from(p.running));
        }
        ifnet
    }

    /// The link of a port changed.
    pub(crate) fn link_changed(&self, index: u32, link: LinkState) {
        let mut control = self.lock();
        let Some(old) = self.ifs.get_control(index) else { return };
        let state = link.state.min(2);
        if let Some(ic) = control.ifs.get_mut(&old.index) {
            ic.full_duplex = link.full_duplex == 1;
        }
        if old.link == state && old.speed == link.speed {
            return;
        }
        self.put(Ifnet { link: state, speed: link.speed, ..(*old).clone() });
        self.state_changed(&mut control, old.index);
        let detail = ["link down", "link up", "link state unknown"][state as usize];
        self.emit("link", &old.name, detail.into());
    }

    /// Whether packets pass an interface may have changed: its children and the routes with several ways follow.
    fn state_changed(&self, control: &mut Control, index: IfIndex) {
        for child in self.ifs.all().iter().filter(|c| c.parent == index.get()) {
            let new = self.follow_parent(control, (**child).clone());
            if new.link != child.link {
                self.put(new);
                self.state_changed(control, child.index);
            }
        }
        self.ways_changed(control);
        self.bump();
        self.wake_workers();
    }

    pub(crate) fn make_loopback(&self) -> Result<(), StackError> {
        let index = self.if_reserve("lo0")?;
        let mut control = self.lock();
        let old = self.interface(index)?;
        let net = Ipv4Net::new(Ipv4Addr::LOCALHOST, 8).ok_or(StackError::NoIndex)?;
        let new = Ifnet {
            medium: Medium::RawIp,
            attach: Attach::Loopback,
            mtu: 33624,
            up: true,
            link: 1,
            addrs: Arc::from([IfAddr { net, state: AddrState::Preferred }]),
            ..(*old).clone()
        };
        self.put(new);
        self.address_routes(&mut control, index, net)
    }
}

/// An address for an Ethernet interface that has none: locally administered, the same as long as the interface lives.
fn chosen_mac(seed: u64, index: IfIndex) -> MacAddr {
    let r = (seed ^ u64::from(index.get()).wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_be_bytes();
    MacAddr { bytes: [r[0] & 0xfc | 2, r[1], r[2], r[3], r[4], r[5]] }
}

/// Calls a control function of a plugin and makes an error of its refusal.
pub(crate) fn plugin_call(
    interface: &str,
    what: &'static str,
    f: impl FnOnce(*mut ErrBuf) -> i32,
) -> Result<(), StackError> {
    let mut bytes = [0u8; 512];
    let mut err = ErrBuf::new(&mut bytes);
    let rc = f(&mut err);
    if rc == 0 {
        return Ok(());
    }
    // SAFETY: the buffer is `bytes`, all of it initialised.
    let mut reason = unsafe { err.get() };
    if reason.is_empty() {
        reason = match rc {
            UNSUPPORTED => "the driver has no such function".into(),
            smpnet_abi::FAULT => "the plugin panicked".into(),
            _ => "the plugin gave no reason".into(),
        };
    }
    Err(StackError::Plugin { interface: interface.to_owned(), what, reason })
}
