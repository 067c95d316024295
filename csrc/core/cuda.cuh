#pragma once

// CUDA runtime helpers shared by all operators. Kernels start through `launch`, get dynamic shared
// memory from `shared_memory` and wait for other blocks with `pause`. The tests replace these, and
// <cuda_runtime.h>, to run the kernels on an emulated device.

#include <cuda_runtime.h>

#include <cstddef>
#include <stdexcept>
#include <string>

namespace autopatch {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;  // all lanes of a warp

/// Throws std::runtime_error if a CUDA call or launch failed.
inline void cuda_check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
  }
}

/// Returns an attribute of the current device.
inline int device_attribute(cudaDeviceAttr name, const char* what) {
  int device = 0;
  cuda_check(cudaGetDevice(&device), what);
  int value = 0;
  cuda_check(cudaDeviceGetAttribute(&value, name, device), what);
  return value;
}

#ifndef AUTOPATCH_CUDA_EMULATION

/// Returns the dynamic shared memory of the block, aligned to 128 bytes.
template <typename T>
__device__ T* shared_memory() {
  extern __shared__ __align__(128) unsigned char autopatch_shared_memory[];
  return reinterpret_cast<T*>(autopatch_shared_memory);
}

/// Called while polling memory that another block writes. Does nothing on a GPU.
__device__ inline void pause() {}

enum class Grid { independent, cooperative };

/// Queues `kernel` on `stream`; `what` names the operator in errors. All blocks of a cooperative
/// grid run at the same time.
template <typename... Parameters, typename... Arguments>
void launch(const char* what, Grid grid_type, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            std::size_t shared_bytes, cudaStream_t stream, Arguments... arguments) {
  constexpr std::size_t kAlwaysAllowed = 48 << 10;
  if (shared_bytes > kAlwaysAllowed) {
    // Always request the maximum. The limit belongs to the kernel, so concurrent launches that
    // requested only what they need would lower each other's limit.
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
