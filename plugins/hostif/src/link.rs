//! Tells the router when the kernel changes the link of a device.

use crate::{
    device::link_state,
    error::{HostError, NET_ADMIN},
    netlink::{Netlink, messages, parse_link},
    sys,
};
use smpnet_plugin::LinkState;
use std::{os::fd::AsRawFd, os::fd::OwnedFd, sync::Arc, thread::JoinHandle};

/// A thread that watches one device until it is dropped.
pub struct Monitor {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Watches device `index` in the network namespace of the calling thread. `event` is called, on the monitor's thread,
    /// with each link state that differs from the one before, beginning with `initial`.
    pub fn start(
        index: i32,
        initial: LinkState,
        mut event: impl FnMut(LinkState) + Send + 'static,
    ) -> Result<Self, HostError> {
        let watching = HostError::of("watching links", NET_ADMIN);
        let failed = HostError::of("watching links", NET_ADMIN);
        let spawning = HostError::of("starting the link monitor", NET_ADMIN);
        let changes = Netlink::subscribe_links().map_err(watching)?;
        let stop = Arc::new(sys::eventfd().map_err(failed)?);
        let stopped = stop.clone();
        let mut requests = Netlink::open().map_err(HostError::of("a netlink socket", NET_ADMIN))?;
        let mut state = initial;
        let run = move || {
            let mut buffer = vec![0; 64 << 10];
            loop {
                match sys::poll_readable([changes.raw_fd(), stopped.as_raw_fd()], -1) {
                    Ok([_, false]) => {}
                    _ => return,
                }
                let mut now = state;
                match changes.receive(&mut buffer) {
                    Ok(bytes) => {
                        for (kind, _, payload) in messages(bytes) {
                            let Some(link) = parse_link(payload).filter(|l| l.index == index) else { continue };
                            match kind {
                                libc::RTM_NEWLINK => now = link_state(Some(&link)),
                                libc::RTM_DELLINK => now = link_state(None),
                                _ => {}
                            }
                        }
                    }
                    // The socket overflowed: what was lost is read afresh.
                    Err(_) => now = link_state(requests.link_by_index(index).ok().flatten().as_ref()),
                }
                if now != state {
                    state = now;
                    event(state);
                }
            }
        };
        let thread = std::thread::Builder::new().name(format!("link-{index}")).spawn(run).map_err(spawning)?;
        Ok(Monitor { stop, thread: Some(thread) })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        sys::signal(&self.stop);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by the panic hook; there is nothing left to undo.
            let _ended = thread.join();
        }
    }
}
