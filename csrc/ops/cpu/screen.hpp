#pragma once

#include <cstdint>

namespace autopatch {

/// Number of rows in a "panel" of 8-bit codes, stored as [dim / 4][64][4] and screened together.
constexpr std::int64_t kPanelRows = 64;

/// Number of queries that are screened together.
constexpr std::int64_t kScreenQueries = 4;

/// One panel and a block of queries. The value of a query and a row is `offsets[row]` plus the sum
/// of the products of their codes. It is exact in 32 bits for up to 2^16 codes per row, so it is
/// the same on every ISA level.
struct ScreenTask {
  const void* queries;          // [num_queries, dim] as `ScreenPackQueries` lays them out
  std::int64_t num_queries;     // a multiple of kScreenQueries
  std::int64_t dim;             // a multiple of 4
  const std::uint8_t* panel;    // [dim / 4][64][4]
  const std::int32_t* offsets;  // [64]
  std::int16_t* workspace;      // [64 * dim]
};

/// Converts query codes [num_queries, dim] to the layout of the ISA level, in at most 2 *
/// num_queries * dim bytes.
using ScreenPackQueries = void (*)(const std::int8_t* codes, std::int64_t count, void* packed);

/// Sets bit r of `survivors[q]` if the value of query q and row r is at least `least[q]`.
using ScreenSurvivors = void (*)(const ScreenTask& task, const std::int32_t* least,
                                 std::uint64_t* survivors);

/// Writes the value of query q and row r to `values[q * stride + r]`.
using ScreenValues = void (*)(const ScreenTask& task, std::int32_t* values, std::int64_t stride);

/// If the largest value of query q in the panel exceeds `largest[q]`, stores it there and sets
/// `rows[q]` to `first_row` + its row. Ties go to the lowest row.
using ScreenLargest = void (*)(const ScreenTask& task, std::int64_t first_row,
                               std::int32_t* largest, std::int64_t* rows);

#define AUTOPATCH_DECLARE_SCREEN(level)                                                  \
  void screen_pack_queries_##level(const std::int8_t*, std::int64_t, void*);             \
  void screen_survivors_##level(const ScreenTask&, const std::int32_t*, std::uint64_t*); \
  void screen_values_##level(const ScreenTask&, std::int32_t*, std::int64_t);            \
  void screen_largest_##level(const ScreenTask&, std::int64_t, std::int32_t*, std::int64_t*);
AUTOPATCH_DECLARE_SCREEN(generic)
AUTOPATCH_DECLARE_SCREEN(avx2)
AUTOPATCH_DECLARE_SCREEN(avx512)
AUTOPATCH_DECLARE_SCREEN(avx512_vnni)
#undef AUTOPATCH_DECLARE_SCREEN

}  // namespace autopatch
