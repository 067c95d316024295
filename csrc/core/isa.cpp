#include "core/isa.hpp"

#include <atomic>
#include <stdexcept>

namespace autopatch {
namespace {

constexpr Isa kLevels[] = {Isa::generic, Isa::avx2, Isa::avx512, Isa::avx512_vnni};

Isa detect() {
#ifdef AUTOPATCH_X86_LEVELS
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      return __builtin_cpu_supports("avx512vnni") ? Isa::avx512_vnni : Isa::avx512;
    }
    return Isa::avx2;
  }
#endif
  return Isa::generic;
}

std::atomic<Isa>& active() {
  static std::atomic<Isa> isa{detected_isa()};
  return isa;
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512_vnni:
      return "avx512_vnni";
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    case Isa::generic:
      break;
  }
  return "generic";
}

std::vector<std::string> isa_levels() {
  std::vector<std::string> names;
  for (const Isa level : kLevels) {
    if (level <= detected_isa()) names.emplace_back(isa_name(level));
  }
  return names;
}

Isa detected_isa() {
  static const Isa isa = detect();
  return isa;
}

Isa active_isa() { return active().load(std::memory_order_relaxed); }

void set_active_isa(const std::string& name) {
  for (const Isa level : kLevels) {
    if (name == isa_name(level)) {
      if (level > detected_isa()) {
        throw std::invalid_argument("ISA level '" + name +
                                    "' is not supported here: this CPU has " +
                                    isa_name(detected_isa()));
      }
      active().store(level, std::memory_order_relaxed);
      return;
    }
  }
  throw std::invalid_argument("ISA level '" + name +
                              "' is unknown, expected generic, avx2, avx512 or avx512_vnni");
}

}  // namespace autopatch
