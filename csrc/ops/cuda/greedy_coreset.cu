#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/cuda.cuh"
#include "core/parts.hpp"
#include "ops/greedy_coreset.hpp"

// One persistent grid makes all picks. Each block owns the rows r with r % blocks equal to its
// number, and keeps their 8-bit codes in shared memory if they fit. After a new pick, a block
// screens its rows with the codes, measures the rows whose distance may have decreased, and
// publishes its farthest row. Each block reads all published rows and so knows the next pick.
//
// Codes. v(x) = (x - center) * inverse_scale is clamped to [-127, 127] and rounded to the code
// c(x), at a distance of at most e(x). Clamping never increases distances, so
//
//     |x - y| * inverse_scale >= |c(x) - c(y)| - e(x) - e(y),
//
// for any center and inverse_scale. A row need not be measured if the right side is at least the
// row's `limit`: its smallest distance so far, in the same unit, plus what the float32 sum may have
// lost.

namespace autopatch {
namespace {

constexpr const char* kName = "greedy_coreset";
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
constexpr int kSums = 16;  // running sums of a distance, one per lane
constexpr int kCodesOfChunk = 16;
constexpr int kLeastRows = 128;  // minimum number of rows per block
constexpr float kBox = 127.0f;

/// Assignment of rows to blocks.
struct Deal {
  std::int64_t num_rows;
  int blocks;
  int slots;  // maximum number of rows per block

  __host__ __device__ int block_of(std::int64_t row) const {
    return static_cast<int>(row % blocks);
  }
  __host__ __device__ int slot_of(std::int64_t row) const { return static_cast<int>(row / blocks); }
  __host__ __device__ std::int64_t row_of(int block, int slot) const {
    return static_cast<std::int64_t>(slot) * blocks + block;
  }
  __host__ __device__ int slots_of(int block) const {
    return static_cast<int>((num_rows - block + blocks - 1) / blocks);
  }
};

struct Rows {
  const float* features;
  std::int64_t dim;
  int chunks;  // chunks of codes per row
  Deal deal;
};

/// State of all rows, by block and slot; codes by block, chunk and slot.
struct State {
  int4* codes;
  int* norms;      // |c|^2
  float* errors;   // e
  float* nearest;  // squared distance to the nearest pick; below 0 for a pick
  float* limits;
  unsigned long long* published;  // [2][blocks], used in alternation
};

/// Key of a row that a block proposes as the next pick. A greater key is a farther row; at equal
/// distance, a lower index. The last bit is the turn.
__host__ __device__ inline unsigned long long proposal(float nearest, std::int64_t row,
                                                       unsigned turn) {
  unsigned bits = 0;  // for a block without rows left
  if (nearest >= 0.0f) {
#ifdef __CUDA_ARCH__
    bits = __float_as_uint(nearest) + 1;
#else
    float positive = nearest + 0.0f;
    __builtin_memcpy(&bits, &positive, sizeof(bits));
    ++bits;
#endif
  }
  const auto order = static_cast<unsigned>(0x7FFFFFFF - row);
  return static_cast<unsigned long long>(bits) << 32 | order << 1 | turn;
}

__device__ inline float distance_of(unsigned long long key) {
  const auto bits = static_cast<unsigned>(key >> 32);
  return bits == 0 ? 0.0f : __uint_as_float(bits - 1);
}

__host__ __device__ inline std::int64_t row_of(unsigned long long key) {
  return 0x7FFFFFFF - static_cast<std::int64_t>(key >> 1 & 0x7FFFFFFF);
}

/// Limit in the unit of codes: if the distance between the codes of a row and a pick, minus the
/// pick's error, is at least this, the pick does not lower `nearest`. The float32 sum of d rounded
/// squares in 16 running sums is below the exact sum by less than (d / 16 + 8) 2^-24 of it plus
/// what underflows.
__device__ inline float limit_of(float nearest, std::int64_t dim, float inverse_scale,
                                 float error) {
  constexpr float kLeastFloat = 1.4e-45f;
  const auto d = static_cast<float>(dim);
  const float rounding = 1.0f + (d / 16.0f + 64.0f) * 1.2e-7f;
  return sqrtf(nearest + d * kLeastFloat) * inverse_scale * rounding + error;
}

__global__ void __launch_bounds__(kThreads)
    encode_kernel(Rows rows, const float* center, const float* inverse_scale, State state) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t row =
      static_cast<std::int64_t>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / kWarp;
  if (row >= rows.deal.num_rows) return;
  const float* features = rows.features + row * rows.dim;
  const int block = rows.deal.block_of(row);
  const int slot = rows.deal.slot_of(row);
  auto* codes = reinterpret_cast<signed char*>(state.codes);
  const float scale = *inverse_scale;
  float error = 0.0f;
  int norm = 0;
  for (int d = lane; d < rows.chunks * kCodesOfChunk; d += kWarp) {
    int code = 0;
    if (d < rows.dim) {
      const float value = fminf(fmaxf((features[d] - center[d]) * scale, -kBox), kBox);
      code = __float2int_rn(value);
      const float rest = value - static_cast<float>(code);
      error += rest * rest;
    }
    norm += code * code;
    const std::int64_t chunk = static_cast<std::int64_t>(block) * rows.chunks + d / kCodesOfChunk;
    codes[(chunk * rows.deal.slots + slot) * kCodesOfChunk + d % kCodesOfChunk] =
        static_cast<signed char>(code);
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    error += __shfl_xor_sync(kAllLanes, error, step);
    norm += __shfl_xor_sync(kAllLanes, norm, step);
  }
  if (lane == 0) {
    const std::int64_t at = static_cast<std::int64_t>(block) * rows.deal.slots + slot;
    state.norms[at] = norm;
    // Values of up to 127 are rounded by 2^-17 each when they are computed.
    state.errors[at] = sqrtf(error) * 1.001f + 1e-4f * sqrtf(static_cast<float>(rows.dim));
    state.nearest[at] = __int_as_float(0x7F800000);
    state.limits[at] = __int_as_float(0x7F800000);
  }
}

/// Returns the greatest key of all threads to every thread. `shared` holds one key per warp; two
/// calls need a barrier between them.
__device__ unsigned long long greatest(unsigned long long key, unsigned long long* shared) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const unsigned long long other = __shfl_xor_sync(kAllLanes, key, step);
    if (other > key) key = other;
  }
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = key;
  __syncthreads();
  unsigned long long most = shared[0];
  for (int warp = 1; warp < kWarps; ++warp) {
    if (shared[warp] > most) most = shared[warp];
  }
  return most;
}

/// Bytes of shared memory for the state of a row, if rows are resident.
constexpr std::int64_t kBytesOfRow = 3 * sizeof(float);  // norms, nearest, limits

template <bool resident>
__global__ void __launch_bounds__(kThreads, 1)
    pick_kernel(Rows rows, const float* inverse_scale, State state, std::int64_t count,
                std::int64_t start, std::int64_t* indices, float* radii) {
  const Deal& deal = rows.deal;
  const int block = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp;
  const int slots = deal.slots_of(block);
  const std::int64_t dim = rows.dim;
  const float scale = *inverse_scale;

  auto* own_keys = shared_memory<unsigned long long>();                      // [kWarps]
  unsigned long long* all_keys = own_keys + kWarps;                          // [kWarps]
  auto* pick_codes = reinterpret_cast<int4*>(all_keys + kWarps);             // [chunks]
  auto* pick_features = reinterpret_cast<float*>(pick_codes + rows.chunks);  // [chunks * 16]
  float* behind = pick_features + rows.chunks * kCodesOfChunk;
  // Whether the farthest row must be searched again, and the pick's norm and error.
  auto* stale = reinterpret_cast<int*>(behind);
  int* pick_norm = stale + 1;
  auto* pick_error = reinterpret_cast<float*>(stale + 2);
  auto* own = reinterpret_cast<int4*>(stale + 4);

  const std::int64_t first = static_cast<std::int64_t>(block) * deal.slots;
  int4* codes = state.codes + first * rows.chunks;
  int* norms = state.norms + first;
  float* nearest = state.nearest + first;
  float* limits = state.limits + first;
  const float* errors = state.errors + first;
  if (resident) {
    int4* own_codes = own;
    auto* own_norms = reinterpret_cast<int*>(own_codes + rows.chunks * deal.slots);
    auto* own_nearest = reinterpret_cast<float*>(own_norms + deal.slots);
    float* own_limits = own_nearest + deal.slots;
    for (int i = thread; i < rows.chunks * deal.slots; i += kThreads) own_codes[i] = codes[i];
    for (int slot = thread; slot < slots; slot += kThreads) {
      own_norms[slot] = norms[slot];
      own_nearest[slot] = nearest[slot];
      own_limits[slot] = limits[slot];
    }
    codes = own_codes;
    norms = own_norms;
    nearest = own_nearest;
    limits = own_limits;
  }
  __syncthreads();

  std::int64_t pick = start;
  unsigned long long farthest = 0;  // key of this block, without the turn
  for (std::int64_t i = 0; i < count; ++i) {
    const int owner = deal.block_of(pick);
    const int pick_slot = deal.slot_of(pick);
    const float* features = rows.features + pick * dim;
    for (int d = thread; d < rows.chunks * kCodesOfChunk; d += kThreads) {
      pick_features[d] = d < dim ? features[d] : 0.0f;
    }
    const int4* codes_of_owner =
        state.codes + static_cast<std::int64_t>(owner) * deal.slots * rows.chunks + pick_slot;
    for (int chunk = thread; chunk < rows.chunks; chunk += kThreads) {
      pick_codes[chunk] = codes_of_owner[static_cast<std::int64_t>(chunk) * deal.slots];
    }
    if (thread == 0) {
      const std::int64_t at = static_cast<std::int64_t>(owner) * deal.slots + pick_slot;
      *pick_norm = state.norms[at];
      *pick_error = state.errors[at];
      *stale = i == 0 || owner == block;
      if (owner == block) nearest[pick_slot] = -1.0f;
      if (block == 0) indices[i] = pick;
    }
    __syncthreads();

    const int norm_of_pick = *pick_norm;
    const float error_of_pick = *pick_error;
    for (int base = thread - lane; base < slots; base += kThreads) {
      const int slot = base + lane;
      bool measured = false;
      if (slot < slots) {
        int product = 0;
#pragma unroll 4
        for (int chunk = 0; chunk < rows.chunks; ++chunk) {
          const int4 a = codes[static_cast<std::int64_t>(chunk) * deal.slots + slot];
          const int4 b = pick_codes[chunk];
          product = __dp4a(a.x, b.x, product);
          product = __dp4a(a.y, b.y, product);
          product = __dp4a(a.z, b.z, product);
          product = __dp4a(a.w, b.w, product);
        }
        const auto apart = static_cast<float>(norms[slot] + norm_of_pick - 2 * product);
        const float limit = (limits[slot] + error_of_pick) * 1.00001f;
        // Written so that a NaN limit passes.
        measured = !(apart >= limit * limit) && nearest[slot] > 0.0f;
      }
      // Measures two rows at a time, each with half a warp.
      for (unsigned left = __ballot_sync(kAllLanes, measured); left != 0;) {
        const int low = __ffs(static_cast<int>(left)) - 1;
        left &= left - 1;
        int high = low;
        if (left != 0) {
          high = __ffs(static_cast<int>(left)) - 1;
          left &= left - 1;
        }
        const int own_slot = base + (lane < kSums ? low : high);
        const float* row = rows.features + deal.row_of(block, own_slot) * dim;
        float sum = 0.0f;
#pragma unroll 8
        for (int d = lane % kSums; d < dim; d += kSums) {
          const float difference = __fsub_rn(row[d], pick_features[d]);
          sum = __fadd_rn(sum, __fmul_rn(difference, difference));
        }
        for (int step = kSums / 2; step > 0; step /= 2) {
          sum = __fadd_rn(sum, __shfl_xor_sync(kAllLanes, sum, step));
        }
        if (lane % kSums == 0 && sum < nearest[own_slot]) {
          nearest[own_slot] = sum;
          limits[own_slot] = limit_of(sum, dim, scale, errors[own_slot]);
          if (deal.row_of(block, own_slot) == row_of(farthest)) *stale = 1;
        }
      }
    }
    __syncthreads();

    if (*stale != 0) {
      unsigned long long best = 0;
      for (int slot = thread; slot < slots; slot += kThreads) {
        const unsigned long long key = proposal(nearest[slot], deal.row_of(block, slot), 0);
        if (key > best) best = key;
      }
      farthest = greatest(best, own_keys);
    }
    const auto turn = static_cast<unsigned>(i >> 1 & 1) ^ 1u;
    volatile unsigned long long* published = state.published + (i & 1) * deal.blocks;
    if (thread == 0) published[block] = farthest | turn;
    unsigned long long best = 0;
    for (int other = thread; other < deal.blocks; other += kThreads) {
      unsigned long long key = published[other];
      while ((key & 1) != turn) {
        pause();
        key = published[other];
      }
      if (key > best) best = key;
    }
    best = greatest(best, all_keys);
    pick = row_of(best);
    if (block == 0 && thread == 0) radii[i] = __fsqrt_rn(distance_of(best));
  }
}

Rows rows_of(const float* features, std::int64_t num_rows, std::int64_t dim) {
  Rows rows{};
  rows.features = features;
  rows.dim = dim;
  rows.chunks = static_cast<int>(divide_up(dim, kCodesOfChunk));
  rows.deal.num_rows = num_rows;
  const std::int64_t most = device_attribute(cudaDevAttrMultiProcessorCount, kName);
  rows.deal.blocks = static_cast<int>(std::min(most, divide_up(num_rows, kLeastRows)));
  rows.deal.slots = static_cast<int>(divide_up(num_rows, rows.deal.blocks));
  return rows;
}

// Lays out the state in `memory` and returns its size in bytes.
std::int64_t lay_out(const Rows& rows, void* memory, State& state) {
  Parts parts(memory);
  const std::int64_t all = static_cast<std::int64_t>(rows.deal.blocks) * rows.deal.slots;
  state.codes = parts.take<int4>(all * rows.chunks);
  state.norms = parts.take<int>(all);
  state.errors = parts.take<float>(all);
  state.nearest = parts.take<float>(all);
  state.limits = parts.take<float>(all);
  state.published = parts.take<unsigned long long>(std::int64_t{2} * rows.deal.blocks);
  return parts.size();
}

}  // namespace

std::int64_t greedy_coreset_cuda_workspace(std::int64_t num_rows, std::int64_t dim) {
  State state{};
  return lay_out(rows_of(nullptr, num_rows, dim), nullptr, state);
}

void greedy_coreset_cuda(const float* features, std::int64_t num_rows, std::int64_t dim,
                         std::int64_t count, std::int64_t start, const float* center,
                         const float* inverse_scale, void* workspace, std::int64_t* indices,
                         float* radii, std::uintptr_t stream) {
  const auto queue = reinterpret_cast<cudaStream_t>(stream);
  const Rows rows = rows_of(features, num_rows, dim);
  State state{};
  lay_out(rows, workspace, state);
  cuda_check(
      cudaMemsetAsync(state.published, 0, 16 * static_cast<std::size_t>(rows.deal.blocks), queue),
      kName);
  launch(kName, Grid::independent, encode_kernel,
         static_cast<unsigned>(divide_up(num_rows, kWarps)), kThreads, 0, queue, rows, center,
         inverse_scale, state);
  const std::int64_t of_pick = 2 * kWarps * 8 + rows.chunks * (16 + 4 * kCodesOfChunk) + 16;
  const std::int64_t of_rows =
      rows.deal.slots * (kBytesOfRow + std::int64_t{rows.chunks} * kCodesOfChunk);
  const bool resident =
      of_pick + of_rows <= device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, kName);
  launch(kName, Grid::cooperative, resident ? pick_kernel<true> : pick_kernel<false>,
         static_cast<unsigned>(rows.deal.blocks), kThreads,
         static_cast<std::size_t>(of_pick + (resident ? of_rows : 0)), queue, rows, inverse_scale,
         state, count, start, indices, radii);
}

}  // namespace autopatch
