//! A router for unit tests: a packet pool, and a record of what the code under test did with its packets.
//!
//! Everything but the pool is kept per thread, so tests that run side by side do not see each other.
//!
//! ```
//! use smpnet_plugin::{Burst, DropReason, testing};
//! let mut cx = testing::worker(0);
//! let mut burst = Burst::new();
//! burst.push(testing::packet(b"frame")).expect("there is room");
//! cx.if_input(7, burst);
//! assert_eq!(testing::inputs(7)[0].data(), b"frame");
//! cx.drop_packet(7, DropReason::IpTtl, testing::packet(b"old"));
//! assert_eq!(testing::drops(7), [DropReason::IpTtl]);
//! assert_eq!(testing::outstanding(), 0);
//! ```

use crate::filter::Judged;
use crate::{Burst, DropReason, Host, Packet, Worker, memory};
use smpnet_abi::*;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, OnceLock, PoisonError};

const CELLS: u32 = 4096;
const CELL_SIZE: u32 = 2112;
const DATA_OFF: u16 = 192;
/// Workers of the test router.
pub const WORKERS: u32 = 4;

#[derive(Default)]
struct Record {
    inputs: HashMap<u32, Vec<Packet>>,
    outputs: HashMap<u32, Vec<Packet>>,
    routed: Vec<Packet>,
    drops: HashMap<u32, Vec<DropReason>>,
    faults: HashMap<u32, Vec<String>>,
    interfaces: HashMap<u32, IfInfo>,
    attached: Vec<String>,
    callouts: Vec<(CalloutFn, *mut c_void, u32, u64)>,
    next_callout: u64,
    sysctls: HashMap<String, (SysctlGetFn, Option<SysctlSetFn>, *mut c_void)>,
    outstanding: i64,
}

thread_local! {
    static RECORD: RefCell<Record> = RefCell::default();
}

fn record<R>(f: impl FnOnce(&mut Record) -> R) -> R {
    RECORD.with(|r| f(&mut r.borrow_mut()))
}

static FREE: Mutex<Vec<Cell>> = Mutex::new(Vec::new());

/// Memory for the pool, and the bytes of its pages.
static MEMORY: OnceLock<(usize, u32)> = OnceLock::new();

/// Puts the test router's pool into memory of the caller's, made of pages of `page_size` bytes: for drivers to which it
/// matters what the pool is made of. To be called before anything else here; false, and nothing is changed, when that is
/// too late or `memory` too small (9 MiB are enough).
pub fn pool_in(memory: &'static mut [u8], page_size: u32) -> bool {
    let fits = memory.len() >= CELLS as usize * CELL_SIZE as usize && (memory.as_ptr() as usize).is_multiple_of(4096);
    fits && memory::host().is_none() && MEMORY.set((memory.as_mut_ptr() as usize, page_size)).is_ok()
}

/// The test router's services.
pub fn host() -> Host {
    Host::new(services())
}

/// The test router's services as the ABI has them: for code that loads plugins.
pub fn services() -> &'static HostServices {
    static TABLE: OnceLock<&'static HostServices> = OnceLock::new();
    TABLE.get_or_init(|| {
        let table: &'static HostServices = Box::leak(Box::new(make_table()));
        *FREE.lock().unwrap_or_else(PoisonError::into_inner) = (0..CELLS).collect();
        // The table's functions find the pool where this copy of the SDK keeps it.
        memory::install(table);
        table
    })
}

/// The test router's worker `index`, on this thread.
pub fn worker(index: u32) -> Worker<'static> {
    host();
    // SAFETY: the test's thread stands for that worker; nothing here is shared by workers but the pool behind a mutex.
    unsafe { Worker::new(memory::host().expect("it was installed by host()"), index) }
}

/// A packet of these bytes (at most about 1800).
pub fn packet(bytes: &[u8]) -> Packet {
    let mut packet = host().alloc().expect("the test pool is empty: packets leak");
    assert!(packet.set_data(bytes), "{} bytes do not fit a cell", bytes.len());
    packet
}

/// What a filter said of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It is dropped.
    Drop,
    /// The filter took it.
    Taken,
}

/// Asks a filter about packets on worker `index`, as the router does, and returns what it said of each. Those that pass
/// stay in the burst.
///
/// ```
/// use smpnet_plugin::{Burst, testing};
/// let mut burst = Burst::new();
/// for text in ["a", "b"] {
///     burst.push(testing::packet(text.as_bytes())).expect("there is room");
/// }
/// // In a test of a filter: `testing::judge(0, &mut burst, |cx, packets| filter.filter(cx, 1, Direction::In, packets))`.
/// let said = testing::judge(0, &mut burst, |_cx, packets| packets.drop(0));
/// assert_eq!(said, [testing::Verdict::Drop, testing::Verdict::Pass]);
/// assert_eq!((burst.len(), burst.iter().next().unwrap().data()), (1, &b"b"[..]));
/// ```
pub fn judge(index: u32, burst: &mut Burst, ask: impl FnOnce(&mut Worker<'_>, &mut Judged<'_>)) -> Vec<Verdict> {
    let cells = burst.as_cells().to_vec();
    burst.forget();
    let mut said = vec![verdict::PASS; cells.len()];
    // SAFETY: the packets were the burst's and are nobody's until they are put back below.
    ask(&mut worker(index), &mut unsafe { Judged::new(&cells, &mut said) });
    let of = |(cell, said): (Cell, u32)| {
        if said == verdict::CONSUMED {
            return Verdict::Taken;
        }
        // SAFETY: as above, and it was not taken.
        let packet = unsafe { Packet::from_cell(cell) };
        match said {
            verdict::PASS => {
                burst.push(packet).expect("it came out of this burst");
                Verdict::Pass
            }
            _ => Verdict::Drop,
        }
    };
    cells.into_iter().zip(said).map(of).collect()
}

/// Takes what was given to `if_input` for an interface, on this thread.
pub fn inputs(ifindex: u32) -> Vec<Packet> {
    record(|r| r.inputs.remove(&ifindex)).unwrap_or_default()
}

/// Takes what was given to `if_output` for an interface, on this thread.
pub fn outputs(ifindex: u32) -> Vec<Packet> {
    record(|r| r.outputs.remove(&ifindex)).unwrap_or_default()
}

/// Takes what was given to `ip_output`, on this thread.
pub fn routed() -> Vec<Packet> {
    record(|r| std::mem::take(&mut r.routed))
}

/// Takes the reasons of the packets that were dropped against an interface, on this thread.
pub fn drops(ifindex: u32) -> Vec<DropReason> {
    record(|r| r.drops.remove(&ifindex)).unwrap_or_default()
}

/// Takes the faults that were reported of an interface, on this thread.
pub fn faults(ifindex: u32) -> Vec<String> {
    record(|r| r.faults.remove(&ifindex)).unwrap_or_default()
}

/// What is attached on this thread, one text each (`vlan 3 100 -> 7`, `encap 7 proto 4`, `ether 3 0x8863 -> 7`).
pub fn attachments() -> Vec<String> {
    record(|r| r.attached.clone())
}

/// Makes an interface known to `if_lookup` and `if_info` of this thread: up and running, Ethernet, MTU 1500.
pub fn add_interface(ifindex: u32, name: &str) {
    let mut text = [0; 16];
    text[..name.len()].copy_from_slice(name.as_bytes());
    let info = IfInfo {
        size: size_of::<IfInfo>() as u32,
        ifindex,
        if_type: if_type::ETHER,
        flags: if_flags::UP | if_flags::RUNNING,
        mtu: 1500,
        offloads: 0,
        mac: MacAddr { bytes: [2, 0, 0, 0, 0, ifindex as u8] },
        _pad: 0,
        name: text,
    };
    record(|r| r.interfaces.insert(ifindex, info));
}

/// Packets taken from the pool by this thread and not given back by it. 0 at the end of a test, or something leaks.
pub fn outstanding() -> i64 {
    record(|r| r.outstanding)
}

/// Runs the callouts that are due at once on this thread, whatever their delay, and returns how many.
pub fn run_callouts() -> usize {
    let due = record(|r| std::mem::take(&mut r.callouts));
    for (func, arg, worker, _) in &due {
        // SAFETY: registered by Host::callout and run once.
        unsafe { func(*arg, *worker) };
    }
    due.len()
}

/// Memory as a router's pool has it: a memfd that nobody can make smaller or larger, mapped here for good.
fn pool_memory(bytes: usize) -> (*mut u8, i32) {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the name is NUL-terminated, and a fresh mapping at an address of the kernel's choice disturbs nothing; each
    // result is checked.
    unsafe {
        let fd = libc::memfd_create(c"smpnet-test-pool".as_ptr(), flags);
        assert!(fd >= 0 && libc::ftruncate(fd, bytes as i64) == 0, "no memory for the test pool");
        assert!(libc::fcntl(fd, libc::F_ADD_SEALS, seals) == 0, "the test pool cannot be sealed");
        let base = libc::mmap(std::ptr::null_mut(), bytes, access, libc::MAP_SHARED, fd, 0);
        assert!(base != libc::MAP_FAILED, "the test pool cannot be mapped");
        (base.cast(), fd)
    }
}

fn make_table() -> HostServices {
    let (base, fd, page_size) = match MEMORY.get() {
        Some((base, page_size)) => (*base as *mut u8, -1, *page_size),
        None => {
            let (base, fd) = pool_memory(CELLS as usize * CELL_SIZE as usize);
            (base, fd, 4096)
        }
    };
    let pool = Box::leak(Box::new(PoolDesc {
        size: size_of::<PoolDesc>() as u32,
        cell_size: CELL_SIZE,
        base,
        bytes: u64::from(CELLS) * u64::from(CELL_SIZE),
        cells: CELLS,
        data_off: u32::from(DATA_OFF),
        fd,
        page_size,
    }));
    HostServices {
        size: size_of::<HostServices>() as u32,
        abi_major: ABI_MAJOR,
        abi_minor: ABI_MINOR,
        workers: WORKERS,
        _pad: 0,
        pool,
        pkt_alloc,
        pkt_free,
        pkt_drop,
        if_input,
        if_output,
        ip_output,
        now_ns,
        callout,
        callout_stop,
        work,
        encap_attach,
        encap_detach,
        vlan_attach,
        vlan_detach,
        ether_attach,
        ether_detach,
        if_lookup,
        if_info: if_info_of,
        link_event,
        fault,
        counter,
        sysctl,
        sysctl_remove,
        log,
    }
}

/// # Safety
/// `n` cells at `cells`.
unsafe fn list<'a>(cells: *const Cell, n: u32) -> &'a [Cell] {
    if n == 0 {
        return &[];
    }
    // SAFETY: the caller's word.
    unsafe { std::slice::from_raw_parts(cells, n as usize) }
}

/// # Safety
/// `n` cells at `cells`, which the caller gives up.
unsafe fn packets(cells: *const Cell, n: u32) -> impl Iterator<Item = Packet> {
    // SAFETY: the caller's word.
    unsafe { list(cells, n).iter().map(|c| Packet::from_cell(*c)) }
}

unsafe extern "C" fn pkt_alloc(_worker: u32, cells: *mut Cell, n: u32) -> u32 {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut got = 0;
    while got < n
        && let Some(cell) = free.pop()
    {
        // SAFETY: a cell that nobody owns, and room for n.
        unsafe {
            *memory::cell_ptr(cell) = PktHdr::empty(DATA_OFF);
            cells.add(got as usize).write(cell);
        }
        got += 1;
    }
    record(|r| r.outstanding += i64::from(got));
    got
}

unsafe extern "C" fn pkt_free(_worker: u32, cells: *const Cell, n: u32) {
    let mut freed = 0;
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: n cells that the caller gives up, each the first of a chain.
    for first in unsafe { list(cells, n) } {
        let mut cell = *first;
        while cell != CELL_NONE {
            assert!(!free.contains(&cell), "cell {cell} is given back twice");
            free.push(cell);
            freed += 1;
            // SAFETY: as above.
            cell = unsafe { (*memory::cell_ptr(cell)).next };
        }
    }
    // The thread's record may be gone when a thread ends with packets in it.
    let _ = RECORD.try_with(|r| {
        if let Ok(mut r) = r.try_borrow_mut() {
            r.outstanding -= freed;
        }
    });
}

unsafe extern "C" fn pkt_drop(worker: u32, ifindex: u32, reason: u32, cells: *const Cell, n: u32) {
    let reason = DropReason::from_code(reason);
    record(|r| r.drops.entry(ifindex).or_default().extend((0..n).map(|_| reason)));
    // SAFETY: as the caller's.
    unsafe { pkt_free(worker, cells, n) };
}

unsafe extern "C" fn if_input(_worker: u32, ifindex: u32, cells: *const Cell, n: u32) {
    // SAFETY: n cells that the caller gives up.
    record(|r| r.inputs.entry(ifindex).or_default().extend(unsafe { packets(cells, n) }));
}

unsafe extern "C" fn if_output(_worker: u32, ifindex: u32, cells: *const Cell, n: u32) {
    // SAFETY: n cells that the caller gives up.
    record(|r| r.outputs.entry(ifindex).or_default().extend(unsafe { packets(cells, n) }));
}

unsafe extern "C" fn ip_output(_worker: u32, cells: *const Cell, n: u32) {
    // SAFETY: n cells that the caller gives up.
    record(|r| r.routed.extend(unsafe { packets(cells, n) }));
}

unsafe extern "C" fn now_ns() -> u64 {
    static START: OnceLock<std::time::Instant> = OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_nanos() as u64 + 1
}

unsafe extern "C" fn callout(worker: u32, _delay_ns: u64, func: CalloutFn, arg: *mut c_void) -> u64 {
    if worker >= WORKERS {
        return 0;
    }
    record(|r| {
        r.next_callout += 1;
        r.callouts.push((func, arg, worker, r.next_callout));
        r.next_callout
    })
}

unsafe extern "C" fn callout_stop(id: u64) -> i32 {
    record(|r| match r.callouts.iter().position(|c| c.3 == id) {
        Some(i) => {
            r.callouts.remove(i);
            0
        }
        None => -1,
    })
}

unsafe extern "C" fn work(func: WorkFn, arg: *mut c_void) -> i32 {
    // SAFETY: registered by Host::work and run once.
    unsafe { func(arg) };
    0
}

fn attach(what: String) -> i32 {
    let key = |s: &str| s.split(" -> ").next().map(str::to_owned);
    record(|r| {
        if r.attached.iter().any(|a| key(a) == key(&what)) {
            return -1;
        }
        r.attached.push(what);
        0
    })
}

fn detach(what: &str) -> i32 {
    let _ = RECORD.try_with(|r| r.borrow_mut().attached.retain(|a| a != what));
    0
}

fn encap_text(ifindex: u32, key: &EncapKey) -> String {
    let v4 = |b: [u8; 16]| std::net::Ipv4Addr::new(b[0], b[1], b[2], b[3]);
    format!("encap proto {} local {} remote {} -> {ifindex}", key.protocol, v4(key.local), v4(key.remote))
}

unsafe extern "C" fn encap_attach(ifindex: u32, key: *const EncapKey) -> i32 {
    // SAFETY: the caller passes a key.
    attach(encap_text(ifindex, unsafe { &*key }))
}

unsafe extern "C" fn encap_detach(ifindex: u32, key: *const EncapKey) -> i32 {
    // SAFETY: the caller passes a key.
    detach(&encap_text(ifindex, unsafe { &*key }))
}

unsafe extern "C" fn vlan_attach(parent: u32, vid: u32, ifindex: u32) -> i32 {
    if !(1..=4094).contains(&vid) {
        return -1;
    }
    attach(format!("vlan {parent} {vid} -> {ifindex}"))
}

unsafe extern "C" fn vlan_detach(parent: u32, vid: u32, ifindex: u32) -> i32 {
    detach(&format!("vlan {parent} {vid} -> {ifindex}"))
}

unsafe extern "C" fn ether_attach(parent: u32, ether_type: u32, ifindex: u32) -> i32 {
    attach(format!("ether {parent} {ether_type:#06x} -> {ifindex}"))
}

unsafe extern "C" fn ether_detach(parent: u32, ether_type: u32, ifindex: u32) -> i32 {
    detach(&format!("ether {parent} {ether_type:#06x} -> {ifindex}"))
}

unsafe extern "C" fn if_lookup(name: Text) -> u32 {
    // SAFETY: the caller's text.
    let name = unsafe { name.to_str_lossy() };
    let is = |info: &IfInfo| info.name.split(|b| *b == 0).next() == Some(name.as_bytes());
    record(|r| r.interfaces.values().find(|i| is(i)).map_or(0, |i| i.ifindex))
}

unsafe extern "C" fn if_info_of(ifindex: u32, out: *mut IfInfo) -> i32 {
    match record(|r| r.interfaces.get(&ifindex).copied()) {
        Some(info) => {
            // SAFETY: the caller passes a place for the answer.
            unsafe { out.write(info) };
            0
        }
        None => -1,
    }
}

unsafe extern "C" fn link_event(_ifindex: u32, _link: *const LinkState) {}

unsafe extern "C" fn fault(ifindex: u32, what: Text) {
    // SAFETY: the caller's text.
    let what = unsafe { what.to_str_lossy() }.into_owned();
    record(|r| r.faults.entry(ifindex).or_default().push(what));
}

unsafe extern "C" fn counter(_desc: *const CounterDesc) -> i32 {
    0
}

unsafe extern "C" fn sysctl(path: Text, get: SysctlGetFn, set: Option<SysctlSetFn>, arg: *mut c_void) -> i32 {
    // SAFETY: the caller's text.
    let path = unsafe { path.to_str_lossy() }.into_owned();
    record(|r| match r.sysctls.contains_key(&path) {
        true => -1,
        false => {
            r.sysctls.insert(path, (get, set, arg));
            0
        }
    })
}

unsafe extern "C" fn sysctl_remove(path: Text) -> i32 {
    // SAFETY: the caller's text.
    let path = unsafe { path.to_str_lossy() }.into_owned();
    let _ = RECORD.try_with(|r| r.borrow_mut().sysctls.remove(&path));
    0
}

unsafe extern "C" fn log(level: u32, target: Text, message: Text) {
    // SAFETY: the caller's texts.
    let (target, message) = unsafe { (target.to_str_lossy(), message.to_str_lossy()) };
    println!("log {level} {target}: {message}");
}
