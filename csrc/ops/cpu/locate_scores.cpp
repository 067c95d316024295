#include "ops/cpu/locate_scores.hpp"

#include "ops/cpu/score_key.hpp"
#include "ops/cpu/simd.hpp"

namespace {

using autopatch::KeyTable;
using autopatch::kLocated;

// Indices of the scores whose key must still be compared; written in whole vectors.
typedef std::uint32_t Unsure[kLocated + 16];

// Converts scores to clamped offsets. Returns false if a score is NaN.
template <typename Format, typename Bits = typename Format::Bits>
inline bool to_offsets(const KeyTable<Bits>& table, const Bits* scores, int count, Bits* offsets) {
  const Bits lowest = table.lowest;
  const Bits highest = table.highest;
  Bits num_nan = 0;  // as wide as a score, so that the whole loop vectorizes
  for (int i = 0; i < count; ++i) {
    Bits key = Format::key(scores[i]);
    num_nan += Format::is_nan(scores[i]);
    key = key < lowest ? lowest : key;
    key = key > highest ? highest : key;
    offsets[i] = key - lowest;
  }
  return num_nan == 0;
}

inline std::uint32_t count_bits(std::uint32_t v) {
#if defined(__x86_64__) && !defined(__POPCNT__)  // the builtin would be a function call
  v -= (v >> 1) & 0x55555555U;
  v = (v & 0x33333333U) + ((v >> 2) & 0x33333333U);
  return (((v + (v >> 4)) & 0x0F0F0F0FU) * 0x01010101U) >> 24;
#else
  return static_cast<std::uint32_t>(__builtin_popcount(v));
#endif
}

// Counts the marks before the bin of each offset, and lists the offsets whose own bins are marked.
// Returns the number of listed offsets.
template <typename Bits>
inline int count_marks(const KeyTable<Bits>& table, const Bits* offsets, int count,
                       std::uint32_t* slots, Unsure& unsure) {
  int num_unsure = 0;
  for (int i = 0; i < count; ++i) {
    const Bits offset = offsets[i];
    const auto cell = static_cast<std::uint32_t>(offset >> table.cell_shift);
    const std::uint32_t bin =
        static_cast<std::uint32_t>(offset >> table.bin_shifts[cell]) + table.bin_origins[cell];
    const std::uint64_t word = table.words[bin / 32];
    const auto marks = static_cast<std::uint32_t>(word);
    const std::uint32_t mark = std::uint32_t{1} << (bin % 32);
    slots[i] = static_cast<std::uint32_t>(word >> 32) + count_bits(marks & (mark - 1));
    unsure[num_unsure] = static_cast<std::uint32_t>(i);
    num_unsure += (marks & mark) != 0;
  }
  return num_unsure;
}

#if defined(__AVX512F__)
typedef std::uint32_t Uints __attribute__((vector_size(64)));
typedef std::uint32_t UnalignedUints
    __attribute__((vector_size(64), aligned(alignof(std::uint32_t)), may_alias));

inline Uints load_uints(const std::uint32_t* p) {
  return *reinterpret_cast<const UnalignedUints*>(p);
}
inline void store_uints(std::uint32_t* p, Uints v) { *reinterpret_cast<UnalignedUints*>(p) = v; }

inline Uints count_bits(Uints v) {
  v -= (v >> 1) & 0x55555555U;
  v = (v & 0x33333333U) + ((v >> 2) & 0x33333333U);
  v = (v + (v >> 4)) & 0x0F0F0F0FU;
  return reinterpret_cast<Uints>(
      _mm512_madd_epi16(_mm512_maddubs_epi16(reinterpret_cast<__m512i>(v), _mm512_set1_epi8(1)),
                        _mm512_set1_epi16(1)));
}

// Looks up 32 values by index.
inline Uints look_up(const Uints (&values)[2], Uints i) {
  return reinterpret_cast<Uints>(_mm512_permutex2var_epi32(reinterpret_cast<__m512i>(values[0]),
                                                           reinterpret_cast<__m512i>(i),
                                                           reinterpret_cast<__m512i>(values[1])));
}

// values[2 * i] for every lane of i.
inline Uints gather(const std::uint32_t* values, Uints i) {
  return reinterpret_cast<Uints>(_mm512_mask_i32gather_epi32(
      __m512i{}, 0xFFFF, reinterpret_cast<__m512i>(i), values, 2 * sizeof(std::uint32_t)));
}

// Replaces the template for 32-bit keys. Reads and writes whole vectors.
inline int count_marks(const KeyTable<std::uint32_t>& table, const std::uint32_t* offsets,
                       int count, std::uint32_t* slots, Unsure& unsure) {
  static_assert(KeyTable<std::uint32_t>::kCells == 32, "two vectors");
  const Uints shifts[] = {load_uints(table.bin_shifts), load_uints(table.bin_shifts + 16)};
  const Uints origins[] = {load_uints(table.bin_origins), load_uints(table.bin_origins + 16)};
  const auto* halves = reinterpret_cast<const std::uint32_t*>(table.words);
  Uints indices = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  int num_unsure = 0;
  for (int i = 0; i < count; i += 16, indices += 16) {
    const Uints offset = load_uints(offsets + i);
    const Uints cell = offset >> table.cell_shift;
    const Uints bin = (offset >> look_up(shifts, cell)) + look_up(origins, cell);
    const Uints marks = gather(halves, bin / 32);
    const Uints before = gather(halves + 1, bin / 32);
    const Uints mark = (Uints{} + 1) << (bin % 32);
    store_uints(slots + i, before + count_bits(marks & (mark - 1)));
    const __mmask16 is_marked =
        _mm512_test_epi32_mask(reinterpret_cast<__m512i>(marks), reinterpret_cast<__m512i>(mark));
    store_uints(unsure + num_unsure, reinterpret_cast<Uints>(_mm512_maskz_compress_epi32(
                                         is_marked, reinterpret_cast<__m512i>(indices))));
    num_unsure += __builtin_popcount(is_marked);
  }
  // Drop the indices after the last score; they come last.
  while (num_unsure > 0 && unsure[num_unsure - 1] >= static_cast<std::uint32_t>(count)) {
    --num_unsure;
  }
  return num_unsure;
}
#endif

// Number of keys below `offset`; at least `begin`.
template <typename Bits>
inline std::uint32_t compare(const KeyTable<Bits>& table, Bits offset, std::uint32_t begin) {
  // Two steps nearly always suffice, and branches would be mispredicted.
  begin += table.offsets[begin] < offset;
  begin += table.offsets[begin] < offset;
  if (__builtin_expect(table.offsets[begin] >= offset, 1)) return begin;
  std::uint32_t end = table.num_keys;
  while (begin < end) {
    const std::uint32_t middle = begin + (end - begin) / 2;
    if (table.offsets[middle] < offset) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

template <typename Format, typename Bits = typename Format::Bits>
inline bool locate(const KeyTable<Bits>& table, const Bits* scores, int count,
                   std::uint32_t* slots) {
  Bits offsets[kLocated];
  // Whole vectors are looked up. Offset 0 is always valid.
  for (int i = count; i < (count + 15) / 16 * 16; ++i) offsets[i] = 0;
  if (!to_offsets<Format>(table, scores, count, offsets)) return false;
  Unsure unsure;
  const int num_unsure = count_marks(table, offsets, count, slots, unsure);
  for (int u = 0; u < num_unsure; ++u) {
    const std::uint32_t i = unsure[u];
    const std::uint32_t key = compare(table, offsets[i], slots[i]);
    slots[i] = table.offsets[key] == offsets[i] ? table.num_keys + 1 + key : key;
  }
  return true;
}

}  // namespace

namespace autopatch {

bool AUTOPATCH_ISA_SYMBOL(locate_float32)(const KeyTable<std::uint32_t>& table,
                                          const std::uint32_t* scores, int count,
                                          std::uint32_t* slots) {
  return locate<Float32>(table, scores, count, slots);
}

bool AUTOPATCH_ISA_SYMBOL(locate_float64)(const KeyTable<std::uint64_t>& table,
                                          const std::uint64_t* scores, int count,
                                          std::uint32_t* slots) {
  return locate<Float64>(table, scores, count, slots);
}

}  // namespace autopatch
