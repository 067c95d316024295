#include "ops/cuda/greedy_coreset.cu"

extern "C" std::int64_t greedy_coreset_workspace(std::int64_t num_rows, std::int64_t dim,
                                                 int processors, int shared_bytes) {
  emulated_attributes[cudaDevAttrMultiProcessorCount] = processors;
  emulated_attributes[cudaDevAttrMaxSharedMemoryPerBlockOptin] = shared_bytes;
  return autopatch::greedy_coreset_cuda_workspace(num_rows, dim);
}

extern "C" void greedy_coreset(const float* features, std::int64_t num_rows, std::int64_t dim,
                               std::int64_t count, std::int64_t start, const float* center,
                               const float* inverse_scale, void* workspace, std::int64_t* indices,
                               float* radii) {
  autopatch::greedy_coreset_cuda(features, num_rows, dim, count, start, center, inverse_scale,
                                 workspace, indices, radii, 0);
}
