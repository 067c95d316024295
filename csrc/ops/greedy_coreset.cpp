#include "ops/greedy_coreset.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "core/isa.hpp"
#include "core/parallel.hpp"
#include "ops/cpu/greedy_coreset.hpp"

namespace autopatch {
namespace {

constexpr float kPicked = -1.0f;  // below every distance: a picked row is never farthest again

struct Farthest {
  float distance = -std::numeric_limits<float>::infinity();
  std::int64_t row = -1;
};

// Distances only fall as picks are added, so one that is behind is an upper bound. Rows are kept in
// tiles, and a tile is brought up to date only while its bound could still hold the farthest row:
// then with all the picks it missed at once, which reads it from memory once instead of once a
// pick.
class LazyDistances {
 public:
  LazyDistances(const float* features, std::int64_t num_rows, std::int64_t dim)
      : num_rows_(num_rows),
        tails_(tails(features, num_rows, dim)),
        rows_{features, dim, tails_.data()},
        nearest_(static_cast<std::size_t>(num_rows), std::numeric_limits<float>::infinity()),
        bound_(static_cast<std::size_t>((num_rows + kTileRows - 1) / kTileRows),
               std::numeric_limits<float>::infinity()),
        seen_(bound_.size(), 0) {}

  std::int64_t num_tiles() const { return static_cast<std::int64_t>(bound_.size()); }

  void pick(std::int64_t row) { nearest_[static_cast<std::size_t>(row)] = kPicked; }

  /// Farthest row of the tiles share, share + shares, ...; `floor` is a lower bound of the answer
  /// over all shares, raised as better ones are found.
  Farthest farthest(const std::int64_t* picks, std::int64_t num_picks, std::int64_t share,
                    std::int64_t shares, std::atomic<float>& floor) {
    // The most promising tile first: it raises the floor before the others are looked at.
    std::int64_t promising = share;
    for (std::int64_t t = share; t < num_tiles(); t += shares) {
      if (bound_[index(t)] > bound_[index(promising)]) promising = t;
    }
    refresh(promising, picks, num_picks, floor);
    Farthest best;
    for (std::int64_t t = share; t < num_tiles(); t += shares) {
      if (bound_[index(t)] < floor.load(std::memory_order_relaxed)) continue;
      refresh(t, picks, num_picks, floor);
      if (bound_[index(t)] > best.distance) {
        const float* first = nearest_.data() + t * kTileRows;
        best.distance = bound_[index(t)];
        best.row = std::find(first, first + tile_rows(t), best.distance) - nearest_.data();
      }
    }
    return best;
  }

 private:
  static constexpr std::int64_t kTileRows = 16;

  static std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }
  std::int64_t tile_rows(std::int64_t tile) const {
    return std::min(kTileRows, num_rows_ - tile * kTileRows);
  }

  static std::vector<float> tails(const float* features, std::int64_t num_rows, std::int64_t dim) {
    const std::int64_t length = dim % kCoresetSums;
    std::vector<float> result(length == 0 ? 0 : index(num_rows * kCoresetSums), 0.0f);
    for (std::int64_t i = 0; length != 0 && i < num_rows; ++i) {
      std::copy_n(features + (i + 1) * dim - length, length, result.data() + i * kCoresetSums);
    }
    return result;
  }

  void refresh(std::int64_t tile, const std::int64_t* picks, std::int64_t num_picks,
               std::atomic<float>& floor) {
    const std::int64_t first = tile * kTileRows;
    float* nearest = nearest_.data() + first;
    if (seen_[index(tile)] < num_picks) {
      update_(rows_, first, tile_rows(tile), picks + seen_[index(tile)],
              num_picks - seen_[index(tile)], nearest);
      seen_[index(tile)] = num_picks;
      bound_[index(tile)] = *std::max_element(nearest, nearest + tile_rows(tile));
    }
    float known = floor.load(std::memory_order_relaxed);
    while (known < bound_[index(tile)] &&
           !floor.compare_exchange_weak(known, bound_[index(tile)], std::memory_order_relaxed)) {
    }
  }

  const CoresetUpdate update_ = AUTOPATCH_KERNEL(coreset_update);
  std::int64_t num_rows_;
  std::vector<float> tails_;
  CoresetRows rows_;
  std::vector<float> nearest_;      // squared distance of a row to the picks its tile has seen
  std::vector<float> bound_;        // largest of a tile
  std::vector<std::int64_t> seen_;  // picks a tile has seen
};

// Rows below which handing tiles to another thread costs more than it saves.
constexpr std::int64_t kRowsPerThread = 2048;

}  // namespace

void greedy_coreset_cpu(const float* features, std::int64_t num_rows, std::int64_t dim,
                        std::int64_t count, std::int64_t start, std::int64_t* indices, float* radii,
                        int num_threads) {
  LazyDistances distances(features, num_rows, dim);
  const std::int64_t shares =
      std::clamp<std::int64_t>(num_rows / kRowsPerThread, 1, std::max(num_threads, 1));
  std::vector<Farthest> found(static_cast<std::size_t>(shares));
  std::int64_t next = start;
  for (std::int64_t i = 0; i < count; ++i) {
    indices[i] = next;
    distances.pick(next);
    std::atomic<float> floor{-std::numeric_limits<float>::infinity()};
    parallel_for(shares, static_cast<int>(shares), [&](std::int64_t share) {
      found[static_cast<std::size_t>(share)] =
          distances.farthest(indices, i + 1, share, shares, floor);
    });
    Farthest best;
    for (const Farthest& candidate : found) {
      if (candidate.distance > best.distance ||
          (candidate.distance == best.distance && candidate.row < best.row)) {
        best = candidate;
      }
    }
    radii[i] = std::sqrt(std::max(best.distance, 0.0f));
    next = best.row;
  }
}

}  // namespace autopatch
