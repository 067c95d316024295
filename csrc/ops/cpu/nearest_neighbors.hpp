#pragma once

#include <cstdint>

namespace autopatch {

/// Squared distances of one query to `count` rows of `bank`: float32 sums of squared differences,
/// in an order that depends only on `dim` and the ISA level.
using SquaredDistances = void (*)(const float* query, const float* bank, std::int64_t dim,
                                  const std::int64_t* rows, std::int64_t count, float* distances);

/// For each of `count` vectors: y = vector - mean, its squared norm, and its coordinates
/// y . basis[:, j] for a basis [dim, width], row-major, `width` a multiple of 16. Products are
/// summed in chunks of at most `kProjectionChunk`; the chunk sums are then added in order.
using ProjectVectors = void (*)(const float* vectors, std::int64_t count, std::int64_t dim,
                                const float* mean, const float* basis, std::int64_t width,
                                float* coordinates, float* squared_norms);

constexpr std::int64_t kProjectionChunk = 128;

#define AUTOPATCH_DECLARE_NEAREST(level)                                                        \
  void squared_distances_##level(const float*, const float*, std::int64_t, const std::int64_t*, \
                                 std::int64_t, float*);                                         \
  void project_vectors_##level(const float*, std::int64_t, std::int64_t, const float*,          \
                               const float*, std::int64_t, float*, float*);
AUTOPATCH_DECLARE_NEAREST(generic)
AUTOPATCH_DECLARE_NEAREST(avx2)
AUTOPATCH_DECLARE_NEAREST(avx512)
#undef AUTOPATCH_DECLARE_NEAREST

}  // namespace autopatch
