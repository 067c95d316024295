#pragma once

#include <cstdint>
#include <functional>

namespace autopatch {

constexpr int kMaxThreads = 256;

/// Calls `task(i)` once for every i in [0, count) and returns when all calls are done. Uses at most
/// `num_threads` threads (kMaxThreads at most), including the caller. Tasks start in order of i.
/// Rethrows the first exception that a task throws. Nested calls, and calls while another thread
/// makes one, run on the calling thread alone, so the number of threads never multiplies.
///
/// `num_threads` that torch uses are torch's own, which would otherwise compete with others for the
/// cores. Another number of threads come from a pool; so do all in a process without OpenMP, and in
/// a forked child.
void parallel_for(std::int64_t count, int num_threads,
                  const std::function<void(std::int64_t)>& task);

}  // namespace autopatch
