/* Tests of gtsm.c, run natively: what smpnet does to the filter is done here by hand. */

#include "gtsm.c"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char last_line[257];

void smpnet_filter_log(int32_t level, const char *text, int32_t len) {
  (void)level;
  memcpy(last_line, text, (size_t)len);
  last_line[len] = 0;
}

#define CHECK(what)                                              \
  do {                                                           \
    if (!(what)) {                                               \
      printf("%s:%d: %s does not hold\n", __FILE__, __LINE__, #what); \
      exit(1);                                                   \
    }                                                            \
  } while (0)

static int32_t configure(const char *text) {
  uint32_t capacity;
  uint8_t *to = smpnet_filter_windows(&capacity);
  last_line[0] = 0;
  memcpy(to, text, strlen(text));
  return smpnet_init((int32_t)strlen(text));
}

/* Judges one packet and returns its verdict. */
static uint32_t judge(const uint8_t *bytes, uint32_t len) {
  smpnet_filter_ring *ring = smpnet_filter_the_ring();
  memset(ring, 0, sizeof *ring);
  smpnet_filter_put(ring, 0, 128, bytes, len);
  CHECK(smpnet_filter(1) == 1);
  return ring->verdicts[0].verdict;
}

static uint32_t judge4(int protocol, int source, int destination, int ttl) {
  uint8_t p[54] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0, 0x45, 0, 0, 40 };
  p[22] = (uint8_t)ttl, p[23] = (uint8_t)protocol;
  p[34] = (uint8_t)(source >> 8), p[35] = (uint8_t)source;
  p[36] = (uint8_t)(destination >> 8), p[37] = (uint8_t)destination;
  return judge(p, sizeof p);
}

/* With a hop-by-hop header between. */
static uint32_t judge6(int destination, int hop_limit) {
  uint8_t p[82] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 28, 0 };
  p[21] = (uint8_t)hop_limit, p[54] = TCP;
  p[64] = (uint8_t)(destination >> 8), p[65] = (uint8_t)destination;
  return judge(p, sizeof p);
}

static void bgp_from_far_away_is_dropped(void) {
  CHECK(configure("") == 0);
  CHECK(judge4(TCP, 40000, 179, 255) == SMPNET_FILTER_VERDICT_PASS);
  CHECK(judge4(TCP, 40000, 179, 254) == SMPNET_FILTER_VERDICT_DROP);
  CHECK(judge4(TCP, 179, 40000, 64) == SMPNET_FILTER_VERDICT_DROP);
  CHECK(judge4(TCP, 40000, 443, 64) == SMPNET_FILTER_VERDICT_PASS);
  CHECK(judge4(1, 40000, 179, 64) == SMPNET_FILTER_VERDICT_PASS);
  CHECK(judge6(179, 255) == SMPNET_FILTER_VERDICT_PASS);
  CHECK(judge6(179, 1) == SMPNET_FILTER_VERDICT_DROP);
  CHECK(smpnet_filter_the_ring()->counters[CHECKED] == 1 && smpnet_filter_the_ring()->counters[DROPPED] == 1);
}

static void what_goes_out_passes(void) {
  smpnet_filter_ring *ring = smpnet_filter_the_ring();
  CHECK(configure("") == 0 && judge4(TCP, 1, 179, 64) == SMPNET_FILTER_VERDICT_DROP);
  ring->verdicts[0].verdict = SMPNET_FILTER_VERDICT_PASS;
  ring->direction = SMPNET_FILTER_DIRECTION_OUT;
  CHECK(smpnet_filter(1) == 1 && ring->verdicts[0].verdict == SMPNET_FILTER_VERDICT_PASS);
}

static void ports_are_configured(void) {
  CHECK(configure("646 = 254; 3784=255,\n 179 = 1 \n") == 0);
  CHECK(judge4(UDP, 9, 646, 254) == SMPNET_FILTER_VERDICT_PASS);
  CHECK(judge4(UDP, 9, 646, 253) == SMPNET_FILTER_VERDICT_DROP);
  CHECK(judge4(UDP, 646, 3784, 254) == SMPNET_FILTER_VERDICT_DROP);
  CHECK(judge4(TCP, 9, 179, 1) == SMPNET_FILTER_VERDICT_PASS);
}

static void mistakes_are_refused_and_named(void) {
  CHECK(configure("bgp") == 1 && strstr(last_line, "179 = 255"));
  CHECK(configure("179") == 1 && configure("0 = 1") == 1 && configure("70000 = 1") == 1);
  CHECK(configure("179 = 256") == 1 && strstr(last_line, "from 1 to 255"));
  CHECK(configure("179 = 25x") == 1 && configure("179 = ") == 1);
  CHECK(configure("1=1,2=1,3=1,4=1,5=1,6=1,7=1,8=1,9=1,10=1,11=1,12=1,13=1,14=1,15=1,16=1") == 0);
  CHECK(configure("1=1,2=1,3=1,4=1,5=1,6=1,7=1,8=1,9=1,10=1,11=1,12=1,13=1,14=1,15=1,16=1,17=1") == 1);
}

/* Whatever comes, it reads nothing that is not there: the sanitizers see to that. */
static void random_packets_and_configurations_do_no_harm(void) {
  uint64_t state = 88172645463325252u;
  for (int round = 0; round < 200000; round++) {
    uint8_t p[160];
    for (size_t k = 0; k < sizeof p; k++) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      p[k] = (uint8_t)state;
    }
    int v6 = state >> 20 & 1;
    p[12] = v6 ? 0x86 : 0x08, p[13] = v6 ? 0xdd : 0;
    p[14] = (uint8_t)(v6 ? 0x60 : 0x40 | (p[14] & 15));
    static const uint8_t next[8] = { 0, 43, 44, 51, 60, TCP, UDP, 1 };
    p[20] = next[state >> 8 & 7], p[23] = next[state >> 11 & 7];
    uint32_t verdict = judge(p, (uint32_t)(state >> 32) % sizeof p);
    CHECK(verdict == SMPNET_FILTER_VERDICT_PASS || verdict == SMPNET_FILTER_VERDICT_DROP);
    if (round % 16 == 0) {
      char text[40];
      for (size_t k = 0; k < sizeof text - 1; k++) text[k] = "0123456789 =,;\nx"[p[k] & 15];
      text[sizeof text - 1] = 0;
      CHECK(configure(text) == 0 || last_line[0] != 0);
    }
  }
}

int main(void) {
  bgp_from_far_away_is_dropped();
  what_goes_out_passes();
  ports_are_configured();
  mistakes_are_refused_and_named();
  random_packets_and_configurations_do_no_harm();
  puts("5 tests passed");
  return 0;
}
