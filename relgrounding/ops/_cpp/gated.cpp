// Gated sums: a weight an edge that depends on its source and its type.
//
// N nodes, E edges, R types, D columns. gates, sums, of_types, d_gates (N, R); tables (N, D) with `stride` numbers from
// row to row. `order` gives the number of each edge in `etype`; null: its own.
#include <type_traits>

#include "parallel.h"
#include "vectors.h"

// out_i = sum over the edges of i of gates[j, type] table_j, sums[i, r] = sum of the gates of type r (null: not wanted)
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
        column_pieces<T>(dim, span.rows, [&](int64_t at, auto count) {
            const Rows<T, count.value> rows(table + at, stride, span, n);
            for (int64_t i = first; i < last; i++)
                weighted_sum<T, count.value>(rows.first, rows.stride, indices + indptr[i], weight + indptr[i] - begin,
                                             indptr[i + 1] - indptr[i], nullptr, out + i * out_stride + at);
        });
    });
}

// The edges of some sources, those of one type next to each other: they share a gate. Run k holds the ends `sorted` from
// `end[k - 1]` to `end[k]` and has the type `type[k]`; source j has the runs from `of_source[j]` to `of_source[j + 1]`.
struct Runs {
    int64_t *sorted, *type, *end, *of_source;

    Runs(int64_t first, int64_t last, int64_t types, const int64_t* indptr, const int64_t* indices,
         const int64_t* etype, const int64_t* order) {
        const int64_t begin = indptr[first], n = indptr[last] - begin;
        // One place more in `type` and `end`: a type without edges is written, too, and then overwritten.
        int64_t* memory = scratch<int64_t>(3 * n + 3 + last - first + 1 + types);
        sorted = memory, type = sorted + n, end = type + n + 2, of_source = end + n + 1 - first;
        int64_t *place = of_source + last + 1, runs = 0, used = 0;
        end[-1] = 0;
        for (int64_t j = first; j < last; j++) {
            of_source[j] = runs;
            for (int64_t r = 0; r < types; r++) place[r] = 0;
            for (int64_t e = indptr[j]; e < indptr[j + 1]; e++) place[etype[order ? order[e] : e]]++;
            for (int64_t r = 0; r < types; r++) {
                const int64_t count = place[r];
                place[r] = used;
                used += count;
                type[runs] = r;
                end[runs] = used;
                runs += count > 0;
            }
            for (int64_t e = indptr[j]; e < indptr[j + 1]; e++)
                sorted[place[etype[order ? order[e] : e]]++] = indices[e];
        }
        of_source[last] = runs;
    }
};

// One source: with s_k the sum of the rows of its run k, out (+)= sum of gates[type k] s_k and dots[k] += own . s_k. Also
// adds 0 to the up to three numbers after the last of `dots`.
template <class T, int K>
static void sums_of_runs(const T* table, int64_t stride, const Runs& runs, int64_t first, int64_t last, const T* gates,
                         const T* own, bool add, T* out, T* dots) {
    constexpr int VECTORS = K ? K : 1, WIDTH = K ? LANES<T> : 1;
    using Piece = std::conditional_t<K == 0, T, Vec<T>>;
    const auto read = [](const T* from) {
        if constexpr (K == 0) return *from;
        else return load(from);
    };
    Piece total[VECTORS], mine[VECTORS];
    for (int k = 0; k < VECTORS; k++) {
        mine[k] = read(own + k * WIDTH);
        total[k] = add ? read(out + k * WIDTH) : Piece{};
    }
    const auto product = [&](int64_t run) {
        Piece sum[VECTORS] = {}, products = {};
        for (int64_t e = runs.end[run - 1]; e < runs.end[run]; e++) {
            const T* row = table + runs.sorted[e] * stride;
            for (int k = 0; k < VECTORS; k++) sum[k] += read(row + k * WIDTH);
        }
        for (int k = 0; k < VECTORS; k++) {
            total[k] += gates[runs.type[run]] * sum[k];
            products += mine[k] * sum[k];
        }
        return products;
    };
    if constexpr (K == 0) {
        for (int64_t run = first; run < last; run++) dots[run] += product(run);
        *out = total[0];
    } else {
        add_products<T>(first, last, product, dots);
        for (int k = 0; k < K; k++) store(out + k * LANES<T>, total[k]);
    }
}

// By source, the edges being those that leave it: d_own_j = sum of gates[j, type] grad_i, and
// d_gates[j, r] = sum over the edges of type r of own_j . grad_i + of_types[i, r]. With `add` both on top of what is
// there; of_types may be null. Where d_logits is given, d_gates becomes the gradient of what the gates are the sigmoid
// of, and d_logits_j its sum over the types.
template <class T>
static void backward(int64_t nodes, int64_t edges, int64_t types, int64_t dim, const int64_t* indptr,
                     const int64_t* indices, const int64_t* etype, const int64_t* order, const T* gates, const T* own,
                     int64_t own_stride, const T* grad, int64_t grad_stride, const T* of_types, bool add, T* d_own,
                     T* d_gates, T* d_logits, int64_t logits_stride, int64_t threads) {
    for_chunks(nodes, edges * dim * 2, threads, [=](int64_t first, int64_t last) {
        const int64_t begin = indptr[first], n = indptr[last] - begin;
        const Span span(indices + begin, n);
        const Runs runs(first, last, types, indptr, indices, etype, order);
        T* dots = scratch<T>(n + 3);
        for (int64_t run = 0; run < runs.of_source[last]; run++) {
            dots[run] = 0;
            for (int64_t e = runs.end[run - 1]; of_types && e < runs.end[run]; e++)
                dots[run] += of_types[runs.sorted[e] * types + runs.type[run]];
        }
        column_pieces<T>(dim, span.rows, [&](int64_t at, auto count) {
            const Rows<T, count.value> rows(grad + at, grad_stride, span, n);
            for (int64_t j = first; j < last; j++)
                sums_of_runs<T, count.value>(rows.first, rows.stride, runs, runs.of_source[j], runs.of_source[j + 1],
                                             gates + j * types, own + j * own_stride + at, add,
                                             d_own + j * own_stride + at, dots);
        });
        for (int64_t j = first; j < last; j++) {
            T* d_gate = d_gates + j * types;
            for (int64_t r = 0; !add && r < types; r++) d_gate[r] = 0;
            for (int64_t run = runs.of_source[j]; run < runs.of_source[j + 1]; run++) d_gate[runs.type[run]] += dots[run];
            if (!d_logits) continue;
            T sum = 0;
            for (int64_t r = 0; r < types; r++) {
                const T gate = gates[j * types + r];
                sum += d_gate[r] *= gate * (1 - gate);
            }
            d_logits[j * logits_stride] = sum;
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
        int64_t grad_stride, const T* of_types, int64_t add, T* d_own, T* d_gates, T* d_logits, int64_t logits_stride, \
        int64_t threads) {                                                                          \
        backward<T>(nodes, edges, types, dim, indptr, indices, etype, order, gates, own, own_stride, grad,             \
                    grad_stride, of_types, add, d_own, d_gates, d_logits, logits_stride, threads);           \
    }
EXPORT(float, float32)
EXPORT(double, float64)
