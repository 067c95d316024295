// The curves bend only at the scores of anomalous ("positive") pixels. Between two such scores the
// number of true positives is constant: precision is not sampled there, and the ROC and per-region
// overlap curves are straight lines. So it is enough to sort the few positives and to count the
// normal ("negative") pixels between and at their distinct scores.

#include "ops/pixel_metrics.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/index.hpp"
#include "core/parallel.hpp"
#include "ops/connected_regions.hpp"
#include "ops/cpu/score_key.hpp"
#include "ops/false_positives.hpp"
#include "ops/key_locator.hpp"
#include "ops/score_counts.hpp"

namespace autopatch {
namespace {

// Maximum number of distinct scores processed together. Their data takes less than 64 MiB.
constexpr std::size_t kMostKeys = std::size_t{1} << 19;

/// Scores and masks of all images, concatenated.
template <typename Format>
struct Images {
  const typename Format::Bits* scores;
  const std::uint8_t* masks;
  std::size_t count;
  std::uint32_t height;
  std::uint32_t width;
  const std::int32_t* types;  // -1 for a normal image

  std::size_t size() const { return std::size_t{height} * width; }  // of one
  std::size_t num_pixels() const { return count * size(); }
};

template <typename Format>
[[noreturn]] void refuse_nan(const Images<Format>& images) {
  std::size_t i = 0;
  while (!Format::is_nan(images.scores[i])) ++i;
  throw std::invalid_argument("`scores` contain NaN, first in image " +
                              std::to_string(i / images.size()));
}

template <typename Format>
std::vector<Regions> label_images(const Images<Format>& images, int num_threads) {
  std::vector<Regions> regions(images.count);
  parallel_for(static_cast<std::int64_t>(images.count), num_threads, [&](std::int64_t n) {
    const auto image = static_cast<std::size_t>(n);
    regions[image] =
        connected_regions(images.masks + image * images.size(), images.height, images.width);
  });
  bool any = false;
  for (std::size_t n = 0; n < images.count; ++n) {
    if (regions[n].runs.empty()) continue;
    any = true;
    if (images.types[n] < 0) {
      throw std::invalid_argument("`masks` have anomalous pixels in image " + std::to_string(n) +
                                  ", whose type is \"good\"");
    }
  }
  if (!any) throw std::invalid_argument("`masks` have no anomalous pixel");
  return regions;
}

// --- positives ---------------------------------------------------------------------------------

/// Calls `task(score, region)` for each positive in pixel order. Region numbers continue from image
/// to image.
template <typename Format, typename Task>
void for_each_positive(const Images<Format>& images, const std::vector<Regions>& regions,
                       const Task& task) {
  std::uint32_t first_region = 0;
  for (std::size_t n = 0; n < images.count; ++n) {
    const typename Format::Bits* const scores = images.scores + n * images.size();
    for (const Run& run : regions[n].runs) {
      for (std::size_t i = run.begin; i < run.end; ++i) task(scores[i], first_region + run.region);
    }
    first_region += static_cast<std::uint32_t>(regions[n].areas.size());
  }
}

/// Radix sort that removes duplicate keys.
template <typename Bits>
void sort_distinct(std::vector<Bits>& keys) {
  constexpr int kDigitBits = 11;
  constexpr std::size_t kDigits = std::size_t{1} << kDigitBits;
  constexpr std::size_t kPasses = (sizeof(Bits) * 8 + kDigitBits - 1) / kDigitBits;
  const auto digit = [](Bits key, std::size_t pass) {
    return static_cast<std::size_t>(key >> (pass * kDigitBits)) % kDigits;
  };
  std::vector<std::array<std::size_t, kDigits>> places(kPasses);
  for (const Bits key : keys) {
    for (std::size_t pass = 0; pass < kPasses; ++pass) ++places[pass][digit(key, pass)];
  }
  std::vector<Bits> sorted(keys.size());
  for (std::size_t pass = 0; pass < kPasses; ++pass) {
    if (places[pass][digit(keys[0], pass)] == keys.size()) continue;
    std::size_t total = 0;
    for (std::size_t& place : places[pass]) total += std::exchange(place, total);
    for (const Bits key : keys) sorted[places[pass][digit(key, pass)]++] = key;
    keys.swap(sorted);
  }
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
}

/// The next distinct keys of positives, from `first` on, at most kMostKeys.
template <typename Format, typename Bits = typename Format::Bits>
std::vector<Bits> next_keys(const Images<Format>& images, const std::vector<Regions>& regions,
                            Bits first) {
  std::vector<Bits> keys;
  Bits last = std::numeric_limits<Bits>::max();
  const auto keep_first = [&] {
    sort_distinct(keys);
    if (keys.size() <= kMostKeys) return;
    keys.resize(kMostKeys);
    last = keys.back();
  };
  bool has_nan = false;
  for_each_positive(images, regions, [&](Bits score, std::uint32_t) {
    has_nan |= Format::is_nan(score);
    const Bits key = Format::key(score);
    if (key < first || key > last) return;
    if (keys.size() == 2 * kMostKeys) keep_first();
    keys.push_back(key);
  });
  if (has_nan) refuse_nan(images);
  keep_first();
  return keys;
}

// --- curves ------------------------------------------------------------------------------------

/// Contributions of one pixel of a region.
struct Share {
  double weight;   // weight in rwAP
  double overlap;  // contribution to the mean overlap of the regions
};

/// Shares of the regions of all images, in order.
std::vector<Share> shares_of_regions(const std::vector<Regions>& regions, const std::int32_t* types,
                                     int num_types, double num_positives) {
  std::vector<double> regions_of_type(static_cast<std::size_t>(num_types));
  double num_regions = 0;
  for (std::size_t n = 0; n < regions.size(); ++n) {
    if (regions[n].areas.empty()) continue;
    const auto count = static_cast<double>(regions[n].areas.size());
    regions_of_type[static_cast<std::size_t>(types[n])] += count;
    num_regions += count;
  }
  std::vector<Share> shares;
  for (std::size_t n = 0; n < regions.size(); ++n) {
    for (const std::uint32_t area : regions[n].areas) {
      // (mean area / area) (mean count / count of the type) with mean area = positives / regions
      // and mean count = regions / types: every type with a region gets the same total weight.
      const double count = regions_of_type[static_cast<std::size_t>(types[n])];
      shares.push_back({num_positives / (area * count * num_types), 1 / (area * num_regions)});
    }
  }
  return shares;
}

/// A compensated sum (Knuth's two-sum). Its error does not grow with the number of pixels.
class Sum {
 public:
  void operator+=(double term) {
    const double before = value_;
    value_ += term;
    const double added = value_ - before;
    lost_ += (before - (value_ - added)) + (term - added);
  }

  double value() const { return value_ + lost_; }

 private:
  double value_ = 0;
  double lost_ = 0;
};

/// Positives that share a score.
struct Positives {
  Sum weight;  // compensated sums: millions of pixels may share a score
  Sum overlap;
  std::uint32_t count = 0;

  void add(const Share& share) {
    weight += share.weight;
    overlap += share.overlap;
    ++count;
  }
};

/// Areas under all curves, from the distinct scores of positives in descending order.
class Curves {
 public:
  Curves(double num_positives, double num_negatives)
      : num_positives_(num_positives),
        num_negatives_(num_negatives),
        limit_(kMaxFalsePositiveRate * num_negatives) {}

  /// Adds the next score, shared by `tied` pixels. `between` negatives lie between it and the
  /// previous score.
  void add(std::uint32_t between, std::uint32_t tied, const Positives& positives) {
    const double count = positives.count;
    const double untied = false_positives_ + between;
    false_positives_ = untied + (tied - positives.count);
    true_positives_ += count;
    const double weight = positives.weight.value();
    weight_ += weight;
    precision_ += count * (true_positives_ / (true_positives_ + false_positives_));
    weighted_precision_ += weight * (weight_.value() / (weight_.value() + false_positives_));
    found_ += count * found_along(untied, false_positives_, num_negatives_);
    const double to_limit = found_along(untied, false_positives_, limit_);
    found_to_limit_ += count * to_limit;
    overlap_to_limit_ += positives.overlap.value() * to_limit;
  }

  void finish(double* out) const {
    out[0] = weighted_precision_.value() / weight_.value();
    out[1] = precision_.value() / num_positives_;
    if (num_negatives_ == 0) {
      out[2] = out[3] = out[4] = std::numeric_limits<double>::quiet_NaN();
      return;
    }
    out[2] = found_.value() / (num_positives_ * num_negatives_);
    out[3] = standardized(found_to_limit_.value() / (num_positives_ * num_negatives_));
    out[4] = overlap_to_limit_.value() / limit_;
  }

  bool all_found() const { return true_positives_ == num_positives_; }

  /// Number of pixels up to the last score added.
  std::uint32_t num_passed() const {
    return static_cast<std::uint32_t>(true_positives_ + false_positives_);
  }

 private:
  double num_positives_;
  double num_negatives_;
  double limit_;  // maximum number of false positives
  double true_positives_ = 0;
  double false_positives_ = 0;
  Sum weight_;
  Sum precision_;  // sum over positives of the precision at their scores
  Sum weighted_precision_;
  Sum found_;  // sum over positives of `found_along`
  Sum found_to_limit_;
  Sum overlap_to_limit_;
};

/// Adds up the positives of each key of the locator, in pixel order.
template <typename Format>
void add_positives(const Images<Format>& images, const std::vector<Regions>& regions,
                   const std::vector<Share>& shares, const KeyLocator<Format>& locator,
                   std::vector<Positives>& positives) {
  positives.resize(locator.num_keys());
  std::array<typename Format::Bits, kLocated> scores;
  std::array<std::uint32_t, kLocated> region_of_score;
  std::array<std::uint32_t, kLocated> slots;
  int size = 0;
  const auto add_all = [&] {
    locator.locate(scores.data(), size, slots.data());
    for (int i = 0; i < size; ++i) {
      const std::size_t key = slots[index(i)] - (locator.num_keys() + 1);
      positives[key].add(shares[region_of_score[index(i)]]);
    }
    size = 0;
  };
  for_each_positive(images, regions, [&](typename Format::Bits score, std::uint32_t region) {
    const typename Format::Bits key = Format::key(score);
    if (key < locator.first_key() || key > locator.last_key()) return;
    scores[index(size)] = score;
    region_of_score[index(size)] = region;
    if (++size == kLocated) add_all();
  });
  add_all();
}

/// For scores of 4 or 8 bytes. Processes kMostKeys distinct scores of positives at a time.
template <typename Format>
void add_by_search(const Images<Format>& images, const std::vector<Regions>& regions,
                   const std::vector<Share>& shares, int num_threads, Curves& curves) {
  using Bits = typename Format::Bits;
  Bits first = 0;
  while (!curves.all_found()) {
    const KeyLocator<Format> locator(next_keys(images, regions, first));
    std::vector<Positives> positives;
    positives.reserve(locator.num_keys());
    const std::vector<std::uint32_t> counts =
        count_slots(images.scores, images.num_pixels(), locator, num_threads,
                    [&] { add_positives(images, regions, shares, locator, positives); });
    if (counts.empty()) refuse_nan(images);
    const std::size_t num_keys = locator.num_keys();
    std::uint32_t between = counts[0] - curves.num_passed();
    for (std::size_t key = 0; key < num_keys; ++key) {
      curves.add(between, counts[num_keys + 1 + key], positives[key]);
      between = counts[key + 1];
    }
    first = locator.last_key() + 1;
  }
}

/// For scores of 1 or 2 bytes. Counts every possible score.
template <typename Format>
void add_by_key(const Images<Format>& images, const std::vector<Regions>& regions,
                const std::vector<Share>& shares, int num_threads, Curves& curves) {
  const std::vector<std::uint32_t> counts =
      count_keys<Format>(images.scores, images.num_pixels(), num_threads);
  if (counts.empty()) refuse_nan(images);
  std::vector<Positives> positives(counts.size());
  for_each_positive(images, regions, [&](typename Format::Bits score, std::uint32_t region) {
    positives[Format::key(score)].add(shares[region]);
  });
  std::uint32_t between = 0;
  for (std::size_t key = 0; key < counts.size(); ++key) {
    if (positives[key].count == 0) {
      between += counts[key];
    } else {
      curves.add(std::exchange(between, 0), counts[key], positives[key]);
    }
  }
}

template <typename Format>
void measure(const Images<Format>& images, int num_types, double* out, int num_threads) {
  const std::vector<Regions> regions = label_images(images, num_threads);
  double num_positives = 0;
  for (const Regions& image : regions) {
    for (const std::uint32_t area : image.areas) num_positives += area;
  }
  const std::vector<Share> shares =
      shares_of_regions(regions, images.types, num_types, num_positives);
  Curves curves(num_positives, static_cast<double>(images.num_pixels()) - num_positives);
  if constexpr (sizeof(typename Format::Bits) <= 2) {
    add_by_key(images, regions, shares, num_threads, curves);
  } else {
    add_by_search(images, regions, shares, num_threads, curves);
  }
  curves.finish(out);
}

}  // namespace

void pixel_metrics(const void* scores, ScoreType score_type, const std::uint8_t* masks,
                   std::int64_t num_images, std::int64_t height, std::int64_t width,
                   const std::int32_t* type_of_image, int num_types, double* out, int num_threads) {
  const std::int64_t num_pixels = num_images * height * width;
  if (num_pixels > std::numeric_limits<std::uint32_t>::max()) {
    throw std::invalid_argument("`scores` have " + std::to_string(num_pixels) +
                                " pixels, more than 2^32 - 1");
  }
  const auto measure_as = [&](auto format) {
    using Format = decltype(format);
    measure(Images<Format>{static_cast<const typename Format::Bits*>(scores), masks,
                           static_cast<std::size_t>(num_images), static_cast<std::uint32_t>(height),
                           static_cast<std::uint32_t>(width), type_of_image},
            num_types, out, num_threads);
  };
  switch (score_type) {
    case ScoreType::float32:
      return measure_as(Float32{});
    case ScoreType::float64:
      return measure_as(Float64{});
    case ScoreType::float16:
      return measure_as(Float16{});
    case ScoreType::bfloat16:
      return measure_as(BFloat16{});
    case ScoreType::uint8:
      return measure_as(UInt8{});
  }
}

}  // namespace autopatch
