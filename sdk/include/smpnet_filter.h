/* smpnet's filter ABI, generated from abi/filter: cargo run -p smpnet-filter-abi --example header
 *
 * For authors of packet filters in C, built with clang --target=wasm32; it needs no C library. The words that go with it
 * stand below and, at the end, what each helper does. SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The filter ABI, version 1: what smpnet and a WebAssembly packet filter of anybody's say to each other.
 *
 * A filter is one core WebAssembly module (wasm32, its own memory) with a manifest. smpnet makes one instance of it for each
 * worker, so a filter is never entered by two threads and needs no atomics. Packets come in bursts of up to
 * `BURST_MAX`: smpnet copies what the filter may see of them into the module's memory, calls it once, and reads the
 * verdicts. The module never touches packet memory.
 *
 * # Manifest
 * A custom section named `MANIFEST_SECTION` holds one JSON object:
 * ```json
 * { "abi": "1.0", "name": "dns-blocklist", "version": "0.1.0", "summary": "drops queries for listed names",
 *   "window": 256, "memory": 17, "tick_ms": 1000,
 *   "capabilities": ["tables"], "counters": ["queries", "blocked"],
 *   "tables": [{ "name": "names", "kind": "exact" }] }
 * ```
 * `abi` and `name` are required. `window` is how many bytes of each packet are copied (`WINDOW_DEFAULT` unless told, at
 * most `WINDOW_MAX`, a multiple of 16), `memory` the most pages of 64 KiB that the memory may grow to, `tick_ms` how often
 * `export::TICK` is called at most. `capabilities` are those of `capability` that the module uses: the operator grants
 * them. `counters` (at most `COUNTERS_MAX`) and `tables` are used by their place in the list.
 *
 * # Exports
 * | name | type | |
 * |---|---|---|
 * | `memory` | memory | required; not imported |
 * | `export::RING` | `() -> i32` | required: address of a `Ring` and the windows behind it, aligned to 16; called once |
 * | `export::FILTER` | `(n: i32) -> i32` | required: judges the first `n` packets of the ring, returns `n` |
 * | `export::INIT` | `(len: i32) -> i32` | the configuration, `len` bytes at the windows; not 0 refuses it |
 * | `export::TICK` | `(now_ns: i64)` | before the first burst after `tick_ms` have passed |
 * | `export::STATE_EXPORT` | `(off: i32) -> i32` | writes state from `off` on to the windows, returns how many bytes; 0 ends |
 * | `export::STATE_IMPORT` | `(off: i32, len: i32) -> i32` | takes that; not 0 discards it, the instance is then made anew |
 *
 * A Rust `_initialize` or a `start` function is run first. State is exported from the old generation's instance of a worker
 * and imported into the new one's at a swap, when both have the function; at most `STATE_MAX` bytes.
 *
 * # Imports
 * All from module `import::MODULE`, all optional. A wrong pointer, length or table number ends the call with a fault.
 * | name | type | |
 * |---|---|---|
 * | `import::LOG` | `(level: i32, ptr: i32, len: i32)` | a line for the log, at most `LOG_MAX` bytes, rate-limited; needs `log` |
 * | `import::CLOCK` | `() -> i64` | nanoseconds since boot; needs `clock`. `Ring::now_ns` costs nothing |
 * | `import::EXACT` | `(table, keys, stride, n, out: i32) -> i32` | looks up `n` keys; needs `tables` |
 * | `import::PREFIX` | `(table, keys, n, out: i32) -> i32` | the longest prefixes of `n` addresses; needs `tables` |
 *
 * Look-ups are for many keys at once (at most `LOOKUPS_MAX`), as a call out of a module costs several nanoseconds. An exact
 * key is a `u16` length and as many bytes (at most `KEY_MAX`), one key every `stride` bytes; an address is 4 bytes (`ipv4`
 * tables) or 16 (`ipv6`) in network order, one after the other. `out` takes a `u32` for each: the value, or `ABSENT`. The
 * result is how many were there.
 *
 * # Verdicts
 * One `Verdict` a packet, all PASS before the call. DROP ends the packet's life, counted as `filtered`;
 * `verdict::REJECT` also answers with ICMP (needs `reject`); `verdict::MARK` sets the packet's mark (needs `mark`).
 * Packets are changed by patches: records of a `Patch` and its bytes, padded to 4, one after the other from
 * `Ring::patches` on; the filter sets `Ring::patch_len` (needs `edit`).
 *
 * # Faults
 * A trap, an overrun time budget, a result other than `n`, an unknown verdict, a patch outside of the packet or an action
 * without its capability is a fault: the whole burst is judged by the operator's policy, the instance is thrown away and made
 * anew.
 *
 * # Versions
 * The major number changes when an old module could not run any more, the minor number when something is added. A host of
 * version 1.N runs every module of 1.0 to 1.N, for ever. What is reserved is written as 0 and not read.
 *
 * All integers in memory are little-endian. Nothing here has padding, and tests keep every size and offset where it is.
 */
#ifndef SMPNET_FILTER_H
#define SMPNET_FILTER_H

#include <stddef.h>
#include <stdint.h>

#ifndef SMPNET_ASSERT
#if defined(__cplusplus)
#define SMPNET_ASSERT static_assert
#else
#define SMPNET_ASSERT _Static_assert
#endif
#endif

/* Version of this ABI, as the manifest writes it. */
#define SMPNET_FILTER_VERSION "1.0"
/* Major version. */
#define SMPNET_FILTER_VERSION_MAJOR 1u
/* Minor version. */
#define SMPNET_FILTER_VERSION_MINOR 0u
/* Name of the custom section that holds the manifest. */
#define SMPNET_FILTER_MANIFEST_SECTION "smpnet.filter"
/* Most packets in one call. */
#define SMPNET_FILTER_BURST_MAX 64u
/* Bytes that are copied of each packet when the manifest says nothing. */
#define SMPNET_FILTER_WINDOW_DEFAULT 128u
/* Most bytes that a manifest may ask for of each packet. */
#define SMPNET_FILTER_WINDOW_MAX 2048u
/* Most counters of a module. */
#define SMPNET_FILTER_COUNTERS_MAX 32u
/* Most tables of a module. */
#define SMPNET_FILTER_TABLES_MAX 16u
/* Most bytes of an exact key. */
#define SMPNET_FILTER_KEY_MAX 255u
/* Most keys in one look-up; more end the call with a fault. */
#define SMPNET_FILTER_LOOKUPS_MAX 1024u
/* Most bytes of a log line; the rest is cut off. */
#define SMPNET_FILTER_LOG_MAX 256u
/* Most bytes of state that pass from one generation to the next. */
#define SMPNET_FILTER_STATE_MAX (1u << 20)
/* What a look-up writes for a key that is not in the table; no value of an entry. */
#define SMPNET_FILTER_ABSENT 0xffffffffu
/* An offset in [`Packet`] that is not known. */
#define SMPNET_FILTER_NO_OFFSET 0xffffu

/* Names of what a module exports. */
/* Its memory. */
#define SMPNET_FILTER_EXPORT_MEMORY "memory"
/* Where the ring is. */
#define SMPNET_FILTER_EXPORT_RING "smpnet_ring"
/* Judges packets. */
#define SMPNET_FILTER_EXPORT_FILTER "smpnet_filter"
/* Takes the configuration. */
#define SMPNET_FILTER_EXPORT_INIT "smpnet_init"
/* Time passes. */
#define SMPNET_FILTER_EXPORT_TICK "smpnet_tick"
/* Gives state to the next generation. */
#define SMPNET_FILTER_EXPORT_STATE_EXPORT "smpnet_state_export"
/* Takes state from the last generation. */
#define SMPNET_FILTER_EXPORT_STATE_IMPORT "smpnet_state_import"

/* Names of what a module may import. */
/* The module that all of them are in. */
#define SMPNET_FILTER_IMPORT_MODULE "smpnet"
/* Writes a line to the log. */
#define SMPNET_FILTER_IMPORT_LOG "log"
/* The time. */
#define SMPNET_FILTER_IMPORT_CLOCK "clock_ns"
/* Exact look-up in a table of the host. */
#define SMPNET_FILTER_IMPORT_EXACT "table_exact"
/* Longest-prefix look-up in a table of the host. */
#define SMPNET_FILTER_IMPORT_PREFIX "table_prefix"

/* What a module may be allowed to do. */
/* Write to the log. Granted unless the operator refuses it. */
#define SMPNET_FILTER_CAPABILITY_LOG "log"
/* Read the clock. Granted unless the operator refuses it. */
#define SMPNET_FILTER_CAPABILITY_CLOCK "clock"
/* Look into tables of the host. */
#define SMPNET_FILTER_CAPABILITY_TABLES "tables"
/* Set marks. */
#define SMPNET_FILTER_CAPABILITY_MARK "mark"
/* Change packets. */
#define SMPNET_FILTER_CAPABILITY_EDIT "edit"
/* Answer with ICMP errors. */
#define SMPNET_FILTER_CAPABILITY_REJECT "reject"

/* Values of [`Ring::layer`]: what the packets' data begins with. */
/* An Ethernet header. */
#define SMPNET_FILTER_LAYER_ETHER 1u
/* An IPv4 header. */
#define SMPNET_FILTER_LAYER_INET 2u
/* An IPv6 header. */
#define SMPNET_FILTER_LAYER_INET6 3u

/* Values of [`Ring::direction`]. */
/* Coming in. */
#define SMPNET_FILTER_DIRECTION_IN 1u
/* Going out. */
#define SMPNET_FILTER_DIRECTION_OUT 2u

/* Bits of [`Packet::flags`]. */
/* The packet came as a link-level broadcast. */
#define SMPNET_FILTER_PACKET_FLAGS_BROADCAST (1u << 0)
/* The packet came as a link-level multicast. */
#define SMPNET_FILTER_PACKET_FLAGS_MULTICAST (1u << 1)
/* `flow_hash` is valid. */
#define SMPNET_FILTER_PACKET_FLAGS_HASH (1u << 2)
/* `vlan_tci` is valid: the packet carries an 802.1Q tag that is not in its bytes. */
#define SMPNET_FILTER_PACKET_FLAGS_VLAN (1u << 3)
/* The packet is longer than the window. */
#define SMPNET_FILTER_PACKET_FLAGS_CUT (1u << 4)
/* The packet will be cut into segments when it leaves. */
#define SMPNET_FILTER_PACKET_FLAGS_GSO (1u << 5)
/* Made by this machine, not forwarded. */
#define SMPNET_FILTER_PACKET_FLAGS_LOCAL (1u << 6)

/* Values of [`Verdict::verdict`]: the low 8 bits are one of the first three. */
/* Goes on. */
#define SMPNET_FILTER_VERDICT_PASS 0u
/* Is dropped. */
#define SMPNET_FILTER_VERDICT_DROP 1u
/* Is dropped, and its sender is told by ICMP. */
#define SMPNET_FILTER_VERDICT_REJECT 3u
/* The packet's mark becomes [`super::Verdict::mark`]; may be added to PASS. */
#define SMPNET_FILTER_VERDICT_MARK (1u << 8)

/* Levels of the log. */
/* Something is wrong. */
#define SMPNET_FILTER_LEVEL_ERROR 1u
/* Something may be wrong. */
#define SMPNET_FILTER_LEVEL_WARN 2u
/* Worth knowing. */
#define SMPNET_FILTER_LEVEL_INFO 3u
/* For the author of the filter. */
#define SMPNET_FILTER_LEVEL_DEBUG 4u

/* Bits of [`Patch::flags`]. */
/* The host corrects the IPv4 header checksum for what the patch changes. */
#define SMPNET_FILTER_PATCH_FLAGS_FIX_IPV4 (1u << 0)
/* The host corrects the TCP, UDP or ICMP checksum for what the patch changes, addresses included. */
#define SMPNET_FILTER_PATCH_FLAGS_FIX_L4 (1u << 1)
/* Bytes for patches in a [`Ring`]. */
#define SMPNET_FILTER_PATCH_BYTES 5312u

/*
 What the host says of a packet.
 */
typedef struct smpnet_filter_packet {
  /*
   Address of its first byte in the module's memory.
   */
  uint32_t data;
  /*
   Bytes that are there: the packet's length or the window, whichever is less.
   */
  uint16_t cap_len;
  /*
   Bits of [`packet_flags`].
   */
  uint16_t flags;
  /*
   Bytes that the packet has.
   */
  uint32_t wire_len;
  /*
   Symmetric hash of its flow: both directions have the same.
   */
  uint32_t flow_hash;
  /*
   Its mark, 0 unless somebody set one.
   */
  uint32_t mark;
  /*
   The interface that it came through; 0 for none.
   */
  uint32_t rcvif;
  /*
   Where the network header begins, from `data`, or [`NO_OFFSET`].
   */
  uint16_t l3_off;
  /*
   Where the transport header begins, from `data`, or [`NO_OFFSET`].
   */
  uint16_t l4_off;
  /*
   EtherType of the network header in host order; 0 when it is not known.
   */
  uint16_t ether_type;
  /*
   802.1Q tag control information, valid with [`packet_flags::VLAN`].
   */
  uint16_t vlan_tci;
} smpnet_filter_packet;

/*
 What the filter says of a packet.
 */
typedef struct smpnet_filter_verdict {
  /*
   See [`verdict`].
   */
  uint32_t verdict;
  /*
   The mark, with [`verdict::MARK`].
   */
  uint32_t mark;
} smpnet_filter_verdict;

/*
 Head of a change to a packet; `len` bytes follow, padded with bytes of any value to a multiple of 4.
 */
typedef struct smpnet_filter_patch {
  /*
   Place of the packet in the burst.
   */
  uint8_t packet;
  /*
   Bits of [`patch_flags`].
   */
  uint8_t flags;
  /*
   Where the bytes go, from the packet's first byte. They must lie inside of the window.
   */
  uint16_t off;
  /*
   How many bytes.
   */
  uint16_t len;
  /*
   Always 0.
   */
  uint16_t reserved;
} smpnet_filter_patch;

/*
 What host and module share: written by the host before a call, except for `verdicts`, `counters`, `patches` and
 `patch_len`, which the module writes (and finds as zeros, `patches` excepted). [`BURST_MAX`] windows follow, each as
 many bytes as the manifest says.
 */
typedef struct smpnet_filter_ring {
  /*
   Packets in this burst.
   */
  uint32_t n;
  /*
   See [`layer`].
   */
  uint32_t layer;
  /*
   See [`direction`].
   */
  uint32_t direction;
  /*
   The interface that the filter is asked at.
   */
  uint32_t ifindex;
  /*
   The worker's clock at the start of the burst: nanoseconds since boot.
   */
  uint64_t now_ns;
  /*
   Generation of the filter: 1 for the first, one more for each swap.
   */
  uint64_t generation;
  /*
   Index of the worker that this instance belongs to.
   */
  uint32_t worker;
  /*
   How many workers there are.
   */
  uint32_t workers;
  /*
   Bytes of a window.
   */
  uint32_t window;
  /*
   Bytes of patches that the module wrote.
   */
  uint32_t patch_len;
  /*
   Always 0.
   */
  uint32_t reserved[4];
  /*
   The packets.
   */
  struct smpnet_filter_packet packets[SMPNET_FILTER_BURST_MAX];
  /*
   What the module says of them.
   */
  struct smpnet_filter_verdict verdicts[SMPNET_FILTER_BURST_MAX];
  /*
   What the module adds to its counters in this burst, in the manifest's order.
   */
  uint64_t counters[SMPNET_FILTER_COUNTERS_MAX];
  /*
   Changes to packets.
   */
  uint8_t patches[SMPNET_FILTER_PATCH_BYTES];
} smpnet_filter_ring;
SMPNET_ASSERT(sizeof(smpnet_filter_packet) == 32, "smpnet_filter_packet has another size");
SMPNET_ASSERT(offsetof(smpnet_filter_packet, data) == 0, "smpnet_filter_packet.data has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_packet, cap_len) == 4, "smpnet_filter_packet.cap_len has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_packet, flags) == 6, "smpnet_filter_packet.flags has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_packet, wire_len) == 8, "smpnet_filter_packet.wire_len has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_packet, flow_hash) == 12, "smpnet_filter_packet.flow_hash has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_packet, mark) == 16, "smpnet_filter_packet.mark has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_packet, rcvif) == 20, "smpnet_filter_packet.rcvif has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_packet, l3_off) == 24, "smpnet_filter_packet.l3_off has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_packet, l4_off) == 26, "smpnet_filter_packet.l4_off has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_packet, ether_type) == 28, "smpnet_filter_packet.ether_type has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_packet, vlan_tci) == 30, "smpnet_filter_packet.vlan_tci has moved");
SMPNET_ASSERT(sizeof(smpnet_filter_verdict) == 8, "smpnet_filter_verdict has another size");
SMPNET_ASSERT(offsetof(smpnet_filter_verdict, verdict) == 0, "smpnet_filter_verdict.verdict has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_verdict, mark) == 4, "smpnet_filter_verdict.mark has moved");
SMPNET_ASSERT(sizeof(smpnet_filter_patch) == 8, "smpnet_filter_patch has another size");
SMPNET_ASSERT(offsetof(smpnet_filter_patch, packet) == 0, "smpnet_filter_patch.packet has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_patch, flags) == 1, "smpnet_filter_patch.flags has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_patch, off) == 2, "smpnet_filter_patch.off has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_patch, len) == 4, "smpnet_filter_patch.len has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_patch, reserved) == 6, "smpnet_filter_patch.reserved has moved");
SMPNET_ASSERT(sizeof(smpnet_filter_ring) == 8192, "smpnet_filter_ring has another size");
SMPNET_ASSERT(offsetof(smpnet_filter_ring, n) == 0, "smpnet_filter_ring.n has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_ring, layer) == 4, "smpnet_filter_ring.layer has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_ring, direction) == 8, "smpnet_filter_ring.direction has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_ring, ifindex) == 12, "smpnet_filter_ring.ifindex has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_ring, now_ns) == 16, "smpnet_filter_ring.now_ns has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_ring, generation) == 24, "smpnet_filter_ring.generation has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_ring, worker) == 32, "smpnet_filter_ring.worker has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_ring, workers) == 36, "smpnet_filter_ring.workers has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_ring, window) == 40, "smpnet_filter_ring.window has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_ring, patch_len) == 44, "smpnet_filter_ring.patch_len has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_ring, reserved) == 48, "smpnet_filter_ring.reserved has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_ring, packets) == 64, "smpnet_filter_ring.packets has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_ring, verdicts) == 2112, "smpnet_filter_ring.verdicts has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_ring, counters) == 2624, "smpnet_filter_ring.counters has moved");
SMPNET_ASSERT(offsetof(smpnet_filter_ring, patches) == 2880, "smpnet_filter_ring.patches has moved");

/* ---- For authors of filters. Everything below is written by hand (abi/filter/examples/helpers.h) and needs no C library.
 *
 * A whole filter:
 *
 *   #include "smpnet_filter.h"
 *
 *   SMPNET_FILTER_MANIFEST({ "abi": "1.0", "name": "no-telnet", "version": "0.1.0", "counters": ["dropped"] })
 *   SMPNET_FILTER_RING(SMPNET_FILTER_WINDOW_DEFAULT)
 *
 *   int32_t smpnet_filter(int32_t n) {
 *     smpnet_filter_ring *ring = smpnet_filter_the_ring();
 *     for (int32_t i = 0; i < n; i++) {
 *       smpnet_filter_view tcp = smpnet_filter_transport(ring, i, 6);
 *       if (smpnet_filter_be16(tcp, 2) == 23) {
 *         smpnet_filter_drop(ring, i);
 *         smpnet_filter_count(ring, 0, 1);
 *       }
 *     }
 *     return n;
 *   }
 *
 *   clang --target=wasm32 -O2 -nostdlib -ffreestanding -fno-builtin -Wl,--no-entry -o no-telnet.wasm no-telnet.c
 *
 * Built by another compiler for another machine the same source has no exports and no imports, and runs in a test:
 * the test writes the ring (smpnet_filter_put) and calls smpnet_filter itself. */

#if defined(__wasm__)
#define SMPNET_FILTER_EXPORTED(name) __attribute__((export_name(name)))
#define SMPNET_FILTER_IMPORTED(name) __attribute__((import_module(SMPNET_FILTER_IMPORT_MODULE), import_name(name)))
#else
#define SMPNET_FILTER_EXPORTED(name)
#define SMPNET_FILTER_IMPORTED(name)
#endif

/* What a filter defines: the first always (SMPNET_FILTER_RING defines smpnet_ring), the others where it wants them. */
SMPNET_FILTER_EXPORTED(SMPNET_FILTER_EXPORT_FILTER) int32_t smpnet_filter(int32_t n);
SMPNET_FILTER_EXPORTED(SMPNET_FILTER_EXPORT_INIT) int32_t smpnet_init(int32_t len);
SMPNET_FILTER_EXPORTED(SMPNET_FILTER_EXPORT_TICK) void smpnet_tick(int64_t now_ns);
SMPNET_FILTER_EXPORTED(SMPNET_FILTER_EXPORT_STATE_EXPORT) int32_t smpnet_state_export(int32_t off);
SMPNET_FILTER_EXPORTED(SMPNET_FILTER_EXPORT_STATE_IMPORT) int32_t smpnet_state_import(int32_t off, int32_t len);

/* What smpnet defines. In a native test the test does. */
SMPNET_FILTER_IMPORTED(SMPNET_FILTER_IMPORT_LOG) void smpnet_filter_log(int32_t level, const char *text, int32_t len);
SMPNET_FILTER_IMPORTED(SMPNET_FILTER_IMPORT_CLOCK) int64_t smpnet_filter_clock_ns(void);
SMPNET_FILTER_IMPORTED(SMPNET_FILTER_IMPORT_EXACT)
int32_t smpnet_filter_table_exact(int32_t table, const void *keys, int32_t stride, int32_t n, uint32_t *out);
SMPNET_FILTER_IMPORTED(SMPNET_FILTER_IMPORT_PREFIX)
int32_t smpnet_filter_table_prefix(int32_t table, const void *keys, int32_t n, uint32_t *out);

/* Logs a string literal. */
#define SMPNET_FILTER_LOG(level, text) smpnet_filter_log((int32_t)(level), (text), (int32_t)sizeof(text) - 1)

/* The manifest: a JSON object, written as it is. Once in a module, outside of every function. */
#if defined(__wasm__)
#define SMPNET_FILTER_MANIFEST(...) SMPNET_FILTER_MANIFEST_TEXT(#__VA_ARGS__)
#define SMPNET_FILTER_MANIFEST_TEXT(text) SMPNET_FILTER_MANIFEST_QUOTED(#text)
#define SMPNET_FILTER_MANIFEST_QUOTED(quoted) \
  __asm__(".section .custom_section." SMPNET_FILTER_MANIFEST_SECTION ",\"\",@\n.ascii " quoted "\n.text\n");
#else
#define SMPNET_FILTER_MANIFEST(...) SMPNET_ASSERT(sizeof(#__VA_ARGS__) > 2, "the manifest is empty");
#endif

/* The ring with its windows, and the functions that give their addresses. `bytes` is the "window" of the manifest. */
#define SMPNET_FILTER_RING(bytes)                                                                                    \
  SMPNET_ASSERT((bytes) % 16 == 0 && (bytes) <= SMPNET_FILTER_WINDOW_MAX, "a window is a multiple of 16, at most 2048"); \
  static struct {                                                                                                    \
    smpnet_filter_ring ring;                                                                                         \
    uint8_t windows[SMPNET_FILTER_BURST_MAX * (bytes)];                                                              \
  } smpnet_filter_memory __attribute__((aligned(16)));                                                               \
  SMPNET_FILTER_EXPORTED(SMPNET_FILTER_EXPORT_RING) int32_t smpnet_ring(void);                                       \
  int32_t smpnet_ring(void) { return (int32_t)(uintptr_t)&smpnet_filter_memory; }                                    \
  static inline smpnet_filter_ring *smpnet_filter_the_ring(void) { return &smpnet_filter_memory.ring; }              \
  static inline uint8_t *smpnet_filter_windows(uint32_t *capacity) {                                                 \
    *capacity = (uint32_t)sizeof smpnet_filter_memory.windows;                                                       \
    return smpnet_filter_memory.windows;                                                                             \
  }

/* Bytes with their length. What lies outside of them reads as -1, so that no check can be forgotten. */
typedef struct smpnet_filter_view {
  const uint8_t *bytes;
  uint32_t len;
} smpnet_filter_view;

/* The byte at `off`, or -1. */
static inline int32_t smpnet_filter_u8(smpnet_filter_view v, uint32_t off) {
  return off < v.len ? v.bytes[off] : -1;
}

/* The 16-bit number in network order at `off`, or -1. */
static inline int32_t smpnet_filter_be16(smpnet_filter_view v, uint32_t off) {
  if (v.len < 2 || off > v.len - 2) return -1;
  return v.bytes[off] << 8 | v.bytes[off + 1];
}

/* The 32-bit number in network order at `off`, or -1. */
static inline int64_t smpnet_filter_be32(smpnet_filter_view v, uint32_t off) {
  if (v.len < 4 || off > v.len - 4) return -1;
  return (int64_t)((uint32_t)v.bytes[off] << 24 | (uint32_t)v.bytes[off + 1] << 16 | (uint32_t)v.bytes[off + 2] << 8 |
                   v.bytes[off + 3]);
}

/* What lies behind the first `off` bytes; nothing where there are fewer. */
static inline smpnet_filter_view smpnet_filter_skip(smpnet_filter_view v, uint32_t off) {
  smpnet_filter_view none = { v.bytes, 0 };
  if (off > v.len) return none;
  v.bytes += off;
  v.len -= off;
  return v;
}

/* What can be seen of packet `i`, from its first byte. */
static inline smpnet_filter_view smpnet_filter_packet_view(const smpnet_filter_ring *ring, int32_t i) {
  smpnet_filter_view v = { (const uint8_t *)ring, 0 };
  if (i < 0 || (uint32_t)i >= SMPNET_FILTER_BURST_MAX) return v;
  /* The difference is right on a machine with longer addresses too. */
  v.bytes += ring->packets[i].data - (uint32_t)(uintptr_t)ring;
  v.len = ring->packets[i].cap_len;
  return v;
}

/* The network header of packet `i` and what follows, as smpnet found it; empty where it found none. Its EtherType is
 * ring->packets[i].ether_type: 0x0800 for IPv4, 0x86dd for IPv6. */
static inline smpnet_filter_view smpnet_filter_network(const smpnet_filter_ring *ring, int32_t i) {
  smpnet_filter_view v = smpnet_filter_packet_view(ring, i);
  if (v.len == 0 || ring->packets[i].l3_off == SMPNET_FILTER_NO_OFFSET) {
    v.len = 0;
    return v;
  }
  return smpnet_filter_skip(v, ring->packets[i].l3_off);
}

/* Where the transport header begins in an IPv4 or IPv6 packet, or 0 when that is another protocol, a later fragment, or
 * not to be seen. */
static inline uint32_t smpnet_filter_transport_off(smpnet_filter_view ip, int32_t protocol) {
  int32_t first = smpnet_filter_u8(ip, 0);
  if (first >> 4 == 4) {
    uint32_t len = ((uint32_t)first & 15) * 4;
    if (len < 20 || smpnet_filter_u8(ip, 9) != protocol || (smpnet_filter_be16(ip, 6) & 0x1fff) != 0) return 0;
    return len;
  }
  if (first >> 4 != 6) return 0;
  int32_t next = smpnet_filter_u8(ip, 6);
  uint32_t off = 40;
  /* Extension headers of RFC 8200, and the authentication header of RFC 4302; as many as smpnet itself follows. */
  for (int32_t seen = 0; seen < 8; seen++) {
    if (next == protocol) return off;
    int32_t size = smpnet_filter_u8(ip, off + 1);
    if (size < 0) return 0;
    switch (next) {
      case 0: case 43: case 60: case 135: size = (size + 1) * 8; break;
      case 44:
        if ((smpnet_filter_be16(ip, off + 2) & 0xfff8) != 0) return 0;
        size = 8;
        break;
      case 51: size = (size + 2) * 4; break;
      default: return 0;
    }
    next = smpnet_filter_u8(ip, off);
    off += (uint32_t)size;
  }
  return 0;
}

/* The transport header of packet `i` and what follows, when its protocol is `protocol` (6 TCP, 17 UDP, 1 ICMP, 58 ICMPv6);
 * otherwise nothing. */
static inline smpnet_filter_view smpnet_filter_transport(const smpnet_filter_ring *ring, int32_t i, int32_t protocol) {
  smpnet_filter_view ip = smpnet_filter_network(ring, i);
  uint32_t off = smpnet_filter_transport_off(ip, protocol);
  if (off == 0) ip.len = 0;
  return smpnet_filter_skip(ip, off);
}

/* Verdicts. A packet passes unless one of them is called. */
static inline void smpnet_filter_drop(smpnet_filter_ring *ring, int32_t i) {
  ring->verdicts[i].verdict = SMPNET_FILTER_VERDICT_DROP;
}

/* Drops it and tells its sender; needs the capability "reject". */
static inline void smpnet_filter_reject(smpnet_filter_ring *ring, int32_t i) {
  ring->verdicts[i].verdict = SMPNET_FILTER_VERDICT_REJECT;
}

/* Passes it with a mark; needs the capability "mark". */
static inline void smpnet_filter_mark(smpnet_filter_ring *ring, int32_t i, uint32_t mark) {
  ring->verdicts[i].verdict = SMPNET_FILTER_VERDICT_PASS | SMPNET_FILTER_VERDICT_MARK;
  ring->verdicts[i].mark = mark;
}

/* Adds to the counter that stands at place `counter` of the manifest's list. */
static inline void smpnet_filter_count(smpnet_filter_ring *ring, uint32_t counter, uint64_t by) {
  if (counter < SMPNET_FILTER_COUNTERS_MAX) ring->counters[counter] += by;
}

/* Replaces `len` bytes of packet `i` from `off` on; `flags` are SMPNET_FILTER_PATCH_FLAGS_*; needs the capability "edit".
 * Returns 0, or -1 when they are not all in the window or the room for patches is full: then nothing is changed. */
static inline int32_t smpnet_filter_edit(smpnet_filter_ring *ring, int32_t i, uint32_t off, const void *bytes,
                                         uint32_t len, uint32_t flags) {
  smpnet_filter_view v = smpnet_filter_packet_view(ring, i);
  uint32_t at = ring->patch_len, size = (uint32_t)sizeof(smpnet_filter_patch) + ((len + 3) & ~3u);
  if (len > v.len || off > v.len - len || at > sizeof ring->patches || size > sizeof ring->patches - at) return -1;
  smpnet_filter_patch *head = (smpnet_filter_patch *)(void *)&ring->patches[at];
  head->packet = (uint8_t)i;
  head->flags = (uint8_t)flags;
  head->off = (uint16_t)off;
  head->len = (uint16_t)len;
  head->reserved = 0;
  for (uint32_t k = 0; k < len; k++) ring->patches[at + sizeof(smpnet_filter_patch) + k] = ((const uint8_t *)bytes)[k];
  ring->patch_len = at + size;
  return 0;
}

#if !defined(__wasm__)
/* For tests: puts a packet into the ring at place `i`, as smpnet does at the layer of Ethernet (IPv4, IPv6 and one 802.1Q
 * tag are known). `window` is that of the ring. */
static inline void smpnet_filter_put(smpnet_filter_ring *ring, int32_t i, uint32_t window, const void *bytes, uint32_t len) {
  smpnet_filter_packet *p = &ring->packets[i];
  uint8_t *to = (uint8_t *)ring + sizeof *ring + (uint32_t)i * window;
  uint32_t cap = len < window ? len : window;
  for (uint32_t k = 0; k < cap; k++) to[k] = ((const uint8_t *)bytes)[k];
  smpnet_filter_packet none = { 0, 0, 0, 0, 0, 0, 0, SMPNET_FILTER_NO_OFFSET, SMPNET_FILTER_NO_OFFSET, 0, 0 };
  smpnet_filter_view v = { to, cap };
  *p = none;
  p->data = (uint32_t)(uintptr_t)to;
  p->cap_len = (uint16_t)cap;
  p->wire_len = len;
  p->flags = len > window ? SMPNET_FILTER_PACKET_FLAGS_CUT : 0;
  int32_t type = smpnet_filter_be16(v, 12), tagged = type == 0x8100;
  if (tagged) type = smpnet_filter_be16(v, 16);
  if (type == 0x0800 || type == 0x86dd) {
    p->ether_type = (uint16_t)type;
    p->l3_off = tagged ? 18 : 14;
  }
  ring->layer = SMPNET_FILTER_LAYER_ETHER;
  ring->direction = SMPNET_FILTER_DIRECTION_IN;
  ring->window = window;
  ring->verdicts[i].verdict = SMPNET_FILTER_VERDICT_PASS;
  ring->verdicts[i].mark = 0;
  if (ring->n <= (uint32_t)i) ring->n = (uint32_t)i + 1;
}
#endif

#endif /* SMPNET_FILTER_H */
