// Loops over nodes on the threads that PyTorch's own kernels run on: a second pool would fight with them for the cores.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>

// GOMP_parallel and omp_get_thread_num of the OpenMP library that PyTorch is linked with, or null: `set_pool`.
using StartThreads = void (*)(void (*)(void*), void*, unsigned, unsigned);
using ThreadNumber = int (*)();
extern StartThreads start_threads;
extern ThreadNumber thread_number;

constexpr int64_t CHUNK = 32;    // nodes that a thread takes at a time
constexpr int64_t GRAIN = 1 << 15;  // multiplications below which another thread is not worth its start

// Calls body(k) for k of 0 .. count; a result must not depend on who makes it. Each thread begins with the share that is
// its own in PyTorch's loops, too, and so may be in its cache; then it helps the others.
template <class Body> void for_each(int64_t count, int64_t work, int64_t threads, Body body) {
    constexpr int64_t MOST = 256;
    struct Share {
        alignas(64) std::atomic<int64_t> next;
        int64_t end;
    };
    struct Job {
        Body* body;
        int64_t threads;
        Share shares[MOST];
    } job;
    threads = std::max(int64_t(1), std::min({threads, 1 + work / GRAIN, count, MOST}));
    if (!start_threads) threads = 1;
    job.body = &body;
    job.threads = threads;
    for (int64_t t = 0; t < threads; t++) {
        job.shares[t].next.store(count * t / threads, std::memory_order_relaxed);
        job.shares[t].end = count * (t + 1) / threads;
    }
    auto run = [](void* data) {
        Job& job = *static_cast<Job*>(data);
        const int64_t own = job.threads > 1 ? thread_number() % job.threads : 0;
        for (int64_t t = 0; t < job.threads; t++) {
            Share& share = job.shares[(own + t) % job.threads];
            for (;;) {
                const int64_t k = share.next.fetch_add(1, std::memory_order_relaxed);
                if (k >= share.end) break;
                (*job.body)(k);
            }
        }
    };
    if (threads > 1) start_threads(run, &job, unsigned(threads), 0);
    else run(&job);
}

// Calls body(first, last) for chunks of the nodes from `begin` to `end`.
template <class Body> void for_chunks(int64_t begin, int64_t end, int64_t work, int64_t threads, Body body) {
    for_each((end - begin + CHUNK - 1) / CHUNK, work, threads, [&](int64_t chunk) {
        const int64_t first = begin + chunk * CHUNK;
        body(first, std::min(first + CHUNK, end));
    });
}
