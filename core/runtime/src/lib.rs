//! The small core of smpnet: what NetBSD's kernel gives its network stack, in user space.
//!
//! | here | NetBSD | for |
//! |---|---|---|
//! | [`Runtime`], [`Poller`], [`WorkerCx`] | autoconf, lwp(9) | one pinned thread per CPU, which does all of a packet's way |
//! | [`Pool`], [`Packet`], [`Burst`] | mbuf(9) | packet memory in a sealed memfd, with a cache per worker |
//! | [`PerCpu`], [`Counters`] | percpu(9) | what belongs to one worker |
//! | [`Domain`], [`Section`], [`Published`] | pserialize(9) | reading what others change, without cost |
//! | [`Pslist`], [`PsHash`] | pslist(9), hashstat | lists and tables of it |
//! | [`PsrefTarget`], [`Psref`] | psref(9) | holding an object for longer |
//! | [`PktQueue`] | pktqueue(9) | handing packets to another worker |
//! | [`byte_ring`] | bpf(4)'s buffers | copies of packets on their way to a control thread |
//! | [`SoftintLevel`], [`CalloutId`], [`Workqueue`] | softint(9), callout(9), workqueue(9) | doing it later, at a time, or where it may sleep |
//! | [`PfilHead`], [`PfilHook`] | pfil(9) | packet filters |
//! | [`Sysctl`] | sysctl(9) | every number by its name |
//!
//! # A worker's round
//!
//! ```text
//!  +-> mailbox -> pollers (receive a burst, carry it the whole way) -> packet queues -> softints -> callouts --+
//!  |                                                                                                           |
//!  +------------------------------------ quiescent point <-----------------------------------------------------+
//!        nothing to do for a while: arm the pollers, look once more, sleep in epoll until an event or a callout
//! ```
//!
//! # Threads
//!
//! *Workers* run rounds and never wait; a [`Cpu`] proves that one is there. *Control threads* are all others; they change
//! what workers read and wait for grace periods. A function says so when it is for only one of the two. Locks are taken by
//! control threads only, each lock is held over a few statements of this crate (a barrier and a resize of a queue, and the
//! function given to [`Published::update`], are the exceptions), and no lock of this crate is taken under another one but
//! by these.
//!
//! # Proofs
//!
//! The lock-free parts are written against the module `sync`, which is loom's under `--cfg loom`; then the parts that loom
//! does not explore are left out of the crate:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p smpnet-runtime --release \
//!     --test loom_pserialize --test loom_pslist --test loom_psref --test loom_pktqueue --test loom_byte_ring
//! cargo +nightly miri test -p smpnet-runtime --lib
//! ```
//!
//! # Example
//!
//! ```
//! use smpnet_runtime::{PoolConfig, Runtime, RuntimeConfig};
//!
//! let pool = PoolConfig { cells: 1024, ..PoolConfig::default() };
//! let runtime = Runtime::start(RuntimeConfig { cpus: vec![None; 2], pool, ..RuntimeConfig::default() })?;
//! let len = runtime.run_on_wait(1, |cx| {
//!     let mut cells = [0; 1];
//!     cx.pool.alloc(cx.cpu, &mut cells);
//!     let mut packet = cx.pool.packet(cells[0]);
//!     packet.set_data(b"hello");
//!     let len = packet.len();
//!     cx.pool.free(cx.cpu, &cells);
//!     len
//! });
//! assert_eq!(len, Some(5));
//! assert_eq!(runtime.stop().cells_in_use, 0);
//! # Ok::<(), smpnet_runtime::RuntimeError>(())
//! ```

mod byte_ring;
#[cfg(not(loom))]
mod callout;
#[cfg(not(loom))]
mod clock;
mod counters;
mod cpu;
#[cfg(not(loom))]
mod huge;
mod percpu;
#[cfg(not(loom))]
mod pfil;
mod pktqueue;
#[cfg(not(loom))]
mod pool;
mod prefetch;
mod pserialize;
mod pshash;
mod pslist;
mod psref;
mod published;
#[cfg(not(loom))]
mod runtime;
#[cfg(not(loom))]
mod softint;
mod sync;
#[cfg(not(loom))]
mod sysctl;
#[cfg(not(loom))]
mod sysctl_nodes;
#[cfg(not(loom))]
mod worker;
#[cfg(not(loom))]
mod workqueue;

pub use byte_ring::{Doorbell, RingGauge, RingReader, RingWriter, byte_ring};
pub use counters::Counters;
pub use cpu::{Cpu, MAX_WORKERS};
pub use percpu::PerCpu;
pub use pktqueue::{PktQueue, PktQueueStats};
pub use pserialize::{Domain, DomainStats, ReadGuard, Reader, Section};
pub use pshash::{HashStats, PsHash};
pub use pslist::{Iter, Pslist};
pub use psref::{Psref, PsrefControl, PsrefTarget};
pub use published::{Published, PublishedRef};

#[cfg(not(loom))]
pub use {
    callout::{CalloutFunc, CalloutId, Stopped},
    clock::now_ns,
    huge::prefer_huge_pages,
    pfil::{Dir, HookCx, HookId, Layer, PfilHead, PfilHook},
    pool::{BadPacket, Burst, Cells, Earlier, HugePages, Packet, Pool, PoolConfig, PoolError, PoolStats, Segments},
    prefetch::prefetch,
    runtime::{ManualWorker, Runtime, RuntimeConfig, RuntimeError, StopReport},
    softint::{SoftintFunc, SoftintId, SoftintLevel},
    sysctl::{Get, Node, Set, Sysctl, SysctlError, Value},
    worker::{PktQueueFunc, Poller, PollerId, WorkerCx, WorkerFunc},
    workqueue::{Work, Workqueue, WorkqueueFull, WorkqueueStats},
};
