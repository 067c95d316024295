// The curves bend only where the score of an anomalous ("positive") pixel is passed: between two
// such scores true positives stand still, so that precision is not sampled there and the ROC and
// per-region overlap curves are straight. It is therefore enough to sort the few positives and to
// count the normal ("negative") pixels that fall between and onto their distinct scores.

#include "ops/pixel_metrics.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/parallel.hpp"

namespace autopatch {
namespace {

constexpr double kMaxFalsePositiveRate = 0.3;

/// Anomalous pixels [begin, end) of one image row, as indices into [N, H, W].
struct Run {
  std::int64_t begin;
  std::int64_t end;
  std::uint32_t region;
};

struct Region {
  std::int64_t area;
  std::int32_t type;
};

/// Runs in pixel order; regions in the order of their first pixel.
struct Regions {
  std::vector<Run> runs;
  std::vector<Region> regions;
};

/// First x in [x, width) with a non-zero mask, else `width`.
std::int64_t next_anomalous(const std::uint8_t* row, std::int64_t x, std::int64_t width) {
  for (std::uint64_t eight = 0; x + 8 <= width; x += 8) {
    std::memcpy(&eight, row + x, 8);
    if (eight != 0) break;
  }
  while (x < width && row[x] == 0) ++x;
  return x;
}

std::int64_t next_normal(const std::uint8_t* row, std::int64_t x, std::int64_t width) {
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

/// 8-connected regions of one image by union-find over runs. Run indices are relative to the image.
Regions label_image(const std::uint8_t* mask, std::int64_t height, std::int64_t width,
                    std::int32_t type) {
  Regions result;
  std::vector<Run>& runs = result.runs;
  std::vector<std::uint32_t> parents;  // of each run; the root is a region's first run
  std::size_t above_begin = 0;         // runs of the row above are [above_begin, row_begin)
  std::size_t row_begin = 0;
  for (std::int64_t y = 0; y < height; ++y) {
    const std::uint8_t* row = mask + y * width;
    std::size_t above = above_begin;
    std::int64_t x = 0;
    while ((x = next_anomalous(row, x, width)) < width) {
      const std::int64_t end = next_normal(row, x, width);
      const Run run{y * width + x, y * width + end, static_cast<std::uint32_t>(runs.size())};
      parents.push_back(run.region);
      // Half-open ranges of columns that only touch are neighbors across the corner.
      while (above < row_begin && runs[above].end + width < run.begin) ++above;
      for (std::size_t i = above; i < row_begin && runs[i].begin + width <= run.end; ++i) {
        const std::uint32_t a = find_root(parents, run.region);
        const std::uint32_t b = find_root(parents, runs[i].region);
        parents[std::max(a, b)] = std::min(a, b);
      }
      runs.push_back(run);
      x = end;
    }
    above_begin = row_begin;
    row_begin = runs.size();
  }
  std::vector<std::uint32_t> region_of_run(runs.size());
  for (std::uint32_t i = 0; i < runs.size(); ++i) {
    const std::uint32_t root = find_root(parents, i);
    if (root == i) {
      region_of_run[i] = static_cast<std::uint32_t>(result.regions.size());
      result.regions.push_back({0, type});
    }
    runs[i].region = region_of_run[i] = region_of_run[root];
    result.regions[runs[i].region].area += runs[i].end - runs[i].begin;
  }
  return result;
}

Regions label_images(const std::uint8_t* masks, std::int64_t num_images, std::int64_t height,
                     std::int64_t width, const std::int32_t* type_of_image, int num_threads) {
  const std::int64_t image_size = height * width;
  std::vector<Regions> images(static_cast<std::size_t>(num_images));
  parallel_for(num_images, num_threads, [&](std::int64_t n) {
    images[static_cast<std::size_t>(n)] =
        label_image(masks + n * image_size, height, width, type_of_image[n]);
  });
  Regions all;
  for (std::int64_t n = 0; n < num_images; ++n) {
    const Regions& image = images[static_cast<std::size_t>(n)];
    if (type_of_image[n] < 0 && !image.runs.empty()) {
      throw std::invalid_argument("`masks` have anomalous pixels in image " + std::to_string(n) +
                                  ", whose type is \"good\"");
    }
    const auto first_region = static_cast<std::uint32_t>(all.regions.size());
    for (const Run& run : image.runs) {
      all.runs.push_back(
          {run.begin + n * image_size, run.end + n * image_size, run.region + first_region});
    }
    all.regions.insert(all.regions.end(), image.regions.begin(), image.regions.end());
  }
  if (all.runs.empty()) throw std::invalid_argument("`masks` have no anomalous pixel");
  return all;
}

/// Calls `task(part, begin, end)` for `num_parts` near-equal ranges that make up [0, count).
template <typename Task>
void parallel_ranges(std::int64_t count, std::int64_t num_parts, int num_threads,
                     const Task& task) {
  const std::int64_t size = (count + num_parts - 1) / num_parts;
  parallel_for(num_parts, num_threads, [&](std::int64_t part) {
    task(static_cast<std::size_t>(part), std::min(count, part * size),
         std::min(count, (part + 1) * size));
  });
}

template <typename Score>
void require_no_nan(const Score* scores, std::int64_t num_images, std::int64_t height,
                    std::int64_t width, int num_threads) {
  const std::int64_t image_size = height * width;
  std::vector<char> found(static_cast<std::size_t>(num_images), 0);
  parallel_for(num_images, num_threads, [&](std::int64_t n) {
    int any = 0;
    const Score* image = scores + n * image_size;
    for (std::int64_t i = 0; i < image_size; ++i) any |= image[i] != image[i];
    found[static_cast<std::size_t>(n)] = any != 0;
  });
  const auto first = std::find(found.begin(), found.end(), 1);
  if (first == found.end()) return;
  throw std::invalid_argument("`scores` contain NaN, first in image " +
                              std::to_string(first - found.begin()));
}

template <typename Score>
struct KeyOf;
template <>
struct KeyOf<float> {
  using type = std::uint32_t;
};
template <>
struct KeyOf<double> {
  using type = std::uint64_t;
};

/// Unsigned integer that falls where the score rises. Not for NaN.
template <typename Score, typename Key = typename KeyOf<Score>::type>
Key descending_key(Score score) {
  score += Score{0};  // -0 becomes 0
  Key bits;
  std::memcpy(&bits, &score, sizeof bits);
  constexpr Key kSign = Key{1} << (sizeof(Key) * 8 - 1);
  return (bits & kSign) != 0 ? bits : static_cast<Key>(~bits & ~kSign);
}

template <typename Key>
struct Positive {
  Key key;
  std::uint32_t region;
};

/// Stable radix sort by key.
template <typename Key>
void sort_by_key(std::vector<Positive<Key>>& items) {
  constexpr int kDigitBits = 11;
  constexpr std::size_t kDigits = std::size_t{1} << kDigitBits;
  constexpr std::size_t kPasses = (sizeof(Key) * 8 + kDigitBits - 1) / kDigitBits;
  const auto digit = [](Key key, std::size_t pass) {
    return static_cast<std::size_t>(key >> (pass * kDigitBits)) % kDigits;
  };
  std::vector<std::array<std::size_t, kDigits>> offsets(kPasses);
  for (const Positive<Key>& item : items) {
    for (std::size_t pass = 0; pass < kPasses; ++pass) ++offsets[pass][digit(item.key, pass)];
  }
  std::vector<Positive<Key>> sorted(items.size());
  for (std::size_t pass = 0; pass < kPasses; ++pass) {
    if (offsets[pass][digit(items[0].key, pass)] == items.size()) continue;
    std::size_t total = 0;
    for (std::size_t& offset : offsets[pass]) total += std::exchange(offset, total);
    for (const Positive<Key>& item : items) sorted[offsets[pass][digit(item.key, pass)]++] = item;
    items.swap(sorted);
  }
}

/// Where a negative's key falls among the sorted distinct keys of the positives: slot 2 i lies
/// before key i and after key i - 1, slot 2 i + 1 is key i itself.
template <typename Key>
class SlotFinder {
 public:
  explicit SlotFinder(const std::vector<Key>& keys)
      : keys_(keys.data()), base_(keys.front()), span_(keys.back() - keys.front()) {
    std::size_t num_bins = 256;
    while (num_bins < kMaxBins && num_bins < 4 * keys.size()) num_bins *= 2;
    while ((span_ >> shift_) >= num_bins) ++shift_;
    first_.resize(num_bins + 1);
    std::size_t i = 0;
    for (std::size_t bin = 0; bin <= num_bins; ++bin) {
      while (i < keys.size() && ((keys[i] - base_) >> shift_) < bin) ++i;
      first_[bin] = static_cast<std::uint32_t>(i);
    }
    last_slot_ = 2 * keys.size();
  }

  std::size_t operator()(Key key) const {
    if (key < base_) return 0;
    const Key offset = key - base_;
    if (offset > span_) return last_slot_;
    const auto bin = static_cast<std::size_t>(offset >> shift_);
    std::uint32_t low = first_[bin];
    std::uint32_t high = first_[bin + 1];
    while (low < high) {
      const std::uint32_t middle = (low + high) / 2;
      if (keys_[middle] < key) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return 2 * std::size_t{low} + (keys_[low] == key);
  }

 private:
  static constexpr std::size_t kMaxBins = std::size_t{1} << 18;  // 1 MiB, stays in the L2 cache

  const Key* keys_;
  Key base_;
  Key span_;
  int shift_ = 0;
  std::size_t last_slot_;
  std::vector<std::uint32_t> first_;  // index of the first key at or behind the start of each bin
};

/// Number of negatives in each slot of `SlotFinder(keys)`.
template <typename Score, typename Key>
std::vector<std::int64_t> count_negatives(const Score* scores, std::int64_t num_pixels,
                                          const std::vector<Run>& runs,
                                          const std::vector<Key>& keys, int num_threads) {
  const SlotFinder<Key> slot_of(keys);
  const std::size_t num_slots = 2 * keys.size() + 1;
  // No more counters than pixels, or the counters would cost more than the counting.
  const std::int64_t num_parts =
      std::clamp<std::int64_t>(num_pixels / static_cast<std::int64_t>(num_slots), 1, num_threads);
  std::vector<std::vector<std::uint32_t>> counts(static_cast<std::size_t>(num_parts));
  parallel_ranges(num_pixels, num_parts, num_threads,
                  [&](std::size_t part, std::int64_t begin, std::int64_t end) {
                    std::vector<std::uint32_t> slots(num_slots);
                    auto run = std::partition_point(runs.begin(), runs.end(),
                                                    [&](const Run& r) { return r.end <= begin; });
                    while (begin < end) {
                      const std::int64_t stop = run == runs.end() ? end : std::min(end, run->begin);
                      for (; begin < stop; ++begin) ++slots[slot_of(descending_key(scores[begin]))];
                      if (run != runs.end()) begin = (run++)->end;
                    }
                    counts[part] = std::move(slots);
                  });
  std::vector<std::int64_t> total(num_slots);
  for (const std::vector<std::uint32_t>& slots : counts) {
    for (std::size_t i = 0; i < num_slots; ++i) total[i] += slots[i];
  }
  return total;
}

/// Area under a polyline from (0, 0) with x never falling, up to x = `limit`.
class AreaUnderLine {
 public:
  explicit AreaUnderLine(double limit) : limit_(limit) {}

  void line_to(double x, double y) {
    if (x > x_ && x_ < limit_) {
      const double stop = std::min(x, limit_);
      const double y_at_stop = stop == x ? y : y_ + (y - y_) * (stop - x_) / (x - x_);
      area_ += (stop - x_) * (y_ + y_at_stop) / 2;
    }
    x_ = x;
    y_ = y;
  }

  double area() const { return area_; }

 private:
  double limit_;
  double x_ = 0;
  double y_ = 0;
  double area_ = 0;
};

}  // namespace

template <typename Score>
void pixel_metrics(const Score* scores, const std::uint8_t* masks, std::int64_t num_images,
                   std::int64_t height, std::int64_t width, const std::int32_t* type_of_image,
                   int num_types, double* out, int num_threads) {
  using Key = typename KeyOf<Score>::type;
  const std::int64_t num_pixels = num_images * height * width;
  if (num_pixels > std::numeric_limits<std::uint32_t>::max()) {
    throw std::invalid_argument("`scores` have " + std::to_string(num_pixels) +
                                " pixels, more than 2^32 - 1");
  }
  const auto [runs, regions] =
      label_images(masks, num_images, height, width, type_of_image, num_threads);
  require_no_nan(scores, num_images, height, width, num_threads);

  std::vector<Positive<Key>> positives;
  for (const Run& run : runs) {
    for (std::int64_t i = run.begin; i < run.end; ++i) {
      positives.push_back({descending_key(scores[i]), run.region});
    }
  }
  sort_by_key(positives);
  std::vector<Key> keys;  // distinct
  for (const Positive<Key>& positive : positives) {
    if (keys.empty() || keys.back() != positive.key) keys.push_back(positive.key);
  }
  const std::vector<std::int64_t> negatives =
      count_negatives(scores, num_pixels, runs, keys, num_threads);

  // (mean area / area) (mean count / count of the type) with mean area = positives / regions and
  // mean count = regions / types: every type that has a region gets the same total weight.
  std::vector<double> regions_of_type(static_cast<std::size_t>(num_types));
  for (const Region& region : regions) ++regions_of_type[static_cast<std::size_t>(region.type)];
  const auto num_positives = static_cast<double>(positives.size());
  const auto num_negatives =
      static_cast<double>(num_pixels - static_cast<std::int64_t>(positives.size()));
  std::vector<double> weights;   // of a pixel of each region, in rwAP
  std::vector<double> overlaps;  // what a pixel of each region adds to the mean overlap
  for (const Region& region : regions) {
    const auto area = static_cast<double>(region.area);
    const double count = regions_of_type[static_cast<std::size_t>(region.type)];
    weights.push_back(num_positives / (area * count * num_types));
    overlaps.push_back(1 / (area * static_cast<double>(regions.size())));
  }

  AreaUnderLine roc(num_negatives);
  AreaUnderLine partial_roc(kMaxFalsePositiveRate * num_negatives);
  AreaUnderLine overlap_curve(kMaxFalsePositiveRate * num_negatives);
  double false_positives = 0;
  double true_positives = 0;
  double weighted_true_positives = 0;
  double overlap = 0;
  double precision_sum = 0;  // over positives, at the threshold of each
  double weighted_precision_sum = 0;
  const auto advance = [&](std::int64_t num_passed) {
    false_positives += static_cast<double>(num_passed);
    roc.line_to(false_positives, true_positives);
    partial_roc.line_to(false_positives, true_positives);
    overlap_curve.line_to(false_positives, overlap);
  };
  auto positive = positives.begin();
  for (std::size_t i = 0; i < keys.size(); ++i) {
    advance(negatives[2 * i]);
    double count = 0;
    double weight = 0;
    double tied_overlap = 0;
    for (; positive != positives.end() && positive->key == keys[i]; ++positive) {
      ++count;
      weight += weights[positive->region];
      tied_overlap += overlaps[positive->region];
    }
    true_positives += count;
    weighted_true_positives += weight;
    overlap += tied_overlap;
    advance(negatives[2 * i + 1]);
    precision_sum += count * (true_positives / (true_positives + false_positives));
    weighted_precision_sum +=
        weight * (weighted_true_positives / (weighted_true_positives + false_positives));
  }
  advance(negatives.back());

  out[0] = weighted_precision_sum / weighted_true_positives;
  out[1] = precision_sum / num_positives;
  if (num_negatives == 0) {
    out[2] = out[3] = out[4] = std::numeric_limits<double>::quiet_NaN();
    return;
  }
  out[2] = roc.area() / (num_positives * num_negatives);
  const double partial = partial_roc.area() / (num_positives * num_negatives);
  const double chance = kMaxFalsePositiveRate * kMaxFalsePositiveRate / 2;
  out[3] = (1 + (partial - chance) / (kMaxFalsePositiveRate - chance)) / 2;
  out[4] = overlap_curve.area() / (kMaxFalsePositiveRate * num_negatives);
}

template void pixel_metrics<float>(const float*, const std::uint8_t*, std::int64_t, std::int64_t,
                                   std::int64_t, const std::int32_t*, int, double*, int);
template void pixel_metrics<double>(const double*, const std::uint8_t*, std::int64_t, std::int64_t,
                                    std::int64_t, const std::int32_t*, int, double*, int);

}  // namespace autopatch
