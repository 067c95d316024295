#pragma once

// Histograms of scores. Scores are compared as keys (score_key.hpp).

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/parallel.hpp"
#include "ops/key_locator.hpp"

namespace autopatch {

/// Splits [0, count) into ranges and hands them out to threads.
class Ranges {
 public:
  explicit Ranges(std::size_t count) : count_(count) {}

  /// Returns false when no range is left.
  bool next(std::size_t& begin, std::size_t& end) {
    begin = kSize * next_.fetch_add(1);
    end = std::min(count_, begin + kSize);
    return begin < count_;
  }

 private:
  static constexpr std::size_t kSize = 1 << 16;

  std::size_t count_;
  std::atomic<std::size_t> next_{0};
};

template <typename Task>
void run_workers(std::size_t num_workers, const Task& task) {
  parallel_for(static_cast<std::int64_t>(num_workers), static_cast<int>(num_workers),
               [&](std::int64_t worker) { task(static_cast<std::size_t>(worker)); });
}

/// Counts the scores in each slot of a locator. Returns an empty vector if a score is NaN. Uses at
/// most 32 MiB. One of the threads calls `meanwhile` before it counts.
template <typename Format, typename Task>
std::vector<std::uint32_t> count_slots(const typename Format::Bits* scores, std::size_t count,
                                       const KeyLocator<Format>& locator, int num_threads,
                                       const Task& meanwhile) {
  const std::size_t num_slots = 2 * locator.num_keys() + 1;
  constexpr std::size_t kMostSlots = (std::size_t{1} << 25) / sizeof(std::uint32_t);
  // With more slots than scores, clearing and adding them would cost more than counting.
  const std::size_t num_workers = std::clamp<std::size_t>(std::min(count, kMostSlots) / num_slots,
                                                          1, static_cast<std::size_t>(num_threads));
  std::vector<std::vector<std::uint32_t>> counts(num_workers);
  // Allocated here: malloc keeps freed memory in the arena of the thread that allocated it, and the
  // next call may run on other workers.
  for (std::vector<std::uint32_t>& of_worker : counts) of_worker.reserve(num_slots);
  std::atomic<bool> has_nan{false};
  Ranges ranges(count);
  run_workers(num_workers, [&](std::size_t worker) {
    if (worker == 0) meanwhile();
    counts[worker].resize(num_slots);
    std::uint32_t* const counts_of_worker = counts[worker].data();
    std::uint32_t slots[kLocated];
    for (std::size_t begin, end; ranges.next(begin, end) && !has_nan;) {
      for (; begin < end; begin += kLocated) {
        const int size = static_cast<int>(std::min<std::size_t>(end - begin, kLocated));
        if (!locator.locate(scores + begin, size, slots)) {
          has_nan = true;
          return;
        }
        for (int i = 0; i < size; ++i) ++counts_of_worker[slots[i]];
      }
    }
  });
  if (has_nan) return {};
  std::vector<std::uint32_t> total = std::move(counts[0]);
  for (std::size_t worker = 1; worker < num_workers; ++worker) {
    for (std::size_t slot = 0; slot < num_slots; ++slot) total[slot] += counts[worker][slot];
  }
  return total;
}

/// Counts the scores of 1 or 2 bytes with each possible key. Returns an empty vector if a score is
/// NaN.
template <typename Format>
std::vector<std::uint32_t> count_keys(const typename Format::Bits* scores, std::size_t count,
                                      int num_threads) {
  using Bits = typename Format::Bits;
  constexpr std::size_t kNumValues = std::size_t{1} << (8 * sizeof(Bits));
  // Adjacent scores are often equal. Separate tables avoid waiting for the previous increment.
  constexpr std::size_t kTables = 4;
  constexpr std::size_t kMostWorkers = 32;  // their tables take at most 32 MiB
  // With more entries than scores, clearing and adding them would cost more than counting.
  const std::size_t num_workers =
      std::clamp<std::size_t>(count / (kTables * kNumValues), 1,
                              std::min(static_cast<std::size_t>(num_threads), kMostWorkers));
  std::vector<std::vector<std::uint32_t>> tables(num_workers);
  Ranges ranges(count);
  run_workers(num_workers, [&](std::size_t worker) {
    tables[worker].resize(kTables * kNumValues);
    std::uint32_t* const counts = tables[worker].data();
    for (std::size_t begin, end; ranges.next(begin, end);) {
      for (; begin + kTables <= end; begin += kTables) {
        for (std::size_t i = 0; i < kTables; ++i) ++counts[i * kNumValues + scores[begin + i]];
      }
      for (; begin < end; ++begin) ++counts[scores[begin]];
    }
  });
  std::vector<std::uint32_t> counts_of_keys(kNumValues);
  for (std::size_t value = 0; value < kNumValues; ++value) {
    std::uint32_t count_of_value = 0;
    for (const std::vector<std::uint32_t>& counts : tables) {
      for (std::size_t i = value; i < counts.size(); i += kNumValues) count_of_value += counts[i];
    }
    const auto bits = static_cast<Bits>(value);
    if (count_of_value != 0 && Format::is_nan(bits)) return {};
    counts_of_keys[Format::key(bits)] += count_of_value;
  }
  return counts_of_keys;
}

}  // namespace autopatch
