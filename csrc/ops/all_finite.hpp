#pragma once

#include <cstdint>

namespace autopatch {

/// Whether none of `count` values is NaN or infinite.
bool all_finite(const float* values, std::int64_t count, int num_threads);

}  // namespace autopatch
