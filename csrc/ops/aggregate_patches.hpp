#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace autopatch {

enum class FeatureType { float32, float16, bfloat16 };

/// Feature maps of one level: [images, channels, height, width], channels first or last in memory.
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
/// the mean), resizes it bilinearly to [height, width] and concatenates the channels of all levels:
/// out [images * height * width, sum of channels], contiguous. The result is the same on every ISA
/// level and for any number of threads, and equal patches have equal averages. Uses up to 64 MiB of
/// memory, 4 MiB per thread. All maps are float32.
void aggregate_patches_cpu(const std::vector<FeatureMap>& maps, std::int64_t images,
                           std::int64_t height, std::int64_t width, float* out, int num_threads);

/// The same for maps of any type on a CUDA device, queued on `stream`, with one launch per 32
/// levels. Arithmetic is float32.
void aggregate_patches_cuda(const std::vector<FeatureMap>& maps, std::int64_t images,
                            std::int64_t height, std::int64_t width, float* out,
                            std::uintptr_t stream);

/// Maximum number of cells along an axis of a map that `count` neighboring output positions depend
/// on.
constexpr std::int64_t cells_of(std::int64_t count, std::int64_t in_length,
                                std::int64_t out_length) {
  if (in_length == out_length) return count;
  return std::min((count - 1) * in_length / out_length + 3, in_length);
}

/// Requests huge pages for a large array that has not been touched yet. Page faults on small pages
/// take longer than the aggregation that fills the array. Arrays below 32 MiB are left alone,
/// because malloc reuses memory for them.
void prefer_huge_pages(float* data, std::int64_t count);

}  // namespace autopatch
