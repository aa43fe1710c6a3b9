//! Which frames a device is asked for beyond its own: memberships of a packet socket, which end with it.

use crate::{
    error::{HostError, NET_RAW},
    packet_socket::{Membership, PacketSocket},
};
use smpnet_plugin::MacAddr;
use std::sync::{Mutex, MutexGuard};

/// The memberships of a port. Used by control threads only.
pub struct Memberships {
    socket: PacketSocket,
    device: String,
    state: Mutex<State>,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Every frame.
    pub promisc: bool,
    /// Every multicast.
    pub all_multicast: bool,
    /// These multicast addresses.
    pub multicast: Vec<MacAddr>,
}

impl Memberships {
    /// None yet, of the device `name` with that index.
    pub fn new(index: i32, name: &str) -> Result<Self, HostError> {
        Ok(Memberships { socket: PacketSocket::new(index, false)?, device: name.into(), state: Mutex::default() })
    }

    /// What is asked for now.
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// Promiscuous mode.
    pub fn set_promisc(&self, on: bool) -> Result<(), HostError> {
        let mut state = self.lock();
        if on != state.promisc {
            self.change(Membership::Promiscuous, on)?;
            state.promisc = on;
        }
        Ok(())
    }

    /// The whole list of multicast addresses to receive, or every one.
    pub fn set_multicast(&self, list: &[MacAddr], all: bool) -> Result<(), HostError> {
        let mut state = self.lock();
        if all != state.all_multicast {
            self.change(Membership::AllMulticast, all)?;
            state.all_multicast = all;
        }
        for mac in list {
            if !state.multicast.contains(mac) {
                self.change(Membership::Multicast(*mac), true)?;
                state.multicast.push(*mac);
            }
        }
        let gone: Vec<MacAddr> = state.multicast.iter().filter(|mac| !list.contains(mac)).copied().collect();
        for mac in gone {
            self.change(Membership::Multicast(mac), false)?;
            state.multicast.retain(|m| *m != mac);
        }
        Ok(())
    }

    fn change(&self, membership: Membership, on: bool) -> Result<(), HostError> {
        let change = if on { self.socket.join(membership) } else { self.socket.leave(membership) };
        change.map_err(HostError::of(format!("{membership:?} of {}", self.device), NET_RAW))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}
