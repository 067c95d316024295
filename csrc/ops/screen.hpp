#pragma once

#include <cstdint>

#include "ops/codes.hpp"

namespace autopatch {

/// An 8-bit approximation of a bank. It rules out rows that cannot be near a query, and needs far
/// fewer bytes and operations than the bank itself.
///
/// Rows have codes c (see codes.hpp); a query is clamped to the box of the codes first. With
/// I = |c_query - c_row|^2, an integer known exactly from 8-bit products,
///
///     distance(query, row) <= sqrt(T)  implies
///     scale * sqrt(I) <= error_query + sqrt((sqrt(T) + error_row)^2 - clamped_query^2).
///
/// For any point of the box, the squared distance to the query is at least the squared distance to
/// the clamped query plus clamped_query^2 (Pythagoras). A row that violates the inequality has a
/// squared distance above T.
///
/// Rows are stored in slots, ordered by segment and, within the first segment, by nearest pivot. Of
/// identical rows only the first has a slot. Each segment has its own scale, so that a few outliers
/// do not reduce the resolution of the rest. Rows that no scale fits go to the last segment and are
/// never screened out. Slots are padded to whole panels.
struct ScreenSegment {
  std::int64_t first_panel;
  std::int64_t last_panel;  // one past the segment's last panel
  double scale;             // 0: nothing is screened out
  double error;             // bound for every row of the segment
};

constexpr std::int64_t kScreenSegments = 16;

/// Header at the start of a screen's memory; the arrays of `ScreenView` follow.
struct ScreenHeader {
  std::uint64_t magic;
  std::int64_t num_rows;
  std::int64_t dim;
  std::int64_t width;
  std::int64_t num_panels;
  std::int64_t num_pivots;  // a multiple of the panel size
  std::int64_t is_projected;
  double basis_error;  // bound of |V'V - I|
  double norm_center;  // subtracted from the last coordinate if projected
  ScreenSegment segments[kScreenSegments];
};

/// The parts of a screen, in one block of memory.
struct ScreenView {
  ScreenHeader* header;
  float* mean;                  // [dim]
  float* basis;                 // [dim, width], its last column zero; none if not projected
  std::int64_t* pivot_starts;   // [num_pivots + 1] slots
  std::int32_t* pivot_offsets;  // [num_pivots]
  std::uint8_t* pivot_codes;    // panels
  std::int32_t* rows;           // [slots] rows of the bank; the first of identical rows
  std::int32_t* twins;          // [num_rows] next identical row, or -1
  std::int32_t* offsets;        // [slots] -|c|^2 / 2 rounded up, very low for padding
  std::uint8_t* codes;          // panels, of codes + 128
};

/// The parts of the screen in `memory`.
ScreenView view_screen(const void* memory);

/// Bytes of the screen of a bank. `width` is `dim` rounded up to 4 without projection, else the
/// number of directions + 1, a multiple of 16.
std::int64_t screen_bytes(std::int64_t num_rows, std::int64_t dim, std::int64_t width,
                          bool is_projected);

/// Whether `memory` of `bytes` holds a screen for a bank of this shape. If so, a search with it
/// never accesses memory out of bounds, even if its contents were altered.
bool is_screen(const void* memory, std::int64_t bytes, std::int64_t num_rows, std::int64_t dim);

/// Fills `memory` with the screen of `bank` [num_rows, dim]. `basis` is [dim, width] or null.
void build_screen(const float* bank, std::int64_t num_rows, std::int64_t dim, const float* mean,
                  const float* basis, std::int64_t width, double basis_error, void* memory,
                  int num_threads);

/// The coding of a screen.
Coding coding_of(const ScreenView& screen);

/// The nearest pivot of each of `count` query codes [count, width], `count` a multiple of
/// kScreenQueries.
void nearest_pivots(const ScreenView& screen, const std::int8_t* codes, std::int64_t count,
                    std::int64_t* pivots);

}  // namespace autopatch
