//! IPv4: input, forwarding, output, fragments, ICMP, ARP. IPv6 will stand beside it as `inet6`.

pub(crate) mod arp;
pub(crate) mod ctlinput;
pub(crate) mod decide;
pub(crate) mod demux;
pub(crate) mod echo;
pub(crate) mod forward;
pub(crate) mod frag;
pub(crate) mod hold;
pub(crate) mod icmp;
pub(crate) mod input;
pub(crate) mod local;
pub(crate) mod options;
pub(crate) mod pmtu;
pub(crate) mod reass;
