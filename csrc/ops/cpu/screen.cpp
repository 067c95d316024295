#include "ops/cpu/screen.hpp"

#include "ops/cpu/simd.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

// Sums of products of codes, in registers, for tiles of four queries and some rows. Each lane holds
// a row and multiplies `kCodes` codes at a time: four 8-bit codes with VNNI, else two 16-bit codes.

namespace {

using autopatch::kPanelRows;
using autopatch::kScreenQueries;
using autopatch::ScreenTask;

#if defined(__AVX512F__)

typedef __m512i Integers;
inline Integers load_integers(const void* p) { return _mm512_loadu_si512(p); }
inline void store_integers(void* p, Integers v) { _mm512_storeu_si512(p, v); }
inline Integers broadcast(std::int32_t v) { return _mm512_set1_epi32(v); }
inline unsigned bits_at_least(Integers v, Integers bound) {
  return _mm512_cmpge_epi32_mask(v, bound);
}

#elif defined(__AVX2__)

typedef __m256i Integers;
inline Integers load_integers(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
inline void store_integers(void* p, Integers v) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), v);
}
inline Integers broadcast(std::int32_t v) { return _mm256_set1_epi32(v); }
inline unsigned bits_at_least(Integers v, Integers bound) {
  const __m256i below = _mm256_cmpgt_epi32(bound, v);
  return ~static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(below))) & 0xffU;
}

#elif defined(__SSE2__)

typedef __m128i Integers;
inline Integers load_integers(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
inline void store_integers(void* p, Integers v) { _mm_storeu_si128(static_cast<__m128i*>(p), v); }
inline Integers broadcast(std::int32_t v) { return _mm_set1_epi32(v); }
inline unsigned bits_at_least(Integers v, Integers bound) {
  const __m128i below = _mm_cmplt_epi32(v, bound);
  return ~static_cast<unsigned>(_mm_movemask_ps(_mm_castsi128_ps(below))) & 0xfU;
}

#else

struct Integers {
  std::int32_t lanes[kLanes];
};
inline Integers load_integers(const void* p) {
  Integers v;
  for (int i = 0; i < kLanes; ++i) v.lanes[i] = static_cast<const std::int32_t*>(p)[i];
  return v;
}
inline void store_integers(void* p, Integers v) {
  for (int i = 0; i < kLanes; ++i) static_cast<std::int32_t*>(p)[i] = v.lanes[i];
}
inline Integers broadcast(std::int32_t v) {
  Integers all;
  for (int i = 0; i < kLanes; ++i) all.lanes[i] = v;
  return all;
}
inline unsigned bits_at_least(Integers v, Integers bound) {
  unsigned bits = 0;
  for (int i = 0; i < kLanes; ++i) {
    bits |= static_cast<unsigned>(v.lanes[i] >= bound.lanes[i]) << i;
  }
  return bits;
}

#endif

#if defined(__AVX512VNNI__)

constexpr int kCodes = 4;
typedef std::int8_t QueryCode;

inline Integers add_products(Integers sum, Integers row, Integers query) {
  return _mm512_dpbusd_epi32(sum, row, query);
}
inline const void* lay_out(const ScreenTask& task) { return task.panel; }

#else

constexpr int kCodes = 2;
typedef std::int16_t QueryCode;

#if defined(__AVX512F__)
inline Integers add_products(Integers sum, Integers row, Integers query) {
  return _mm512_add_epi32(sum, _mm512_madd_epi16(row, query));
}
#elif defined(__AVX2__)
inline Integers add_products(Integers sum, Integers row, Integers query) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(row, query));
}
#elif defined(__SSE2__)
inline Integers add_products(Integers sum, Integers row, Integers query) {
  return _mm_add_epi32(sum, _mm_madd_epi16(row, query));
}
#else
inline Integers add_products(Integers sum, Integers row, Integers query) {
  for (int i = 0; i < kLanes; ++i) {
    std::int16_t a[2];
    std::int16_t b[2];
    __builtin_memcpy(a, row.lanes + i, 4);
    __builtin_memcpy(b, query.lanes + i, 4);
    sum.lanes[i] += a[0] * b[0] + a[1] * b[1];
  }
  return sum;
}
#endif

// The panel as 16-bit integers, [dim / 2][64][2].
inline const void* lay_out(const ScreenTask& task) {
  for (std::int64_t d = 0; d < task.dim; d += 4) {
    const std::uint8_t* __restrict__ in = task.panel + d * kPanelRows;
    std::int16_t* __restrict__ out = task.workspace + d * kPanelRows;
    for (int r = 0; r < kPanelRows; ++r) {
      out[2 * r] = in[4 * r];
      out[2 * r + 1] = in[4 * r + 1];
    }
    for (int r = 0; r < kPanelRows; ++r) {
      out[2 * (kPanelRows + r)] = in[4 * r + 2];
      out[2 * (kPanelRows + r) + 1] = in[4 * r + 3];
    }
  }
  return task.workspace;
}

#endif

// Rows per tile. With four queries this takes 16 registers of sums with AVX-512, otherwise 8.
constexpr int kGroups = kLanes == 16 ? 4 : 2;
constexpr int kTileRows = kGroups * kLanes;

struct Tile {
  Integers values[kScreenQueries][kGroups];
};

inline Tile sum_products(const ScreenTask& task, const void* rows, std::int64_t first_query,
                         int first_row) {
  Tile tile;
  for (int g = 0; g < kGroups; ++g) {
    const Integers offsets = load_integers(task.offsets + first_row + g * kLanes);
    for (int q = 0; q < kScreenQueries; ++q) tile.values[q][g] = offsets;
  }
  const std::int64_t steps = task.dim / kCodes;
  const auto* row = static_cast<const std::int32_t*>(rows) + first_row;
  const auto* query = static_cast<const std::int32_t*>(task.queries) + first_query * steps;
  for (std::int64_t step = 0; step < steps; ++step, row += kPanelRows) {
    Integers group[kGroups];
    for (int g = 0; g < kGroups; ++g) group[g] = load_integers(row + g * kLanes);
#pragma GCC unroll 4
    for (int q = 0; q < kScreenQueries; ++q) {
      const Integers codes = broadcast(query[q * steps + step]);
#pragma GCC unroll 4
      for (int g = 0; g < kGroups; ++g) {
        tile.values[q][g] = add_products(tile.values[q][g], group[g], codes);
      }
    }
  }
  return tile;
}

}  // namespace

namespace autopatch {

void AUTOPATCH_ISA_SYMBOL(screen_pack_queries)(const std::int8_t* codes, std::int64_t count,
                                               void* packed) {
  for (std::int64_t i = 0; i < count; ++i) static_cast<QueryCode*>(packed)[i] = codes[i];
}

void AUTOPATCH_ISA_SYMBOL(screen_survivors)(const ScreenTask& task, const std::int32_t* least,
                                            std::uint64_t* survivors) {
  const void* rows = lay_out(task);
  for (std::int64_t q0 = 0; q0 < task.num_queries; q0 += kScreenQueries) {
    std::uint64_t bits[kScreenQueries] = {};
    for (int r = 0; r < kPanelRows; r += kTileRows) {
      const Tile tile = sum_products(task, rows, q0, r);
      for (int q = 0; q < kScreenQueries; ++q) {
        const Integers bound = broadcast(least[q0 + q]);
        for (int g = 0; g < kGroups; ++g) {
          bits[q] |= static_cast<std::uint64_t>(bits_at_least(tile.values[q][g], bound))
                     << (r + g * kLanes);
        }
      }
    }
    for (int q = 0; q < kScreenQueries; ++q) survivors[q0 + q] = bits[q];
  }
}

void AUTOPATCH_ISA_SYMBOL(screen_values)(const ScreenTask& task, std::int32_t* values,
                                         std::int64_t stride) {
  const void* rows = lay_out(task);
  for (std::int64_t q0 = 0; q0 < task.num_queries; q0 += kScreenQueries) {
    for (int r = 0; r < kPanelRows; r += kTileRows) {
      const Tile tile = sum_products(task, rows, q0, r);
      for (int q = 0; q < kScreenQueries; ++q) {
        for (int g = 0; g < kGroups; ++g) {
          store_integers(values + (q0 + q) * stride + r + g * kLanes, tile.values[q][g]);
        }
      }
    }
  }
}

void AUTOPATCH_ISA_SYMBOL(screen_largest)(const ScreenTask& task, std::int64_t first_row,
                                          std::int32_t* largest, std::int64_t* rows) {
  const void* codes = lay_out(task);
  for (std::int64_t q0 = 0; q0 < task.num_queries; q0 += kScreenQueries) {
    alignas(64) std::int32_t values[kScreenQueries][kPanelRows];
    for (int r = 0; r < kPanelRows; r += kTileRows) {
      const Tile tile = sum_products(task, codes, q0, r);
      for (int q = 0; q < kScreenQueries; ++q) {
        for (int g = 0; g < kGroups; ++g) {
          store_integers(values[q] + r + g * kLanes, tile.values[q][g]);
        }
      }
    }
    for (int q = 0; q < kScreenQueries; ++q) {
      std::int32_t most = values[q][0];
      for (int r = 1; r < kPanelRows; ++r) most = values[q][r] > most ? values[q][r] : most;
      if (most <= largest[q0 + q]) continue;
      int row = 0;
      while (values[q][row] != most) ++row;
      largest[q0 + q] = most;
      rows[q0 + q] = first_row + row;
    }
  }
}

}  // namespace autopatch
