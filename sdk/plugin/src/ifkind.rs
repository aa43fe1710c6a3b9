//! Interface kinds: interfaces made of software.

use crate::shim::{Health, host_of, making, options, say, text};
use crate::{Burst, DropReason, Error, Host, MacAddr, Worker, memory};
use serde::de::DeserializeOwned;
use smpnet_abi::{Cell, ErrBuf, FAILED, FAULT, HostServices, IfConfig, IfKindInfo, IfKindTable, OK, Text, if_type};
use std::ffi::c_void;

/// A kind of interface (a cloner), such as vlan or gif. One value is one interface.
///
/// `output` and `input` are called by workers, any number at once; the rest by control threads, one at a time per
/// interface, while workers are in the two.
pub trait IfKind: Sized + Send + Sync + 'static {
    /// Name of the kind; interfaces are named by it and a number.
    const NAME: &'static str;
    /// One line on what it is.
    const SUMMARY: &'static str;

    /// Makes an interface. On failure nothing stays behind.
    fn create(host: Host, req: &IfRequest<'_>) -> Result<(Self, IfDetails), Error>;

    /// Changes the interface to what `req` says, as a whole or, on failure, not at all.
    fn configure(&self, req: &IfRequest<'_>) -> Result<IfDetails, Error>;

    /// Ends the interface: no worker is in `output` or `input` any more. The value is dropped afterwards.
    fn destroy(&self) {}

    /// Sends packets: frames or IP packets by [`IfDetails::if_type`]. Takes them all; what is left in the burst is
    /// dropped without a reason.
    fn output(&self, cx: &mut Worker<'_>, burst: &mut Burst);

    /// Takes packets that a demultiplexer found to be this interface's: they begin with the Ethernet header (vlan tag,
    /// EtherType) or with the outer IP header (encapsulation: `l3_off`, `l4_off` at the payload). What is left in the
    /// burst is dropped without a reason.
    fn input(&self, cx: &mut Worker<'_>, burst: &mut Burst);

    /// The state of the interface, for people: a JSON object.
    fn status(&self) -> serde_json::Value {
        serde_json::json!({})
    }
}

/// How the router asks for an interface.
pub struct IfRequest<'a> {
    /// Name of the interface.
    pub name: &'a str,
    /// Its index.
    pub ifindex: u32,
    /// The kind's own options: a JSON object.
    pub options: serde_json::Value,
    /// Workers of this router.
    pub workers: usize,
    /// MTU wished for; 0 for the kind's own.
    pub mtu: u32,
}

impl IfRequest<'_> {
    /// The options as a type of the kind's (with `#[serde(deny_unknown_fields)]`, so that a typing error is one).
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_value(self.options.clone()).map_err(|e| Error::from(e).context("options"))
    }
}

/// What the packets of an interface begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum IfType {
    /// An Ethernet header.
    Ether = if_type::ETHER,
    /// An IP header.
    RawIp = if_type::RAW_IP,
}

/// What the router should know of an interface.
#[derive(Clone, Debug)]
pub struct IfDetails {
    /// What its packets begin with.
    pub if_type: IfType,
    /// MTU in force.
    pub mtu: u32,
    /// Smallest MTU that `configure` takes.
    pub mtu_min: u32,
    /// Largest MTU that `configure` takes.
    pub mtu_max: u32,
    /// Bits of [`crate::offload`] that it can do.
    pub offloads: u32,
    /// Interface that carries this one and whose link state it follows; 0 for none.
    pub parent: u32,
    /// Address of an Ethernet interface; zero lets the router choose.
    pub mac: MacAddr,
}

impl IfDetails {
    /// An interface of that type and MTU (smallest 68, largest 65535), without offloads, parent and address.
    pub fn new(if_type: IfType, mtu: u32) -> Self {
        IfDetails { if_type, mtu, mtu_min: 68, mtu_max: 65535, offloads: 0, parent: 0, mac: MacAddr::default() }
    }

    fn raw(&self, handle: *mut c_void) -> IfKindInfo {
        IfKindInfo {
            size: size_of::<IfKindInfo>() as u32,
            if_type: self.if_type as u32,
            handle,
            mtu: self.mtu,
            mtu_min: self.mtu_min,
            mtu_max: self.mtu_max,
            offloads: self.offloads,
            parent: self.parent,
            mac: self.mac,
            _pad: 0,
        }
    }
}

struct Handle<K> {
    kind: K,
    ifindex: u32,
    health: Health,
}

/// The table of a kind.
pub const fn table<K: IfKind>() -> &'static IfKindTable {
    const {
        &IfKindTable {
            size: size_of::<IfKindTable>() as u32,
            flags: 0,
            name: Text::new(K::NAME),
            summary: Text::new(K::SUMMARY),
            create: create::<K>,
            destroy: destroy::<K>,
            configure: configure::<K>,
            output: output::<K>,
            input: input::<K>,
            status: status::<K>,
        }
    }
}

/// # Safety
/// `config` is valid for `'a`.
unsafe fn request<'a>(config: &'a IfConfig) -> Result<IfRequest<'a>, Error> {
    // SAFETY: the caller's word.
    let (name, options) = unsafe { (text(config.name)?, options(config.options)?) };
    Ok(IfRequest { name, ifindex: config.ifindex, options, workers: config.workers as usize, mtu: config.mtu })
}

unsafe extern "C" fn create<K: IfKind>(
    host: *const HostServices,
    config: *const IfConfig,
    out: *mut IfKindInfo,
    err: *mut ErrBuf,
) -> i32 {
    making("create", err, || {
        // SAFETY: the host passes its table, a configuration and a place for the answer, all valid during the call.
        let (host, req, out) = unsafe { (host_of(host)?, request(&*config)?, &mut *out) };
        let (kind, details) = K::create(host, &req)?;
        let handle = Box::new(Handle { kind, ifindex: req.ifindex, health: Health::default() });
        *out = details.raw(Box::into_raw(handle).cast());
        Ok(())
    })
}

unsafe extern "C" fn destroy<K: IfKind>(handle: *mut c_void) -> i32 {
    // SAFETY: made by `create`; the host gives it up, and no worker is in it.
    let Handle { kind, ifindex, .. } = *unsafe { Box::from_raw(handle.cast::<Handle<K>>()) };
    let ended = Health::default().run(ifindex, "destroy", || kind.destroy());
    let dropped = Health::default().run(ifindex, "destroy", || drop(kind));
    if ended.and(dropped).is_some() { OK } else { FAILED }
}

/// # Safety
/// `p` was made by `create::<K>` and not destroyed.
#[inline]
unsafe fn handle<'a, K: IfKind>(p: *mut c_void) -> &'a Handle<K> {
    // SAFETY: the caller's word.
    unsafe { &*p.cast::<Handle<K>>() }
}

unsafe extern "C" fn configure<K: IfKind>(
    p: *mut c_void,
    config: *const IfConfig,
    out: *mut IfKindInfo,
    err: *mut ErrBuf,
) -> i32 {
    // SAFETY: a handle of `create`, by the ABI.
    let h = unsafe { handle::<K>(p) };
    h.health.control(h.ifindex, "configure", err, || {
        // SAFETY: the host passes a configuration and a place for the answer, valid during the call.
        let (req, out) = unsafe { (request(&*config)?, &mut *out) };
        *out = h.kind.configure(&req)?.raw(p);
        Ok(())
    })
}

unsafe extern "C" fn output<K: IfKind>(p: *mut c_void, worker: u32, cells: *const Cell, n: u32) -> i32 {
    // SAFETY: a handle of `create` and n cells that become ours, on that worker, by the ABI.
    unsafe { carry(handle::<K>(p), worker, cells, n, "output", K::output) }
}

unsafe extern "C" fn input<K: IfKind>(p: *mut c_void, worker: u32, cells: *const Cell, n: u32) -> i32 {
    // SAFETY: as in `output`.
    unsafe { carry(handle::<K>(p), worker, cells, n, "input", K::input) }
}

/// # Safety
/// `n` cells that the caller gives up, on worker `worker`.
#[inline]
unsafe fn carry<K: IfKind>(
    h: &Handle<K>,
    worker: u32,
    cells: *const Cell,
    n: u32,
    what: &str,
    f: fn(&K, &mut Worker<'_>, &mut Burst),
) -> i32 {
    if n == 0 {
        return OK;
    }
    let Some(host) = memory::host() else { return FAULT };
    // SAFETY: the caller's word.
    let (mut burst, mut cx) =
        unsafe { (Burst::from_cells(std::slice::from_raw_parts(cells, n as usize)), Worker::new(host, worker)) };
    let done = h.health.run(h.ifindex, what, || f(&h.kind, &mut cx, &mut burst));
    let reason = if done.is_some() { DropReason::Unspecified } else { DropReason::PluginFault };
    cx.drop_packets(h.ifindex, reason, &mut burst);
    if done.is_some() { OK } else { FAULT }
}

unsafe extern "C" fn status<K: IfKind>(p: *mut c_void, out: *mut ErrBuf) -> i32 {
    // SAFETY: a handle of `create`, by the ABI.
    let h = unsafe { handle::<K>(p) };
    match h.health.run(h.ifindex, "status", || h.kind.status().to_string()) {
        Some(json) => {
            say(out, &json);
            OK
        }
        None => FAILED,
    }
}
