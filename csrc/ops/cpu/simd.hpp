#pragma once

// Vectors of the ISA level that the including file is compiled for. Everything here is inside an
// anonymous namespace, and neither this header nor a kernel body includes a standard header that
// defines functions. Otherwise the linker could keep the AVX-512 copy of an inline function for the
// whole module.

#include <cstddef>
#include <cstdint>

#if defined(__SSE2__)
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
// The same vector with the alignment of a float.
typedef float UnalignedVector
    __attribute__((vector_size(kLanes * sizeof(float)), aligned(alignof(float)), may_alias));

inline Vector load(const float* p) { return *reinterpret_cast<const UnalignedVector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<UnalignedVector*>(p) = v; }
inline Vector minimum(Vector a, Vector b) { return a < b ? a : b; }

/// Loads the first `count` < kLanes floats at `p`, then zeros. Reads nothing beyond them.
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

/// Stores the first `count` < kLanes floats of `v`. Writes nothing beyond them.
inline void store_first(float* p, Vector v, std::int64_t count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1U << count) - 1U), v);
#else
  for (std::int64_t i = 0; i < count; ++i) p[i] = v[i];
#endif
}

template <int... lane>
struct Lanes {};

#if defined(__AVX512F__)
using AllLanes = Lanes<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>;
#elif defined(__AVX2__)
using AllLanes = Lanes<0, 1, 2, 3, 4, 5, 6, 7>;
#else
using AllLanes = Lanes<0, 1, 2, 3>;
#endif

typedef std::int32_t IntVector __attribute__((vector_size(kLanes * sizeof(std::int32_t))));

// {0, 1, ...}
template <int... lane>
inline IntVector lane_indices(Lanes<lane...>) {
  return IntVector{lane...};
}

/// Selects lanes of `a` (indices from 0) and `b` (the indices after those) into a vector of the
/// same size.
template <int... lane, typename V>
inline V shuffle(V a, V b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, lane...);
#else  // g++ has __builtin_shufflevector since version 12
  typedef std::int32_t Positions __attribute__((vector_size(sizeof...(lane) * sizeof(float))));
  return __builtin_shuffle(a, b, Positions{lane...});
#endif
}

// Non-temporal store to an address aligned to the vector's size. Other threads see it after the
// fence.
inline void stream(float* p, Vector v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, v);
#elif defined(__AVX2__)
  _mm256_stream_ps(p, v);
#elif defined(__SSE2__)
  _mm_stream_ps(p, v);
#else
  store(p, v);
#endif
}

inline void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace
