#pragma once

#include <cstdint>
#include <vector>

namespace autopatch {

/// Feature map of one level: [images, channels, height, width] in memory, or with the channels
/// last.
struct FeatureMap {
  const float* data;
  std::int64_t channels;
  std::int64_t height;
  std::int64_t width;
  bool channels_last;
  std::int64_t patch;  // patch size, 1 <= patch <= 16; an even one needs height, width >= 2
};

/// Average-pools every map with its patch size (stride 1, zero padding (patch - 1) / 2 counted in
/// the mean), resizes it bilinearly to [height, width] and writes the channels of all levels side
/// by side: out [images * height * width, sum of channels], contiguous. Same result on every ISA
/// level and any number of threads.
void aggregate_patches_cpu(const std::vector<FeatureMap>& maps, std::int64_t images,
                           std::int64_t height, std::int64_t width, float* out, int num_threads);

}  // namespace autopatch
