#pragma once

#include <cstdint>

namespace autopatch {

/// Maximum number of levels that are written together.
constexpr std::int64_t kMaxAggregateLevels = 64;
/// Largest patch size.
constexpr std::int64_t kMaxPatch = 16;
/// Floats before and after each part of the workspace that a kernel may read and write.
constexpr std::int64_t kAggregateMargin = 16;

/// Feature maps of one level. Strides of images, cells and channels are in floats; `cell_stride` or
/// `channel_stride` is 1.
struct AggregateLevel {
  const float* data;
  std::int64_t channels;
  std::int64_t height;
  std::int64_t width;
  std::int64_t image_stride;
  std::int64_t cell_stride;
  std::int64_t channel_stride;
  std::int64_t patch;
  // Parts of the workspace for a tile: the pooled cells it depends on, with patch - 1 extra rows if
  // patch > 1; one row of them; 6 floats for each column of the tile.
  std::int64_t pooled;
  std::int64_t row;
  std::int64_t taps;
};

/// The output: [images, height, width] rows, `stride` floats apart. A row holds the channels of all
/// levels.
struct AggregatePlan {
  const AggregateLevel* levels;
  std::int64_t num_levels;
  float* out;
  std::int64_t height;
  std::int64_t width;
  std::int64_t stride;
  // Parts of the workspace:
  std::int64_t zeros;        // zeroed by the caller
  std::int64_t zeros_size;   // at least the size of a row of pooled cells
  std::int64_t source;       // packed rows of a map
  std::int64_t source_size;  // at least the size of one row
};

/// A part of the output of one image.
struct AggregateTile {
  std::int64_t image;
  std::int64_t top;
  std::int64_t bottom;
  std::int64_t left;
  std::int64_t right;
  std::int64_t next_image;  // its maps are prefetched into the caches; none if negative
};

/// Computes a tile on the calling thread. `workspace` is aligned to a cache line.
using AggregateTileKernel = void (*)(const AggregatePlan& plan, const AggregateTile& tile,
                                     float* workspace);

void aggregate_tile_generic(const AggregatePlan&, const AggregateTile&, float*);
void aggregate_tile_avx2(const AggregatePlan&, const AggregateTile&, float*);
void aggregate_tile_avx512(const AggregatePlan&, const AggregateTile&, float*);

}  // namespace autopatch
