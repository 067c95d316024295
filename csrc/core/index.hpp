#pragma once

#include <cstddef>
#include <cstdint>

namespace autopatch {

/// A position as the standard containers take it. Sizes and positions are signed everywhere else.
constexpr std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

}  // namespace autopatch
