#pragma once

#include <cstddef>
#include <cstdint>

namespace autopatch {

/// Converts a position to the unsigned type of the standard containers. All other code uses signed
/// sizes and positions.
constexpr std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

}  // namespace autopatch
