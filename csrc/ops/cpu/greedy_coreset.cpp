#include "ops/cpu/greedy_coreset.hpp"

#include "ops/cpu/simd.hpp"

namespace {

using autopatch::CoresetPair;

constexpr int kSums = autopatch::kCoresetSums;
constexpr int kVectors = kSums / kLanes;  // vectors that hold the sums of a pair
// Pairs measured together. Their sums are independent and fit in the registers.
constexpr int kPairs = kLanes == 4 ? 2 : 4;
// Rows are scattered in memory. The first floats of rows this many pairs ahead are prefetched.
constexpr std::int64_t kAhead = 12;
constexpr std::int64_t kFetched = 512;  // floats

inline float add_up(const Vector* sums) {
  typedef float Quad __attribute__((vector_size(16), may_alias));
  alignas(64) float flat[kSums];
  for (int v = 0; v < kVectors; ++v) store(flat + v * kLanes, sums[v]);
  const Quad* quads = reinterpret_cast<const Quad*>(flat);
  const Quad four = (quads[0] + quads[2]) + (quads[1] + quads[3]);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// Loads the first `count` floats, then zeros. Reads nothing if `count` is 0.
inline Vector load_up_to(const float* p, std::int64_t count) {
  if (count >= kLanes) return load(p);
  return count > 0 ? load_first(p, count) : Vector{};
}

inline void fetch(const float* row, std::int64_t dim) {
  const std::int64_t count = dim < kFetched ? dim : kFetched;
  for (std::int64_t d = 0; d < count; d += 16) __builtin_prefetch(row + d);
}

// The zeros after the last features do not change a sum.
template <int kCount>
inline void measure(const float* features, std::int64_t dim, const CoresetPair* pairs,
                    float* distances) {
  const float* rows[kCount];
  const float* picks[kCount];
  for (int i = 0; i < kCount; ++i) {
    rows[i] = features + pairs[i].row * dim;
    picks[i] = features + pairs[i].pick * dim;
  }
  Vector sums[kCount][kVectors] = {};
  std::int64_t at = 0;
  for (; at + kSums <= dim; at += kSums) {
    for (int i = 0; i < kCount; ++i) {
      for (int v = 0; v < kVectors; ++v) {
        const std::int64_t d = at + v * kLanes;
        const Vector difference = load(rows[i] + d) - load(picks[i] + d);
        sums[i][v] += difference * difference;
      }
    }
  }
  if (at < dim) {
    for (int i = 0; i < kCount; ++i) {
      for (int v = 0; v < kVectors; ++v) {
        const std::int64_t d = at + v * kLanes;
        const Vector difference =
            load_up_to(rows[i] + d, dim - d) - load_up_to(picks[i] + d, dim - d);
        sums[i][v] += difference * difference;
      }
    }
  }
  for (int i = 0; i < kCount; ++i) distances[i] = add_up(sums[i]);
}

}  // namespace

namespace autopatch {

void AUTOPATCH_ISA_SYMBOL(coreset_distances)(const float* features, std::int64_t dim,
                                             const CoresetPair* pairs, std::int64_t count,
                                             float* distances) {
  std::int64_t i = 0;
  for (; i + kPairs <= count; i += kPairs) {
    for (std::int64_t j = i + kAhead; j < i + kAhead + kPairs && j < count; ++j) {
      fetch(features + pairs[j].row * dim, dim);
      fetch(features + pairs[j].pick * dim, dim);
    }
    measure<kPairs>(features, dim, pairs + i, distances + i);
  }
  for (; i < count; ++i) measure<1>(features, dim, pairs + i, distances + i);
}

}  // namespace autopatch
