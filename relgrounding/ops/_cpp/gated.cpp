// Gated sums: a weight an edge that depends on its source and its type.
//
// N nodes, E edges, R types, D columns. gates, sums, of_types, d_gates (N, R); tables (N, D) with `stride` numbers from
// row to row. `order` gives the number of each edge in `etype`; null: its own.
#include "exponential.h"
#include "parallel.h"
#include "vectors.h"

// out_i = sum over the edges of i of gates[j, type] table_j (with `add` on top of what is there), sums[i, r] = sum of
// the gates of type r (null: not wanted)
template <class T>
static void forward(int64_t nodes, int64_t edges, int64_t types, int64_t dim, const int64_t* indptr,
                    const int64_t* indices, const int64_t* etype, const int64_t* order, const T* gates,
                    const T* table, int64_t stride, T* sums, T* out, int64_t out_stride, int64_t threads) {
    for_chunks(nodes, edges * dim, threads, [=](int64_t first, int64_t last) {
        const int64_t begin = indptr[first], n = indptr[last] - begin;
        const Span span(indices + begin, n);
        T* weight = scratch<T>(n);
        for (int64_t i = first; i < last; i++) {
            T* own = sums ? sums + i * types : nullptr;
            for (int64_t r = 0; own && r < types; r++) own[r] = 0;
            for (int64_t e = indptr[i]; e < indptr[i + 1]; e++) {
                const int64_t type = etype[order ? order[e] : e];
                const T gate = gates[indices[e] * types + type];
                weight[e - begin] = gate;
                if (own) own[type] += gate;
            }
        }
        column_pieces<T, 8>(dim, [&](int64_t at, auto count) {
            const Rows<T, count.value> rows(table + at, stride, span, n);
            for (int64_t i = first; i < last; i++)
                weighted_sum<T, count.value>(rows.first, rows.stride, indices + indptr[i], weight + indptr[i] - begin,
                                             indptr[i + 1] - indptr[i], nullptr, false, out + i * out_stride + at);
        });
    });
}

// By source, the edges being those that leave it: d_own_j = sum of gates[j, type] grad_i, and
// d_gates[j, r] = sum over the edges of type r of own_j . grad_i + of_types[i, r]. With `add` both on top of what is
// there; of_types may be null.
template <class T>
static void backward(int64_t nodes, int64_t edges, int64_t types, int64_t dim, const int64_t* indptr,
                     const int64_t* indices, const int64_t* etype, const int64_t* order, const T* gates, const T* own,
                     int64_t own_stride, const T* grad, int64_t grad_stride, const T* of_types, bool add, T* d_own,
                     T* d_gates, int64_t threads) {
    for_chunks(nodes, edges * dim * 2, threads, [=](int64_t first, int64_t last) {
        const int64_t begin = indptr[first], n = indptr[last] - begin;
        const Span span(indices + begin, n);
        T* weight = scratch<T>(2 * n + 3);
        T* dot = weight + n;
        for (int64_t j = first; j < last; j++)
            for (int64_t e = indptr[j]; e < indptr[j + 1]; e++) {
                const int64_t type = etype[order ? order[e] : e];
                weight[e - begin] = gates[j * types + type];
                dot[e - begin] = of_types ? of_types[indices[e] * types + type] : T(0);
            }
        column_pieces<T, 8>(dim, [&](int64_t at, auto count) {
            const Rows<T, count.value> rows(grad + at, grad_stride, span, n);
            for (int64_t j = first; j < last; j++)
                weighted_sum_and_dots<T, count.value>(
                    rows.first, rows.stride, indices + indptr[j], weight + indptr[j] - begin, indptr[j + 1] - indptr[j],
                    own + j * own_stride + at, add, d_own + j * own_stride + at, dot + indptr[j] - begin);
        });
        for (int64_t j = first; j < last; j++) {
            for (int64_t r = 0; !add && r < types; r++) d_gates[j * types + r] = 0;
            for (int64_t e = indptr[j]; e < indptr[j + 1]; e++)
                d_gates[j * types + etype[order ? order[e] : e]] += dot[e - begin];
        }
    });
}

#define EXPORT(T, name)                                                                                                \
    extern "C" void gated_forward_##name(int64_t nodes, int64_t edges, int64_t types, int64_t dim,                     \
                                         const int64_t* indptr, const int64_t* indices, const int64_t* etype,          \
                                         const int64_t* order, const T* gates, const T* table, int64_t stride,         \
                                         T* sums, T* out, int64_t out_stride, int64_t threads) {                       \
        forward<T>(nodes, edges, types, dim, indptr, indices, etype, order, gates, table, stride, sums, out,           \
                   out_stride, threads);                                                                               \
    }                                                                                                                  \
    extern "C" void gated_backward_##name(                                                                             \
        int64_t nodes, int64_t edges, int64_t types, int64_t dim, const int64_t* indptr, const int64_t* indices,       \
        const int64_t* etype, const int64_t* order, const T* gates, const T* own, int64_t own_stride, const T* grad,   \
        int64_t grad_stride, const T* of_types, int64_t add, T* d_own, T* d_gates, int64_t threads) {                  \
        backward<T>(nodes, edges, types, dim, indptr, indices, etype, order, gates, own, own_stride, grad,             \
                    grad_stride, of_types, add, d_own, d_gates, threads);                                              \
    }
EXPORT(float, float32)
EXPORT(double, float64)
