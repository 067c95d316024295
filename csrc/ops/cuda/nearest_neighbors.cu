#include <cuda_fp16.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/cuda.cuh"
#include "core/parts.hpp"
#include "ops/cuda/group_maxima.hpp"
#include "ops/nearest_neighbors.hpp"

// Screened search. Bank and queries are centered, scaled and rounded to float16; tensor cores tell
// how near each query comes to each group of 64 rounded rows (group_maxima.hpp). By the triangle
// inequality
//
//     | |q - r| scale - |q~ - r~| | <= |q scale - q~| + |r scale - r~|,
//
// so there is an upper bound of the distance to the nearest row of each group and a lower bound for
// all of its rows. The k-th smallest of the upper bounds is one of the k-th smallest distance;
// groups whose lower bound is no greater are measured row by row, in float32 and in the order of
// arithmetic of `exact_kernel`. Queries with too many such groups are left to that.

namespace autopatch {
namespace {

constexpr const char* kName = "nearest_neighbors";
constexpr unsigned kAllLanes = 0xFFFFFFFFu;
constexpr int kWarp = 32;
// A running sum for every 16 features, a sum of 16 of those, and a total: what a sum loses grows
// with its length, and one of all features could lose more than 1e-5.
constexpr int kSumLength = 16;
constexpr int kSumsOfPart = 16;
constexpr std::int64_t kPartLength = kSumLength * kSumsOfPart;
constexpr int kMaxGroups = 64;                                 // that are measured for a query
constexpr std::int64_t kChunkBytes = std::int64_t{512} << 20;  // of a chunk of queries, at most

__host__ __device__ inline float infinity() { return INFINITY; }

// --- Screen ------------------------------------------------------------------------------------

struct Screen {
  std::int64_t num_rows;
  std::int64_t padded_rows;
  std::int64_t dim;
  std::int64_t depth;
  float* scale;       // [1]
  float* center;      // [dim]
  int* order;         // [padded_rows] row of the bank, or -1
  float* half_norms;  // [padded_rows] half the squared norm of the rounded row
  float* residuals;   // [groups] what rounding moves a row by, at most
  float* norms;       // [groups] of the rounded rows, the largest
  __half* rows;       // [padded_rows, depth]

  __host__ __device__ std::int64_t groups() const { return padded_rows / kGroup; }
};

/// Queries of a chunk, and what is found out about them.
struct Chunk {
  const float* queries;
  std::int64_t num_queries;
  std::int64_t padded_queries;
  __half* rows;      // [padded_queries, depth]
  float* squares;    // [padded_queries] squared norm of the rounded query
  float* residuals;  // [padded_queries]
  float* maxima;     // [groups, padded_queries]
  int* unscreened;   // [padded_queries] queries left to exact_kernel
  int* num_unscreened;
};

struct Rounded {
  float residual;
  float square;
};

/// Rounds a row, by a warp: what float16 cannot hold becomes zero, at an infinite residual.
__device__ Rounded round_row(const float* row, const float* center, float scale, std::int64_t dim,
                             std::int64_t depth, __half* rounded) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  constexpr float kLargest = 65504.0f;
  float rest = 0.0f;
  float size = 0.0f;
  double square = 0.0;
  bool holds = true;
  for (std::int64_t d = lane; d < depth; d += kWarp) {
    const float value = d < dim ? (row[d] - center[d]) * scale : 0.0f;
    const bool fits = fabsf(value) <= kLargest;
    const __half half = __float2half_rn(fits ? value : 0.0f);
    const float back = __half2float(half);
    holds = holds && fits;
    rest += (value - back) * (value - back);
    size += value * value;
    square += static_cast<double>(back) * static_cast<double>(back);
    rounded[d] = half;
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    rest += __shfl_xor_sync(kAllLanes, rest, step);
    size += __shfl_xor_sync(kAllLanes, size, step);
    square += __shfl_xor_sync(kAllLanes, square, step);
  }
  holds = __all_sync(kAllLanes, holds) != 0;
  if (!holds) {  // NaN and infinity too
    for (std::int64_t d = lane; d < depth; d += kWarp) rounded[d] = __float2half_rn(0.0f);
    return {infinity(), 0.0f};
  }
  // Centering and scaling round each value by 2^-23 of it; sums lose less than a thousandth.
  constexpr float kOfValue = 2.4e-7f;
  const float residual = 1.001f * (sqrtf(rest) + kOfValue * sqrtf(size)) + 1e-30f;
  return {residual, static_cast<float>(square)};
}

constexpr int kEncodeThreads = 256;

/// A block rounds a group of the bank.
__global__ void __launch_bounds__(kEncodeThreads)
    encode_bank_kernel(const float* bank, Screen screen) {
  __shared__ float residuals[kGroup];
  __shared__ float squares[kGroup];
  const std::int64_t group = blockIdx.x;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int i = warp; i < kGroup; i += kEncodeThreads / kWarp) {
    const std::int64_t at = group * kGroup + i;
    const int row = screen.order[at];
    __half* rounded = screen.rows + at * screen.depth;
    Rounded found{0.0f, 0.0f};
    if (row < 0) {
      for (std::int64_t d = lane; d < screen.depth; d += kWarp) rounded[d] = __float2half_rn(0.0f);
    } else {
      found = round_row(bank + row * screen.dim, screen.center, *screen.scale, screen.dim,
                        screen.depth, rounded);
    }
    if (lane == 0) {
      constexpr float kNever = 3e38f;
      screen.half_norms[at] = row < 0 ? kNever : 0.5f * found.square;
      residuals[i] = found.residual;
      squares[i] = found.square;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    float residual = 0.0f;
    float square = 0.0f;
    for (int i = 0; i < kGroup; ++i) {
      residual = fmaxf(residual, residuals[i]);
      square = fmaxf(square, squares[i]);
    }
    screen.residuals[group] = residual;
    screen.norms[group] = 1.00001f * sqrtf(square);
  }
}

__global__ void __launch_bounds__(kEncodeThreads)
    encode_queries_kernel(Screen screen, Chunk chunk) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t query = static_cast<std::int64_t>(blockIdx.x) * (kEncodeThreads / kWarp) +
                             static_cast<int>(threadIdx.x) / kWarp;
  if (query >= chunk.padded_queries) return;
  __half* rounded = chunk.rows + query * screen.depth;
  Rounded found{0.0f, 0.0f};
  if (query < chunk.num_queries) {
    found = round_row(chunk.queries + query * screen.dim, screen.center, *screen.scale, screen.dim,
                      screen.depth, rounded);
  } else {
    for (std::int64_t d = lane; d < screen.depth; d += kWarp) rounded[d] = __float2half_rn(0.0f);
  }
  if (lane == 0) {
    chunk.squares[query] = found.square;
    chunk.residuals[query] = found.residual;
  }
}

// --- Bounds ------------------------------------------------------------------------------------

struct Query {
  float square;  // squared norm, rounded
  float norm;    // at least
  float residual;
};

/// Bounds of the distances from a query to the rows of a group, times the scale.
struct Bounds {
  float lower;  // of every row
  float upper;  // of the nearest
};

__host__ __device__ inline Bounds bounds_of(const Query& query, float maximum, float residual,
                                            float norm, std::int64_t depth) {
  constexpr float kRounding = 1e-6f;  // of the few operations here, and of the norms
  const float square = query.square - 2.0f * maximum;
  const float error =
      2.0f * accumulation_error(query.norm, norm, depth) + kRounding * (query.square + norm * norm);
  const float moved = (query.residual + residual) * (1.0f + kRounding);
  const float low = square - error;
  const float high = square + error;
  return {low > 0.0f ? sqrtf(low) * (1.0f - kRounding) - moved : -moved,
          high > 0.0f ? sqrtf(high) * (1.0f + kRounding) + moved : moved};
}

/// Rows farther than this, by their lower bound, have a greater float32 distance than one of an
/// upper bound `upper`: a term of the sums is rounded so many times, each by 2^-24 of what it is in
/// by then, but for what underflows. That counts for both distances; as much again is for the
/// operations here.
__host__ __device__ inline float limit_of(float upper, std::int64_t dim, float scale) {
  constexpr float kOfRounding = 6e-8f;
  constexpr float kLeastFloat = 1.4e-45f;
  const auto roundings =
      static_cast<float>(dim / kPartLength + kSumLength + kSumsOfPart + 8);  // 8: differences, ends
  const float of_sums = 4.0f * kOfRounding * roundings;
  const float vanishing = 4.0f * static_cast<float>(dim) * kLeastFloat * scale * scale;
  return sqrtf(upper * upper * (1.0f + of_sums) + vanishing);
}

// --- Exact distances ---------------------------------------------------------------------------

/// Squared distance of two rows, by a warp, in the order of arithmetic of every path: a lane has a
/// running sum of 16 features; those of a part are added up in turn, and then the parts.
__device__ inline float squared_distance(const float* query, const float* row, std::int64_t dim) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float total = 0.0f;
  for (std::int64_t first = 0; first < dim; first += kWarp * kSumLength) {
    const std::int64_t begin = first + lane * kSumLength;
    const std::int64_t end = begin + kSumLength < dim ? begin + kSumLength : dim;
    float sum = 0.0f;
    if (end - begin == kSumLength) {
#pragma unroll
      for (int i = 0; i < kSumLength; ++i) {
        const float difference = row[begin + i] - query[begin + i];
        sum = __fmaf_rn(difference, difference, sum);
      }
    } else {
      for (std::int64_t d = begin; d < end; ++d) {
        const float difference = row[d] - query[d];
        sum = __fmaf_rn(difference, difference, sum);
      }
    }
    const std::int64_t sums = (dim - first + kSumLength - 1) / kSumLength;
    for (int part = 0; part < kWarp && part < sums; part += kSumsOfPart) {
      float of_part = 0.0f;
      for (int i = part; i < part + kSumsOfPart && i < sums; ++i) {
        of_part = __fadd_rn(of_part, __shfl_sync(kAllLanes, sum, i));
      }
      total = __fadd_rn(total, of_part);
    }
  }
  return total;
}

/// Whether a row comes before another one: nearer, or as near and of lower index.
__host__ __device__ inline bool before(float distance, int row, float other_distance,
                                       int other_row) {
  return distance < other_distance || (distance == other_distance && row < other_row);
}

/// The k nearest rows so far, ascending, one a lane.
struct Nearest {
  float distance;
  int row;

  /// Takes in the rows of all lanes that have one. All lanes must call it.
  __device__ void merge(float candidate, int candidate_row, bool has_one, int k) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    for (;;) {
      const float last = __shfl_sync(kAllLanes, distance, k - 1);
      const int last_row = __shfl_sync(kAllLanes, row, k - 1);
      has_one = has_one && before(candidate, candidate_row, last, last_row);
      const unsigned left = __ballot_sync(kAllLanes, has_one);
      if (left == 0) return;
      const int source = __ffs(static_cast<int>(left)) - 1;
      const float coming = __shfl_sync(kAllLanes, candidate, source);
      const int coming_row = __shfl_sync(kAllLanes, candidate_row, source);
      if (lane == source) has_one = false;
      const bool stays = before(distance, row, coming, coming_row);
      const float previous = __shfl_up_sync(kAllLanes, distance, 1);
      const int previous_row = __shfl_up_sync(kAllLanes, row, 1);
      const unsigned staying = __ballot_sync(kAllLanes, stays);
      const int place = __popc(staying);
      if (lane == place) {
        distance = coming;
        row = coming_row;
      } else if (lane > place) {
        distance = previous;
        row = previous_row;
      }
    }
  }
};

// --- Selection ---------------------------------------------------------------------------------

constexpr int kSelectThreads = 128;
constexpr int kSelectQueries = 32;  // of a block
constexpr int kQueriesOfWarp = kSelectQueries / (kSelectThreads / kWarp);
constexpr int kNoRow = 0x7FFFFFFF;

/// Maxima of 32 groups for the block's queries, [group][query].
using MaximaTile = float[kWarp][kSelectQueries + 1];

__device__ void load_maxima(const Chunk& chunk, std::int64_t first_query, std::int64_t first_group,
                            std::int64_t groups, MaximaTile& tile) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x) / kWarp; i < kWarp; i += kSelectThreads / kWarp) {
    if (first_group + i < groups) {
      tile[i][lane] = chunk.maxima[(first_group + i) * chunk.padded_queries + first_query + lane];
    }
  }
  __syncthreads();
}

/// Product of rounded rows; its error is less than (depth / 8 + 8) 2^-24 of that of their norms.
__device__ inline float product(const __half* query, const __half* row, std::int64_t depth) {
  constexpr int kPiece = 8;
  float total = 0.0f;
  for (std::int64_t d = 0; d < depth; d += kPiece) {
    alignas(16) __half2 q[kPiece / 2];
    alignas(16) __half2 r[kPiece / 2];
    *reinterpret_cast<uint4*>(q) = *reinterpret_cast<const uint4*>(query + d);
    *reinterpret_cast<uint4*>(r) = *reinterpret_cast<const uint4*>(row + d);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kPiece / 2; ++i) {
      sum = __fmaf_rn(__low2float(q[i]), __low2float(r[i]), sum);
      sum = __fmaf_rn(__high2float(q[i]), __high2float(r[i]), sum);
    }
    total += sum;
  }
  return total;
}

/// A query whose neighbors are looked for, by a warp.
struct Search {
  Query query;
  std::int64_t number;  // in the chunk
  float limit;          // rows of a greater lower bound are none
  Nearest nearest;
};

/// Measures the rows of a group, but those that float16 tells are too far: it is read in half the
/// time, and their sums are closer than those of tensor cores.
__device__ inline Search measure_group(Search search, const Screen& screen, const Chunk& chunk,
                                       const float* bank, std::int64_t group, int k) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float norm = screen.norms[group];
  const float moved = (search.query.residual + screen.residuals[group]) * 1.000001f;
  const auto terms = static_cast<float>(screen.depth / 8 + 8);
  constexpr float kOfTerm = 6e-8f;
  const float error = 2.0f * terms * kOfTerm * search.query.norm * norm +
                      1e-6f * (search.query.square + norm * norm);
  for (int i = lane; i < kGroup; i += kWarp) {
    const std::int64_t at = group * kGroup + i;
    const int row = screen.order[at];
    const float apart = search.query.square + 2.0f * screen.half_norms[at] -
                        2.0f * product(chunk.rows + search.number * screen.depth,
                                       screen.rows + at * screen.depth, screen.depth) -
                        error;
    const float lower = (apart > 0.0f ? sqrtf(apart) * 0.999999f : 0.0f) - moved;
    // Written so that a bound which is NaN passes.
    const bool exists = row >= 0 && row < screen.num_rows;
    unsigned left = __ballot_sync(kAllLanes, exists && !(lower > search.limit));
    for (; left != 0; left &= left - 1) {
      const int source = __ffs(static_cast<int>(left)) - 1;
      const int measured = __shfl_sync(kAllLanes, row, source);
      const float distance = squared_distance(chunk.queries + search.number * screen.dim,
                                              bank + measured * screen.dim, screen.dim);
      search.nearest.merge(distance, measured, lane == 0 && distance < infinity(), k);
    }
    const float last = __shfl_sync(kAllLanes, search.nearest.distance, k - 1);
    const float scale = *screen.scale;
    search.limit = fminf(search.limit, limit_of(sqrtf(last) * scale * 1.00001f, screen.dim, scale));
  }
  return search;
}

__global__ void __launch_bounds__(kSelectThreads, 5)
    select_kernel(const __grid_constant__ Screen screen, const __grid_constant__ Chunk chunk,
                  const float* bank, int k, float* distances, std::int64_t* indices) {
  __shared__ MaximaTile tile;
  __shared__ Nearest seeds[kSelectQueries][kWarp];  // upper bounds and groups, the k lowest
  __shared__ Nearest lists[kSelectQueries][kWarp];
  __shared__ Query queries[kSelectQueries];
  __shared__ float limits[kSelectQueries];
  __shared__ int counts[kSelectQueries];  // groups that may hold a neighbor
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int own = static_cast<int>(threadIdx.x) / kWarp * kQueriesOfWarp;
  const std::int64_t first_query = static_cast<std::int64_t>(blockIdx.x) * kSelectQueries;
  const std::int64_t groups = screen.groups();

  float least[kQueriesOfWarp];
#pragma unroll
  for (int j = 0; j < kQueriesOfWarp; ++j) {
    const std::int64_t query = first_query + own + j;
    least[j] = infinity();
    seeds[own + j][lane] = {infinity(), kNoRow};
    if (lane == 0) {
      counts[own + j] = 0;
      const float square = chunk.squares[query];
      queries[own + j] = {square, 1.00001f * sqrtf(square), chunk.residuals[query]};
    }
  }

  // The k groups of the lowest upper bounds.
  for (std::int64_t first_group = 0; first_group < groups; first_group += kWarp) {
    load_maxima(chunk, first_query, first_group, groups, tile);
    const std::int64_t group = first_group + lane;
    const bool inside = group < groups;
    const float residual = inside ? screen.residuals[group] : infinity();
    const float norm = inside ? screen.norms[group] : 0.0f;
#pragma unroll
    for (int j = 0; j < kQueriesOfWarp; ++j) {
      const float upper =
          inside
              ? bounds_of(queries[own + j], tile[lane][own + j], residual, norm, screen.depth).upper
              : infinity();
      if (__any_sync(kAllLanes, upper < least[j])) {
        Nearest list = seeds[own + j][lane];
        list.merge(upper, static_cast<int>(group), upper < least[j], k);
        seeds[own + j][lane] = list;
        least[j] = __shfl_sync(kAllLanes, list.distance, k - 1);
      }
    }
  }
  __syncwarp();

  // Their rows, and then those of other groups that may hold a nearer one.
  const auto search_of = [&](int j) {
    return Search{queries[own + j], first_query + own + j, limits[own + j], lists[own + j][lane]};
  };
  const auto keep = [&](int j, const Search& search) {
    lists[own + j][lane] = search.nearest;
    __syncwarp();
    if (lane == 0) limits[own + j] = search.limit;
    __syncwarp();
  };
  for (int j = 0; j < kQueriesOfWarp; ++j) {
    const Nearest seed = seeds[own + j][lane];
    const float upper = __shfl_sync(kAllLanes, seed.distance, k - 1);
    lists[own + j][lane] = {infinity(), kNoRow};
    if (lane == 0) limits[own + j] = limit_of(upper, screen.dim, *screen.scale);
    __syncwarp();
    if (first_query + own + j >= chunk.num_queries) continue;
    Search search = search_of(j);
    for (int i = 0; i < k; ++i) {
      const int group = __shfl_sync(kAllLanes, seed.row, i);
      if (group == kNoRow) break;
      search = measure_group(search, screen, chunk, bank, group, k);
    }
    keep(j, search);
  }
  for (std::int64_t first_group = 0; first_group < groups; first_group += kWarp) {
    load_maxima(chunk, first_query, first_group, groups, tile);
    const std::int64_t group = first_group + lane;
    const bool inside = group < groups;
    const float residual = inside ? screen.residuals[group] : infinity();
    const float norm = inside ? screen.norms[group] : 0.0f;
    for (int j = 0; j < kQueriesOfWarp; ++j) {
      // Written so that a bound which is NaN passes.
      const bool passes =
          inside && first_query + own + j < chunk.num_queries &&
          !(bounds_of(queries[own + j], tile[lane][own + j], residual, norm, screen.depth).lower >
            limits[own + j]);
      unsigned left = __ballot_sync(kAllLanes, passes);
      if (left == 0) continue;
      const int count = counts[own + j] + __popc(left);
      __syncwarp();
      if (lane == 0) counts[own + j] = count;
      __syncwarp();
      if (count > kMaxGroups) continue;
      const int seed = seeds[own + j][lane].row;
      Search search = search_of(j);
      for (; left != 0; left &= left - 1) {
        const auto chosen = static_cast<int>(first_group) + __ffs(static_cast<int>(left)) - 1;
        if (__any_sync(kAllLanes, lane < k && seed == chosen)) continue;
        search = measure_group(search, screen, chunk, bank, chosen, k);
      }
      keep(j, search);
    }
  }
  __syncwarp();
  for (int j = 0; j < kQueriesOfWarp; ++j) {
    const std::int64_t query = first_query + own + j;
    if (query >= chunk.num_queries) continue;
    if (counts[own + j] > kMaxGroups) {
      if (lane == 0) {
        chunk.unscreened[atomicAdd(chunk.num_unscreened, 1)] = static_cast<int>(query);
      }
    } else if (lane < k) {
      const Nearest found = lists[own + j][lane];
      const bool finite = found.distance < infinity();
      distances[query * k + lane] = found.distance;
      indices[query * k + lane] = finite ? found.row : -1;
    }
  }
}

// --- All distances -----------------------------------------------------------------------------

constexpr int kTile = 64;  // queries of a block, and bank rows it takes at a time
constexpr int kSide = 16;  // threads a side; each computes kEach x kEach pairs
constexpr int kEach = kTile / kSide;

// Rows come in ascending order and a newcomer goes behind its equals: ties keep the lowest index.
__device__ void insert(float distance, std::int64_t index, std::int64_t k, float* distances,
                       std::int64_t* indices) {
  std::int64_t at = k - 1;
  for (; at > 0 && distance < distances[at - 1]; --at) {
    distances[at] = distances[at - 1];
    indices[at] = indices[at - 1];
  }
  distances[at] = distance;
  indices[at] = index;
}

/// Which queries: all of [0, count), or those in `list`, of which there are `*length`.
struct Selection {
  const int* list;
  const int* length;
  std::int64_t count;
};

__global__ void __launch_bounds__(kSide* kSide, 3)
    exact_kernel(const float* queries, Selection selection, const float* bank,
                 std::int64_t num_rows, std::int64_t dim, std::int64_t k, float* distances,
                 std::int64_t* indices) {
  __shared__ float query_tile[kSumLength][kTile + 1];
  __shared__ float bank_tile[kSumLength][kTile + 1];
  __shared__ float distance_tile[kTile][kTile + 1];
  __shared__ std::int64_t numbers[kTile];  // of the queries, -1 behind the last

  const std::int64_t count = selection.list == nullptr ? selection.count : *selection.length;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kTile;
  if (first >= count) return;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kTile) {
    const std::int64_t at = first + thread;
    numbers[thread] = at >= count ? -1 : selection.list == nullptr ? at : selection.list[at];
  }
  __syncthreads();
  const int row_group = thread % kSide;
  const int query_group = thread / kSide;
  const std::int64_t own_query = thread < kTile ? numbers[thread] : -1;
  float* own_distances = distances + own_query * k;
  std::int64_t* own_indices = indices + own_query * k;
  if (own_query >= 0) {
    for (std::int64_t i = 0; i < k; ++i) {
      own_distances[i] = infinity();
      own_indices[i] = -1;
    }
  }

  for (std::int64_t first_row = 0; first_row < num_rows; first_row += kTile) {
    // Totals wait in the tile of distances, each written by the thread that has its pair.
    std::int64_t part = 0;
    do {
      const std::int64_t end = part + kPartLength < dim ? part + kPartLength : dim;
      float of_part[kEach][kEach] = {};
      for (std::int64_t d0 = part; d0 < end; d0 += kSumLength) {
        // What lies outside becomes zero on both sides and adds nothing.
        for (int i = thread; i < kTile * kSumLength; i += kSide * kSide) {
          const int r = i / kSumLength;
          const int d = i % kSumLength;
          const bool has_feature = d0 + d < dim;
          query_tile[d][r] =
              has_feature && numbers[r] >= 0 ? queries[numbers[r] * dim + d0 + d] : 0.0f;
          bank_tile[d][r] =
              has_feature && first_row + r < num_rows ? bank[(first_row + r) * dim + d0 + d] : 0.0f;
        }
        __syncthreads();
        float sum[kEach][kEach] = {};
        for (int d = 0; d < kSumLength; ++d) {
          float q[kEach];
          float b[kEach];
          for (int i = 0; i < kEach; ++i) {
            q[i] = query_tile[d][query_group + i * kSide];
            b[i] = bank_tile[d][row_group + i * kSide];
          }
          for (int i = 0; i < kEach; ++i) {
            for (int j = 0; j < kEach; ++j) {
              const float difference = b[j] - q[i];
              sum[i][j] = __fmaf_rn(difference, difference, sum[i][j]);
            }
          }
        }
        for (int i = 0; i < kEach; ++i) {
          for (int j = 0; j < kEach; ++j) of_part[i][j] = __fadd_rn(of_part[i][j], sum[i][j]);
        }
        __syncthreads();
      }
      for (int i = 0; i < kEach; ++i) {
        for (int j = 0; j < kEach; ++j) {
          float& total = distance_tile[query_group + i * kSide][row_group + j * kSide];
          total = part == 0 ? of_part[i][j] : __fadd_rn(total, of_part[i][j]);
        }
      }
      part += kPartLength;
    } while (part < dim);
    __syncthreads();
    if (own_query >= 0) {
      const std::int64_t left = num_rows - first_row;
      const int rows = static_cast<int>(left < kTile ? left : kTile);
      for (int r = 0; r < rows; ++r) {
        const float distance = distance_tile[thread][r];
        if (distance < own_distances[k - 1]) {
          insert(distance, first_row + r, k, own_distances, own_indices);
        }
      }
    }
    __syncthreads();
  }
}

// --- Host --------------------------------------------------------------------------------------

std::int64_t lay_out(std::int64_t num_rows, std::int64_t dim, void* memory, Screen& screen) {
  Parts parts(memory);
  screen.num_rows = num_rows;
  screen.padded_rows = round_up(num_rows, kRowsOfTile);
  screen.dim = dim;
  screen.depth = std::max(round_up(dim, kDepthOfTile), kDepthOfTile);
  screen.scale = parts.take<float>(1);
  screen.center = parts.take<float>(dim);
  screen.order = parts.take<int>(screen.padded_rows);
  screen.half_norms = parts.take<float>(screen.padded_rows);
  screen.residuals = parts.take<float>(screen.groups());
  screen.norms = parts.take<float>(screen.groups());
  screen.rows = parts.take<__half>(screen.padded_rows * screen.depth);
  return parts.size();
}

std::int64_t lay_out(const Screen& screen, std::int64_t num_queries, void* memory, Chunk& chunk) {
  Parts parts(memory);
  const std::int64_t of_query = 4 * screen.groups() + 2 * screen.depth;  // maxima, rows
  const std::int64_t most = kChunkBytes / of_query / kQueriesOfTile * kQueriesOfTile;
  chunk.padded_queries =
      std::min(round_up(num_queries, kQueriesOfTile), std::max(most, kQueriesOfTile));
  chunk.rows = parts.take<__half>(chunk.padded_queries * screen.depth);
  chunk.squares = parts.take<float>(chunk.padded_queries);
  chunk.residuals = parts.take<float>(chunk.padded_queries);
  chunk.maxima = parts.take<float>(screen.groups() * chunk.padded_queries);
  chunk.unscreened = parts.take<int>(chunk.padded_queries);
  chunk.num_unscreened = parts.take<int>(1);
  return parts.size();
}

__global__ void __launch_bounds__(kEncodeThreads)
    order_kernel(const std::int64_t* order, const float* center, const float* scale,
                 Screen screen) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kEncodeThreads + threadIdx.x;
  if (at < screen.padded_rows) {
    screen.order[at] = at < screen.num_rows ? static_cast<int>(order[at]) : -1;
  }
  if (at < screen.dim) screen.center[at] = center[at];
  if (at == 0) *screen.scale = *scale;
}

void launch_exact(const float* queries, const Selection& selection, const float* bank,
                  std::int64_t num_rows, std::int64_t dim, std::int64_t k, float* distances,
                  std::int64_t* indices, cudaStream_t stream) {
  launch(kName, Grid::independent, exact_kernel,
         static_cast<unsigned>(divide_up(selection.count, kTile)), kSide * kSide, 0, stream,
         queries, selection, bank, num_rows, dim, k, distances, indices);
}

}  // namespace

std::int64_t screen_bytes_cuda(std::int64_t num_rows, std::int64_t dim) {
  Screen screen{};
  return lay_out(num_rows, dim, nullptr, screen);
}

void build_screen_cuda(const float* bank, std::int64_t num_rows, std::int64_t dim,
                       const std::int64_t* order, const float* center, const float* scale,
                       void* memory, std::uintptr_t stream) {
  const auto queue = reinterpret_cast<cudaStream_t>(stream);
  Screen screen{};
  lay_out(num_rows, dim, memory, screen);
  launch(kName, Grid::independent, order_kernel,
         static_cast<unsigned>(divide_up(std::max(screen.padded_rows, dim), kEncodeThreads)),
         kEncodeThreads, 0, queue, order, center, scale, screen);
  launch(kName, Grid::independent, encode_bank_kernel, static_cast<unsigned>(screen.groups()),
         kEncodeThreads, 0, queue, bank, screen);
}

std::int64_t nearest_neighbors_cuda_workspace(std::int64_t num_queries, std::int64_t num_rows,
                                              std::int64_t dim) {
  Screen screen{};
  lay_out(num_rows, dim, nullptr, screen);
  Chunk chunk{};
  return lay_out(screen, num_queries, nullptr, chunk);
}

void nearest_neighbors_cuda(const float* queries, std::int64_t num_queries, const float* bank,
                            std::int64_t num_rows, std::int64_t dim, const void* screen_memory,
                            void* workspace, std::int64_t k, float* distances,
                            std::int64_t* indices, std::uintptr_t stream) {
  if (num_queries == 0) return;
  const auto queue = reinterpret_cast<cudaStream_t>(stream);
  if (screen_memory == nullptr || k > kMaxScreenedNeighbors) {
    launch_exact(queries, {nullptr, nullptr, num_queries}, bank, num_rows, dim, k, distances,
                 indices, queue);
    return;
  }
  Screen screen{};
  lay_out(num_rows, dim, const_cast<void*>(screen_memory), screen);
  Chunk chunk{};
  lay_out(screen, num_queries, workspace, chunk);
  const std::int64_t most = chunk.padded_queries;
  for (std::int64_t first = 0; first < num_queries; first += most) {
    chunk.queries = queries + first * dim;
    chunk.num_queries = std::min(most, num_queries - first);
    chunk.padded_queries = round_up(chunk.num_queries, kQueriesOfTile);
    launch(kName, Grid::independent, encode_queries_kernel,
           static_cast<unsigned>(divide_up(chunk.padded_queries, kEncodeThreads / kWarp)),
           kEncodeThreads, 0, queue, screen, chunk);
    group_maxima({chunk.rows, screen.rows, screen.half_norms, chunk.padded_queries,
                  screen.padded_rows, screen.depth, chunk.maxima},
                 queue);
    cuda_check(cudaMemsetAsync(chunk.num_unscreened, 0, sizeof(int), queue), kName);
    launch(kName, Grid::independent, select_kernel,
           static_cast<unsigned>(chunk.padded_queries / kSelectQueries), kSelectThreads, 0, queue,
           screen, chunk, bank, static_cast<int>(k), distances + first * k, indices + first * k);
    launch_exact(chunk.queries, {chunk.unscreened, chunk.num_unscreened, chunk.num_queries}, bank,
                 num_rows, dim, k, distances + first * k, indices + first * k, queue);
  }
}

void group_maxima_cuda(const void* queries, const void* bank, const float* half_norms,
                       std::int64_t num_queries, std::int64_t num_rows, std::int64_t depth,
                       GroupMaximaMethod method, float* maxima, std::uintptr_t stream) {
  const GroupMaxima work{static_cast<const __half*>(queries),
                         static_cast<const __half*>(bank),
                         half_norms,
                         num_queries,
                         num_rows,
                         depth,
                         maxima};
  const auto queue = reinterpret_cast<cudaStream_t>(stream);
  switch (method) {
    case GroupMaximaMethod::plain:
      return group_maxima_plain(work, queue);
    case GroupMaximaMethod::mma:
      return group_maxima_mma(work, queue);
    case GroupMaximaMethod::wgmma:
      return group_maxima_wgmma(work, queue);
  }
}

}  // namespace autopatch
