#include "ops/cpu/aggregate_patches.hpp"

#include "ops/cpu/simd.hpp"

// All steps process cells with the channels last, in vectors of channels. No sum crosses lanes or
// depends on the tile, so the result is the same for every vector width and division of the work.

namespace {

using autopatch::AggregateLevel;
using autopatch::AggregatePlan;
using autopatch::AggregateTile;
using autopatch::kMaxPatch;

constexpr std::int64_t kLine = 16;  // floats per cache line

inline std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// Positions [first, last).
struct Span {
  std::int64_t first;
  std::int64_t last;

  std::int64_t size() const { return last - first; }
};

// --- channels last -------------------------------------------------------------------------------

// `a` and `b` are the two rows of 2 x 2 blocks of `size` x `size` lanes. Exchanges the two
// off-diagonal blocks.
template <int size, int... lane>
inline void exchange(Vector& a, Vector& b, Lanes<lane...>) {
  const Vector left = shuffle<(lane & size ? kLanes + lane - size : lane)...>(a, b);
  const Vector right = shuffle<(lane & size ? kLanes + lane : lane + size)...>(a, b);
  a = left;
  b = right;
}

template <int size>
inline void exchange_blocks(Vector* rows) {
  if constexpr (size < kLanes) {
    for (int i = 0; i < kLanes; ++i) {
      if (!(i & size)) exchange<size>(rows[i], rows[i + size], AllLanes());
    }
    exchange_blocks<2 * size>(rows);
  }
}

inline void transpose_square(const float* in, std::int64_t in_stride, float* out,
                             std::int64_t out_stride) {
  Vector rows[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i] = load(in + i * in_stride);
  exchange_blocks<1>(rows);
  for (int i = 0; i < kLanes; ++i) store(out + i * out_stride, rows[i]);
}

// Transposes [channels, cells], with rows `in_stride` apart, to [cells, channels] in squares. The
// last squares overlap the previous ones.
void transpose(const float* in, std::int64_t in_stride, std::int64_t channels, std::int64_t cells,
               float* out) {
  if (channels < kLanes || cells < kLanes) {
    for (std::int64_t i = 0; i < cells; ++i) {
      for (std::int64_t c = 0; c < channels; ++c) out[i * channels + c] = in[c * in_stride + i];
    }
    return;
  }
  for (std::int64_t c = 0; c < channels; c += kLanes) {
    const std::int64_t channel = smaller(c, channels - kLanes);
    for (std::int64_t i = 0; i < cells; i += kLanes) {
      const std::int64_t cell = smaller(i, cells - kLanes);
      transpose_square(in + channel * in_stride + cell, in_stride, out + cell * channels + channel,
                       channels);
    }
  }
}

// Copies a part of a map to `out`, channels last and without gaps.
void pack(const AggregateLevel& level, const float* map, Span rows, Span columns, float* out) {
  if (level.channel_stride == 1) {
    for (std::int64_t y = rows.first; y < rows.last; ++y) {
      for (std::int64_t x = columns.first; x < columns.last; ++x, out += level.channels) {
        const float* cell = map + (y * level.width + x) * level.cell_stride;
        for (std::int64_t c = 0; c < level.channels; ++c) out[c] = cell[c];
      }
    }
  } else if (columns.size() == level.width) {
    transpose(map + rows.first * level.width, level.channel_stride, level.channels,
              rows.size() * level.width, out);
  } else {
    for (std::int64_t y = rows.first; y < rows.last; ++y) {
      transpose(map + y * level.width + columns.first, level.channel_stride, level.channels,
                columns.size(), out);
      out += columns.size() * level.channels;
    }
  }
}

// --- pooling -------------------------------------------------------------------------------------

constexpr std::int64_t kSums = 64;  // box sums computed together

// For `count` consecutive cells, writes the sum of `patch` cells that starts there, times `scale`,
// for the `lanes` floats at `offset` in each cell; `whole` means that they fill a vector. Sums of n
// cells are combined into sums of 2 n or 2 n + 1, following the bits of `patch` from the highest.
// Unlike a running sum, nothing is subtracted, so rounding errors, NaN and infinity stay within
// their patches, and equal patches have equal sums at any position.
template <bool whole>
void box_sums(const float* const* cells, std::int64_t offset, std::int64_t lanes,
              std::int64_t count, std::int64_t patch, float scale, float* out,
              std::int64_t out_stride) {
  const auto cell = [&](std::int64_t i) {
    return whole ? load(cells[i] + offset) : load_first(cells[i] + offset, lanes);
  };
  Vector sums[kSums + kMaxPatch];
  std::int64_t bit = 1;
  while (4 * bit <= patch) bit *= 2;
  for (std::int64_t size = 1; size < patch; bit /= 2) {
    const bool odd = patch & bit;
    const std::int64_t longer = 2 * size + odd;
    for (std::int64_t i = 0; i < count + patch - longer; ++i) {
      Vector sum = size == 1 ? cell(i) + cell(i + 1) : sums[i] + sums[i + size];
      if (odd) sum += cell(i + 2 * size);
      if (longer < patch) {
        sums[i] = sum;
      } else if (whole) {
        store(out + i * out_stride, sum * scale);
      } else {
        store_first(out + i * out_stride, sum * scale, lanes);
      }
    }
    size = longer;
  }
}

// Box sums along a line of cells of `size` floats: output cell i is the sum of cells [i, i + patch)
// times `scale`. Only the cells in `valid` exist, and `in` points to the first; the others are
// zero. `out` may be the address that cell 0 has, or would have if it existed.
void box_sums(const float* in, std::int64_t in_stride, Span valid, const float* zeros,
              std::int64_t size, std::int64_t count, std::int64_t patch, float scale, float* out,
              std::int64_t out_stride) {
  const float* cells[kSums + kMaxPatch];
  for (std::int64_t first = 0; first < count; first += kSums, out += kSums * out_stride) {
    const std::int64_t sums = smaller(kSums, count - first);
    for (std::int64_t i = 0; i < sums + patch - 1; ++i) {
      const std::int64_t at = first + i;
      const bool exists = at >= valid.first && at < valid.last;
      cells[i] = exists ? in + (at - valid.first) * in_stride : zeros;
    }
    std::int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes) {
      box_sums<true>(cells, i, kLanes, sums, patch, scale, out + i, out_stride);
    }
    if (i < size) box_sums<false>(cells, i, size - i, sums, patch, scale, out + i, out_stride);
  }
}

// Cells of a map, channels last, contiguous within a row.
struct Cells {
  const float* data;
  std::int64_t row_stride;
};

// Pooled cells of a map.
Cells pool(const AggregatePlan& plan, const AggregateLevel& level, std::int64_t image, Span rows,
           Span columns, float* workspace) {
  const float* map = level.data + image * level.image_stride;
  const bool packed = level.channel_stride == 1 && level.cell_stride == level.channels;
  const std::int64_t map_stride = level.width * level.channels;
  float* pooled = workspace + level.pooled;
  const std::int64_t row_size = columns.size() * level.channels;
  if (level.patch == 1) {
    if (packed) {
      return {map + rows.first * map_stride + columns.first * level.channels, map_stride};
    }
    pack(level, map, rows, columns, pooled);
    return {pooled, row_size};
  }
  // Rows and columns that the patches cover, and the part of them inside the map.
  const std::int64_t before = (level.patch - 1) / 2;
  const std::int64_t behind = level.patch - 1 - before;
  const Span patch_rows = {rows.first - before, rows.last + behind};
  const Span patch_columns = {columns.first - before, columns.last + behind};
  const Span source_rows = {larger(patch_rows.first, 0), smaller(patch_rows.last, level.height)};
  const Span source_columns = {larger(patch_columns.first, 0),
                               smaller(patch_columns.last, level.width)};
  const std::int64_t source_stride = packed ? map_stride : source_columns.size() * level.channels;
  const std::int64_t chunk = larger(plan.source_size / source_stride, 1);
  const float* zeros = workspace + plan.zeros;
  for (std::int64_t y = source_rows.first; y < source_rows.last;) {
    const Span part = {y, smaller(y + chunk, source_rows.last)};
    const float* source = map + y * map_stride + source_columns.first * level.channels;
    if (!packed) {
      pack(level, map, part, source_columns, workspace + plan.source);
      source = workspace + plan.source;
    }
    for (; y < part.last; ++y, source += source_stride) {
      box_sums(
          source, level.channels,
          {source_columns.first - patch_columns.first, source_columns.last - patch_columns.first},
          zeros, level.channels, columns.size(), level.patch, 1.0f,
          pooled + (y - patch_rows.first) * row_size, level.channels);
    }
  }
  const Span sums = {source_rows.first - patch_rows.first, source_rows.last - patch_rows.first};
  box_sums(pooled + sums.first * row_size, row_size, sums, zeros, row_size, rows.size(),
           level.patch, 1.0f / static_cast<float>(level.patch * level.patch), pooled, row_size);
  return {pooled, row_size};
}

// --- resizing ------------------------------------------------------------------------------------

// Position and weights of a bilinear sample for align_corners=False. The position (i + 1/2) in /
// out - 1/2 is an exact fraction; torch's float32 position errs by up to 1e-5 on a map of 56 cells.
// As in torch, both samples come from the same cell if the map keeps its size, so that NaN does not
// reach a neighbor through a weight of zero.
struct Tap {
  std::int64_t low;
  std::int64_t high;
  float low_weight;
  float high_weight;
};

static_assert(sizeof(Tap) == 6 * sizeof(float), "as the workspace is laid out");

inline Tap tap(std::int64_t i, std::int64_t in_length, std::int64_t out_length) {
  if (in_length == out_length) return {i, i, 1.0f, 0.0f};
  const std::int64_t denominator = 2 * out_length;
  const std::int64_t numerator = larger(0, (2 * i + 1) * in_length - out_length);
  const std::int64_t low = numerator / denominator;
  const float high_weight =
      static_cast<float>(numerator % denominator) / static_cast<float>(denominator);
  return {low, smaller(low + 1, in_length - 1), 1.0f - high_weight, high_weight};
}

// A level while it is resized, row by row.
struct Resized {
  std::int64_t channels;
  std::int64_t height;
  Cells cells;
  std::int64_t first_row;  // first row in `cells`
  const Tap* columns;      // positions in floats from the start of a row
  // The current row, blended from two. Its first `blended` floats are ready. The rest is blended as
  // needed, since blending a whole row at once would leave the memory bus idle.
  Tap y;
  float* row;
  std::int64_t blended;
  // The part of the next image's map that is still to be prefetched.
  const float* fetch;
  const float* fetch_end;
};

// Blends the current row up to `end`, and prefetches as much of the next image.
inline void blend_row(Resized& level, std::int64_t end) {
  const Tap& y = level.y;
  const float* low = level.cells.data + (y.low - level.first_row) * level.cells.row_stride;
  const float* high = level.cells.data + (y.high - level.first_row) * level.cells.row_stride;
  std::int64_t i = level.blended;
  for (; i + kLanes <= end; i += kLanes) {
    store(level.row + i, y.low_weight * load(low + i) + y.high_weight * load(high + i));
  }
  const std::int64_t rest = end - i;
  if (rest > 0) {
    store(level.row + i,
          y.low_weight * load_first(low + i, rest) + y.high_weight * load_first(high + i, rest));
  }
  for (i = level.blended; i < end && level.fetch < level.fetch_end; i += kLine) {
    __builtin_prefetch(level.fetch);
    level.fetch += kLine;
  }
  level.blended = end;
}

// Writes consecutive floats with non-temporal stores, in whole vectors. A partly filled vector
// stays in a register.
class Writer {
 public:
  // Sets the position of the next write.
  void seek(float* out) {
    if (out == out_ + filled_) return;
    finish();
    const auto address = reinterpret_cast<std::uintptr_t>(out) / sizeof(float);
    filled_ = skipped_ = static_cast<std::int64_t>(address % kLanes);
    out_ = out - filled_;
  }

  // Writes `count` floats. value(i) returns the kLanes floats that start at i; lanes outside [0,
  // count) may hold anything.
  template <typename Value>
  void write(std::int64_t count, const Value& value) {
    std::int64_t i = 0;
    if (filled_ > 0) {
      const Vector next = value(-filled_);
      vector_ = lane_indices(AllLanes()) < static_cast<std::int32_t>(filled_) ? vector_ : next;
      if (filled_ + count < kLanes) {
        filled_ += count;
        return;
      }
      i = kLanes - filled_;
      if (skipped_ > 0) {
        finish_vector(kLanes);
      } else {
        stream(out_, vector_);
      }
      out_ += kLanes;
    }
    for (; i + kLanes <= count; i += kLanes, out_ += kLanes) stream(out_, value(i));
    filled_ = count - i;
    if (filled_ > 0) vector_ = value(i);
  }

  void finish() { finish_vector(filled_); }

 private:
  void finish_vector(std::int64_t end) {
    float values[kLanes];
    store(values, vector_);
    for (std::int64_t i = skipped_; i < end; ++i) out_[i] = values[i];
    skipped_ = 0;
  }

  Vector vector_ = {};
  float* out_ = nullptr;      // position of vector_, aligned to its size
  std::int64_t filled_ = 0;   // number of filled lanes of vector_
  std::int64_t skipped_ = 0;  // number of first lanes that must not be written
};

}  // namespace

namespace autopatch {

void AUTOPATCH_ISA_SYMBOL(aggregate_tile)(const AggregatePlan& plan, const AggregateTile& tile,
                                          float* workspace) {
  const std::int64_t columns = tile.right - tile.left;
  Resized levels[kMaxAggregateLevels];
  for (std::int64_t l = 0; l < plan.num_levels; ++l) {
    const AggregateLevel& level = plan.levels[l];
    Resized& resized = levels[l];
    // An even patch size shrinks the map by one.
    const std::int64_t shrink = 1 - level.patch % 2;
    const std::int64_t width = level.width - shrink;
    resized.channels = level.channels;
    resized.height = level.height - shrink;
    const Span seen_rows = {tap(tile.top, resized.height, plan.height).low,
                            tap(tile.bottom - 1, resized.height, plan.height).high + 1};
    const Span seen_columns = {tap(tile.left, width, plan.width).low,
                               tap(tile.right - 1, width, plan.width).high + 1};
    resized.cells = pool(plan, level, tile.image, seen_rows, seen_columns, workspace);
    resized.first_row = seen_rows.first;
    resized.fetch = level.data + larger(tile.next_image, 0) * level.image_stride;
    const std::int64_t map_size = level.channels * level.height * level.width;
    resized.fetch_end = tile.next_image < 0 ? resized.fetch : resized.fetch + map_size;
    resized.row = workspace + level.row;
    Tap* taps = reinterpret_cast<Tap*>(workspace + level.taps);
    for (std::int64_t x = 0; x < columns; ++x) {
      taps[x] = tap(tile.left + x, width, plan.width);
      taps[x].low = (taps[x].low - seen_columns.first) * level.channels;
      taps[x].high = (taps[x].high - seen_columns.first) * level.channels;
    }
    resized.columns = taps;
  }

  Writer writer;
  for (std::int64_t y = tile.top; y < tile.bottom; ++y) {
    for (std::int64_t l = 0; l < plan.num_levels; ++l) {
      levels[l].y = tap(y, levels[l].height, plan.height);
      levels[l].blended = 0;
    }
    float* out = plan.out + ((tile.image * plan.height + y) * plan.width + tile.left) * plan.stride;
    for (std::int64_t x = 0; x < columns; ++x, out += plan.stride) {
      writer.seek(out);
      for (std::int64_t l = 0; l < plan.num_levels; ++l) {
        Resized& level = levels[l];
        const Tap t = level.columns[x];
        if (t.high >= level.blended) blend_row(level, t.high + level.channels);
        const float* low = level.row + t.low;
        const float* high = level.row + t.high;
        writer.write(level.channels, [&](std::int64_t i) {
          return t.low_weight * load(low + i) + t.high_weight * load(high + i);
        });
      }
    }
  }
  writer.finish();
  stream_fence();
}

}  // namespace autopatch
