// Gated sums: a weight an edge that depends on its source and its type, and a term that depends on its type.
//
// The work is on the M nodes from `begin` to `end` and on their `edges`, which join no others, of a graph of N nodes and R
// types. x, d_x (N, `width`), of which `columns` from `at` on are summed; gates, sums (N, R); of these nodes alone, rows
// (M, `columns`), of_types, d_gates (M, R), and, for the terms of the types, out (M, `dim`). type_bias (R, `dim`). `order`
// gives the number of each edge in `etype`; null: its own.
#include <algorithm>
#include <memory>
#include <type_traits>

#include "exponential.h"
#include "parallel.h"
#include "types.h"
#include "vectors.h"

// gates[j, r] = sigmoid(logit_j + bias_r), logit_j = gate_j, or x_j . w where there is no gate
template <class T>
static void make_gates(int64_t begin, int64_t end, int64_t types, int64_t width, const T* x, const T* w, const T* gate,
                       const T* bias, T* gates, int64_t threads) {
    for_chunks(begin, end, (end - begin) * (width + 16 * types), threads, [=](int64_t first, int64_t last) {
        for (int64_t j = first; j < last; j++) {
            const T logit = gate ? gate[j] : dot(x + j * width, w, width);
            for (int64_t r = 0; r < types; r++) gates[j * types + r] = logit + bias[r];
        }
        sigmoids(gates + first * types, (last - first) * types);
    });
}

// rows_i = sum over the edges of i of gates[j, type] x_j and sums[i, r] = sum of the gates of type r. Then
// out_i = start + sums_i type_bias, or this on top of what is there. Null: no sums; no type_bias, no out.
template <class T>
static void forward(int64_t begin, int64_t end, int64_t edges, int64_t types, int64_t width, int64_t at_first,
                    int64_t columns, const int64_t* indptr, const int64_t* indices, const int64_t* etype,
                    const int64_t* order, const T* x, const T* gates, T* sums, T* rows_out, int64_t dim,
                    const T* type_bias, const T* start, bool add, T* out, int64_t threads) {
    rows_out -= begin * columns, out -= begin * dim;
    for_chunks(begin, end, edges * columns, threads, [=](int64_t first, int64_t last) {
        const int64_t edge = indptr[first], n = indptr[last] - edge;
        const Span span(indices + edge, n);
        T* weight = scratch<T>(n);
        for (int64_t i = first; i < last; i++) {
            T* own = sums ? sums + i * types : nullptr;
            for (int64_t r = 0; own && r < types; r++) own[r] = 0;
            for (int64_t e = indptr[i]; e < indptr[i + 1]; e++) {
                const int64_t type = etype[order ? order[e] : e];
                const T gate = gates[indices[e] * types + type];
                weight[e - edge] = gate;
                if (own) own[type] += gate;
            }
        }
        column_pieces<T>(columns, span.rows, [&](int64_t at, auto count) {
            const Rows<T, count.value> rows(x + at_first + at, width, span, n);
            for (int64_t i = first; i < last; i++)
                weighted_sum<T, count.value>(rows.first, rows.stride, indices + indptr[i], weight + indptr[i] - edge,
                                             indptr[i + 1] - indptr[i], nullptr, rows_out + i * columns + at);
        });
        if (!type_bias) return;
        const int64_t* each = counting(types);
        column_pieces<T>(dim, types, [&](int64_t at, auto count) {
            for (int64_t i = first; i < last; i++) {
                T* to = out + i * dim + at;
                weighted_sum<T, count.value>(type_bias + at, dim, each, sums + i * types, types,
                                             add ? to : start ? start + at : nullptr, to);
            }
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

// d_gates becomes the gradient of what the gates are the sigmoid of; its sum over the types goes into d_gate, or through
// the map w (`width` numbers) into d_x and `partial`, which ends with the sum over these nodes for each type.
template <class T>
static void gates_backward(int64_t first, int64_t last, int64_t types, int64_t width, const T* x, const T* gates,
                           T* d_gates, const T* w, T* d_gate, T* d_x, T* partial) {
    const int64_t n = last - first;
    T *logits = scratch<T>(n), *of_types = partial + width;
    std::fill(of_types, of_types + types, T(0));
    for (int64_t j = first; j < last; j++) {
        T sum = 0;
        for (int64_t r = 0; r < types; r++) {
            const T gate = gates[j * types + r];
            const T d = d_gates[j * types + r] *= gate * (1 - gate);
            sum += d;
            of_types[r] += d;
        }
        logits[j - first] = sum;
        if (d_gate) d_gate[j] = sum;
        for (int64_t c = 0; c < width; c++) d_x[j * width + c] += sum * w[c];
    }
    const int64_t* each = counting(n);
    column_pieces<T>(width, n, [&](int64_t at, auto count) {
        weighted_sum<T, count.value>(x + first * width + at, width, each, logits, n, nullptr, partial + at);
    });
}

// By source, the edges being those that leave it: d_x_j = sum of gates[j, type] grad_i, and
// d_gates[j, r] = sum over the edges of type r of x_j . grad_i + of_types[i, r]. With `add` both on top of what is there;
// of_types may be null. With `complete`, d_gates is that of all columns and goes on to what `make_gates` had: d_bias, and
// d_gate, or d_w and d_x.
template <class T>
static void backward(int64_t begin, int64_t end, int64_t edges, int64_t types, int64_t width, int64_t at_first,
                     int64_t columns, const int64_t* indptr, const int64_t* indices, const int64_t* etype,
                     const int64_t* order, const T* x, const T* gates, const T* grad, const T* of_types, bool add,
                     T* d_x, T* d_gates, bool complete, const T* w, bool more, T* d_gate, T* d_w, T* d_bias,
                     int64_t threads) {
    grad -= begin * columns, of_types -= of_types ? begin * types : 0, d_gates -= begin * types;
    const int64_t chunks = (end - begin + CHUNK - 1) / CHUNK, maps = d_w ? width : 0, size = maps + types;
    const std::unique_ptr<T[]> partial(new T[complete ? chunks * size : 0]);
    for_chunks(begin, end, edges * columns * 2, threads, [&](int64_t first, int64_t last) {
        const int64_t edge = indptr[first], n = indptr[last] - edge;
        const Span span(indices + edge, n);
        const Runs runs(first, last, types, indptr, indices, etype, order);
        T* dots = scratch<T>(n + 3);
        for (int64_t run = 0; run < runs.of_source[last]; run++) {
            dots[run] = 0;
            for (int64_t e = runs.end[run - 1]; of_types && e < runs.end[run]; e++)
                dots[run] += of_types[runs.sorted[e] * types + runs.type[run]];
        }
        column_pieces<T>(columns, span.rows, [&](int64_t at, auto count) {
            const Rows<T, count.value> rows(grad + at, columns, span, n);
            for (int64_t j = first; j < last; j++) {
                const int64_t own = j * width + at_first + at;
                sums_of_runs<T, count.value>(rows.first, rows.stride, runs, runs.of_source[j], runs.of_source[j + 1],
                                             gates + j * types, x + own, add, d_x + own, dots);
            }
        });
        for (int64_t j = first; j < last; j++) {
            T* own = d_gates + j * types;
            for (int64_t r = 0; !add && r < types; r++) own[r] = 0;
            for (int64_t run = runs.of_source[j]; run < runs.of_source[j + 1]; run++) own[runs.type[run]] += dots[run];
        }
        if (complete)
            gates_backward(first, last, types, maps, x, gates, d_gates, w, d_gate, d_x,
                           partial.get() + (first - begin) / CHUNK * size);
    });
    if (!complete) return;
    if (!more) std::fill(d_bias, d_bias + types, T(0)), std::fill(d_w, d_w + maps, T(0));
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        const T* own = partial.get() + chunk * size;
        for (int64_t c = 0; c < maps; c++) d_w[c] += own[c];
        for (int64_t r = 0; r < types; r++) d_bias[r] += own[maps + r];
    }
}

#define EXPORT(T, name)                                                                                                \
    extern "C" void gated_forward_##name(                                                                              \
        int64_t begin, int64_t end, int64_t edges, int64_t types, int64_t width, int64_t at, int64_t columns,          \
        const int64_t* indptr, const int64_t* indices, const int64_t* etype, const int64_t* order, const T* x,         \
        const T* w, const T* gate, const T* gate_bias, T* gates, T* sums, T* rows, int64_t dim, const T* type_bias,    \
        const T* start, int64_t add, T* out, int64_t threads) {                                                        \
        if (gate_bias) make_gates<T>(begin, end, types, width, x, w, gate, gate_bias, gates, threads);                 \
        forward<T>(begin, end, edges, types, width, at, columns, indptr, indices, etype, order, x, gates, sums, rows,  \
                   dim, type_bias, start, add, out, threads);                                                          \
    }                                                                                                                  \
    extern "C" void gated_backward_##name(                                                                             \
        int64_t begin, int64_t end, int64_t edges, int64_t types, int64_t width, int64_t at, int64_t columns,          \
        const int64_t* indptr, const int64_t* indices, const int64_t* etype, const int64_t* order, const T* x,         \
        const T* gates, const T* rows_grad, int64_t add, T* d_x, T* d_gates, int64_t more, int64_t dim, const T* sums, \
        const T* type_bias, const T* grad, T* of_types, T* d_type_bias, int64_t complete, const T* w, T* d_gate,       \
        T* d_w, T* d_bias, int64_t threads) {                                                                          \
        if (type_bias)                                                                                                 \
            terms_backward<T>(end - begin, types, dim, sums + begin * types, type_bias, grad, of_types, more,          \
                              d_type_bias, threads);                                                                   \
        backward<T>(begin, end, edges, types, width, at, columns, indptr, indices, etype, order, x, gates, rows_grad,  \
                    type_bias ? of_types : nullptr, add, d_x, d_gates, complete, w, more, d_gate, d_w, d_bias,         \
                    threads);                                                                                          \
    }
EXPORT(float, float32)
EXPORT(double, float64)
