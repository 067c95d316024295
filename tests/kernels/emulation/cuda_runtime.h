#pragma once

// <cuda_runtime.h> for tests without a GPU: CUDA sources compile as C++ and their kernels run on
// the host, every thread of every block. A thread of a kernel is a fiber; when it waits at a
// barrier, in a warp exchange or in `pause`, the next fiber runs. Blocks of an independent grid run
// one after another, those of a cooperative grid together. All bits of dynamic shared memory are
// set when a block starts, so uninitialized reads show as NaN or -1.

#include <ucontext.h>

#include <cmath>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#define __host__
#define __device__
#define __global__
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(...)

// --- Types -------------------------------------------------------------------------------------

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
  unsigned x, y, z;
};

struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

// --- Runtime -----------------------------------------------------------------------------------

using cudaStream_t = struct CUstream_st*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  kEmulatedAttributes
};

inline const char* cudaGetErrorString(cudaError_t) { return "emulated"; }
inline int emulated_attributes[kEmulatedAttributes] = {3, 48 << 10};
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int) {
  *value = emulated_attributes[name];
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

// --- Fibers ------------------------------------------------------------------------------------

namespace emulation {

constexpr std::size_t kStack = 256 << 10;
constexpr std::size_t kGuard = 4096;  // bytes after the shared memory; must not change
constexpr int kWarp = 32;

/// One exchange of the lanes in a mask. Values alternate between two buffers. A lane that is one
/// exchange ahead writes to the other buffer, and no lane can get two ahead.
struct Exchange {
  std::uint64_t values[2][kWarp];
  unsigned arrived = 0;
  unsigned generation = 0;
};

struct Block {
  uint3 index;
  int running = 0;  // threads
  int waiting = 0;
  unsigned generation = 0;
  std::vector<std::map<unsigned, Exchange>> warps;
  std::unique_ptr<unsigned char[]> memory;
  unsigned char* shared = nullptr;
};

struct Fiber {
  ucontext_t start;  // entry point
  jmp_buf position;  // resume point; longjmp needs no system call, unlike swapcontext
  bool started = false;
  Block* block;
  uint3 thread;
  int lane;
  int warp;
  bool done = false;
};

struct Device {
  jmp_buf scheduler;
  Fiber* running = nullptr;
  const std::function<void()>* body = nullptr;
  dim3 grid, block;
  std::uint64_t progress = 0;
};

inline Device device;

inline Fiber& self() { return *device.running; }

[[noreturn]] inline void fail(const char* message) {
  std::fprintf(stderr, "emulated device: %s\n", message);
  std::abort();
}

inline void yield() {
  if (_setjmp(self().position) == 0) _longjmp(device.scheduler, 1);
}

/// Runs a fiber until it yields.
[[gnu::noinline]] inline void resume(Fiber& fiber) {
  device.running = &fiber;
  if (_setjmp(device.scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.position, 1);
  fiber.started = true;
  setcontext(&fiber.start);
}

inline void release_if_complete(Block& block) {
  if (block.waiting == block.running) {
    block.waiting = 0;
    ++block.generation;
    ++device.progress;
  }
}

inline void barrier() {
  Block& block = *self().block;
  const unsigned generation = block.generation;
  ++block.waiting;
  release_if_complete(block);
  while (block.generation == generation) yield();
}

/// The values of all lanes in `mask`, by lane.
template <typename T>
const std::uint64_t* exchange(unsigned mask, T value) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  Fiber& fiber = self();
  if (!(mask >> fiber.lane & 1)) fail("a lane exchanges values under a mask that it is not in");
  Exchange& state = fiber.block->warps[static_cast<std::size_t>(fiber.warp)][mask];
  const unsigned generation = state.generation;
  std::uint64_t* values = state.values[generation & 1];
  values[fiber.lane] = 0;
  std::memcpy(&values[fiber.lane], &value, sizeof(T));
  state.arrived |= 1u << fiber.lane;
  if (state.arrived == mask) {
    state.arrived = 0;
    ++state.generation;
    ++device.progress;
  }
  while (state.generation == generation) yield();
  return values;
}

template <typename T>
T lane_value(const std::uint64_t* values, int lane) {
  T value;
  std::memcpy(&value, &values[lane], sizeof(T));
  return value;
}

inline void run_fiber() {
  (*device.body)();
  Fiber& fiber = self();
  fiber.done = true;
  --fiber.block->running;
  ++device.progress;
  if (fiber.block->running > 0) release_if_complete(*fiber.block);
  yield();
}

inline void run_together(std::vector<Block>& blocks, std::size_t shared_bytes) {
  static std::vector<std::unique_ptr<char[]>> stacks;
  const std::size_t threads = std::size_t{device.block.x} * device.block.y * device.block.z;
  std::vector<std::unique_ptr<Fiber>> fibers;
  for (Block& block : blocks) {
    constexpr std::size_t kAlignment = 1024;
    block.memory.reset(new unsigned char[shared_bytes + kAlignment + kGuard]);
    std::memset(block.memory.get(), 0xFF, shared_bytes + kAlignment + kGuard);
    const auto address = reinterpret_cast<std::uintptr_t>(block.memory.get());
    block.shared = block.memory.get() + (kAlignment - address % kAlignment);
    block.running = static_cast<int>(threads);
    block.warps.resize((threads + kWarp - 1) / kWarp);
    for (std::size_t i = 0; i < threads; ++i) {
      fibers.push_back(std::make_unique<Fiber>());
      Fiber& fiber = *fibers.back();
      fiber.block = &block;
      const auto at = static_cast<unsigned>(i);
      fiber.thread = {at % device.block.x, at / device.block.x % device.block.y,
                      at / device.block.x / device.block.y};
      fiber.lane = static_cast<int>(i % kWarp);
      fiber.warp = static_cast<int>(i / kWarp);
      if (stacks.size() < fibers.size()) stacks.emplace_back(new char[kStack]);
      getcontext(&fiber.start);
      fiber.start.uc_stack.ss_sp = stacks[fibers.size() - 1].get();
      fiber.start.uc_stack.ss_size = kStack;
      fiber.start.uc_link = nullptr;
      makecontext(&fiber.start, run_fiber, 0);
    }
  }
  for (std::size_t left = fibers.size(); left > 0;) {
    const std::uint64_t before = device.progress;
    for (const std::unique_ptr<Fiber>& fiber : fibers) {
      if (fiber->done) continue;
      resume(*fiber);
      if (fiber->done) --left;
    }
    if (device.progress == before) fail("every thread waits for another");
  }
  for (const Block& block : blocks) {
    for (std::size_t i = 0; i < kGuard; ++i) {
      if (block.shared[shared_bytes + i] != 0xFF) fail("a block writes behind its shared memory");
    }
  }
}

inline void run_grid(bool together, dim3 grid, dim3 block, std::size_t shared_bytes,
                     const std::function<void()>& body) {
  device.grid = grid;
  device.block = block;
  device.body = &body;
  std::vector<Block> blocks;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blocks.emplace_back();
        blocks.back().index = {x, y, z};
        if (together) continue;
        run_together(blocks, shared_bytes);
        blocks.clear();
      }
    }
  }
  if (together) run_together(blocks, shared_bytes);
}

}  // namespace emulation

#define threadIdx (::emulation::self().thread)
#define blockIdx (::emulation::self().block->index)
#define gridDim (::emulation::device.grid)

namespace autopatch {

template <typename T>
T* shared_memory() {
  return reinterpret_cast<T*>(::emulation::self().block->shared);
}

inline void pause() {
  ++::emulation::device.progress;
  ::emulation::yield();
}

enum class Grid { independent, cooperative };

template <typename... Parameters, typename... Arguments>
void launch(const char*, Grid grid_type, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            std::size_t shared_bytes, cudaStream_t, Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) ::emulation::fail("a grid without blocks");
  ::emulation::run_grid(grid_type == Grid::cooperative, grid, block, shared_bytes,
                        [&] { kernel(static_cast<Parameters>(arguments)...); });
}

}  // namespace autopatch

// --- Threads of a block and of a warp ----------------------------------------------------------

inline void __syncthreads() { ::emulation::barrier(); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) { ::emulation::exchange(mask, 0); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int lane = ::emulation::self().lane;
  const auto* values = ::emulation::exchange(mask, value);
  return ::emulation::lane_value<T>(values, lane / width * width + source % width);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = ::emulation::self().lane;
  const auto* values = ::emulation::exchange(mask, value);
  const int from = lane - static_cast<int>(delta);
  return from < lane / width * width ? value : ::emulation::lane_value<T>(values, from);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  const int lane = ::emulation::self().lane;
  const auto* values = ::emulation::exchange(mask, value);
  const int from = lane ^ lanes;
  return from >= lane / width * width + width ? value : ::emulation::lane_value<T>(values, from);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const auto* values = ::emulation::exchange(mask, predicate);
  unsigned ballot = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) && ::emulation::lane_value<int>(values, lane)) ballot |= 1u << lane;
  }
  return ballot;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == mask;
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  const auto* values = ::emulation::exchange(mask, value);
  unsigned equal = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) && ::emulation::lane_value<T>(values, lane) == value) {
      equal |= 1u << lane;
    }
  }
  return equal;
}

// --- Atomics: fibers are never interrupted -----------------------------------------------------

template <typename T, typename U>
T atomicAdd(T* address, U value) {
  const T before = *address;
  *address = static_cast<T>(before + static_cast<T>(value));
  return before;
}
template <typename T, typename U>
T atomicMax(T* address, U value) {
  const T before = *address;
  if (before < static_cast<T>(value)) *address = static_cast<T>(value);
  return before;
}
template <typename T, typename U>
T atomicMin(T* address, U value) {
  const T before = *address;
  if (static_cast<T>(value) < before) *address = static_cast<T>(value);
  return before;
}

// --- Arithmetic --------------------------------------------------------------------------------

template <typename A, typename B>
std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <typename A, typename B>
std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}

template <typename To, typename From>
To emulated_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}
inline unsigned __float_as_uint(float x) { return emulated_bits<unsigned>(x); }
inline float __int_as_float(int x) { return emulated_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return emulated_bits<float>(x); }
inline double __longlong_as_double(long long x) { return emulated_bits<double>(x); }

// Compiled with -ffp-contract=off, so that each is rounded once.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clzll(long long x) {
  return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline int __dp4a(int a, int b, int sum) {
  for (int i = 0; i < 4; ++i) {
    sum += static_cast<std::int8_t>(a >> (8 * i)) * static_cast<std::int8_t>(b >> (8 * i));
  }
  return sum;
}
