#include "ops/cpu/aggregate_patches.hpp"

#include "ops/cpu/simd.hpp"

// Plain loops over channels, which the compiler vectorises for the level at hand.

namespace {

inline std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

inline void add(float* __restrict__ sum, const float* __restrict__ term, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) sum[i] += term[i];
}

// Box sums along a line of `length` cells of `cell` floats, zero outside: out[i] is the sum of
// cells i - padding ... i - padding + patch - 1. Summed directly, in this order: a running sum
// would carry rounding errors, NaN and infinity on to patches that do not contain them.
void box_sums(const float* line, std::int64_t length, std::int64_t cell, std::int64_t patch,
              std::int64_t out_length, float* out) {
  const std::int64_t padding = (patch - 1) / 2;
  for (std::int64_t i = 0; i < out_length * cell; ++i) out[i] = 0.0f;
  for (std::int64_t j = 0; j < patch; ++j) {
    const std::int64_t shift = j - padding;
    const std::int64_t first = larger(0, -shift);
    const std::int64_t last = smaller(out_length, length - shift);
    if (first < last) {
      add(out + first * cell, line + (first + shift) * cell, (last - first) * cell);
    }
  }
}

// Position and weights of a bilinear sample for align_corners=False, (i + 1/2) in / out - 1/2 as an
// exact fraction: torch's float32 position is off by up to 1e-5 on a map of 56 cells. As in torch,
// a map that keeps its size is copied, so that NaN does not reach a neighbor through a weight of
// zero.
struct Tap {
  std::int64_t low;
  std::int64_t high;
  float low_weight;
  float high_weight;
};

inline Tap tap(std::int64_t i, std::int64_t in_length, std::int64_t out_length) {
  if (in_length == out_length) return {i, i, 1.0f, 0.0f};
  const std::int64_t denominator = 2 * out_length;
  const std::int64_t numerator = larger(0, (2 * i + 1) * in_length - out_length);
  const std::int64_t low = numerator / denominator;
  const float high_weight =
      static_cast<float>(numerator % denominator) / static_cast<float>(denominator);
  return {low, smaller(low + 1, in_length - 1), 1.0f - high_weight, high_weight};
}

inline void blend(const float* __restrict__ a, const float* __restrict__ b,
                  const float* __restrict__ c, const float* __restrict__ d, const Tap& y,
                  const Tap& x, std::int64_t channels, float* __restrict__ out) {
  for (std::int64_t i = 0; i < channels; ++i) {
    out[i] = y.low_weight * (x.low_weight * a[i] + x.high_weight * b[i]) +
             y.high_weight * (x.low_weight * c[i] + x.high_weight * d[i]);
  }
}

}  // namespace

namespace autopatch {

void AUTOPATCH_ISA_SYMBOL(aggregate_level)(const float* map, std::int64_t channels,
                                           std::int64_t height, std::int64_t width,
                                           std::int64_t patch, std::int64_t out_height,
                                           std::int64_t out_width, float* out,
                                           std::int64_t out_stride, float* sums, float* pooled) {
  // An even patch size shrinks the map by one.
  const std::int64_t shrink = 1 - patch % 2;
  const std::int64_t pooled_height = height - shrink;
  const std::int64_t pooled_width = width - shrink;
  const float* source = map;
  if (patch > 1) {
    const std::int64_t row = pooled_width * channels;
    for (std::int64_t y = 0; y < height; ++y) {
      box_sums(map + y * width * channels, width, channels, patch, pooled_width, sums + y * row);
    }
    box_sums(sums, height, row, patch, pooled_height, pooled);
    const float share = 1.0f / static_cast<float>(patch * patch);
    for (std::int64_t i = 0; i < pooled_height * row; ++i) pooled[i] *= share;
    source = pooled;
  }
  for (std::int64_t y = 0; y < out_height; ++y) {
    const Tap ty = tap(y, pooled_height, out_height);
    const float* low = source + ty.low * pooled_width * channels;
    const float* high = source + ty.high * pooled_width * channels;
    for (std::int64_t x = 0; x < out_width; ++x) {
      const Tap tx = tap(x, pooled_width, out_width);
      blend(low + tx.low * channels, low + tx.high * channels, high + tx.low * channels,
            high + tx.high * channels, ty, tx, channels, out + (y * out_width + x) * out_stride);
    }
  }
}

}  // namespace autopatch
