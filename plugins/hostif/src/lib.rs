//! Linux interfaces as ports: AF_PACKET, AF_XDP and TAP.
//!
//! - [`af_packet`] takes over a network device that the kernel has (a NIC, a veth, a bridge port);
//! - [`af_xdp`] does so before the kernel makes socket buffers of frames, and shares the packet pool with it;
//! - [`tap`] makes a new one, whose other end is the kernel's or a virtual machine's.
//!
//! Socket kinds are separate from what they share: [`device`] finds, changes and restores kernel devices, [`ring`] maps
//! the packet rings, [`exclusive`] keeps the kernel's stack off a device, [`membership`] asks a device for more frames,
//! [`link`] reports link changes, [`vnet`] translates offload headers, [`bpf`] puts small programs into the kernel.

pub mod af_packet;
pub mod af_xdp;
pub mod bpf;
pub mod cells;
mod checksum;
pub mod device;
pub mod error;
mod ethtool;
pub mod exclusive;
pub mod link;
pub mod membership;
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
    summary: "Linux interfaces as ports, by AF_PACKET, AF_XDP and TAP",
    license: "MIT OR Apache-2.0",
    privileges: privilege::NET_ADMIN | privilege::NET_RAW | privilege::TUN,
    pci: [],
    drivers: [af_packet::AfPacket, af_xdp::AfXdp, tap::Tap],
    ifkinds: [],
    filters: [],
}
