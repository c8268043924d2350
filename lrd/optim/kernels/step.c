/* Multi-tensor kernels of LRDropout: plain C, with OpenMP where the compiler has it.

A table of int64 describes the pieces to process. Each row starts with the piece's length in
elements, the global index of its first element, the last 31-bit number that keeps an update
(threshold - 1) and the layout in memory (lrd.optim.params.layout_of). `keys` holds two 32-bit words for each high word of the global indices, from
`high` on. The table is made at every step: nothing here outlives a call. */

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

typedef int64_t i64;
typedef uint32_t u32;

enum { LENGTH, FIRST, LAST, LAYOUT, OWN }; /* columns; those of each kernel begin at OWN */
enum { SEGMENT = 1 << 20, PARALLEL = 1 << 15 };

/* Elements `begin` to `begin + count` in memory have the global indices first, first + stride, ... */
typedef void work_on(const i64 *row, i64 begin, int count, i64 first, u32 stride, const u32 *keys,
                     i64 high, const float *scalars);

/* 32 random bits of an index: lrd.rng.rounds. */
static inline u32 hash(u32 x, u32 low, u32 high) {
  x ^= low;
  x ^= x >> 17, x *= 0xED5AD4BBu;
  x ^= high;
  x ^= x >> 11, x *= 0xAC4C1B51u;
  x ^= x >> 15, x *= 0x31848BABu;
  return x ^ x >> 14;
}

/* D_t: whether the update of an element is kept. */
static inline int kept(u32 index, u32 low, u32 high, int32_t last) {
  return (int32_t)(hash(index, low, high) & 0x7FFFFFFFu) <= last;
}

/* Call `work` for all elements, each thread with an equal share. A call never crosses a multiple of
2^32 of the global index. */
static void for_each(const i64 *table, int pieces, int columns, int threads, work_on *work,
                     const u32 *keys, i64 high, const float *scalars) {
  i64 total = 0;
  for (int r = 0; r < pieces; r++) total += table[(i64)r * columns + LENGTH];
#ifdef _OPENMP
#pragma omp parallel num_threads(threads) if (threads > 1 && total > PARALLEL)
#endif
  {
    i64 me = 0, all = 1, at = 0;
#ifdef _OPENMP
    me = omp_get_thread_num(), all = omp_get_num_threads();
#endif
    const i64 from = total / all * me, to = me + 1 == all ? total : total / all * (me + 1);
    for (int r = 0; r < pieces && at < to; r++) {
      const i64 *row = table + (i64)r * columns, length = row[LENGTH];
      i64 begin = from > at ? from - at : 0;
      const i64 end = to - at < length ? to - at : length;
      while (begin < end) {
        i64 first = row[FIRST] + begin, stride = 1;
        i64 count = end - begin < SEGMENT ? end - begin : SEGMENT;
        if (row[LAYOUT]) { /* the channels of a pixel, each a plane after the one before */
          const i64 channels = row[LAYOUT] >> 32, plane = row[LAYOUT] & 0xFFFFFFFF;
          const i64 channel = begin % channels, pixel = begin / channels;
          first = row[FIRST] + (pixel / plane * channels + channel) * plane + pixel % plane;
          stride = plane;
          if (count > channels - channel) count = channels - channel;
        }
        const i64 edge = (((i64)1 << 32) - (first & 0xFFFFFFFF) + stride - 1) / stride;
        if (count > edge) count = edge;
        work(row, begin, (int)count, first, (u32)stride, keys, high, scalars);
        begin += count;
      }
      at += length;
    }
  }
}

/* Restore: copy old values back where D_t is 0, bit for bit, whatever the type. */

enum { UNIT = OWN, ORIGIN, SIZE, NEW, OLD, RESTORE_COLUMNS };

#define RESTORE(type)                                                              \
  do {                                                                             \
    type *restrict new = (type *)row[NEW] + begin;                                 \
    const type *restrict old = (const type *)row[OLD] + begin;                     \
    if (stride == 1)                                                               \
      for (int k = 0; k < count; k++)                                              \
        new[k] = kept(index + (u32)k, low, top, last) ? new[k] : old[k];           \
    else                                                                           \
      for (int k = 0; k < count; k++)                                              \
        new[k] = kept(index + (u32)k * stride, low, top, last) ? new[k] : old[k];  \
  } while (0)

typedef struct { uint64_t words[2]; } word16;

static void restore_elements(const i64 *row, i64 begin, int count, i64 first, u32 stride,
                             const u32 *keys, i64 high) {
  const u32 *key = keys + 2 * ((first >> 32) - high), index = (u32)first;
  const u32 low = key[0], top = key[1];
  const int32_t last = (int32_t)row[LAST];
  switch (row[SIZE]) {
  case 1: RESTORE(uint8_t); break;
  case 2: RESTORE(uint16_t); break;
  case 4: RESTORE(uint32_t); break;
  case 8: RESTORE(uint64_t); break;
  default: RESTORE(word16);
  }
}

/* A unit (a row, a tensor) has the bit of its first element, counted from the piece's origin. */
static void restore_units(const i64 *row, i64 begin, int count, const u32 *keys, i64 high) {
  const i64 unit = row[UNIT], origin = row[ORIGIN], size = row[SIZE], end = begin + count;
  while (begin < end) {
    const i64 inside = (row[FIRST] + begin - origin) % unit;
    const i64 index = row[FIRST] + begin - inside;
    const i64 length = end - begin < unit - inside ? end - begin : unit - inside;
    const u32 *key = keys + 2 * ((index >> 32) - high);
    if (!kept((u32)index, key[0], key[1], (int32_t)row[LAST]))
      memcpy((char *)row[NEW] + begin * size, (char *)row[OLD] + begin * size, length * size);
    begin += length;
  }
}

static void restore(const i64 *row, i64 begin, int count, i64 first, u32 stride, const u32 *keys,
                    i64 high, const float *scalars) {
  (void)scalars;
  if (row[UNIT] == 1)
    restore_elements(row, begin, count, first, stride, keys, high);
  else
    restore_units(row, begin, count, keys, high);
}

void lrd_restore(const i64 *table, int pieces, int threads, const u32 *keys, i64 high,
                 const float *scalars) {
  for_each(table, pieces, RESTORE_COLUMNS, threads, restore, keys, high, scalars);
}

/* Save: copy the current values. */
static void save(const i64 *row, i64 begin, int count, i64 first, u32 stride, const u32 *keys,
                 i64 high, const float *scalars) {
  (void)first, (void)stride, (void)keys, (void)high, (void)scalars;
  const i64 size = row[SIZE];
  memcpy((char *)row[OLD] + begin * size, (char *)row[NEW] + begin * size, count * size);
}

void lrd_save(const i64 *table, int pieces, int threads, const u32 *keys, i64 high,
              const float *scalars) {
  for_each(table, pieces, RESTORE_COLUMNS, threads, save, keys, high, scalars);
}
