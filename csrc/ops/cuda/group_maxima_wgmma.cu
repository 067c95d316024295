#include <cuda.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "core/cuda.cuh"
#include "ops/cuda/group_maxima.hpp"
#include "ops/nearest_neighbors.hpp"

// group_maxima on Hopper. One thread copies tiles into a ring of buffers (TMA); two groups of four
// warps multiply them (wgmma), 64 queries x 256 rows each. They synchronize with mbarriers: `full`
// counts the bytes of a buffer, `empty` the warps that have finished with it.

namespace autopatch {
namespace {

constexpr const char* kName = "group_maxima";
constexpr int kConsumers = 2;  // warpgroups that multiply
constexpr int kThreads = 128 * (kConsumers + 1);
constexpr int kMaxStages = 6;
constexpr int kSliceBytes = 128;  // bytes of a row
constexpr int kQuerySlice = static_cast<int>(kQueriesOfTile) * kSliceBytes;
constexpr int kBankSlice = static_cast<int>(kRowsOfTile) * kSliceBytes;
constexpr int kAtom = 1024;  // bytes; period of the swizzle

struct Tiles {
  std::int64_t num_queries;
  const float* half_norms;
  float* maxima;
  int query_tiles;
  int bank_tiles;
  int segments;  // into which the bank's tiles are divided
  int slices;    // of features
  int stages;
  bool queries_resident;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

__device__ inline void init_barrier(unsigned barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count));
}
__device__ inline void expect_bytes(unsigned barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ inline void arrive(unsigned barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ inline void wait(unsigned barrier, unsigned parity) {
  unsigned done = 0;
  while (done == 0) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  }
}
__device__ inline void copy_box(unsigned to, const CUtensorMap* map, int feature, int row,
                                unsigned barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(map), "r"(feature), "r"(row), "r"(barrier)
      : "memory");
}
/// Descriptor of swizzled rows of 128 bytes, in groups of eight rows that are 1,024 bytes apart
/// (PTX ISA, "Matrix descriptor").
__device__ inline std::uint64_t descriptor(unsigned shared) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62;
  constexpr std::uint64_t kStride = std::uint64_t{kAtom >> 4} << 32;
  constexpr std::uint64_t kLeading = std::uint64_t{1} << 16;  // ignored with swizzling
  return kSwizzle128 | kStride | kLeading | (shared & 0x3FFFF) >> 4;
}

/// Keeps the compiler from moving uses of the sums across this point. It does not know that wgmma
/// writes them asynchronously.
__device__ inline void hold(float (&d)[128]) {
#pragma unroll
  for (int i = 0; i < 128; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

/// sums (+)= queries [64, 16] x rows [256, 16] transposed.
__device__ inline void multiply(float (&d)[128], std::uint64_t queries, std::uint64_t rows,
                                int add) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, "
      "%8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, "
      "%40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, "
      "%56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, "
      "%72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, "
      "%88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, "
      "%104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, "
      "%120, %121, %122, %123, %124, %125, %126, %127}, "
      "%128, %129, p, 1, 1, 0, 0;\n"
      "}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]),
        "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
        "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),
        "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]),
        "+f"(d[63]), "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]),
        "+f"(d[70]), "+f"(d[71]), "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]),
        "+f"(d[77]), "+f"(d[78]), "+f"(d[79]), "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]),
        "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]), "+f"(d[90]),
        "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]), "+f"(d[96]), "+f"(d[97]),
        "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]),
        "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]),
        "+f"(d[110]), "+f"(d[111]), "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]),
        "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]), "+f"(d[120]), "+f"(d[121]),
        "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
      : "l"(queries), "l"(rows), "r"(add));
}

#endif

__global__ void __launch_bounds__(kThreads, 1)
    wgmma_kernel(const __grid_constant__ CUtensorMap query_map,
                 const __grid_constant__ CUtensorMap bank_map, const Tiles tiles) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  __shared__ std::uint64_t full[kMaxStages];  // its size tells the host that this was compiled
  __shared__ std::uint64_t empty[kMaxStages];
  const auto full_at = static_cast<unsigned>(__cvta_generic_to_shared(full));
  const auto empty_at = static_cast<unsigned>(__cvta_generic_to_shared(empty));
  unsigned char* memory = shared_memory<unsigned char>();
  const auto raw = static_cast<unsigned>(__cvta_generic_to_shared(memory));
  const unsigned bank_at = (raw + kAtom - 1) / kAtom * kAtom;
  const unsigned queries_at = bank_at + tiles.stages * kBankSlice;

  const int query_tile = static_cast<int>(blockIdx.x) % tiles.query_tiles;
  const int segment = static_cast<int>(blockIdx.x) / tiles.query_tiles;
  const int first_tile =
      static_cast<int>(static_cast<std::int64_t>(tiles.bank_tiles) * segment / tiles.segments);
  const int last_tile = static_cast<int>(static_cast<std::int64_t>(tiles.bank_tiles) *
                                         (segment + 1) / tiles.segments);
  const int group = static_cast<int>(threadIdx.x) / 128;
  const int lane = static_cast<int>(threadIdx.x) % 32;

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < tiles.stages; ++stage) {
      init_barrier(full_at + 8 * stage, 1);
      init_barrier(empty_at + 8 * stage, 4 * kConsumers);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async;" ::: "memory");
  }
  __syncthreads();

  if (group == kConsumers) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x == 128 * kConsumers) {
      int stage = 0;
      unsigned turn = 1;  // so that the first wait for each buffer, not filled yet, returns at once
      for (int tile = first_tile; tile < last_tile; ++tile) {
        for (int slice = 0; slice < tiles.slices; ++slice) {
          wait(empty_at + 8 * stage, turn);
          const bool with_queries = !tiles.queries_resident || tile == first_tile;
          const unsigned barrier = full_at + 8 * stage;
          expect_bytes(barrier, kBankSlice + (with_queries ? kQuerySlice : 0));
          const int feature = slice * static_cast<int>(kDepthOfTile);
          copy_box(bank_at + stage * kBankSlice, &bank_map, feature,
                   tile * static_cast<int>(kRowsOfTile), barrier);
          if (with_queries) {
            const int slot = tiles.queries_resident ? slice : stage;
            copy_box(queries_at + slot * kQuerySlice, &query_map, feature,
                     query_tile * static_cast<int>(kQueriesOfTile), barrier);
          }
          if (++stage == tiles.stages) {
            stage = 0;
            turn ^= 1;
          }
        }
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    float sums[128];
    const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
    int stage = 0;
    unsigned turn = 0;
    for (int tile = first_tile; tile < last_tile; ++tile) {
      int previous = -1;
      for (int slice = 0; slice < tiles.slices; ++slice) {
        wait(full_at + 8 * stage, turn);
        const int slot = tiles.queries_resident ? slice : stage;
        const std::uint64_t queries =
            descriptor(queries_at + slot * kQuerySlice + group * 64 * kSliceBytes);
        const std::uint64_t rows = descriptor(bank_at + stage * kBankSlice);
        hold(sums);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int k = 0; k < 4; ++k) {  // 16 features are 32 bytes, 2 in a descriptor
          multiply(sums, queries + 2 * k, rows + 2 * k, slice > 0 || k > 0);
        }
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        if (previous >= 0 && lane == 0) arrive(empty_at + 8 * previous);
        previous = stage;
        if (++stage == tiles.stages) {
          stage = 0;
          turn ^= 1;
        }
      }
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
      hold(sums);
      if (lane == 0) arrive(empty_at + 8 * previous);

      // Sums 4 j to 4 j + 3 belong to queries lane / 4 and lane / 4 + 8, and for each of them to
      // rows 8 j + 2 (lane % 4) and the next.
      const float* own_norms =
          tiles.half_norms + tile * static_cast<std::int64_t>(kRowsOfTile) + lane % 4 * 2;
      const std::int64_t query = query_tile * kQueriesOfTile + group * 64 + warp * 16 + lane / 4;
      float* maxima = tiles.maxima + tile * (kRowsOfTile / kGroup) * tiles.num_queries + query;
#pragma unroll
      for (int g = 0; g < kRowsOfTile / kGroup; ++g) {
        float first = -3.4e38f;
        float second = -3.4e38f;
#pragma unroll
        for (int j = 8 * g; j < 8 * g + 8; ++j) {
          const float2 norm = __ldg(reinterpret_cast<const float2*>(own_norms + 8 * j));
          first = fmaxf(first, fmaxf(sums[4 * j] - norm.x, sums[4 * j + 1] - norm.y));
          second = fmaxf(second, fmaxf(sums[4 * j + 2] - norm.x, sums[4 * j + 3] - norm.y));
        }
#pragma unroll
        for (int step = 1; step <= 2; ++step) {
          first = fmaxf(first, __shfl_xor_sync(0xFFFFFFFFu, first, step));
          second = fmaxf(second, __shfl_xor_sync(0xFFFFFFFFu, second, step));
        }
        if (lane % 4 == 0) {
          maxima[g * tiles.num_queries] = first;
          maxima[g * tiles.num_queries + 8] = second;
        }
      }
    }
  }
#endif
}

// Describes a float16 matrix [rows, depth], copied in swizzled boxes of 64 features.
CUtensorMap tensor_map(const __half* matrix, std::int64_t rows, std::int64_t depth,
                       std::int64_t box_rows) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
  cuda_check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                              cudaEnableDefault, &found),
             kName);
#else
  cuda_check(
      cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found),
      kName);
#endif
  if (found != cudaDriverEntryPointSuccess) {
    throw std::runtime_error(std::string(kName) + ": the driver has no cuTensorMapEncodeTiled");
  }
  CUtensorMap map{};
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(depth), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(2 * depth)};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(kDepthOfTile),
                             static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  const CUresult status = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function)(
      &map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, const_cast<__half*>(matrix), sizes, strides, box,
      steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    throw std::runtime_error(std::string(kName) + ": cuTensorMapEncodeTiled failed with " +
                             std::to_string(status));
  }
  return map;
}

}  // namespace

bool has_wgmma() {
  cudaFuncAttributes attributes{};
  cuda_check(cudaFuncGetAttributes(&attributes, wgmma_kernel), kName);
  return attributes.sharedSizeBytes > 0;
}

void group_maxima_wgmma(const GroupMaxima& work, cudaStream_t stream) {
  Tiles tiles{};
  tiles.num_queries = work.num_queries;
  tiles.half_norms = work.half_norms;
  tiles.maxima = work.maxima;
  tiles.query_tiles = static_cast<int>(work.num_queries / kQueriesOfTile);
  tiles.bank_tiles = static_cast<int>(work.num_rows / kRowsOfTile);
  tiles.slices = static_cast<int>(work.depth / kDepthOfTile);
  tiles.segments = segments_of(tiles.query_tiles, tiles.bank_tiles,
                               device_attribute(cudaDevAttrMultiProcessorCount, kName));
  const int shared = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, kName) - 256;
  const auto bytes = [&](std::int64_t stages, bool resident) {
    return kAtom + stages * kBankSlice + (resident ? tiles.slices : stages) * kQuerySlice;
  };
  constexpr int kLeastStages = 3;
  tiles.queries_resident = bytes(kLeastStages, true) <= shared;
  tiles.stages = kLeastStages;
  while (tiles.stages < kMaxStages && bytes(tiles.stages + 1, tiles.queries_resident) <= shared) {
    ++tiles.stages;
  }
  launch(kName, Grid::independent, wgmma_kernel,
         static_cast<unsigned>(tiles.query_tiles * tiles.segments), kThreads,
         static_cast<std::size_t>(bytes(tiles.stages, tiles.queries_resident)), stream,
         tensor_map(work.queries, work.num_queries, work.depth, kQueriesOfTile),
         tensor_map(work.bank, work.num_rows, work.depth, kRowsOfTile), tiles);
}

}  // namespace autopatch
