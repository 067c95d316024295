#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ops/cpu/locate_scores.hpp"
#include "ops/cpu/score_key.hpp"

namespace autopatch {

/// Finds the positions of 4- or 8-byte scores among distinct keys (score_key.hpp).
template <typename Format>
class KeyLocator {
 public:
  using Bits = typename Format::Bits;

  /// `keys` are distinct and ascending, 1 to 2^20 of them, without keys of NaN.
  explicit KeyLocator(std::vector<Bits> keys);
  KeyLocator(const KeyLocator&) = delete;  // the table points into it
  KeyLocator& operator=(const KeyLocator&) = delete;

  std::size_t num_keys() const { return table_.num_keys; }
  Bits first_key() const { return table_.lowest + 1; }
  Bits last_key() const { return table_.highest - 1; }

  /// See `LocateScores`. Uses the ISA level that was active at construction.
  bool locate(const Bits* scores, int count, std::uint32_t* slots) const {
    return kernel_(table_, scores, count, slots);
  }

 private:
  std::uint32_t bin_of(Bits offset) const;
  void cut_into_bins();
  void mark_bins();

  LocateScores<Bits> kernel_;
  std::vector<Bits> offsets_;
  std::vector<std::uint64_t> words_;
  KeyTable<Bits> table_{};
};

extern template class KeyLocator<Float32>;
extern template class KeyLocator<Float64>;

}  // namespace autopatch
