#pragma once

// How many pixels have a score between or on given ones. Scores are compared as keys
// (score_key.hpp) less the first of the given keys: as "offsets".

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/parallel.hpp"
#include "ops/score_key.hpp"

namespace autopatch {

/// Distinct keys in rising order, at least one.
template <typename Bits>
struct DistinctKeys {
  Bits base;                  // the first key
  std::vector<Bits> offsets;  // of all of them

  Bits span() const { return offsets.back(); }
};

/// Number of pixels [2 i] before key i and behind key i - 1, [2 i + 1] at key i.
using SlotCounts = std::vector<std::uint32_t>;

/// Leads from an offset to its slot. To stay in the cache, offsets are to be looked up bucket by
/// bucket: buckets are ranges of offsets with few keys each, made up of cells of equal width.
/// Within a bucket, bins of equal width tell the first key at or behind their start.
template <typename Bits>
class SlotFinder {
 public:
  explicit SlotFinder(const DistinctKeys<Bits>& keys) : keys_(keys.offsets), span_(keys.span()) {
    constexpr std::size_t kMaxCells = 2048;
    while ((span_ >> cell_shift_) >= kMaxCells) ++cell_shift_;
    const std::size_t num_cells = static_cast<std::size_t>(span_ >> cell_shift_) + 1;
    std::vector<std::size_t> keys_of_cell(num_cells);
    for (const Bits offset : keys_) ++keys_of_cell[cell_of(offset)];

    const std::size_t keys_of_bucket = std::max(keys_.size() / kBuckets, kFewestKeys);
    bucket_of_cell_.reserve(num_cells + 1);
    std::size_t key = 0;
    while (bucket_of_cell_.size() < num_cells) {
      const std::size_t first_cell = bucket_of_cell_.size();
      std::size_t num_keys = 0;
      std::size_t cell = first_cell;
      do {
        num_keys += keys_of_cell[cell++];
      } while (cell < num_cells && num_keys + keys_of_cell[cell] <= keys_of_bucket);
      bucket_of_cell_.resize(cell, static_cast<std::uint16_t>(buckets_.size()));
      add_bucket(first_cell, cell - first_cell, key, key + num_keys);
      key += num_keys;
    }
    first_key_.push_back(static_cast<std::uint32_t>(key));
    bucket_of_cell_.push_back(static_cast<std::uint16_t>(buckets_.size()));
  }

  /// Without the one behind the last, of offsets that are larger than any key's.
  std::size_t num_buckets() const { return buckets_.size(); }

  std::size_t bucket_of(Bits offset) const {
    return bucket_of_cell_[offset > span_ ? bucket_of_cell_.size() - 1 : cell_of(offset)];
  }

  /// Adds `count` offsets of one bucket to the slots they fall into.
  void add(std::size_t bucket_index, const Bits* offsets, std::size_t count,
           std::uint32_t* slots) const {
    const Bucket bucket = buckets_[bucket_index];
    const std::uint32_t* const first_key = &first_key_[bucket.first_bin];
    const Bits* const keys = keys_.data();
    for (std::size_t i = 0; i < count; ++i) {
      const Bits offset = offsets[i];
      const auto bin = static_cast<std::size_t>((offset - bucket.begin) >> bucket.shift);
      // Few bins hold more than two keys, and a branch for each would be guessed wrong.
      std::size_t key = first_key[bin];
      key += keys[key] < offset;
      key += keys[key] < offset;
      if (__builtin_expect(keys[key] < offset, 0)) {
        key = static_cast<std::size_t>(
            std::lower_bound(keys + key, keys + first_key[bin + 1], offset) - keys);
      }
      ++slots[2 * key + (keys[key] == offset)];
    }
  }

 private:
  static constexpr std::size_t kBuckets = 256;  // about
  static constexpr std::size_t kFewestKeys = 256;
  static constexpr std::size_t kBinsOfKey = 2;  // at most, but for a few

  struct Bucket {
    Bits begin;  // offset
    int shift;   // of the width of its bins
    std::size_t first_bin;
  };

  std::size_t cell_of(Bits offset) const { return static_cast<std::size_t>(offset >> cell_shift_); }

  void add_bucket(std::size_t first_cell, std::size_t num_cells, std::size_t key,
                  std::size_t end_of_keys) {
    const auto begin = static_cast<Bits>(static_cast<Bits>(first_cell) << cell_shift_);
    const auto last =
        static_cast<Bits>(begin + ((static_cast<Bits>(num_cells) << cell_shift_) - 1));
    const auto width = static_cast<Bits>(last - begin);
    int shift = 0;
    while ((width >> shift) >= kBinsOfKey * (end_of_keys - key) + 16) ++shift;
    buckets_.push_back({begin, shift, first_key_.size()});
    const std::size_t num_bins = static_cast<std::size_t>(width >> shift) + 1;
    for (std::size_t bin = 0; bin < num_bins; ++bin) {
      while (key < end_of_keys && static_cast<std::size_t>((keys_[key] - begin) >> shift) < bin) {
        ++key;
      }
      first_key_.push_back(static_cast<std::uint32_t>(key));
    }
  }

  const std::vector<Bits>& keys_;
  Bits span_;
  int cell_shift_ = 0;
  std::vector<std::uint16_t> bucket_of_cell_;  // and, last, the bucket of offsets behind the keys
  std::vector<Bucket> buckets_;
  std::vector<std::uint32_t> first_key_;  // at or behind the start of each bin; and, last, how many
};

/// What one thread counts. Offsets wait in buffers, one a bucket, until there are enough of them to
/// be worth bringing the bucket's keys and slots into the cache.
template <typename Format>
class PixelCounter {
 public:
  using Bits = typename Format::Bits;

  PixelCounter(const DistinctKeys<Bits>& keys, const SlotFinder<Bits>& finder)
      : base_(keys.base),
        finder_(finder),
        buffers_((finder.num_buckets() + 1) * kCapacity),
        sizes_(finder.num_buckets() + 1),
        slots_(2 * keys.offsets.size()) {}

  /// False where a score is NaN.
  bool add(const Bits* scores, std::size_t count) {
    for (std::size_t begin = 0; begin < count; begin += kBlock) {
      if (!add_block(scores + begin, std::min(kBlock, count - begin))) return false;
    }
    return true;
  }

  SlotCounts finish() {
    for (std::size_t bucket = 0; bucket < finder_.num_buckets(); ++bucket) empty(bucket);
    return std::move(slots_);
  }

 private:
  static constexpr std::size_t kCapacity = 1024;
  // With more, the ends of the buffers would not stay in the first-level cache.
  static constexpr std::size_t kBlock = 512;

  bool add_block(const Bits* scores, std::size_t count) {
    std::array<Bits, kBlock> offsets;
    // Counts of the width of a score, so that all of the loop is vectors.
    Bits num_nan = 0;
    Bits num_before = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const Bits key = Format::key(scores[i]);
      num_nan += Format::is_nan(scores[i]);
      num_before += key < base_;
      offsets[i] = key - base_;
    }
    if (num_nan != 0) return false;
    slots_[0] += static_cast<std::uint32_t>(num_before);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t bucket = finder_.bucket_of(offsets[i]);
      const std::uint32_t size = sizes_[bucket]++;
      buffers_[bucket * kCapacity + size] = offsets[i];
      if (__builtin_expect(size + 1 == kCapacity, 0)) empty(bucket);
    }
    return true;
  }

  __attribute__((noinline)) void empty(std::size_t bucket) {
    const std::uint32_t size = std::exchange(sizes_[bucket], 0);
    if (bucket == finder_.num_buckets()) return;
    finder_.add(bucket, &buffers_[bucket * kCapacity], size, slots_.data());
  }

  Bits base_;
  const SlotFinder<Bits>& finder_;
  std::vector<Bits> buffers_;
  std::vector<std::uint32_t> sizes_;
  SlotCounts slots_;
};

/// Calls `task(worker, begin, end)` for ranges that make up [0, count). Ranges of one worker come
/// one after the other.
template <typename Task>
void share_out(std::size_t count, std::size_t num_workers, const Task& task) {
  constexpr std::size_t kRange = 1 << 16;
  std::atomic<std::size_t> next{0};
  parallel_for(static_cast<std::int64_t>(num_workers), static_cast<int>(num_workers),
               [&](std::int64_t worker) {
                 for (std::size_t begin; (begin = kRange * next.fetch_add(1)) < count;) {
                   task(static_cast<std::size_t>(worker), begin, std::min(count, begin + kRange));
                 }
               });
}

/// Slots of all scores, for scores of 4 or 8 bytes. Empty where a score is NaN.
template <typename Format>
SlotCounts count_by_search(const typename Format::Bits* scores, std::size_t num_pixels,
                           const DistinctKeys<typename Format::Bits>& keys, int num_threads) {
  const SlotFinder<typename Format::Bits> finder(keys);
  // No more slots than pixels, or they would cost more than the counting.
  const std::size_t num_workers = std::clamp<std::size_t>(num_pixels / (2 * keys.offsets.size()), 1,
                                                          static_cast<std::size_t>(num_threads));
  std::vector<PixelCounter<Format>> counters;
  counters.reserve(num_workers);
  for (std::size_t i = 0; i < num_workers; ++i) counters.emplace_back(keys, finder);
  std::atomic<bool> has_nan{false};
  share_out(num_pixels, num_workers, [&](std::size_t worker, std::size_t begin, std::size_t end) {
    if (!has_nan && !counters[worker].add(scores + begin, end - begin)) has_nan = true;
  });
  if (has_nan) return {};
  SlotCounts total = counters[0].finish();
  for (std::size_t i = 1; i < num_workers; ++i) {
    const SlotCounts slots = counters[i].finish();
    for (std::size_t slot = 0; slot < total.size(); ++slot) total[slot] += slots[slot];
  }
  return total;
}

/// Slots of all scores, for scores of 1 or 2 bytes: counts every value there is. Empty where a
/// score is NaN.
template <typename Format>
SlotCounts count_by_value(const typename Format::Bits* scores, std::size_t num_pixels,
                          const DistinctKeys<typename Format::Bits>& keys, int num_threads) {
  using Bits = typename Format::Bits;
  constexpr std::size_t kNumValues = std::size_t{1} << (8 * sizeof(Bits));
  // Neighbors are often equal, and each waits for the one before it to be counted.
  constexpr std::size_t kTables = 4;
  const auto num_workers = static_cast<std::size_t>(num_threads);
  std::vector<std::vector<std::uint32_t>> tables(num_workers);
  share_out(num_pixels, num_workers, [&](std::size_t worker, std::size_t begin, std::size_t end) {
    tables[worker].resize(kTables * kNumValues);
    std::uint32_t* const counts = tables[worker].data();
    for (; begin + kTables <= end; begin += kTables) {
      for (std::size_t i = 0; i < kTables; ++i) ++counts[i * kNumValues + scores[begin + i]];
    }
    for (; begin < end; ++begin) ++counts[scores[begin]];
  });
  std::vector<std::uint32_t> count_of_key(kNumValues);
  for (std::size_t value = 0; value < kNumValues; ++value) {
    std::uint32_t count = 0;
    for (const std::vector<std::uint32_t>& counts : tables) {
      for (std::size_t i = value; i < counts.size(); i += kNumValues) count += counts[i];
    }
    const auto bits = static_cast<Bits>(value);
    if (count != 0 && Format::is_nan(bits)) return {};
    count_of_key[Format::key(bits)] += count;
  }
  SlotCounts slots;
  slots.reserve(2 * keys.offsets.size());
  std::size_t key = 0;
  for (const Bits offset : keys.offsets) {
    std::uint32_t before = 0;
    for (; key < std::size_t{keys.base} + offset; ++key) before += count_of_key[key];
    slots.push_back(before);
    slots.push_back(count_of_key[key++]);
  }
  return slots;
}

template <typename Format>
SlotCounts count_slots(const typename Format::Bits* scores, std::size_t num_pixels,
                       const DistinctKeys<typename Format::Bits>& keys, int num_threads) {
  if constexpr (sizeof(typename Format::Bits) <= 2) {
    return count_by_value<Format>(scores, num_pixels, keys, num_threads);
  } else {
    return count_by_search<Format>(scores, num_pixels, keys, num_threads);
  }
}

}  // namespace autopatch
