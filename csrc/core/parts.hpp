#pragma once

#include <cstdint>

#include "core/rounding.hpp"

namespace autopatch {

/// Places several arrays in one block of memory, each aligned to 256 bytes. With a null block it
/// only computes the total size.
class Parts {
 public:
  explicit Parts(void* memory) : memory_(static_cast<unsigned char*>(memory)) {}

  template <typename T>
  T* take(std::int64_t count) {
    constexpr std::int64_t kAlignment = 256;
    unsigned char* part = memory_ == nullptr ? nullptr : memory_ + size_;
    size_ += round_up(count * static_cast<std::int64_t>(sizeof(T)), kAlignment);
    return reinterpret_cast<T*>(part);
  }

  std::int64_t size() const { return size_; }

 private:
  unsigned char* memory_;
  std::int64_t size_ = 0;
};

}  // namespace autopatch
