# The kernel bodies in csrc/ops/cpu are compiled once per instruction set ("ISA level"), each time
# with symbols that end in the name of the level. Only these objects get machine flags, so the rest
# of the module runs on any CPU of the platform.

set(AUTOPATCH_KERNEL_BODIES
  csrc/ops/cpu/aggregate_patches.cpp
  csrc/ops/cpu/greedy_coreset.cpp
  csrc/ops/cpu/locate_scores.cpp
  csrc/ops/cpu/nearest_neighbors.cpp
  csrc/ops/cpu/screen.cpp
)

# Bodies with 8-bit arithmetic, compiled for an additional level.
set(AUTOPATCH_VNNI_KERNEL_BODIES
  csrc/ops/cpu/screen.cpp
)

# Contraction of a * b + c into one rounding depends on the kernel: the coreset and the aggregation
# guarantee the same roundings on every level, the nearest neighbors only a tolerance.
set_source_files_properties(
  csrc/ops/cpu/aggregate_patches.cpp csrc/ops/cpu/greedy_coreset.cpp
  PROPERTIES COMPILE_OPTIONS "-ffp-contract=off")
set_source_files_properties(
  csrc/ops/cpu/nearest_neighbors.cpp PROPERTIES COMPILE_OPTIONS "-ffp-contract=fast")

set(AUTOPATCH_CXX_WARNINGS -Wall -Wextra -Wconversion -Wshadow)
if(AUTOPATCH_WARNINGS_AS_ERRORS)
  list(APPEND AUTOPATCH_CXX_WARNINGS -Werror)
endif()

set(AUTOPATCH_ISA_LEVELS generic)
set(AUTOPATCH_FLAGS_generic "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  list(APPEND AUTOPATCH_ISA_LEVELS avx2 avx512 avx512_vnni)
  set(AUTOPATCH_FLAGS_avx2 -mavx2 -mfma)
  set(AUTOPATCH_FLAGS_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma
                             -mprefer-vector-width=512)
  set(AUTOPATCH_FLAGS_avx512_vnni ${AUTOPATCH_FLAGS_avx512} -mavx512vnni)
endif()

function(autopatch_link_cpu_kernels target)
  foreach(level IN LISTS AUTOPATCH_ISA_LEVELS)
    set(objects autopatch_kernels_${level})
    set(bodies ${AUTOPATCH_KERNEL_BODIES})
    if(level STREQUAL "avx512_vnni")
      set(bodies ${AUTOPATCH_VNNI_KERNEL_BODIES})
    endif()
    add_library(${objects} OBJECT ${bodies})
    target_include_directories(${objects} PRIVATE csrc)
    target_compile_definitions(${objects} PRIVATE AUTOPATCH_ISA_LEVEL=${level})
    # Vector types wider than the level's registers never cross a function boundary here.
    target_compile_options(${objects} PRIVATE
      -O3 -fno-math-errno -Wno-psabi ${AUTOPATCH_CXX_WARNINGS} ${AUTOPATCH_FLAGS_${level}})
    target_link_libraries(${target} PRIVATE ${objects})
  endforeach()
  if("avx512" IN_LIST AUTOPATCH_ISA_LEVELS)
    target_compile_definitions(${target} PRIVATE AUTOPATCH_X86_LEVELS)
  endif()
endfunction()
