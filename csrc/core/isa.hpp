#pragma once

#include <string>
#include <vector>

namespace autopatch {

/// Instruction-set levels of the CPU kernels, each a superset of the one before.
enum class Isa : int {
  generic = 0,      // baseline of the platform (x86-64: SSE2)
  avx2 = 1,         // AVX2 and FMA
  avx512 = 2,       // AVX-512 F, BW, DQ, VL
  avx512_vnni = 3,  // also AVX-512 VNNI: 8-bit dot products
};

const char* isa_name(Isa isa);

/// Names of the levels up to `detected_isa()`, lowest first.
std::vector<std::string> isa_levels();

/// Highest level that this CPU, its operating system and this build support.
Isa detected_isa();

/// Level the kernels use: `detected_isa()` unless lowered.
Isa active_isa();

/// Throws std::invalid_argument for an unknown name or a level above `detected_isa()`.
void set_active_isa(const std::string& name);

/// Selects the kernel instance for the active level.
template <typename Kernel>
Kernel for_active_isa(Kernel generic, Kernel avx2, Kernel avx512, Kernel avx512_vnni) {
  switch (active_isa()) {
    case Isa::avx512_vnni:
      return avx512_vnni;
    case Isa::avx512:
      return avx512;
    case Isa::avx2:
      return avx2;
    case Isa::generic:
      break;
  }
  return generic;
}

}  // namespace autopatch

/// Calls `for_active_isa` with the instances of `name` built for this platform: `name`_generic and
/// so on. Use AUTOPATCH_KERNEL_VNNI for kernels with 8-bit arithmetic; others are not compiled
/// above AVX-512.
#ifdef AUTOPATCH_X86_LEVELS
#define AUTOPATCH_KERNEL(name) \
  ::autopatch::for_active_isa(name##_generic, name##_avx2, name##_avx512, name##_avx512)
#define AUTOPATCH_KERNEL_VNNI(name) \
  ::autopatch::for_active_isa(name##_generic, name##_avx2, name##_avx512, name##_avx512_vnni)
#else
#define AUTOPATCH_KERNEL(name) name##_generic
#define AUTOPATCH_KERNEL_VNNI(name) name##_generic
#endif
