#pragma once

#include <cstdint>
#include <vector>

namespace autopatch {

/// How vectors become 8-bit codes whose distances bound those of the vectors.
///
/// A vector x has y = x - mean and `width` coordinates u: either y itself, padded with zeros, or
/// its products with orthonormal directions and, last, the norm of what they leave of y, less
/// `norm_center`. Both ways |u - u'| <= |y - y'| (the norm by the triangle inequality). Codes are
/// integers c of -127 to 127 with u = scale * c + error for a u in the box of the codes; others are
/// clamped to it first. An error is the norm of what rounding to codes, to float32 and imperfect
/// orthonormality may have changed.
struct Coding {
  std::int64_t dim;
  std::int64_t width;  // `dim` rounded up to 4, or the directions + 1, a multiple of 16
  const float* mean;   // [dim]
  const float* basis;  // [dim, width], its last column zero; null without projection
  double basis_error;  // bound of |V'V - 1|
  double norm_center;  // taken from the last coordinate of a projection
};

constexpr std::int64_t kMaxWidth = 8192;  // products add up within 30 bits
constexpr double kMaxCode = 127;

/// Coordinates of some vectors and the bound of their error.
struct Coordinates {
  std::vector<float> values;  // [count, width]
  std::vector<double> error;  // [count]; infinite where magnitudes allow no bound
};

void find_coordinates(const Coding& coding, const float* vectors, std::int64_t count,
                      Coordinates& out);

/// Largest magnitude of the coordinates of a vector, NaN if one is.
float magnitude_of(const float* coordinates, std::int64_t width);

/// Sets the `norm_center` of a coding from a sample of `rows` and returns the scale whose box holds
/// most of them, 0 where their magnitude allows none.
double fit_scale(const float* rows, std::int64_t num_rows, Coding& coding);

/// Codes of one vector.
struct Code {
  double error;    // of the clamped vector
  double clamped;  // distance to the box of the codes
  std::int64_t squared_norm;
  std::int64_t sum;
};

Code quantize(const float* coordinates, std::int64_t width, double scale, double error,
              std::int8_t* codes);

}  // namespace autopatch
