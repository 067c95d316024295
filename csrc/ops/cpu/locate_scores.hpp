#pragma once

#include <cstdint>

namespace autopatch {

/// Where distinct keys of scores (score_key.hpp) lie; built by `KeyLocator`. Keys are looked up as
/// "offsets": how far they are behind `lowest`, at most that of `highest`.
///
/// The range of offsets is cut into cells of equal width, and a cell into bins of equal width, the
/// more, the more keys it has. Every key marks its bin or, if that one is marked, the next that is
/// not. Before an offset whose bin is not marked lie as many keys as bins are marked before it; it
/// is only for others that keys need to be compared.
template <typename Bits>
struct KeyTable {
  static constexpr int kCells = 32;

  Bits lowest;          // one less than the first key
  Bits highest;         // one more than the last
  const Bits* offsets;  // of all keys, then one that is larger than any
  std::uint32_t num_keys;
  int cell_shift;                     // offset >> cell_shift: its cell
  std::uint32_t bin_shifts[kCells];   // (offset >> bin_shift) + bin_origin: its bin
  std::uint32_t bin_origins[kCells];  // modulo 2^32
  const std::uint64_t* words;         // of 32 bins each: marks, and how many are before, times 2^32
};

/// At most so many scores are located at a time.
constexpr int kLocated = 512;

/// Finds the slot of each of `count` <= kLocated scores: k where it lies behind k keys of the table
/// and on none, num_keys + 1 + k where it is that of key k. False, and no slots of use, where a
/// score is NaN. `slots` has room for kLocated.
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
