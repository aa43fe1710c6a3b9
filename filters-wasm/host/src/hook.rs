//! A filter as a pfil hook.

use crate::{Asked, Filter};
use smpnet_abi::Cell;
use smpnet_filter_abi::layer;
use smpnet_runtime::{Dir, HookCx, Layer, PfilHook};
use std::fmt::Write;

impl PfilHook for Filter {
    fn name(&self) -> &str {
        Filter::name(self)
    }

    fn filter(&self, cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32]) -> bool {
        debug_assert_eq!(cx.pool.desc().base, self.pool_base(), "a filter judges packets of the pool that it maps");
        let asked = Asked {
            worker: cx.cpu.index(),
            out: cx.dir == Dir::Out,
            ifindex: cx.ifindex,
            layer: match cx.layer {
                Layer::Ether => layer::ETHER,
                Layer::Inet => layer::INET,
                Layer::Inet6 => layer::INET6,
            },
            now_ns: cx.now_ns,
        };
        // SAFETY: the token proves that this thread alone is the worker, and a hook's caller owns the packets.
        unsafe { self.judge(&asked, cells, verdicts) };
        // Said before a module that is allowed to is asked for the first time.
        self.edits()
    }

    fn why(&self, cx: &HookCx<'_>, _: Cell, tell: &mut dyn FnMut(&str)) {
        let mut text = Line { bytes: [0; 255], len: 0 };
        // SAFETY: as in `filter`, which this worker has just left.
        unsafe {
            self.with_judge(cx.cpu.index(), |version| _ = write!(text, "{}: {}", Filter::name(self), version.why))
        };
        tell(text.as_str());
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

/// A line of text that is made without allocating. What does not fit is left out.
struct Line {
    bytes: [u8; 255],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        let mut n = s.len().min(self.bytes.len() - self.len);
        while !s.is_char_boundary(n) {
            n -= 1;
        }
        self.bytes[self.len..self.len + n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

impl Line {
    fn as_str(&self) -> &str {
        // Cut at characters only.
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}
