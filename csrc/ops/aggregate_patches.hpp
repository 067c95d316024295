#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace autopatch {

enum class FeatureType { float32, float16, bfloat16 };

/// Feature map of one level: [images, channels, height, width] in memory, or with the channels
/// last.
struct FeatureMap {
  const void* data;
  FeatureType type;
  std::int64_t channels;
  std::int64_t height;
  std::int64_t width;
  bool channels_last;
  std::int64_t patch;  // patch size, 1 <= patch <= 16; an even one needs height, width >= 2
};

/// Average-pools every map with its patch size (stride 1, zero padding (patch - 1) / 2 counted in
/// the mean), resizes it bilinearly to [height, width] and writes the channels of all levels side
/// by side: out [images * height * width, sum of channels], contiguous. Same result on every ISA
/// level and any number of threads, and equal patches have equal averages. Takes up to 64 MiB of
/// memory, 4 MiB for a thread. All maps are float32.
void aggregate_patches_cpu(const std::vector<FeatureMap>& maps, std::int64_t images,
                           std::int64_t height, std::int64_t width, float* out, int num_threads);

/// The same of maps of any type on a CUDA device, queued on `stream`: one launch for 32 levels.
/// Arithmetic is float32.
void aggregate_patches_cuda(const std::vector<FeatureMap>& maps, std::int64_t images,
                            std::int64_t height, std::int64_t width, float* out,
                            std::uintptr_t stream);

/// The most cells along an axis of a map that `count` neighboring positions of the output depend
/// on.
constexpr std::int64_t cells_of(std::int64_t count, std::int64_t in_length,
                                std::int64_t out_length) {
  if (in_length == out_length) return count;
  return std::min((count - 1) * in_length / out_length + 3, in_length);
}

/// Asks the system to back a large, still untouched array with huge pages. Page faults on small
/// pages take longer than the aggregation that fills the array. Arrays below 32 MiB are left alone,
/// because malloc reuses memory for them.
void prefer_huge_pages(float* data, std::int64_t count);

}  // namespace autopatch
