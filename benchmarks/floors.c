// Measures what a machine can do at best: lines "<name> <threads> <Gop/s or GB/s>", on 1 and 2
// threads. Compiled for the machine at hand, see floors.py.
//
// fp32: fused multiply-adds on registers. int8: dot products of bytes (vpdpbusd), where the machine
// has them. Both count two operations for each product. read: a sum over memory. write: stores past
// the caches. copy: memory to memory past the caches; counts bytes read and bytes written.

#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { MAX_THREADS = 2, REPEATS = 40, CHAINS = 12, ARITHMETIC_STEPS = 1 << 21 };
static const size_t BUFFER = (size_t)256 << 20;

#if defined(__AVX512F__)
typedef __m512 Floats;
#define SET_FLOATS _mm512_set1_ps
#define MULTIPLY_ADD _mm512_fmadd_ps
#elif defined(__FMA__)
typedef __m256 Floats;
#define SET_FLOATS _mm256_set1_ps
#define MULTIPLY_ADD _mm256_fmadd_ps
#else
typedef __m128 Floats;
#define SET_FLOATS _mm_set1_ps
#define MULTIPLY_ADD(a, b, c) _mm_add_ps(_mm_mul_ps(a, b), c)
#endif

#if defined(__AVX512VNNI__)
typedef __m512i Bytes;
#define SET_BYTES _mm512_set1_epi8
#define DOT_BYTES _mm512_dpbusd_epi32
#elif defined(__AVXVNNI__)
typedef __m256i Bytes;
#define SET_BYTES _mm256_set1_epi8
#define DOT_BYTES _mm256_dpbusd_avx_epi32
#endif

#if defined(__AVX2__)
typedef __m256i Words;
#define ZERO_WORDS _mm256_setzero_si256
#define ADD_WORDS _mm256_add_epi64
#else
typedef __m128i Words;
#define ZERO_WORDS _mm_setzero_si128
#define ADD_WORDS _mm_add_epi64
#endif

typedef struct {
  char* source;
  char* target;
  size_t bytes;
} Share;

// Keeps a value in a register and hides it from the optimizer.
#define KEEP(value) __asm__ volatile("" : "+x"(value))

static void fp32(Share* share) {
  (void)share;
  Floats sums[CHAINS];
  Floats factor = SET_FLOATS(0.5f);
  for (int i = 0; i < CHAINS; ++i) sums[i] = SET_FLOATS((float)i);
  for (int step = 0; step < ARITHMETIC_STEPS; ++step) {
    KEEP(factor);
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; ++i) sums[i] = MULTIPLY_ADD(sums[i], factor, factor);
  }
  for (int i = 0; i < CHAINS; ++i) KEEP(sums[i]);
}

#ifdef DOT_BYTES
static void int8(Share* share) {
  (void)share;
  Bytes sums[CHAINS];
  Bytes factor = SET_BYTES(3);
  for (int i = 0; i < CHAINS; ++i) sums[i] = SET_BYTES((char)i);
  for (int step = 0; step < ARITHMETIC_STEPS; ++step) {
    KEEP(factor);
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; ++i) sums[i] = DOT_BYTES(sums[i], factor, factor);
  }
  for (int i = 0; i < CHAINS; ++i) KEEP(sums[i]);
}
#endif

static void read_memory(Share* share) {
  Words sums[4];
  for (int i = 0; i < 4; ++i) sums[i] = ZERO_WORDS();
  for (size_t at = 0; at < share->bytes; at += sizeof sums)
    for (size_t i = 0; i < 4; ++i)
      sums[i] = ADD_WORDS(sums[i], *(const Words*)(share->source + at + i * sizeof(Words)));
  for (int i = 0; i < 4; ++i) KEEP(sums[i]);
}

static void write_memory(Share* share) {
  // Some machines write lines of zeros faster.
#ifdef __AVX512F__
  const __m512i value = _mm512_load_si512((const __m512i*)share->source);
  for (size_t at = 0; at < share->bytes; at += 64)
    _mm512_stream_si512((__m512i*)(share->target + at), value);
#else
  const __m128i value = _mm_load_si128((const __m128i*)share->source);
  for (size_t at = 0; at < share->bytes; at += 16)
    _mm_stream_si128((__m128i*)(share->target + at), value);
#endif
  _mm_sfence();
}

static void copy_memory(Share* share) {
#ifdef __AVX512F__
  for (size_t at = 0; at < share->bytes; at += 64)
    _mm512_stream_si512((__m512i*)(share->target + at),
                        _mm512_load_si512((const __m512i*)(share->source + at)));
#else
  for (size_t at = 0; at < share->bytes; at += 16)
    _mm_stream_si128((__m128i*)(share->target + at),
                     _mm_load_si128((const __m128i*)(share->source + at)));
#endif
  _mm_sfence();
}

typedef struct {
  void (*function)(Share*);
  Share share;
  pthread_barrier_t* barrier;
  double start;  // seconds, taken after the barrier
  double end;
} Job;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void* run(void* argument) {
  Job* job = argument;
  pthread_barrier_wait(job->barrier);
  job->start = now();
  job->function(&job->share);
  job->end = now();
  return NULL;
}

// Prints the best rate of REPEATS runs. `work` is 1e9 operations per thread or, if `split`, 1e9
// bytes in total; the threads then share the buffers.
static void measure(const char* name, void (*function)(Share*), double work, int split,
                    char* source, char* target) {
  for (int threads = 1; threads <= MAX_THREADS; ++threads) {
    double best = 0;
    for (int repeat = 0; repeat < REPEATS; ++repeat) {
      pthread_barrier_t barrier;
      pthread_barrier_init(&barrier, NULL, (unsigned)threads);
      pthread_t handles[MAX_THREADS];
      Job jobs[MAX_THREADS];
      size_t bytes = BUFFER / (size_t)threads;
      for (int i = 0; i < threads; ++i) {
        size_t first = (size_t)i * bytes;
        jobs[i] = (Job){function, {source + first, target + first, bytes}, &barrier, 0, 0};
        if (pthread_create(&handles[i], NULL, run, &jobs[i])) exit(1);
      }
      for (int i = 0; i < threads; ++i) pthread_join(handles[i], NULL);
      // Threads that ran one after the other had the memory to themselves.
      double start = jobs[0].start;
      double end = jobs[0].end;
      for (int i = 1; i < threads; ++i) {
        if (jobs[i].start < start) start = jobs[i].start;
        if (jobs[i].end > end) end = jobs[i].end;
      }
      pthread_barrier_destroy(&barrier);
      double rate = work * (split ? 1 : threads) / (end - start);
      if (rate > best) best = rate;
    }
    printf("%s %d %.4g\n", name, threads, best);
  }
}

static char* allocate(void) {
  char* memory = aligned_alloc((size_t)2 << 20, BUFFER);
  if (!memory) exit(1);
#ifdef MADV_HUGEPAGE
  madvise(memory, BUFFER, MADV_HUGEPAGE);
#endif
  memset(memory, 1, BUFFER);
  return memory;
}

int main(void) {
  char* source = allocate();
  char* target = allocate();
  const double steps = 2e-9 * CHAINS * (double)ARITHMETIC_STEPS;
  measure("fp32", fp32, steps * (double)(sizeof(Floats) / 4), 0, source, target);
#ifdef DOT_BYTES
  measure("int8", int8, steps * (double)sizeof(Bytes), 0, source, target);
#endif
  measure("read", read_memory, 1e-9 * (double)BUFFER, 1, source, target);
  measure("write", write_memory, 1e-9 * (double)BUFFER, 1, source, target);
  measure("copy", copy_memory, 2e-9 * (double)BUFFER, 1, source, target);
  return 0;
}
