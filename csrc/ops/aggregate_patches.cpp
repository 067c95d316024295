#include "ops/aggregate_patches.hpp"

#include <algorithm>
#include <memory>

#include "core/isa.hpp"
#include "core/parallel.hpp"
#include "ops/cpu/aggregate_patches.hpp"

namespace autopatch {
namespace {

// [channels, pixels] to [pixels, channels], in squares that fit the first-level cache.
void channels_to_last(const float* in, std::int64_t channels, std::int64_t pixels, float* out) {
  constexpr std::int64_t kSquare = 16;
  for (std::int64_t p0 = 0; p0 < pixels; p0 += kSquare) {
    const std::int64_t p1 = std::min(p0 + kSquare, pixels);
    for (std::int64_t c0 = 0; c0 < channels; c0 += kSquare) {
      const std::int64_t c1 = std::min(c0 + kSquare, channels);
      for (std::int64_t p = p0; p < p1; ++p) {
        for (std::int64_t c = c0; c < c1; ++c) out[p * channels + c] = in[c * pixels + p];
      }
    }
  }
}

}  // namespace

void aggregate_patches_cpu(const std::vector<FeatureMap>& maps, std::int64_t images,
                           std::int64_t height, std::int64_t width, float* out, int num_threads) {
  std::int64_t out_channels = 0;
  std::vector<std::int64_t> offsets;
  for (const FeatureMap& map : maps) {
    offsets.push_back(out_channels);
    out_channels += map.channels;
  }
  const AggregateLevel level_kernel = AUTOPATCH_KERNEL(aggregate_level);
  const auto levels = static_cast<std::int64_t>(maps.size());
  parallel_for(images * levels, num_threads, [&](std::int64_t task) {
    const std::int64_t image = task / levels;
    const auto level = static_cast<std::size_t>(task % levels);
    const FeatureMap& map = maps[level];
    const std::int64_t size = map.channels * map.height * map.width;
    const float* data = map.data + image * size;
    const std::unique_ptr<float[]> workspace(new float[static_cast<std::size_t>(3 * size)]);
    if (!map.channels_last) {
      channels_to_last(data, map.channels, map.height * map.width, workspace.get());
      data = workspace.get();
    }
    level_kernel(data, map.channels, map.height, map.width, map.patch, height, width,
                 out + image * height * width * out_channels + offsets[level], out_channels,
                 workspace.get() + size, workspace.get() + 2 * size);
  });
}

}  // namespace autopatch
