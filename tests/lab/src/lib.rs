//! Network-namespace laboratory: Linux hosts, links, senders and receivers, and the router under test.
//!
//! It needs the Linux kernel and nothing else: no iproute2, ping, tcpdump or root. Every host is a network namespace;
//! an ordinary user gets the right to make them from a user namespace ([`Lab::enter`]). Everything vanishes with the
//! process.
//!
//! ```no_run
//! use smpnet_lab::{Lab, Host, Ping, VethEnd, veth};
//! # fn main() -> Result<(), smpnet_lab::LabError> {
//! let lab = Lab::enter()?; // first thing in main
//! let (a, b) = (Host::new(lab, "A")?, Host::new(lab, "B")?);
//! let end = |host, mac| VethEnd { host, name: "eth0", mac: [2, 0, 0, 0, 0, mac] };
//! veth(&end(&a, 1), &end(&b, 2), 1500)?;
//! a.add_addr("eth0", [10, 0, 0, 1].into(), 24)?;
//! b.add_addr("eth0", [10, 0, 0, 2].into(), 24)?;
//! assert!(Ping::to([10, 0, 0, 2].into()).run(&a)?.clean());
//! # Ok(())
//! # }
//! ```

mod capture;
mod cleanup;
pub mod craft;
mod daemon;
mod enter;
mod error;
mod filters;
mod guest;
mod harness;
mod host;
mod http;
mod huge;
mod icmp;
mod link;
mod netlink;
mod ns;
mod sock;
mod tcp;
mod topology;
mod udp;

pub use capture::{Arp, Capture, Frame};
pub use cleanup::{TempDir, on_interrupt};
pub use daemon::{Daemon, binary};
pub use enter::{Lab, Privilege};
pub use error::{LabError, Result};
pub use filters::{CLANG_FLAGS, EXAMPLE_FILTERS, c_filter, cargo, example_filter, rust_filter};
pub use guest::{Guest, Kernel, Peer, Ran, kernel_cache};
pub use harness::{Test, as_ordinary_user, check, require, run_tests, skip};
pub use host::{Host, Offloads};
pub use http::{Client, Response};
pub use huge::{HugePages, free_huge_pages};
pub use icmp::{Hop, IcmpError, Ping, PingReport, traceroute};
pub use link::{LinkInfo, LinkStats, Mac, Neighbour, VethEnd, veth};
pub use ns::NetNs;
pub use sock::{Ipv4View, checksum, ipv4};
pub use tcp::{Amount, TcpReport, transfer};
pub use topology::{MTU, TwoHosts, mac};
pub use udp::{FlowReport, MIN_PAYLOAD, ReceiveReport, SendReport, Sending, UdpReceiver, UdpSender, Window};
