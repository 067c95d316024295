#include "ops/aggregate_patches.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/isa.hpp"
#include "core/parallel.hpp"
#include "core/rounding.hpp"
#include "ops/cpu/aggregate_patches.hpp"

namespace autopatch {
namespace {

constexpr std::int64_t kLine = 16;  // floats per cache line
constexpr int kMaxWorkspaces = 128;
constexpr std::int64_t kTilesOfThread = 4;

// Limits of the workspace in floats (64 MiB in total, 4 MiB per thread) and of the channels written
// together. Within these limits a tile of one position always fits, for any patch sizes and number
// of threads.
constexpr std::int64_t kWorkspace = std::int64_t{1} << 24;
constexpr std::int64_t kWorkspaceOfThread = std::int64_t{1} << 20;
constexpr std::int64_t kMaxChannels = 1024;
// Minimum number of source floats packed at a time. They stay in the L1 cache.
constexpr std::int64_t kSource = 8192;

// Lays out the workspace for a tile of [rows, columns] positions. Returns its size in floats.
std::int64_t lay_out(AggregatePlan& plan, std::vector<AggregateLevel>& levels, std::int64_t rows,
                     std::int64_t columns) {
  std::int64_t size = 0;
  const auto part = [&](std::int64_t floats) {
    const std::int64_t begin = size + kAggregateMargin;
    size = round_up(begin + floats + kAggregateMargin, kLine);
    return begin;
  };
  plan.zeros_size = 0;
  plan.source_size = 0;
  for (AggregateLevel& level : levels) {
    const std::int64_t shrink = 1 - level.patch % 2;
    const std::int64_t pooled_rows = cells_of(rows, level.height - shrink, plan.height);
    const std::int64_t row = cells_of(columns, level.width - shrink, plan.width) * level.channels;
    level.pooled = part((pooled_rows + level.patch - 1) * row);
    level.row = part(row);
    level.taps = part(6 * columns);
    plan.zeros_size = std::max(plan.zeros_size, row);
    const std::int64_t source_row =
        std::min(row + (level.patch - 1) * level.channels, level.width * level.channels);
    plan.source_size = std::max({plan.source_size, source_row, kSource});
  }
  plan.zeros = part(plan.zeros_size);
  plan.source = part(plan.source_size);
  return size;
}

// Levels, or channel ranges of levels, that are written together.
struct Group {
  std::vector<AggregateLevel> levels;
  std::int64_t channels = 0;
};

std::vector<Group> groups_of(const std::vector<FeatureMap>& maps) {
  std::vector<Group> groups(1);
  for (const FeatureMap& map : maps) {
    const std::int64_t size = map.height * map.width;
    const std::int64_t channel_stride = map.channels_last ? 1 : size;
    for (std::int64_t first = 0; first < map.channels;) {
      if (groups.back().channels == kMaxChannels ||
          groups.back().levels.size() == kMaxAggregateLevels) {
        groups.emplace_back();
      }
      Group& current = groups.back();
      AggregateLevel level{};
      level.data = static_cast<const float*>(map.data) + first * channel_stride;
      level.channels = std::min(map.channels - first, kMaxChannels - current.channels);
      level.height = map.height;
      level.width = map.width;
      level.image_stride = map.channels * size;
      level.cell_stride = map.channels_last ? map.channels : 1;
      level.channel_stride = channel_stride;
      level.patch = map.patch;
      current.levels.push_back(level);
      current.channels += level.channels;
      first += level.channels;
    }
  }
  return groups;
}

}  // namespace

void aggregate_patches_cpu(const std::vector<FeatureMap>& maps, std::int64_t images,
                           std::int64_t height, std::int64_t width, float* out, int num_threads) {
  const AggregateTileKernel kernel = AUTOPATCH_KERNEL(aggregate_tile);
  const std::int64_t threads = std::min(num_threads, kMaxWorkspaces);
  std::int64_t stride = 0;
  for (const FeatureMap& map : maps) stride += map.channels;
  if (images == 0 || stride == 0) return;
  for (Group& group : groups_of(maps)) {
    AggregatePlan plan{};
    plan.levels = group.levels.data();
    plan.num_levels = static_cast<std::int64_t>(group.levels.size());
    plan.out = out;
    plan.height = height;
    plan.width = width;
    plan.stride = stride;
    out += group.channels;

    // A tile is one image, or part of one if images are few or large.
    const std::int64_t tiles_of_image = divide_up(kTilesOfThread * threads, images);
    std::int64_t rows = divide_up(height, tiles_of_image);
    std::int64_t columns = width;
    const std::int64_t limit = std::min(kWorkspace / threads - kLine, kWorkspaceOfThread);
    std::int64_t size = lay_out(plan, group.levels, rows, columns);
    while (size > limit && rows * columns > 1) {
      std::int64_t& side = rows > columns ? rows : columns;
      side = divide_up(side, 2);
      size = lay_out(plan, group.levels, rows, columns);
    }
    const std::int64_t bands = divide_up(height, rows);
    const std::int64_t tiles_of_band = divide_up(width, columns);
    const std::int64_t tiles = images * bands * tiles_of_band;

    const std::unique_ptr<float[]> memory(
        new float[static_cast<std::size_t>(threads * size + kLine)]);
    const auto address = reinterpret_cast<std::uintptr_t>(memory.get()) / sizeof(float);
    float* workspaces = memory.get() + (kLine - static_cast<std::int64_t>(address) % kLine) % kLine;
    std::atomic<std::int64_t> next_tile{0};
    parallel_for(threads, num_threads, [&](std::int64_t thread) {
      float* workspace = workspaces + thread * size;
      std::fill_n(workspace + plan.zeros, plan.zeros_size, 0.0f);
      for (;;) {
        const std::int64_t i = next_tile.fetch_add(1, std::memory_order_relaxed);
        if (i >= tiles) break;
        AggregateTile tile{};
        tile.image = i / (bands * tiles_of_band);
        tile.top = i / tiles_of_band % bands * rows;
        tile.bottom = std::min(tile.top + rows, height);
        tile.left = i % tiles_of_band * columns;
        tile.right = std::min(tile.left + columns, width);
        // The next image of this thread if all threads are equally fast.
        const std::int64_t next_image = tile.image + threads;
        tile.next_image = tiles == images && next_image < images ? next_image : -1;
        kernel(plan, tile, workspace);
      }
    });
  }
}

void prefer_huge_pages(float* data, std::int64_t count) {
#ifdef MADV_HUGEPAGE
  constexpr std::int64_t kOwnMapping = std::int64_t{32} << 20;
  const std::int64_t bytes = count * static_cast<std::int64_t>(sizeof(float));
  if (bytes < kOwnMapping) return;
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(data) / page * page;
  const std::uintptr_t end = reinterpret_cast<std::uintptr_t>(data + count);
  // If the system refuses, small pages are used.
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  static_cast<void>(data);
  static_cast<void>(count);
#endif
}

}  // namespace autopatch
