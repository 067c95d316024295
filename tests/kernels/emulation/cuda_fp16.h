#pragma once

// float16 of <cuda_fp16.h>: conversions and bits.

#include <cmath>
#include <cstdint>
#include <cstring>

struct __half {
  std::uint16_t bits;
};

inline float __half2float(__half value) {
  const int sign = value.bits >> 15;
  const int exponent = value.bits >> 10 & 31;
  const int fraction = value.bits & 1023;
  float result = 0;
  if (exponent == 31) {
    result = fraction == 0 ? INFINITY : NAN;
  } else if (exponent == 0) {
    result = std::ldexp(static_cast<float>(fraction), -24);
  } else {
    result = std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  }
  return sign ? -result : result;
}

inline __half __float2half_rn(float value) {
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float size = std::fabs(value);
  std::uint16_t bits = 0;
  if (std::isnan(size)) {
    bits = 0x7FFF;
  } else if (size >= 65520.0f) {
    bits = 0x7C00;
  } else if (size < 6.103515625e-05f) {
    bits = static_cast<std::uint16_t>(std::nearbyint(std::ldexp(size, 24)));
  } else {
    int exponent = 0;
    const float fraction = std::frexp(size, &exponent);  // in [0.5, 1)
    const int rounded = static_cast<int>(std::nearbyint(std::ldexp(fraction, 11)));
    bits = static_cast<std::uint16_t>(((exponent + 13) << 10) + rounded);
  }
  return {static_cast<std::uint16_t>(sign | bits)};
}

struct alignas(4) __half2 {
  __half x, y;
};
inline float __low2float(__half2 value) { return __half2float(value.x); }
inline float __high2float(__half2 value) { return __half2float(value.y); }
