#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "core/cuda.cuh"
#include "core/parts.hpp"
#include "ops/aggregate_patches.hpp"

namespace autopatch {
namespace {

constexpr int kThreads = 256;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kBlocksAtOnce = 3;  // more would spill registers
#else
constexpr int kBlocksAtOnce = 4;
#endif
constexpr int kMaxLevels = 32;              // per launch; parameters may take 4 KiB
constexpr int kMaxChunk = 80;               // maximum number of channels per block
constexpr std::int64_t kShared = 40 << 10;  // bytes of shared memory per block
constexpr std::int64_t kFewBlocks = 2048;   // with at least this many, tiles are not made smaller

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
  int offset;  // of its channels within a row of the output
  int chunk;   // channels per block
  int chunks;
  int rows;  // rows of a tile, the part of the output that a block writes
  int columns;
  int tiles_down;
  int tiles_across;
  int first_block;  // first block of the level within an image
};

struct Plan {
  Level levels[kMaxLevels];
  int num_levels;
  int blocks_of_image;
  int height;
  int width;
  std::int64_t stride;  // of the rows of the output
  bool aligned;         // rows of the output start at multiples of 16 bytes
  float* out;
};

/// Two neighboring cells and the weight of the second, for a position along an axis, as in
/// torch.nn.functional.interpolate with align_corners=False.
struct alignas(16) Taps {
  int first;
  int second;
  float weight;
};

__host__ __device__ inline Taps taps_of(int position, const Axis& axis) {
  if (axis.cells == axis.positions) return {position, position, 0.0f};
  // (position + 1/2) cells / positions - 1/2 as an integer, in units of 1 / (2 positions). A
  // rounded product would shift the weight by more than the tolerance of the result.
  const std::int64_t whole = 2 * std::int64_t{axis.positions};
  std::int64_t source = (2 * std::int64_t{position} + 1) * axis.cells - axis.positions;
  if (source < 0) source = 0;
  Taps taps;
  taps.first = static_cast<int>(source / whole);
  taps.second = taps.first + (taps.first < axis.cells - 1 ? 1 : 0);
  taps.weight = static_cast<float>(source % whole) / static_cast<float>(whole);
  return taps;
}

/// The work of a block: a tile of one image, and some channels of one level.
struct Job {
  int level;
  int image;
  int first_channel;
  int num_channels;
  int top;  // rows [top, bottom) and columns [left, right) of the output
  int bottom;
  int left;
  int right;
  int first_row;  // cells of the pooled map that the tile depends on
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

/// Position of a value in the tile's row sums.
struct Cell {
  int row;
  int column;
  int channel;
};

/// Sums `patch` values along rows of the map, for all rows that the job's pooled rows depend on.
/// Writes the sums to shared memory, channels last.
template <typename T>
__device__ void sum_rows(const Level& level, const Job& job, float* sums) {
  constexpr int kTogether = 4;  // sums per thread that share one wait for memory
  const int thread = static_cast<int>(threadIdx.x);
  const int pad = (level.patch - 1) / 2;
  const int rows = job.last_row - job.first_row + level.patch - 1;
  const int columns = job.last_column - job.first_column;
  const int channels = job.num_channels;
  const int stride = level.channels_last ? level.channels : 1;
  const int size = level.height * level.width;
  const T* image = static_cast<const T*>(level.data) +
                   static_cast<std::int64_t>(job.image) * size * level.channels +
                   job.first_channel * static_cast<std::int64_t>(level.channels_last ? 1 : size);

  // Cells are counted without division, which would take longer than everything else. A thread
  // keeps its channel if channels are last, otherwise its column, so that neighboring threads read
  // neighboring values.
  const int lanes = level.channels_last ? channels : min(columns, kThreads);
  const int at_once = kThreads / lanes;
  const int length = level.channels_last ? columns : rows;
  const int last = level.channels_last ? rows : channels;
  int inner = thread / lanes;
  int outer = 0;
  if (inner >= at_once) return;
  for (int lane = thread % lanes; lane < (level.channels_last ? lanes : columns); lane += lanes) {
    inner = thread / lanes;
    outer = 0;
    for (;;) {
      Cell cells[kTogether];
      int from[kTogether];  // position in the image
      int left[kTogether];
      float totals[kTogether];
      int count = 0;
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        for (; inner >= length; inner -= length) ++outer;
        const bool inside = outer < last;
        if (inside) ++count;
        cells[i] = level.channels_last ? Cell{outer, inner, lane} : Cell{inner, lane, outer};
        const int row = job.first_row - pad + cells[i].row;
        left[i] = job.first_column + cells[i].column - pad;
        // Rows outside the map have no valid column.
        if (!inside || row < 0 || row >= level.height) left[i] = level.width;
        from[i] = row * level.width * stride + cells[i].channel * (level.channels_last ? 1 : size) +
                  left[i] * stride;
        totals[i] = 0.0f;
        inner += at_once;
      }
      if (count == 0) break;
      for (int x = 0; x < level.patch; ++x) {
        float values[kTogether];
#pragma unroll
        for (int i = 0; i < kTogether; ++i) {
          const int column = left[i] + x;
          values[i] =
              column >= 0 && column < level.width ? to_float(image[from[i] + x * stride]) : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < kTogether; ++i) totals[i] += values[i];
      }
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        if (i < count) {
          sums[(cells[i].row * columns + cells[i].column) * channels + cells[i].channel] =
              totals[i];
        }
      }
    }
  }
}

__device__ inline float mix(float a_weight, float a, float b_weight, float b) {
  return a_weight * a + b_weight * b;
}
__device__ inline float4 mix(float a_weight, const float4& a, float b_weight, const float4& b) {
  return {mix(a_weight, a.x, b_weight, b.x), mix(a_weight, a.y, b_weight, b.y),
          mix(a_weight, a.z, b_weight, b.z), mix(a_weight, a.w, b_weight, b.w)};
}

/// Writes the tile. `T` is one channel or four; a thread keeps its channels. It processes several
/// columns of a row at a time, since columns between the same two cells mix the same two values.
template <typename T>
__device__ void write_tile(const Plan& plan, const Level& level, const Job& job, const float* cells,
                           const Taps* row_taps, const Taps* column_taps) {
  constexpr int kWidth = sizeof(T) / sizeof(float);
  constexpr int kColumns = 8;
  const int vectors = job.num_channels / kWidth;
  const int at_once = kThreads / vectors;
  const int first_channel = static_cast<int>(threadIdx.x) % vectors * kWidth;
  int part = static_cast<int>(threadIdx.x) / vectors;
  if (part >= at_once) return;
  const int columns = job.right - job.left;
  const int rows = job.bottom - job.top;
  const int parts = (columns + kColumns - 1) / kColumns;
  const bool resized = level.down.cells != plan.height || level.across.cells != plan.width;
  const float* own_cells = cells + first_channel;
  float* tile_out =
      plan.out +
      ((static_cast<std::int64_t>(job.image) * plan.height + job.top) * plan.width + job.left) *
          plan.stride +
      level.offset + job.first_channel + first_channel;
  for (int row = 0;; part += at_once) {
    for (; part >= parts; part -= parts) ++row;
    if (row >= rows) break;
    const int first = part * kColumns;
    const int last = first + kColumns < columns ? first + kColumns : columns;
    const Taps down = row_taps[row];
    const float* upper = own_cells + down.first;
    const float* lower = own_cells + down.second;
    float* out = tile_out + (static_cast<std::int64_t>(row) * plan.width + first) * plan.stride;
    if (!resized) {
#pragma unroll 4
      for (int x = first; x < last; ++x, out += plan.stride) {
        *reinterpret_cast<T*>(out) = *reinterpret_cast<const T*>(upper + column_taps[x].first);
      }
      continue;
    }
    const float upper_weight = 1.0f - down.weight;
    const auto cell = [&](int at) {
      return mix(upper_weight, *reinterpret_cast<const T*>(upper + at), down.weight,
                 *reinterpret_cast<const T*>(lower + at));
    };
    int current = -1;
    T left;
    T right;
#pragma unroll 4
    for (int x = first; x < last; ++x, out += plan.stride) {
      const Taps across = column_taps[x];
      if (across.first != current) {
        current = across.first;
        left = cell(across.first);
        right = cell(across.second);
      }
      *reinterpret_cast<T*>(out) = mix(1.0f - across.weight, left, across.weight, right);
    }
  }
}

__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    aggregate_kernel(const __grid_constant__ Plan plan) {
  const Job job = job_of(plan, static_cast<int>(blockIdx.x));
  const Level& level = plan.levels[job.level];
  const int thread = static_cast<int>(threadIdx.x);
  const int channels = job.num_channels;
  const int row_stride = (job.last_column - job.first_column) * channels;

  // Taps of the tile's rows and columns, as offsets of cells, followed by the cells.
  Taps* row_taps = shared_memory<Taps>();
  Taps* column_taps = row_taps + (job.bottom - job.top);
  float* cells = reinterpret_cast<float*>(column_taps + (job.right - job.left));
  for (int y = job.top + thread; y < job.bottom; y += kThreads) {
    Taps taps = taps_of(y, level.down);
    taps.first = (taps.first - job.first_row) * row_stride;
    taps.second = (taps.second - job.first_row) * row_stride;
    row_taps[y - job.top] = taps;
  }
  for (int x = job.left + thread; x < job.right; x += kThreads) {
    Taps taps = taps_of(x, level.across);
    taps.first = (taps.first - job.first_column) * channels;
    taps.second = (taps.second - job.first_column) * channels;
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

  // Sums over the rows of a patch, in place: each row's sum is read before it is overwritten.
  if (level.patch > 1) {
    const int pooled_rows = job.last_row - job.first_row;
    const float share = 1.0f / static_cast<float>(level.patch * level.patch);
    for (int i = thread; i < row_stride; i += kThreads) {
      for (int row = 0; row < pooled_rows; ++row) {
        float sum = 0.0f;
        for (int y = row; y < row + level.patch; ++y) sum += cells[y * row_stride + i];
        cells[row * row_stride + i] = sum * share;
      }
    }
    __syncthreads();
  }

  constexpr int kVector = 4;
  const bool aligned =
      channels % kVector == 0 && (level.offset + job.first_channel) % kVector == 0 && plan.aligned;
  if (aligned) {
    write_tile<float4>(plan, level, job, cells, row_taps, column_taps);
  } else {
    write_tile<float>(plan, level, job, cells, row_taps, column_taps);
  }
}

Axis axis_of(std::int64_t cells, std::int64_t positions) {
  return {static_cast<int>(cells), static_cast<int>(positions)};
}

std::int64_t shared_bytes(const Level& level, const Plan& plan) {
  const std::int64_t rows = cells_of(level.rows, level.down.cells, plan.height) + level.patch - 1;
  const std::int64_t columns = cells_of(level.columns, level.across.cells, plan.width);
  return rows * columns * level.chunk * static_cast<std::int64_t>(sizeof(float)) +
         (level.rows + level.columns) * static_cast<std::int64_t>(sizeof(Taps));
}

// Divides a level's part of an image into tiles and chunks of channels that fit in shared memory.
void cut(Level& level, const Plan& plan, std::int64_t blocks_wanted) {
  level.chunks = static_cast<int>(divide_up(level.channels, kMaxChunk));
  level.chunk = static_cast<int>(round_up(divide_up(level.channels, level.chunks), 4));
  level.chunks = static_cast<int>(divide_up(level.channels, level.chunk));
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
  constexpr std::int64_t kMaxSide = std::int64_t{1} << 30;
  if (height > kMaxSide || width > kMaxSide) {
    throw std::invalid_argument("`out_size` has a side of more than 2^30");
  }
  Plan plan{};
  plan.height = static_cast<int>(height);
  plan.width = static_cast<int>(width);
  plan.out = out;
  for (const FeatureMap& map : maps) plan.stride += map.channels;
  if (images == 0 || plan.stride == 0) return;
  plan.aligned = plan.stride % 4 == 0 && reinterpret_cast<std::uintptr_t>(out) % 16 == 0;
  constexpr std::int64_t kMaxValues = std::int64_t{1} << 30;
  std::int64_t offset = 0;
  for (auto map = maps.begin(); map != maps.end();) {
    plan.num_levels = 0;
    std::int64_t blocks = 0;
    std::int64_t most_shared = 0;
    for (; map != maps.end() && plan.num_levels < kMaxLevels; ++map) {
      if (map->channels == 0) continue;
      if (map->channels * map->height * map->width > kMaxValues) {
        throw std::invalid_argument("`feature_maps` hold more than 2^30 values per image");
      }
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
    if (plan.num_levels == 0) break;  // only maps without channels remain
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
