#pragma once

#include <string>

namespace autopatch {

/// Instruction-set levels of the CPU kernels, each a superset of the one before.
enum class Isa : int {
  generic = 0,  // what every CPU of the platform has (x86-64: SSE2)
  avx2 = 1,     // AVX2 and FMA
  avx512 = 2,   // AVX-512 F, BW, DQ, VL
};

const char* isa_name(Isa isa);

/// Highest level that this CPU, its operating system and this build support.
Isa detected_isa();

/// Level the kernels use: `detected_isa()` unless lowered.
Isa active_isa();

/// Throws std::invalid_argument for an unknown name or a level above `detected_isa()`.
void set_active_isa(const std::string& name);

}  // namespace autopatch
