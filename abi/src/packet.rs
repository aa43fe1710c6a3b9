//! Packet memory: one pool of cells, a 64-byte header at the start of each.

/// Index of a cell in the pool: how a packet is named everywhere. [`CELL_NONE`] is no cell.
pub type Cell = u32;
/// No cell: the end of a chain.
pub const CELL_NONE: Cell = u32::MAX;
/// Most packets in one burst.
pub const BURST_MAX: u32 = 64;
/// Bytes of [`PktHdr`] at the start of each cell.
pub const HEADER_SIZE: u32 = 64;

/// Bits of [`PktHdr::flags`].
pub mod pkt_flags {
    /// The device verified the IPv4 header checksum.
    pub const RX_L3_OK: u32 = 1 << 0;
    /// The device found the IPv4 header checksum wrong.
    pub const RX_L3_BAD: u32 = 1 << 1;
    /// The device verified the TCP or UDP checksum, or the packet never left this machine.
    pub const RX_L4_OK: u32 = 1 << 2;
    /// The device found the TCP or UDP checksum wrong.
    pub const RX_L4_BAD: u32 = 1 << 3;
    /// The checksum from `csum_start` to the end is still to be completed and stored at `csum_start + csum_offset`; the
    /// field holds the pseudo-header sum (what Linux calls CHECKSUM_PARTIAL). Carried through forwarding.
    pub const CSUM_PARTIAL: u32 = 1 << 4;
    /// To be cut into TCP segments of `gso_size` over IPv4.
    pub const GSO_TCP4: u32 = 1 << 5;
    /// To be cut into TCP segments of `gso_size` over IPv6.
    pub const GSO_TCP6: u32 = 1 << 6;
    /// To be cut into UDP datagrams of `gso_size`.
    pub const GSO_UDP: u32 = 1 << 7;
    /// With GSO_TCP4 or GSO_TCP6: the segments carry ECN's CWR as RFC 3168 wants it.
    pub const GSO_ECN: u32 = 1 << 8;
    /// `vlan_tci` holds an 802.1Q tag that is not in the packet's bytes.
    pub const VLAN: u32 = 1 << 9;
    /// Received as a link-level broadcast.
    pub const BCAST: u32 = 1 << 10;
    /// Received as a link-level multicast.
    pub const MCAST: u32 = 1 << 11;
    /// `flow_hash` is valid.
    pub const HASH: u32 = 1 << 12;
    /// Delivered through the loopback interface.
    pub const LOOPED: u32 = 1 << 13;
    /// Must not take a prepared way (the inverse of NetBSD's M_CANFASTFWD): set by hooks that must see every packet.
    pub const NO_FAST_FWD: u32 = 1 << 14;
    /// Made by this machine, not forwarded.
    pub const LOCAL: u32 = 1 << 15;
    /// Bits 28 to 31 count the tunnels that the packet has passed, against loops.
    pub const NEST_SHIFT: u32 = 28;
    /// Mask of the nesting count, before shifting.
    pub const NEST_MASK: u32 = 0xf;
}

/// The header of a cell, exactly 64 bytes at its start. In a chain only the first cell's header describes the packet;
/// the others have `next`, `data_off` and `data_len`.
///
/// Offsets (`data_off`, `l2_off`, `l3_off`, `l4_off`, `csum_start`) are bytes from the start of the first cell; since the
/// header takes the first 64, 0 means "not set".
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct PktHdr {
    /// Next cell of the same packet, or [`CELL_NONE`].
    pub next: Cell,
    /// Bytes of the whole packet, over all its cells.
    pub pkt_len: u32,
    /// Where this cell's bytes begin.
    pub data_off: u16,
    /// Bytes in this cell.
    pub data_len: u16,
    /// Index of the interface that received the packet; 0 for none.
    pub rcvif: u32,
    /// Link-layer header.
    pub l2_off: u16,
    /// Network header.
    pub l3_off: u16,
    /// Transport header.
    pub l4_off: u16,
    /// EtherType of the network header, in host byte order.
    pub ether_type: u16,
    /// Symmetric hash of the flow's tuple, valid with [`pkt_flags::HASH`].
    pub flow_hash: u32,
    /// 802.1Q tag control information in host byte order, valid with [`pkt_flags::VLAN`].
    pub vlan_tci: u16,
    /// IP protocol of the transport header.
    pub l4_proto: u8,
    /// Cells in the chain, 1 to 255.
    pub nsegs: u8,
    /// Bits of [`pkt_flags`].
    pub flags: u32,
    /// Bytes of payload in each segment when a GSO flag is set.
    pub gso_size: u16,
    /// Where the open checksum begins, with [`pkt_flags::CSUM_PARTIAL`].
    pub csum_start: u16,
    /// Offset of the checksum field from `csum_start`.
    pub csum_offset: u16,
    /// Receive queue that the packet came through.
    pub rx_queue: u16,
    /// Mark set by filters and read by policies; 0 at reception.
    pub mark: u32,
    /// For whoever owns the packet; nothing in it outlives a hand-over to another stage.
    pub scratch: [u64; 2],
}

impl PktHdr {
    /// A header of an empty single-cell packet whose data begins at `data_off`.
    pub const fn empty(data_off: u16) -> Self {
        PktHdr {
            next: CELL_NONE,
            pkt_len: 0,
            data_off,
            data_len: 0,
            rcvif: 0,
            l2_off: 0,
            l3_off: 0,
            l4_off: 0,
            ether_type: 0,
            flow_hash: 0,
            vlan_tci: 0,
            l4_proto: 0,
            nsegs: 1,
            flags: 0,
            gso_size: 0,
            csum_start: 0,
            csum_offset: 0,
            rx_queue: 0,
            mark: 0,
            scratch: [0; 2],
        }
    }
}

/// The packet pool as a plugin sees it. Cell `c` begins at `base + c * cell_size` and has `cell_size` bytes, of which
/// the first [`HEADER_SIZE`] are its [`PktHdr`]. Nothing of it changes while the process lives.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PoolDesc {
    /// Bytes of this structure.
    pub size: u32,
    /// Bytes of a cell, which are also the bytes from one cell to the next: an odd multiple of 64 from 2,112 to 32,832, so
    /// that the headers of many cells do not fall on the same few sets of a cache.
    pub cell_size: u32,
    /// Where the pool is mapped in this process.
    pub base: *mut u8,
    /// Bytes of the mapping.
    pub bytes: u64,
    /// Cells in the pool; every valid index is below it.
    pub cells: u32,
    /// Where the data of a fresh packet begins, from the start of the cell: header plus headroom.
    pub data_off: u32,
    /// File descriptor of the memory (a sealed memfd), for mappings of one's own; -1 when there is none.
    pub fd: i32,
    /// Bytes of a page of the mapping (4096, or a huge page's).
    pub page_size: u32,
}

// SAFETY: a description of memory that lives as long as the process; who may touch which cell is the ownership rule of
// the crate's documentation.
unsafe impl Send for PoolDesc {}
// SAFETY: as above.
unsafe impl Sync for PoolDesc {}
