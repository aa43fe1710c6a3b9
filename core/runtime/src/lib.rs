//! The small core: workers, softint, pserialize, psref, pslist, pktqueue, callout, counters, packet pool, pfil.

#[cfg(not(loom))]
mod callout;
#[cfg(not(loom))]
mod clock;
mod counters;
mod cpu;
mod percpu;
#[cfg(not(loom))]
mod pfil;
mod pktqueue;
#[cfg(not(loom))]
mod pool;
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
    pfil::{Dir, HookCx, HookId, Layer, PfilHead, PfilHook},
    pool::{BadPacket, Burst, HugePages, Packet, Pool, PoolConfig, PoolError, PoolStats, Segments},
    runtime::{ManualWorker, Runtime, RuntimeConfig, RuntimeError, StopReport},
    softint::{SoftintFunc, SoftintId, SoftintLevel},
    sysctl::{Get, Node, Set, Sysctl, SysctlError, Value},
    worker::{PktQueueFunc, Poller, PollerId, WorkerCx, WorkerFunc},
    workqueue::{Work, Workqueue, WorkqueueFull, WorkqueueStats},
};
