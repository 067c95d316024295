#include "ops/key_locator.hpp"

#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>

#include "core/isa.hpp"

namespace autopatch {
namespace {

// Minimum number of bins per key, if the cell is wide enough. With fewer, more scores fall into
// marked bins; with more, the marks no longer fit in the caches.
constexpr std::uint64_t kBinsOfKey = 16;
constexpr std::uint32_t kBinsOfWord = 32;

template <typename Format>
LocateScores<typename Format::Bits> kernel_of() {
  if constexpr (std::is_same_v<Format, Float32>) {
    return AUTOPATCH_KERNEL(locate_float32);
  } else {
    return AUTOPATCH_KERNEL(locate_float64);
  }
}

}  // namespace

template <typename Format>
KeyLocator<Format>::KeyLocator(std::vector<Bits> keys)
    : kernel_(kernel_of<Format>()), offsets_(std::move(keys)) {
  table_.num_keys = static_cast<std::uint32_t>(offsets_.size());
  table_.lowest = offsets_.front() - 1;
  table_.highest = offsets_.back() + 1;
  for (Bits& offset : offsets_) offset -= table_.lowest;
  cut_into_bins();
  mark_bins();
  offsets_.push_back(std::numeric_limits<Bits>::max());
  table_.offsets = offsets_.data();
  table_.words = words_.data();
}

template <typename Format>
std::uint32_t KeyLocator<Format>::bin_of(Bits offset) const {
  const auto cell = static_cast<std::size_t>(offset >> table_.cell_shift);
  return static_cast<std::uint32_t>(offset >> table_.bin_shifts[cell]) + table_.bin_origins[cell];
}

template <typename Format>
void KeyLocator<Format>::cut_into_bins() {
  constexpr auto kCells = static_cast<Bits>(KeyTable<Bits>::kCells);
  const Bits last = table_.highest - table_.lowest;
  int& cell_shift = table_.cell_shift;
  while ((last >> cell_shift) >= kCells) ++cell_shift;
  std::uint64_t keys_of_cell[kCells] = {};
  for (const Bits offset : offsets_) ++keys_of_cell[offset >> cell_shift];
  std::uint32_t num_bins = 0;
  for (Bits cell = 0; cell <= last >> cell_shift; ++cell) {
    int log_bins = 0;
    while (log_bins < cell_shift && (1ULL << log_bins) < kBinsOfKey * keys_of_cell[cell]) {
      ++log_bins;
    }
    table_.bin_shifts[cell] = static_cast<std::uint32_t>(cell_shift - log_bins);
    table_.bin_origins[cell] = num_bins - (static_cast<std::uint32_t>(cell) << log_bins);
    num_bins += std::uint32_t{1} << log_bins;
  }
  words_.resize(num_bins / kBinsOfWord + 1);
}

template <typename Format>
void KeyLocator<Format>::mark_bins() {
  std::uint32_t next = 0;
  for (const Bits offset : offsets_) {
    const std::uint32_t bin = std::max(next, bin_of(offset));
    if (bin / kBinsOfWord >= words_.size()) words_.push_back(0);
    words_[bin / kBinsOfWord] |= std::uint64_t{1} << (bin % kBinsOfWord);
    next = bin + 1;
  }
  std::uint64_t before = 0;
  for (std::uint64_t& word : words_) {
    std::uint64_t marks = 0;
    for (std::uint64_t left = word; left != 0; left &= left - 1) ++marks;
    word |= before << 32;
    before += marks;
  }
}

template class KeyLocator<Float32>;
template class KeyLocator<Float64>;

}  // namespace autopatch
