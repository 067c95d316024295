#pragma once

// Vectors of the ISA level that the including file is compiled for. Everything here is inside an
// anonymous namespace, and neither this header nor a kernel body includes a header of the standard
// library that defines functions: an inline function compiled for AVX-512 could otherwise be the
// copy that the linker keeps for the whole module.

#include <cstddef>
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define AUTOPATCH_CONCAT_(a, b) a##_##b
#define AUTOPATCH_CONCAT(a, b) AUTOPATCH_CONCAT_(a, b)
/// `name_<level>`: the symbol a kernel body exports for its ISA level.
#define AUTOPATCH_ISA_SYMBOL(name) AUTOPATCH_CONCAT(name, AUTOPATCH_ISA_LEVEL)

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
// The same vector at any address of a float.
typedef float UnalignedVector
    __attribute__((vector_size(kLanes * sizeof(float)), aligned(alignof(float)), may_alias));

inline Vector load(const float* p) { return *reinterpret_cast<const UnalignedVector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<UnalignedVector*>(p) = v; }
inline Vector minimum(Vector a, Vector b) { return a < b ? a : b; }

/// The first `count` < kLanes floats at `p`, then zeros; nothing behind them is read.
inline Vector load_first(const float* p, std::int64_t count) {
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << count) - 1U), p);
#elif defined(__AVX2__)
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_maskload_ps(p,
                            _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lanes));
#else
  Vector v = {};
  for (std::int64_t i = 0; i < count; ++i) v[i] = p[i];
  return v;
#endif
}

}  // namespace
