# Finds nvcc, also in its default place off PATH, and picks the architectures:
#   AUTOPATCH_CUDA_ARCHITECTURES=auto     the GPUs of this machine, else 80 and 90a (default)
#   AUTOPATCH_CUDA_ARCHITECTURES=release  every supported generation
#   AUTOPATCH_CUDA_ARCHITECTURES=86;89    as given

set(AUTOPATCH_CUDA_ARCHITECTURES auto CACHE STRING "auto, release, or a list such as 86;90a")
set(AUTOPATCH_CUDA_FOUND OFF)
if(AUTOPATCH_CUDA STREQUAL "OFF")
  return()
endif()
if(NOT AUTOPATCH_CUDA MATCHES "^(AUTO|ON)$")
  message(FATAL_ERROR "AUTOPATCH_CUDA is '${AUTOPATCH_CUDA}', expected AUTO, ON or OFF")
endif()

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(AUTOPATCH_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda /opt/cuda
               PATH_SUFFIXES bin)
  if(AUTOPATCH_NVCC)
    set(ENV{CUDACXX} "${AUTOPATCH_NVCC}")
  endif()
endif()

set(AUTOPATCH_CUDA_TARGETS ${AUTOPATCH_CUDA_ARCHITECTURES})
if(AUTOPATCH_CUDA_ARCHITECTURES STREQUAL "release")
  set(AUTOPATCH_CUDA_TARGETS 80 86 89 90a 100 120)
elseif(AUTOPATCH_CUDA_ARCHITECTURES STREQUAL "auto")
  set(AUTOPATCH_CUDA_TARGETS 80 90a)
  find_program(AUTOPATCH_NVIDIA_SMI nvidia-smi)
  if(AUTOPATCH_NVIDIA_SMI)
    execute_process(
      COMMAND "${AUTOPATCH_NVIDIA_SMI}" --query-gpu=compute_cap --format=csv,noheader
      OUTPUT_VARIABLE capabilities RESULT_VARIABLE status ERROR_QUIET
      OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(status EQUAL 0 AND capabilities MATCHES "^[0-9]+\\.[0-9]")
      string(REPLACE "." "" capabilities "${capabilities}")
      string(REGEX REPLACE "[\r\n]+" ";" capabilities "${capabilities}")
      list(REMOVE_DUPLICATES capabilities)
      list(TRANSFORM capabilities REPLACE "^90$" "90a")
      set(AUTOPATCH_CUDA_TARGETS ${capabilities})
    endif()
  endif()
endif()

# Whether nvcc works at all, with this host compiler and for these architectures, is tried in a project
# of its own: enable_language() would end the build where it does not.
set(probe "${CMAKE_CURRENT_BINARY_DIR}/cuda_probe")
file(WRITE "${probe}/CMakeLists.txt" [[
cmake_minimum_required(VERSION 3.25)
project(probe LANGUAGES CUDA)
add_library(probe STATIC probe.cu)
]])
file(WRITE "${probe}/probe.cu" "#include <vector>\n__global__ void probe() {}\n")
string(REPLACE ";" "\\;" probe_targets "${AUTOPATCH_CUDA_TARGETS}")
set(probe_options "-DCMAKE_CUDA_ARCHITECTURES=${probe_targets}")
if(CMAKE_CUDA_COMPILER)
  list(APPEND probe_options "-DCMAKE_CUDA_COMPILER=${CMAKE_CUDA_COMPILER}")
endif()
execute_process(
  COMMAND "${CMAKE_COMMAND}" -S "${probe}" -B "${probe}/build" -G "${CMAKE_GENERATOR}"
          "-DCMAKE_MAKE_PROGRAM=${CMAKE_MAKE_PROGRAM}" ${probe_options}
  RESULT_VARIABLE status OUTPUT_VARIABLE probe_log ERROR_VARIABLE probe_log)
if(status EQUAL 0)
  execute_process(
    COMMAND "${CMAKE_COMMAND}" --build "${probe}/build"
    RESULT_VARIABLE status OUTPUT_VARIABLE probe_log ERROR_VARIABLE probe_log)
endif()
if(NOT status EQUAL 0)
  file(WRITE "${probe}/log.txt" "${probe_log}")
  set(problem "no working nvcc for ${AUTOPATCH_CUDA_TARGETS} (see ${probe}/log.txt)")
  if(AUTOPATCH_CUDA STREQUAL "ON")
    message(FATAL_ERROR "AUTOPATCH_CUDA=ON, but ${problem}; set CUDACXX to the path of another")
  endif()
  message(STATUS "autopatch: ${problem}, building without CUDA operators")
  return()
endif()

set(CMAKE_CUDA_ARCHITECTURES ${AUTOPATCH_CUDA_TARGETS})
enable_language(CUDA)
set(AUTOPATCH_CUDA_FOUND ON)
message(STATUS "autopatch: CUDA ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}")

function(autopatch_link_cuda_operators target)
  target_sources(${target} PRIVATE
    csrc/ops/cuda/aggregate_patches.cu
    csrc/ops/cuda/greedy_coreset.cu
    csrc/ops/cuda/group_maxima.cu
    csrc/ops/cuda/group_maxima_wgmma.cu
    csrc/ops/cuda/nearest_neighbors.cu
    csrc/ops/cuda/pixel_metrics.cu
  )
  target_compile_definitions(${target} PRIVATE AUTOPATCH_WITH_CUDA)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-lineinfo --threads=0>)
  if(AUTOPATCH_WARNINGS_AS_ERRORS)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
  endif()
  set_target_properties(${target} PROPERTIES
    CUDA_RUNTIME_LIBRARY Static
    CUDA_STANDARD 17
    CUDA_VISIBILITY_PRESET hidden
    CUDA_SEPARABLE_COMPILATION OFF)
endfunction()
