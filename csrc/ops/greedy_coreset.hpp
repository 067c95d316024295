#pragma once

#include <cstdint>

#include "ops/codes.hpp"

namespace autopatch {

/// Greedy k-center: picks `start`, then always the row farthest from all picks. Ties go to the
/// lowest index; no row is picked twice.
///
/// features [num_rows, dim], contiguous and finite; 1 <= count <= num_rows < 2^31. `radii[i]` is
/// the distance from the first i + 1 picks to the row farthest from them. A squared distance is a
/// float32 sum of squared differences, in the same order on every ISA level: feature d is added to
/// running sum d mod 16 of sixteen; then sums j and j + 8, j + 4, j + 2, j + 1 are added in turn.
/// Operations are never contracted.
///
/// If `coding` is not null, 8-bit codes prove that most distances cannot be the smallest of a row,
/// and these are not computed. All codes have the same scale. Clamping to their box never increases
/// distances. For the codes c of a row and d of a pick, with the exact integer I = |c - d|^2 and
/// errors as in codes.hpp,
///
///     distance(row, pick) <= sqrt(T)  implies
///     scale * sqrt(I) <= sqrt(T) + error_row + error_pick.
///
/// T is the smallest known squared distance of the row, plus what the float32 sum for the new pick
/// may lose by rounding. One bound replaces the errors of all picks; the few picks with larger
/// errors (outliers) are measured against every row.
///
/// Uses the memory stated at `coreset_width_within`, plus scratch memory for 64 rows per thread.
void greedy_coreset_cpu(const float* features, std::int64_t num_rows, std::int64_t dim,
                        std::int64_t count, std::int64_t start, const Coding* coding,
                        std::int64_t* indices, float* radii, int num_threads);

/// Largest number of codes per row (width) with which `greedy_coreset_cpu` uses at most `bytes`. It
/// uses 2 * width + 52 bytes per row, and width + 4 per pick.
constexpr std::int64_t coreset_width_within(std::int64_t bytes, std::int64_t num_rows,
                                            std::int64_t count) {
  return (bytes - 52 * num_rows - 4 * count) / (2 * num_rows + count);
}

/// Maximum number of columns on a CUDA device: one pick must fit in a block's shared memory.
constexpr std::int64_t kMaxCudaColumns = 16384;

/// The same on a CUDA device, queued on `stream`, with 8-bit codes of every feature (see
/// ops/cuda/greedy_coreset.cu). `center` [dim] and `inverse_scale` [1], on the device, define the
/// codes; they affect only the speed. `workspace` holds `greedy_coreset_cuda_workspace` bytes for
/// the current device.
void greedy_coreset_cuda(const float* features, std::int64_t num_rows, std::int64_t dim,
                         std::int64_t count, std::int64_t start, const float* center,
                         const float* inverse_scale, void* workspace, std::int64_t* indices,
                         float* radii, std::uintptr_t stream);

std::int64_t greedy_coreset_cuda_workspace(std::int64_t num_rows, std::int64_t dim);

}  // namespace autopatch
