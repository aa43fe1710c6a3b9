//! A filter as a pfil hook.

use crate::Filter;
use smpnet_abi::Cell;
use smpnet_runtime::{HookCx, PfilHook};

impl PfilHook for Filter {
    fn name(&self) -> &str {
        Filter::name(self)
    }

    fn filter(&self, cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32]) {
        debug_assert_eq!(cx.pool.desc().base, self.pool_base(), "a filter judges packets of the pool that it maps");
        // SAFETY: the token proves that this thread alone is the worker, and a hook's caller owns the packets.
        unsafe { self.judge(cx.cpu.index(), cells, verdicts) }
    }

    /// The pool is mapped read-only where a filter runs.
    fn edits(&self) -> bool {
        false
    }

    fn status(&self) -> serde_json::Value {
        let version = self.published().load();
        serde_json::json!({
            "filter": Filter::name(self),
            "generation": version.generation,
            "action": version.action,
            "text": version.artefact.text,
        })
    }
}
