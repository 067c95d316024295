#include "ops/all_finite.hpp"

#include <algorithm>
#include <atomic>

#include "core/parallel.hpp"
#include "core/rounding.hpp"

namespace autopatch {

bool all_finite(const float* values, std::int64_t count, int num_threads) {
  constexpr std::int64_t kBlock = 1 << 16;
  std::atomic<bool> finite{true};
  parallel_for(divide_up(count, kBlock), num_threads, [&](std::int64_t block) {
    const std::int64_t last = std::min(count, (block + 1) * kBlock);
    // x * 0 is 0 for a finite x and NaN otherwise. Independent sums avoid a dependency chain.
    constexpr std::int64_t kSums = 16;
    float sums[kSums] = {};
    std::int64_t i = block * kBlock;
    for (; i + kSums <= last; i += kSums) {
      for (std::int64_t j = 0; j < kSums; ++j) sums[j] += values[i + j] * 0.0f;
    }
    for (; i < last; ++i) sums[0] += values[i] * 0.0f;
    for (const float sum : sums) {
      if (sum != 0.0f) finite.store(false, std::memory_order_relaxed);
    }
  });
  return finite.load();
}

}  // namespace autopatch
