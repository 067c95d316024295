#pragma once

// Sizes that all kernels of the metrics share, and what they leave for each other in memory.

#include <cstdint>

#include "core/cuda.cuh"

namespace autopatch {
namespace {

constexpr const char* kName = "pixel_metrics";
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kMostBlocks = 512;
constexpr int kPixelsOfBlock = 4096;  // of small inputs
constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
constexpr int kRounds = 8;    // of a warp over a tile that is sorted
constexpr int kTogether = 4;  // scores that a thread has under way
constexpr int kLeastBins = 256;
constexpr int kMostBins = 1 << 20;
constexpr std::uint32_t kSlotsApart = 2048;  // that a block counts in shared memory
constexpr int kCountBlocks = 2;              // for one of other kernels: it waits for memory
constexpr int kMostCountBlocks = 1056;
constexpr int kSums = 5;
constexpr std::uint32_t kNone = 0xFFFFFFFFu;

static_assert(kThreads == kDigits, "a thread takes care of a digit");

/// Results that kernels pass on to later ones. Zero at the start.
struct Found {
  std::uint32_t num_positives;
  std::uint32_t num_keys;
  std::uint32_t num_regions;
  std::uint32_t bad_type;
  // Complements of the first such image or pixel; 0 if there is none.
  std::uint32_t in_good_image;
  std::uint32_t nan;
};

struct Images {
  const std::uint8_t* masks;
  const std::int32_t* types;
  std::uint32_t count;
  std::uint32_t width;
  std::uint32_t size;  // of one
  std::uint32_t num_pixels;
  int num_types;
};

/// All data of positives, first in pixel order, then sorted by falling score.
template <typename Key>
struct Memory {
  Found* found;
  std::uint32_t* regions_of_type;
  std::uint32_t* parents;  // by pixel
  std::uint32_t* areas;    // by pixel, of the region of which it is the root
  Key* keys[2];
  std::uint32_t* roots[2];
  std::uint32_t* key_index;  // of each positive among the distinct
  Key* distinct;
  std::uint32_t* starts;  // first positive of each distinct key
  std::uint32_t* slots;   // two a key: negatives before it, and of equal key
  double* weights;        // up to the last positive of each key
  std::uint32_t* bins;    // first distinct key of each
  std::uint32_t* digits;  // [kDigits][blocks]
  std::uint32_t* totals;  // [kDigits]
  std::uint32_t* counts;  // [blocks]
  double* sums;           // [blocks][kSums]
};

}  // namespace
}  // namespace autopatch
