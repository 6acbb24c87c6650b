// Gated sums: a weight per edge that depends on its source and its type, and a term that depends on its type; along the
// edges, and against them where there are two `ways`.
//
//     out_i = sum over the ways, and over the edges j -> i, of  gates[way, j, type] (feat[j, way] + type_bias[way, type])
//
// The work is on the nodes from `begin` to `end`, of a graph of N nodes and R types. x (N, `width`); gates (ways, N, R);
// type_bias (ways, R, `dim`); out (N, `dim`); feat and d_feat have the rows of these nodes alone, `dim` columns per way,
// and `stride` numbers from row to row. `order` gives the number of each edge in `etype`; null: its own. `bounds` are
// where the `items` items begin, and N.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "exponential.h"
#include "parallel.h"
#include "vectors.h"

constexpr int64_t GROUPS = 16;  // of chunks, each with sums of its own: the same whatever the number of threads

// Pieces of some nodes, none of which has nodes of two items if it need not: they read the same rows.
static std::vector<int64_t> chunks_of(int64_t begin, int64_t end, int64_t items, const int64_t* bounds) {
    constexpr int64_t MOST = 2 * CHUNK;
    std::vector<int64_t> starts;
    for (const int64_t* item = std::upper_bound(bounds, bounds + items, begin) - 1; begin < end; item++) {
        const int64_t last = std::min(item[1], end), pieces = (last - begin + MOST - 1) / MOST;
        for (int64_t k = 0; k < pieces; k++) starts.push_back(begin + (last - begin) * k / pieces);
        begin = std::max(begin, last);
    }
    starts.push_back(end);
    return starts;
}

struct Edges {
    const int64_t *indptr, *indices, *etype, *order;

    int64_t type(int64_t e) const { return etype[order ? order[e] : e]; }
};

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

// The gates of the edges of some destinations, and their sums by destination and type.
template <class T> struct Weights {
    T *of_edges, *sums;

    Weights(int64_t first, int64_t last, int64_t types, const Edges& edges, const T* gates, T* memory)
        : of_edges(memory), sums(memory + edges.indptr[last] - edges.indptr[first]) {
        std::fill(sums, sums + (last - first) * types, T(0));
        for (int64_t i = first; i < last; i++)
            for (int64_t e = edges.indptr[i]; e < edges.indptr[i + 1]; e++) {
                const int64_t type = edges.type(e);
                const T gate = gates[edges.indices[e] * types + type];
                of_edges[e - edges.indptr[first]] = gate;
                sums[(i - first) * types + type] += gate;
            }
    }
};

// K vectors of columns of out_i = (what is there +) sum over its edges + sums type_bias.
template <class T, int K>
INNERMOST void gated_row(const Rows<T, K>& rows, const int64_t* indices, const T* weight, int64_t n, const T* type_bias,
                      int64_t dim, const T* sums, int64_t types, bool add, T* out) {
    if constexpr (K == 0) {
        T sum = add ? *out : T(0);
        for (int64_t e = 0; e < n; e++) sum += weight[e] * rows.first[indices[e] * rows.stride];
        for (int64_t r = 0; r < types; r++) sum += sums[r] * type_bias[r * dim];
        *out = sum;
    } else {
        Vec<T> sum[K];
        const auto take = [&](T factor, const T* row) {
            for (int k = 0; k < K; k++) sum[k] += factor * load(row + k * LANES<T>);
        };
        const T* start = add ? out : NOTHING<T>;
        for (int k = 0; k < K; k++) sum[k] = load(start + k * LANES<T>);
        with_stride<T, K>(rows.stride, [&](auto step) {
            for (int64_t e = 0; e < n; e++) take(weight[e], rows.first + indices[e] * step);
        });
        for (int64_t r = 0; r < types; r++) take(sums[r], type_bias + r * dim);
        for (int k = 0; k < K; k++) store(out + k * LANES<T>, sum[k]);
    }
}

// One direction, or both: `ways` of edges, gates and type biases, and as many times `dim` columns of feat. With `bias`,
// out becomes ReLU(out + bias + the sums).
template <class T>
static void forward(const std::vector<int64_t>& chunks, int64_t ways, int64_t types, int64_t dim, const Edges* edges,
                    const T* const* gates, const T* feat, int64_t stride, const T* type_bias, const T* bias, T* out,
                    int64_t threads) {
    const int64_t begin = chunks.front(), end = chunks.back();
    const int64_t work = (edges->indptr[end] - edges->indptr[begin]) * dim * ways;
    feat -= begin * stride;
    for_each(int64_t(chunks.size()) - 1, work, threads, [&](int64_t chunk) {
        const int64_t first = chunks[chunk], last = chunks[chunk + 1];
        int64_t at_way[3] = {}, low[2], most = types;
        for (int64_t k = 0; k < ways; k++) {
            low[k] = edges[k].indptr[first];
            at_way[k + 1] = at_way[k] + edges[k].indptr[last] - low[k] + (last - first) * types;
        }
        T* memory = scratch<T>(at_way[ways]);
        std::vector<Weights<T>> weights;
        std::vector<Span> spans;
        for (int64_t k = 0; k < ways; k++) {
            weights.emplace_back(first, last, types, edges[k], gates[k], memory + at_way[k]);
            spans.emplace_back(edges[k].indices + low[k], edges[k].indptr[last] - low[k]);
            most = std::max(most, spans[k].rows);
        }
        column_pieces<T>(dim, most, [&](int64_t at, auto count) {
            constexpr int K = count.value;
            for (int64_t k = 0; k < ways; k++) {
                const int64_t* indptr = edges[k].indptr;
                const Rows<T, K> rows(feat + k * dim + at, stride, spans[k], indptr[last] - low[k]);
                for (int64_t i = first; i < last; i++)
                    gated_row<T, K>(rows, edges[k].indices + indptr[i], weights[k].of_edges + indptr[i] - low[k],
                                    indptr[i + 1] - indptr[i], type_bias + k * types * dim + at, dim,
                                    weights[k].sums + (i - first) * types, types, bias || k, out + i * dim + at);
            }
        });
        for (int64_t i = first; bias && i < last; i++)
            for (int64_t d = 0; d < dim; d++) {
                const T sum = out[i * dim + d] + bias[d];
                out[i * dim + d] = sum <= 0 ? T(0) : sum;
            }
    });
}

// The edges of some sources, those of one type next to each other: they share a gate. Run k holds the ends `sorted` from
// `end[k - 1]` to `end[k]` and has the type `type[k]`; source j has the runs from `of_source[j]` to `of_source[j + 1]`.
struct Runs {
    int32_t *sorted, *type, *end, *of_source;

    // Ends are counted from `low`.
    Runs(int64_t first, int64_t last, int64_t types, const Edges& edges, int64_t low) {
        const int64_t *indptr = edges.indptr, begin = indptr[first], n = indptr[last] - begin;
        // One place more in `type` and `end`: a type without edges is written, too, and then overwritten.
        int32_t* memory = scratch<int32_t>(4 * n + 3 + last - first + 1 + types);
        sorted = memory, type = sorted + n, end = type + n + 2, of_source = end + n + 1 - first;
        int32_t *place = of_source + last + 1, *etype = place + types - begin, runs = 0, used = 0;
        end[-1] = 0;
        for (int64_t e = begin; e < begin + n; e++) etype[e] = int32_t(edges.type(e));
        for (int64_t j = first; j < last; j++) {
            of_source[j] = runs;
            std::fill(place, place + types, 0);
            for (int64_t e = indptr[j]; e < indptr[j + 1]; e++) place[etype[e]]++;
            for (int32_t r = 0; r < types; r++) {
                const int32_t count = place[r];
                place[r] = used;
                used += count;
                type[runs] = r;
                end[runs] = used;
                runs += count > 0;
            }
            for (int64_t e = indptr[j]; e < indptr[j + 1]; e++)
                sorted[place[etype[e]]++] = int32_t(edges.indices[e] - low);
        }
        of_source[last] = runs;
    }
};

// One source: with s_k the sum of the rows of its run k and r its type, d_feat = sum of gates[r] s_k,
// dots[k] += (feat + type_bias_r) . s_k and d_type_bias_r += gates[r] s_k. Also adds 0 to the up to three numbers after
// the last of `dots`. `step` from row to row of the table.
template <class T, int K, class Step>
INNERMOST void sums_of_runs(const T* table, Step step, const int32_t* sorted, const int32_t* type, const int32_t* end,
                            int64_t runs, const T* gates, const T* __restrict__ feat, const T* __restrict__ type_bias,
                            int64_t dim, T* __restrict__ d_feat, T* __restrict__ d_type_bias, T* dots) {
    Vec<T> total[K];
    for (int k = 0; k < K; k++) total[k] = Vec<T>{};
    for (int64_t four = 0; four < runs; four += 4) {
        Vec<T> products[4] = {};
        for (int64_t run = four; run < std::min(four + 4, runs); run++) {
            const T *bias = type_bias + type[run] * dim, gate = gates[type[run]];
            T* __restrict__ d_bias = d_type_bias + type[run] * dim;
            Vec<T> sum[K], product[2] = {};
            int64_t e = end[run - 1];
            for (int k = 0; k < K; k++) sum[k] = load(table + sorted[e] * step + k * LANES<T>);
            for (e++; e < end[run]; e++)
                for (int k = 0; k < K; k++) sum[k] += load(table + sorted[e] * step + k * LANES<T>);
            for (int k = 0; k < K; k++) {
                const int64_t at = k * LANES<T>;
                product[k % 2] += (load(feat + at) + load(bias + at)) * sum[k];
                total[k] += gate * sum[k];
                store(d_bias + at, load(d_bias + at) + gate * sum[k]);
            }
            products[run - four] = product[0] + product[1];
        }
        add_lane_sums<T>(products, dots + four);
    }
    for (int k = 0; k < K; k++) store(d_feat + k * LANES<T>, total[k]);
}

// The same, one column.
template <class T>
static void sums_of_runs(const T* table, int64_t stride, const int32_t* sorted, const int32_t* type, const int32_t* end,
                         int64_t runs, const T* gates, const T* feat, const T* type_bias, int64_t dim, T* d_feat,
                         T* d_type_bias, T* dots) {
    *d_feat = 0;
    for (int64_t run = 0; run < runs; run++) {
        T sum = 0;
        for (int64_t e = end[run - 1]; e < end[run]; e++) sum += table[sorted[e] * stride];
        dots[run] += (*feat + type_bias[type[run] * dim]) * sum;
        *d_feat += gates[type[run]] * sum;
        d_type_bias[type[run] * dim] += gates[type[run]] * sum;
    }
}

// By source, the edges being those that leave it. grad (rows from node `grad_begin` on, `grad_stride`) is that of out.
// d_logit (the rows of these nodes, a column per way, `logit_stride`) is the gradient of the logits behind the gates.
// Sums over the nodes are added to d_type_bias and d_gate_bias (ways, R).
template <class T> struct Backward {
    int64_t ways, types, dim;
    const Edges* edges;
    const T* const* gates;
    const T* feat;
    int64_t stride;
    const T* grad;
    int64_t grad_stride, grad_begin;
    const T* type_bias;
    T* d_feat;
    int64_t d_stride;
    T* d_logit;
    int64_t logit_stride;

    // One way; the sums over these nodes go on top of `d_types` and `d_biases`.
    void chunk(int64_t begin, int64_t first, int64_t last, int64_t way, T* d_types, T* d_biases) const {
        const int64_t *indptr = edges[way].indptr, edge = indptr[first], n = indptr[last] - edge;
        const Span span(edges[way].indices + edge, n);
        const Runs runs(first, last, types, edges[way], span.low);
        const int64_t of_way = way * dim;
        T* dots = scratch<T>(n + 3);
        std::fill(dots, dots + n + 3, T(0));
        column_pieces<T>(dim, span.rows, [&](int64_t at, auto vectors) {
            constexpr int K = vectors.value;
            const Rows<T, K> rows(grad - grad_begin * grad_stride + at, grad_stride, span, n);
            const T* table = rows.first + span.low * rows.stride;
            for (int64_t j = first; j < last; j++) {
                const int64_t run = runs.of_source[j], count = runs.of_source[j + 1] - run;
                const auto sum = [&](auto function, auto step) {
                    function(table, step, runs.sorted, runs.type + run, runs.end + run, count, gates[way] + j * types,
                             feat + (j - begin) * stride + of_way + at, type_bias + of_way * types + at, dim,
                             d_feat + (j - begin) * d_stride + of_way + at, d_types + at, dots + run);
                };
                if constexpr (K == 0) sum(sums_of_runs<T>, rows.stride);
                else
                    with_stride<T, K>(rows.stride, [&](auto step) { sum(sums_of_runs<T, K, decltype(step)>, step); });
            }
        });
        for (int64_t j = first; j < last; j++) {
            T sum = 0;
            for (int64_t run = runs.of_source[j]; run < runs.of_source[j + 1]; run++) {
                const T gate = gates[way][j * types + runs.type[run]], d = dots[run] * gate * (1 - gate);
                sum += d;
                d_biases[runs.type[run]] += d;
            }
            d_logit[(j - begin) * logit_stride + way] = sum;
        }
    }

    void all(const std::vector<int64_t>& chunks, T* d_type_bias, T* d_gate_bias, int64_t threads) const {
        const int64_t begin = chunks.front(), end = chunks.back();
        const int64_t count = int64_t(chunks.size()) - 1, groups = std::min(GROUPS, count);
        const int64_t table = ways * types * dim, size = table + ways * types;
        T* partial = scratch<T, 2>(groups * size);
        const int64_t work = (edges->indptr[end] - edges->indptr[begin]) * ways * dim * 2;
        for_each(groups, work, threads, [&](int64_t group) {
            T* own = partial + group * size;
            std::fill(own, own + size, T(0));
            for (int64_t k = count * group / groups; k < count * (group + 1) / groups; k++)
                for (int64_t way = 0; way < ways; way++)
                    chunk(begin, chunks[k], chunks[k + 1], way, own + way * types * dim, own + table + way * types);
        });
        for (int64_t group = 0; group < groups; group++) {
            const T* own = partial + group * size;
            for (int64_t k = 0; k < table; k++) d_type_bias[k] += own[k];
            for (int64_t k = 0; k < ways * types; k++) d_gate_bias[k] += own[table + k];
        }
    }
};

// The gradient behind a ReLU, (rows, `dim`), of that after it, with its result `out`; its sum over the rows is added to
// d_bias.
template <class T>
static void relu_backward(int64_t rows, int64_t dim, const T* grad, const T* out, T* d_rows, int64_t stride, T* d_bias,
                          int64_t threads) {
    const int64_t chunks = (rows + CHUNK - 1) / CHUNK, groups = std::min(GROUPS, chunks);
    T* partial = scratch<T, 2>(groups * dim);
    for_each(groups, rows * dim, threads, [=](int64_t group) {
        T* __restrict__ sums = partial + group * dim;
        std::fill(sums, sums + dim, T(0));
        const int64_t last = std::min(chunks * (group + 1) / groups * CHUNK, rows);
        for (int64_t i = chunks * group / groups * CHUNK; i < last; i++) {
            T* __restrict__ to = d_rows + i * stride;
            const T *__restrict__ from = grad + i * dim, *__restrict__ result = out + i * dim;
            for (int64_t d = 0; d < dim; d++) {
                const T passed = result[d] <= 0 ? T(0) : from[d];
                to[d] = passed;
                sums[d] += passed;
            }
        }
    });
    for (int64_t group = 0; group < groups; group++)
        for (int64_t d = 0; d < dim; d++) d_bias[d] += partial[group * dim + d];
}

#define EXPORT(T, name)                                                                                                \
    extern "C" void gated_forward_##name(                                                                              \
        int64_t begin, int64_t end, int64_t items, const int64_t* bounds, int64_t nodes, int64_t ways, int64_t types,  \
        int64_t dim, const int64_t* indptr, const int64_t* indices, const int64_t* etype, const int64_t* out_indptr,   \
        const int64_t* out_indices, const int64_t* out_edges, T* gates, const T* feat, int64_t stride,                 \
        const T* type_bias, int64_t width, const T* x, const T* w, const T* gate, const T* gate_bias, const T* bias,   \
        T* out, int64_t threads) {                                                                                     \
        const Edges edges[] = {{indptr, indices, etype, nullptr}, {out_indptr, out_indices, etype, out_edges}};        \
        const T* of_ways[] = {gates, gates + nodes * types};                                                           \
        for (int64_t k = 0; k < ways; k++)                                                                             \
            make_gates<T>(begin, end, types, width, x, w + k * width, gate, gate_bias + k * types,                     \
                          gates + k * nodes * types, threads);                                                         \
        forward<T>(chunks_of(begin, end, items, bounds), ways, types, dim, edges, of_ways, feat, stride, type_bias,    \
                   bias, out, threads);                                                                                \
    }                                                                                                                  \
    extern "C" void gated_backward_##name(                                                                             \
        int64_t begin, int64_t end, int64_t items, const int64_t* bounds, int64_t nodes, int64_t ways, int64_t types,  \
        int64_t dim, const int64_t* indptr, const int64_t* indices, const int64_t* etype, const int64_t* out_indptr,   \
        const int64_t* out_indices, const int64_t* out_edges, int64_t way, const T* gates, const T* feat, int64_t stride,           \
        const T* type_bias, const T* grad, int64_t grad_stride, int64_t grad_begin, T* d_feat, int64_t d_stride,       \
        T* d_logit, int64_t logit_stride, T* d_type_bias, T* d_gate_bias, int64_t threads) {                           \
        const Edges edges[] = {{out_indptr, out_indices, etype, out_edges}, {indptr, indices, etype, nullptr}};        \
        const T* of_ways[] = {gates, gates + nodes * types};                                                           \
        const Backward<T> back{ways, types,       dim,        edges + way, of_ways + way, feat,    stride,             \
                               grad, grad_stride, grad_begin, type_bias,   d_feat,        d_stride, d_logit,           \
                               logit_stride};                                                                          \
        back.all(chunks_of(begin, end, items, bounds), d_type_bias, d_gate_bias, threads);                              \
    }                                                                                                                  \
    extern "C" void gated_relu_backward_##name(int64_t rows, int64_t dim, const T* grad, const T* out, T* d_rows,      \
                                               int64_t stride, T* d_bias, int64_t threads) {                           \
        relu_backward<T>(rows, dim, grad, out, d_rows, stride, d_bias, threads);                                       \
    }
EXPORT(float, float32)
EXPORT(double, float64)
