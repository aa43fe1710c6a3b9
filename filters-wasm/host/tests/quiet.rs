//! Judging packets allocates nothing and makes no system call: proved with an allocator that counts, and in a process to
//! which seccomp leaves nothing but exit.

use smpnet_abi::{Cell, PoolDesc, verdict};
use smpnet_runtime::{Cpu, Pool, PoolConfig};
use smpnet_wasm::{
    Action, Asked, Attach, AttachPoint, Capabilities, Filter, FilterManager, FilterSpec, ModuleSpec, Source, TableKey,
    TableKind,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell as Local;
use std::sync::{Arc, Mutex, PoisonError};

thread_local! {
    static ALLOCATIONS: Local<u64> = const { Local::new(0) };
}

struct Counting;

// SAFETY: everything is passed on to the system's allocator; the counter allocates nothing itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One worker, no hooks: the test judges itself.
struct Bench {
    pool: Pool,
    filter: Mutex<Option<Arc<Filter>>>,
}

impl Attach for Bench {
    fn pool(&self) -> PoolDesc {
        *self.pool.desc()
    }

    fn workers(&self) -> usize {
        1
    }

    fn warm_up(&self) {}

    fn synchronize(&self) {}

    fn attach(&self, _: &AttachPoint, filter: Arc<Filter>) -> Result<u64, String> {
        *self.filter.lock().unwrap_or_else(PoisonError::into_inner) = Some(filter);
        Ok(0)
    }

    fn detach(&self, _: u64) {}
}

fn udp(port: u16) -> Vec<u8> {
    let mut p = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 9];
    p.extend_from_slice(&port.to_be_bytes());
    p.extend_from_slice(&[0, 8, 0, 0]);
    p
}

#[test]
fn judging_packets_allocates_nothing_and_makes_no_system_call() {
    let pool = Pool::new(&PoolConfig { cells: 4096, workers: 1, ..PoolConfig::default() }).unwrap();
    let bench = Arc::new(Bench { pool, filter: Mutex::default() });
    let mut cells = [0; 64];
    // SAFETY: the only thread that uses the pool.
    let cpu = unsafe { Cpu::assume(0) };
    assert_eq!(bench.pool.alloc(cpu, &mut cells), 64);
    for (i, &cell) in cells.iter().enumerate() {
        assert!(bench.pool.packet(cell).set_data(&udp(5000 + (i % 2) as u16)));
    }
    // The last packet lies in two cells, which is the interpreter's way.
    let tail = bench.pool.packet(cells[63]);
    assert!(bench.pool.packet(cells[62]).append(tail));
    let packets = &cells[..63];

    let manager = FilterManager::new(bench.clone()).unwrap();
    let port = |n: u16| Source::Expr(format!("udp port {n}"));
    manager.load(FilterSpec::new("f", port(5000), Action::Drop)).unwrap();
    let filter = bench.filter.lock().unwrap().clone().unwrap();
    let mut verdicts = [verdict::PASS; 63];
    judge(&filter, packets, &mut verdicts);
    assert_eq!(verdicts.iter().sum::<u32>(), 32);
    // Taking over a new generation is a part of it.
    manager.swap("f", port(5001), None).unwrap();

    stays_quiet(&filter, packets, 31);

    // A module of somebody else, which looks into a table for every packet.
    let tables = manager.tables();
    tables.create("ports", TableKind::Exact, None).unwrap();
    tables.insert("ports", &[(TableKey::Exact(5001u16.to_be_bytes().into()), 1)]).unwrap();
    let module = || {
        let wasm = wat::parse_str(MODULE).unwrap();
        Source::Module(ModuleSpec { allow: Capabilities::all(), ..ModuleSpec::new(wasm) })
    };
    manager.load(FilterSpec::new("module", module(), Action::Drop)).unwrap();
    let filter = bench.filter.lock().unwrap().clone().unwrap();
    judge(&filter, packets, &mut verdicts);
    assert_eq!(verdicts.iter().sum::<u32>(), 31);
    manager.swap("module", module(), None).unwrap();
    tables.replace("ports", &[(TableKey::Exact(5000u16.to_be_bytes().into()), 1)]).unwrap();
    // The clock that watches modules sleeps while there are none; the first burst wakes it, and that is the only system call.
    judge(&filter, packets, &mut verdicts);
    stays_quiet(&filter, packets, 32);
}

/// Drops the packets whose destination port is in the table.
const MODULE: &str = r#"(module
  (import "smpnet" "table_exact" (func $exact (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "smpnet_ring") (result i32) (i32.const 1024))
  (func (export "smpnet_filter") (param $n i32) (result i32) (local $i i32)
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
        (i32.store16 (i32.const 16) (i32.const 2))
        (i32.store16 (i32.const 18)
          (i32.load16_u offset=22 (i32.load offset=1088 (i32.mul (local.get $i) (i32.const 32)))))
        (i32.store offset=3136 (i32.mul (local.get $i) (i32.const 8))
          (call $exact (i32.const 0) (i32.const 16) (i32.const 4) (i32.const 1) (i32.const 32)))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
    (local.get $n))
  (@custom "smpnet.filter" "{\"abi\":\"1.0\",\"name\":\"quiet\",\"capabilities\":[\"tables\"],\"tables\":[{\"name\":\"ports\",\"kind\":\"exact\"}]}"))"#;

/// Has a child judge the packets ten thousand times with nothing left of the system but exit; `drops` of them are dropped.
fn stays_quiet(filter: &Filter, packets: &[Cell], drops: u32) {
    let mut verdicts = [verdict::PASS; 63];
    // SAFETY: the child uses nothing that another thread may have held at the fork: it allocates nothing.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        leave_only_exit();
        let before = ALLOCATIONS.get();
        let mut bad = 0;
        for _ in 0..10_000 {
            judge(filter, packets, &mut verdicts);
            bad += i64::from(verdicts.iter().sum::<u32>() != drops);
        }
        let allocated = ALLOCATIONS.get() - before;
        let code = i64::from(allocated > 0) + 2 * i64::from(bad > 0);
        // SAFETY: ends this thread, the only one of the child.
        unsafe { libc::syscall(libc::SYS_exit, code) };
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(
        !libc::WIFSIGNALED(status),
        "killed by signal {}: it made a system call (or reading the clock does, on this machine)",
        libc::WTERMSIG(status)
    );
    assert_eq!(libc::WEXITSTATUS(status), 0, "1: it allocated, 2: wrong verdicts");
}

/// From here on every system call but exit kills the process. (The strict mode of seccomp would take the time stamp counter
/// away as well, which the clock needs.)
fn leave_only_exit() {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let insn = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let mut program = [
        insn(LOAD, 0, 0),
        insn(EQUAL, 1, libc::SYS_exit as u32),
        insn(RETURN, 0, libc::SECCOMP_RET_ALLOW),
        insn(RETURN, 0, libc::SECCOMP_RET_KILL_PROCESS),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program outlives the call, which copies it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program), 0);
    }
}

fn judge(filter: &Filter, cells: &[Cell], verdicts: &mut [u32]) {
    verdicts.fill(verdict::PASS);
    let asked = Asked { worker: 0, out: false, ifindex: 1, layer: smpnet_filter_abi::layer::INET, now_ns: 0 };
    // SAFETY: the only thread that judges as worker 0, and the owner of the packets.
    unsafe { filter.judge(&asked, cells, verdicts) };
}
