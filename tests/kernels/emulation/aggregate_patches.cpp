#include "ops/cuda/aggregate_patches.cu"

extern "C" void aggregate_patches(int num_levels, const void* const* data, const int* types,
                                  const std::int64_t* shapes, const int* channels_last,
                                  const int* patches, std::int64_t images, std::int64_t height,
                                  std::int64_t width, float* out) {
  std::vector<autopatch::FeatureMap> maps;
  for (int i = 0; i < num_levels; ++i) {
    maps.push_back({data[i], static_cast<autopatch::FeatureType>(types[i]), shapes[3 * i],
                    shapes[3 * i + 1], shapes[3 * i + 2], channels_last[i] != 0, patches[i]});
  }
  autopatch::aggregate_patches_cuda(maps, images, height, width, out, 0);
}
