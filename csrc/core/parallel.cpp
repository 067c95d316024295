#include "core/parallel.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

namespace autopatch {
namespace {

// Kernels such as the coreset come back within microseconds: a worker looks for the next job this
// many times before it goes to sleep.
constexpr int kSpins = 4000;
constexpr std::int64_t kMaxThreads = 256;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

class ThreadPool {
 public:
  bool try_enter() { return entrance_.try_lock(); }
  void leave() { entrance_.unlock(); }

  /// The caller must have entered.
  void run(std::int64_t count, int helpers, const std::function<void(std::int64_t)>& task) {
    while (size_ < helpers) {
      std::thread([this, id = size_] { work(id); }).detach();
      ++size_;
    }
    task_ = &task;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    error_ = nullptr;
    busy_.store(helpers, std::memory_order_relaxed);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      helpers_ = helpers;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    take_tasks();
    for (int spin = 0; busy_.load(std::memory_order_acquire) > 0; ++spin) {
      if (spin < kSpins) {
        relax();
      } else {
        std::this_thread::yield();
      }
    }
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void take_tasks() {
    try {
      for (std::int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) {
        (*task_)(i);
      }
    } catch (...) {
      next_.store(count_, std::memory_order_relaxed);
      const std::lock_guard<std::mutex> lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  void work(int id) {
    std::uint64_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen;
           ++spin) {
        relax();
      }
      bool mine;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
        seen = generation_.load(std::memory_order_relaxed);
        mine = id < helpers_;
      }
      if (!mine) continue;
      take_tasks();
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::mutex entrance_;
  std::mutex mutex_;
  std::mutex error_mutex_;
  std::condition_variable wake_;
  std::atomic<std::uint64_t> generation_{0};
  std::atomic<std::int64_t> next_{0};
  std::atomic<int> busy_{0};
  int size_ = 0;
  int helpers_ = 0;
  std::int64_t count_ = 0;
  const std::function<void(std::int64_t)>* task_ = nullptr;
  std::exception_ptr error_;
};

// Never destroyed: workers sleep in it until the process ends. After a fork the child has none of
// the workers, and whatever locks they held stay locked, so it leaves the old pool alone and makes
// a new one.
std::atomic<ThreadPool*> pool_of_process{nullptr};

ThreadPool& pool() {
  static std::once_flag once;
  std::call_once(once, [] {
    pool_of_process.store(new ThreadPool);
    pthread_atfork(nullptr, nullptr, [] { pool_of_process.store(new ThreadPool); });
  });
  return *pool_of_process.load();
}

}  // namespace

void parallel_for(std::int64_t count, int num_threads,
                  const std::function<void(std::int64_t)>& task) {
  const auto helpers =
      static_cast<int>(std::min<std::int64_t>({count, num_threads, kMaxThreads}) - 1);
  if (helpers > 0) {
    ThreadPool& shared = pool();
    // A nested call finds the entrance held by its own thread; try_lock by the owner is undefined
    // for std::mutex, hence the flag.
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
      shared.run(count, helpers, task);
      return;
    }
  }
  for (std::int64_t i = 0; i < count; ++i) task(i);
}

}  // namespace autopatch
