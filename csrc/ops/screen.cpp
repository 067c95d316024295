#include "ops/screen.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <new>
#include <type_traits>
#include <utility>

#include "core/index.hpp"
#include "core/isa.hpp"
#include "core/parallel.hpp"
#include "core/rounding.hpp"
#include "ops/cpu/screen.hpp"

namespace autopatch {
namespace {

constexpr std::uint64_t kMagic = 0x6e65657263735041U;
constexpr std::int64_t kBlock = 64;          // vectors that a thread processes at a time
constexpr double kSegmentRatio = 2;          // ratio of the scales of successive segments
constexpr std::int32_t kNever = -(1 << 30);  // offset of a slot without a row

std::int64_t max_slots(std::int64_t num_rows) {
  return round_up(num_rows, kPanelRows) + (kScreenSegments - 1) * kPanelRows;
}

std::int64_t pivots_for(std::int64_t num_rows) {
  if (num_rows < 1024) return 0;
  const double panels = std::sqrt(static_cast<double>(num_rows)) / kPanelRows;
  return kPanelRows * std::clamp<std::int64_t>(std::llround(panels), 1, 8);
}

/// Rearranges the [64, width] codes of a panel to [width / 4][64][4], in place.
void lay_out_panel(std::uint8_t* codes, std::int64_t width) {
  const std::vector<std::uint8_t> rows(codes, codes + kPanelRows * width);
  for (std::int64_t r = 0; r < kPanelRows; ++r) {
    for (std::int64_t d = 0; d < width; d += 4) {
      std::memcpy(codes + d * kPanelRows + 4 * r, rows.data() + r * width + d, 4);
    }
  }
}

struct Placement {
  std::int32_t segment;
  std::int32_t pivot;
};

/// The first segment whose box holds the coordinates; the last segment if none does.
std::int32_t segment_of(const float* coordinates, std::int64_t width, double error, double scale) {
  const double magnitude = magnitude_of(coordinates, width);
  if (scale > 0 && std::isfinite(error)) {
    for (std::int32_t s = 0; s + 1 < kScreenSegments; ++s, scale *= kSegmentRatio) {
      if (magnitude <= kMaxCode * scale) return s;
    }
  }
  return kScreenSegments - 1;
}

template <typename Range>
void parallel_blocks(std::int64_t count, int num_threads, const Range& range) {
  parallel_for(divide_up(count, kBlock), num_threads, [&](std::int64_t block) {
    range(block * kBlock, std::min(count, (block + 1) * kBlock));
  });
}

std::uint64_t hash_of(const float* row, std::int64_t dim) {
  constexpr int kLanes = 4;  // independent lanes of two features each
  constexpr std::int64_t kPair = 2;
  constexpr std::uint64_t kFactor = 0x9e3779b97f4a7c15U;
  std::uint64_t lanes[kLanes] = {};
  const auto add = [&](int lane, const float* values, std::int64_t count) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, values, index(count) * sizeof *values);
    lanes[lane] = (lanes[lane] ^ bits ^ (lanes[lane] >> 32)) * kFactor;
  };
  std::int64_t d = 0;
  for (; d + kLanes * kPair <= dim; d += kLanes * kPair) {
    for (int i = 0; i < kLanes; ++i) add(i, row + d + i * kPair, kPair);
  }
  for (int i = 0; d < dim; ++i, d += kPair) add(i, row + d, std::min(kPair, dim - d));
  std::uint64_t hash = 0;
  for (const std::uint64_t lane : lanes) hash = ((hash ^ lane ^ (lane >> 32)) * kFactor);
  return hash;
}

/// Fills `twins` (see ScreenView) and returns the rows that have no identical row before them. Rows
/// with different hashes count as different.
std::vector<std::int32_t> find_twins(const float* bank, std::int64_t num_rows, std::int64_t dim,
                                     const std::vector<std::uint64_t>& hashes,
                                     std::int32_t* twins) {
  // Maximum number of compared rows with the same hash; further rows count as different.
  constexpr int kMostCompared = 8;
  // Only the highest bits of a product depend on all bits of its factors.
  int place_bits = 1;
  while ((std::size_t{1} << place_bits) < hashes.size() + hashes.size() / 2) ++place_bits;
  const std::size_t mask = (std::size_t{1} << place_bits) - 1;
  std::vector<std::int32_t> latest(mask + 1, -1);  // last of identical rows, by hash
  std::vector<std::int32_t> firsts;
  std::fill(twins, twins + num_rows, -1);
  for (std::int32_t row = 0; row < num_rows; ++row) {
    const std::uint64_t hash = hashes[index(row)];
    bool is_first = true;
    int compared = 0;
    std::size_t place = hash >> (64 - place_bits);
    for (; latest[place] >= 0 && compared < kMostCompared; place = (place + 1) & mask) {
      const std::int32_t other = latest[place];
      if (hashes[index(other)] != hash) continue;
      ++compared;
      if (std::memcmp(bank + other * dim, bank + row * dim, index(dim) * sizeof *bank) == 0) {
        twins[other] = row;
        is_first = false;
        break;
      }
    }
    if (is_first) firsts.push_back(row);
    if (compared < kMostCompared || !is_first) latest[place] = row;
  }
  return firsts;
}

/// Places the parts of a screen in `memory` unless it is null. Returns their size.
std::int64_t place(const ScreenHeader& header, char* memory, ScreenView& view) {
  std::int64_t size = 0;
  const auto take = [&](auto*& part, std::int64_t count) {
    using Part = std::remove_reference_t<decltype(part)>;
    if (memory != nullptr) part = reinterpret_cast<Part>(memory + size);
    size += round_up(count * static_cast<std::int64_t>(sizeof *part), 64);
  };
  const std::int64_t slots = max_slots(header.num_rows);
  take(view.header, 1);
  take(view.mean, header.dim);
  take(view.basis, header.is_projected ? header.dim * header.width : 0);
  take(view.pivot_starts, header.num_pivots + 1);
  take(view.pivot_offsets, header.num_pivots);
  take(view.pivot_codes, header.num_pivots * header.width);
  take(view.rows, slots);
  take(view.twins, header.num_rows);
  take(view.offsets, slots);
  take(view.codes, slots * header.width);
  return size;
}

ScreenHeader header_of(std::int64_t num_rows, std::int64_t dim, std::int64_t width,
                       bool is_projected) {
  ScreenHeader header{};
  header.magic = kMagic;
  header.num_rows = num_rows;
  header.dim = dim;
  header.width = width;
  header.num_pivots = pivots_for(num_rows);
  header.is_projected = is_projected;
  return header;
}

/// Moves record `rows[t]` of `records`, each of `size` bytes, to place t for every t in [0, count)
/// with rows[t] >= 0. Works in place, since a copy might be large.
void permute(std::uint8_t* records, std::int64_t size, const std::int32_t* rows,
             std::int64_t count) {
  const auto bytes = index(size);
  std::vector<std::int32_t> source(rows, rows + count);
  std::vector<char> is_source(source.size(), 0);
  for (const std::int32_t row : source) {
    if (row >= 0) is_source[index(row)] = 1;
  }
  std::vector<std::uint8_t> first(bytes);
  const auto fill_from = [&](std::int64_t place) {
    if (source[index(place)] < 0) return;
    std::memcpy(first.data(), records + place * size, bytes);
    std::int64_t to = place;
    for (;;) {
      const std::int64_t from = std::exchange(source[index(to)], -1);
      std::memcpy(records + to * size, from == place ? first.data() : records + from * size, bytes);
      if (from == place || source[index(from)] < 0) break;
      to = from;
    }
  };
  // First the chains, which start at places whose records do not move. Then only cycles remain.
  for (std::int64_t place = 0; place < count; ++place) {
    if (is_source[index(place)] == 0) fill_from(place);
  }
  for (std::int64_t place = 0; place < count; ++place) fill_from(place);
}

}  // namespace

ScreenView view_screen(const void* memory) {
  ScreenView view{};
  auto* base = static_cast<char*>(const_cast<void*>(memory));
  place(*reinterpret_cast<ScreenHeader*>(base), base, view);
  return view;
}

std::int64_t screen_bytes(std::int64_t num_rows, std::int64_t dim, std::int64_t width,
                          bool is_projected) {
  ScreenView view{};
  return place(header_of(num_rows, dim, width, is_projected), nullptr, view);
}

bool is_screen(const void* memory, std::int64_t bytes, std::int64_t num_rows, std::int64_t dim) {
  if (bytes < static_cast<std::int64_t>(sizeof(ScreenHeader))) return false;
  if (reinterpret_cast<std::uintptr_t>(memory) % alignof(ScreenHeader) != 0) return false;
  const auto& header = *static_cast<const ScreenHeader*>(memory);
  const bool is_projected = header.is_projected != 0;
  if (header.magic != kMagic || header.num_rows != num_rows || header.dim != dim ||
      header.num_pivots != pivots_for(num_rows)) {
    return false;
  }
  if (is_projected ? header.width < 1 || header.width > kMaxWidth || header.width % 16 != 0
                   : header.width != round_up(dim, 4)) {
    return false;
  }
  if (screen_bytes(num_rows, dim, header.width, is_projected) != bytes) return false;
  // Check everything used as a position, except `rows` and `twins`, which are checked on use.
  const std::int64_t slots = max_slots(num_rows);
  for (const ScreenSegment& segment : header.segments) {
    if (segment.first_panel < 0 || segment.last_panel < segment.first_panel ||
        segment.last_panel > slots / kPanelRows) {
      return false;
    }
  }
  const std::int64_t* starts = view_screen(memory).pivot_starts;
  return starts[0] >= 0 && std::is_sorted(starts, starts + header.num_pivots + 1) &&
         starts[header.num_pivots] <= slots;
}

Coding coding_of(const ScreenView& screen) {
  const ScreenHeader& header = *screen.header;
  return {header.dim,         header.width,
          screen.mean,        header.is_projected != 0 ? screen.basis : nullptr,
          header.basis_error, header.norm_center};
}

void nearest_pivots(const ScreenView& screen, const std::int8_t* codes, std::int64_t count,
                    std::int64_t* pivots) {
  const std::int64_t width = screen.header->width;
  const ScreenPackQueries pack = AUTOPATCH_KERNEL_VNNI(screen_pack_queries);
  const ScreenLargest find_largest = AUTOPATCH_KERNEL_VNNI(screen_largest);
  std::vector<std::int16_t> packed(index(count * width));
  std::vector<std::int16_t> workspace(index(kPanelRows * width));
  std::vector<std::int32_t> largest(index(count), std::numeric_limits<std::int32_t>::min());
  pack(codes, count * width, packed.data());
  for (std::int64_t p = 0; p < screen.header->num_pivots; p += kPanelRows) {
    find_largest({packed.data(), count, width, screen.pivot_codes + p * width,
                  screen.pivot_offsets + p, workspace.data()},
                 p, largest.data(), pivots);
  }
}

namespace {

class ScreenBuilder {
 public:
  ScreenBuilder(const float* bank, const ScreenView& screen, int num_threads)
      : bank_(bank),
        screen_(screen),
        num_rows_(screen.header->num_rows),
        dim_(screen.header->dim),
        width_(screen.header->width),
        num_threads_(num_threads),
        coding_(coding_of(screen)),
        scale_(fit_scale(bank, num_rows_, coding_)),
        placements_(index(num_rows_)),
        offsets_(index(num_rows_)),
        errors_(index(num_rows_)),
        hashes_(index(num_rows_)) {}

  void build() {
    screen_.header->norm_center = coding_.norm_center;
    code_rows();
    std::vector<std::int32_t> rows = find_twins(bank_, num_rows_, dim_, hashes_, screen_.twins);
    choose_pivots(rows);
    assign_pivots();
    place_rows(sorted_by_placement(rows));
    permute(screen_.codes, width_, screen_.rows, max_slots(num_rows_));
    parallel_for(screen_.header->num_panels, num_threads_, [&](std::int64_t panel) {
      lay_out_panel(screen_.codes + panel * kPanelRows * width_, width_);
    });
  }

 private:
  double scale_of(std::int32_t segment) const {
    return segment + 1 < kScreenSegments ? scale_ * std::pow(kSegmentRatio, segment) : 0.0;
  }

  /// Writes the codes of all rows, [num_rows, width], and finds the segment of each.
  void code_rows() {
    parallel_blocks(num_rows_, num_threads_, [&](std::int64_t first, std::int64_t last) {
      Coordinates block;
      std::vector<std::int8_t> codes(index(width_));
      find_coordinates(coding_, bank_ + first * dim_, last - first, block);
      for (std::int64_t i = first; i < last; ++i) {
        const float* u = block.values.data() + (i - first) * width_;
        const double error = block.error[index(i - first)];
        // There are no more coordinates than features. Coordinates without an error bound are zero.
        hashes_[index(i)] =
            std::isfinite(error) ? hash_of(u, width_) : hash_of(bank_ + i * dim_, dim_);
        const std::int32_t segment = segment_of(u, width_, error, scale_);
        placements_[index(i)] = {segment, 0};
        std::fill(codes.begin(), codes.end(), std::int8_t{0});
        if (segment + 1 < kScreenSegments) {
          const Code code = quantize(u, width_, scale_of(segment), error, codes.data());
          errors_[index(i)] = code.error + code.clamped;
          offsets_[index(i)] = static_cast<std::int32_t>(-(code.squared_norm / 2));
        }
        std::uint8_t* out = screen_.codes + i * width_;
        for (std::int64_t d = 0; d < width_; ++d) {
          out[d] = static_cast<std::uint8_t>(codes[index(d)] + 128);
        }
      }
    });
  }

  /// Chooses evenly spaced rows of the first segment as pivots.
  void choose_pivots(const std::vector<std::int32_t>& rows) {
    std::vector<std::int32_t> candidates;
    std::copy_if(rows.begin(), rows.end(), std::back_inserter(candidates),
                 [&](std::int32_t row) { return placements_[index(row)].segment == 0; });
    const std::int64_t pivots = screen_.header->num_pivots;
    const auto count = static_cast<std::int64_t>(candidates.size());
    std::fill(screen_.pivot_codes, screen_.pivot_codes + pivots * width_, std::uint8_t{128});
    std::fill(screen_.pivot_offsets, screen_.pivot_offsets + pivots, 0);
    for (std::int64_t p = 0; p < pivots && count > 0; ++p) {
      const std::int64_t row = candidates[index(p * count / pivots)];
      std::copy_n(screen_.codes + row * width_, width_, screen_.pivot_codes + p * width_);
      screen_.pivot_offsets[p] = offsets_[index(row)];
    }
    for (std::int64_t p = 0; p < pivots; p += kPanelRows) {
      lay_out_panel(screen_.pivot_codes + p * width_, width_);
    }
  }

  void assign_pivots() {
    if (screen_.header->num_pivots == 0) return;
    parallel_blocks(num_rows_, num_threads_, [&](std::int64_t first, std::int64_t last) {
      const std::int64_t padded = round_up(last - first, kScreenQueries);
      std::vector<std::int8_t> codes(index(padded * width_), 0);
      for (std::int64_t i = 0; i < (last - first) * width_; ++i) {
        codes[index(i)] = static_cast<std::int8_t>(screen_.codes[first * width_ + i] - 128);
      }
      std::vector<std::int64_t> nearest(index(padded));
      nearest_pivots(screen_, codes.data(), padded, nearest.data());
      for (std::int64_t i = first; i < last; ++i) {
        Placement& placement = placements_[index(i)];
        if (placement.segment == 0) {
          placement.pivot = static_cast<std::int32_t>(nearest[index(i - first)]);
        }
      }
    });
  }

  /// Sorts rows by segment, then by pivot. The sort is stable.
  std::vector<std::int32_t> sorted_by_placement(const std::vector<std::int32_t>& rows) const {
    const std::int64_t pivots = std::max<std::int64_t>(screen_.header->num_pivots, 1);
    const auto key = [&](std::int32_t row) {
      const Placement& placement = placements_[index(row)];
      return index(placement.segment * pivots + placement.pivot);
    };
    std::vector<std::size_t> places(index(kScreenSegments * pivots));
    for (const std::int32_t row : rows) ++places[key(row)];
    std::size_t total = 0;
    for (std::size_t& place : places) total += std::exchange(place, total);
    std::vector<std::int32_t> sorted(rows.size());
    for (const std::int32_t row : rows) sorted[places[key(row)]++] = row;
    return sorted;
  }

  /// Assigns slots to rows in this order. Every segment starts a new panel.
  void place_rows(const std::vector<std::int32_t>& rows) {
    ScreenHeader& header = *screen_.header;
    const std::int64_t slots = max_slots(num_rows_);
    std::fill(screen_.rows, screen_.rows + slots, -1);
    std::fill(screen_.offsets, screen_.offsets + slots, kNever);
    std::fill(screen_.pivot_starts, screen_.pivot_starts + header.num_pivots + 1, std::int64_t{0});
    std::int64_t slot = 0;
    auto row = rows.begin();
    for (std::int32_t s = 0; s < kScreenSegments; ++s) {
      ScreenSegment& segment = header.segments[s];
      segment = {slot / kPanelRows, 0, scale_of(s), 0.0};
      for (; row != rows.end() && placements_[index(*row)].segment == s; ++row, ++slot) {
        if (s == 0 && header.num_pivots > 0) {
          screen_.pivot_starts[placements_[index(*row)].pivot + 1] = slot + 1;
        }
        segment.error = std::max(segment.error, errors_[index(*row)]);
        screen_.rows[slot] = *row;
        screen_.offsets[slot] = offsets_[index(*row)];
      }
      slot = round_up(slot, kPanelRows);
      segment.last_panel = slot / kPanelRows;
    }
    header.num_panels = slot / kPanelRows;
    for (std::int64_t p = 0; p < header.num_pivots; ++p) {
      screen_.pivot_starts[p + 1] = std::max(screen_.pivot_starts[p + 1], screen_.pivot_starts[p]);
    }
  }

  const float* bank_;
  const ScreenView& screen_;
  const std::int64_t num_rows_;
  const std::int64_t dim_;
  const std::int64_t width_;
  const int num_threads_;
  Coding coding_;
  const double scale_;
  std::vector<Placement> placements_;
  std::vector<std::int32_t> offsets_;
  std::vector<double> errors_;
  std::vector<std::uint64_t> hashes_;
};

}  // namespace

void build_screen(const float* bank, std::int64_t num_rows, std::int64_t dim, const float* mean,
                  const float* basis, std::int64_t width, double basis_error, void* memory,
                  int num_threads) {
  new (memory) ScreenHeader(header_of(num_rows, dim, width, basis != nullptr));
  const ScreenView screen = view_screen(memory);
  screen.header->basis_error = basis_error;
  std::copy_n(mean, dim, screen.mean);
  if (basis != nullptr) std::copy_n(basis, dim * width, screen.basis);
  ScreenBuilder(bank, screen, num_threads).build();
}

}  // namespace autopatch
