#pragma once

// The false-positive axis of ROC and per-region overlap curves.

#include "ops/cpu/score_key.hpp"

namespace autopatch {

/// Partial AUROC and AUPRO go up to this false-positive rate.
constexpr double kMaxFalsePositiveRate = 0.3;

/// Length of the false-positive axis, up to `limit`, over which a positive counts as found: the
/// average over positives that tie with the negatives from `before` to `after`.
AUTOPATCH_ALSO_ON_DEVICE inline double found_along(double before, double after, double limit) {
  if (after <= limit) return limit - (before + after) / 2;
  if (before >= limit) return 0;
  return (limit - before) * (limit - before) / (2 * (after - before));
}

/// A partial AUROC up to `kMaxFalsePositiveRate`, standardized so that chance gives 0.5 and a
/// perfect ranking 1.
AUTOPATCH_ALSO_ON_DEVICE inline double standardized(double partial) {
  constexpr double chance = kMaxFalsePositiveRate * kMaxFalsePositiveRate / 2;
  return (1 + (partial - chance) / (kMaxFalsePositiveRate - chance)) / 2;
}

}  // namespace autopatch
