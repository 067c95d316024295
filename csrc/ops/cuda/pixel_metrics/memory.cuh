#pragma once

// Sizes shared by all kernels of the metrics, and the memory through which they pass results.

#include <cstdint>

#include "core/cuda.cuh"

namespace autopatch {
namespace {

constexpr const char* kName = "pixel_metrics";
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kMostBlocks = 512;
constexpr int kPixelsOfBlock = 4096;  // pixels per block for small inputs
constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
constexpr int kRounds = 8;    // rounds of a warp per sorted tile
constexpr int kTogether = 4;  // scores that a thread loads together
constexpr int kLeastBins = 256;
constexpr int kMostBins = 1 << 20;
constexpr std::uint32_t kSlotsApart = 2048;  // maximum number of slots counted in shared memory
constexpr int kCountBlocks = 2;              // per block of other kernels, to hide latency
constexpr int kMostCountBlocks = 1056;
constexpr int kSums = 5;
constexpr std::uint32_t kNone = 0xFFFFFFFFu;

static_assert(kThreads == kDigits, "a thread takes care of a digit");

/// Results that kernels pass to later ones. Initially zero.
struct Found {
  std::uint32_t num_positives;
  std::uint32_t num_keys;
  std::uint32_t num_regions;
  std::uint32_t bad_type;
  // Bitwise complement of the first such image or pixel; 0 if there is none.
  std::uint32_t in_good_image;
  std::uint32_t nan;
};

struct Images {
  const std::uint8_t* masks;
  const std::int32_t* types;
  std::uint32_t count;
  std::uint32_t width;
  std::uint32_t size;  // pixels per image
  std::uint32_t num_pixels;
  int num_types;
};

/// Data of all positives, first in pixel order, then sorted by descending score.
template <typename Key>
struct Memory {
  Found* found;
  std::uint32_t* regions_of_type;
  std::uint32_t* parents;  // by pixel
  std::uint32_t* areas;    // by pixel; area of a region at its root
  Key* keys[2];
  std::uint32_t* roots[2];
  std::uint32_t* key_index;  // index of each positive's key among the distinct keys
  Key* distinct;
  std::uint32_t* starts;  // first positive of each distinct key
  std::uint32_t* slots;   // two per key: negatives before it, and with an equal key
  double* weights;        // sum up to the last positive of each key
  std::uint32_t* bins;    // first distinct key of each cell
  std::uint32_t* digits;  // [kDigits][blocks]
  std::uint32_t* totals;  // [kDigits]
  std::uint32_t* counts;  // [blocks]
  double* sums;           // [blocks][kSums]
};

}  // namespace
}  // namespace autopatch
