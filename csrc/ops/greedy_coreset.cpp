#include "ops/greedy_coreset.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

#include "core/index.hpp"
#include "core/isa.hpp"
#include "core/parallel.hpp"
#include "core/rounding.hpp"
#include "ops/cpu/greedy_coreset.hpp"
#include "ops/cpu/screen.hpp"

namespace autopatch {
namespace {

constexpr float kPicked = -1.0f;  // below every distance, so a picked row is never picked again
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Approximate number of rows that a round updates. Fewer mean more rounds; more keep rows active
// for longer.
constexpr std::int64_t kCandidates = 4096;
// Approximate size of the sample of rows from which the bound of a round is chosen.
constexpr std::int64_t kSample = 2048;
// Number of picks that a panel of rows is screened against at a time. Fewer mean more calls; more
// mean that screening uses older, larger distances.
constexpr std::int64_t kPicksAtOnce = 16;
static_assert(kPicksAtOnce % kScreenQueries == 0, "whole groups of picks");

// With the row offset kAlways, or the least value -kAlways of a pick, a pair always survives; with
// the least value kNever it never does. Products of codes stay within 2^28.
constexpr std::int32_t kAlways = 1 << 29;
constexpr std::int32_t kNever = std::numeric_limits<std::int32_t>::max();

/// Codes of all rows.
class RowCodes {
 public:
  RowCodes(const float* features, std::int64_t num_rows, Coding coding, int num_threads)
      : width_(coding.width), scale_(fit_scale(features, num_rows, coding)) {
    if (!usable()) return;
    codes_.resize(index(num_rows * width_));
    errors_.resize(index(num_rows));
    squared_norms_.resize(index(num_rows));
    constexpr std::int64_t kBlock = 64;
    parallel_for(divide_up(num_rows, kBlock), num_threads, [&](std::int64_t block) {
      const std::int64_t first = block * kBlock;
      const std::int64_t count = std::min(kBlock, num_rows - first);
      Coordinates coordinates;
      find_coordinates(coding, features + first * coding.dim, count, coordinates);
      for (std::int64_t i = 0; i < count; ++i) {
        const Code code =
            quantize(coordinates.values.data() + i * width_, width_, scale_,
                     coordinates.error[index(i)], codes_.data() + (first + i) * width_);
        errors_[index(first + i)] = static_cast<float>(code.error * 1.000001);
        squared_norms_[index(first + i)] = static_cast<std::int32_t>(code.squared_norm);
      }
    });
    // Rounding moves a coordinate by at most half a step. Larger errors are float32 errors of rows
    // far outside the box.
    const double usual = scale_ * std::sqrt(static_cast<double>(width_));
    for (const float error : errors_) {
      if (error <= usual) largest_usual_error_ = std::max<double>(largest_usual_error_, error);
    }
  }

  bool usable() const { return scale_ > 0; }
  std::int64_t width() const { return width_; }
  double scale() const { return scale_; }
  const std::int8_t* codes(std::int64_t row) const { return codes_.data() + row * width_; }
  void prefetch(std::int64_t row) const {
    __builtin_prefetch(codes(row));
    __builtin_prefetch(codes(row) + width_ - 1);
  }
  float error(std::int64_t row) const { return errors_[index(row)]; }
  /// The largest error of a row, excluding outliers.
  double largest_usual_error() const { return largest_usual_error_; }

  std::int32_t squared_norm(std::int64_t row) const { return squared_norms_[index(row)]; }

 private:
  std::int64_t width_;
  double scale_;
  double largest_usual_error_ = 0;
  std::vector<std::int8_t> codes_;
  std::vector<float> errors_;
  std::vector<std::int32_t> squared_norms_;  // of codes
};

/// Writes the codes of a row, plus 128, to its place in a panel.
void lay_out(const std::int8_t* codes, std::int64_t width, std::int64_t place,
             std::uint8_t* panel) {
  for (std::int64_t d = 0; d < width; d += 4) {
    std::uint32_t four;
    std::memcpy(&four, codes + d, sizeof four);
    four ^= 0x80808080U;
    std::memcpy(panel + d * kPanelRows + 4 * place, &four, sizeof four);
  }
}

/// Rows that are updated together. They need not be adjacent.
struct Panel {
  std::int64_t num_rows;
  std::int64_t num_seen;  // picks whose distances are in `nearest`
  float largest;          // of `nearest`
  std::int32_t rows[kPanelRows];
  float nearest[kPanelRows];  // squared distance to the nearest of these picks
  // A row survives the screen if its product with a pick plus its offset reaches the pick's least
  // value.
  std::int32_t offsets[kPanelRows];
  std::int32_t squared_norms[kPanelRows];  // of codes
  float errors[kPanelRows];
};

/// Buffers of one thread, and the pairs it still has to measure.
struct Scratch {
  explicit Scratch(std::int64_t width)
      : picks(index(kPicksAtOnce * width)),
        workspace(index(kPanelRows * width)),
        pairs(index(kPanelRows * kPicksAtOnce)),
        places(pairs.size()),
        distances(pairs.size()) {}

  void add(const Panel& panel, int place, std::int64_t pick) {
    places[index(count)] = static_cast<std::uint8_t>(place);
    pairs[index(count)] = {panel.rows[place], static_cast<std::int32_t>(pick)};
    ++count;
  }

  std::vector<std::int16_t> picks;
  std::vector<std::int16_t> workspace;
  std::int64_t count = 0;
  std::vector<CoresetPair> pairs;
  std::vector<std::uint8_t> places;  // places in the panel of the pairs' rows
  std::vector<float> distances;
};

// Distances only fall as picks are added, so an outdated distance is an upper bound. Picks are made
// in rounds. A round chooses a bound that few rows exceed and updates those rows, on all threads,
// with the picks they missed. Rows that still exceed the bound are active. As long as any row is
// active, the farthest row is one of them, so only active rows are updated after each pick.
class Coreset {
 public:
  Coreset(const float* features, std::int64_t num_rows, std::int64_t dim, std::int64_t count,
          const RowCodes* codes, std::int64_t* indices, float* radii, int num_threads)
      : features_(features),
        num_rows_(num_rows),
        dim_(dim),
        count_(count),
        num_threads_(num_threads),
        codes_(codes),
        width_(codes == nullptr ? 0 : codes->width()),
        lost_(static_cast<double>(dim / kCoresetSums + 8) * 0x1p-23),
        vanished_(static_cast<double>(dim) * std::numeric_limits<float>::min()),
        indices_(indices),
        radii_(radii),
        nearest_(index(num_rows), kInfinity),
        num_seen_(index(num_rows), 0),
        active_scratch_(width_) {
    if (codes_ == nullptr) return;
    error_of_picks_ = codes_->largest_usual_error();
    squared_steps_ = (1 + 1e-12) / (codes_->scale() * codes_->scale());
    const std::int64_t padded = round_up(count, kScreenQueries);
    pick_codes_.resize(index(padded * width_));
    least_.resize(index(padded), kNever);
  }

  void run(std::int64_t start) {
    pick(start);
    for (;;) {
      const float bound = find_candidates();
      if (candidates_.empty()) return pick_rest();
      update_candidates();
      activate(bound);
      if (pick_active(bound)) return;
    }
  }

 private:
  void pick(std::int64_t row) {
    indices_[num_picks_] = row;
    nearest_[index(row)] = kPicked;
    if (codes_ != nullptr) {
      const std::int8_t* codes = codes_->codes(row);
      std::copy_n(codes, width_, pick_codes_.data() + num_picks_ * width_);
      std::int32_t sum = 0;
      for (std::int64_t i = 0; i < width_; ++i) sum += codes[i];
      // Half of |d|^2, see `set_nearest`. Codes in a panel are stored with 128 added.
      least_[index(num_picks_)] = codes_->error(row) <= error_of_picks_
                                      ? codes_->squared_norm(row) / 2 + 128 * sum
                                      : -kAlways;
    }
    ++num_picks_;
  }

  /// Chooses a bound, collects the rows above it and returns the bound. Collects none if all rows
  /// equal picks.
  float find_candidates() {
    sample_.clear();
    const std::int64_t stride = std::max<std::int64_t>(num_rows_ / kSample, 1);
    for (std::int64_t i = 0; i < num_rows_; i += stride) sample_.push_back(nearest_[index(i)]);
    const auto last = static_cast<std::int64_t>(sample_.size()) - 1;
    const auto middle = sample_.begin() + std::min(kCandidates / stride, last);
    std::nth_element(sample_.begin(), middle, sample_.end(), std::greater<>());
    float bound = std::max(*middle, 0.0f);
    find_above(bound);
    if (candidates_.empty()) {  // possible if many distances are equal
      const float largest = *std::max_element(nearest_.begin(), nearest_.end());
      if (largest > 0.0f) {
        bound = std::nextafter(largest, 0.0f);
        find_above(bound);
      }
    }
    return bound;
  }

  void find_above(float bound) {
    candidates_.clear();
    constexpr std::int64_t kBlock = 32;
    for (std::int64_t first = 0; first < num_rows_; first += kBlock) {
      const std::int64_t last = std::min(first + kBlock, num_rows_);
      int above = 0;  // without branches: most blocks have none
      for (std::int64_t i = first; i < last; ++i) above += nearest_[index(i)] > bound;
      if (above == 0) continue;
      for (std::int64_t i = first; i < last; ++i) {
        if (nearest_[index(i)] > bound) candidates_.push_back(static_cast<std::int32_t>(i));
      }
    }
  }

  void update_candidates() {
    sort_candidates();
    const auto count = static_cast<std::int64_t>(sorted_.size());
    parallel_for(divide_up(count, kPanelRows), num_threads_, [&](std::int64_t task) {
      const std::int64_t first = task * kPanelRows;
      Panel panel;
      std::vector<std::uint8_t> codes(index(kPanelRows * width_));
      Scratch scratch(width_);
      load(sorted_.data() + first, std::min(kPanelRows, count - first), panel, codes.data());
      update(panel, codes.data(), scratch);
      store(panel);
    });
  }

  /// Sorts candidates by the number of picks they have seen, so that the rows of a panel need the
  /// same picks.
  void sort_candidates() {
    places_.assign(index(num_picks_ / kPanelRows + 2), 0);
    const auto place = [&](std::int32_t row) -> std::int64_t& {
      return places_[index(num_seen_[index(row)] / kPanelRows)];
    };
    for (const std::int32_t row : candidates_) ++*(&place(row) + 1);
    for (std::size_t p = 1; p < places_.size(); ++p) places_[p] += places_[p - 1];
    sorted_.resize(candidates_.size());
    for (const std::int32_t row : candidates_) sorted_[index(place(row)++)] = row;
  }

  void activate(float bound) {
    sorted_.clear();
    for (const std::int32_t row : candidates_) {
      if (nearest_[index(row)] > bound) sorted_.push_back(row);
    }
    const auto count = static_cast<std::int64_t>(sorted_.size());
    active_.resize(index(divide_up(count, kPanelRows)));
    active_codes_.resize(active_.size() * index(kPanelRows * width_));
    for (std::int64_t p = 0; p * kPanelRows < count; ++p) {
      load(sorted_.data() + p * kPanelRows, std::min(kPanelRows, count - p * kPanelRows),
           active_[index(p)], active_codes_.data() + p * kPanelRows * width_);
    }
  }

  /// Picks the farthest active row until none is above the bound; true when all picks are made.
  bool pick_active(float bound) {
    for (;;) {
      Panel* farthest = nullptr;
      float largest = bound;
      for (Panel& panel : active_) {
        if (panel.largest <= largest) continue;
        largest = panel.largest;
        farthest = &panel;
      }
      if (farthest == nullptr) break;
      radii_[num_picks_ - 1] = std::sqrt(largest);
      if (num_picks_ == count_) return true;
      const auto place =
          std::find(farthest->nearest, farthest->nearest + kPanelRows, largest) - farthest->nearest;
      pick(farthest->rows[place]);
      set_nearest(*farthest, place, kPicked);
      for (std::size_t p = 0; p < active_.size(); ++p) {
        if (active_[p].largest <= bound) continue;
        update(active_[p], active_codes_.data() + p * index(kPanelRows * width_), active_scratch_);
      }
    }
    for (const Panel& panel : active_) store(panel);
    return false;
  }

  /// Picks the remaining rows, which all equal earlier picks.
  void pick_rest() {
    radii_[num_picks_ - 1] = 0.0f;
    for (std::int64_t row = 0; num_picks_ < count_; ++row) {
      if (nearest_[index(row)] == kPicked) continue;
      indices_[num_picks_] = row;
      radii_[num_picks_++] = 0.0f;
    }
  }

  void load(const std::int32_t* rows, std::int64_t count, Panel& panel, std::uint8_t* codes) const {
    for (std::int64_t i = 0; i < count && codes_ != nullptr; ++i) codes_->prefetch(rows[i]);
    panel.num_seen = num_picks_;
    for (std::int64_t i = 0; i < kPanelRows; ++i) {
      const std::int64_t row = rows[i < count ? i : 0];
      panel.rows[i] = static_cast<std::int32_t>(row);
      panel.num_seen = std::min<std::int64_t>(panel.num_seen, num_seen_[index(row)]);
      if (codes_ != nullptr) {
        panel.squared_norms[i] = codes_->squared_norm(row);
        panel.errors[i] = codes_->error(row);
      }
      set_nearest(panel, i, i < count ? nearest_[index(row)] : kPicked);
      if (codes_ != nullptr) lay_out(codes_->codes(row), width_, i, codes);
    }
    panel.num_rows = count;
    panel.largest = *std::max_element(panel.nearest, panel.nearest + kPanelRows);
  }

  /// Sets the distance of a row. If there are codes, also sets its offset: half of (b - |c|^2),
  /// where c are the codes of the row and b bounds |c - d|^2 for the codes d of a nearer pick.
  void set_nearest(Panel& panel, std::int64_t place, float nearest) const {
    panel.nearest[place] = nearest;
    if (codes_ == nullptr) return;
    if (nearest <= 0) {  // picked, or equal to a pick
      panel.offsets[place] = -kAlways;
      return;
    }
    const double reach =
        std::sqrt(nearest * (1 + lost_) + vanished_) + panel.errors[place] + error_of_picks_;
    const double most = reach * reach * squared_steps_ + 2;
    const double half = (most - panel.squared_norms[place]) / 2;
    panel.offsets[place] = half < kAlways ? static_cast<std::int32_t>(half) : kAlways;
  }

  /// Lowers the distances of a panel by measuring the picks it has not seen.
  void update(Panel& panel, const std::uint8_t* codes, Scratch& scratch) const {
    while (panel.num_seen < num_picks_) {
      const std::int64_t first = panel.num_seen / kScreenQueries * kScreenQueries;
      const std::int64_t last = std::min(first + kPicksAtOnce, num_picks_);
      list_survivors(panel, codes, first, last, scratch);
      measure_listed(panel, scratch);
      panel.num_seen = last;
    }
    panel.largest = *std::max_element(panel.nearest, panel.nearest + kPanelRows);
  }

  /// Lists the pairs of a row and a pick that may be nearer than all picks measured so far.
  void list_survivors(const Panel& panel, const std::uint8_t* codes, std::int64_t first,
                      std::int64_t last, Scratch& scratch) const {
    std::uint64_t survivors[kPicksAtOnce];
    if (codes_ == nullptr) {
      std::fill_n(survivors, last - first, ~std::uint64_t{0} >> (kPanelRows - panel.num_rows));
    } else {
      const std::int64_t padded = round_up(last - first, kScreenQueries);
      pack_(pick_codes_.data() + first * width_, padded * width_, scratch.picks.data());
      screen_(
          {scratch.picks.data(), padded, width_, codes, panel.offsets, scratch.workspace.data()},
          least_.data() + first, survivors);
    }
    scratch.count = 0;
    for (std::int64_t p = std::max(first, panel.num_seen); p < last; ++p) {
      for (std::uint64_t left = survivors[p - first]; left != 0; left &= left - 1) {
        scratch.add(panel, __builtin_ctzll(left), indices_[p]);
      }
    }
  }

  /// Measures the listed pairs.
  void measure_listed(Panel& panel, Scratch& scratch) const {
    measure_(features_, dim_, scratch.pairs.data(), scratch.count, scratch.distances.data());
    float lowered[kPanelRows];
    std::copy_n(panel.nearest, kPanelRows, lowered);
    for (std::int64_t i = 0; i < scratch.count; ++i) {
      float& nearest = lowered[scratch.places[index(i)]];
      nearest = std::min(nearest, scratch.distances[index(i)]);
    }
    for (std::int64_t i = 0; i < kPanelRows; ++i) {
      if (lowered[i] < panel.nearest[i]) set_nearest(panel, i, lowered[i]);
    }
  }

  void store(const Panel& panel) {
    for (std::int64_t i = 0; i < panel.num_rows; ++i) {
      nearest_[index(panel.rows[i])] = panel.nearest[i];
      num_seen_[index(panel.rows[i])] = static_cast<std::int32_t>(panel.num_seen);
    }
  }

  const CoresetDistances measure_ = AUTOPATCH_KERNEL(coreset_distances);
  const ScreenSurvivors screen_ = AUTOPATCH_KERNEL_VNNI(screen_survivors);
  const ScreenPackQueries pack_ = AUTOPATCH_KERNEL_VNNI(screen_pack_queries);

  const float* const features_;
  const std::int64_t num_rows_;
  const std::int64_t dim_;
  const std::int64_t count_;
  const int num_threads_;
  const RowCodes* const codes_;  // or null
  const std::int64_t width_;     // 0 without codes
  // A computed squared distance may be below the exact one: by less than a share `lost_` due to the
  // roundings of differences (twice, as they are squared), squares and sums, and by less than
  // `vanished_` due to underflowing squares.
  const double lost_;
  const double vanished_;
  double error_of_picks_ = 0;  // bound for all picks except outliers
  double squared_steps_ = 0;   // 1 / scale^2, rounded up

  std::int64_t num_picks_ = 0;
  std::int64_t* const indices_;
  float* const radii_;
  std::vector<std::int8_t> pick_codes_;
  std::vector<std::int32_t> least_;  // of picks; see `Panel`

  std::vector<float> nearest_;          // squared distance of each row to the nearest
  std::vector<std::int32_t> num_seen_;  // of this many first picks
  std::vector<float> sample_;
  std::vector<std::int32_t> candidates_;
  std::vector<std::int64_t> places_;
  std::vector<std::int32_t> sorted_;
  std::vector<Panel> active_;
  std::vector<std::uint8_t> active_codes_;
  Scratch active_scratch_;
};

}  // namespace

void greedy_coreset_cpu(const float* features, std::int64_t num_rows, std::int64_t dim,
                        std::int64_t count, std::int64_t start, const Coding* coding,
                        std::int64_t* indices, float* radii, int num_threads) {
  std::optional<RowCodes> codes;
  if (coding != nullptr) codes.emplace(features, num_rows, *coding, num_threads);
  const bool usable = codes.has_value() && codes->usable();
  Coreset(features, num_rows, dim, count, usable ? &*codes : nullptr, indices, radii, num_threads)
      .run(start);
}

}  // namespace autopatch
