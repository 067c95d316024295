#include "ops/cuda/nearest_neighbors.cu"

#include "ops/cuda/group_maxima.cu"

extern "C" std::int64_t screen_bytes(std::int64_t num_rows, std::int64_t dim) {
  return autopatch::screen_bytes_cuda(num_rows, dim);
}

extern "C" std::int64_t workspace_bytes(std::int64_t num_queries, std::int64_t num_rows,
                                        std::int64_t dim) {
  return autopatch::nearest_neighbors_cuda_workspace(num_queries, num_rows, dim);
}

extern "C" void build_screen(const float* bank, std::int64_t num_rows, std::int64_t dim,
                             const std::int64_t* order, const float* center, const float* scale,
                             void* screen) {
  autopatch::build_screen_cuda(bank, num_rows, dim, order, center, scale, screen, 0);
}

extern "C" void nearest_neighbors(const float* queries, std::int64_t num_queries, const float* bank,
                                  std::int64_t num_rows, std::int64_t dim, const void* screen,
                                  void* workspace, std::int64_t k, float* distances,
                                  std::int64_t* indices) {
  autopatch::nearest_neighbors_cuda(queries, num_queries, bank, num_rows, dim, screen, workspace, k,
                                    distances, indices, 0);
}
