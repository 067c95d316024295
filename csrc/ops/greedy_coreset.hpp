#pragma once

#include <cstdint>

#include "ops/codes.hpp"

namespace autopatch {

/// Greedy k-center: `start` first, then always the row farthest from those picked; ties go to the
/// lowest index, no row is picked twice.
///
/// features [num_rows, dim], contiguous and finite; 1 <= count <= num_rows < 2^31. `radii[i]` is
/// the distance from the first i + 1 picks to the row farthest from them. A squared distance is a
/// float32 sum of squared differences in one order, whatever the ISA level: sixteen running sums,
/// feature d goes to sum d mod 16, then sums j and j + 8, j + 4, j + 2, j + 1 are added in turn;
/// nothing is contracted.
///
/// With a `coding` (or null) most of these distances are not computed, because 8-bit codes prove
/// that they are no smaller than one known. All codes have one scale. Clamping to their box brings
/// no two vectors farther apart, so with the codes c and d of a row and a pick, I = |c - d|^2, an
/// integer known exactly, and errors as in codes.hpp
///
///     distance(row, pick) <= sqrt(T)  implies  scale * sqrt(I) <= sqrt(T) + error_row +
///     error_pick.
///
/// T is the smallest squared distance known of the row, raised by what the float32 sum of the other
/// may have lost by rounding. Errors of picks are replaced by one bound of them all; the few picks
/// beyond it, outliers, are measured against every row.
///
/// Takes at most as much memory as `coreset_width_within` says, beside scratch memory for 64 rows a
/// thread.
void greedy_coreset_cpu(const float* features, std::int64_t num_rows, std::int64_t dim,
                        std::int64_t count, std::int64_t start, const Coding* coding,
                        std::int64_t* indices, float* radii, int num_threads);

/// The most codes a row with which `greedy_coreset_cpu` takes no more than `bytes`: 2 * width + 52
/// bytes a row, width + 4 a pick.
constexpr std::int64_t coreset_width_within(std::int64_t bytes, std::int64_t num_rows,
                                            std::int64_t count) {
  return (bytes - 52 * num_rows - 4 * count) / (2 * num_rows + count);
}

/// Columns of the largest matrix on a CUDA device: one pick has to fit a block's shared memory.
constexpr std::int64_t kMaxCudaColumns = 16384;

/// The same on a CUDA device, queued on `stream`, by 8-bit codes of every feature (see
/// ops/cuda/greedy_coreset.cu). `center` [dim] and `inverse_scale` [1] on the device choose the
/// codes: they decide about speed alone. `workspace` has as many bytes as
/// `greedy_coreset_cuda_workspace` says for the current device.
void greedy_coreset_cuda(const float* features, std::int64_t num_rows, std::int64_t dim,
                         std::int64_t count, std::int64_t start, const float* center,
                         const float* inverse_scale, void* workspace, std::int64_t* indices,
                         float* radii, std::uintptr_t stream);

std::int64_t greedy_coreset_cuda_workspace(std::int64_t num_rows, std::int64_t dim);

}  // namespace autopatch
