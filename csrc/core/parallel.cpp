#include "core/parallel.hpp"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

namespace autopatch {
namespace {

// The coreset submits a new job every few microseconds, so an idle worker polls this many times for
// the next job before it sleeps.
constexpr int kSpins = 4000;

/// Spin-wait hint. On ARM, `yield` is a no-op on most cores; `isb` delays about as long as `pause`
/// does on x86.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb" ::: "memory");
#endif
}

// One call of parallel_for. Threads claim tasks one at a time, so the others do the share of a
// worker that is not scheduled. The pool does not wait for it; an OpenMP team does.
struct Job {
  Job(std::int64_t num_tasks, int num_helpers, const std::function<void(std::int64_t)>& function)
      : count(num_tasks), places(num_helpers), task(function) {}

  void take_tasks() {
    for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      if (!failed.load(std::memory_order_relaxed)) {
        try {
          task(i);
        } catch (...) {
          const std::lock_guard<std::mutex> lock(error_mutex);
          if (!failed.exchange(true)) error = std::current_exception();
        }
      }
      done.fetch_add(1, std::memory_order_release);
    }
  }

  const std::int64_t count;
  std::atomic<int> places;  // workers that may still join
  // Only called for a claimed task, and the caller stays until every claimed task is done.
  const std::function<void(std::int64_t)>& task;
  std::atomic<std::int64_t> next{0};
  std::atomic<std::int64_t> done{0};
  std::atomic<bool> failed{false};
  std::mutex error_mutex;
  std::exception_ptr error;
};

class ThreadPool {
 public:
  bool try_enter() { return entrance_.try_lock(); }
  void leave() { entrance_.unlock(); }

  /// Requires a successful `try_enter`.
  void run(std::int64_t count, int helpers, const std::function<void(std::int64_t)>& task) {
    try {
      for (; size_ < helpers; ++size_) {
        std::thread([this] { work(); }).detach();
      }
    } catch (const std::system_error&) {
      // A limit of the system on threads or memory: those that exist do the work.
    }
    const auto job = std::make_shared<Job>(count, helpers, task);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      job_ = job;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    job->take_tasks();
    for (int spin = 0; job->done.load(std::memory_order_acquire) < count; ++spin) {
      if (spin < kSpins) {
        relax();
      } else {
        std::this_thread::yield();
      }
    }
    if (job->error) std::rethrow_exception(job->error);
  }

 private:
  void work() {
    std::uint64_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen;
           ++spin) {
        relax();
      }
      std::shared_ptr<Job> job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
        seen = generation_.load(std::memory_order_relaxed);
        job = job_;
      }
      if (job->places.fetch_sub(1, std::memory_order_relaxed) > 0) job->take_tasks();
    }
  }

  std::mutex entrance_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<std::uint64_t> generation_{0};
  std::shared_ptr<Job> job_;
  int size_ = 0;
};

// Never destroyed: workers sleep in it until the process ends. A forked child has no workers and
// may inherit locked mutexes, so it abandons the old pool and creates a new one.
std::atomic<ThreadPool*> pool_of_process{new ThreadPool};
std::atomic<bool> is_forked{false};

[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] {
  pool_of_process.store(new ThreadPool);
  is_forked.store(true);
});

using RunTeam = void (*)(void (*work)(void*), void* data, unsigned num_threads, unsigned flags);

/// Runs a function on each thread of the OpenMP runtime that the process has loaded, which is that
/// of torch. Null if there is none, if it has another number of threads, which it would have to
/// start or end, and in a forked child, where it may hang.
///
/// After an operator, torch's threads spin for some milliseconds. Those of another pool would have
/// to share the cores with them. `GOMP_parallel` is part of the binary interface of libgomp, which
/// the runtimes of LLVM and Intel have as well.
RunTeam openmp_team(int num_threads) {
  static const auto run = reinterpret_cast<RunTeam>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  static const auto size = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
  const bool is_there = run != nullptr && size != nullptr && !is_forked.load();
  return is_there && size() == num_threads ? run : nullptr;
}

}  // namespace

void parallel_for(std::int64_t count, int num_threads,
                  const std::function<void(std::int64_t)>& task) {
  const int threads = std::min(num_threads, kMaxThreads);
  const auto helpers = static_cast<int>(std::min<std::int64_t>(count, threads) - 1);
  if (helpers > 0) {
    ThreadPool& shared = *pool_of_process.load();
    // In a nested call this thread already holds the mutex. Calling try_lock again would be
    // undefined behavior, hence the flag.
    static thread_local bool inside = false;
    if (!inside && shared.try_enter()) {
      inside = true;
      struct Exit {
        ThreadPool& held;
        bool& flag;
        ~Exit() {
          flag = false;
          held.leave();
        }
      } exit{shared, inside};
      if (const RunTeam run_team = openmp_team(threads)) {
        Job job(count, helpers, task);
        run_team([](void* data) { static_cast<Job*>(data)->take_tasks(); }, &job,
                 static_cast<unsigned>(threads), 0);
        if (job.error) std::rethrow_exception(job.error);
      } else {
        shared.run(count, helpers, task);
      }
      return;
    }
  }
  for (std::int64_t i = 0; i < count; ++i) task(i);
}

}  // namespace autopatch
