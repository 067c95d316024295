// The curves bend only where the score of an anomalous ("positive") pixel is passed: between two
// such scores true positives stand still, so that precision is not sampled there and the ROC and
// per-region overlap curves are straight. It is therefore enough to sort the few positives and to
// count the normal ("negative") pixels that fall between and onto their distinct scores.

#include "ops/pixel_metrics.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/parallel.hpp"
#include "ops/connected_regions.hpp"
#include "ops/score_counts.hpp"
#include "ops/score_key.hpp"

namespace autopatch {
namespace {

constexpr double kMaxFalsePositiveRate = 0.3;

/// Scores and masks of all images, one after the other.
template <typename Format>
struct Images {
  const typename Format::Bits* scores;
  const std::uint8_t* masks;
  std::size_t count;
  std::uint32_t height;
  std::uint32_t width;
  const std::int32_t* types;  // -1 for a normal one

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

template <typename Bits>
struct Positive {
  Bits key;
  std::uint32_t region;  // regions of all images are numbered one after the other
};

/// In pixel order.
template <typename Format, typename Bits = typename Format::Bits>
std::vector<Positive<Bits>> collect_positives(const Images<Format>& images,
                                              const std::vector<Regions>& regions,
                                              int num_threads) {
  struct Begin {
    std::size_t positive;
    std::uint32_t region;
  };
  std::vector<Begin> begins;
  Begin next{0, 0};
  for (const Regions& image : regions) {
    begins.push_back(next);
    for (const std::uint32_t area : image.areas) next.positive += area;
    next.region += static_cast<std::uint32_t>(image.areas.size());
  }
  std::vector<Positive<Bits>> positives(next.positive);
  parallel_for(static_cast<std::int64_t>(images.count), num_threads, [&](std::int64_t number) {
    const auto n = static_cast<std::size_t>(number);
    const Bits* const scores = images.scores + n * images.size();
    std::size_t positive = begins[n].positive;
    for (const Run& run : regions[n].runs) {
      for (std::size_t i = run.begin; i < run.end; ++i) {
        positives[positive++] = {Format::key(scores[i]), begins[n].region + run.region};
      }
    }
  });
  return positives;
}

/// Stable radix sort by key.
template <typename Bits>
void sort_by_key(std::vector<Positive<Bits>>& items) {
  constexpr int kDigitBits = 11;
  constexpr std::size_t kDigits = std::size_t{1} << kDigitBits;
  constexpr std::size_t kPasses = (sizeof(Bits) * 8 + kDigitBits - 1) / kDigitBits;
  const auto digit = [](Bits key, std::size_t pass) {
    return static_cast<std::size_t>(key >> (pass * kDigitBits)) % kDigits;
  };
  std::vector<std::array<std::size_t, kDigits>> places(kPasses);
  for (const Positive<Bits>& item : items) {
    for (std::size_t pass = 0; pass < kPasses; ++pass) ++places[pass][digit(item.key, pass)];
  }
  std::vector<Positive<Bits>> sorted(items.size());
  for (std::size_t pass = 0; pass < kPasses; ++pass) {
    if (places[pass][digit(items[0].key, pass)] == items.size()) continue;
    std::size_t total = 0;
    for (std::size_t& place : places[pass]) total += std::exchange(place, total);
    for (const Positive<Bits>& item : items) sorted[places[pass][digit(item.key, pass)]++] = item;
    items.swap(sorted);
  }
}

template <typename Bits>
DistinctKeys<Bits> distinct_keys(const std::vector<Positive<Bits>>& sorted) {
  DistinctKeys<Bits> keys{sorted.front().key, {}};
  for (const Positive<Bits>& positive : sorted) {
    const auto offset = static_cast<Bits>(positive.key - keys.base);
    if (keys.offsets.empty() || keys.offsets.back() != offset) keys.offsets.push_back(offset);
  }
  return keys;
}

// --- curves ------------------------------------------------------------------------------------

/// What a pixel of a region adds to a sum.
struct Share {
  double weight;   // in rwAP
  double overlap;  // to the mean over regions of the part of a region that is found
};

/// Of the regions of all images one after the other.
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

/// A sum that keeps what rounding takes from it (Knuth's two-sum), so that its error does not grow
/// with the number of pixels.
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

/// Length of the axis of false positives up to `limit` along which a positive counts as found, on
/// average over those that tie with negatives `before` to `after`.
double found_along(double before, double after, double limit) {
  if (after <= limit) return limit - (before + after) / 2;
  if (before >= limit) return 0;
  return (limit - before) * (limit - before) / (2 * (after - before));
}

template <typename Bits>
void measure_curves(const std::vector<Positive<Bits>>& sorted, const SlotCounts& slots,
                    const std::vector<Share>& share_of_region, std::size_t num_pixels,
                    double* out) {
  const auto num_positives = static_cast<double>(sorted.size());
  const auto num_negatives = static_cast<double>(num_pixels - sorted.size());
  const double limit = kMaxFalsePositiveRate * num_negatives;
  double true_positives = 0;
  double false_positives = 0;
  Sum weight;
  Sum precision;  // over positives, at the threshold of each
  Sum weighted_precision;
  Sum found;  // over positives, `found_along`
  Sum found_to_limit;
  Sum overlap_to_limit;
  auto slot = slots.begin();
  for (auto positive = sorted.begin(); positive != sorted.end();) {
    const Bits key = positive->key;
    double count = 0;
    double weight_of_key = 0;
    double overlap_of_key = 0;
    for (; positive != sorted.end() && positive->key == key; ++positive, ++count) {
      const Share& share = share_of_region[positive->region];
      weight_of_key += share.weight;
      overlap_of_key += share.overlap;
    }
    const double untied = false_positives + *slot++;
    false_positives = untied + (*slot++ - count);
    true_positives += count;
    weight += weight_of_key;
    precision += count * (true_positives / (true_positives + false_positives));
    weighted_precision += weight_of_key * (weight.value() / (weight.value() + false_positives));
    found += count * found_along(untied, false_positives, num_negatives);
    const double to_limit = found_along(untied, false_positives, limit);
    found_to_limit += count * to_limit;
    overlap_to_limit += overlap_of_key * to_limit;
  }

  out[0] = weighted_precision.value() / weight.value();
  out[1] = precision.value() / num_positives;
  if (num_negatives == 0) {
    out[2] = out[3] = out[4] = std::numeric_limits<double>::quiet_NaN();
    return;
  }
  out[2] = found.value() / (num_positives * num_negatives);
  const double partial = found_to_limit.value() / (num_positives * num_negatives);
  const double chance = kMaxFalsePositiveRate * kMaxFalsePositiveRate / 2;
  out[3] = (1 + (partial - chance) / (kMaxFalsePositiveRate - chance)) / 2;
  out[4] = overlap_to_limit.value() / limit;
}

template <typename Format>
void measure(const Images<Format>& images, int num_types, double* out, int num_threads) {
  const std::vector<Regions> regions = label_images(images, num_threads);
  auto positives = collect_positives(images, regions, num_threads);
  sort_by_key(positives);
  const SlotCounts slots = count_slots<Format>(images.scores, images.num_pixels(),
                                               distinct_keys(positives), num_threads);
  if (slots.empty()) refuse_nan(images);
  measure_curves(
      positives, slots,
      shares_of_regions(regions, images.types, num_types, static_cast<double>(positives.size())),
      images.num_pixels(), out);
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
