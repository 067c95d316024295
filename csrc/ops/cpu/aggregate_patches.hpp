#pragma once

#include <cstdint>

namespace autopatch {

/// One level of one image, on the calling thread: pools `map` [height, width, channels] (channels
/// last) with patch size `patch`, resizes it to [out_height, out_width] and writes its channels to
/// rows of `out` that lie `out_stride` floats apart. `sums` and `pooled` are workspace of
/// height * width * channels floats each.
using AggregateLevel = void (*)(const float* map, std::int64_t channels, std::int64_t height,
                                std::int64_t width, std::int64_t patch, std::int64_t out_height,
                                std::int64_t out_width, float* out, std::int64_t out_stride,
                                float* sums, float* pooled);

void aggregate_level_generic(const float*, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                             std::int64_t, std::int64_t, float*, std::int64_t, float*, float*);
void aggregate_level_avx2(const float*, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                          std::int64_t, std::int64_t, float*, std::int64_t, float*, float*);
void aggregate_level_avx512(const float*, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                            std::int64_t, std::int64_t, float*, std::int64_t, float*, float*);

}  // namespace autopatch
