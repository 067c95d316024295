#include "ops/cuda/nearest_neighbors.cu"

extern "C" void nearest_neighbors(const float* queries, std::int64_t num_queries, const float* bank,
                                  std::int64_t num_rows, std::int64_t dim, std::int64_t k,
                                  float* distances, std::int64_t* indices) {
  autopatch::nearest_neighbors_cuda(queries, num_queries, bank, num_rows, dim, k, distances,
                                    indices, 0);
}
