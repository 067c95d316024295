// The only file that depends on Python. Tensor addresses, sizes and streams are passed as integers.
// The Python side checks shapes and dtypes and allocates all memory.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "core/isa.hpp"
#include "core/parallel.hpp"
#include "ops/aggregate_patches.hpp"
#include "ops/all_finite.hpp"
#include "ops/codes.hpp"
#include "ops/cpu/aggregate_patches.hpp"
#include "ops/cpu/screen.hpp"
#include "ops/greedy_coreset.hpp"
#include "ops/nearest_neighbors.hpp"
#include "ops/pixel_metrics.hpp"
#include "ops/screen.hpp"

namespace py = pybind11;

namespace autopatch {
namespace {

template <typename T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// (address, type, channels, height, width, channels last?, patch size)
using Level = std::tuple<std::uintptr_t, FeatureType, std::int64_t, std::int64_t, std::int64_t,
                         bool, std::int64_t>;

std::vector<FeatureMap> feature_maps(const std::vector<Level>& levels) {
  std::vector<FeatureMap> maps;
  for (const auto& [data, type, channels, height, width, channels_last, patch] : levels) {
    maps.push_back({at<const void>(data), type, channels, height, width, channels_last, patch});
  }
  return maps;
}

}  // namespace
}  // namespace autopatch

PYBIND11_MODULE(_C, m) {
  using namespace autopatch;
  using release_gil = py::call_guard<py::gil_scoped_release>;
  using Address = std::uintptr_t;
  using Size = std::int64_t;

  m.def("detected_isa", [] { return std::string(isa_name(detected_isa())); });
  m.def("active_isa", [] { return std::string(isa_name(active_isa())); });
  m.def("isa_levels", &isa_levels);
  m.def("set_active_isa", &set_active_isa);
#ifdef AUTOPATCH_WITH_CUDA
  m.attr("cuda_built") = true;
#else
  m.attr("cuda_built") = false;
#endif
  m.attr("cuda_reason") = AUTOPATCH_CUDA_REASON;

  m.attr("max_threads") = kMaxThreads;
  m.attr("max_patch_size") = kMaxPatch;
  m.attr("max_screen_width") = kMaxWidth;
  m.attr("panel_rows") = kPanelRows;
  m.attr("max_screened_neighbors") = kMaxScreenedNeighbors;
  m.attr("max_cuda_columns") = kMaxCudaColumns;
  m.attr("max_cuda_pixels") = kMaxCudaPixels;

  m.def(
      "all_finite",
      [](Address values, Size count, int num_threads) {
        return all_finite(at<const float>(values), count, num_threads);
      },
      release_gil());
  py::enum_<FeatureType>(m, "FeatureType")
      .value("float32", FeatureType::float32)
      .value("float16", FeatureType::float16)
      .value("bfloat16", FeatureType::bfloat16);
  m.def(
      "aggregate_patches",
      [](const std::vector<Level>& levels, Size images, Size height, Size width, Address out,
         int num_threads) {
        aggregate_patches_cpu(feature_maps(levels), images, height, width, at<float>(out),
                              num_threads);
      },
      release_gil());
#ifdef AUTOPATCH_WITH_CUDA
  m.def(
      "aggregate_patches_cuda",
      [](const std::vector<Level>& levels, Size images, Size height, Size width, Address out,
         Address stream) {
        aggregate_patches_cuda(feature_maps(levels), images, height, width, at<float>(out), stream);
      },
      release_gil());
#endif
  m.def("prefer_huge_pages",
        [](Address data, Size count) { prefer_huge_pages(at<float>(data), count); });
  m.def("coreset_width_within", &coreset_width_within);
  m.def(
      "greedy_coreset",
      [](Address features, Size num_rows, Size dim, Size count, Size start, Address mean,
         Address basis, Size width, double basis_error, Address indices, Address radii,
         int num_threads) {
        const Coding coding{dim,         width, at<const float>(mean), at<const float>(basis),
                            basis_error, 0.0};
        greedy_coreset_cpu(at<const float>(features), num_rows, dim, count, start,
                           width == 0 ? nullptr : &coding, at<Size>(indices), at<float>(radii),
                           num_threads);
      },
      release_gil());
#ifdef AUTOPATCH_WITH_CUDA
  m.def("greedy_coreset_cuda_workspace", &greedy_coreset_cuda_workspace);
  m.def(
      "greedy_coreset_cuda",
      [](Address features, Size num_rows, Size dim, Size count, Size start, Address center,
         Address inverse_scale, Address workspace, Address indices, Address radii, Address stream) {
        greedy_coreset_cuda(at<const float>(features), num_rows, dim, count, start,
                            at<const float>(center), at<const float>(inverse_scale),
                            at<void>(workspace), at<Size>(indices), at<float>(radii), stream);
      },
      release_gil());
#endif
  m.def(
      "nearest_neighbors",
      [](Address queries, Size num_queries, Address bank, Size num_rows, Size dim, Address screen,
         Size k, Address distances, Address indices, Address counts, int num_threads) {
        nearest_neighbors_cpu(at<const float>(queries), num_queries, at<const float>(bank),
                              num_rows, dim, at<const void>(screen), k, at<float>(distances),
                              at<Size>(indices), at<SearchCounts>(counts), num_threads);
      },
      release_gil());
  m.def("screen_bytes", &screen_bytes);
  m.def("is_screen", [](Address screen, Size bytes, Size num_rows, Size dim) {
    return is_screen(at<const void>(screen), bytes, num_rows, dim);
  });
  m.def("screen_shape", [](Address screen) {
    const ScreenHeader& header = *view_screen(at<const void>(screen)).header;
    return py::make_tuple(header.width, header.num_panels, header.is_projected != 0);
  });
  m.def(
      "build_screen",
      [](Address bank, Size num_rows, Size dim, Address mean, Address basis, Size width,
         double basis_error, Address screen, int num_threads) {
        build_screen(at<const float>(bank), num_rows, dim, at<const float>(mean),
                     at<const float>(basis), width, basis_error, at<void>(screen), num_threads);
      },
      release_gil());
#ifdef AUTOPATCH_WITH_CUDA
  m.def(
      "nearest_neighbors_cuda",
      [](Address queries, Size num_queries, Address bank, Size num_rows, Size dim, Address screen,
         Address workspace, Size k, Address distances, Address indices, Address stream) {
        nearest_neighbors_cuda(at<const float>(queries), num_queries, at<const float>(bank),
                               num_rows, dim, at<const void>(screen), at<void>(workspace), k,
                               at<float>(distances), at<Size>(indices), stream);
      },
      release_gil());
  m.def("nearest_neighbors_cuda_workspace", &nearest_neighbors_cuda_workspace);
  m.def("screen_bytes_cuda", &screen_bytes_cuda);
  m.def(
      "build_screen_cuda",
      [](Address bank, Size num_rows, Size dim, Address order, Address center, Address scale,
         Address screen, Address stream) {
        build_screen_cuda(at<const float>(bank), num_rows, dim, at<const Size>(order),
                          at<const float>(center), at<const float>(scale), at<void>(screen),
                          stream);
      },
      release_gil());
  // Only tests call these.
  m.def("has_wgmma", &has_wgmma);
  py::enum_<GroupMaximaMethod>(m, "GroupMaximaMethod")
      .value("mma", GroupMaximaMethod::mma)
      .value("wgmma", GroupMaximaMethod::wgmma);
  m.def(
      "group_maxima_cuda",
      [](Address queries, Address bank, Address half_norms, Size num_queries, Size num_rows,
         Size depth, GroupMaximaMethod method, Address maxima, Address stream) {
        group_maxima_cuda(at<const void>(queries), at<const void>(bank),
                          at<const float>(half_norms), num_queries, num_rows, depth, method,
                          at<float>(maxima), stream);
      },
      release_gil());
#endif
  py::enum_<ScoreType>(m, "ScoreType")
      .value("float32", ScoreType::float32)
      .value("float64", ScoreType::float64)
      .value("float16", ScoreType::float16)
      .value("bfloat16", ScoreType::bfloat16)
      .value("uint8", ScoreType::uint8);
  m.attr("metrics_errors") = kMetricsErrors;
  py::enum_<MetricsError>(m, "MetricsError")
      .value("none", MetricsError::none)
      .value("type_out_of_range", MetricsError::type_out_of_range)
      .value("anomalous_pixel_in_good_image", MetricsError::anomalous_pixel_in_good_image)
      .value("no_anomalous_pixel", MetricsError::no_anomalous_pixel)
      .value("nan_score", MetricsError::nan_score);
  m.def(
      "pixel_metrics",
      [](Address scores, ScoreType score_type, Address masks, Size images, Size height, Size width,
         Address type_of_image, int num_types, Address out, int num_threads) {
        pixel_metrics(at<const void>(scores), score_type, at<const std::uint8_t>(masks), images,
                      height, width, at<const std::int32_t>(type_of_image), num_types,
                      at<double>(out), num_threads);
      },
      release_gil());
#ifdef AUTOPATCH_WITH_CUDA
  m.def("pixel_metrics_cuda_workspace", &pixel_metrics_cuda_workspace);
  m.def(
      "pixel_metrics_cuda",
      [](Address scores, ScoreType score_type, Address masks, Size images, Size height, Size width,
         Address type_of_image, int num_types, Address workspace, Address out, Address stream) {
        pixel_metrics_cuda(at<const void>(scores), score_type, at<const std::uint8_t>(masks),
                           images, height, width, at<const std::int32_t>(type_of_image), num_types,
                           at<void>(workspace), at<double>(out), stream);
      },
      release_gil());
#endif
}
