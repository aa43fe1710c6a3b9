//! Workers as seen by the data they own.

use std::marker::PhantomData;

/// Most workers that a runtime has.
pub const MAX_WORKERS: usize = 64;

/// Proof that the calling thread is worker `index`. It cannot leave the thread, so whoever holds one may touch what
/// belongs to that worker without any lock.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    index: u32,
    _not_send: PhantomData<*const ()>,
}

impl Cpu {
    /// Claims to be worker `index`.
    ///
    /// # Safety
    /// As long as the token is used, no other thread holds a token of the same index towards the same objects (pool,
    /// counters, queues, domain), and in the [`Domain`](crate::Domain) of those objects this worker is not parked.
    pub const unsafe fn assume(index: u32) -> Cpu {
        Cpu { index, _not_send: PhantomData }
    }

    /// Index of the worker, below the number of workers.
    #[inline(always)]
    pub const fn index(self) -> usize {
        self.index as usize
    }
}
