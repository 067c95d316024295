#include "ops/cpu/greedy_coreset.hpp"

#include "ops/cpu/simd.hpp"

namespace {

// The sixteen running sums of a pair, as vectors of the level, and the pairs held in registers.
constexpr int kSums = autopatch::kCoresetSums;
constexpr int kVectors = kSums / kLanes;
constexpr int kPoints = kLanes == 16 ? 4 : (kLanes == 8 ? 2 : 1);
constexpr int kCenters = 2;

inline float add_up(float* sums) {
  for (int width = kSums / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) sums[j] += sums[j + width];
  }
  return sums[0];
}

template <int kP, int kC>
inline void accumulate(const float* const* points, const float* const* centers, std::int64_t at,
                       Vector (*sums)[kC][kVectors]) {
  for (int v = 0; v < kVectors; ++v) {
    Vector center[kC];
    for (int c = 0; c < kC; ++c) center[c] = load(centers[c] + at + v * kLanes);
    for (int p = 0; p < kP; ++p) {
      const Vector point = load(points[p] + at + v * kLanes);
      for (int c = 0; c < kC; ++c) {
        const Vector difference = point - center[c];
        sums[p][c][v] += difference * difference;
      }
    }
  }
}

template <int kP, int kC>
inline void update_pairs(const autopatch::CoresetRows& rows, std::int64_t first_point,
                         const std::int64_t* centers, float* nearest) {
  const float* point_rows[kP];
  const float* point_tails[kP];
  const float* center_rows[kC];
  const float* center_tails[kC];
  for (int p = 0; p < kP; ++p) {
    point_rows[p] = rows.features + (first_point + p) * rows.dim;
    point_tails[p] = rows.tails + (first_point + p) * kSums;
  }
  for (int c = 0; c < kC; ++c) {
    center_rows[c] = rows.features + centers[c] * rows.dim;
    center_tails[c] = rows.tails + centers[c] * kSums;
  }
  Vector sums[kP][kC][kVectors] = {};
  for (std::int64_t at = 0; at + kSums <= rows.dim; at += kSums) {
    accumulate<kP, kC>(point_rows, center_rows, at, sums);
  }
  if (rows.dim % kSums != 0) accumulate<kP, kC>(point_tails, center_tails, 0, sums);
  for (int p = 0; p < kP; ++p) {
    for (int c = 0; c < kC; ++c) {
      alignas(64) float flat[kSums];
      for (int v = 0; v < kVectors; ++v) store(flat + v * kLanes, sums[p][c][v]);
      const float distance = add_up(flat);
      if (distance < nearest[p]) nearest[p] = distance;
    }
  }
}

// Centers outside, points inside: the points of a tile stay in the first-level cache.
template <int kC>
inline void update_points(const autopatch::CoresetRows& rows, std::int64_t first_point,
                          std::int64_t num_points, const std::int64_t* centers, float* nearest) {
  std::int64_t p = 0;
  for (; p + kPoints <= num_points; p += kPoints) {
    update_pairs<kPoints, kC>(rows, first_point + p, centers, nearest + p);
  }
  for (; p < num_points; ++p) update_pairs<1, kC>(rows, first_point + p, centers, nearest + p);
}

}  // namespace

namespace autopatch {

void AUTOPATCH_ISA_SYMBOL(coreset_update)(const CoresetRows& rows, std::int64_t first_point,
                                          std::int64_t num_points, const std::int64_t* centers,
                                          std::int64_t num_centers, float* nearest) {
  std::int64_t c = 0;
  for (; c + kCenters <= num_centers; c += kCenters) {
    update_points<kCenters>(rows, first_point, num_points, centers + c, nearest);
  }
  for (; c < num_centers; ++c) {
    update_points<1>(rows, first_point, num_points, centers + c, nearest);
  }
}

}  // namespace autopatch
