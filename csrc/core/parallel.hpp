#pragma once

#include <cstdint>
#include <functional>

namespace autopatch {

/// Calls `task(i)` once for every i in [0, count), on at most `num_threads` (and 256) threads of
/// which the caller is one, and returns when all are done. Tasks are handed out in order of i.
/// Rethrows the first exception of a task. A call from within a task, or while another thread holds
/// the pool, runs on the calling thread alone: the pool never has more threads than one caller
/// asked for. Safe after fork: the child starts a pool of its own.
void parallel_for(std::int64_t count, int num_threads,
                  const std::function<void(std::int64_t)>& task);

}  // namespace autopatch
