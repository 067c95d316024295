#pragma once

#include <cstdint>
#include <vector>

namespace autopatch {

/// Converts vectors to 8-bit codes whose distances bound the distances of the vectors.
///
/// A vector x is centered, y = x - mean, and has `width` coordinates u. Without projection, u is y
/// padded with zeros. With projection, u holds the products of y with orthonormal directions and,
/// last, the norm of the residual of y minus `norm_center`. In both cases |u - u'| <= |y - y'| (for
/// the norm by the triangle inequality). Codes are integers c in [-127, 127] with u = scale * c +
/// error if u lies in the box of the codes; other u are clamped to the box first. The error is a
/// bound of the norm of all deviations: rounding to codes, rounding to float32 and imperfect
/// orthonormality.
struct Coding {
  std::int64_t dim;
  std::int64_t width;  // `dim` rounded up to 4, or the directions + 1, a multiple of 16
  const float* mean;   // [dim]
  const float* basis;  // [dim, width], its last column zero; null without projection
  double basis_error;  // bound of |V'V - I|
  double norm_center;  // subtracted from the last coordinate if projected
};

constexpr std::int64_t kMaxWidth = 8192;  // sums of products fit in 30 bits
constexpr double kMaxCode = 127;

/// Coordinates of vectors and a bound of the error of each.
struct Coordinates {
  std::vector<float> values;  // [count, width]
  std::vector<double> error;  // [count]; infinite for magnitudes out of range
};

void find_coordinates(const Coding& coding, const float* vectors, std::int64_t count,
                      Coordinates& out);

/// Largest magnitude among the coordinates of a vector; NaN if one of them is NaN.
float magnitude_of(const float* coordinates, std::int64_t width);

/// Sets the `norm_center` of a coding from a sample of `rows`, and returns a scale whose box holds
/// most of the sample; 0 if their magnitudes are out of range.
double fit_scale(const float* rows, std::int64_t num_rows, Coding& coding);

/// Codes of one vector.
struct Code {
  double error;    // bound of the error of the clamped vector
  double clamped;  // distance of the vector from the box of the codes
  std::int64_t squared_norm;
  std::int64_t sum;
};

Code quantize(const float* coordinates, std::int64_t width, double scale, double error,
              std::int8_t* codes);

}  // namespace autopatch
