#include "ops/cuda/nearest_neighbors.cu"

#include <cmath>

#include "ops/cuda/group_maxima.hpp"

// There are no tensor cores to emulate: maxima are computed in plain arithmetic.
void autopatch::group_maxima(const GroupMaxima& work, cudaStream_t) {
  for (std::int64_t group = 0; group < work.num_rows / kGroup; ++group) {
    for (std::int64_t query = 0; query < work.num_queries; ++query) {
      const __half* q = work.queries + query * work.depth;
      float maximum = -3.4e38f;
      for (std::int64_t row = group * kGroup; row < (group + 1) * kGroup; ++row) {
        const __half* r = work.bank + row * work.depth;
        float sum = -work.half_norms[row];
        for (std::int64_t d = 0; d < work.depth; ++d) {
          sum = std::fma(__half2float(q[d]), __half2float(r[d]), sum);
        }
        maximum = std::fmax(maximum, sum);
      }
      work.maxima[group * work.num_queries + query] = maximum;
    }
  }
}

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
