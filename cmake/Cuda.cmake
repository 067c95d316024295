# Decides whether the CUDA operators are built, and for which architectures:
#   AUTOPATCH_CUDA_ARCHITECTURES=auto     the GPUs of this machine; 80 and 90a if there is none (default)
#   AUTOPATCH_CUDA_ARCHITECTURES=release  every supported generation that nvcc knows
#   AUTOPATCH_CUDA_ARCHITECTURES=86;89    these
# Sets AUTOPATCH_CUDA_FOUND and, if it is OFF, AUTOPATCH_CUDA_REASON (one line).

set(AUTOPATCH_CUDA_ARCHITECTURES auto CACHE STRING "auto, release, or a list such as 86;90a")
set(AUTOPATCH_CUDA_FOUND OFF)
set(AUTOPATCH_CUDA_REASON "it was switched off with AUTOPATCH_CUDA=OFF")
if(AUTOPATCH_CUDA STREQUAL "OFF")
  return()
endif()
if(NOT AUTOPATCH_CUDA MATCHES "^(AUTO|ON)$")
  message(FATAL_ERROR " AUTOPATCH_CUDA is '${AUTOPATCH_CUDA}', expected AUTO, ON or OFF")
endif()

set(AUTOPATCH_OLDEST_NVCC 12.0)
set(AUTOPATCH_OLDEST_ARCHITECTURE 80)

# Architectures that the user asks for are never replaced by a CPU build.
if(NOT AUTOPATCH_CUDA_ARCHITECTURES MATCHES "^(auto|release)$")
  set(architecture "[0-9]+[af]?(-real|-virtual)?")
  if(NOT AUTOPATCH_CUDA_ARCHITECTURES MATCHES "^${architecture}(;${architecture})*$")
    message(FATAL_ERROR " AUTOPATCH_CUDA_ARCHITECTURES is '${AUTOPATCH_CUDA_ARCHITECTURES}', "
            "expected auto, release or a list such as 86;90a")
  endif()
  foreach(architecture IN LISTS AUTOPATCH_CUDA_ARCHITECTURES)
    string(REGEX MATCH "^[0-9]+" number "${architecture}")
    if(number LESS AUTOPATCH_OLDEST_ARCHITECTURE)
      message(FATAL_ERROR " AUTOPATCH_CUDA_ARCHITECTURES has '${architecture}', "
              "but ${AUTOPATCH_OLDEST_ARCHITECTURE} or newer is needed")
    endif()
  endforeach()
endif()

# Runs a command and sets `variable` to its output, or to nothing if it fails.
function(autopatch_output_of variable)
  execute_process(COMMAND ${ARGN} OUTPUT_VARIABLE output RESULT_VARIABLE status
                  ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT status EQUAL 0)
    set(output "")
  endif()
  set(${variable} "${output}" PARENT_SCOPE)
endfunction()

# Find nvcc, also in default locations outside PATH.
if(CMAKE_CUDA_COMPILER)
  set(AUTOPATCH_NVCC "${CMAKE_CUDA_COMPILER}")
elseif(DEFINED ENV{CUDACXX})
  get_filename_component(AUTOPATCH_NVCC "$ENV{CUDACXX}" PROGRAM)
  if(NOT AUTOPATCH_NVCC)
    set(AUTOPATCH_NVCC "$ENV{CUDACXX}")
  endif()
else()
  find_program(AUTOPATCH_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda /opt/cuda
               PATH_SUFFIXES bin)
  if(AUTOPATCH_NVCC)
    set(ENV{CUDACXX} "${AUTOPATCH_NVCC}")
  endif()
endif()
set(version "")
if(AUTOPATCH_NVCC)
  autopatch_output_of(version "${AUTOPATCH_NVCC}" --version)
endif()
if(version MATCHES "release ([0-9]+\\.[0-9]+)")
  set(version "${CMAKE_MATCH_1}")
  set(nvcc "${AUTOPATCH_NVCC} is nvcc ${version}")
  autopatch_output_of(known_architectures "${AUTOPATCH_NVCC}" --list-gpu-code)
  string(REGEX MATCHALL "[0-9]+" known_architectures "${known_architectures}")
endif()

# Compute capabilities of the GPUs of this machine, such as 86;90.
set(capabilities "")
find_program(AUTOPATCH_NVIDIA_SMI nvidia-smi)
if(AUTOPATCH_NVIDIA_SMI)
  autopatch_output_of(capabilities
    "${AUTOPATCH_NVIDIA_SMI}" --query-gpu=compute_cap --format=csv,noheader)
  string(REGEX MATCHALL "[0-9]+\\.[0-9]+" capabilities "${capabilities}")
  list(TRANSFORM capabilities REPLACE "\\." "")
  list(REMOVE_DUPLICATES capabilities)
endif()

# Set the architectures to build for, or `problem`.
set(problem "")
set(AUTOPATCH_CUDA_TARGETS "")
if(NOT AUTOPATCH_NVCC)
  set(problem "no nvcc was found; CUDACXX may hold its path")
elseif(version STREQUAL "")
  set(problem "${AUTOPATCH_NVCC} does not run")
elseif(version VERSION_LESS AUTOPATCH_OLDEST_NVCC)
  set(problem "${nvcc}, but ${AUTOPATCH_OLDEST_NVCC} or newer is needed")
elseif(AUTOPATCH_CUDA_ARCHITECTURES STREQUAL "release")
  foreach(architecture IN ITEMS 80 86 87 89 90a 100 120)
    string(REGEX MATCH "^[0-9]+" number "${architecture}")
    if(number IN_LIST known_architectures)
      list(APPEND AUTOPATCH_CUDA_TARGETS ${architecture})
    endif()
  endforeach()
elseif(NOT AUTOPATCH_CUDA_ARCHITECTURES STREQUAL "auto")
  set(AUTOPATCH_CUDA_TARGETS ${AUTOPATCH_CUDA_ARCHITECTURES})
elseif(capabilities STREQUAL "")
  set(AUTOPATCH_CUDA_TARGETS 80 90a)
else()
  # Skip unsupported GPUs as long as there is a supported one.
  foreach(capability IN LISTS capabilities)
    string(REGEX REPLACE "(.)$" ".\\1" name "${capability}")
    if(capability LESS AUTOPATCH_OLDEST_ARCHITECTURE)
      set(unfit "the GPU has compute capability ${name}, but 8.0 or newer is needed")
    elseif(NOT capability IN_LIST known_architectures)
      set(unfit "${nvcc}, which does not know the GPU's compute capability ${name}: it is too old")
    else()
      list(APPEND AUTOPATCH_CUDA_TARGETS ${capability})
    endif()
  endforeach()
  list(TRANSFORM AUTOPATCH_CUDA_TARGETS REPLACE "^90$" "90a")
  if(NOT AUTOPATCH_CUDA_TARGETS)
    set(problem "${unfit}")
  endif()
endif()

# Compile and link one of the sources first: enable_language() would abort the build if nvcc, its
# host compiler or the runtime library did not work.
if(problem STREQUAL "")
  set(probe "${CMAKE_CURRENT_BINARY_DIR}/cuda_probe")
  set(command "${AUTOPATCH_NVCC}" -shared -std=c++17 -Xcompiler=-fPIC
      "-I${CMAKE_CURRENT_LIST_DIR}/../csrc")
  # The flags that enable_language() will use.
  separate_arguments(flags NATIVE_COMMAND "$ENV{CUDAFLAGS} ${CMAKE_CUDA_FLAGS}")
  list(APPEND command ${flags})
  if(CMAKE_CUDA_HOST_COMPILER)
    list(APPEND command "-ccbin=${CMAKE_CUDA_HOST_COMPILER}")
  elseif(DEFINED ENV{CUDAHOSTCXX})
    list(APPEND command "-ccbin=$ENV{CUDAHOSTCXX}")
  endif()
  foreach(architecture IN LISTS AUTOPATCH_CUDA_TARGETS)
    string(REGEX REPLACE "-.*" "" architecture "${architecture}")
    list(APPEND command "-gencode=arch=compute_${architecture},code=sm_${architecture}")
  endforeach()
  execute_process(
    COMMAND ${command} "${CMAKE_CURRENT_LIST_DIR}/../csrc/ops/cuda/greedy_coreset.cu"
            -o "${probe}.so"
    RESULT_VARIABLE status OUTPUT_VARIABLE log ERROR_VARIABLE log)
  if(NOT status EQUAL 0)
    file(WRITE "${probe}.txt" "${log}")
    set(what "see ${probe}.txt")
    if(log MATCHES "[^\n]*(fatal|error)[^\n]*")
      string(STRIP "${CMAKE_MATCH_0}" what)
    endif()
    list(JOIN AUTOPATCH_CUDA_TARGETS ", " targets)
    set(problem "${AUTOPATCH_NVCC} does not compile for ${targets}: ${what}")
  endif()
endif()
if(NOT problem STREQUAL "")
  if(AUTOPATCH_CUDA STREQUAL "ON")
    message(FATAL_ERROR " AUTOPATCH_CUDA=ON, but ${problem}")
  endif()
  set(AUTOPATCH_CUDA_REASON "${problem}")
  # Warn only if nvcc or a GPU was found. The leading space keeps the warning on one line.
  set(message "autopatch is built without CUDA: ${problem}")
  if(AUTOPATCH_NVCC OR NOT capabilities STREQUAL "")
    message(WARNING " ${message}")
  else()
    message(STATUS "${message}")
  endif()
  return()
endif()

set(CMAKE_CUDA_ARCHITECTURES ${AUTOPATCH_CUDA_TARGETS})
enable_language(CUDA)
set(AUTOPATCH_CUDA_FOUND ON)
set(AUTOPATCH_CUDA_REASON "")
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
