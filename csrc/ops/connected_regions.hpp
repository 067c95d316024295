#pragma once

#include <cstdint>
#include <vector>

namespace autopatch {

/// Anomalous pixels [begin, end) of one row of an image, as indices into the image.
struct Run {
  std::uint32_t begin;
  std::uint32_t end;
  std::uint32_t region;
};

/// Runs in pixel order, and the areas of the regions in the order of their first pixels.
struct Regions {
  std::vector<Run> runs;
  std::vector<std::uint32_t> areas;
};

/// Finds the 8-connected regions of non-zero pixels. The image has fewer than 2^32 pixels.
Regions connected_regions(const std::uint8_t* mask, std::uint32_t height, std::uint32_t width);

}  // namespace autopatch
