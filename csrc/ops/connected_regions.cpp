#include "ops/connected_regions.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace autopatch {
namespace {

/// First position in [x, width) with a non-zero mask; `width` if there is none.
std::uint32_t next_anomalous(const std::uint8_t* row, std::uint32_t x, std::uint32_t width) {
  // Most pixels are normal, so skip them quickly.
  for (std::uint64_t eight = 0; width - x >= 8; x += 8) {
    std::memcpy(&eight, row + x, 8);
    if (eight != 0) break;
  }
  while (x < width && row[x] == 0) ++x;
  return x;
}

std::uint32_t next_normal(const std::uint8_t* row, std::uint32_t x, std::uint32_t width) {
  while (x < width && row[x] != 0) ++x;
  return x;
}

std::uint32_t find_root(std::vector<std::uint32_t>& parents, std::uint32_t i) {
  while (parents[i] != i) {
    parents[i] = parents[parents[i]];
    i = parents[i];
  }
  return i;
}

/// Numbers the regions in the order of their roots, which are their first runs.
void number_regions(Regions& regions, std::vector<std::uint32_t>& parents) {
  for (std::uint32_t i = 0; i < regions.runs.size(); ++i) {
    Run& run = regions.runs[i];
    const std::uint32_t root = find_root(parents, i);
    if (root == i) {
      run.region = static_cast<std::uint32_t>(regions.areas.size());
      regions.areas.push_back(0);
    } else {
      run.region = regions.runs[root].region;
    }
    regions.areas[run.region] += run.end - run.begin;
  }
}

}  // namespace

Regions connected_regions(const std::uint8_t* mask, std::uint32_t height, std::uint32_t width) {
  Regions result;
  std::vector<Run>& runs = result.runs;
  std::vector<std::uint32_t> parents;  // parent of each run; the root is the first run of a region
  std::size_t above_begin = 0;         // runs of the row above are [above_begin, row_begin)
  std::size_t row_begin = 0;
  for (std::uint32_t y = 0; y < height; ++y) {
    const std::uint32_t row = y * width;
    std::size_t above = above_begin;
    std::uint32_t x = 0;
    while ((x = next_anomalous(mask + row, x, width)) < width) {
      const std::uint32_t stop = next_normal(mask + row, x, width);
      const Run run{row + x, row + stop, 0};
      const auto index = static_cast<std::uint32_t>(runs.size());
      parents.push_back(index);
      // Half-open column ranges that only touch are diagonal neighbors.
      while (above < row_begin && runs[above].end + width < run.begin) ++above;
      for (std::size_t i = above; i < row_begin && runs[i].begin + width <= run.end; ++i) {
        const std::uint32_t a = find_root(parents, index);
        const std::uint32_t b = find_root(parents, static_cast<std::uint32_t>(i));
        parents[std::max(a, b)] = std::min(a, b);
      }
      runs.push_back(run);
      x = stop;
    }
    above_begin = row_begin;
    row_begin = runs.size();
  }
  number_regions(result, parents);
  return result;
}

}  // namespace autopatch
