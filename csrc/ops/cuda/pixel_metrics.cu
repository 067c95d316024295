// As on the CPU (ops/pixel_metrics.cpp), the few anomalous pixels ("positives") are sorted by
// score, and the normal pixels are counted between and at their distinct scores. Only the device
// knows the numbers of positives and distinct scores: the size of every grid depends on the number
// of pixels, and its blocks share the actual items.
//
// Floating-point sums have an order that depends only on the sizes, and atomic operations are on
// integers. So the result is the same in every run.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/cuda.cuh"
#include "core/parts.hpp"
#include "ops/cpu/score_key.hpp"
#include "ops/cuda/pixel_metrics/counts.cuh"
#include "ops/cuda/pixel_metrics/curves.cuh"
#include "ops/cuda/pixel_metrics/memory.cuh"
#include "ops/cuda/pixel_metrics/regions.cuh"
#include "ops/cuda/pixel_metrics/scan.cuh"
#include "ops/cuda/pixel_metrics/sort.cuh"
#include "ops/pixel_metrics.hpp"

namespace autopatch {
namespace {

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

// Lays out the memory at `address` and returns its size in bytes. Its first `zeros` bytes must be
// zero.
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
  // Sums of weights replace the keys after the normal pixels have been counted.
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
