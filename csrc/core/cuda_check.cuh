#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace autopatch {

/// Turns a failed CUDA call or launch into std::runtime_error.
inline void cuda_check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
  }
}

}  // namespace autopatch
