// Graph attention: softmax over the in-edges of a node and the weighted sum; and the way back.
//
// N nodes, E edges, H heads, D width of a head. Row-major: feat, out, grad, d_feat (N, H, D); src, dst, d_src, d_dst
// (N, H); alpha (H, E), edges in the order of the destinations. indptr, indices, out_indptr, out_indices,
// out_edges as in `GraphStructure`. Each number is written by one thread, in an order that no number of threads changes.
#include <algorithm>
#include <cmath>
#include <limits>

#include "exponential.h"
#include "parallel.h"
#include "vectors.h"

// scores[k, n, h] = feat[n, h] . attention[k, h], k = 0 for sources, 1 for destinations
template <class T>
static void scores(int64_t nodes, int64_t heads, int64_t dim, const T* feat, const T* attention, T* src, T* dst,
                   int64_t threads) {
    for_chunks(0, nodes, nodes * heads * dim * 2, threads, [=](int64_t first, int64_t last) {
        for (int64_t row = first * heads; row < last * heads; row++) {
            const T *x = feat + row * dim, *a = attention + row % heads * dim, *b = a + heads * dim;
            Vec<T> to_src = {}, to_dst = {};
            int64_t d = 0;
            for (; d + LANES<T> <= dim; d += LANES<T>) {
                to_src += load(x + d) * load(a + d);
                to_dst += load(x + d) * load(b + d);
            }
            T of_src = lane_sum<T>(to_src), of_dst = lane_sum<T>(to_dst);
            for (; d < dim; d++) {
                of_src += x[d] * a[d];
                of_dst += x[d] * b[d];
            }
            src[row] = of_src;
            dst[row] = of_dst;
        }
    });
}

// Loops over the edges follow each other instead of one loop with all: there is nothing to guess wrong for the
// processor, and a vector that is read right after its numbers were written one by one is waited for.

template <class T> static void absolute(const T* __restrict__ from, int64_t n, T* __restrict__ to) {
    for (int64_t e = 0; e < n; e++) to[e] = std::abs(from[e]);
}

// to[e] *= sign[e] > 0 ? positive : other
template <class T>
static void multiply_by_sign(const T* __restrict__ sign, int64_t n, T positive, T other, T* __restrict__ to) {
    for (int64_t e = 0; e < n; e++) to[e] *= sign[e] > 0 ? positive : other;
}

// Weights of the edges of some destinations, one head; those of a logit that is not positive carry a minus sign, which
// the way back needs.
template <class T>
static void softmax(int64_t first, int64_t last, const int64_t* indptr, const int64_t* indices, const T* src,
                    const T* dst, int64_t heads, T slope, T* alpha) {
    const int64_t begin = indptr[first], n = indptr[last] - begin;
    T* logit = scratch<T>(n) - begin;
    for (int64_t i = first; i < last; i++) {
        const T of_dst = dst[i * heads];
        for (int64_t e = indptr[i]; e < indptr[i + 1]; e++) alpha[e] = logit[e] = src[indices[e] * heads] + of_dst;
    }
    multiply_by_sign(logit + begin, n, T(1), slope, alpha + begin);
    for (int64_t i = first; i < last; i++) {
        // Where all logits of a node are minus infinity, their exponentials below are tiny; else the sum is 1 or more.
        const T shift = std::max(largest(alpha + indptr[i], indptr[i + 1] - indptr[i]), std::numeric_limits<T>::lowest());
        for (int64_t e = indptr[i]; e < indptr[i + 1]; e++) alpha[e] -= shift;
    }
    exponentials(alpha + begin, n);
    for (int64_t i = first; i < last; i++) {
        const T sum = total(alpha + indptr[i], indptr[i + 1] - indptr[i]), scale = sum < T(0.5) ? 0 : 1 / sum;
        for (int64_t e = indptr[i]; e < indptr[i + 1]; e++) alpha[e] *= scale;
    }
    multiply_by_sign(logit + begin, n, T(1), T(-1), alpha + begin);
}

template <class T>
static void forward(int64_t nodes, int64_t edges, int64_t heads, int64_t dim, const int64_t* indptr,
                    const int64_t* indices, const T* feat, const T* src, const T* dst, const T* bias, double slope,
                    T* alpha, T* out, int64_t threads) {
    for_chunks(0, nodes, edges * heads * dim, threads, [=](int64_t first, int64_t last) {
        const int64_t begin = indptr[first], n = indptr[last] - begin, stride = heads * dim;
        const Span span(indices + begin, n);
        for (int64_t h = 0; h < heads; h++) {
            T* signed_weight = alpha + h * edges;
            softmax<T>(first, last, indptr, indices, src + h, dst + h, heads, T(slope), signed_weight);
            T* weight = scratch<T>(n);
            absolute(signed_weight + begin, n, weight);
            column_pieces<T>(dim, span.rows, [&](int64_t at, auto count) {
                const int64_t from = h * dim + at;
                const Rows<T, count.value> rows(feat + from, stride, span, n);
                for (int64_t i = first; i < last; i++)
                    weighted_sum<T, count.value>(rows.first, rows.stride, indices + indptr[i],
                                                 weight + indptr[i] - begin, indptr[i + 1] - indptr[i],
                                                 bias ? bias + from : nullptr, out + i * stride + from);
            });
        }
    });
}

// The way back, in three steps that each need the one before at all nodes of an item. `work` has a number an edge and
// head, `work_stride` numbers from head to head.
template <class T> struct Backward {
    int64_t heads, dim, edges;
    const int64_t *indptr, *out_indptr, *out_indices, *out_edges;
    const T *feat, *attention;
    T slope;
    const T *alpha, *grad;
    T *d_feat, *d_src, *d_dst;

    // By source: d_feat without what comes through the scores, and work = grad_i . feat_j of each edge.
    void features(int64_t first, int64_t last, T* work, int64_t work_stride) const {
        const int64_t begin = out_indptr[first], n = out_indptr[last] - begin, stride = heads * dim;
        const Span span(out_indices + begin, n);
        T* weight = scratch<T>(2 * n + 3);
        T* dot = weight + n;
        for (int64_t h = 0; h < heads; h++) {
            for (int64_t e = 0; e < n; e++) {
                weight[e] = std::abs(alpha[h * edges + out_edges[begin + e]]);
                dot[e] = 0;
            }
            // Pieces that do not depend on `span`: the order of a sum must not depend on where a chunk begins.
            column_pieces<T>(dim, 0, [&](int64_t at, auto count) {
                const int64_t from = h * dim + at;
                const Rows<T, count.value> rows(grad + from, stride, span, n);
                for (int64_t j = first; j < last; j++) {
                    const int64_t own = out_indptr[j] - begin;
                    weighted_sum_and_dots<T, count.value>(rows.first, rows.stride, out_indices + out_indptr[j],
                                                          weight + own, out_indptr[j + 1] - out_indptr[j],
                                                          feat + j * stride + from, d_feat + j * stride + from,
                                                          dot + own);
                }
            });
            for (int64_t e = 0; e < n; e++) work[h * work_stride + out_edges[begin + e]] = dot[e];
        }
    }

    // By destination: work becomes the gradient of each edge's score, alpha (x - mean of x) through the leaky ReLU.
    void softmax(int64_t first, int64_t last, T* work, int64_t work_stride) const {
        for (int64_t h = 0; h < heads; h++) {
            const T* a = alpha + h * edges;
            T* x = work + h * work_stride;
            const int64_t begin = indptr[first], n = indptr[last] - begin;
            T* weight = scratch<T>(n) - begin;
            absolute(a + begin, n, weight + begin);
            for (int64_t e = begin; e < begin + n; e++) x[e] *= weight[e];
            for (int64_t i = first; i < last; i++) {
                const T mean = total(x + indptr[i], indptr[i + 1] - indptr[i]);
                for (int64_t e = indptr[i]; e < indptr[i + 1]; e++) x[e] -= weight[e] * mean;
            }
            multiply_by_sign(a + begin, n, T(1), slope, x + begin);
            for (int64_t i = first; i < last; i++)
                d_dst[i * heads + h] = total(x + indptr[i], indptr[i + 1] - indptr[i]);
        }
    }

    // By source: d_src, and what the scores add to d_feat where they are made of the features.
    void scores(int64_t first, int64_t last, const T* work, int64_t work_stride) const {
        for (int64_t j = first; j < last; j++)
            for (int64_t h = 0; h < heads; h++) {
                T sum = 0;
                for (int64_t e = out_indptr[j]; e < out_indptr[j + 1]; e++) sum += work[h * work_stride + out_edges[e]];
                d_src[j * heads + h] = sum;
                if (!attention) continue;
                const T *a = attention + h * dim, *b = a + heads * dim, of_dst = d_dst[j * heads + h];
                T* to = d_feat + (j * heads + h) * dim;
                for (int64_t d = 0; d < dim; d++) to[d] += sum * a[d] + of_dst * b[d];
            }
    }
};

// With `bounds`, the first node of each of `items` items and the number of all nodes, an item goes through all steps while
// it is in the cache, and `work` may be null. Without, each step is done at all nodes before the next one.
template <class T>
static void backward(int64_t nodes, int64_t items, const int64_t* bounds, const Backward<T>& way, T* work,
                     int64_t threads) {
    const int64_t edges = way.edges, cost = edges * way.heads * way.dim * 2;
    if (bounds)
        for_each(items, cost, threads, [&](int64_t item) {
            const int64_t first = bounds[item], last = bounds[item + 1];
            const int64_t begin = way.indptr[first], n = way.indptr[last] - begin;
            T* own = scratch<T, 2>(way.heads * n) - begin;
            for (int64_t i = first; i < last; i += CHUNK) way.features(i, std::min(i + CHUNK, last), own, n);
            way.softmax(first, last, own, n);
            way.scores(first, last, own, n);
        });
    else {
        for_chunks(0, nodes, cost, threads, [&](int64_t first, int64_t last) { way.features(first, last, work, edges); });
        for_chunks(0, nodes, cost, threads, [&](int64_t first, int64_t last) { way.softmax(first, last, work, edges); });
        for_chunks(0, nodes, cost, threads, [&](int64_t first, int64_t last) { way.scores(first, last, work, edges); });
    }
}

#define EXPORT(T, name)                                                                                                \
    extern "C" void attention_scores_##name(int64_t nodes, int64_t heads, int64_t dim, const T* feat,                  \
                                            const T* attention, T* src, T* dst, int64_t threads) {                     \
        scores<T>(nodes, heads, dim, feat, attention, src, dst, threads);                                              \
    }                                                                                                                  \
    extern "C" void attention_forward_##name(int64_t nodes, int64_t edges, int64_t heads, int64_t dim,                 \
                                             const int64_t* indptr, const int64_t* indices, const T* feat,             \
                                             const T* src, const T* dst, const T* bias, double slope, T* alpha,        \
                                             T* out, int64_t threads) {                                                \
        forward<T>(nodes, edges, heads, dim, indptr, indices, feat, src, dst, bias, slope, alpha, out, threads);       \
    }                                                                                                                  \
    extern "C" void attention_backward_##name(                                                                         \
        int64_t nodes, int64_t edges, int64_t heads, int64_t dim, int64_t items, const int64_t* bounds,                \
        const int64_t* indptr, const int64_t* out_indptr, const int64_t* out_indices, const int64_t* out_edges,        \
        const T* feat, const T* attention, double slope, const T* alpha, const T* grad, T* work, T* d_feat, T* d_src,  \
        T* d_dst, int64_t threads) {                                                                                   \
        const Backward<T> way{heads,     dim,  edges,     indptr,   out_indptr, out_indices, out_edges,                \
                              feat,      attention, T(slope), alpha, grad, d_feat, d_src, d_dst};                      \
        backward<T>(nodes, items, bounds, way, work, threads);                                                      \
    }
EXPORT(float, float32)
EXPORT(double, float64)
