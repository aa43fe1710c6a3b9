/* The Generalized TTL Security Mechanism (RFC 5082) as a filter for smpnet.
 *
 * Neighbours of a routing protocol send with a time to live of 255, which no packet from further away can have when it
 * arrives. For each protected port of TCP or UDP, as source or destination, the filter drops what comes in with a time to
 * live (IPv6: a hop limit) below the least that the operator allows.
 *
 * Configuration: pairs of port and least time to live, separated by new lines, commas or semicolons; `179 = 255` (BGP from
 * direct neighbours) when there is none. `646 = 254` would allow one router between.
 *
 * Build: clang --target=wasm32 -O2 -nostdlib -ffreestanding -fno-builtin -Wl,--no-entry -I ../../include -o gtsm.wasm gtsm.c
 * Test:  cc -I ../../include -o test test.c && ./test */

#include "smpnet_filter.h"

SMPNET_FILTER_MANIFEST({
  "abi": "1.0", "name": "gtsm", "version": "0.1.0",
  "summary": "drops packets of protected protocols that come from too far away (RFC 5082)",
  "window": 128, "memory": 4, "capabilities": ["log"], "counters": ["checked", "dropped"]
})
SMPNET_FILTER_RING(128)

enum { CHECKED, DROPPED };
enum { TCP = 6, UDP = 17, PORTS_MAX = 16 };

static struct {
  int32_t port;
  int32_t least_ttl;
} protected_ports[PORTS_MAX];
static uint32_t protected_count;

/* A number from `*at` on, which moves behind it; -1 when there is none up to `most`. Blanks around it are passed. */
static int32_t number(smpnet_filter_view text, uint32_t *at, int32_t most) {
  int32_t value = -1, c;
  while (smpnet_filter_u8(text, *at) == ' ') ++*at;
  while ((c = smpnet_filter_u8(text, *at)) >= '0' && c <= '9') {
    value = (value < 0 ? 0 : value) * 10 + (c - '0');
    if (value > most) return -1;
    ++*at;
  }
  while (smpnet_filter_u8(text, *at) == ' ') ++*at;
  return value;
}

static int32_t is_separator(int32_t c) {
  return c == '\n' || c == '\r' || c == ',' || c == ';';
}

/* The configuration; not 0 refuses it, and the log says why. */
int32_t smpnet_init(int32_t len) {
  uint32_t capacity, at = 0;
  smpnet_filter_view text = { smpnet_filter_windows(&capacity), 0 };
  text.len = len < 0 ? 0 : (uint32_t)len < capacity ? (uint32_t)len : capacity;
  protected_count = 0;
  for (;;) {
    while (is_separator(smpnet_filter_u8(text, at)) || smpnet_filter_u8(text, at) == ' ') at++;
    if (at >= text.len) break;
    int32_t port = number(text, &at, 65535);
    if (port <= 0 || smpnet_filter_u8(text, at++) != '=') {
      SMPNET_FILTER_LOG(SMPNET_FILTER_LEVEL_ERROR, "pairs of the form 179 = 255 are wanted, with a port from 1 to 65535");
      return 1;
    }
    int32_t least = number(text, &at, 255);
    if (least <= 0 || !(at == text.len || is_separator(smpnet_filter_u8(text, at)))) {
      SMPNET_FILTER_LOG(SMPNET_FILTER_LEVEL_ERROR, "the least time to live of a port is a number from 1 to 255");
      return 1;
    }
    if (protected_count == PORTS_MAX) {
      SMPNET_FILTER_LOG(SMPNET_FILTER_LEVEL_ERROR, "at most 16 ports can be protected");
      return 1;
    }
    protected_ports[protected_count].port = port;
    protected_ports[protected_count++].least_ttl = least;
  }
  if (protected_count == 0) {
    protected_ports[0].port = 179;
    protected_ports[0].least_ttl = 255;
    protected_count = 1;
  }
  return 0;
}

/* The least time to live that a packet needs, or 0 when it is none of a protected protocol. */
static int32_t least_ttl(smpnet_filter_view ip) {
  uint32_t off = smpnet_filter_transport_off(ip, TCP);
  if (off == 0) off = smpnet_filter_transport_off(ip, UDP);
  if (off == 0) return 0;
  int32_t source = smpnet_filter_be16(ip, off), destination = smpnet_filter_be16(ip, off + 2), least = 0;
  for (uint32_t k = 0; k < protected_count; k++) {
    int32_t port = protected_ports[k].port;
    if ((port == source || port == destination) && protected_ports[k].least_ttl > least) {
      least = protected_ports[k].least_ttl;
    }
  }
  return least;
}

int32_t smpnet_filter(int32_t n) {
  smpnet_filter_ring *ring = smpnet_filter_the_ring();
  /* What goes out has our own time to live, or has passed us. */
  if (ring->direction != SMPNET_FILTER_DIRECTION_IN) return n;
  for (int32_t i = 0; i < n; i++) {
    smpnet_filter_view ip = smpnet_filter_network(ring, i);
    int32_t least = least_ttl(ip);
    if (least == 0) continue;
    int32_t ttl = smpnet_filter_u8(ip, smpnet_filter_u8(ip, 0) >> 4 == 4 ? 8 : 7);
    smpnet_filter_count(ring, CHECKED, 1);
    if (ttl < least) {
      smpnet_filter_drop(ring, i);
      smpnet_filter_count(ring, DROPPED, 1);
    }
  }
  return n;
}
