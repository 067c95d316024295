#pragma once

#include <cstdint>
#include <functional>

namespace autopatch {

constexpr int kMaxThreads = 256;

/// Calls `task(i)` once for every i in [0, count) and returns when all calls are done. Uses at most
/// `num_threads` threads (kMaxThreads at most), including the caller. Tasks start in order of i.
/// Rethrows the first exception that a task throws. Nested calls, and calls while another thread
/// makes one, run on the calling thread alone, so threads at work never multiply.
///
/// If `num_threads` is torch's number, torch's own threads do the work; others would compete with
/// them for the cores. Otherwise, without OpenMP, and in a forked child, a pool does. If the system
/// refuses threads, the pool works with fewer.
void parallel_for(std::int64_t count, int num_threads,
                  const std::function<void(std::int64_t)>& task);

}  // namespace autopatch
