#include "ops/cuda/pixel_metrics.cu"

extern "C" std::int64_t pixel_metrics_workspace(int score_type, std::int64_t num_pixels,
                                                int num_types) {
  return autopatch::pixel_metrics_cuda_workspace(static_cast<autopatch::ScoreType>(score_type),
                                                 num_pixels, num_types);
}

extern "C" void pixel_metrics(const void* scores, int score_type, const std::uint8_t* masks,
                              std::int64_t num_images, std::int64_t height, std::int64_t width,
                              const std::int32_t* type_of_image, int num_types, void* workspace,
                              double* out) {
  autopatch::pixel_metrics_cuda(scores, static_cast<autopatch::ScoreType>(score_type), masks,
                                num_images, height, width, type_of_image, num_types, workspace, out,
                                0);
}
