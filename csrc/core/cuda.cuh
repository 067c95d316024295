#pragma once

// What every CUDA operator needs of the runtime. Kernels are started by `launch`, take their
// dynamic shared memory from `shared_memory` and wait for other blocks in `pause`, so that they
// also compile as plain C++ against another <cuda_runtime.h> that emulates a device on the host.

#include <cuda_runtime.h>

#include <cstddef>
#include <stdexcept>
#include <string>

namespace autopatch {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;  // of a warp

/// Turns a failed CUDA call or launch into std::runtime_error.
inline void cuda_check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
  }
}

/// Of the current device.
inline int device_attribute(cudaDeviceAttr name, const char* what) {
  int device = 0;
  cuda_check(cudaGetDevice(&device), what);
  int value = 0;
  cuda_check(cudaDeviceGetAttribute(&value, name, device), what);
  return value;
}

#ifndef AUTOPATCH_CUDA_EMULATION

/// The dynamic shared memory of the block, aligned to 128 bytes.
template <typename T>
__device__ T* shared_memory() {
  extern __shared__ __align__(128) unsigned char autopatch_shared_memory[];
  return reinterpret_cast<T*>(autopatch_shared_memory);
}

/// Called while waiting for memory that another block writes: a GPU just looks again.
__device__ inline void pause() {}

enum class Grid { independent, cooperative };

/// Queues `kernel` on `stream`; `what` names the operator in errors. All blocks of a cooperative
/// grid run at the same time.
template <typename... Parameters, typename... Arguments>
void launch(const char* what, Grid grid_type, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            std::size_t shared_bytes, cudaStream_t stream, Arguments... arguments) {
  constexpr std::size_t kAlwaysAllowed = 48 << 10;
  if (shared_bytes > kAlwaysAllowed) {
    // All that is to be had, whatever this launch needs: the limit is the kernel's, and threads
    // that launch it at one time would lower each other's.
    cudaFuncAttributes attributes{};
    cuda_check(cudaFuncGetAttributes(&attributes, kernel), what);
    const int most = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, what) -
                     static_cast<int>(attributes.sharedSizeBytes);
    cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most),
               what);
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = grid_type == Grid::cooperative;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  cuda_check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), what);
}

#endif

}  // namespace autopatch
