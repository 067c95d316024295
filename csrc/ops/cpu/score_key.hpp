#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define AUTOPATCH_ALSO_ON_DEVICE __host__ __device__
#else
#define AUTOPATCH_ALSO_ON_DEVICE
#endif

namespace autopatch {

// Always inlined: otherwise the linker could keep a copy compiled for a higher ISA level, from a
// kernel body, for the whole module.

/// Bit layout of a score type with sign, exponent and mantissa.
template <typename BitsType, int kMantissaBits>
struct FloatFormat {
  using Bits = BitsType;
  static constexpr Bits kSign = static_cast<Bits>(Bits{1} << (sizeof(Bits) * 8 - 1));
  static constexpr Bits kMagnitude = static_cast<Bits>(kSign - 1);
  static constexpr Bits kInfinity =
      static_cast<Bits>(kMagnitude - ((Bits{1} << kMantissaBits) - 1));

  [[gnu::always_inline]] AUTOPATCH_ALSO_ON_DEVICE static constexpr bool is_nan(Bits bits) {
    return (bits & kMagnitude) > kInfinity;
  }

  /// Maps scores to integers in reverse order: a higher score has a lower key. -0 and 0 have the
  /// same key. Undefined for NaN.
  [[gnu::always_inline]] AUTOPATCH_ALSO_ON_DEVICE static constexpr Bits key(Bits bits) {
    return static_cast<Bits>((bits & kSign) != 0 ? bits - 1 : bits ^ kMagnitude);
  }
};

using Float32 = FloatFormat<std::uint32_t, 23>;
using Float64 = FloatFormat<std::uint64_t, 52>;
using Float16 = FloatFormat<std::uint16_t, 10>;
using BFloat16 = FloatFormat<std::uint16_t, 7>;

struct UInt8 {
  using Bits = std::uint8_t;
  AUTOPATCH_ALSO_ON_DEVICE static constexpr bool is_nan(Bits) { return false; }
  AUTOPATCH_ALSO_ON_DEVICE static constexpr Bits key(Bits bits) { return static_cast<Bits>(~bits); }
};

}  // namespace autopatch
