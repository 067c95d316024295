#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "core/cuda.cuh"
#include "ops/aggregate_patches.hpp"

namespace autopatch {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxLevels = 32;              // of a launch, whose parameters may take 4 KiB
constexpr int kMaxChunk = 80;               // channels of a block
constexpr std::int64_t kShared = 40 << 10;  // bytes of shared memory of a block
constexpr std::int64_t kFewBlocks = 2048;   // for which tiles are not cut smaller

__device__ float to_float(float value) { return value; }
__device__ float to_float(__half value) { return __half2float(value); }
__device__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

/// The pooled map and the output along one axis.
struct Axis {
  int cells;
  int positions;
};

struct Level {
  const void* data;
  FeatureType type;
  bool channels_last;
  int channels;
  int height;
  int width;
  Axis down;
  Axis across;
  int patch;
  int offset;  // of its channels in a row of the output
  int chunk;   // channels of a block
  int chunks;
  int rows;  // of a tile, which is what a block writes of the output
  int columns;
  int tiles_down;
  int tiles_across;
  int first_block;  // of an image
};

struct Plan {
  Level levels[kMaxLevels];
  int num_levels;
  int blocks_of_image;
  int height;
  int width;
  std::int64_t stride;  // of rows of the output
  float* out;
};

/// Two neighboring cells and the weight of the second, for a position along an axis, as in
/// torch.nn.functional.interpolate with align_corners=False.
struct Taps {
  int first;
  int second;
  float weight;
};

__host__ __device__ inline Taps taps_of(int position, const Axis& axis) {
  if (axis.cells == axis.positions) return {position, position, 0.0f};
  // (position + 1/2) cells / positions - 1/2 in halves of a position, where it is an integer: a
  // rounded product would move the weight by more than the tolerance of the result.
  const std::int64_t whole = 2 * std::int64_t{axis.positions};
  std::int64_t source = (2 * std::int64_t{position} + 1) * axis.cells - axis.positions;
  if (source < 0) source = 0;
  Taps taps;
  taps.first = static_cast<int>(source / whole);
  taps.second = taps.first + (taps.first < axis.cells - 1 ? 1 : 0);
  taps.weight = static_cast<float>(source % whole) / static_cast<float>(whole);
  return taps;
}

/// What a block does: a tile of one image, and some channels of one level.
struct Job {
  int level;
  int image;
  int first_channel;
  int num_channels;
  int top;  // rows [top, bottom) and columns [left, right) of the output
  int bottom;
  int left;
  int right;
  int first_row;  // cells of the pooled map that they are made of
  int last_row;
  int first_column;
  int last_column;
};

__host__ __device__ inline Job job_of(const Plan& plan, int block) {
  Job job;
  job.image = block / plan.blocks_of_image;
  int rest = block % plan.blocks_of_image;
  job.level = 0;
  while (job.level + 1 < plan.num_levels && rest >= plan.levels[job.level + 1].first_block) {
    ++job.level;
  }
  const Level& level = plan.levels[job.level];
  rest -= level.first_block;
  job.first_channel = rest % level.chunks * level.chunk;
  const int channels_left = level.channels - job.first_channel;
  job.num_channels = channels_left < level.chunk ? channels_left : level.chunk;
  rest /= level.chunks;
  job.top = rest / level.tiles_across * level.rows;
  job.bottom = job.top + level.rows < plan.height ? job.top + level.rows : plan.height;
  job.left = rest % level.tiles_across * level.columns;
  job.right = job.left + level.columns < plan.width ? job.left + level.columns : plan.width;
  job.first_row = taps_of(job.top, level.down).first;
  job.last_row = taps_of(job.bottom - 1, level.down).second + 1;
  job.first_column = taps_of(job.left, level.across).first;
  job.last_column = taps_of(job.right - 1, level.across).second + 1;
  return job;
}

/// Sums of `patch` values along a row of the map, into rows of shared memory with the channels
/// last: of all rows that the pooled rows of the job are made of.
template <typename T>
__device__ void sum_rows(const Level& level, const Job& job, float* sums) {
  const int pad = (level.patch - 1) / 2;
  const int rows = job.last_row - job.first_row + level.patch - 1;
  const int channels = job.num_channels;
  const std::int64_t size = static_cast<std::int64_t>(level.height) * level.width;
  const T* image = static_cast<const T*>(level.data) + job.image * size * level.channels;
  const std::int64_t column_stride = level.channels_last ? level.channels : 1;
  const std::int64_t channel_stride = level.channels_last ? 1 : size;
  const int columns = job.last_column - job.first_column;
  const int total = rows * columns * channels;
  for (int i = static_cast<int>(threadIdx.x); i < total; i += kThreads) {
    int channel, column, row;
    if (level.channels_last) {
      channel = i % channels;
      column = i / channels % columns;
      row = i / channels / columns;
    } else {  // neighboring threads read neighboring columns
      column = i % columns;
      const int rest = i / columns;
      row = rest % rows;
      channel = rest / rows;
    }
    const int source_row = job.first_row - pad + row;
    float sum = 0.0f;
    if (source_row >= 0 && source_row < level.height) {
      const T* line = image + source_row * level.width * column_stride +
                      (job.first_channel + channel) * channel_stride;
      const int left = job.first_column + column - pad;
      const int begin = left > 0 ? left : 0;
      const int end = left + level.patch < level.width ? left + level.patch : level.width;
      for (int x = begin; x < end; ++x) sum += to_float(line[x * column_stride]);
    }
    sums[(row * columns + column) * channels + channel] = sum;
  }
}

__global__ void __launch_bounds__(kThreads) aggregate_kernel(const __grid_constant__ Plan plan) {
  const Job job = job_of(plan, static_cast<int>(blockIdx.x));
  const Level& level = plan.levels[job.level];
  // Taps of the tile's columns, in floats from the first, and then the cells.
  Taps* column_taps = shared_memory<Taps>();
  float* cells = reinterpret_cast<float*>(column_taps + (job.right - job.left));
  for (int x = job.left + static_cast<int>(threadIdx.x); x < job.right; x += kThreads) {
    Taps taps = taps_of(x, level.across);
    taps.first = (taps.first - job.first_column) * job.num_channels;
    taps.second = (taps.second - job.first_column) * job.num_channels;
    column_taps[x - job.left] = taps;
  }
  if (level.type == FeatureType::float32) {
    sum_rows<float>(level, job, cells);
  } else if (level.type == FeatureType::float16) {
    sum_rows<__half>(level, job, cells);
  } else {
    sum_rows<__nv_bfloat16>(level, job, cells);
  }
  __syncthreads();

  const int channels = job.num_channels;
  const int row_stride = (job.last_column - job.first_column) * channels;
  const int pooled_rows = job.last_row - job.first_row;
  // Sums over the rows of a patch, in place: the sum of a row is read before it is overwritten.
  if (level.patch > 1) {
    const float share = 1.0f / static_cast<float>(level.patch * level.patch);
    for (int i = static_cast<int>(threadIdx.x); i < row_stride; i += kThreads) {
      for (int row = 0; row < pooled_rows; ++row) {
        float sum = 0.0f;
        for (int y = row; y < row + level.patch; ++y) sum += cells[y * row_stride + i];
        cells[row * row_stride + i] = sum * share;
      }
    }
    __syncthreads();
  }

  // A thread keeps its channel and takes every `step`-th position of a row.
  const int step = kThreads / channels;
  const int channel = static_cast<int>(threadIdx.x) % channels;
  const int first_column = static_cast<int>(threadIdx.x) / channels;
  if (first_column >= step) return;
  const bool resized = level.down.cells != plan.height || level.across.cells != plan.width;
  float* const image_out =
      plan.out + (static_cast<std::int64_t>(job.image) * plan.height) * plan.width * plan.stride +
      level.offset + job.first_channel + channel;
  for (int y = job.top; y < job.bottom; ++y) {
    const Taps row_taps = taps_of(y, level.down);
    const float* upper = cells + (row_taps.first - job.first_row) * row_stride + channel;
    const float* lower = cells + (row_taps.second - job.first_row) * row_stride + channel;
    float* out = image_out + static_cast<std::int64_t>(y) * plan.width * plan.stride;
    if (!resized) {
      for (int x = job.left + first_column; x < job.right; x += step) {
        __stcs(out + x * plan.stride, upper[(x - job.left) * channels]);
      }
      continue;
    }
    const float lower_weight = row_taps.weight;
    const float upper_weight = 1.0f - lower_weight;
    for (int x = job.left + first_column; x < job.right; x += step) {
      const Taps taps = column_taps[x - job.left];
      const float right = taps.weight;
      const float left = 1.0f - right;
      const float value = upper_weight * (left * upper[taps.first] + right * upper[taps.second]) +
                          lower_weight * (left * lower[taps.first] + right * lower[taps.second]);
      __stcs(out + x * plan.stride, value);
    }
  }
}

Axis axis_of(std::int64_t cells, std::int64_t positions) {
  return {static_cast<int>(cells), static_cast<int>(positions)};
}

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Cells along an axis that `count` positions of the output are made of, at most.
std::int64_t cells_of(std::int64_t count, std::int64_t in_length, std::int64_t out_length) {
  if (in_length == out_length) return count;
  return std::min((count - 1) * in_length / out_length + 3, in_length);
}

std::int64_t shared_bytes(const Level& level, const Plan& plan) {
  const std::int64_t rows = cells_of(level.rows, level.down.cells, plan.height) + level.patch - 1;
  const std::int64_t columns = cells_of(level.columns, level.across.cells, plan.width);
  return rows * columns * level.chunk * static_cast<std::int64_t>(sizeof(float)) +
         level.columns * static_cast<std::int64_t>(sizeof(Taps));
}

// Cuts a level's share of an image into tiles and chunks of channels that fit the shared memory.
void cut(Level& level, const Plan& plan, std::int64_t blocks_wanted) {
  level.chunks = static_cast<int>(divide_up(level.channels, kMaxChunk));
  level.chunk = static_cast<int>(divide_up(level.channels, level.chunks));
  level.rows = plan.height;
  level.columns = plan.width;
  const auto blocks = [&] {
    return divide_up(plan.height, level.rows) * divide_up(plan.width, level.columns) * level.chunks;
  };
  constexpr int kLeastRows = 4;
  while (shared_bytes(level, plan) > kShared ||
         (blocks() < blocks_wanted && level.rows > kLeastRows)) {
    if (level.rows > kLeastRows) {
      level.rows = static_cast<int>(divide_up(level.rows, 2));
    } else if (level.columns > 1) {
      level.columns = static_cast<int>(divide_up(level.columns, 2));
    } else if (level.rows > 1) {
      --level.rows;
    } else {
      level.chunk = static_cast<int>(divide_up(level.chunk, 2));
    }
    level.chunks = static_cast<int>(divide_up(level.channels, level.chunk));
  }
  level.tiles_down = static_cast<int>(divide_up(plan.height, level.rows));
  level.tiles_across = static_cast<int>(divide_up(plan.width, level.columns));
}

}  // namespace

void aggregate_patches_cuda(const std::vector<FeatureMap>& maps, std::int64_t images,
                            std::int64_t height, std::int64_t width, float* out,
                            std::uintptr_t stream) {
  Plan plan{};
  plan.height = static_cast<int>(height);
  plan.width = static_cast<int>(width);
  plan.out = out;
  for (const FeatureMap& map : maps) plan.stride += map.channels;
  if (images == 0 || plan.stride == 0) return;
  std::int64_t offset = 0;
  for (auto map = maps.begin(); map != maps.end();) {
    plan.num_levels = 0;
    std::int64_t blocks = 0;
    std::int64_t most_shared = 0;
    for (; map != maps.end() && plan.num_levels < kMaxLevels; ++map) {
      if (map->channels == 0) continue;
      Level& level = plan.levels[plan.num_levels++];
      const std::int64_t shrink = 1 - map->patch % 2;
      level = Level{};
      level.data = map->data;
      level.type = map->type;
      level.channels_last = map->channels_last;
      level.channels = static_cast<int>(map->channels);
      level.height = static_cast<int>(map->height);
      level.width = static_cast<int>(map->width);
      level.down = axis_of(map->height - shrink, height);
      level.across = axis_of(map->width - shrink, width);
      level.patch = static_cast<int>(map->patch);
      level.offset = static_cast<int>(offset);
      cut(level, plan, divide_up(kFewBlocks, images * static_cast<std::int64_t>(maps.size())));
      level.first_block = static_cast<int>(blocks);
      blocks += static_cast<std::int64_t>(level.tiles_down) * level.tiles_across * level.chunks;
      most_shared = std::max(most_shared, shared_bytes(level, plan));
      offset += map->channels;
    }
    constexpr std::int64_t kMaxBlocks = (std::int64_t{1} << 31) - 1;
    if (blocks * images > kMaxBlocks) {
      throw std::invalid_argument("`feature_maps` are too many for one launch; split the images");
    }
    plan.blocks_of_image = static_cast<int>(blocks);
    launch("aggregate_patches", Grid::independent, aggregate_kernel,
           static_cast<unsigned>(blocks * images), kThreads, static_cast<std::size_t>(most_shared),
           reinterpret_cast<cudaStream_t>(stream), plan);
  }
}

}  // namespace autopatch
