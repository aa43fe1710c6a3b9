//! Constants and structures of the kernel's interface that the `libc` crate lacks.
//!
//! Sources: `linux/if_packet.h`, `linux/virtio_net.h`, `linux/if_tun.h`, `linux/bpf.h`, `linux/pkt_cls.h`.

// AF_PACKET socket options (linux/if_packet.h).
pub const PACKET_ADD_MEMBERSHIP: i32 = 1;
pub const PACKET_DROP_MEMBERSHIP: i32 = 2;
pub const PACKET_RX_RING: i32 = 5;
pub const PACKET_STATISTICS: i32 = 6;
pub const PACKET_VERSION: i32 = 10;
pub const PACKET_TX_RING: i32 = 13;
pub const PACKET_LOSS: i32 = 14;
pub const PACKET_VNET_HDR: i32 = 15;
pub const PACKET_FANOUT: i32 = 18;
pub const PACKET_QDISC_BYPASS: i32 = 20;
pub const PACKET_IGNORE_OUTGOING: i32 = 23;

/// The group ignores what is sent; a group does not ask its sockets' own PACKET_IGNORE_OUTGOING. Linux 5.11.
pub const PACKET_FANOUT_FLAG_IGNORE_OUTGOING: u16 = 0x4000;
pub const PACKET_FANOUT_HASH: u16 = 0;
pub const PACKET_FANOUT_LB: u16 = 1;
pub const PACKET_FANOUT_CPU: u16 = 2;
pub const PACKET_FANOUT_RND: u16 = 4;
pub const PACKET_FANOUT_QM: u16 = 5;
pub const PACKET_FANOUT_FLAG_UNIQUEID: u16 = 0x2000;

pub const PACKET_MR_MULTICAST: u16 = 0;
pub const PACKET_MR_PROMISC: u16 = 1;
pub const PACKET_MR_ALLMULTI: u16 = 2;
pub const PACKET_MR_UNICAST: u16 = 3;

pub const TPACKET_V3: i32 = 2;

// Status bits of frames and blocks.
pub const TP_STATUS_KERNEL: u32 = 0;
pub const TP_STATUS_USER: u32 = 1 << 0;
pub const TP_STATUS_CSUMNOTREADY: u32 = 1 << 3;
pub const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
pub const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;
pub const TP_STATUS_CSUM_VALID: u32 = 1 << 7;
pub const TP_STATUS_AVAILABLE: u32 = 0;
pub const TP_STATUS_SEND_REQUEST: u32 = 1 << 0;

/// Argument of `PACKET_RX_RING` and `PACKET_TX_RING` for `TPACKET_V3`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct TpacketReq3 {
    pub block_size: u32,
    pub block_nr: u32,
    pub frame_size: u32,
    pub frame_nr: u32,
    pub retire_blk_tov: u32,
    pub sizeof_priv: u32,
    pub feature_req_word: u32,
}

/// `struct tpacket_stats_v3`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct TpacketStatsV3 {
    pub packets: u32,
    pub drops: u32,
    pub freezes: u32,
}

/// Head of a block of the receive ring: `struct tpacket_block_desc` with its `tpacket_hdr_v1`.
#[repr(C)]
pub struct BlockDesc {
    pub version: u32,
    pub offset_to_priv: u32,
    pub block_status: u32,
    pub num_pkts: u32,
    pub offset_to_first_pkt: u32,
    pub blk_len: u32,
    pub seq_num: u64,
    pub ts_first: [u32; 2],
    pub ts_last: [u32; 2],
}

/// `struct tpacket3_hdr`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tpacket3Hdr {
    pub next_offset: u32,
    pub sec: u32,
    pub nsec: u32,
    pub snaplen: u32,
    pub len: u32,
    pub status: u32,
    pub mac: u16,
    pub net: u16,
    pub rxhash: u32,
    pub vlan_tci: u32,
    pub vlan_tpid: u16,
    pub padding: u16,
    pub padding2: [u8; 8],
}

/// Where a frame's data begins in a slot of the transmit ring: `TPACKET3_HDRLEN - sizeof(struct sockaddr_ll)`.
pub const TX_DATA_OFFSET: usize = size_of::<Tpacket3Hdr>().next_multiple_of(16);

/// `struct packet_mreq`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PacketMreq {
    pub ifindex: i32,
    pub kind: u16,
    pub alen: u16,
    pub address: [u8; 8],
}

// virtio-net header (linux/virtio_net.h).
pub const VIRTIO_NET_HDR_F_NEEDS_CSUM: u8 = 1;
pub const VIRTIO_NET_HDR_F_DATA_VALID: u8 = 2;
pub const VIRTIO_NET_HDR_GSO_NONE: u8 = 0;
pub const VIRTIO_NET_HDR_GSO_TCPV4: u8 = 1;
pub const VIRTIO_NET_HDR_GSO_TCPV6: u8 = 4;
pub const VIRTIO_NET_HDR_GSO_UDP_L4: u8 = 5;
pub const VIRTIO_NET_HDR_GSO_ECN: u8 = 0x80;

// Traffic control (linux/pkt_sched.h, linux/pkt_cls.h).
pub const TC_H_CLSACT: u32 = 0xffff_fff1;
pub const TC_H_CLSACT_INGRESS: u32 = 0xffff_fff2;
pub const TC_ACT_SHOT: u32 = 2;
pub const TCA_KIND: u16 = 1;
pub const TCA_OPTIONS: u16 = 2;
pub const TCA_BPF_OPS_LEN: u16 = 4;
pub const TCA_BPF_OPS: u16 = 5;
pub const TCA_BPF_NAME: u16 = 7;
pub const TCA_BPF_FLAGS: u16 = 8;
pub const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
pub const TCA_MATCHALL_ACT: u16 = 2;
pub const TCA_ACT_KIND: u16 = 1;
pub const TCA_ACT_OPTIONS: u16 = 2;
pub const TCA_GACT_PARMS: u16 = 2;

// Programs and where they are attached (linux/bpf.h).
pub const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
pub const BPF_PROG_TYPE_XDP: u32 = 6;
pub const BPF_XDP: u32 = 37;
pub const BPF_TCX_INGRESS: u32 = 46;
pub const BPF_F_BEFORE: u32 = 1 << 3;
/// The program can do with a frame in several buffers. Linux 5.18.
pub const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;

// XDP (linux/bpf.h, linux/if_link.h).
pub const XDP_DROP: i32 = 1;
pub const XDP_REDIRECT: i32 = 4;
/// `rx_queue_index` in `struct xdp_md`.
pub const XDP_MD_RX_QUEUE_INDEX: i16 = 16;
pub const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
pub const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

// Link attributes (linux/if_link.h).
pub const IFLA_ADDRESS: u16 = 1;
pub const IFLA_IFNAME: u16 = 3;
pub const IFLA_MTU: u16 = 4;
pub const IFLA_LINKINFO: u16 = 18;
pub const IFLA_INFO_KIND: u16 = 1;
pub const IFLA_PROMISCUITY: u16 = 30;
pub const IFLA_NUM_TX_QUEUES: u16 = 31;
pub const IFLA_NUM_RX_QUEUES: u16 = 32;
pub const IFLA_CARRIER: u16 = 33;
pub const IFLA_XDP: u16 = 43;
pub const IFLA_XDP_PROG_ID: u16 = 4;
pub const IFLA_MAX_MTU: u16 = 51;
pub const IFLA_PARENT_DEV_NAME: u16 = 56;
pub const IFLA_STATS64: u16 = 23;

/// An Ethernet address that stands for none.
pub const NO_MAC: [u8; 6] = [0; 6];
