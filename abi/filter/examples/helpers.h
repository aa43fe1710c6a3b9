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
