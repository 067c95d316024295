#include "ops/cpu/nearest_neighbors.hpp"

#include "ops/cpu/simd.hpp"

namespace {

// Number of features summed before the sum is added to the total. In one long sum, the rounding
// errors of equal terms could accumulate beyond 1e-5 of it.
constexpr std::int64_t kChunk = 64 * kLanes;

typedef float Quad __attribute__((vector_size(16)));

/// Adds the lower and upper halves of the lanes.
template <typename Half, typename V>
inline Half add_halves(V v) {
  Half halves[2];
  static_assert(sizeof halves == sizeof v, "half the lanes");
  __builtin_memcpy(halves, &v, sizeof v);
  return halves[0] + halves[1];
}

/// Adds halves of the lanes until four lanes are left.
inline Quad fold(Vector v) {
#if defined(__AVX512F__)
  typedef float Octet __attribute__((vector_size(32)));
  return add_halves<Quad>(add_halves<Octet>(v));
#elif defined(__AVX2__)
  return add_halves<Quad>(v);
#else
  return v;
#endif
}

/// Sums the lanes of each of four vectors, in the same order.
inline Quad add_up(Vector a, Vector b, Vector c, Vector d) {
  const Quad va = fold(a), vb = fold(b), vc = fold(c), vd = fold(d);
  const Quad ab_low = shuffle<0, 4, 1, 5>(va, vb);
  const Quad ab_high = shuffle<2, 6, 3, 7>(va, vb);
  const Quad cd_low = shuffle<0, 4, 1, 5>(vc, vd);
  const Quad cd_high = shuffle<2, 6, 3, 7>(vc, vd);
  return (shuffle<0, 1, 4, 5>(ab_low, cd_low) + shuffle<2, 3, 6, 7>(ab_low, cd_low)) +
         (shuffle<0, 1, 4, 5>(ab_high, cd_high) + shuffle<2, 3, 6, 7>(ab_high, cd_high));
}

// Measures several rows together: their sums are independent and their loads overlap.
template <int kRows>
inline void distances_to(const float* query, const float* bank, std::int64_t dim,
                         const std::int64_t* indices, float* distances) {
  const float* rows[kRows];
  for (int r = 0; r < kRows; ++r) rows[r] = bank + indices[r] * dim;
  Vector total[kRows] = {};
  std::int64_t d = 0;
  while (d + kLanes <= dim) {
    const std::int64_t last = dim - d < kChunk ? dim : d + kChunk;
    Vector sum[kRows] = {};
    for (; d + kLanes <= last; d += kLanes) {
      const Vector x = load(query + d);
      for (int r = 0; r < kRows; ++r) {
        const Vector difference = load(rows[r] + d) - x;
        sum[r] += difference * difference;
      }
    }
    for (int r = 0; r < kRows; ++r) total[r] += sum[r];
  }
  if (d < dim) {
    const Vector x = load_first(query + d, dim - d);
    for (int r = 0; r < kRows; ++r) {
      const Vector difference = load_first(rows[r] + d, dim - d) - x;
      total[r] += difference * difference;
    }
  }
  const Vector none = {};
  const Quad sums =
      add_up(total[0], kRows > 1 ? total[1 % kRows] : none, kRows > 2 ? total[2 % kRows] : none,
             kRows > 3 ? total[3 % kRows] : none);
  for (int r = 0; r < kRows; ++r) distances[r] = sums[r];
}

constexpr int kVectors = 4;                    // vectors projected together
constexpr int kGroup = 16 / kLanes;            // registers per 16 columns
constexpr int kGroups = kLanes == 16 ? 3 : 1;  // groups of 16 columns held in registers

/// Adds the products of y [kCount, kProjectionChunk] with rows of the basis to `coordinates`.
template <int kCount, int kColumns>
inline void add_products(const float* y, std::int64_t length, const float* basis,
                         std::int64_t width, float* coordinates) {
  Vector sum[kCount][kColumns] = {};
  for (std::int64_t d = 0; d < length; ++d) {
    Vector column[kColumns];
    for (int c = 0; c < kColumns; ++c) column[c] = load(basis + d * width + c * kLanes);
    for (int i = 0; i < kCount; ++i) {
      const float factor = y[i * autopatch::kProjectionChunk + d];
      for (int c = 0; c < kColumns; ++c) sum[i][c] += factor * column[c];
    }
  }
  for (int i = 0; i < kCount; ++i) {
    for (int c = 0; c < kColumns; ++c) {
      float* out = coordinates + i * width + c * kLanes;
      store(out, load(out) + sum[i][c]);
    }
  }
}

template <int kCount>
inline void project(const float* vectors, std::int64_t dim, const float* mean, const float* basis,
                    std::int64_t width, float* coordinates, float* squared_norms) {
  constexpr std::int64_t kChunkLength = autopatch::kProjectionChunk;
  alignas(64) float y[kCount * kChunkLength];
  Vector squares[kCount] = {};
  for (std::int64_t i = 0; i < kCount * width; ++i) coordinates[i] = 0.0f;
  for (std::int64_t first = 0; first < dim; first += kChunkLength) {
    const std::int64_t length = dim - first < kChunkLength ? dim - first : kChunkLength;
    for (int i = 0; i < kCount; ++i) {
      const float* x = vectors + i * dim + first;
      float* out = y + i * kChunkLength;
      std::int64_t d = 0;
      for (; d + kLanes <= length; d += kLanes) {
        const Vector difference = load(x + d) - load(mean + first + d);
        store(out + d, difference);
        squares[i] += difference * difference;
      }
      if (d < length) {
        const Vector difference =
            load_first(x + d, length - d) - load_first(mean + first + d, length - d);
        store(out + d, difference);
        squares[i] += difference * difference;
      }
    }
    const float* rows = basis + first * width;
    std::int64_t j = 0;
    for (; j + 16 * kGroups <= width; j += 16 * kGroups) {
      add_products<kCount, kGroup * kGroups>(y, length, rows + j, width, coordinates + j);
    }
    for (; j < width; j += 16) {
      add_products<kCount, kGroup>(y, length, rows + j, width, coordinates + j);
    }
  }
  for (int i = 0; i < kCount; ++i) {
    squared_norms[i] = add_up(squares[i], squares[i], squares[i], squares[i])[0];
  }
}

}  // namespace

namespace autopatch {

void AUTOPATCH_ISA_SYMBOL(squared_distances)(const float* query, const float* bank,
                                             std::int64_t dim, const std::int64_t* rows,
                                             std::int64_t count, float* distances) {
  std::int64_t i = 0;
  for (; i + 4 <= count; i += 4) distances_to<4>(query, bank, dim, rows + i, distances + i);
  if (count - i == 3) distances_to<3>(query, bank, dim, rows + i, distances + i);
  if (count - i == 2) distances_to<2>(query, bank, dim, rows + i, distances + i);
  if (count - i == 1) distances_to<1>(query, bank, dim, rows + i, distances + i);
}

void AUTOPATCH_ISA_SYMBOL(project_vectors)(const float* vectors, std::int64_t count,
                                           std::int64_t dim, const float* mean, const float* basis,
                                           std::int64_t width, float* coordinates,
                                           float* squared_norms) {
  std::int64_t i = 0;
  for (; i + kVectors <= count; i += kVectors) {
    project<kVectors>(vectors + i * dim, dim, mean, basis, width, coordinates + i * width,
                      squared_norms + i);
  }
  for (; i < count; ++i) {
    project<1>(vectors + i * dim, dim, mean, basis, width, coordinates + i * width,
               squared_norms + i);
  }
}

}  // namespace autopatch
