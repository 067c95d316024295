#pragma once

#include <cstdint>

namespace autopatch {

/// Lookup table for the position of a score among distinct keys (score_key.hpp); built by
/// `KeyLocator`. Keys are looked up as "offsets" from `lowest`, clamped to the offset of `highest`.
///
/// The range of offsets is divided into cells of equal width. Each cell is divided into bins of
/// equal width; cells with more keys have more bins. Every key marks its bin or, if that is marked
/// already, the next unmarked bin. If the bin of an offset is unmarked, the number of keys below
/// the offset equals the number of marked bins before it. If the bin is marked, keys must be
/// compared.
template <typename Bits>
struct KeyTable {
  static constexpr int kCells = 32;

  Bits lowest;          // the first key - 1
  Bits highest;         // the last key + 1
  const Bits* offsets;  // of all keys, then a larger sentinel
  std::uint32_t num_keys;
  int cell_shift;                     // offset >> cell_shift: its cell
  std::uint32_t bin_shifts[kCells];   // (offset >> bin_shift) + bin_origin: its bin
  std::uint32_t bin_origins[kCells];  // modulo 2^32
  const std::uint64_t* words;         // per 32 bins: marks + 2^32 * number of marks before them
};

/// Maximum number of scores located at a time.
constexpr int kLocated = 512;

/// Finds the slot of each of `count` <= kLocated scores: num_keys + 1 + k if it equals key k,
/// otherwise the number of keys before it. If a score is NaN, returns false and the slots are
/// undefined. `slots` has room for kLocated entries.
template <typename Bits>
using LocateScores = bool (*)(const KeyTable<Bits>& table, const Bits* scores, int count,
                              std::uint32_t* slots);

#define AUTOPATCH_DECLARE_LOCATE(level)                                                  \
  bool locate_float32_##level(const KeyTable<std::uint32_t>&, const std::uint32_t*, int, \
                              std::uint32_t*);                                           \
  bool locate_float64_##level(const KeyTable<std::uint64_t>&, const std::uint64_t*, int, \
                              std::uint32_t*);
AUTOPATCH_DECLARE_LOCATE(generic)
AUTOPATCH_DECLARE_LOCATE(avx2)
AUTOPATCH_DECLARE_LOCATE(avx512)
#undef AUTOPATCH_DECLARE_LOCATE

}  // namespace autopatch
