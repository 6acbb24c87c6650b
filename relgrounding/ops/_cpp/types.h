// The gradients of sums over edge types, `types` of them: sums_i type_bias for each node i.
#pragma once
#include <algorithm>
#include <memory>

#include "parallel.h"
#include "vectors.h"

constexpr int64_t PARTS = 16;  // of the nodes, each with a sum of its own: the same whatever the number of threads

// of_types[i, r] = grad_i . type_bias_r and d_type_bias_r (+)= sum of sums[i, r] grad_i; sums are of these nodes
template <class T>
static void terms_backward(int64_t nodes, int64_t types, int64_t dim, const T* sums, const T* type_bias, const T* grad,
                           T* of_types, bool more, T* d_type_bias, int64_t threads) {
    const int64_t chunks = (nodes + CHUNK - 1) / CHUNK, parts = std::min(PARTS, chunks), size = types * dim;
    const std::unique_ptr<T[]> partial(new T[parts * size]);
    for_each(parts, nodes * size * 2, threads, [&](int64_t part) {
        T *sum = partial.get() + part * size, *weight = scratch<T>(CHUNK * types);
        T* dots = scratch<T, 1>(CHUNK * types + 3);
        const int64_t* each = counting(CHUNK);
        const int64_t from = chunks * part / parts, to = chunks * (part + 1) / parts;
        for (int64_t chunk = from; chunk < to; chunk++) {
            const int64_t first = chunk * CHUNK, n = std::min(CHUNK, nodes - first);
            for (int64_t i = 0; i < n; i++)
                for (int64_t r = 0; r < types; r++) weight[r * CHUNK + i] = sums[(first + i) * types + r];
            std::fill(dots, dots + n * types, T(0));
            column_pieces<T>(dim, CHUNK, [&](int64_t at, auto count) {
                const T* rows = grad + first * dim + at;
                for (int64_t i = 0; i < n; i++)
                    add_dots<T, count.value>(rows + i * dim, type_bias + at, dim, types, dots + i * types);
                for (int64_t r = 0; r < types; r++) {
                    T* own = sum + r * dim + at;
                    weighted_sum<T, count.value>(rows, dim, each, weight + r * CHUNK, n, chunk > from ? own : nullptr,
                                                 own);
                }
            });
            std::copy(dots, dots + n * types, of_types + first * types);
        }
    });
    if (!more) std::fill(d_type_bias, d_type_bias + size, T(0));
    for (int64_t part = 0; part < parts; part++)
        for (int64_t k = 0; k < size; k++) d_type_bias[k] += partial[part * size + k];
}
