#pragma once

#include <cstdint>

namespace autopatch {

/// Greedy k-center: `start` first, then always the row farthest from those picked; ties go to the
/// lowest index, no row is picked twice.
///
/// features [num_rows, dim], contiguous and finite; 1 <= count <= num_rows. `radii[i]` is the
/// distance from the first i + 1 picks to the row farthest from them. A squared distance is a
/// float32 sum of squared differences in one order, whatever the ISA level: sixteen running sums,
/// feature d goes to sum d mod 16, then sums j and j + 8, j + 4, j + 2, j + 1 are added in turn;
/// nothing is contracted.
void greedy_coreset_cpu(const float* features, std::int64_t num_rows, std::int64_t dim,
                        std::int64_t count, std::int64_t start, std::int64_t* indices, float* radii,
                        int num_threads);

}  // namespace autopatch
