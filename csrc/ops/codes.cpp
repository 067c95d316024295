#include "ops/codes.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/index.hpp"
#include "core/isa.hpp"
#include "ops/cpu/nearest_neighbors.hpp"

namespace autopatch {
namespace {

constexpr std::int64_t kSample = 1024;   // rows from which the scale is chosen
constexpr double kCoveredShare = 0.95;   // share of these rows within the box of the codes
constexpr double kRounding = 0x1p-24;    // relative error of a float32 operation
constexpr double kMaxMagnitude = 1e15;   // so that squares and products do not overflow
constexpr double kMinMagnitude = 1e-10;  // so that errors cover any underflow

/// Whether a vector's coordinates and their squares are within range.
bool usable(double squared_norm) { return squared_norm <= kMaxMagnitude * kMaxMagnitude; }

/// Sum of squares, added in independent lanes.
double squared_norm_of(const float* values, std::int64_t count) {
  constexpr std::int64_t kLanes = 8;
  double lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::int64_t l = 0; l < kLanes; ++l) {
      const double value = values[i + l];
      lanes[l] += value * value;
    }
  }
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  for (; i < count; ++i) sum += static_cast<double>(values[i]) * values[i];
  return sum;
}

/// Sets the codes of vector i to zero and its error to infinity, so that no bound holds.
void give_up(std::int64_t i, std::int64_t width, Coordinates& out) {
  std::fill_n(out.values.begin() + static_cast<std::ptrdiff_t>(i * width), width, 0.0f);
  out.error[index(i)] = std::numeric_limits<double>::infinity();
}

}  // namespace

void find_coordinates(const Coding& coding, const float* vectors, std::int64_t count,
                      Coordinates& out) {
  const std::int64_t dim = coding.dim;
  const std::int64_t width = coding.width;
  out.values.resize(index(count * width));
  out.error.resize(index(count));
  if (coding.basis == nullptr) {
    for (std::int64_t i = 0; i < count; ++i) {
      float* u = out.values.data() + i * width;
      for (std::int64_t d = 0; d < dim; ++d) u[d] = vectors[i * dim + d] - coding.mean[d];
      std::fill(u + dim, u + width, 0.0f);
      const double squared_norm = squared_norm_of(u, dim);
      out.error[index(i)] = 2 * kRounding * std::sqrt(squared_norm);
      if (!usable(squared_norm)) give_up(i, width, out);
    }
    return;
  }
  std::vector<float> squared_norms(index(count));
  AUTOPATCH_KERNEL(project_vectors)
  (vectors, count, dim, coding.mean, coding.basis, width, out.values.data(), squared_norms.data());
  // `of_coordinate`: error of one coordinate relative to |y|, from the roundings of its sum.
  // `of_all`: error of all coordinates together, relative to |y|. `of_norm`: error of the squared
  // norm relative to |y|^2; its sum has at least four lanes.
  const double chunks = static_cast<double>(dim) / static_cast<double>(kProjectionChunk);
  const double of_coordinate = kRounding * (static_cast<double>(kProjectionChunk) + chunks + 3);
  const double of_all = of_coordinate * std::sqrt(static_cast<double>(width)) + coding.basis_error;
  const double of_norm = kRounding * (static_cast<double>(dim) / 4 + 16);
  for (std::int64_t i = 0; i < count; ++i) {
    float* u = out.values.data() + i * width;
    const double squared_norm = squared_norms[index(i)];
    const double left = std::sqrt(std::max(squared_norm - squared_norm_of(u, width - 1), 0.0));
    u[width - 1] = static_cast<float>(left - coding.norm_center);
    // |sqrt(a) - sqrt(b)| is at most sqrt(|a - b|), and at most |a - b| / sqrt(b).
    const double of_square = squared_norm * (3 * of_all + of_norm);
    const double of_left = std::min(std::sqrt(of_square), left > 0 ? of_square / left : HUGE_VAL) +
                           2 * kRounding * (left + std::fabs(coding.norm_center));
    out.error[index(i)] = 1.01 * (of_all * std::sqrt(squared_norm) + of_left);
    if (!usable(squared_norm)) give_up(i, width, out);
  }
}

float magnitude_of(const float* coordinates, std::int64_t width) {
  // Without their sign bit, floats compare by magnitude like integers, with NaN last.
  std::int32_t largest = 0;
  for (std::int64_t d = 0; d < width; ++d) {
    std::int32_t bits;
    std::memcpy(&bits, coordinates + d, sizeof bits);
    largest = std::max(largest, bits & std::numeric_limits<std::int32_t>::max());
  }
  float magnitude;
  std::memcpy(&magnitude, &largest, sizeof magnitude);
  return magnitude;
}

double fit_scale(const float* rows, std::int64_t num_rows, Coding& coding) {
  const std::int64_t dim = coding.dim;
  const std::int64_t width = coding.width;
  const std::int64_t step = std::max<std::int64_t>(num_rows / kSample, 1);
  const std::int64_t count = num_rows / step;
  std::vector<float> sample(index(count * dim));
  for (std::int64_t i = 0; i < count; ++i) {
    std::copy_n(rows + i * step * dim, dim, sample.data() + i * dim);
  }
  Coordinates coordinates;
  find_coordinates(coding, sample.data(), count, coordinates);
  if (coding.basis != nullptr) {
    double sum = 0;
    for (std::int64_t i = 1; i <= count; ++i) sum += coordinates.values[index(i * width - 1)];
    coding.norm_center = sum / static_cast<double>(count);
    for (std::int64_t i = 1; i <= count; ++i) {
      coordinates.values[index(i * width - 1)] -= static_cast<float>(coding.norm_center);
    }
  }
  std::vector<float> largest(index(count));
  for (std::int64_t i = 0; i < count; ++i) {
    largest[index(i)] = magnitude_of(coordinates.values.data() + i * width, width);
  }
  const auto covered =
      largest.begin() + static_cast<std::ptrdiff_t>(kCoveredShare * static_cast<double>(count - 1));
  std::nth_element(largest.begin(), covered, largest.end());
  if (*covered == 0) return 1;
  if (!(*covered >= kMinMagnitude && *covered <= kMaxMagnitude)) return 0;
  return 1.0001 * static_cast<double>(*covered) / kMaxCode;
}

Code quantize(const float* coordinates, std::int64_t width, double scale, double error,
              std::int8_t* codes) {
  constexpr auto kLargest = static_cast<float>(kMaxCode);
  constexpr float kToWhole = 0x1.8p23f;  // adding and subtracting it rounds to whole numbers
  const auto inverse = static_cast<float>(1 / scale);
  constexpr std::int64_t kLanes = 4;  // independent; every width is a multiple
  float rounding[kLanes] = {};
  bool inside = true;
  std::int32_t squared_norm = 0;
  std::int32_t sum = 0;
  for (std::int64_t d = 0; d < width; d += kLanes) {
    for (std::int64_t l = 0; l < kLanes; ++l) {
      const float exact = coordinates[d + l] * inverse;
      const float clamped = std::min(std::max(exact, -kLargest), kLargest);
      const float code = (clamped + kToWhole) - kToWhole;
      rounding[l] += (clamped - code) * (clamped - code);
      inside &= exact == clamped;
      const auto whole = static_cast<std::int32_t>(code);
      codes[d + l] = static_cast<std::int8_t>(whole);
      squared_norm += whole * whole;
      sum += whole;
    }
  }
  double beyond = 0;
  for (std::int64_t d = 0; d < width && !inside; ++d) {
    const float exact = std::fabs(coordinates[d] * inverse);
    const double outside = std::max(exact - kMaxCode, 0.0);
    beyond += outside * outside;
  }
  const double of_codes = double{rounding[0]} + rounding[1] + rounding[2] + rounding[3];
  // The error of `exact` is at most three roundings of 127 plus its excess over 127; a sum of up to
  // 8192 squares errs by less than 1e-3 of itself.
  const double of_exact = 3 * kRounding * kMaxCode * std::sqrt(static_cast<double>(width));
  return {scale * (1.001 * std::sqrt(of_codes) + of_exact) + error,
          scale * std::max(0.999 * std::sqrt(beyond) - of_exact, 0.0), squared_norm, sum};
}

}  // namespace autopatch
