//! Opening, listing and changing listeners.

use super::listener::{BpfFilter, Listener, ListenerSpec, ListenerStatus, Stat};
use super::reader::{CaptureReader, Lane};
use super::{RING_DEFAULT, RING_MIN};
use crate::error::StackError;
use crate::stack::Stack;
use crate::types::IfIndex;
use smpnet_runtime::{Node, Value};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Stack {
    /// Begins to listen. The reader's drop ends it.
    ///
    /// # Errors
    /// [`StackError::NoInterface`]; [`StackError::Bpf`] for a ring larger than `net.bpf.maxbufsize`, or when the kernel
    /// refuses an eventfd.
    pub fn bpf_open(&self, spec: ListenerSpec) -> Result<CaptureReader, StackError> {
        let link = self.bpf_link(spec.interface)?;
        let most = self.bpf.ring_max.load(Ordering::Relaxed);
        let ring = if spec.ring_bytes == 0 { RING_DEFAULT.min(most) } else { spec.ring_bytes };
        if ring > most {
            return Err(StackError::Bpf(format!(
                "a buffer of {ring} bytes for each CPU is more than net.bpf.maxbufsize allows ({most})"
            )));
        }
        let ring = ring.max(RING_MIN) as usize;
        let promisc = spec.interface.filter(|_| spec.promisc);
        let mut registry = self.bpf.registry();
        let id = registry.next;
        let (listener, rings) = Listener::new(id, self.workers(), ring, link, spec)
            .map_err(|e| StackError::Bpf(format!("no eventfd for a listener: {e}")))?;
        if let Some(i) = promisc {
            self.promisc_acquire(i)?;
            listener.write().held = Some(i);
        }
        registry.next += 1;
        let listener = Arc::new(listener);
        self.bpf.listeners.update(&self.domain, |old| {
            let mut new = old.clone();
            new.push(listener.clone());
            (new, ())
        });
        self.bpf.recount();
        let lanes = rings.into_iter().map(|ring| Lane { ring, next: None }).collect();
        Ok(CaptureReader { stack: self.me.clone(), listener, lanes, buffer: Vec::new(), busy: false })
    }

    /// Takes a listener out. No worker is in it when this returns. Never on a worker.
    pub(super) fn bpf_close(&self, id: u64) {
        let mut registry = self.bpf.registry();
        let gone = self.bpf.listeners.update(&self.domain, |old| {
            let mut new = old.clone();
            let gone = new.iter().position(|l| l.id == id).map(|i| new.remove(i));
            (new, gone)
        });
        let Some(gone) = gone else { return };
        self.bpf.recount();
        gone.closed.store(true, Ordering::Release);
        self.domain.perform();
        let held = gone.write().held.take();
        self.let_go(held);
        for (n, stat) in [Stat::Received, Stat::Dropped, Stat::Matched].into_iter().enumerate() {
            registry.past[n] += gone.sum(None, stat);
        }
    }

    /// Ends every listener, because the router is about to stop: their readers still read what was heard until now.
    pub fn bpf_stop(&self) {
        self.bpf.stop();
    }

    /// Every listener, in the order in which they came.
    pub fn bpf_listeners(&self) -> Vec<ListenerStatus> {
        self.bpf.listeners.load_control().iter().map(|l| l.status()).collect()
    }

    /// The listener of that number.
    ///
    /// # Errors
    /// [`StackError::NoListener`].
    pub fn bpf_listener(&self, id: u64) -> Result<Arc<Listener>, StackError> {
        let all = self.bpf.listeners.load_control();
        all.iter().find(|l| l.id == id).cloned().ok_or(StackError::NoListener(id))
    }

    /// Replaces the filter of a running listener: every packet is judged by the old one or by the new one. Returns the
    /// generation, which is in each packet's record.
    ///
    /// # Errors
    /// [`StackError::NoListener`], [`StackError::BpfLocked`].
    pub fn bpf_set_filter(&self, id: u64, filter: Option<Arc<dyn BpfFilter>>) -> Result<u32, StackError> {
        let change = |s: &mut super::listener::Settings| s.filter = filter;
        self.bpf_listener(id)?.reset(&self.bpf, &self.domain, "its filter cannot be changed", change)
    }

    /// Turns a running listener to another interface, or to all.
    ///
    /// # Errors
    /// [`StackError::NoListener`], [`StackError::NoInterface`], [`StackError::BpfLocked`].
    pub fn bpf_set_interface(&self, id: u64, interface: Option<IfIndex>) -> Result<u32, StackError> {
        let listener = self.bpf_listener(id)?;
        if self.bpf_link(interface)? != listener.link {
            return Err(StackError::Bpf(format!(
                "listener {id} hears packets with another link header than that interface has; open another listener"
            )));
        }
        let promisc = interface.filter(|_| listener.write().promisc);
        if let Some(i) = promisc {
            self.promisc_acquire(i)?;
        }
        let change = |s: &mut super::listener::Settings| s.interface = interface;
        let done = listener.reset(&self.bpf, &self.domain, "its interface cannot be changed", change);
        let old = if done.is_ok() { std::mem::replace(&mut listener.write().held, promisc) } else { promisc };
        self.let_go(old);
        done
    }

    /// An interface needs to be promiscuous for one listener less.
    fn let_go(&self, interface: Option<IfIndex>) {
        if let Some(i) = interface
            && let Err(error) = self.promisc_release(i)
        {
            tracing::warn!(%error, "an interface stays promiscuous");
        }
    }

    /// Received, dropped and captured, of all listeners that there ever were.
    fn bpf_totals(&self) -> [u64; 3] {
        let mut totals = self.bpf.registry().past;
        for l in self.bpf.listeners.load_control().iter() {
            for (t, stat) in totals.iter_mut().zip([Stat::Received, Stat::Dropped, Stat::Matched]) {
                *t += l.sum(None, stat);
            }
        }
        totals
    }

    /// `net.bpf`, by NetBSD's names.
    pub(crate) fn register_bpf_sysctl(&self) {
        let tree = self.rt.sysctl();
        let (reader, writer) = (self.me.clone(), self.me.clone());
        tree.add(
            "net.bpf.maxbufsize",
            "most bytes of the buffer that a listener has on each CPU",
            Node::writable(
                move || reader.upgrade().map_or(0, |s| s.bpf.ring_max.load(Ordering::Relaxed)),
                move |v| match v {
                    Value::UInt(n) if (RING_MIN..=1 << 30).contains(&n) => {
                        if let Some(s) = writer.upgrade() {
                            s.bpf.ring_max.store(n, Ordering::Relaxed);
                        }
                        Ok(())
                    }
                    _ => Err(format!("must be a number from {RING_MIN} to {}", 1 << 30)),
                },
            ),
        );
        let weak = self.me.clone();
        tree.add(
            "net.bpf.peers",
            "every listener",
            Node::read_only(move || {
                let all = weak.upgrade().map(|s| s.bpf_listeners()).unwrap_or_default();
                Value::Json(serde_json::to_value(all).unwrap_or_default())
            }),
        );
        for (n, (name, doc)) in [
            ("net.bpf.stats.recv", "packets that the filters of listeners saw"),
            ("net.bpf.stats.drop", "accepted packets that found no room in a listener's buffer"),
            ("net.bpf.stats.capt", "packets that the filters of listeners accepted"),
        ]
        .into_iter()
        .enumerate()
        {
            let weak = self.me.clone();
            tree.add(name, doc, Node::read_only(move || weak.upgrade().map_or(0, |s| s.bpf_totals()[n])));
        }
    }
}
