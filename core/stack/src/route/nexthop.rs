//! What a route leads to.

use crate::types::IfIndex;

/// A slot of the next-hop table; 0 is "no route".
pub type NextHopId = u32;

/// What is done with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum NextHopKind {
    /// No route.
    None = 0,
    /// Sent to a gateway.
    Gateway = 1,
    /// Sent to the destination itself, a neighbour (or the far end of a raw IP interface).
    Connected = 2,
    /// Delivered here.
    Local = 3,
    /// The directed broadcast address of a connected network.
    Broadcast = 4,
    /// Dropped silently.
    Blackhole = 5,
    /// Dropped, and answered with ICMP host unreachable.
    Reject = 6,
    /// One of several ways, chosen by the flow's hash. Never returned by `Fib::resolve`.
    Multipath = 7,
}

impl NextHopKind {
    pub(super) const fn from_u8(v: u8) -> Self {
        match v {
            1 => NextHopKind::Gateway,
            2 => NextHopKind::Connected,
            3 => NextHopKind::Local,
            4 => NextHopKind::Broadcast,
            5 => NextHopKind::Blackhole,
            6 => NextHopKind::Reject,
            7 => NextHopKind::Multipath,
            _ => NextHopKind::None,
        }
    }
}

/// A next hop, 16 bytes in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// What is done.
    pub kind: NextHopKind,
    /// Way out (Gateway, Connected, Broadcast) or owner of the address (Local); 0 otherwise.
    pub ifindex: u32,
    /// Gateway in host byte order; for Multipath the first of 256 entries; 0 otherwise.
    pub gateway: u32,
}

impl NextHop {
    /// No route.
    pub const NONE: NextHop = NextHop { kind: NextHopKind::None, ifindex: 0, gateway: 0 };
    /// Dropped silently.
    pub const BLACKHOLE: NextHop = NextHop { kind: NextHopKind::Blackhole, ifindex: 0, gateway: 0 };
    /// Dropped and answered.
    pub const REJECT: NextHop = NextHop { kind: NextHopKind::Reject, ifindex: 0, gateway: 0 };

    /// Through a gateway on an interface.
    pub const fn gateway(ifindex: IfIndex, gateway: u32) -> Self {
        NextHop { kind: NextHopKind::Gateway, ifindex: ifindex.get(), gateway }
    }

    /// A network on an interface.
    pub const fn connected(ifindex: IfIndex) -> Self {
        NextHop { kind: NextHopKind::Connected, ifindex: ifindex.get(), gateway: 0 }
    }

    /// One of our addresses.
    pub const fn local(ifindex: IfIndex) -> Self {
        NextHop { kind: NextHopKind::Local, ifindex: ifindex.get(), gateway: 0 }
    }

    /// A directed broadcast address.
    pub const fn broadcast(ifindex: IfIndex) -> Self {
        NextHop { kind: NextHopKind::Broadcast, ifindex: ifindex.get(), gateway: 0 }
    }

    pub(super) const fn pack(self) -> u64 {
        (self.kind as u64) << 56 | (self.ifindex as u64 & 0xff_ffff) << 32 | self.gateway as u64
    }

    #[inline(always)]
    pub(super) const fn unpack(v: u64) -> Self {
        NextHop {
            kind: NextHopKind::from_u8((v >> 56) as u8),
            ifindex: (v >> 32) as u32 & 0xff_ffff,
            gateway: v as u32,
        }
    }
}

/// One of several ways of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Way {
    /// The next hop; not itself a Multipath.
    pub hop: NextHop,
    /// Share of the flows, 1 to 255.
    pub weight: u8,
}
