#include "ops/nearest_neighbors.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/index.hpp"
#include "core/isa.hpp"
#include "core/parallel.hpp"
#include "core/rounding.hpp"
#include "ops/cpu/nearest_neighbors.hpp"
#include "ops/cpu/screen.hpp"
#include "ops/screen.hpp"

namespace autopatch {
namespace {

constexpr std::int64_t kMaxBlock = 256;  // queries a thread takes at a time
constexpr std::int64_t kMaxWarm = 32;    // up to this k, the nearest cluster is searched first
constexpr std::int32_t kAll = -(1 << 29);
constexpr std::int32_t kNone = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kCacheLine = 64;
constexpr std::int64_t kPrefetched = 1024;  // bytes of a row; the hardware prefetches the rest

/// The nearest rows of a query found so far, ordered by distance, then by row.
class NearestList {
 public:
  NearestList(float* distances, std::int64_t* rows, std::int64_t k)
      : distances_(distances), rows_(rows), k_(k) {}

  float farthest() const { return distances_[k_ - 1]; }

  /// Returns whether the row was near enough and not yet in the list.
  bool insert(float distance, std::int64_t row) {
    if (!before(distance, row, k_ - 1)) return false;
    std::int64_t at = k_ - 1;
    while (at > 0 && before(distance, row, at - 1)) --at;
    if (at > 0 && rows_[at - 1] == row) return false;
    std::copy_backward(distances_ + at, distances_ + k_ - 1, distances_ + k_);
    std::copy_backward(rows_ + at, rows_ + k_ - 1, rows_ + k_);
    distances_[at] = distance;
    rows_[at] = row;
    return true;
  }

 private:
  bool before(float distance, std::int64_t row, std::int64_t i) const {
    return distance < distances_[i] || (distance == distances_[i] && row < rows_[i]);
  }

  float* distances_;
  std::int64_t* rows_;
  std::int64_t k_;
};

/// Searches a bank with a screen for one block of queries.
class ScreenedSearch {
 public:
  ScreenedSearch(const ScreenView& screen, const float* bank, std::int64_t k)
      : screen_(screen),
        header_(*screen.header),
        bank_(bank),
        k_(k),
        workspace_(index(kPanelRows * header_.width)) {}

  void run(const float* queries, std::int64_t count, float* distances, std::int64_t* indices) {
    queries_ = queries;
    count_ = count;
    padded_ = round_up(count, kScreenQueries);
    distances_ = distances;
    indices_ = indices;
    codes_.assign(index(padded_ * header_.width), 0);
    packed_.resize(codes_.size());
    code_.resize(index(count));
    least_.assign(index(padded_), kNone);
    survivors_.assign(index(padded_), 0);
    find_coordinates(coding_of(screen_), queries, count, coordinates_);
    for (std::int64_t s = 0; s < kScreenSegments; ++s) {
      const ScreenSegment& segment = header_.segments[s];
      if (segment.first_panel == segment.last_panel) continue;
      if (segment.scale == 0) {
        take_all(segment);
        continue;
      }
      for (std::int64_t q = 0; q < count; ++q) {
        code_[index(q)] =
            quantize(coordinates_.values.data() + q * header_.width, header_.width, segment.scale,
                     coordinates_.error[index(q)], codes_.data() + q * header_.width);
      }
      if (s == 0 && header_.num_pivots > 0 && k_ <= kMaxWarm) search_own_clusters();
      search(segment);
    }
  }

  /// What was done in all runs.
  const SearchCounts& counts() const { return counts_; }

 private:
  NearestList list(std::int64_t q) const { return {distances_ + q * k_, indices_ + q * k_, k_}; }
  float farthest(std::int64_t q) const { return list(q).farthest(); }

  /// The least value with which a row may be near enough, from the inequality in screen.hpp with
  /// |c_q - c_r|^2 = |c_q|^2 - 2 value', value' = c_q . c_r - |c_r|^2 / 2. Allows for the 128 added
  /// to the codes of a panel, the rounding up of its offsets, and the rounding of `farthest`.
  std::int32_t least_value(std::int64_t q, const ScreenSegment& segment) const {
    const float farthest_found = farthest(q);
    const Code& code = code_[index(q)];
    if (!std::isfinite(farthest_found) || !std::isfinite(code.error)) return kAll;
    constexpr double kOfDistance = 2e-5;
    const double reach =
        std::sqrt(static_cast<double>(farthest_found) * (1 + kOfDistance) +
                  static_cast<double>(header_.dim) * std::numeric_limits<float>::min()) +
        segment.error;
    const double within = reach * reach * (1 + 1e-12) - code.clamped * code.clamped;
    if (within < 0) return kNone;
    const double radius = (std::sqrt(within) + code.error) / segment.scale;
    const double least =
        (static_cast<double>(code.squared_norm) - radius * radius * (1 + 1e-12)) / 2 +
        128.0 * static_cast<double>(code.sum) - 1;
    if (!(least > kAll)) return kAll;  // also if NaN
    return static_cast<std::int32_t>(std::min(std::floor(least), static_cast<double>(kNone)));
  }

  bool is_row(std::int64_t row) const { return row >= 0 && row < header_.num_rows; }

  /// Computes the distances of a query to the rows in `found_` and keeps the nearest. Row numbers
  /// come from the screen's memory, which the caller may have overwritten, so invalid ones are
  /// dropped.
  void check(std::int64_t q) {
    const auto is_none = [this](std::int64_t row) { return !is_row(row); };
    found_.erase(std::remove_if(found_.begin(), found_.end(), is_none), found_.end());
    const auto count = static_cast<std::int64_t>(found_.size());
    found_distances_.resize(found_.size());
    counts_.distances += count;
    ++counts_.visits;
    distances_to_(queries_ + q * header_.dim, bank_, header_.dim, found_.data(), count,
                  found_distances_.data());
    NearestList nearest = list(q);
    for (std::int64_t i = 0; i < count; ++i) {
      std::int64_t row = found_[index(i)];
      while (is_row(row) && nearest.insert(found_distances_[index(i)], row)) {
        row = screen_.twins[row];
      }
    }
  }

  void take_all(const ScreenSegment& segment) {
    for (std::int64_t panel = segment.first_panel; panel < segment.last_panel; ++panel) {
      found_.clear();
      for (std::int64_t r = 0; r < kPanelRows; ++r) {
        found_.push_back(screen_.rows[panel * kPanelRows + r]);
      }
      for (std::int64_t q = 0; q < count_; ++q) check(q);
    }
  }

  /// Searches the rows of the query's nearest pivot, so that `farthest` prunes from the first panel
  /// on.
  void search_own_clusters() {
    const std::int64_t width = header_.width;
    std::vector<std::int64_t> pivots(index(padded_));
    nearest_pivots(screen_, codes_.data(), padded_, pivots.data());
    std::vector<std::int64_t> order(index(count_));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return pivots[index(a)] < pivots[index(b)];
    });
    std::vector<std::int8_t> codes(index(kScreenQueries * width));
    std::vector<std::int16_t> packed(codes.size());
    std::vector<std::int32_t> values;
    for (std::int64_t i = 0; i < count_;) {
      const std::int64_t pivot = pivots[index(order[index(i)])];
      std::int64_t queries = 1;
      while (queries < kScreenQueries && i + queries < count_ &&
             pivots[index(order[index(i + queries)])] == pivot) {
        ++queries;
      }
      const std::int64_t start = screen_.pivot_starts[pivot];
      const std::int64_t end = screen_.pivot_starts[pivot + 1];
      if (start < end) {
        for (std::int64_t q = 0; q < queries; ++q) {
          std::copy_n(codes_.data() + order[index(i + q)] * width, width, codes.data() + q * width);
        }
        pack_(codes.data(), kScreenQueries * width, packed.data());
        const std::int64_t first_panel = start / kPanelRows;
        const std::int64_t last_panel = divide_up(end, kPanelRows);
        const std::int64_t stride = (last_panel - first_panel) * kPanelRows;
        values.resize(index(kScreenQueries * stride));
        for (std::int64_t panel = first_panel; panel < last_panel; ++panel) {
          values_(task(packed.data(), kScreenQueries, panel),
                  values.data() + (panel - first_panel) * kPanelRows, stride);
        }
        for (std::int64_t q = 0; q < queries; ++q) {
          best_of(values.data() + q * stride + start - first_panel * kPanelRows, start,
                  end - start);
          check(order[index(i + q)]);
        }
      }
      i += queries;
    }
  }

  /// Puts the rows of the k largest of `count` values into `found_`.
  void best_of(const std::int32_t* values, std::int64_t first_slot, std::int64_t count) {
    found_.clear();
    std::int32_t kept[kMaxWarm];
    std::int64_t size = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      if (size == k_ && values[i] <= kept[size - 1]) continue;
      std::int64_t at = size < k_ ? size++ : k_ - 1;
      found_.resize(index(size));
      for (; at > 0 && values[i] > kept[at - 1]; --at) {
        kept[at] = kept[at - 1];
        found_[index(at)] = found_[index(at - 1)];
      }
      kept[at] = values[i];
      found_[index(at)] = screen_.rows[first_slot + i];
    }
  }

  void search(const ScreenSegment& segment) {
    pack_(codes_.data(), padded_ * header_.width, packed_.data());
    for (std::int64_t q = 0; q < count_; ++q) least_[index(q)] = least_value(q, segment);
    for (std::int64_t panel = segment.first_panel; panel < segment.last_panel; ++panel) {
      survivors_of_(task(packed_.data(), padded_, panel), least_.data(), survivors_.data());
      const std::int32_t* rows = screen_.rows + panel * kPanelRows;
      hits_.clear();
      for (std::int64_t q = 0; q < count_; ++q) {
        std::uint64_t bits = survivors_[index(q)];
        if (bits == 0) continue;
        hits_.push_back(q);
        for (; bits != 0; bits &= bits - 1) prefetch(rows[__builtin_ctzll(bits)]);
      }
      for (const std::int64_t q : hits_) {
        found_.clear();
        for (std::uint64_t bits = survivors_[index(q)]; bits != 0; bits &= bits - 1) {
          found_.push_back(rows[__builtin_ctzll(bits)]);
        }
        const float before = farthest(q);
        check(q);
        if (farthest(q) < before) least_[index(q)] = least_value(q, segment);
      }
    }
  }

  void prefetch(std::int64_t row) const {
    const auto* bytes = reinterpret_cast<const char*>(bank_ + row * header_.dim);
    const std::int64_t size =
        std::min<std::int64_t>(header_.dim * static_cast<std::int64_t>(sizeof(float)), kPrefetched);
    for (std::int64_t i = 0; i < size; i += kCacheLine) __builtin_prefetch(bytes + i);
  }

  ScreenTask task(const std::int16_t* packed, std::int64_t queries, std::int64_t panel) {
    return {packed,
            queries,
            header_.width,
            screen_.codes + panel * kPanelRows * header_.width,
            screen_.offsets + panel * kPanelRows,
            workspace_.data()};
  }

  const ScreenPackQueries pack_ = AUTOPATCH_KERNEL_VNNI(screen_pack_queries);
  const ScreenSurvivors survivors_of_ = AUTOPATCH_KERNEL_VNNI(screen_survivors);
  const ScreenValues values_ = AUTOPATCH_KERNEL_VNNI(screen_values);
  const SquaredDistances distances_to_ = AUTOPATCH_KERNEL(squared_distances);
  const ScreenView& screen_;
  const ScreenHeader& header_;
  const float* bank_;
  const std::int64_t k_;
  const float* queries_ = nullptr;
  std::int64_t count_ = 0;
  std::int64_t padded_ = 0;
  float* distances_ = nullptr;
  std::int64_t* indices_ = nullptr;
  Coordinates coordinates_;
  std::vector<std::int8_t> codes_;    // [padded, width]
  std::vector<std::int16_t> packed_;  // the same in the layout of the kernels
  std::vector<Code> code_;
  std::vector<std::int32_t> least_;
  std::vector<std::uint64_t> survivors_;
  std::vector<std::int64_t> hits_;
  std::vector<std::int64_t> found_;
  std::vector<float> found_distances_;
  std::vector<std::int16_t> workspace_;
  SearchCounts counts_{};
};

/// Searches all rows of the bank for one query.
void search_all(const float* query, const float* bank, std::int64_t num_rows, std::int64_t dim,
                NearestList nearest) {
  constexpr std::int64_t kRows = 64;  // rows measured at a time
  const SquaredDistances distances_to = AUTOPATCH_KERNEL(squared_distances);
  std::int64_t rows[kRows];
  float distances[kRows];
  for (std::int64_t first = 0; first < num_rows; first += kRows) {
    const std::int64_t count = std::min(kRows, num_rows - first);
    std::iota(rows, rows + count, first);
    distances_to(query, bank, dim, rows, count, distances);
    for (std::int64_t i = 0; i < count; ++i) nearest.insert(distances[i], rows[i]);
  }
}

}  // namespace

void nearest_neighbors_cpu(const float* queries, std::int64_t num_queries, const float* bank,
                           std::int64_t num_rows, std::int64_t dim, const void* screen,
                           std::int64_t k, float* distances, std::int64_t* indices,
                           SearchCounts* counts, int num_threads) {
  std::fill(distances, distances + num_queries * k, std::numeric_limits<float>::infinity());
  std::fill(indices, indices + num_queries * k, std::int64_t{-1});
  if (screen == nullptr) {
    parallel_for(num_queries, num_threads, [&](std::int64_t q) {
      search_all(queries + q * dim, bank, num_rows, dim, {distances + q * k, indices + q * k, k});
    });
  } else {
    const ScreenView view = view_screen(screen);
    // Blocks of equal size, the same number for each thread.
    const std::int64_t at_once = kMaxBlock * num_threads;
    const std::int64_t blocks =
        std::max<std::int64_t>(divide_up(num_queries, at_once), 1) * num_threads;
    const std::int64_t block = std::max<std::int64_t>(divide_up(num_queries, blocks), 1);
    std::atomic<std::int64_t> computed{0};
    std::atomic<std::int64_t> visits{0};
    parallel_for(divide_up(num_queries, block), num_threads, [&](std::int64_t b) {
      const std::int64_t first = b * block;
      ScreenedSearch search(view, bank, k);
      search.run(queries + first * dim, std::min(block, num_queries - first), distances + first * k,
                 indices + first * k);
      computed += search.counts().distances;
      visits += search.counts().visits;
    });
    if (counts != nullptr) {
      counts->distances += computed;
      counts->visits += visits;
    }
  }
  for (std::int64_t q = 0; q < num_queries; ++q) {
    if (indices[q * k + k - 1] < 0) {
      throw std::invalid_argument(
          "row " + std::to_string(q) +
          " of `queries` has fewer than `k` finite squared distances to "
          "`bank`: it holds NaN, infinity or values beyond the range of float32");
    }
  }
}

}  // namespace autopatch
