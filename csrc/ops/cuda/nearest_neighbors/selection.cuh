#pragma once

// Selects the nearest rows of each query from the maxima of groups.

#include <cuda_fp16.h>

#include <cstdint>

#include "core/cuda.cuh"
#include "ops/cuda/nearest_neighbors/bounds.cuh"
#include "ops/cuda/nearest_neighbors/distance.cuh"
#include "ops/cuda/nearest_neighbors/screen.cuh"

namespace autopatch {
namespace {

constexpr int kMaxGroups = 64;  // maximum number of groups measured for a query

constexpr int kSelectThreads = 128;
constexpr int kSelectQueries = 32;  // queries per block
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

/// Product of rounded rows. Its error is less than (depth / 8 + 8) 2^-24 of the product of their
/// norms.
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

/// The search of one query, by one warp.
struct Search {
  Query query;
  std::int64_t number;  // index in the chunk
  float limit;          // rows with a greater lower bound are no neighbors
  Nearest nearest;
};

/// Measures the rows of a group, except rows that their float16 values rule out. Reading float16
/// takes half the time, and these products are more accurate than those of tensor cores.
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
  __shared__ Nearest seeds[kSelectQueries][kWarp];  // the k groups with the lowest upper bounds
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

  // Find the k groups with the lowest upper bounds.
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

  // Measure their rows, and then the rows of other groups that may hold a nearer one.
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

}  // namespace
}  // namespace autopatch
