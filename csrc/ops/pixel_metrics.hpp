#pragma once

#include <cstdint>

namespace autopatch {

enum class ScoreType { float32, float64, float16, bfloat16, uint8 };

/// Metrics of anomaly scores against masks over all pixels of a data set.
///
/// `scores` and `masks` are contiguous [num_images, height, width]; a pixel is anomalous if its
/// mask is not zero. `type_of_image` [num_images] holds the anomaly type, in [0, num_types), or -1
/// for a normal image. `out` receives rwAP, AP, AUROC, partial AUROC (false-positive rate at most
/// 0.3, McClish standardised) and AUPRO (false-positive rate at most 0.3); the last three are NaN
/// if there is no normal pixel. Equal scores form one point of every curve, -0 equals 0, and
/// infinities are ordered like numbers. The result does not depend on `num_threads` (>= 1). Uses at
/// most 64 MiB, plus the runs of the masks (connected_regions.hpp).
///
/// Throws std::invalid_argument, with a message for the user, if a score is NaN, a normal image has
/// an anomalous pixel, no pixel is anomalous, or there are 2^32 pixels or more.
void pixel_metrics(const void* scores, ScoreType score_type, const std::uint8_t* masks,
                   std::int64_t num_images, std::int64_t height, std::int64_t width,
                   const std::int32_t* type_of_image, int num_types, double* out, int num_threads);

/// Input errors reported by `pixel_metrics_cuda`.
enum class MetricsError {
  none,
  type_out_of_range,
  anomalous_pixel_in_good_image,
  no_anomalous_pixel,
  nan_score
};
constexpr int kMetricsErrors = 8;

/// Maximum number of pixels on a CUDA device: sums of twice as many plus a block stay below 2^32.
constexpr std::int64_t kMaxCudaPixels = (std::int64_t{1} << 31) - 256;

/// The same on a CUDA device, queued on `stream`, of up to kMaxCudaPixels pixels. `out` [6]
/// receives the five metrics and an error code: the MetricsError plus kMetricsErrors times the
/// index of the first image with it, or 0. With an error the metrics are NaN. The result is the
/// same in every run. `workspace` is aligned to 256 bytes and holds `pixel_metrics_cuda_workspace`
/// bytes: about 32 per pixel, 40 with float64.
void pixel_metrics_cuda(const void* scores, ScoreType score_type, const std::uint8_t* masks,
                        std::int64_t num_images, std::int64_t height, std::int64_t width,
                        const std::int32_t* type_of_image, int num_types, void* workspace,
                        double* out, std::uintptr_t stream);

std::int64_t pixel_metrics_cuda_workspace(ScoreType score_type, std::int64_t num_pixels,
                                          int num_types);

}  // namespace autopatch
