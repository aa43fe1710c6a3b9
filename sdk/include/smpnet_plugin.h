/* smpnet's plugin ABI, generated from abi/src: cargo run -p smpnet-abi --example header
 *
 * What the functions do, who calls them on which thread and who owns what is said in the documentation of the Rust
 * crate (abi/src/lib.rs and the comments here). SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef SMPNET_PLUGIN_H
#define SMPNET_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus)
#define SMPNET_ASSERT static_assert
#define SMPNET_ALIGNED(n) alignas(n)
#else
#define SMPNET_ASSERT _Static_assert
#define SMPNET_ALIGNED(n) __attribute__((aligned(n)))
#endif

/* First bytes of the manifest, and the symbol that it stands at. */
#define SMPNET_MANIFEST_MAGIC "smpnetPL"
#define SMPNET_MANIFEST_SYMBOL smpnet_plugin_manifest
/* What a function of the ABI returns when it succeeded. */
#define SMPNET_OK (0)
/* What a function of the ABI returns when it failed; the [`ErrBuf`] of the call, where it has one, says why. */
#define SMPNET_FAILED (-1)
/* What the SDK returns when the plugin's code panicked: smpnet quarantines the object. */
#define SMPNET_FAULT (-2)
/* The function is not supported by this plugin. */
#define SMPNET_UNSUPPORTED (-3)
/* Major version of this ABI. */
#define SMPNET_ABI_MAJOR 1u
/* Minor version of this ABI. */
#define SMPNET_ABI_MINOR 0u
/* No cell: the end of a chain. */
#define SMPNET_CELL_NONE 0xffffffffu
/* Most packets in one burst. */
#define SMPNET_BURST_MAX 64u
/* Bytes of [`PktHdr`] at the start of each cell. */
#define SMPNET_HEADER_SIZE 64u

/* Bits of [`PktHdr::flags`]. */
/* The device verified the IPv4 header checksum. */
#define SMPNET_PKT_FLAGS_RX_L3_OK (1u << 0)
/* The device found the IPv4 header checksum wrong. */
#define SMPNET_PKT_FLAGS_RX_L3_BAD (1u << 1)
/* The device verified the TCP or UDP checksum, or the packet never left this machine. */
#define SMPNET_PKT_FLAGS_RX_L4_OK (1u << 2)
/* The device found the TCP or UDP checksum wrong. */
#define SMPNET_PKT_FLAGS_RX_L4_BAD (1u << 3)
/* The checksum from `csum_start` to the end is still to be completed and stored at `csum_start + csum_offset`; the field holds the pseudo-header sum (what Linux calls CHECKSUM_PARTIAL). Carried through forwarding. */
#define SMPNET_PKT_FLAGS_CSUM_PARTIAL (1u << 4)
/* To be cut into TCP segments of `gso_size` over IPv4. */
#define SMPNET_PKT_FLAGS_GSO_TCP4 (1u << 5)
/* To be cut into TCP segments of `gso_size` over IPv6. */
#define SMPNET_PKT_FLAGS_GSO_TCP6 (1u << 6)
/* To be cut into UDP datagrams of `gso_size`. */
#define SMPNET_PKT_FLAGS_GSO_UDP (1u << 7)
/* With GSO_TCP4 or GSO_TCP6: the segments carry ECN's CWR as RFC 3168 wants it. */
#define SMPNET_PKT_FLAGS_GSO_ECN (1u << 8)
/* `vlan_tci` holds an 802.1Q tag that is not in the packet's bytes. */
#define SMPNET_PKT_FLAGS_VLAN (1u << 9)
/* Received as a link-level broadcast. */
#define SMPNET_PKT_FLAGS_BCAST (1u << 10)
/* Received as a link-level multicast. */
#define SMPNET_PKT_FLAGS_MCAST (1u << 11)
/* `flow_hash` is valid. */
#define SMPNET_PKT_FLAGS_HASH (1u << 12)
/* Delivered through the loopback interface. */
#define SMPNET_PKT_FLAGS_LOOPED (1u << 13)
/* Must not take a prepared way (the inverse of NetBSD's M_CANFASTFWD): set by hooks that must see every packet. */
#define SMPNET_PKT_FLAGS_NO_FAST_FWD (1u << 14)
/* Made by this machine, not forwarded. */
#define SMPNET_PKT_FLAGS_LOCAL (1u << 15)
/* Bits 28 to 31 count the tunnels that the packet has passed, against loops. */
#define SMPNET_PKT_FLAGS_NEST_SHIFT 28u
/* Mask of the nesting count, before shifting. */
#define SMPNET_PKT_FLAGS_NEST_MASK 0xfu
/* PCI ids in a manifest. */
#define SMPNET_PCI_IDS_MAX 64u

/* Bits of [`Manifest::kinds`]. */
/* Provides drivers. */
#define SMPNET_KIND_DRIVER (1u << 0)
/* Provides interface kinds. */
#define SMPNET_KIND_IFKIND (1u << 1)
/* Provides native filters. */
#define SMPNET_KIND_FILTER (1u << 2)

/* Bits of [`Manifest::privileges`]: what the plugin needs in order to work. */
/* CAP_NET_ADMIN in the network namespace. */
#define SMPNET_PRIVILEGE_NET_ADMIN (1u << 0)
/* CAP_NET_RAW. */
#define SMPNET_PRIVILEGE_NET_RAW (1u << 1)
/* VFIO devices. */
#define SMPNET_PRIVILEGE_VFIO (1u << 2)
/* /dev/net/tun. */
#define SMPNET_PRIVILEGE_TUN (1u << 3)
/* CAP_BPF or root, for XDP. */
#define SMPNET_PRIVILEGE_BPF (1u << 4)
/* What `rx_burst` and `tx_burst` return when the plugin's code panicked; smpnet quarantines the port. */
#define SMPNET_RX_FAULT 0xffffffffu

/* Offloads of a port: bits of [`PortInfo::offloads`] and of `set_offloads`. */
/* Verifies IPv4, TCP and UDP checksums on reception. */
#define SMPNET_OFFLOAD_RX_CSUM (1u << 0)
/* Completes `CSUM_PARTIAL` packets on transmission. */
#define SMPNET_OFFLOAD_TX_CSUM (1u << 1)
/* Takes `GSO_TCP4` packets. */
#define SMPNET_OFFLOAD_TSO4 (1u << 2)
/* Takes `GSO_TCP6` packets. */
#define SMPNET_OFFLOAD_TSO6 (1u << 3)
/* Takes `GSO_UDP` packets. */
#define SMPNET_OFFLOAD_USO (1u << 4)
/* May deliver packets larger than the MTU with a GSO flag set. */
#define SMPNET_OFFLOAD_LRO (1u << 5)
/* Takes 802.1Q tags off on reception (`pkt_flags::VLAN`). */
#define SMPNET_OFFLOAD_RX_VLAN (1u << 6)
/* Inserts 802.1Q tags on transmission. */
#define SMPNET_OFFLOAD_TX_VLAN (1u << 7)
/* Takes and delivers packets of several cells. */
#define SMPNET_OFFLOAD_SCATTER (1u << 8)
/* Fills `flow_hash` by the symmetric Toeplitz key. */
#define SMPNET_OFFLOAD_RSS (1u << 9)

/* Bits of [`PortInfo::flags`]. */
/* A point-to-point medium without link-layer addresses: packets begin with their IP header. */
#define SMPNET_PORT_FLAGS_RAW_IP (1u << 0)
/* The port ends by itself (a file): when every queue is at its end, link state goes down for good. */
#define SMPNET_PORT_FLAGS_FINITE (1u << 1)
/* The device must be polled: it has no event descriptor, and a worker that serves it never sleeps. */
#define SMPNET_PORT_FLAGS_POLL_ONLY (1u << 2)

/* What the packets of an interface begin with. */
/* An Ethernet header. */
#define SMPNET_IF_TYPE_ETHER 1u
/* An IP header. */
#define SMPNET_IF_TYPE_RAW_IP 2u

/* Direction of a packet at a hook. */
/* Coming in. */
#define SMPNET_DIRECTION_IN 1u
/* Going out. */
#define SMPNET_DIRECTION_OUT 2u

/* Bits of [`FilterTable::flags`]. */
/* A verdict depends on the packet, the interface and the direction alone, no packet is ever taken, and being asked changes nothing: `smpnet explain` may ask. */
#define SMPNET_FILTER_FLAGS_STATELESS (1u << 0)

/* What a filter says of a packet; any other value is a fault. A native filter writes marks into `PktHdr::mark` itself. */
/* Goes on. */
#define SMPNET_VERDICT_PASS 0u
/* Is dropped, counted as `filtered`. */
#define SMPNET_VERDICT_DROP 1u
/* The filter took the packet: it is the filter's now. */
#define SMPNET_VERDICT_CONSUMED 2u
/* Is dropped, counted as `filtered`, and its sender is told: ICMP "communication administratively prohibited" (type 3, code 13: RFC 1812, section 5.2.7.1), within the limit on errors, and never about packets that must not be answered (RFC 1122, section 3.2.2: errors, later fragments, broadcasts, packets of this machine). As DROP for what is not IPv4. */
#define SMPNET_VERDICT_REJECT 3u
/* The `worker` of a caller that is no worker: a control thread. Allowed where a function says "any thread". */
#define SMPNET_WORKER_NONE 0xffffffffu

/* Levels of [`HostServices::log`]. */
/* Something failed. */
#define SMPNET_LOG_LEVEL_ERROR 1u
/* Something is wrong but goes on. */
#define SMPNET_LOG_LEVEL_WARN 2u
/* Something that an operator wants to know. */
#define SMPNET_LOG_LEVEL_INFO 3u
/* For whoever looks for a fault. */
#define SMPNET_LOG_LEVEL_DEBUG 4u

/* Bits of [`IfInfo::flags`]. */
/* Configured up. */
#define SMPNET_IF_FLAGS_UP (1u << 0)
/* The link is up. */
#define SMPNET_IF_FLAGS_RUNNING (1u << 1)

/* Why a packet was dropped: the `reason` of pkt_drop. */
/* a plugin dropped the packet without naming a reason */
#define SMPNET_DROP_UNSPECIFIED 0u
/* the interface is down, detached or quarantined */
#define SMPNET_DROP_IF_DOWN 1u
/* no packet cell was free */
#define SMPNET_DROP_NO_BUFFER 2u
/* the transmit ring of the outgoing port was full */
#define SMPNET_DROP_TX_RING_FULL 3u
/* the outgoing port cannot carry such a packet */
#define SMPNET_DROP_TX_UNSUPPORTED 4u
/* the frame is shorter than its link header */
#define SMPNET_DROP_RUNT 5u
/* the frame is longer than the interface takes */
#define SMPNET_DROP_OVERSIZE 6u
/* the frame is addressed to another station */
#define SMPNET_DROP_NOT_FOR_US 7u
/* no protocol takes this EtherType */
#define SMPNET_DROP_NO_PROTO 8u
/* no vlan interface takes this 802.1Q id */
#define SMPNET_DROP_VLAN_UNKNOWN 9u
/* a packet filter dropped it */
#define SMPNET_DROP_FILTERED 10u
/* a packet filter failed and its policy is to drop */
#define SMPNET_DROP_FILTER_FAULT 11u
/* the ARP packet is malformed */
#define SMPNET_DROP_ARP_BAD 12u
/* the neighbour did not answer ARP */
#define SMPNET_DROP_ARP_UNRESOLVED 13u
/* too many packets wait for one neighbour */
#define SMPNET_DROP_ARP_QUEUE_FULL 14u
/* the IP version is not that of the EtherType */
#define SMPNET_DROP_IP_BAD_VERSION 15u
/* the packet is shorter than an IP header */
#define SMPNET_DROP_IP_TOO_SHORT 16u
/* the IP header length is below 20 or beyond the packet */
#define SMPNET_DROP_IP_BAD_HEADER_LENGTH 17u
/* the IP total length is beyond the packet */
#define SMPNET_DROP_IP_BAD_LENGTH 18u
/* the IP header checksum is wrong */
#define SMPNET_DROP_IP_BAD_CHECKSUM 19u
/* the source address is not a host's (multicast, broadcast or class E) */
#define SMPNET_DROP_IP_BAD_SOURCE 20u
/* a loopback or zero address came in from the wire */
#define SMPNET_DROP_IP_MARTIAN 21u
/* an IP option is malformed or refused */
#define SMPNET_DROP_IP_BAD_OPTION 22u
/* forwarding is turned off and the packet is not for us */
#define SMPNET_DROP_IP_NO_FORWARD 23u
/* no route leads to the destination */
#define SMPNET_DROP_IP_NO_ROUTE 24u
/* a reject route covers the destination */
#define SMPNET_DROP_IP_REJECT 25u
/* a blackhole route covers the destination */
#define SMPNET_DROP_IP_BLACKHOLE 26u
/* the time to live ran out */
#define SMPNET_DROP_IP_TTL 27u
/* too large for the way out and must not be fragmented */
#define SMPNET_DROP_IP_NEED_FRAG 28u
/* the packet could not be fragmented */
#define SMPNET_DROP_IP_CANNOT_FRAGMENT 29u
/* a link-level broadcast or multicast is not forwarded */
#define SMPNET_DROP_IP_BROADCAST 30u
/* no source address fits the way out */
#define SMPNET_DROP_IP_NO_SOURCE 31u
/* fragments were missing when the time ran out */
#define SMPNET_DROP_REASS_TIMEOUT 32u
/* too many datagrams are being reassembled */
#define SMPNET_DROP_REASS_LIMIT 33u
/* the fragments overlap or do not fit together */
#define SMPNET_DROP_REASS_BAD 34u
/* delivered here, but no protocol takes it */
#define SMPNET_DROP_PROTO_UNREACH 35u
/* delivered here, but nothing listens on the port */
#define SMPNET_DROP_PORT_UNREACH 36u
/* the ICMP message is malformed */
#define SMPNET_DROP_ICMP_BAD 37u
/* the ICMP message is of no use to a router */
#define SMPNET_DROP_ICMP_IGNORED 38u
/* an ICMP answer was suppressed by the rate limit */
#define SMPNET_DROP_ICMP_LIMITED 39u
/* no tunnel takes this outer header */
#define SMPNET_DROP_ENCAP_UNKNOWN 40u
/* the encapsulated packet is malformed */
#define SMPNET_DROP_ENCAP_BAD 41u
/* the packet passed too many tunnels */
#define SMPNET_DROP_ENCAP_NEST 42u
/* the queue to another worker was full */
#define SMPNET_DROP_QUEUE_FULL 43u
/* a plugin failed while it held the packet */
#define SMPNET_DROP_PLUGIN_FAULT 44u
/* the packet was in flight when its interface went away */
#define SMPNET_DROP_SHUTDOWN 45u
/* the UDP header is malformed */
#define SMPNET_DROP_UDP_BAD 46u
/* the TCP, UDP or ICMP checksum is wrong */
#define SMPNET_DROP_L4_BAD_CHECKSUM 47u
/* taken by its receiver (not lost) */
#define SMPNET_DROP_CONSUMED 48u
/* the port lost it before smpnet saw it: no room in its ring, or no free cell */
#define SMPNET_DROP_RX_MISSED 49u

/*
 Index of a cell in the pool: how a packet is named everywhere. [`CELL_NONE`] is no cell.
 */
typedef uint32_t smpnet_cell;

/*
 The header of a cell, exactly 64 bytes at its start. In a chain only the first cell's header describes the packet;
 the others have `next`, `data_off` and `data_len`.

 Offsets (`data_off`, `l2_off`, `l3_off`, `l4_off`, `csum_start`) are bytes from the start of the first cell; since the
 header takes the first 64, 0 means "not set".
 */
typedef struct SMPNET_ALIGNED(64) smpnet_pkt_hdr {
  /*
   Next cell of the same packet, or [`CELL_NONE`].
   */
  smpnet_cell next;
  /*
   Bytes of the whole packet, over all its cells.
   */
  uint32_t pkt_len;
  /*
   Where this cell's bytes begin.
   */
  uint16_t data_off;
  /*
   Bytes in this cell.
   */
  uint16_t data_len;
  /*
   Index of the interface that received the packet; 0 for none.
   */
  uint32_t rcvif;
  /*
   Link-layer header.
   */
  uint16_t l2_off;
  /*
   Network header.
   */
  uint16_t l3_off;
  /*
   Transport header.
   */
  uint16_t l4_off;
  /*
   EtherType of the network header, in host byte order.
   */
  uint16_t ether_type;
  /*
   Symmetric hash of the flow's tuple, valid with [`pkt_flags::HASH`].
   */
  uint32_t flow_hash;
  /*
   802.1Q tag control information in host byte order, valid with [`pkt_flags::VLAN`].
   */
  uint16_t vlan_tci;
  /*
   IP protocol of the transport header.
   */
  uint8_t l4_proto;
  /*
   Cells in the chain, 1 to 255.
   */
  uint8_t nsegs;
  /*
   Bits of [`pkt_flags`].
   */
  uint32_t flags;
  /*
   Bytes of payload in each segment when a GSO flag is set.
   */
  uint16_t gso_size;
  /*
   Where the open checksum begins, with [`pkt_flags::CSUM_PARTIAL`].
   */
  uint16_t csum_start;
  /*
   Offset of the checksum field from `csum_start`.
   */
  uint16_t csum_offset;
  /*
   Receive queue that the packet came through.
   */
  uint16_t rx_queue;
  /*
   Mark set by filters and read by policies; 0 at reception.
   */
  uint32_t mark;
  /*
   For whoever owns the packet; nothing in it outlives a hand-over to another stage.
   */
  uint64_t scratch[2];
} smpnet_pkt_hdr;

/*
 The packet pool as a plugin sees it. Cell `c` begins at `base + c * cell_size` and has `cell_size` bytes, of which
 the first [`HEADER_SIZE`] are its [`PktHdr`]. Nothing of it changes while the process lives.
 */
typedef struct smpnet_pool_desc {
  /*
   Bytes of this structure.
   */
  uint32_t size;
  /*
   Bytes of a cell, which are also the bytes from one cell to the next: an odd multiple of 64 from 2,112 to 32,832, so
   that the headers of many cells do not fall on the same few sets of a cache.
   */
  uint32_t cell_size;
  /*
   Where the pool is mapped in this process.
   */
  uint8_t *base;
  /*
   Bytes of the mapping.
   */
  uint64_t bytes;
  /*
   Cells in the pool; every valid index is below it.
   */
  uint32_t cells;
  /*
   Where the data of a fresh packet begins, from the start of the cell: header plus headroom.
   */
  uint32_t data_off;
  /*
   File descriptor of the memory (a sealed memfd), for mappings of one's own; -1 when there is none.
   */
  int32_t fd;
  /*
   Bytes of a page of the mapping (4096, or a huge page's).
   */
  uint32_t page_size;
} smpnet_pool_desc;

/*
 Borrowed UTF-8 text, not NUL-terminated. Valid for the duration of the call it is passed to, unless the function
 says otherwise. `len` is in bytes; a null `ptr` with `len` 0 is the empty text.
 */
typedef struct smpnet_text {
  /*
   First byte.
   */
  const uint8_t *ptr;
  /*
   Bytes.
   */
  uint32_t len;
  /*
   Always 0.
   */
  uint32_t _pad;
} smpnet_text;

/*
 A buffer of the caller's for one line of text (an error, or a status document): the callee writes at most `cap`
 bytes of UTF-8 and sets `len`. If the text did not fit, `len` is the length that was needed.
 */
typedef struct smpnet_err_buf {
  /*
   First byte of the buffer.
   */
  uint8_t *ptr;
  /*
   Bytes that may be written.
   */
  uint32_t cap;
  /*
   Bytes of the text.
   */
  uint32_t len;
} smpnet_err_buf;

/*
 A PCI device that a driver serves. 0xffff in the subsystem fields matches any; a vendor of 0 ends the list.
 */
typedef struct smpnet_pci_id {
  /*
   Vendor.
   */
  uint16_t vendor;
  /*
   Device.
   */
  uint16_t device;
  /*
   Subsystem vendor.
   */
  uint16_t subvendor;
  /*
   Subsystem device.
   */
  uint16_t subdevice;
} smpnet_pci_id;
/*
 The end of a list.
 */
#define smpnet_pci_id_END (smpnet_pci_id){ .vendor = 0, .device = 0, .subvendor = 0, .subdevice = 0 }

/*
 The manifest of a plugin. Texts are UTF-8, NUL-padded.
 */
typedef struct smpnet_manifest {
  /*
   [`MANIFEST_MAGIC`].
   */
  uint8_t magic[8];
  /*
   Bytes of this structure.
   */
  uint32_t size;
  /*
   [`crate::ABI_MAJOR`] that the plugin was built with.
   */
  uint16_t abi_major;
  /*
   [`crate::ABI_MINOR`] that the plugin was built with.
   */
  uint16_t abi_minor;
  /*
   Bits of [`kind`].
   */
  uint32_t kinds;
  /*
   Bits of [`privilege`].
   */
  uint32_t privileges;
  /*
   Name, `[a-z][a-z0-9_-]*`, at most 31 bytes.
   */
  uint8_t name[32];
  /*
   Version of the plugin, semver.
   */
  uint8_t version[24];
  /*
   SPDX licence expression.
   */
  uint8_t license[32];
  /*
   One line on what it is.
   */
  uint8_t summary[96];
  /*
   PCI devices, ended by [`PciId::END`] when fewer than [`PCI_IDS_MAX`].
   */
  struct smpnet_pci_id pci[SMPNET_PCI_IDS_MAX];
} smpnet_manifest;

/*
 An Ethernet address.
 */
typedef struct smpnet_mac_addr {
  /*
   In transmission order.
   */
  uint8_t bytes[6];
} smpnet_mac_addr;

/*
 How smpnet asks for a port. All of it is valid only during `open`.
 */
typedef struct smpnet_port_config {
  /*
   Bytes of this structure.
   */
  uint32_t size;
  /*
   Index of the interface that the port will be.
   */
  uint32_t ifindex;
  /*
   Name of the interface, at most 15 bytes.
   */
  struct smpnet_text name;
  /*
   The driver's own options: a UTF-8 JSON object out of the configuration file.
   */
  struct smpnet_text options;
  /*
   Receive queues wished for; the driver may open fewer, at least 1.
   */
  uint16_t rx_queues;
  /*
   Transmit queues wished for; the driver may open fewer, at least 1.
   */
  uint16_t tx_queues;
  /*
   Workers of this router.
   */
  uint32_t workers;
  /*
   MTU wished for; 0 for the device's own.
   */
  uint32_t mtu;
  /*
   Always 0.
   */
  uint32_t _pad;
} smpnet_port_config;

/*
 What `open` says of the port.
 */
typedef struct smpnet_port_info {
  /*
   Bytes of this structure, set by the caller.
   */
  uint32_t size;
  /*
   Bits of [`port_flags`].
   */
  uint32_t flags;
  /*
   The driver's handle of the port, passed back in every call.
   */
  void *port;
  /*
   Receive queues opened.
   */
  uint16_t rx_queues;
  /*
   Transmit queues opened.
   */
  uint16_t tx_queues;
  /*
   MTU in force.
   */
  uint32_t mtu;
  /*
   Largest MTU that `set_mtu` takes.
   */
  uint32_t mtu_max;
  /*
   Bits of [`offload`] that the port can do.
   */
  uint32_t offloads;
  /*
   The port's own address; zero for RAW_IP ports.
   */
  struct smpnet_mac_addr mac;
  /*
   Entries of the RSS redirection table; 0 without RSS.
   */
  uint16_t rss_table;
  /*
   Bytes of the RSS key; 0 without RSS.
   */
  uint16_t rss_key;
  /*
   Always 0.
   */
  uint16_t _pad[3];
} smpnet_port_info;

/*
 Link state.
 */
typedef struct smpnet_link_state {
  /*
   0 down, 1 up, 2 unknown.
   */
  uint32_t state;
  /*
   1 when full duplex.
   */
  uint32_t full_duplex;
  /*
   Mbit/s; 0 for unknown.
   */
  uint32_t speed;
  /*
   Always 0.
   */
  uint32_t _pad;
} smpnet_link_state;

/*
 The statistics that every port has, since `open`.
 */
typedef struct smpnet_port_stats {
  /*
   Packets given to the core.
   */
  uint64_t rx_packets;
  /*
   Their bytes.
   */
  uint64_t rx_bytes;
  /*
   Packets lost because no cell or ring entry was free when they came.
   */
  uint64_t rx_missed;
  /*
   Packets refused for being malformed.
   */
  uint64_t rx_errors;
  /*
   Packets sent.
   */
  uint64_t tx_packets;
  /*
   Their bytes.
   */
  uint64_t tx_bytes;
  /*
   Packets that the device failed to send after it had accepted them.
   */
  uint64_t tx_errors;
} smpnet_port_stats;

/*
 A counter of the driver's own.
 */
typedef struct smpnet_named_counter {
  /*
   Name, NUL-padded ASCII in the style `rx_crc_errors`.
   */
  uint8_t name[40];
  /*
   Value since `open`.
   */
  uint64_t value;
} smpnet_named_counter;

/*
 A function called once by a worker or a work thread with the argument that was given.
 */
typedef void (*smpnet_callout_fn)(void *arg, uint32_t worker);

/*
 Work that may sleep, called on a control thread.
 */
typedef void (*smpnet_work_fn)(void *arg);

/*
 Which encapsulated packets an interface takes: outer addresses and protocol. An address that is all zero matches any.
 IPv4 addresses stand in the first four bytes, in network order.
 */
typedef struct smpnet_encap_key {
  /*
   4 or 6: version of the outer header.
   */
  uint8_t version;
  /*
   Protocol number in the outer header (4 for IPv4 in IP).
   */
  uint8_t protocol;
  /*
   Always 0.
   */
  uint16_t _pad;
  /*
   Outer source of packets that come in: the far end.
   */
  uint8_t remote[16];
  /*
   Outer destination of packets that come in: our end.
   */
  uint8_t local[16];
} smpnet_encap_key;

/*
 What `if_info` tells of an interface.
 */
typedef struct smpnet_if_info {
  /*
   Bytes of this structure, set by the caller.
   */
  uint32_t size;
  /*
   The interface.
   */
  uint32_t ifindex;
  /*
   One of [`crate::if_type`].
   */
  uint32_t if_type;
  /*
   Bits of [`if_flags`].
   */
  uint32_t flags;
  /*
   MTU in bytes.
   */
  uint32_t mtu;
  /*
   Bits of [`crate::offload`].
   */
  uint32_t offloads;
  /*
   Ethernet address.
   */
  struct smpnet_mac_addr mac;
  /*
   Always 0.
   */
  uint16_t _pad;
  /*
   Name, NUL-padded.
   */
  uint8_t name[16];
} smpnet_if_info;

/*
 A counter of the plugin's own: one u64 per worker, plainly stored by that worker, summed by readers.
 */
typedef struct smpnet_counter_desc {
  /*
   Bytes of this structure.
   */
  uint32_t size;
  /*
   Bytes from one worker's value to the next one's; a multiple of 64 keeps workers off each other's cache lines.
   */
  uint32_t stride;
  /*
   Worker 0's value. The memory lives until the process ends.
   */
  const uint64_t *base;
  /*
   Whom it belongs to: an interface or plugin name.
   */
  struct smpnet_text owner;
  /*
   Its name, such as `no_session`.
   */
  struct smpnet_text name;
} smpnet_counter_desc;

/*
 Reads a sysctl node's value.
 */
typedef uint64_t (*smpnet_sysctl_get_fn)(void *arg);

/*
 The services. One table for the life of the process; it never moves. "worker" functions are called with the index of
 the calling worker; "any thread" also takes [`WORKER_NONE`].
 */
typedef struct smpnet_host_services {
  /*
   Bytes of this table.
   */
  uint32_t size;
  /*
   [`crate::ABI_MAJOR`] of the host.
   */
  uint16_t abi_major;
  /*
   [`crate::ABI_MINOR`] of the host.
   */
  uint16_t abi_minor;
  /*
   Workers; their indices are below it.
   */
  uint32_t workers;
  /*
   Always 0.
   */
  uint32_t _pad;
  /*
   The packet pool.
   */
  const struct smpnet_pool_desc *pool;
  /*
   Gives at most `n` fresh single-cell packets (header as of `PktHdr::empty(pool.data_off)`) and returns how many.
   Any thread.
   */
  uint32_t (*pkt_alloc)(uint32_t worker, smpnet_cell *cells, uint32_t n);
  /*
   Takes packets back, chains as a whole. Any thread.
   */
  void (*pkt_free)(uint32_t worker, const smpnet_cell *cells, uint32_t n);
  /*
   Drops packets for one [`crate::DropReason`], counted against `ifindex` (0: none). Worker.
   */
  void (*pkt_drop)(uint32_t worker,
                   uint32_t ifindex,
                   uint32_t reason,
                   const smpnet_cell *cells,
                   uint32_t n);
  /*
   Packets received by an interface: frames for ETHER, IP packets for RAW_IP (with `ether_type` set). They are taken
   up after the calling function returned, so calls do not nest. Worker.
   */
  void (*if_input)(uint32_t worker, uint32_t ifindex, const smpnet_cell *cells, uint32_t n);
  /*
   Complete frames (or IP packets, for RAW_IP) to send out of an interface; taken up as in `if_input`. Worker.
   */
  void (*if_output)(uint32_t worker, uint32_t ifindex, const smpnet_cell *cells, uint32_t n);
  /*
   IPv4 or IPv6 packets made here (by `ether_type`), to be routed; taken up as in `if_input`. Worker.
   */
  void (*ip_output)(uint32_t worker, const smpnet_cell *cells, uint32_t n);
  /*
   Nanoseconds of the monotonic clock. Any thread.
   */
  uint64_t (*now_ns)(void);
  /*
   Calls `func(arg, worker)` on that worker after `delay_ns`; returns an id that is never 0, or 0 when `worker` is
   none. Any thread.
   */
  uint64_t (*callout)(uint32_t worker, uint64_t delay_ns, smpnet_callout_fn func, void *arg);
  /*
   Stops a callout; returns 0 when it will not run, -1 when it ran or is running. Any thread.
   */
  int32_t (*callout_stop)(uint64_t id);
  /*
   Calls `func(arg)` on a control thread, where it may sleep; returns 0, or -1 when the queue is full. Any thread.
   */
  int32_t (*work)(smpnet_work_fn func, void *arg);
  /*
   Packets that match `key` go to `ifindex`'s `input`; -1 when the key is taken. Control.
   */
  int32_t (*encap_attach)(uint32_t ifindex, const struct smpnet_encap_key *key);
  /*
   Ends `encap_attach`. When it returns, no worker is in `input` for it. Control.
   */
  int32_t (*encap_detach)(uint32_t ifindex, const struct smpnet_encap_key *key);
  /*
   Frames of `parent` with the 802.1Q id `vid` (1 to 4094) go to `ifindex`'s `input`; -1 when taken. Control.
   */
  int32_t (*vlan_attach)(uint32_t parent, uint32_t vid, uint32_t ifindex);
  /*
   Ends `vlan_attach`, as `encap_detach`. Control.
   */
  int32_t (*vlan_detach)(uint32_t parent, uint32_t vid, uint32_t ifindex);
  /*
   Frames of `parent` with this EtherType go to `ifindex`'s `input`; -1 when taken. Control.
   */
  int32_t (*ether_attach)(uint32_t parent, uint32_t ether_type, uint32_t ifindex);
  /*
   Ends `ether_attach`, as `encap_detach`. Control.
   */
  int32_t (*ether_detach)(uint32_t parent, uint32_t ether_type, uint32_t ifindex);
  /*
   Index of the interface of that name, or 0. Any thread.
   */
  uint32_t (*if_lookup)(struct smpnet_text name);
  /*
   Fills `out`; -1 when there is no such interface. Any thread.
   */
  int32_t (*if_info)(uint32_t ifindex, struct smpnet_if_info *out);
  /*
   The link of an interface changed. Any thread.
   */
  void (*link_event)(uint32_t ifindex, const struct smpnet_link_state *link);
  /*
   The plugin's code panicked or found itself broken: the interface is quarantined and `what` logged. Any thread.
   */
  void (*fault)(uint32_t ifindex, struct smpnet_text what);
  /*
   Registers a counter; -1 when the name is taken. Control.
   */
  int32_t (*counter)(const struct smpnet_counter_desc *desc);
  /*
   Registers a sysctl node (`hw.null0.burst`); `set` null makes it read-only; -1 when the name is taken. Control.
   */
  int32_t (*sysctl)(struct smpnet_text path,
                    smpnet_sysctl_get_fn get,
                    int32_t (*set)(void *arg, uint64_t value),
                    void *arg);
  /*
   Removes a sysctl node. When it returns, neither `get` nor `set` runs. Control.
   */
  int32_t (*sysctl_remove)(struct smpnet_text path);
  /*
   Logs one line. Any thread; on a worker only for what is rare.
   */
  void (*log)(uint32_t level, struct smpnet_text target, struct smpnet_text message);
} smpnet_host_services;

/*
 A driver. `port` is the handle out of [`PortInfo`]. Functions that a driver lacks are still there and return
 [`crate::UNSUPPORTED`].

 Threads: `rx_burst`, `rx_arm` and `rx_disarm` of a queue are called by one worker only; `tx_burst` of a queue by one
 worker only; all else by control threads, one at a time per port. Control functions may run while workers are in
 `rx_burst` and `tx_burst`; only `close` may not.
 */
typedef struct smpnet_driver_table {
  /*
   Bytes of this table.
   */
  uint32_t size;
  /*
   Always 0.
   */
  uint32_t flags;
  /*
   Name of the driver (`driver = "..."` in the configuration); static.
   */
  struct smpnet_text name;
  /*
   One line on what it drives; static.
   */
  struct smpnet_text summary;
  /*
   Opens a port. `host` stays valid for ever. On failure `err` says why, and nothing stays behind.
   */
  int32_t (*open)(const struct smpnet_host_services *host,
                  const struct smpnet_port_config *config,
                  struct smpnet_port_info *out,
                  struct smpnet_err_buf *err);
  /*
   Closes the port: no worker calls it any more. Every cell it still holds goes back to the pool, every trace it left
   in the system is removed.
   */
  int32_t (*close)(void *port);
  /*
   Lets packets in (`up` 1) or stops them (`up` 0).
   */
  int32_t (*set_up)(void *port, uint32_t up, struct smpnet_err_buf *err);
  /*
   Receives at most `max` (1 to BURST_MAX) packets into `cells` and returns how many, or [`RX_FAULT`]. Cells come
   from `HostServices::pkt_alloc` of the same worker; ownership goes to the caller. The driver fills `next`,
   `pkt_len`, `data_off`, `data_len`, `nsegs`, `flags`, `rx_queue` and what its offloads promise; it sets `rcvif` to
   the port's interface and `mark` to 0.
   */
  uint32_t (*rx_burst)(void *port, uint32_t queue, uint32_t worker, smpnet_cell *cells, uint32_t max);
  /*
   Sends the packets `cells[0..n]` in order and returns how many it accepted, or [`RX_FAULT`]. The accepted ones are
   the driver's, which frees them by `pkt_free` of the same worker when they are sent; the rest stay the caller's.
   `n` 0 asks to reap sent packets and flush what is pending. With [`RX_FAULT`] all `n` are the plugin's.
   */
  uint32_t (*tx_burst)(void *port,
                       uint32_t queue,
                       uint32_t worker,
                       const smpnet_cell *cells,
                       uint32_t n);
  /*
   A descriptor that is readable while packets wait on the queue and it is armed; -1 when there is none.
   */
  int32_t (*event_fd)(void *port, uint32_t queue);
  /*
   The worker is about to sleep: from now on the event descriptor tells of packets. Returns 1 when packets wait
   already (so the worker does not sleep), else 0.
   */
  int32_t (*rx_arm)(void *port, uint32_t queue);
  /*
   The worker is awake: events are no longer needed.
   */
  int32_t (*rx_disarm)(void *port, uint32_t queue);
  /*
   Reads the link state.
   */
  int32_t (*link_state)(void *port, struct smpnet_link_state *out);
  /*
   Reads the statistics.
   */
  int32_t (*stats)(void *port, struct smpnet_port_stats *out);
  /*
   Writes at most `max` counters of the driver's own and returns how many there are.
   */
  uint32_t (*counters)(void *port, struct smpnet_named_counter *out, uint32_t max);
  /*
   Promiscuous mode.
   */
  int32_t (*set_promisc)(void *port, uint32_t on, struct smpnet_err_buf *err);
  /*
   The whole list of multicast addresses to receive; `all` 1 receives every multicast.
   */
  int32_t (*set_multicast)(void *port,
                           const struct smpnet_mac_addr *list,
                           uint32_t n,
                           uint32_t all,
                           struct smpnet_err_buf *err);
  /*
   The port's own address.
   */
  int32_t (*set_mac)(void *port, const struct smpnet_mac_addr *mac, struct smpnet_err_buf *err);
  /*
   The MTU, in bytes of the network layer.
   */
  int32_t (*set_mtu)(void *port, uint32_t mtu, struct smpnet_err_buf *err);
  /*
   Turns on exactly these bits of [`offload`], all of them offered by [`PortInfo::offloads`].
   */
  int32_t (*set_offloads)(void *port, uint32_t mask, struct smpnet_err_buf *err);
  /*
   RSS key and redirection table; sizes as in [`PortInfo`].
   */
  int32_t (*set_rss)(void *port,
                     const uint8_t *key,
                     uint32_t key_len,
                     const uint16_t *table,
                     uint32_t table_len,
                     struct smpnet_err_buf *err);
  /*
   One JSON object on the state of the port, for `smpnet ifconfig -v`.
   */
  int32_t (*status)(void *port, struct smpnet_err_buf *out);
} smpnet_driver_table;

/*
 How smpnet asks for an interface of a kind. Valid only during the call.
 */
typedef struct smpnet_if_config {
  /*
   Bytes of this structure.
   */
  uint32_t size;
  /*
   Index of the interface.
   */
  uint32_t ifindex;
  /*
   Name of the interface (`gif0`).
   */
  struct smpnet_text name;
  /*
   The kind's own options: a UTF-8 JSON object out of the configuration file or the command.
   */
  struct smpnet_text options;
  /*
   Workers of this router.
   */
  uint32_t workers;
  /*
   MTU wished for; 0 for the kind's own.
   */
  uint32_t mtu;
} smpnet_if_config;

/*
 What `create` and `configure` say of the interface.
 */
typedef struct smpnet_if_kind_info {
  /*
   Bytes of this structure, set by the caller.
   */
  uint32_t size;
  /*
   One of [`if_type`].
   */
  uint32_t if_type;
  /*
   The kind's handle of the interface.
   */
  void *handle;
  /*
   MTU in force.
   */
  uint32_t mtu;
  /*
   Smallest MTU that `configure` takes.
   */
  uint32_t mtu_min;
  /*
   Largest MTU that `configure` takes.
   */
  uint32_t mtu_max;
  /*
   Bits of [`crate::offload`] that the interface can do.
   */
  uint32_t offloads;
  /*
   Interface that carries this one (a vlan's parent); 0 for none. Link state follows it.
   */
  uint32_t parent;
  /*
   Address of an Ethernet interface; zero lets smpnet choose one.
   */
  struct smpnet_mac_addr mac;
  /*
   Always 0.
   */
  uint16_t _pad;
} smpnet_if_kind_info;

/*
 An interface kind.

 Threads: `output` and `input` are called by workers, any number at once for one interface (each passes its own
 `worker`); the rest by control threads, one at a time per interface. `destroy` is called when no worker can be in
 `output` or `input` any more.
 */
typedef struct smpnet_if_kind_table {
  /*
   Bytes of this table.
   */
  uint32_t size;
  /*
   Always 0.
   */
  uint32_t flags;
  /*
   Name of the kind (`gif`); static. Interfaces are named by it and a number.
   */
  struct smpnet_text name;
  /*
   One line on what it is; static.
   */
  struct smpnet_text summary;
  /*
   Makes an interface. On failure `err` says why and nothing stays behind.
   */
  int32_t (*create)(const struct smpnet_host_services *host,
                    const struct smpnet_if_config *config,
                    struct smpnet_if_kind_info *out,
                    struct smpnet_err_buf *err);
  /*
   Ends an interface.
   */
  int32_t (*destroy)(void *handle);
  /*
   Changes an interface to the given configuration, as a whole or, on failure, not at all; packets in flight see the
   old or the new one. `out` is filled as by `create`.
   */
  int32_t (*configure)(void *handle,
                       const struct smpnet_if_config *config,
                       struct smpnet_if_kind_info *out,
                       struct smpnet_err_buf *err);
  /*
   Sends packets: Ethernet frames or IP packets by [`IfKindInfo::if_type`]. The kind takes them all, and hands on to
   `HostServices::if_output` or `ip_output`, or gives them up through `pkt_drop`. Returns 0 or [`crate::FAULT`].
   */
  int32_t (*output)(void *handle, uint32_t worker, const smpnet_cell *cells, uint32_t n);
  /*
   Takes packets that a demultiplexer (vlan tag, EtherType, encapsulation) found to be this interface's. For vlan
   and EtherType the data begins at the Ethernet header, for encapsulation at the outer IP header (`l3_off`, with
   `l4_off` at the payload). The kind hands the inner packets to `HostServices::if_input`. Returns as `output`.
   */
  int32_t (*input)(void *handle, uint32_t worker, const smpnet_cell *cells, uint32_t n);
  /*
   One JSON object on the state of the interface.
   */
  int32_t (*status)(void *handle, struct smpnet_err_buf *out);
} smpnet_if_kind_table;

/*
 How smpnet asks for a filter. Valid only during the call.
 */
typedef struct smpnet_filter_config {
  /*
   Bytes of this structure.
   */
  uint32_t size;
  /*
   Workers of this router.
   */
  uint32_t workers;
  /*
   Name of this instance.
   */
  struct smpnet_text name;
  /*
   The filter's own options: a UTF-8 JSON object.
   */
  struct smpnet_text options;
} smpnet_filter_config;

/*
 A native filter. `filter` is called by workers, any number at once; the rest by control threads.
 */
typedef struct smpnet_filter_table {
  /*
   Bytes of this table.
   */
  uint32_t size;
  /*
   Bits of [`filter_flags`].
   */
  uint32_t flags;
  /*
   Name of the filter; static.
   */
  struct smpnet_text name;
  /*
   One line on what it does; static.
   */
  struct smpnet_text summary;
  /*
   Makes an instance; its handle goes to `*out`.
   */
  int32_t (*create)(const struct smpnet_host_services *host,
                    const struct smpnet_filter_config *config,
                    void **out,
                    struct smpnet_err_buf *err);
  /*
   Ends an instance that no worker can be in any more.
   */
  int32_t (*destroy)(void *handle);
  /*
   Judges `n` packets at a hook of `ifindex`: one of [`verdict`] for each into `verdicts`, which holds PASS for all of
   them at the call. Returns 0 or [`crate::FAULT`] (after `HostServices::fault` of interface 0 with the reason); also
   with that, packets whose verdict is CONSUMED are the filter's, and only those.
   */
  int32_t (*filter)(void *handle,
                    uint32_t worker,
                    uint32_t ifindex,
                    uint32_t direction,
                    const smpnet_cell *cells,
                    uint32_t n,
                    uint32_t *verdicts);
  /*
   One JSON object on the state of the instance.
   */
  int32_t (*status)(void *handle, struct smpnet_err_buf *out);
} smpnet_filter_table;

/*
 Writes a sysctl node's value; returns 0, or -1 when the value is out of range.
 */
typedef int32_t (*smpnet_sysctl_set_fn)(void *arg, uint64_t value);
SMPNET_ASSERT(sizeof(smpnet_pkt_hdr) == 64, "smpnet_pkt_hdr has another size");
SMPNET_ASSERT(offsetof(smpnet_pkt_hdr, next) == 0, "smpnet_pkt_hdr.next has moved");
SMPNET_ASSERT(offsetof(smpnet_pkt_hdr, pkt_len) == 4, "smpnet_pkt_hdr.pkt_len has moved");
SMPNET_ASSERT(offsetof(smpnet_pkt_hdr, data_off) == 8, "smpnet_pkt_hdr.data_off has moved");
SMPNET_ASSERT(offsetof(smpnet_pkt_hdr, data_len) == 10, "smpnet_pkt_hdr.data_len has moved");
SMPNET_ASSERT(offsetof(smpnet_pkt_hdr, rcvif) == 12, "smpnet_pkt_hdr.rcvif has moved");
SMPNET_ASSERT(offsetof(smpnet_pkt_hdr, l2_off) == 16, "smpnet_pkt_hdr.l2_off has moved");
SMPNET_ASSERT(offsetof(smpnet_pkt_hdr, l3_off) == 18, "smpnet_pkt_hdr.l3_off has moved");
SMPNET_ASSERT(offsetof(smpnet_pkt_hdr, l4_off) == 20, "smpnet_pkt_hdr.l4_off has moved");
SMPNET_ASSERT(offsetof(smpnet_pkt_hdr, ether_type) == 22, "smpnet_pkt_hdr.ether_type has moved");
SMPNET_ASSERT(offsetof(smpnet_pkt_hdr, flow_hash) == 24, "smpnet_pkt_hdr.flow_hash has moved");
SMPNET_ASSERT(offsetof(smpnet_pkt_hdr, vlan_tci) == 28, "smpnet_pkt_hdr.vlan_tci has moved");
SMPNET_ASSERT(offsetof(smpnet_pkt_hdr, l4_proto) == 30, "smpnet_pkt_hdr.l4_proto has moved");
SMPNET_ASSERT(offsetof(smpnet_pkt_hdr, nsegs) == 31, "smpnet_pkt_hdr.nsegs has moved");
SMPNET_ASSERT(offsetof(smpnet_pkt_hdr, flags) == 32, "smpnet_pkt_hdr.flags has moved");
SMPNET_ASSERT(offsetof(smpnet_pkt_hdr, gso_size) == 36, "smpnet_pkt_hdr.gso_size has moved");
SMPNET_ASSERT(offsetof(smpnet_pkt_hdr, csum_start) == 38, "smpnet_pkt_hdr.csum_start has moved");
SMPNET_ASSERT(offsetof(smpnet_pkt_hdr, csum_offset) == 40, "smpnet_pkt_hdr.csum_offset has moved");
SMPNET_ASSERT(offsetof(smpnet_pkt_hdr, rx_queue) == 42, "smpnet_pkt_hdr.rx_queue has moved");
SMPNET_ASSERT(offsetof(smpnet_pkt_hdr, mark) == 44, "smpnet_pkt_hdr.mark has moved");
SMPNET_ASSERT(offsetof(smpnet_pkt_hdr, scratch) == 48, "smpnet_pkt_hdr.scratch has moved");
SMPNET_ASSERT(sizeof(smpnet_pool_desc) == 40, "smpnet_pool_desc has another size");
SMPNET_ASSERT(offsetof(smpnet_pool_desc, size) == 0, "smpnet_pool_desc.size has moved");
SMPNET_ASSERT(offsetof(smpnet_pool_desc, cell_size) == 4, "smpnet_pool_desc.cell_size has moved");
SMPNET_ASSERT(offsetof(smpnet_pool_desc, base) == 8, "smpnet_pool_desc.base has moved");
SMPNET_ASSERT(offsetof(smpnet_pool_desc, bytes) == 16, "smpnet_pool_desc.bytes has moved");
SMPNET_ASSERT(offsetof(smpnet_pool_desc, cells) == 24, "smpnet_pool_desc.cells has moved");
SMPNET_ASSERT(offsetof(smpnet_pool_desc, data_off) == 28, "smpnet_pool_desc.data_off has moved");
SMPNET_ASSERT(offsetof(smpnet_pool_desc, fd) == 32, "smpnet_pool_desc.fd has moved");
SMPNET_ASSERT(offsetof(smpnet_pool_desc, page_size) == 36, "smpnet_pool_desc.page_size has moved");
SMPNET_ASSERT(sizeof(smpnet_text) == 16, "smpnet_text has another size");
SMPNET_ASSERT(offsetof(smpnet_text, ptr) == 0, "smpnet_text.ptr has moved");
SMPNET_ASSERT(offsetof(smpnet_text, len) == 8, "smpnet_text.len has moved");
SMPNET_ASSERT(offsetof(smpnet_text, _pad) == 12, "smpnet_text._pad has moved");
SMPNET_ASSERT(sizeof(smpnet_err_buf) == 16, "smpnet_err_buf has another size");
SMPNET_ASSERT(offsetof(smpnet_err_buf, ptr) == 0, "smpnet_err_buf.ptr has moved");
SMPNET_ASSERT(offsetof(smpnet_err_buf, cap) == 8, "smpnet_err_buf.cap has moved");
SMPNET_ASSERT(offsetof(smpnet_err_buf, len) == 12, "smpnet_err_buf.len has moved");
SMPNET_ASSERT(sizeof(smpnet_pci_id) == 8, "smpnet_pci_id has another size");
SMPNET_ASSERT(offsetof(smpnet_pci_id, vendor) == 0, "smpnet_pci_id.vendor has moved");
SMPNET_ASSERT(offsetof(smpnet_pci_id, device) == 2, "smpnet_pci_id.device has moved");
SMPNET_ASSERT(offsetof(smpnet_pci_id, subvendor) == 4, "smpnet_pci_id.subvendor has moved");
SMPNET_ASSERT(offsetof(smpnet_pci_id, subdevice) == 6, "smpnet_pci_id.subdevice has moved");
SMPNET_ASSERT(sizeof(smpnet_manifest) == 720, "smpnet_manifest has another size");
SMPNET_ASSERT(offsetof(smpnet_manifest, magic) == 0, "smpnet_manifest.magic has moved");
SMPNET_ASSERT(offsetof(smpnet_manifest, size) == 8, "smpnet_manifest.size has moved");
SMPNET_ASSERT(offsetof(smpnet_manifest, abi_major) == 12, "smpnet_manifest.abi_major has moved");
SMPNET_ASSERT(offsetof(smpnet_manifest, abi_minor) == 14, "smpnet_manifest.abi_minor has moved");
SMPNET_ASSERT(offsetof(smpnet_manifest, kinds) == 16, "smpnet_manifest.kinds has moved");
SMPNET_ASSERT(offsetof(smpnet_manifest, privileges) == 20, "smpnet_manifest.privileges has moved");
SMPNET_ASSERT(offsetof(smpnet_manifest, name) == 24, "smpnet_manifest.name has moved");
SMPNET_ASSERT(offsetof(smpnet_manifest, version) == 56, "smpnet_manifest.version has moved");
SMPNET_ASSERT(offsetof(smpnet_manifest, license) == 80, "smpnet_manifest.license has moved");
SMPNET_ASSERT(offsetof(smpnet_manifest, summary) == 112, "smpnet_manifest.summary has moved");
SMPNET_ASSERT(offsetof(smpnet_manifest, pci) == 208, "smpnet_manifest.pci has moved");
SMPNET_ASSERT(sizeof(smpnet_mac_addr) == 6, "smpnet_mac_addr has another size");
SMPNET_ASSERT(offsetof(smpnet_mac_addr, bytes) == 0, "smpnet_mac_addr.bytes has moved");
SMPNET_ASSERT(sizeof(smpnet_port_config) == 56, "smpnet_port_config has another size");
SMPNET_ASSERT(offsetof(smpnet_port_config, size) == 0, "smpnet_port_config.size has moved");
SMPNET_ASSERT(offsetof(smpnet_port_config, ifindex) == 4, "smpnet_port_config.ifindex has moved");
SMPNET_ASSERT(offsetof(smpnet_port_config, name) == 8, "smpnet_port_config.name has moved");
SMPNET_ASSERT(offsetof(smpnet_port_config, options) == 24, "smpnet_port_config.options has moved");
SMPNET_ASSERT(offsetof(smpnet_port_config, rx_queues) == 40, "smpnet_port_config.rx_queues has moved");
SMPNET_ASSERT(offsetof(smpnet_port_config, tx_queues) == 42, "smpnet_port_config.tx_queues has moved");
SMPNET_ASSERT(offsetof(smpnet_port_config, workers) == 44, "smpnet_port_config.workers has moved");
SMPNET_ASSERT(offsetof(smpnet_port_config, mtu) == 48, "smpnet_port_config.mtu has moved");
SMPNET_ASSERT(offsetof(smpnet_port_config, _pad) == 52, "smpnet_port_config._pad has moved");
SMPNET_ASSERT(sizeof(smpnet_port_info) == 48, "smpnet_port_info has another size");
SMPNET_ASSERT(offsetof(smpnet_port_info, size) == 0, "smpnet_port_info.size has moved");
SMPNET_ASSERT(offsetof(smpnet_port_info, flags) == 4, "smpnet_port_info.flags has moved");
SMPNET_ASSERT(offsetof(smpnet_port_info, port) == 8, "smpnet_port_info.port has moved");
SMPNET_ASSERT(offsetof(smpnet_port_info, rx_queues) == 16, "smpnet_port_info.rx_queues has moved");
SMPNET_ASSERT(offsetof(smpnet_port_info, tx_queues) == 18, "smpnet_port_info.tx_queues has moved");
SMPNET_ASSERT(offsetof(smpnet_port_info, mtu) == 20, "smpnet_port_info.mtu has moved");
SMPNET_ASSERT(offsetof(smpnet_port_info, mtu_max) == 24, "smpnet_port_info.mtu_max has moved");
SMPNET_ASSERT(offsetof(smpnet_port_info, offloads) == 28, "smpnet_port_info.offloads has moved");
SMPNET_ASSERT(offsetof(smpnet_port_info, mac) == 32, "smpnet_port_info.mac has moved");
SMPNET_ASSERT(offsetof(smpnet_port_info, rss_table) == 38, "smpnet_port_info.rss_table has moved");
SMPNET_ASSERT(offsetof(smpnet_port_info, rss_key) == 40, "smpnet_port_info.rss_key has moved");
SMPNET_ASSERT(offsetof(smpnet_port_info, _pad) == 42, "smpnet_port_info._pad has moved");
SMPNET_ASSERT(sizeof(smpnet_link_state) == 16, "smpnet_link_state has another size");
SMPNET_ASSERT(offsetof(smpnet_link_state, state) == 0, "smpnet_link_state.state has moved");
SMPNET_ASSERT(offsetof(smpnet_link_state, full_duplex) == 4, "smpnet_link_state.full_duplex has moved");
SMPNET_ASSERT(offsetof(smpnet_link_state, speed) == 8, "smpnet_link_state.speed has moved");
SMPNET_ASSERT(offsetof(smpnet_link_state, _pad) == 12, "smpnet_link_state._pad has moved");
SMPNET_ASSERT(sizeof(smpnet_port_stats) == 56, "smpnet_port_stats has another size");
SMPNET_ASSERT(offsetof(smpnet_port_stats, rx_packets) == 0, "smpnet_port_stats.rx_packets has moved");
SMPNET_ASSERT(offsetof(smpnet_port_stats, rx_bytes) == 8, "smpnet_port_stats.rx_bytes has moved");
SMPNET_ASSERT(offsetof(smpnet_port_stats, rx_missed) == 16, "smpnet_port_stats.rx_missed has moved");
SMPNET_ASSERT(offsetof(smpnet_port_stats, rx_errors) == 24, "smpnet_port_stats.rx_errors has moved");
SMPNET_ASSERT(offsetof(smpnet_port_stats, tx_packets) == 32, "smpnet_port_stats.tx_packets has moved");
SMPNET_ASSERT(offsetof(smpnet_port_stats, tx_bytes) == 40, "smpnet_port_stats.tx_bytes has moved");
SMPNET_ASSERT(offsetof(smpnet_port_stats, tx_errors) == 48, "smpnet_port_stats.tx_errors has moved");
SMPNET_ASSERT(sizeof(smpnet_named_counter) == 48, "smpnet_named_counter has another size");
SMPNET_ASSERT(offsetof(smpnet_named_counter, name) == 0, "smpnet_named_counter.name has moved");
SMPNET_ASSERT(offsetof(smpnet_named_counter, value) == 40, "smpnet_named_counter.value has moved");
SMPNET_ASSERT(sizeof(smpnet_driver_table) == 184, "smpnet_driver_table has another size");
SMPNET_ASSERT(offsetof(smpnet_driver_table, size) == 0, "smpnet_driver_table.size has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, flags) == 4, "smpnet_driver_table.flags has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, name) == 8, "smpnet_driver_table.name has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, summary) == 24, "smpnet_driver_table.summary has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, open) == 40, "smpnet_driver_table.open has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, close) == 48, "smpnet_driver_table.close has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, set_up) == 56, "smpnet_driver_table.set_up has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, rx_burst) == 64, "smpnet_driver_table.rx_burst has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, tx_burst) == 72, "smpnet_driver_table.tx_burst has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, event_fd) == 80, "smpnet_driver_table.event_fd has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, rx_arm) == 88, "smpnet_driver_table.rx_arm has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, rx_disarm) == 96, "smpnet_driver_table.rx_disarm has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, link_state) == 104, "smpnet_driver_table.link_state has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, stats) == 112, "smpnet_driver_table.stats has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, counters) == 120, "smpnet_driver_table.counters has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, set_promisc) == 128, "smpnet_driver_table.set_promisc has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, set_multicast) == 136, "smpnet_driver_table.set_multicast has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, set_mac) == 144, "smpnet_driver_table.set_mac has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, set_mtu) == 152, "smpnet_driver_table.set_mtu has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, set_offloads) == 160, "smpnet_driver_table.set_offloads has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, set_rss) == 168, "smpnet_driver_table.set_rss has moved");
SMPNET_ASSERT(offsetof(smpnet_driver_table, status) == 176, "smpnet_driver_table.status has moved");
SMPNET_ASSERT(sizeof(smpnet_if_config) == 48, "smpnet_if_config has another size");
SMPNET_ASSERT(offsetof(smpnet_if_config, size) == 0, "smpnet_if_config.size has moved");
SMPNET_ASSERT(offsetof(smpnet_if_config, ifindex) == 4, "smpnet_if_config.ifindex has moved");
SMPNET_ASSERT(offsetof(smpnet_if_config, name) == 8, "smpnet_if_config.name has moved");
SMPNET_ASSERT(offsetof(smpnet_if_config, options) == 24, "smpnet_if_config.options has moved");
SMPNET_ASSERT(offsetof(smpnet_if_config, workers) == 40, "smpnet_if_config.workers has moved");
SMPNET_ASSERT(offsetof(smpnet_if_config, mtu) == 44, "smpnet_if_config.mtu has moved");
SMPNET_ASSERT(sizeof(smpnet_if_kind_info) == 48, "smpnet_if_kind_info has another size");
SMPNET_ASSERT(offsetof(smpnet_if_kind_info, size) == 0, "smpnet_if_kind_info.size has moved");
SMPNET_ASSERT(offsetof(smpnet_if_kind_info, if_type) == 4, "smpnet_if_kind_info.if_type has moved");
SMPNET_ASSERT(offsetof(smpnet_if_kind_info, handle) == 8, "smpnet_if_kind_info.handle has moved");
SMPNET_ASSERT(offsetof(smpnet_if_kind_info, mtu) == 16, "smpnet_if_kind_info.mtu has moved");
SMPNET_ASSERT(offsetof(smpnet_if_kind_info, mtu_min) == 20, "smpnet_if_kind_info.mtu_min has moved");
SMPNET_ASSERT(offsetof(smpnet_if_kind_info, mtu_max) == 24, "smpnet_if_kind_info.mtu_max has moved");
SMPNET_ASSERT(offsetof(smpnet_if_kind_info, offloads) == 28, "smpnet_if_kind_info.offloads has moved");
SMPNET_ASSERT(offsetof(smpnet_if_kind_info, parent) == 32, "smpnet_if_kind_info.parent has moved");
SMPNET_ASSERT(offsetof(smpnet_if_kind_info, mac) == 36, "smpnet_if_kind_info.mac has moved");
SMPNET_ASSERT(offsetof(smpnet_if_kind_info, _pad) == 42, "smpnet_if_kind_info._pad has moved");
SMPNET_ASSERT(sizeof(smpnet_if_kind_table) == 88, "smpnet_if_kind_table has another size");
SMPNET_ASSERT(offsetof(smpnet_if_kind_table, size) == 0, "smpnet_if_kind_table.size has moved");
SMPNET_ASSERT(offsetof(smpnet_if_kind_table, flags) == 4, "smpnet_if_kind_table.flags has moved");
SMPNET_ASSERT(offsetof(smpnet_if_kind_table, name) == 8, "smpnet_if_kind_table.name has moved");
SMPNET_ASSERT(offsetof(smpnet_if_kind_table, summary) == 24, "smpnet_if_kind_table.summary has moved");
SMPNET_ASSERT(offsetof(smpnet_if_kind_table, create) == 40, "smpnet_if_kind_table.create has moved");
SMPNET_ASSERT(offsetof(smpnet_if_kind_table, destroy) == 48, "smpnet_if_kind_table.destroy has moved");
SMPNET_ASSERT(offsetof(smpnet_if_kind_table, configure) == 56, "smpnet_if_kind_table.configure has moved");
SMPNET_ASSERT(offsetof(smpnet_if_kind_table, output) == 64, "smpnet_if_kind_table.output has moved");
SMPNET_ASSERT(offsetof(smpnet_if_kind_table, input) == 72, "smpnet_if_kind_table.input has moved");
SMPNET_ASSERT(offsetof(smpnet_if_kind_table, status) == 80, "smpnet_if_kind_table.status has moved");
SMPNET_ASSERT(sizeof(smpnet_filter_config) == 40, "smpnet_filter_config has another size");
SMPNET_ASSERT(offsetof(smpnet_filter_config, size) == 0, "smpnet_filter_config.size has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_config, workers) == 4, "smpnet_filter_config.workers has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_config, name) == 8, "smpnet_filter_config.name has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_config, options) == 24, "smpnet_filter_config.options has moved");
SMPNET_ASSERT(sizeof(smpnet_filter_table) == 72, "smpnet_filter_table has another size");
SMPNET_ASSERT(offsetof(smpnet_filter_table, size) == 0, "smpnet_filter_table.size has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_table, flags) == 4, "smpnet_filter_table.flags has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_table, name) == 8, "smpnet_filter_table.name has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_table, summary) == 24, "smpnet_filter_table.summary has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_table, create) == 40, "smpnet_filter_table.create has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_table, destroy) == 48, "smpnet_filter_table.destroy has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_table, filter) == 56, "smpnet_filter_table.filter has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_table, status) == 64, "smpnet_filter_table.status has moved");
SMPNET_ASSERT(sizeof(smpnet_if_info) == 48, "smpnet_if_info has another size");
SMPNET_ASSERT(offsetof(smpnet_if_info, size) == 0, "smpnet_if_info.size has moved");
SMPNET_ASSERT(offsetof(smpnet_if_info, ifindex) == 4, "smpnet_if_info.ifindex has moved");
SMPNET_ASSERT(offsetof(smpnet_if_info, if_type) == 8, "smpnet_if_info.if_type has moved");
SMPNET_ASSERT(offsetof(smpnet_if_info, flags) == 12, "smpnet_if_info.flags has moved");
SMPNET_ASSERT(offsetof(smpnet_if_info, mtu) == 16, "smpnet_if_info.mtu has moved");
SMPNET_ASSERT(offsetof(smpnet_if_info, offloads) == 20, "smpnet_if_info.offloads has moved");
SMPNET_ASSERT(offsetof(smpnet_if_info, mac) == 24, "smpnet_if_info.mac has moved");
SMPNET_ASSERT(offsetof(smpnet_if_info, _pad) == 30, "smpnet_if_info._pad has moved");
SMPNET_ASSERT(offsetof(smpnet_if_info, name) == 32, "smpnet_if_info.name has moved");
SMPNET_ASSERT(sizeof(smpnet_encap_key) == 36, "smpnet_encap_key has another size");
SMPNET_ASSERT(offsetof(smpnet_encap_key, version) == 0, "smpnet_encap_key.version has moved");
SMPNET_ASSERT(offsetof(smpnet_encap_key, protocol) == 1, "smpnet_encap_key.protocol has moved");
SMPNET_ASSERT(offsetof(smpnet_encap_key, _pad) == 2, "smpnet_encap_key._pad has moved");
SMPNET_ASSERT(offsetof(smpnet_encap_key, remote) == 4, "smpnet_encap_key.remote has moved");
SMPNET_ASSERT(offsetof(smpnet_encap_key, local) == 20, "smpnet_encap_key.local has moved");
SMPNET_ASSERT(sizeof(smpnet_counter_desc) == 48, "smpnet_counter_desc has another size");
SMPNET_ASSERT(offsetof(smpnet_counter_desc, size) == 0, "smpnet_counter_desc.size has moved");
SMPNET_ASSERT(offsetof(smpnet_counter_desc, stride) == 4, "smpnet_counter_desc.stride has moved");
SMPNET_ASSERT(offsetof(smpnet_counter_desc, base) == 8, "smpnet_counter_desc.base has moved");
SMPNET_ASSERT(offsetof(smpnet_counter_desc, owner) == 16, "smpnet_counter_desc.owner has moved");
SMPNET_ASSERT(offsetof(smpnet_counter_desc, name) == 32, "smpnet_counter_desc.name has moved");
SMPNET_ASSERT(sizeof(smpnet_host_services) == 216, "smpnet_host_services has another size");
SMPNET_ASSERT(offsetof(smpnet_host_services, size) == 0, "smpnet_host_services.size has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, abi_major) == 4, "smpnet_host_services.abi_major has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, abi_minor) == 6, "smpnet_host_services.abi_minor has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, workers) == 8, "smpnet_host_services.workers has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, _pad) == 12, "smpnet_host_services._pad has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, pool) == 16, "smpnet_host_services.pool has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, pkt_alloc) == 24, "smpnet_host_services.pkt_alloc has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, pkt_free) == 32, "smpnet_host_services.pkt_free has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, pkt_drop) == 40, "smpnet_host_services.pkt_drop has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, if_input) == 48, "smpnet_host_services.if_input has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, if_output) == 56, "smpnet_host_services.if_output has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, ip_output) == 64, "smpnet_host_services.ip_output has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, now_ns) == 72, "smpnet_host_services.now_ns has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, callout) == 80, "smpnet_host_services.callout has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, callout_stop) == 88, "smpnet_host_services.callout_stop has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, work) == 96, "smpnet_host_services.work has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, encap_attach) == 104, "smpnet_host_services.encap_attach has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, encap_detach) == 112, "smpnet_host_services.encap_detach has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, vlan_attach) == 120, "smpnet_host_services.vlan_attach has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, vlan_detach) == 128, "smpnet_host_services.vlan_detach has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, ether_attach) == 136, "smpnet_host_services.ether_attach has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, ether_detach) == 144, "smpnet_host_services.ether_detach has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, if_lookup) == 152, "smpnet_host_services.if_lookup has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, if_info) == 160, "smpnet_host_services.if_info has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, link_event) == 168, "smpnet_host_services.link_event has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, fault) == 176, "smpnet_host_services.fault has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, counter) == 184, "smpnet_host_services.counter has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, sysctl) == 192, "smpnet_host_services.sysctl has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, sysctl_remove) == 200, "smpnet_host_services.sysctl_remove has moved");
SMPNET_ASSERT(offsetof(smpnet_host_services, log) == 208, "smpnet_host_services.log has moved");

#endif /* SMPNET_PLUGIN_H */
