//! Packet filters: attach and detach.

use super::{Control, HookEntry};
use crate::error::StackError;
use crate::net::ifnet::Hooks;
use crate::stack::Stack;
use crate::types::{Dirs, HookStatus, IfIndex, Layer};
use smpnet_runtime::{PfilHead, PfilHook};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Stack {
    /// Puts a filter in: on one interface or on all. Lower priorities are asked first; filters on all interfaces come
    /// before those of one. Returns the id for [`Stack::pfil_detach`].
    ///
    /// # Errors
    /// [`StackError::NoInterface`].
    pub fn pfil_attach(
        &self,
        layer: Layer,
        ifindex: Option<IfIndex>,
        dirs: Dirs,
        priority: i32,
        hook: Arc<dyn PfilHook>,
    ) -> Result<u64, StackError> {
        let mut control = self.lock();
        let ids = self.with_hooks(ifindex, |h| {
            let (head_in, head_out) = heads(h, layer);
            let add = |head: &PfilHead| head.add(priority, hook.clone());
            [(dirs != Dirs::Out).then(|| add(head_in)), (dirs != Dirs::In).then(|| add(head_out))]
        })?;
        let id = control.next_hook;
        control.next_hook += 1;
        control.hooks.insert(id, HookEntry { hook, layer, ifindex, dirs, priority, ids });
        self.bump();
        Ok(id)
    }

    /// Takes a filter out. When this returns, no worker is in it any more. Never on a worker.
    ///
    /// # Errors
    /// [`StackError::NoHook`].
    pub fn pfil_detach(&self, id: u64) -> Result<(), StackError> {
        let entry = self.lock().hooks.remove(&id).ok_or(StackError::NoHook(id))?;
        self.unhook(&entry);
        self.bump();
        Ok(())
    }

    /// Puts another filter in the place of one, at once: every burst sees one of the two. When this returns, no worker is in
    /// the old one any more. Never on a worker.
    ///
    /// # Errors
    /// [`StackError::NoHook`].
    pub fn pfil_replace(&self, id: u64, hook: Arc<dyn PfilHook>) -> Result<(), StackError> {
        let mut control = self.lock();
        let entry = control.hooks.get_mut(&id).ok_or(StackError::NoHook(id))?;
        entry.hook = hook.clone();
        let (layer, ifindex, ids) = (entry.layer, entry.ifindex, entry.ids);
        self.with_hooks(ifindex, |h| {
            let (head_in, head_out) = heads(h, layer);
            for (head, id) in [(head_in, ids[0]), (head_out, ids[1])] {
                if let Some(id) = id {
                    head.replace(id, hook.clone());
                }
            }
        })
    }

    /// Every filter in the order of the ids.
    pub fn hooks(&self) -> Vec<HookStatus> {
        let control = self.lock();
        control
            .hooks
            .iter()
            .map(|(id, e)| HookStatus {
                id: *id,
                name: e.hook.name().to_owned(),
                layer: match e.layer {
                    Layer::Ether => "ether",
                    Layer::Inet => "inet",
                },
                interface: e.ifindex.map(|i| self.if_name(i.get())),
                direction: match e.dirs {
                    Dirs::In => "in",
                    Dirs::Out => "out",
                    Dirs::Both => "both",
                },
                priority: e.priority,
                status: e.hook.status(),
            })
            .collect()
    }

    /// Filters see fragments as they come, unless one asks for whole packets; every call with `true` is undone by one with
    /// `false`. Reassembled packets are fragmented again where they go out.
    pub fn filters_want_whole_packets(&self, want: bool) {
        let n = &self.tunables.reass_for_filters;
        if want {
            n.fetch_add(1, Ordering::Relaxed);
        } else {
            let _ = n.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_sub(1)));
        }
        self.bump();
    }

    fn with_hooks<R>(&self, ifindex: Option<IfIndex>, f: impl FnOnce(&Hooks) -> R) -> Result<R, StackError> {
        match ifindex {
            None => Ok(f(&self.hooks)),
            Some(i) => Ok(f(&self.interface(i)?.shared.hooks)),
        }
    }

    fn unhook(&self, entry: &HookEntry) {
        let _ = self.with_hooks(entry.ifindex, |h| {
            let (head_in, head_out) = heads(h, entry.layer);
            for (head, id) in [(head_in, entry.ids[0]), (head_out, entry.ids[1])] {
                if let Some(id) = id {
                    head.remove(id);
                }
            }
        });
    }

    /// The hooks of an interface that is taken out go with it.
    pub(super) fn hooks_of_removed(&self, control: &mut Control, index: IfIndex) {
        let gone: Vec<u64> = control.hooks.iter().filter(|(_, e)| e.ifindex == Some(index)).map(|(i, _)| *i).collect();
        for id in gone {
            if let Some(e) = control.hooks.remove(&id) {
                self.unhook(&e);
            }
        }
    }
}

fn heads(h: &Hooks, layer: Layer) -> (&PfilHead, &PfilHead) {
    match layer {
        Layer::Ether => (&h.ether_in, &h.ether_out),
        Layer::Inet => (&h.inet_in, &h.inet_out),
    }
}
