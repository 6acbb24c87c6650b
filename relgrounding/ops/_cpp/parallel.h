// Loops over nodes on the threads that PyTorch's own kernels run on: a second pool would fight with them for the cores.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>

// GOMP_parallel of the OpenMP library that PyTorch is linked with, or null: `set_pool`.
using StartThreads = void (*)(void (*)(void*), void*, unsigned, unsigned);
extern StartThreads start_threads;

constexpr int64_t CHUNK = 32;    // nodes that a thread takes at a time
constexpr int64_t GRAIN = 1 << 15;  // multiplications below which another thread is not worth its start

// Calls body(first, last) for chunks of 0 .. nodes; a chunk's result must not depend on who works on it.
template <class Body> void for_chunks(int64_t nodes, int64_t work, int64_t threads, Body body) {
    struct Job {
        Body* body;
        int64_t nodes;
        std::atomic<int64_t> next;
    } job{&body, nodes, {0}};
    auto run = [](void* data) {
        Job& job = *static_cast<Job*>(data);
        for (;;) {
            int64_t first = job.next.fetch_add(CHUNK, std::memory_order_relaxed);
            if (first >= job.nodes) return;
            (*job.body)(first, std::min(first + CHUNK, job.nodes));
        }
    };
    threads = std::min({threads, 1 + work / GRAIN, (nodes + CHUNK - 1) / CHUNK});
    if (threads > 1 && start_threads) start_threads(run, &job, unsigned(threads), 0);
    else run(&job);
}
