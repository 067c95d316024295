#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/cuda.cuh"
#include "core/rounding.hpp"
#include "ops/cuda/group_maxima.hpp"
#include "ops/nearest_neighbors.hpp"

namespace autopatch {
namespace {

constexpr const char* kKernel = "group_maxima";
constexpr float kLowest = -3.4e38f;

// A block of 8 warps computes tiles of 128 queries x 256 rows. Each warp computes 64 x 64, which
// covers whole groups. Slices of 64 features of both sides pass through a ring of buffers. If all
// features of the queries also fit in shared memory, they are loaded only once.
constexpr int kThreads = 256;
constexpr int kWarpQueries = 64;
constexpr int kSliceBytes = 128;  // bytes of a row
constexpr int kQuerySlice = static_cast<int>(kQueriesOfTile) * kSliceBytes;
constexpr int kBankSlice = static_cast<int>(kRowsOfTile) * kSliceBytes;
constexpr int kNormsBytes = static_cast<int>(kRowsOfTile) * 4;

__device__ inline void copy_16(unsigned shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(shared), "l"(global));
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;\n" ::); }
template <int pending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(pending));
}
__device__ inline void load_matrices(unsigned (&to)[4], unsigned shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared));
}
__device__ inline void multiply(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Offset of a 16-byte piece in a row's slice. Pieces are permuted by row, so that the same piece
/// of 8 rows lies in different banks.
__host__ __device__ inline int swizzled(int row, int piece) {
  return row * kSliceBytes + ((piece ^ (row & 7)) << 4);
}

/// Copies a slice of rows, 16 bytes at a time. A thread copies the same piece of every 32nd row.
template <int kRows>
__device__ inline void load_slice(unsigned shared, const __half* rows, std::int64_t depth) {
  constexpr int kPieces = kSliceBytes / 16;
  constexpr int kRowsAtOnce = kThreads / kPieces;
  const int row = static_cast<int>(threadIdx.x) / kPieces;
  const int piece = static_cast<int>(threadIdx.x) % kPieces;
  const __half* from = rows + row * depth + piece * 8;
  const unsigned to = shared + swizzled(row, piece);
#pragma unroll
  for (int i = 0; i < kRows / kRowsAtOnce; ++i) {
    copy_16(to + i * kRowsAtOnce * kSliceBytes, from);
    from += kRowsAtOnce * depth;
  }
}

/// A slice of a tile, and its buffer.
template <int kStages>
struct Cursor {
  int tile;
  int slice;
  int stage;

  __device__ void advance(int slices) {
    if (++slice == slices) {
      slice = 0;
      ++tile;
    }
    if (++stage == kStages) stage = 0;
  }
};

struct Tiles {
  int bank_tiles;
  int segments;  // into which the bank's tiles are divided
  int slices;    // of features
  bool queries_resident;
};

template <int kStages>
__global__ void __launch_bounds__(kThreads, 1) tensor_kernel(GroupMaxima work, Tiles tiles) {
  const auto base = static_cast<unsigned>(__cvta_generic_to_shared(shared_memory<unsigned char>()));
  const unsigned bank_at = base;
  const unsigned norms_at = bank_at + kStages * kBankSlice;
  const unsigned queries_at = norms_at + kStages * kNormsBytes;

  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp_query = warp % 2 * kWarpQueries;
  const int warp_row = warp / 2 * static_cast<int>(kGroup);

  const auto query_tiles = static_cast<int>(work.num_queries / kQueriesOfTile);
  const int query_tile = static_cast<int>(blockIdx.x) % query_tiles;
  const int segment = static_cast<int>(blockIdx.x) / query_tiles;
  const int first_tile =
      static_cast<int>(static_cast<std::int64_t>(tiles.bank_tiles) * segment / tiles.segments);
  const int last_tile = static_cast<int>(static_cast<std::int64_t>(tiles.bank_tiles) *
                                         (segment + 1) / tiles.segments);
  const __half* queries = work.queries + query_tile * kQueriesOfTile * work.depth;

  Cursor<kStages> loaded{first_tile, 0, 0};
  const auto load = [&] {
    if (loaded.tile < last_tile) {
      const int first_row = loaded.tile * static_cast<int>(kRowsOfTile);
      const int first_feature = loaded.slice * static_cast<int>(kDepthOfTile);
      load_slice<kRowsOfTile>(bank_at + loaded.stage * kBankSlice,
                              work.bank + first_row * work.depth + first_feature, work.depth);
      if (!tiles.queries_resident || loaded.tile == first_tile) {
        const int slot = tiles.queries_resident ? loaded.slice : loaded.stage;
        load_slice<kQueriesOfTile>(queries_at + slot * kQuerySlice, queries + first_feature,
                                   work.depth);
      }
      if (loaded.slice == 0 && threadIdx.x < kNormsBytes / 16) {
        copy_16(norms_at + loaded.stage * kNormsBytes + threadIdx.x * 16,
                work.half_norms + first_row + threadIdx.x * 4);
      }
      loaded.advance(tiles.slices);
    }
    commit_copies();
  };
  for (int i = 0; i < kStages - 1; ++i) load();

  float sums[4][8][4];
  for (Cursor<kStages> at{first_tile, 0, 0}; at.tile < last_tile; at.advance(tiles.slices)) {
    wait_for_copies<kStages - 2>();
    __syncthreads();
    load();
    if (at.slice == 0) {
      const float* norms = reinterpret_cast<const float*>(
          shared_memory<unsigned char>() + kStages * kBankSlice + at.stage * kNormsBytes);
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float2 pair =
            *reinterpret_cast<const float2*>(norms + warp_row + n * 8 + lane % 4 * 2);
#pragma unroll
        for (int m = 0; m < 4; ++m) {
          sums[m][n][0] = sums[m][n][2] = -pair.x;
          sums[m][n][1] = sums[m][n][3] = -pair.y;
        }
      }
    }
    const unsigned own_queries =
        queries_at + (tiles.queries_resident ? at.slice : at.stage) * kQuerySlice;
    const unsigned own_rows = bank_at + at.stage * kBankSlice;
#pragma unroll
    for (int k = 0; k < kSliceBytes / 32; ++k) {
      unsigned a[4][4];
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        load_matrices(a[m],
                      own_queries + swizzled(warp_query + m * 16 + lane % 16, 2 * k + lane / 16));
      }
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        unsigned b[4];  // 16 rows: two operands for the first eight, two for the last
        load_matrices(b, own_rows + swizzled(warp_row + n * 16 + lane / 16 * 8 + lane % 8,
                                             2 * k + lane / 8 % 2));
#pragma unroll
        for (int m = 0; m < 4; ++m) {
          multiply(sums[m][2 * n], a[m], b[0], b[1]);
          multiply(sums[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }
    if (at.slice == tiles.slices - 1) {
      const std::int64_t group = at.tile * (kRowsOfTile / kGroup) + warp_row / kGroup;
      float* maxima = work.maxima + group * work.num_queries + query_tile * kQueriesOfTile +
                      warp_query + lane / 4;
#pragma unroll
      for (int m = 0; m < 4; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float maximum = kLowest;
#pragma unroll
          for (int n = 0; n < 8; ++n) {
            maximum = fmaxf(maximum, fmaxf(sums[m][n][2 * half], sums[m][n][2 * half + 1]));
          }
          maximum = fmaxf(maximum, __shfl_xor_sync(0xFFFFFFFFu, maximum, 1));
          maximum = fmaxf(maximum, __shfl_xor_sync(0xFFFFFFFFu, maximum, 2));
          if (lane % 4 == 0) maxima[m * 16 + half * 8] = maximum;
        }
      }
    }
  }
  wait_for_copies<0>();
}

template <int kStages>
void launch_tiles(const GroupMaxima& work, const Tiles& tiles, cudaStream_t stream) {
  const int query_slices = tiles.queries_resident ? tiles.slices : kStages;
  const std::size_t bytes = kStages * (static_cast<std::size_t>(kBankSlice) + kNormsBytes) +
                            static_cast<std::size_t>(query_slices) * kQuerySlice;
  launch(kKernel, Grid::independent, tensor_kernel<kStages>,
         static_cast<unsigned>(work.num_queries / kQueriesOfTile * tiles.segments), kThreads, bytes,
         stream, work, tiles);
}

}  // namespace

int segments_of(std::int64_t query_tiles, std::int64_t bank_tiles, std::int64_t processors) {
  constexpr std::int64_t kMost = 16;
  double best = 0.0;
  int segments = 1;
  for (std::int64_t count = 1; count <= std::max(kMost, processors / query_tiles * 2); ++count) {
    if (count > bank_tiles) break;
    const std::int64_t blocks = query_tiles * count;
    const std::int64_t waves = divide_up(blocks, processors);
    const double tiles = static_cast<double>(divide_up(bank_tiles, count));
    // Starting a block takes half as long as a tile.
    const double time = static_cast<double>(waves) * (tiles + 0.5);
    if (best == 0.0 || time < best) {
      best = time;
      segments = static_cast<int>(count);
    }
  }
  return segments;
}

void group_maxima(const GroupMaxima& work, cudaStream_t stream) {
  if (has_wgmma()) {
    group_maxima_wgmma(work, stream);
  } else {
    group_maxima_mma(work, stream);
  }
}

void group_maxima_mma(const GroupMaxima& work, cudaStream_t stream) {
  Tiles tiles{};
  tiles.bank_tiles = static_cast<int>(work.num_rows / kRowsOfTile);
  tiles.slices = static_cast<int>(work.depth / kDepthOfTile);
  tiles.segments = segments_of(work.num_queries / kQueriesOfTile, tiles.bank_tiles,
                               device_attribute(cudaDevAttrMultiProcessorCount, kKernel));
  const int shared = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, kKernel);
  const auto fits = [&](std::int64_t stages, std::int64_t query_slices) {
    return stages * (kBankSlice + kNormsBytes) + query_slices * kQuerySlice <= shared;
  };
  // A slice of queries per stage takes as much memory as keeping it, but is loaded repeatedly.
  tiles.queries_resident = fits(3, tiles.slices);
  if (fits(4, tiles.queries_resident ? tiles.slices : 4)) {
    launch_tiles<4>(work, tiles, stream);
  } else if (fits(3, tiles.queries_resident ? tiles.slices : 3)) {
    launch_tiles<3>(work, tiles, stream);
  } else {
    tiles.queries_resident = false;
    launch_tiles<2>(work, tiles, stream);
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
    case GroupMaximaMethod::mma:
      return group_maxima_mma(work, queue);
    case GroupMaximaMethod::wgmma:
      return group_maxima_wgmma(work, queue);
  }
}

}  // namespace autopatch
