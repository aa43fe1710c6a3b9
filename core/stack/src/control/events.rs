//! What happened, for whoever listens: interfaces, links, addresses, conflicts, quarantine.

use crate::stack::Stack;
use serde::Serialize;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Events that wait for a listener; a slower one loses what is more.
const LEN: usize = 1024;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StackEvent {
    /// `interface`, `link`, `address`, `conflict` or `quarantine`.
    pub kind: &'static str,
    /// Name of the interface.
    pub interface: String,
    /// What happened.
    pub detail: String,
}

/// The listeners.
#[derive(Default)]
pub(crate) struct Events {
    listeners: Mutex<Vec<SyncSender<StackEvent>>>,
}

impl Stack {
    /// Events from now on, until the receiver is dropped. At most 1024 wait; what is more is lost to this listener.
    pub fn events(&self) -> Receiver<StackEvent> {
        let (tx, rx) = sync_channel(LEN);
        self.events.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(tx);
        rx
    }

    pub(crate) fn emit(&self, kind: &'static str, interface: &str, detail: String) {
        tracing::info!(kind, interface, detail, "event");
        let event = StackEvent { kind, interface: interface.to_owned(), detail };
        let mut listeners = self.events.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|l| !matches!(l.try_send(event.clone()), Err(TrySendError::Disconnected(_))));
    }
}
