//! Linux interfaces as ports: AF_PACKET and TAP.
//!
//! - [`af_packet`] takes over a network device that the kernel has (a NIC, a veth, a bridge port);
//! - [`tap`] makes a new one, whose other end is the kernel's or a virtual machine's.
//!
//! Socket kinds are separate from what they share: [`device`] finds, changes and restores kernel devices, [`ring`] maps
//! the packet rings, [`exclusive`] keeps the kernel's stack off a device, [`link`] reports link changes, [`vnet`]
//! translates offload headers. A further way to reach a device (AF_XDP) is a driver beside these two over the same
//! [`device`], [`exclusive`] and [`link`].

pub mod af_packet;
pub mod cells;
mod checksum;
pub mod device;
pub mod error;
pub mod exclusive;
pub mod link;
pub mod netlink;
pub mod outgoing;
pub mod packet_socket;
pub mod ring;
pub mod stats;
mod sys;
pub mod tap;
mod uapi;
pub mod vnet;

use smpnet_plugin::privilege;

smpnet_plugin::plugin! {
    name: "hostif",
    summary: "Linux interfaces as ports, by AF_PACKET and TAP",
    license: "MIT OR Apache-2.0",
    privileges: privilege::NET_ADMIN | privilege::NET_RAW | privilege::TUN,
    pci: [],
    drivers: [af_packet::AfPacket, tap::Tap],
    ifkinds: [],
    filters: [],
}
