// Typed comparison: gates that depend on the source, on the destination and the type, and on the edge itself; saturated
// sums of them by type, and the sum of what they let through over one plus their sum.
//
// N nodes, R types. x, out (N, `dim`); gate (N); type_gate, counts (N, R); type_bias (R, `dim`); edge_bias, gates (edges).
#include <algorithm>
#include <limits>
#include <memory>

#include "exponential.h"
#include "parallel.h"
#include "types.h"
#include "vectors.h"

// gates[e] = sigmoid(gate_j + type_gate[i, type] + edge_bias[e]), exactly 0 behind a bias of minus infinity, and
// counts[i, r], their sums by type, for the in-edges of some nodes
template <class T>
static void open_gates(int64_t first, int64_t last, int64_t types, const int64_t* indptr, const int64_t* indices,
                       const int64_t* etype, const T* gate, const T* type_gate, const T* edge_bias, T* gates,
                       T* counts) {
    const int64_t edge = indptr[first], end = indptr[last];
    for (int64_t i = first; i < last; i++)
        for (int64_t e = indptr[i]; e < indptr[i + 1]; e++)
            gates[e] = gate[indices[e]] + type_gate[i * types + etype[e]] + (edge_bias ? edge_bias[e] : T(0));
    sigmoids(gates + edge, end - edge);
    for (int64_t e = edge; edge_bias && e < end; e++)
        if (edge_bias[e] == -std::numeric_limits<T>::infinity()) gates[e] = 0;
    std::fill(counts + first * types, counts + last * types, T(0));
    for (int64_t i = first; i < last; i++)
        for (int64_t e = indptr[i]; e < indptr[i + 1]; e++) counts[i * types + etype[e]] += gates[e];
}

template <class T> static T one_plus_sum(const T* counts, int64_t types) {
    T sum = 1;
    for (int64_t r = 0; r < types; r++) sum += counts[r];
    return sum;
}

// out_i = sum over r of counts / (1 + counts) type_bias_r + sum over the in-edges of gates x_j / (1 + sum of gates)
template <class T>
static void forward(int64_t nodes, int64_t edges, int64_t types, int64_t dim, const int64_t* indptr,
                    const int64_t* indices, const int64_t* etype, const T* x, const T* gate, const T* type_gate,
                    const T* type_bias, const T* edge_bias, T* gates, T* counts, T* out, int64_t threads) {
    for_chunks(0, nodes, (edges + nodes * types) * dim, threads, [=](int64_t first, int64_t last) {
        open_gates(first, last, types, indptr, indices, etype, gate, type_gate, edge_bias, gates, counts);
        const int64_t edge = indptr[first], n = indptr[last] - edge, chunk = last - first;
        T *weight = scratch<T>(n + chunk * types), *shares = weight + n;
        for (int64_t i = first; i < last; i++) {
            const T scale = 1 / one_plus_sum(counts + i * types, types);
            for (int64_t e = indptr[i]; e < indptr[i + 1]; e++) weight[e - edge] = gates[e] * scale;
        }
        for (int64_t k = 0; k < chunk * types; k++) {
            const T count = counts[first * types + k];
            shares[k] = count / (1 + count);
        }
        const int64_t* each = counting(types);
        column_pieces<T>(dim, types, [&](int64_t at, auto count) {
            for (int64_t i = first; i < last; i++)
                weighted_sum<T, count.value>(type_bias + at, dim, each, shares + (i - first) * types, types, nullptr,
                                             out + i * dim + at);
        });
        const Span span(indices + edge, n);
        column_pieces<T>(dim, span.rows, [&](int64_t at, auto count) {
            const Rows<T, count.value> rows(x + at, dim, span, n);
            for (int64_t i = first; i < last; i++)
                weighted_sum<T, count.value>(rows.first, rows.stride, indices + indptr[i], weight + indptr[i] - edge,
                                             indptr[i + 1] - indptr[i], out + i * dim + at, out + i * dim + at);
        });
    });
}

// scale_i = 1 / (1 + sum of the gates of i), and of_types[i, r], which has grad_i . type_bias_r, becomes what the gradient
// of a gate owes to its count and to the sum of all gates.
template <class T>
static void counts_backward(int64_t nodes, int64_t types, int64_t dim, const T* counts, const T* shares, const T* out,
                            const T* grad, T* of_types, T* scale, int64_t threads) {
    for_chunks(0, nodes, nodes * (dim + types), threads, [=](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++) {
            scale[i] = 1 / one_plus_sum(counts + i * types, types);
            // What came over the edges is the output without the terms of the types.
            T through = dot(grad + i * dim, out + i * dim, dim);
            for (int64_t k = i * types; k < (i + 1) * types; k++) through -= shares[k] * of_types[k];
            for (int64_t k = i * types; k < (i + 1) * types; k++) {
                const T slope = 1 / (1 + counts[k]);
                of_types[k] = of_types[k] * slope * slope - through * scale[i];
            }
        }
    });
}

// By source: d_x_j = sum of gates scale_i grad_i, the gradient of each edge's logit, and d_gate_j, their sum.
template <class T>
static void sources_backward(int64_t nodes, int64_t edges, int64_t types, int64_t dim, const int64_t* etype,
                             const int64_t* indptr, const int64_t* indices, const int64_t* order, const T* x,
                             const T* gates, const T* grad, const T* of_types, const T* scale, T* d_x, T* d_gate,
                             T* d_edge, int64_t threads) {
    for_chunks(0, nodes, edges * dim * 2, threads, [=](int64_t first, int64_t last) {
        const int64_t edge = indptr[first], n = indptr[last] - edge;
        const Span span(indices + edge, n);
        T *weight = scratch<T>(2 * n + 3), *dots = weight + n;
        for (int64_t e = 0; e < n; e++) weight[e] = gates[order[edge + e]] * scale[indices[edge + e]];
        std::fill(dots, dots + n + 3, T(0));
        column_pieces<T>(dim, span.rows, [&](int64_t at, auto count) {
            const Rows<T, count.value> rows(grad + at, dim, span, n);
            for (int64_t j = first; j < last; j++) {
                const int64_t own = indptr[j] - edge;
                weighted_sum_and_dots<T, count.value>(rows.first, rows.stride, indices + indptr[j], weight + own,
                                                      indptr[j + 1] - indptr[j], x + j * dim + at, d_x + j * dim + at,
                                                      dots + own);
            }
        });
        for (int64_t j = first; j < last; j++) {
            T sum = 0;
            for (int64_t e = indptr[j]; e < indptr[j + 1]; e++) {
                const int64_t i = indices[e], number = order[e];
                const T open = gates[number], slope = open * (1 - open);
                const T d = slope * (dots[e - edge] * scale[i] + of_types[i * types + etype[number]]);
                d_edge[number] = d;
                sum += d;
            }
            d_gate[j] = sum;
        }
    });
}

template <class T>
static void backward(int64_t nodes, int64_t edges, int64_t types, int64_t dim, const int64_t* indptr,
                     const int64_t* etype, const int64_t* out_indptr, const int64_t* out_indices,
                     const int64_t* out_edges, const T* x, const T* type_bias, const T* gates, const T* counts,
                     const T* out, const T* grad, T* of_types, T* scale, T* d_x, T* d_gate, T* d_type_gate,
                     T* d_type_bias, T* d_edge, int64_t threads) {
    T* shares = d_type_gate;  // until the gradient is written
    for (int64_t k = 0; k < nodes * types; k++) shares[k] = counts[k] / (1 + counts[k]);
    terms_backward<T>(nodes, types, dim, shares, type_bias, grad, of_types, false, d_type_bias, threads);
    counts_backward(nodes, types, dim, counts, shares, out, grad, of_types, scale, threads);
    sources_backward(nodes, edges, types, dim, etype, out_indptr, out_indices, out_edges, x, gates, grad, of_types,
                     scale, d_x, d_gate, d_edge, threads);
    for_chunks(0, nodes, edges + nodes * types, threads, [=](int64_t first, int64_t last) {
        std::fill(d_type_gate + first * types, d_type_gate + last * types, T(0));
        for (int64_t i = first; i < last; i++)
            for (int64_t e = indptr[i]; e < indptr[i + 1]; e++) d_type_gate[i * types + etype[e]] += d_edge[e];
    });
}

#define EXPORT(T, name)                                                                                                \
    extern "C" void comparison_forward_##name(                                                                         \
        int64_t nodes, int64_t edges, int64_t types, int64_t dim, const int64_t* indptr, const int64_t* indices,       \
        const int64_t* etype, const T* x, const T* gate, const T* type_gate, const T* type_bias, const T* edge_bias,   \
        T* gates, T* counts, T* out, int64_t threads) {                                                                \
        forward<T>(nodes, edges, types, dim, indptr, indices, etype, x, gate, type_gate, type_bias, edge_bias, gates,  \
                   counts, out, threads);                                                                              \
    }                                                                                                                  \
    extern "C" void comparison_backward_##name(                                                                        \
        int64_t nodes, int64_t edges, int64_t types, int64_t dim, const int64_t* indptr, const int64_t* etype,         \
        const int64_t* out_indptr, const int64_t* out_indices, const int64_t* out_edges, const T* x,                   \
        const T* type_bias, const T* gates, const T* counts, const T* out, const T* grad, T* of_types, T* scale,       \
        T* d_x, T* d_gate, T* d_type_gate, T* d_type_bias, T* d_edge, int64_t threads) {                               \
        backward<T>(nodes, edges, types, dim, indptr, etype, out_indptr, out_indices, out_edges, x, type_bias, gates,  \
                    counts, out, grad, of_types, scale, d_x, d_gate, d_type_gate, d_type_bias, d_edge, threads);       \
    }
EXPORT(float, float32)
EXPORT(double, float64)
