#pragma once

#include <cstdint>

namespace autopatch {

/// Levels that are written side by side, at most.
constexpr std::int64_t kMaxAggregateLevels = 64;
/// The largest patch size.
constexpr std::int64_t kMaxPatch = 16;
/// Floats before and behind each part of the workspace that a kernel may read and write.
constexpr std::int64_t kAggregateMargin = 16;

/// Feature maps of one level: floats lie `image_stride`, `cell_stride` and `channel_stride` apart
/// from image to image, cell to cell and channel to channel, and one of the latter two is 1.
struct AggregateLevel {
  const float* data;
  std::int64_t channels;
  std::int64_t height;
  std::int64_t width;
  std::int64_t image_stride;
  std::int64_t cell_stride;
  std::int64_t channel_stride;
  std::int64_t patch;
  // Parts of the workspace, for a tile of any image: the pooled cells that it is made of, with
  // patch - 1 rows more where patch > 1; one row of them; 6 floats for each column of the tile.
  std::int64_t pooled;
  std::int64_t row;
  std::int64_t taps;
};

/// The output: [images, height, width] rows `stride` floats apart, in which the levels are side by
/// side.
struct AggregatePlan {
  const AggregateLevel* levels;
  std::int64_t num_levels;
  float* out;
  std::int64_t height;
  std::int64_t width;
  std::int64_t stride;
  // Parts of the workspace:
  std::int64_t zeros;        // set by the caller
  std::int64_t zeros_size;   // at least that of a row of pooled cells
  std::int64_t source;       // rows of a map that is not packed
  std::int64_t source_size;  // at least that of one row
};

/// A part of the output of one image.
struct AggregateTile {
  std::int64_t image;
  std::int64_t top;
  std::int64_t bottom;
  std::int64_t left;
  std::int64_t right;
  std::int64_t next_image;  // whose maps are fetched into the caches meanwhile; none if negative
};

/// Computes a tile on the calling thread. `workspace` begins a cache line.
using AggregateTileKernel = void (*)(const AggregatePlan& plan, const AggregateTile& tile,
                                     float* workspace);

void aggregate_tile_generic(const AggregatePlan&, const AggregateTile&, float*);
void aggregate_tile_avx2(const AggregatePlan&, const AggregateTile&, float*);
void aggregate_tile_avx512(const AggregatePlan&, const AggregateTile&, float*);

}  // namespace autopatch
