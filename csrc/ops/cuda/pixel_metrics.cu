// As on the CPU (ops/pixel_metrics.cpp) the few anomalous pixels, "positives", are sorted by score
// and the normal ones are counted between and onto their distinct scores. How many positives and
// distinct scores there are is known on the device alone: every grid has a size that depends on the
// number of pixels, and its blocks share the items at hand.
//
// Sums of floating-point numbers are taken in an order that depends on sizes only; atomic
// operations are on integers. So the result is the same from run to run.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "core/cuda.cuh"
#include "core/parts.hpp"
#include "ops/cpu/score_key.hpp"
#include "ops/pixel_metrics.hpp"

namespace autopatch {
namespace {

constexpr const char* kName = "pixel_metrics";
constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;
constexpr int kMostBlocks = 512;
constexpr int kPixelsOfBlock = 4096;  // of small inputs
constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
constexpr int kRounds = 8;    // of a warp over a tile that is sorted
constexpr int kTogether = 4;  // scores that a thread has under way
constexpr int kLeastBins = 256;
constexpr int kMostBins = 1 << 20;
constexpr std::uint32_t kSlotsApart = 2048;  // that a block counts in shared memory
constexpr int kCountBlocks = 2;              // for one of other kernels: it waits for memory
constexpr int kMostCountBlocks = 1056;
constexpr int kSums = 5;
constexpr std::uint32_t kNone = 0xFFFFFFFFu;

constexpr double kMaxFalsePositiveRate = 0.3;

static_assert(kThreads == kDigits, "a thread takes care of a digit");

/// What later kernels must know of earlier ones; zero at first.
struct Found {
  std::uint32_t num_positives;
  std::uint32_t num_keys;
  std::uint32_t num_regions;
  std::uint32_t bad_type;
  // Complements of the first such image or pixel; 0 if there is none.
  std::uint32_t in_good_image;
  std::uint32_t nan;
};

struct Images {
  const std::uint8_t* masks;
  const std::int32_t* types;
  std::uint32_t count;
  std::uint32_t width;
  std::uint32_t size;  // of one
  std::uint32_t num_pixels;
  int num_types;
};

/// All that is kept of positives, in pixel order first, then sorted by falling score.
template <typename Key>
struct Memory {
  Found* found;
  std::uint32_t* regions_of_type;
  std::uint32_t* parents;  // by pixel
  std::uint32_t* areas;    // by pixel, of the region of which it is the root
  Key* keys[2];
  std::uint32_t* roots[2];
  std::uint32_t* key_index;  // of each positive among the distinct
  Key* distinct;
  std::uint32_t* starts;  // first positive of each distinct key
  std::uint32_t* slots;   // two a key: negatives before it, and of equal key
  double* weights;        // up to the last positive of each key
  std::uint32_t* bins;    // first distinct key of each
  std::uint32_t* digits;  // [kDigits][blocks]
  std::uint32_t* totals;  // [kDigits]
  std::uint32_t* counts;  // [blocks]
  double* sums;           // [blocks][kSums]
};

// --- scans -------------------------------------------------------------------------------------

template <typename T>
__device__ T warp_inclusive(T value) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int step = 1; step < kWarp; step *= 2) {
    const T other = __shfl_up_sync(kAllLanes, value, static_cast<unsigned>(step));
    if (lane >= step) value += other;
  }
  return value;
}

/// Sum of the values of this thread and those before it; `total` receives that of all. `shared` has
/// one place a warp.
template <typename T>
__device__ T block_inclusive(T value, T* shared, T& total) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  value = warp_inclusive(value);
  __syncthreads();  // until `shared` was read by all
  if (threadIdx.x % kWarp == kWarp - 1) shared[warp] = value;
  __syncthreads();
  T before = 0;
  total = 0;
  for (int other = 0; other < kWarps; ++other) {
    if (other == warp) before = total;
    total += shared[other];
  }
  return before + value;
}

/// Items [begin, end) of this block, whole tiles but for the last.
struct Part {
  std::uint32_t begin;
  std::uint32_t end;

  __device__ Part(std::uint32_t count, std::uint32_t tile) {
    const std::uint32_t tiles = count / tile + (count % tile != 0);
    const std::uint64_t each = (tiles + gridDim.x - 1) / gridDim.x * std::uint64_t{tile};
    const std::uint64_t first = blockIdx.x * each;
    begin = static_cast<std::uint32_t>(first < count ? first : count);
    end = static_cast<std::uint32_t>(first + each < count ? first + each : count);
  }
};

// A scan of `items`, which have a size(), a value(i) and take the sum up to and with item i by
// put(i, value, sum), takes three kernels.

template <typename Items, typename T>
__global__ void __launch_bounds__(kThreads) sum_kernel(Items items, T* sums) {
  const Part part(items.size(), kThreads);
  T sum = 0;
  for (std::uint32_t i = part.begin + threadIdx.x; i < part.end; i += kThreads) {
    sum += items.value(i);
  }
  T total;
  block_inclusive(sum, shared_memory<T>(), total);
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

/// Replaces sums of blocks by those of all blocks before.
template <typename T>
__global__ void __launch_bounds__(kThreads) offset_kernel(T* sums, int blocks, T* total_of_all) {
  T before = 0;
  for (int base = 0; base < blocks; base += kThreads) {
    const int block = base + static_cast<int>(threadIdx.x);
    const T sum = block < blocks ? sums[block] : T{0};
    T total;
    const T inclusive = block_inclusive(sum, shared_memory<T>(), total);
    if (block < blocks) sums[block] = before + (inclusive - sum);
    before += total;
  }
  if (threadIdx.x == 0 && total_of_all != nullptr) *total_of_all = before;
}

template <typename Items, typename T>
__global__ void __launch_bounds__(kThreads) put_kernel(Items items, const T* offsets) {
  const Part part(items.size(), kThreads);
  T before = offsets[blockIdx.x];
  for (std::uint32_t base = part.begin; base < part.end; base += kThreads) {
    const std::uint32_t i = base + threadIdx.x;
    const T value = i < part.end ? items.value(i) : T{0};
    T total;
    const T inclusive = block_inclusive(value, shared_memory<T>(), total);
    if (i < part.end) items.put(i, value, before + inclusive);
    before += total;
  }
}

template <typename Items, typename T>
void scan(const Items& items, T* sums, T* total, int blocks, cudaStream_t stream) {
  const auto grid = static_cast<unsigned>(blocks);
  constexpr std::size_t kShared = kWarps * sizeof(T);
  launch(kName, Grid::independent, sum_kernel<Items, T>, grid, kThreads, kShared, stream, items,
         sums);
  launch(kName, Grid::independent, offset_kernel<T>, 1, kThreads, kShared, stream, sums, blocks,
         total);
  launch(kName, Grid::independent, put_kernel<Items, T>, grid, kThreads, kShared, stream, items,
         sums);
}

// --- positives and their regions ---------------------------------------------------------------

/// Sixteen pixels an item; puts the positives in pixel order, each a region of its own.
struct Masks {
  const std::uint8_t* masks;
  std::uint32_t num_pixels;
  std::uint32_t* pixels;
  std::uint32_t* parents;
  std::uint32_t* areas;

  static constexpr std::uint32_t kPixels = 16;

  __device__ std::uint32_t size() const {
    return num_pixels / kPixels + (num_pixels % kPixels != 0);
  }

  /// A bit for each pixel.
  __device__ std::uint32_t bits(std::uint32_t i) const {
    const std::uint32_t first = i * kPixels;
    std::uint32_t result = 0;
    if (num_pixels - first < kPixels || reinterpret_cast<std::uintptr_t>(masks) % kPixels != 0) {
      const std::uint32_t count = min(kPixels, num_pixels - first);
      for (std::uint32_t j = 0; j < count; ++j) {
        result |= static_cast<std::uint32_t>(masks[first + j] != 0) << j;
      }
      return result;
    }
    const uint4 four = *reinterpret_cast<const uint4*>(masks + first);
    const std::uint32_t words[4] = {four.x, four.y, four.z, four.w};
    if ((four.x | four.y | four.z | four.w) == 0) return 0;
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      result |= static_cast<std::uint32_t>((words[j / 4] >> (j % 4 * 8) & 0xFF) != 0) << j;
    }
    return result;
  }

  __device__ std::uint32_t value(std::uint32_t i) const {
    return static_cast<std::uint32_t>(__popc(bits(i)));
  }

  __device__ void put(std::uint32_t i, std::uint32_t count, std::uint32_t sum) const {
    if (count == 0) return;
    std::uint32_t at = sum - count;
    for (std::uint32_t left = bits(i); left != 0; left &= left - 1) {
      const std::uint32_t pixel =
          i * kPixels + static_cast<std::uint32_t>(__ffs(static_cast<int>(left)) - 1);
      pixels[at++] = pixel;
      parents[pixel] = pixel;
      areas[pixel] = 0;
    }
  }
};

/// Parents are of the same region and of lower index. Others may write meanwhile what is as true;
/// the path is halved on the way.
__device__ inline std::uint32_t find_root(volatile std::uint32_t* parents, std::uint32_t i) {
  std::uint32_t parent = parents[i];
  while (parent != i) {
    const std::uint32_t next = parents[parent];
    if (next != parent) parents[i] = next;
    i = parent;
    parent = next;
  }
  return i;
}

/// The root of lower index becomes that of both.
__device__ inline void unite(std::uint32_t* parents, std::uint32_t a, std::uint32_t b) {
  while (true) {
    a = find_root(parents, a);
    b = find_root(parents, b);
    if (a == b) return;
    const std::uint32_t high = max(a, b);
    const std::uint32_t low = min(a, b);
    const std::uint32_t before = atomicMin(&parents[high], low);
    if (before == high) return;
    // It was no root any more: what it had above it joins as well.
    a = before;
    b = low;
  }
}

template <typename Key>
__global__ void __launch_bounds__(kThreads) unite_kernel(Images images, Memory<Key> memory) {
  const std::uint32_t first = blockIdx.x * kThreads + threadIdx.x;
  const std::uint32_t step = gridDim.x * kThreads;
  for (std::uint32_t image = first; image < images.count; image += step) {
    if (images.types[image] < -1 || images.types[image] >= images.num_types) {
      memory.found->bad_type = 1;
    }
  }
  const std::uint32_t width = images.width;
  for (std::uint32_t i = first; i < memory.found->num_positives; i += step) {
    const std::uint32_t pixel = memory.roots[0][i];
    const std::uint32_t place = pixel % images.size;
    const std::uint32_t x = place % width;
    const bool below = place >= width;
    const std::uint8_t* mask = images.masks + pixel;
    const std::uint8_t* above = mask - width;
    if (below && above[0] != 0) {
      // Neighbors on the left and above on either side are neighbors of this one too.
      unite(memory.parents, pixel, pixel - width);
      continue;
    }
    if (x > 0 && *(mask - 1) != 0) {
      unite(memory.parents, pixel, pixel - 1);
    } else if (below && x > 0 && *(above - 1) != 0) {
      unite(memory.parents, pixel, pixel - width - 1);
    }
    if (below && x + 1 < width && above[1] != 0) {
      unite(memory.parents, pixel, pixel - width + 1);
    }
  }
}

/// Replaces pixels by their roots, measures regions and writes keys.
template <typename Format, typename Key>
__global__ void __launch_bounds__(kThreads)
    key_kernel(const typename Format::Bits* scores, Images images, Memory<Key> memory) {
  const std::uint32_t count = memory.found->num_positives;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::uint32_t step = gridDim.x * kThreads;
  for (std::uint32_t base = blockIdx.x * kThreads + threadIdx.x - static_cast<unsigned>(lane);
       base < count; base += step) {
    const std::uint32_t i = base + static_cast<unsigned>(lane);
    std::uint32_t root = kNone;
    if (i < count) {
      const std::uint32_t pixel = memory.roots[0][i];
      root = pixel;
      while (memory.parents[root] != root) root = memory.parents[root];
      memory.roots[0][i] = root;
      memory.keys[0][i] = Format::key(scores[pixel]);
      if (root == pixel) {
        const std::uint32_t image = pixel / images.size;
        const std::int32_t type = images.types[image];
        if (type < 0) {
          atomicMax(&memory.found->in_good_image, ~image);
        } else if (type < images.num_types) {
          atomicAdd(&memory.regions_of_type[type], 1u);
        }
        atomicAdd(&memory.found->num_regions, 1u);
      }
    }
    const unsigned same = __match_any_sync(kAllLanes, root);
    if (root != kNone && __ffs(static_cast<int>(same)) - 1 == lane) {
      atomicAdd(&memory.areas[root], static_cast<std::uint32_t>(__popc(same)));
    }
  }
}

// --- sorting -----------------------------------------------------------------------------------

constexpr std::uint32_t kSortTile = kThreads * kRounds;

template <typename Key>
__device__ int digit_of(Key key, int shift) {
  return static_cast<int>(key >> shift & (kDigits - 1));
}

template <typename Key>
__global__ void __launch_bounds__(kThreads)
    digit_kernel(const Key* keys, const Found* found, int shift, std::uint32_t* digits) {
  auto* counts = shared_memory<std::uint32_t>();
  counts[threadIdx.x] = 0;
  __syncthreads();
  const Part part(found->num_positives, kSortTile);
  for (std::uint32_t i = part.begin + threadIdx.x; i < part.end; i += kThreads) {
    atomicAdd(&counts[digit_of(keys[i], shift)], 1u);
  }
  __syncthreads();
  digits[threadIdx.x * gridDim.x + blockIdx.x] = counts[threadIdx.x];
}

/// A warp for each digit: its counts become those of blocks before.
__global__ void __launch_bounds__(kThreads)
    digit_offset_kernel(std::uint32_t* digits, std::uint32_t* totals, int blocks) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int digit = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / kWarp;
  std::uint32_t* counts = digits + digit * blocks;
  std::uint32_t before = 0;
  for (int base = 0; base < blocks; base += kWarp) {
    const int block = base + lane;
    const std::uint32_t count = block < blocks ? counts[block] : 0;
    const std::uint32_t inclusive = warp_inclusive(count);
    if (block < blocks) counts[block] = before + inclusive - count;
    before += __shfl_sync(kAllLanes, inclusive, kWarp - 1);
  }
  if (lane == 0) totals[digit] = before;
}

/// Puts items in the order of one digit, equal ones in the order that they come in.
template <typename Key>
__global__ void __launch_bounds__(kThreads)
    scatter_kernel(const Key* keys, const std::uint32_t* roots, Key* sorted_keys,
                   std::uint32_t* sorted_roots, const Found* found, int shift,
                   const std::uint32_t* digits, const std::uint32_t* totals) {
  auto* next = shared_memory<std::uint32_t>();         // [kDigits]
  std::uint32_t* places = next + kDigits;              // [kWarps][kDigits]
  std::uint32_t* scratch = places + kWarps * kDigits;  // [kWarps]
  const auto thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarp;
  const int lane = thread % kWarp;
  std::uint32_t* counts = places + warp * kDigits;

  const std::uint32_t own = totals[thread];
  std::uint32_t total;
  next[thread] =
      block_inclusive(own, scratch, total) - own + digits[threadIdx.x * gridDim.x + blockIdx.x];
  const Part part(found->num_positives, kSortTile);
  for (std::uint32_t base = part.begin; base < part.end; base += kSortTile) {
    for (int i = thread; i < kWarps * kDigits; i += kThreads) places[i] = 0;
    __syncthreads();
    const std::uint32_t first = base + static_cast<std::uint32_t>(warp * kRounds * kWarp + lane);
    Key own_keys[kRounds];
    std::uint32_t ranks[kRounds];
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const std::uint32_t i = first + static_cast<std::uint32_t>(round * kWarp);
      own_keys[round] = i < part.end ? keys[i] : Key{0};
    }
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const bool present = first + static_cast<std::uint32_t>(round * kWarp) < part.end;
      const int digit = present ? digit_of(own_keys[round], shift) : kDigits;
      const unsigned same = __match_any_sync(kAllLanes, digit);
      const std::uint32_t before = present ? counts[digit] : 0;
      ranks[round] = before + static_cast<std::uint32_t>(__popc(same & ((1u << lane) - 1)));
      __syncwarp();
      if (present && (same >> lane) == 1) counts[digit] = ranks[round] + 1;
      __syncwarp();
    }
    __syncthreads();
    std::uint32_t place = next[thread];
    for (int other = 0; other < kWarps; ++other) {
      const std::uint32_t count = places[other * kDigits + thread];
      places[other * kDigits + thread] = place;
      place += count;
    }
    next[thread] = place;
    __syncthreads();
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const std::uint32_t i = first + static_cast<std::uint32_t>(round * kWarp);
      if (i >= part.end) continue;
      const std::uint32_t to = counts[digit_of(own_keys[round], shift)] + ranks[round];
      sorted_keys[to] = own_keys[round];
      sorted_roots[to] = roots[i];
    }
    __syncthreads();
  }
}

/// Afterwards the sorted items are the first of each pair.
template <typename Key>
void sort(Memory<Key>& memory, int key_bits, int blocks, cudaStream_t stream) {
  const auto grid = static_cast<unsigned>(blocks);
  for (int shift = 0; shift < key_bits; shift += kDigitBits) {
    launch(kName, Grid::independent, digit_kernel<Key>, grid, kThreads,
           kDigits * sizeof(std::uint32_t), stream, memory.keys[0], memory.found, shift,
           memory.digits);
    launch(kName, Grid::independent, digit_offset_kernel, kDigits / kWarps, kThreads, 0, stream,
           memory.digits, memory.totals, blocks);
    launch(kName, Grid::independent, scatter_kernel<Key>, grid, kThreads,
           (kDigits + kWarps * kDigits + kWarps) * sizeof(std::uint32_t), stream, memory.keys[0],
           memory.roots[0], memory.keys[1], memory.roots[1], memory.found, shift, memory.digits,
           memory.totals);
    std::swap(memory.keys[0], memory.keys[1]);
    std::swap(memory.roots[0], memory.roots[1]);
  }
  // Nothing else needs the second of each pair any more.
  memory.distinct = memory.keys[1];
  memory.starts = memory.roots[1];
}

// --- distinct keys and the negatives between them ----------------------------------------------

template <typename Key>
struct FirstOfKey {
  Memory<Key> memory;

  __device__ std::uint32_t size() const { return memory.found->num_positives; }

  __device__ std::uint32_t value(std::uint32_t i) const {
    return i == 0 || memory.keys[0][i] != memory.keys[0][i - 1];
  }

  __device__ void put(std::uint32_t i, std::uint32_t is_first, std::uint32_t sum) const {
    const std::uint32_t index = sum - 1;
    memory.key_index[i] = index;
    if (is_first == 0) return;
    memory.distinct[index] = memory.keys[0][i];
    memory.starts[index] = i;
    memory.slots[std::size_t{2} * index] = 0;
    memory.slots[std::size_t{2} * index + 1] = 0;
  }
};

/// A score by its key; see score_key.hpp.
__device__ inline float score_of(std::uint32_t key) {
  constexpr std::uint32_t kMagnitude = Float32::kMagnitude;
  return __uint_as_float((key & Float32::kSign) != 0 ? key + 1 : key ^ kMagnitude);
}

/// Cells between the first and the last key. Those of float32 are of equal width in score, as keys
/// of numbers around zero are far apart; others, and where a score is infinite, in key.
template <typename Format, typename Key>
struct Cells {
  static constexpr bool kIsFloat = std::is_same_v<Format, Float32>;
  Key first;
  Key last;
  std::uint32_t last_cell;
  int shift;
  bool by_score = false;
  float highest = 0.0f;
  float per_score = 0.0f;

  __device__ Cells(const Key* distinct, std::uint32_t count, int log_bins)
      : first(distinct[0]), last(distinct[count - 1]), last_cell((1u << log_bins) - 1) {
    const auto range = static_cast<long long>(last - first);
    shift = max(0, 64 - __clzll(range) - log_bins);
    if constexpr (kIsFloat) {
      highest = score_of(first);
      per_score = static_cast<float>(last_cell) / (highest - score_of(last));
      by_score = per_score > 0.0f && per_score < 1e30f;
    }
  }

  __device__ std::uint32_t cell_of(Key key) const {
    if constexpr (kIsFloat) {
      if (by_score) {  // rounding keeps the order
        const float cell = (highest - score_of(key)) * per_score;
        return min(static_cast<std::uint32_t>(cell), last_cell);
      }
    }
    return static_cast<std::uint32_t>((key - first) >> shift);
  }
};

template <typename Format, typename Key>
__global__ void __launch_bounds__(kThreads) bin_kernel(Memory<Key> memory, int log_bins) {
  const std::uint32_t count = memory.found->num_keys;
  if (count == 0) return;
  const Cells<Format, Key> cells(memory.distinct, count, log_bins);
  const std::uint32_t step = gridDim.x * kThreads;
  for (std::uint32_t bin = blockIdx.x * kThreads + threadIdx.x; bin <= 1u << log_bins;
       bin += step) {
    std::uint32_t low = 0;
    std::uint32_t high = count;
    while (low < high) {
      const std::uint32_t middle = low + (high - low) / 2;
      if (cells.cell_of(memory.distinct[middle]) < bin) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    memory.bins[bin] = low;
  }
}

template <typename Format, typename Key>
__global__ void __launch_bounds__(kThreads)
    count_kernel(const typename Format::Bits* scores, Images images, Memory<Key> memory,
                 int log_bins) {
  using Bits = typename Format::Bits;
  const std::uint32_t num_keys = memory.found->num_keys;
  if (num_keys == 0) return;
  const Cells<Format, Key> cells(memory.distinct, num_keys, log_bins);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const Part part(images.num_pixels, kThreads * kTogether);
  std::uint32_t before_all = 0;
  // Where there are few slots each is hit often, so a block counts for itself first.
  const std::uint32_t num_slots = 2 * num_keys;
  const bool counts_apart = num_slots <= kSlotsApart;
  auto* apart = shared_memory<std::uint32_t>();
  std::uint32_t* slots = counts_apart ? apart : memory.slots;
  if (counts_apart) {
    for (std::uint32_t i = threadIdx.x; i < num_slots; i += kThreads) apart[i] = 0;
    __syncthreads();
  }
  for (std::uint32_t base = part.begin; base < part.end; base += kThreads * kTogether) {
    Bits own_scores[kTogether];
    bool normal[kTogether];
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      const std::uint32_t i = base + static_cast<std::uint32_t>(j * kThreads) + threadIdx.x;
      own_scores[j] = i < part.end ? scores[i] : Bits{0};
      normal[j] = i < part.end && images.masks[i] == 0;
    }
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      if (Format::is_nan(own_scores[j])) {
        const std::uint32_t i = base + static_cast<std::uint32_t>(j * kThreads) + threadIdx.x;
        atomicMax(&memory.found->nan, ~i);
      }
      const auto key = static_cast<Key>(Format::key(own_scores[j]));
      std::uint32_t slot = kNone;  // as no curve changes behind the last positive
      if (normal[j] && key < cells.first) {
        ++before_all;
      } else if (normal[j] && key <= cells.last) {
        const std::uint32_t cell = cells.cell_of(key);
        std::uint32_t low = memory.bins[cell];
        std::uint32_t high = memory.bins[cell + 1];
        while (low < high) {
          const std::uint32_t middle = low + (high - low) / 2;
          if (memory.distinct[middle] < key) {
            low = middle + 1;
          } else {
            high = middle;
          }
        }
        slot = 2 * low + (memory.distinct[low] == key ? 1 : 0);
      }
      if (__any_sync(kAllLanes, slot != kNone) == 0) continue;
      const unsigned same = __match_any_sync(kAllLanes, slot);
      if (slot != kNone && __ffs(static_cast<int>(same)) - 1 == lane) {
        atomicAdd(&slots[slot], static_cast<std::uint32_t>(__popc(same)));
      }
    }
  }
  before_all = warp_inclusive(before_all);
  if (lane == kWarp - 1 && before_all != 0) atomicAdd(&memory.slots[0], before_all);
  if (counts_apart) {
    __syncthreads();
    for (std::uint32_t i = threadIdx.x; i < num_slots; i += kThreads) {
      if (apart[i] != 0) atomicAdd(&memory.slots[i], apart[i]);
    }
  }
}

/// Slots become the negatives up to and with each.
template <typename Key>
struct Slots {
  Memory<Key> memory;

  __device__ std::uint32_t size() const { return 2 * memory.found->num_keys; }
  __device__ std::uint32_t value(std::uint32_t i) const { return memory.slots[i]; }
  __device__ void put(std::uint32_t i, std::uint32_t, std::uint32_t sum) const {
    memory.slots[i] = sum;
  }
};

// --- curves ------------------------------------------------------------------------------------

/// What a positive weighs in rwAP: every type with a region gets the same total weight.
template <typename Key>
__device__ double weight_of(const Images& images, const Memory<Key>& memory, std::uint32_t root) {
  const std::int32_t type = images.types[root / images.size];
  if (type < 0 || type >= images.num_types) return 0;  // an error anyway
  const double area = memory.areas[root];
  const double count = memory.regions_of_type[type];
  return memory.found->num_positives / (area * count * images.num_types);
}

template <typename Key>
struct Weights {
  Images images;
  Memory<Key> memory;

  __device__ std::uint32_t size() const { return memory.found->num_positives; }
  __device__ double value(std::uint32_t i) const {
    return weight_of(images, memory, memory.roots[0][i]);
  }
  __device__ void put(std::uint32_t i, double, double sum) const {
    const std::uint32_t key = memory.key_index[i];
    if (i + 1 == size() || memory.key_index[i + 1] != key) memory.weights[key] = sum;
  }
};

/// As on the CPU.
__device__ inline double found_along(double before, double after, double limit) {
  if (after <= limit) return limit - (before + after) / 2;
  if (before >= limit) return 0;
  return (limit - before) * (limit - before) / (2 * (after - before));
}

template <typename Key>
__global__ void __launch_bounds__(kThreads) curve_kernel(Images images, Memory<Key> memory) {
  const Found found = *memory.found;
  const double num_negatives = images.num_pixels - found.num_positives;
  const double limit = kMaxFalsePositiveRate * num_negatives;
  const double num_regions = found.num_regions;
  double sums[kSums] = {};
  const Part part(found.num_positives, kThreads);
  for (std::uint32_t i = part.begin + threadIdx.x; i < part.end; i += kThreads) {
    const std::uint32_t key = memory.key_index[i];
    const std::uint32_t root = memory.roots[0][i];
    const double true_positives =
        key + 1 < found.num_keys ? memory.starts[key + 1] : found.num_positives;
    const double untied = memory.slots[std::size_t{2} * key];
    const double false_positives = memory.slots[std::size_t{2} * key + 1];
    const double weight = memory.weights[key];
    const double to_limit = found_along(untied, false_positives, limit);
    sums[0] += weight_of(images, memory, root) * (weight / (weight + false_positives));
    sums[1] += true_positives / (true_positives + false_positives);
    sums[2] += found_along(untied, false_positives, num_negatives);
    sums[3] += to_limit;
    sums[4] += to_limit / (memory.areas[root] * num_regions);
  }
  auto* shared = shared_memory<double>();
  for (int j = 0; j < kSums; ++j) {
    double total;
    block_inclusive(sums[j], shared, total);
    if (threadIdx.x == 0) memory.sums[blockIdx.x * kSums + static_cast<unsigned>(j)] = total;
  }
}

__device__ inline double error_code(MetricsError error, std::uint32_t image) {
  return static_cast<double>(error) + static_cast<double>(kMetricsErrors) * image;
}

template <typename Key>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(Images images, Memory<Key> memory, int blocks, double* out) {
  double sums[kSums] = {};
  for (int j = 0; j < kSums; ++j) {
    double sum = 0;
    for (int block = static_cast<int>(threadIdx.x); block < blocks; block += kThreads) {
      sum += memory.sums[block * kSums + j];
    }
    block_inclusive(sum, shared_memory<double>(), sums[j]);
  }
  if (threadIdx.x != 0) return;
  const Found found = *memory.found;
  const double nan = __longlong_as_double(0x7FF8000000000000);
  double error = 0;
  if (found.bad_type != 0) {
    error = error_code(MetricsError::type_out_of_range, 0);
  } else if (found.in_good_image != 0) {
    error = error_code(MetricsError::anomalous_pixel_in_good_image, ~found.in_good_image);
  } else if (found.num_positives == 0) {
    error = error_code(MetricsError::no_anomalous_pixel, 0);
  } else if (found.nan != 0) {
    error = error_code(MetricsError::nan_score, ~found.nan / images.size);
  }
  out[5] = error;
  if (error != 0) {
    for (int j = 0; j < 5; ++j) out[j] = nan;
    return;
  }
  const double num_positives = found.num_positives;
  const double num_negatives = images.num_pixels - found.num_positives;
  out[0] = sums[0] / memory.weights[found.num_keys - 1];
  out[1] = sums[1] / num_positives;
  if (num_negatives == 0) {
    out[2] = out[3] = out[4] = nan;
    return;
  }
  out[2] = sums[2] / (num_positives * num_negatives);
  const double partial = sums[3] / (num_positives * num_negatives);
  const double chance = kMaxFalsePositiveRate * kMaxFalsePositiveRate / 2;
  out[3] = (1 + (partial - chance) / (kMaxFalsePositiveRate - chance)) / 2;
  out[4] = sums[4] / (kMaxFalsePositiveRate * num_negatives);
}

// -----------------------------------------------------------------------------------------------

int blocks_of(std::int64_t num_pixels) {
  const std::int64_t blocks = divide_up(num_pixels, kPixelsOfBlock);
  return static_cast<int>(std::clamp<std::int64_t>(blocks, 1, kMostBlocks));
}

/// Binary logarithm of the number of bins.
int log_bins_of(std::int64_t num_pixels) {
  int result = 0;
  const std::int64_t bins = std::clamp<std::int64_t>(num_pixels / 64, kLeastBins, kMostBins);
  while (std::int64_t{2} << result <= bins) ++result;
  return result;
}

// Lays out the memory behind `address` and returns its bytes; what must be zero comes first, in
// `zeros` bytes.
template <typename Key>
std::int64_t lay_out(std::int64_t num_pixels, int num_types, void* address, Memory<Key>& memory,
                     std::size_t& zeros) {
  using Integer = std::uint32_t;
  Parts parts(address);
  const std::int64_t blocks = blocks_of(num_pixels);
  memory.found = parts.take<Found>(1);
  memory.regions_of_type = parts.take<Integer>(num_types);
  zeros = static_cast<std::size_t>(parts.size());
  memory.areas = parts.take<Integer>(num_pixels);
  // Sums of weights follow where the keys were, once the normal pixels are placed among these.
  memory.keys[0] = parts.take<Key>(2 * num_pixels);
  memory.keys[1] = memory.keys[0] == nullptr ? nullptr : memory.keys[0] + num_pixels;
  memory.weights = reinterpret_cast<double*>(memory.keys[0]);
  memory.roots[0] = parts.take<Integer>(num_pixels);
  memory.roots[1] = memory.parents = parts.take<Integer>(num_pixels);
  memory.key_index = parts.take<Integer>(num_pixels);
  memory.slots = parts.take<Integer>(2 * num_pixels);
  memory.bins = parts.take<Integer>((std::int64_t{1} << log_bins_of(num_pixels)) + 1);
  memory.digits = parts.take<Integer>(kDigits * blocks);
  memory.totals = parts.take<Integer>(kDigits);
  memory.counts = parts.take<Integer>(blocks);
  memory.sums = parts.take<double>(kSums * blocks);
  return parts.size();
}

template <typename Format>
using KeyOf = std::conditional_t<sizeof(typename Format::Bits) == 8, std::uint64_t, std::uint32_t>;

template <typename Format>
void measure(const void* untyped_scores, const Images& images, void* workspace, double* out,
             cudaStream_t stream) {
  using Key = KeyOf<Format>;
  const auto* scores = static_cast<const typename Format::Bits*>(untyped_scores);
  Memory<Key> memory{};
  std::size_t zeros = 0;
  lay_out(images.num_pixels, images.num_types, workspace, memory, zeros);
  const int blocks = blocks_of(images.num_pixels);
  const auto grid = static_cast<unsigned>(blocks);
  const int log_bins = log_bins_of(images.num_pixels);
  cuda_check(cudaMemsetAsync(workspace, 0, zeros, stream), kName);
  scan(Masks{images.masks, images.num_pixels, memory.roots[0], memory.parents, memory.areas},
       memory.counts, &memory.found->num_positives, blocks, stream);
  launch(kName, Grid::independent, unite_kernel<Key>, grid, kThreads, 0, stream, images, memory);
  launch(kName, Grid::independent, key_kernel<Format, Key>, grid, kThreads, 0, stream, scores,
         images, memory);
  sort(memory, 8 * static_cast<int>(sizeof(typename Format::Bits)), blocks, stream);
  scan(FirstOfKey<Key>{memory}, memory.counts, &memory.found->num_keys, blocks, stream);
  launch(kName, Grid::independent, bin_kernel<Format, Key>, grid, kThreads, 0, stream, memory,
         log_bins);
  launch(kName, Grid::independent, count_kernel<Format, Key>,
         static_cast<unsigned>(std::min(blocks * kCountBlocks, kMostCountBlocks)), kThreads,
         kSlotsApart * sizeof(std::uint32_t), stream, scores, images, memory, log_bins);
  scan(Slots<Key>{memory}, memory.counts, static_cast<std::uint32_t*>(nullptr), blocks, stream);
  scan(Weights<Key>{images, memory}, memory.sums, static_cast<double*>(nullptr), blocks, stream);
  launch(kName, Grid::independent, curve_kernel<Key>, grid, kThreads, kWarps * sizeof(double),
         stream, images, memory);
  launch(kName, Grid::independent, finish_kernel<Key>, 1, kThreads, kWarps * sizeof(double), stream,
         images, memory, blocks, out);
}

}  // namespace

std::int64_t pixel_metrics_cuda_workspace(ScoreType score_type, std::int64_t num_pixels,
                                          int num_types) {
  std::size_t zeros = 0;
  if (score_type == ScoreType::float64) {
    Memory<std::uint64_t> memory{};
    return lay_out(num_pixels, num_types, nullptr, memory, zeros);
  }
  Memory<std::uint32_t> memory{};
  return lay_out(num_pixels, num_types, nullptr, memory, zeros);
}

void pixel_metrics_cuda(const void* scores, ScoreType score_type, const std::uint8_t* masks,
                        std::int64_t num_images, std::int64_t height, std::int64_t width,
                        const std::int32_t* type_of_image, int num_types, void* workspace,
                        double* out, std::uintptr_t stream) {
  Images images{};
  images.masks = masks;
  images.types = type_of_image;
  images.count = static_cast<std::uint32_t>(num_images);
  images.width = static_cast<std::uint32_t>(width);
  images.size = static_cast<std::uint32_t>(height * width);
  images.num_pixels = static_cast<std::uint32_t>(num_images * height * width);
  images.num_types = num_types;
  const auto queue = reinterpret_cast<cudaStream_t>(stream);
  switch (score_type) {
    case ScoreType::float32:
      return measure<Float32>(scores, images, workspace, out, queue);
    case ScoreType::float64:
      return measure<Float64>(scores, images, workspace, out, queue);
    case ScoreType::float16:
      return measure<Float16>(scores, images, workspace, out, queue);
    case ScoreType::bfloat16:
      return measure<BFloat16>(scores, images, workspace, out, queue);
    case ScoreType::uint8:
      return measure<UInt8>(scores, images, workspace, out, queue);
  }
}

}  // namespace autopatch
