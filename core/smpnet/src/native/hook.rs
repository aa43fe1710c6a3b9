//! A native filter as a pfil hook: asks the plugin, and believes nothing that it says without a look.

use super::counts::Books;
use super::instance::Instance;
use crate::host;
use smpnet_abi::{Cell, DropReason, FAULT, OK, verdict};
use smpnet_runtime::{Cpu, HookCx, PfilHook, Pool};
use smpnet_stack::Stack;
use smpnet_wasm::OnFault;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// One in so many bursts has its time taken.
const SAMPLE: u64 = 64;

/// One generation of a native filter on its hooks.
pub(super) struct Hook {
    pub(super) name: String,
    pub(super) instance: Instance,
    pub(super) on_fault: OnFault,
    /// One for each worker; the next generation goes on with the same.
    pub(super) books: Arc<[Books]>,
    stack: Arc<Stack>,
    faulted: AtomicBool,
    reason: OnceLock<String>,
    /// Called once, by the worker that saw the first fault.
    bell: Box<dyn Fn() + Send + Sync>,
}

impl Hook {
    pub(super) fn new(
        name: String,
        instance: Instance,
        on_fault: OnFault,
        books: Arc<[Books]>,
        stack: Arc<Stack>,
        bell: Box<dyn Fn() + Send + Sync>,
    ) -> Hook {
        Hook { name, instance, on_fault, books, stack, faulted: AtomicBool::new(false), reason: OnceLock::new(), bell }
    }

    /// What it did wrong, if it is no longer asked.
    pub(super) fn fault(&self) -> Option<&str> {
        self.faulted.load(Ordering::Acquire).then(|| self.reason.get().map_or("it failed", String::as_str))
    }

    /// One call of the plugin. `Err` says what it did wrong; the verdicts are then its own still, where they are any.
    #[inline]
    pub(super) fn ask(
        &self,
        cpu: Cpu,
        ifindex: u32,
        dir: u32,
        cells: &[Cell],
        verdicts: &mut [u32],
    ) -> Result<(), String> {
        let worker = cpu.index() as u32;
        // SAFETY: the token proves that this thread is the worker, and who calls owns the packets. The instance is destroyed
        // only after no worker can be in this hook any more.
        let filter = || unsafe { self.instance.filter(worker, ifindex, dir, cells, verdicts) };
        let (code, handed) = self.stack.calling_filter(cpu, filter);
        match (code, handed) {
            (OK, None) => Ok(()),
            (OK, Some(e)) => Err(format!("it handed in a bad packet: {e}")),
            (FAULT, _) => Err(host::take_fault().unwrap_or_else(|| "its filter function failed".to_owned())),
            (code, _) => Err(format!("its filter function returned {code}")),
        }
    }

    /// Whether a packet that the filter leaves to us is still one, and its verdict is any.
    #[inline(always)]
    fn check(pool: &Pool, cell: Cell, said: u32) -> Result<(), String> {
        if said > verdict::REJECT {
            return Err(format!("it returned the verdict {said}, which is none"));
        }
        if said != verdict::CONSUMED
            && let Err(e) = pool.validate(cell)
        {
            return Err(format!("it spoiled a packet: {e}"));
        }
        Ok(())
    }

    /// Takes the filter out of service: from now on its policy judges.
    #[cold]
    pub(super) fn failed(&self, books: Option<&Books>, reason: String) {
        if let Some(books) = books {
            books.faults.add(1);
        }
        self.reason.get_or_init(|| reason);
        if !self.faulted.swap(true, Ordering::AcqRel) {
            (self.bell)();
        }
    }

    /// What becomes of the packets of a burst in which the filter failed: what it took is gone, a packet that it spoiled
    /// is dropped by name, the policy judges the rest.
    #[cold]
    fn settle(&self, cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32], books: &Books) {
        for (c, v) in cells.iter().zip(verdicts) {
            if *v == verdict::CONSUMED {
                books.consumed.add(1);
            } else if cx.pool.validate(*c).is_err() {
                // To the hook's caller it is as if the filter had taken the packet and given it up.
                *v = verdict::CONSUMED;
                books.consumed.add(1);
                self.stack.pkt_drop(cx.cpu, cx.ifindex, DropReason::PluginFault, &[*c]);
            } else {
                self.policy(v, books);
            }
        }
    }

    #[cold]
    fn policy(&self, verdict: &mut u32, books: &Books) {
        books.fault_packets.add(1);
        if self.on_fault == OnFault::Drop {
            *verdict = verdict::DROP;
            books.dropped.add(1);
        } else {
            *verdict = verdict::PASS;
            books.passed.add(1);
        }
    }
}

impl PfilHook for Hook {
    fn name(&self) -> &str {
        &self.name
    }

    fn filter(&self, cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32]) -> bool {
        let Some(books) = self.books.get(cx.cpu.index()) else { return false };
        books.packets.add(cells.len() as u64);
        books.bytes.add(cells.iter().map(|c| u64::from(cx.pool.packet(*c).len())).sum());
        books.bursts.add(1);
        if self.faulted.load(Ordering::Relaxed) {
            verdicts.iter_mut().for_each(|v| self.policy(v, books));
            return false;
        }
        let began = (books.bursts.get() % SAMPLE == 0).then(Instant::now);
        let asked = self.ask(cx.cpu, cx.ifindex, cx.dir.code(), cells, verdicts);
        if let Some(began) = began {
            books.sampled_packets.add(cells.len() as u64);
            books.sampled_ns.add(began.elapsed().as_nanos() as u64);
        }
        let checked =
            asked.and_then(|()| cells.iter().zip(&*verdicts).try_for_each(|(c, v)| Self::check(cx.pool, *c, *v)));
        if let Err(reason) = checked {
            self.failed(Some(books), reason);
            self.settle(cx, cells, verdicts, books);
            return true;
        }
        let said = |what: u32| verdicts.iter().filter(|v| **v == what).count() as u64;
        let (dropped, consumed) = (said(verdict::DROP) + said(verdict::REJECT), said(verdict::CONSUMED));
        books.dropped.add(dropped);
        books.consumed.add(consumed);
        books.passed.add(cells.len() as u64 - dropped - consumed);
        true
    }

    fn status(&self) -> serde_json::Value {
        serde_json::json!({ "native": true, "fault": self.fault() })
    }
}
