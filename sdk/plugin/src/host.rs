//! The router's services for control threads.

use crate::{Burst, Counter, Error, LinkState, Packet, Worker, memory, shim};
use smpnet_abi::{CELL_NONE, HostServices, IfInfo, PoolDesc, Text, WORKER_NONE};
use std::ffi::c_void;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// The router's services. A copyable handle, good on any thread until the process ends.
#[derive(Clone, Copy)]
pub struct Host(&'static HostServices);

impl Host {
    pub(crate) fn new(host: &'static HostServices) -> Self {
        Host(host)
    }

    /// The host, once the plugin has started; for code that was not handed one.
    pub fn get() -> Option<Host> {
        memory::host().map(Host)
    }

    /// Workers of this router; their indices are below it.
    pub fn workers(&self) -> usize {
        self.0.workers as usize
    }

    /// The packet pool.
    pub fn pool(&self) -> &'static PoolDesc {
        // SAFETY: the ABI promises a description that lives as long as the process.
        unsafe { &*self.0.pool }
    }

    /// A fresh packet on a control thread; slow. On a worker there is [`Worker::alloc`].
    pub fn alloc(&self) -> Option<Packet> {
        let mut cell = CELL_NONE;
        // SAFETY: room for one cell; any thread may call with WORKER_NONE.
        let n = unsafe { (self.0.pkt_alloc)(WORKER_NONE, &mut cell, 1) };
        // SAFETY: the host has just given it.
        (n == 1).then(|| unsafe { Packet::from_cell(cell) })
    }

    /// Nanoseconds of the monotonic clock.
    pub fn now_ns(&self) -> u64 {
        // SAFETY: takes nothing.
        unsafe { (self.0.now_ns)() }
    }

    /// Index of the interface of that name.
    pub fn if_lookup(&self, name: &str) -> Option<u32> {
        // SAFETY: the text lives through the call.
        Some(unsafe { (self.0.if_lookup)(Text::new(name)) }).filter(|i| *i != 0)
    }

    /// What the router knows of an interface.
    pub fn if_info(&self, ifindex: u32) -> Option<IfInfo> {
        let mut info = IfInfo {
            size: size_of::<IfInfo>() as u32,
            ifindex,
            if_type: 0,
            flags: 0,
            mtu: 0,
            offloads: 0,
            mac: Default::default(),
            _pad: 0,
            name: [0; 16],
        };
        // SAFETY: `info` is there to be filled.
        (unsafe { (self.0.if_info)(ifindex, &mut info) } == 0).then_some(info)
    }

    /// Tells the router that the link of an interface changed.
    pub fn link_event(&self, ifindex: u32, link: LinkState) {
        // SAFETY: `link` lives through the call.
        unsafe { (self.0.link_event)(ifindex, &link) };
    }

    /// Tells the router that an object is broken: its interface is quarantined and `what` logged.
    pub fn fault(&self, ifindex: u32, what: &str) {
        // SAFETY: the text lives through the call.
        unsafe { (self.0.fault)(ifindex, Text::new(what)) };
    }

    /// A counter `name` (`no_session`) of `owner`, an interface or the plugin; see [`Counter`].
    pub fn counter(&self, owner: &str, name: &str) -> Result<Counter, Error> {
        Counter::register(self.0, owner, name)
    }

    /// Calls `func` on `worker` after `delay`. Dropping what this returns lets it run; [`Callout::stop`] stops it.
    pub fn callout(
        &self,
        worker: usize,
        delay: Duration,
        func: impl FnOnce(&mut Worker<'_>) + Send + 'static,
    ) -> Result<Callout, Error> {
        unsafe extern "C" fn run(arg: *mut c_void, worker: u32) {
            // SAFETY: `arg` came from Box::into_raw below and is run once.
            let func = unsafe { Box::from_raw(arg.cast::<CalloutBox>()) };
            let Some(host) = memory::host() else { return };
            let done = shim::guarded(|| {
                // SAFETY: the host calls this on that worker.
                let mut cx = unsafe { Worker::new(host, worker) };
                func(&mut cx);
            });
            if let Err(text) = done {
                crate::error!("panic in a callout: {text}");
            }
        }
        let func: CalloutBox = Box::new(func);
        let arg = Box::into_raw(Box::new(func));
        let ns = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        let index = u32::try_from(worker).unwrap_or(WORKER_NONE);
        // SAFETY: `run` takes what `arg` is, once.
        match unsafe { (self.0.callout)(index, ns, run, arg.cast()) } {
            0 => {
                // SAFETY: refused, so `run` is never called and the box is still ours.
                drop(unsafe { Box::from_raw(arg) });
                Err(Error::new(format!("there is no worker {worker}")))
            }
            id => Ok(Callout { host: self.0, id, arg }),
        }
    }

    /// Calls `func` on a control thread, where it may sleep. Fails when too much work is waiting.
    pub fn work(&self, func: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        unsafe extern "C" fn run(arg: *mut c_void) {
            // SAFETY: `arg` came from Box::into_raw below and is run once.
            let func = unsafe { Box::from_raw(arg.cast::<Box<dyn FnOnce() + Send>>()) };
            if let Err(text) = shim::guarded(func) {
                crate::error!("panic in deferred work: {text}");
            }
        }
        let func: Box<dyn FnOnce() + Send> = Box::new(func);
        let arg = Box::into_raw(Box::new(func));
        // SAFETY: `run` takes what `arg` is, once.
        if unsafe { (self.0.work)(run, arg.cast()) } == 0 {
            return Ok(());
        }
        // SAFETY: refused, so `run` is never called and the box is still ours.
        drop(unsafe { Box::from_raw(arg) });
        Err("the work queue is full".into())
    }

    /// Packets that match `key` go to the `input` of interface `ifindex` for as long as what this returns lives.
    pub fn encap_attach(&self, ifindex: u32, key: EncapKey) -> Result<Attachment, Error> {
        let raw = key.raw();
        // SAFETY: `raw` lives through the call.
        match unsafe { (self.0.encap_attach)(ifindex, &raw) } {
            0 => Ok(Attachment { host: self.0, what: Attached::Encap(ifindex, raw) }),
            _ => Err(Error::new(format!("another interface takes {key:?} already"))),
        }
    }

    /// Frames of `parent` with the 802.1Q id `vid` (1 to 4094) go to the `input` of `ifindex`, as in `encap_attach`.
    pub fn vlan_attach(&self, parent: u32, vid: u16, ifindex: u32) -> Result<Attachment, Error> {
        // SAFETY: plain numbers.
        match unsafe { (self.0.vlan_attach)(parent, u32::from(vid), ifindex) } {
            0 => Ok(Attachment { host: self.0, what: Attached::Vlan(parent, u32::from(vid), ifindex) }),
            _ => Err(Error::new(format!("vlan {vid} of that interface cannot be taken: in use, or no such id"))),
        }
    }

    /// Frames of `parent` with this EtherType go to the `input` of `ifindex`, as in `encap_attach`.
    pub fn ether_attach(&self, parent: u32, ether_type: u16, ifindex: u32) -> Result<Attachment, Error> {
        // SAFETY: plain numbers.
        match unsafe { (self.0.ether_attach)(parent, u32::from(ether_type), ifindex) } {
            0 => Ok(Attachment { host: self.0, what: Attached::Ether(parent, u32::from(ether_type), ifindex) }),
            _ => Err(Error::new(format!("EtherType {ether_type:#06x} of that interface is in use"))),
        }
    }

    /// A sysctl node (`hw.null0.burst`) for as long as what this returns lives. `set` says why a value is refused.
    pub fn sysctl(
        &self,
        path: &str,
        get: impl Fn() -> u64 + Send + Sync + 'static,
        set: Option<SysctlSet>,
    ) -> Result<SysctlNode, Error> {
        unsafe extern "C" fn getter(arg: *mut c_void) -> u64 {
            // SAFETY: the node lives until sysctl_remove has returned.
            let node = unsafe { &*arg.cast::<NodeFns>() };
            shim::guarded(|| (node.get)()).unwrap_or(0)
        }
        unsafe extern "C" fn setter(arg: *mut c_void, value: u64) -> i32 {
            // SAFETY: as above.
            let node = unsafe { &*arg.cast::<NodeFns>() };
            match shim::guarded(|| node.set.as_ref().map(|set| set(value))) {
                Ok(Some(Ok(()))) => 0,
                Ok(Some(Err(e))) => {
                    crate::warn!("sysctl: {e}");
                    -1
                }
                _ => -1,
            }
        }
        let writable = set.is_some();
        let fns = Box::into_raw(Box::new(NodeFns { get: Box::new(get), set }));
        let set_fn = writable.then_some(setter as unsafe extern "C" fn(*mut c_void, u64) -> i32);
        // SAFETY: `fns` lives until sysctl_remove has returned.
        if unsafe { (self.0.sysctl)(Text::new(path), getter, set_fn, fns.cast()) } == 0 {
            return Ok(SysctlNode { host: self.0, path: path.to_owned(), fns });
        }
        // SAFETY: refused, so nobody else has it.
        drop(unsafe { Box::from_raw(fns) });
        Err(Error::new(format!("sysctl {path}: the name is taken")))
    }

    /// Gives packets back on a control thread.
    pub fn free(&self, packets: Burst) {
        drop(packets);
    }
}

/// Sets a sysctl node's value, or says why not.
pub type SysctlSet = Box<dyn Fn(u64) -> Result<(), Error> + Send + Sync>;

type CalloutBox = Box<dyn FnOnce(&mut Worker<'_>) + Send>;

/// A callout that was scheduled.
pub struct Callout {
    host: &'static HostServices,
    id: u64,
    arg: *mut CalloutBox,
}

// SAFETY: the box is Send, and touched only by whoever the host says has it.
unsafe impl Send for Callout {}
// SAFETY: no function takes `&self`.
unsafe impl Sync for Callout {}

impl Callout {
    /// Stops it. False when it ran or is running.
    pub fn stop(self) -> bool {
        // SAFETY: an id of the host's.
        let stopped = unsafe { (self.host.callout_stop)(self.id) } == 0;
        if stopped {
            // SAFETY: the host will not run it, so the box is ours again.
            drop(unsafe { Box::from_raw(self.arg) });
        }
        stopped
    }
}

/// Which encapsulated packets an interface takes, by their outer header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EncapKey {
    /// Protocol number in the outer header: 4 for IPv4 in IP.
    pub protocol: u8,
    /// Outer source of packets that come in, the far end; an unspecified address matches any.
    pub remote: IpAddr,
    /// Outer destination of packets that come in, our end; an unspecified address matches any.
    pub local: IpAddr,
}

impl EncapKey {
    /// A key for outer IPv4 headers.
    pub fn ipv4(protocol: u8, local: Ipv4Addr, remote: Ipv4Addr) -> Self {
        EncapKey { protocol, local: local.into(), remote: remote.into() }
    }

    fn raw(&self) -> smpnet_abi::EncapKey {
        let bytes = |a: IpAddr| match a {
            IpAddr::V4(a) => {
                let mut b = [0; 16];
                b[..4].copy_from_slice(&a.octets());
                b
            }
            IpAddr::V6(a) => a.octets(),
        };
        let version = if self.local.is_ipv4() && self.remote.is_ipv4() { 4 } else { 6 };
        smpnet_abi::EncapKey {
            version,
            protocol: self.protocol,
            _pad: 0,
            remote: bytes(self.remote),
            local: bytes(self.local),
        }
    }
}

/// Packets of some sort go to an interface's `input` until this is dropped; when the drop is done, no worker is in
/// `input` for it. Drop it on a control thread.
#[must_use = "dropping it detaches"]
pub struct Attachment {
    host: &'static HostServices,
    what: Attached,
}

enum Attached {
    Encap(u32, smpnet_abi::EncapKey),
    Vlan(u32, u32, u32),
    Ether(u32, u32, u32),
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // SAFETY: plain numbers, and a key that lives through the call.
        unsafe {
            match &self.what {
                Attached::Encap(ifindex, key) => (self.host.encap_detach)(*ifindex, key),
                Attached::Vlan(parent, vid, ifindex) => (self.host.vlan_detach)(*parent, *vid, *ifindex),
                Attached::Ether(parent, ty, ifindex) => (self.host.ether_detach)(*parent, *ty, *ifindex),
            }
        };
    }
}

struct NodeFns {
    get: Box<dyn Fn() -> u64 + Send + Sync>,
    set: Option<SysctlSet>,
}

/// A sysctl node that is there until this is dropped.
#[must_use = "dropping it removes the node"]
pub struct SysctlNode {
    host: &'static HostServices,
    path: String,
    fns: *mut NodeFns,
}

// SAFETY: the functions are Send and Sync.
unsafe impl Send for SysctlNode {}
// SAFETY: as above.
unsafe impl Sync for SysctlNode {}

impl Drop for SysctlNode {
    fn drop(&mut self) {
        // SAFETY: the text lives through the call; when it returns, the functions do not run and nobody else has them.
        unsafe {
            (self.host.sysctl_remove)(Text::new(&self.path));
            drop(Box::from_raw(self.fns));
        }
    }
}
