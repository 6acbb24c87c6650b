// Additive attention of proposals over the words of sentences: see `relgrounding/ops/additive_attention/pieces.py`.
//
// B sentences of up to L words, of `lengths` (B,); N proposals, those of sentence i from starts[i] to starts[i + 1].
// a (N, A), b (B, L, A), w (A,), values (B, L, V); c (N, V); gamma (N, L). a, c and their gradients are stored as S, all
// else as T, in which everything is computed: S itself, or float for bfloat16.
//
// With r = 1 / (1 + e^{2 (a + b)}), tanh(a + b) = 1 - 2 r. Where e^{2 a} and e^{2 b} are well within the range of T, they
// are computed once per proposal and per word (FACTORED); elsewhere e^{2 (a + b)} is computed per pair.
#include <algorithm>
#include <cmath>
#include <limits>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "exponential.h"
#include "parallel.h"
#include "bfloat16.h"
#include "vectors.h"

template <class V> inline V reciprocal(V x) { return 1 / x; }
#if defined(__AVX512F__)
// A division takes three times as long as an estimate of 14 bits and one step of Newton's method, which doubles them.
template <> inline Vec<float> reciprocal(Vec<float> x) {
    const Vec<float> r = (Vec<float>)_mm512_rcp14_ps((__m512)x);
    return r * (2 - x * r);
}
#endif

template <class T, bool FACTORED> inline Vec<T> sigmoid_of_pair(Vec<T> a, Vec<T> b) {
    if constexpr (FACTORED) {
        return reciprocal<Vec<T>>(1 + a * b);
    } else {
        const Vec<T> x = 2 * (a + b), most = spread(-Float<T>::lowest);
        return reciprocal<Vec<T>>(1 + exponential<T>(x > most ? most : x));
    }
}

template <class T, class S> static void copy_rows(const S* from, int64_t rows, int64_t width, T* to) {
    pad_rows(from, rows, width, to, [](Vec<T> v) { return v; });
}

// Padded rows of the factors; whether they, and products of two such, are in the range of T.
template <class T, class S> static bool factor_rows(const S* from, int64_t rows, int64_t width, T* to) {
    static const T limit = T(0.225) * std::log(std::numeric_limits<T>::max());
    Vec<T> most = {};
    pad_rows(from, rows, width, to, [&](Vec<T> v) {
        const Vec<T> size = v < 0 ? -v : v;
        most = most > size ? most : size;
        return exponential<T>(2 * v);
    });
    T lanes[LANES<T>];
    store(lanes, most);
    return *std::max_element(lanes, lanes + LANES<T>) < limit;
}

// The words of one sentence in padded rows.
template <class T> struct Words {
    bool fit;
    int64_t count, wide, stride;  // the padded widths of b and of the values
    const T *plain, *factors, *value;

    Words(const T* b, const T* values, int64_t count, int64_t width, int64_t columns)
        : count(count), wide(padded<T>(width)), stride(padded<T>(columns)) {
        T *rows = scratch<T, 0>(2 * count * wide), *of_values = scratch<T, 1>(count * stride);
        copy_rows(b, count, width, rows);
        fit = factor_rows(b, count, width, rows + count * wide);
        copy_rows(values, count, columns, of_values);
        plain = rows, factors = rows + count * wide, value = of_values;
    }
};

// -2 w . r of one proposal and W words
template <class T, int W, bool FACTORED>
static void few_logits(const T* a, const T* b, const T* w, int64_t wide, T* out) {
    Vec<T> sums[4] = {};
    for (int64_t k = 0; k < wide; k += LANES<T>) {
        const Vec<T> own = load(a + k), weight = load(w + k);
        for (int n = 0; n < W; n++) sums[n] += weight * sigmoid_of_pair<T, FACTORED>(own, load(b + n * wide + k));
    }
    T found[4] = {};
    add_lane_sums<T>(sums, found);
    for (int n = 0; n < W; n++) out[n * LANES<T>] = -2 * found[n];
}

template <class T, bool FACTORED> static void logits(const T* a, const Words<T>& of, const T* w, T* out) {
    const T* b = FACTORED ? of.factors : of.plain;
    for (int64_t n = 0; n < of.count; n += 4, b += 4 * of.wide, out += 4 * LANES<T>) {
        if (n + 4 <= of.count) few_logits<T, 4, FACTORED>(a, b, w, of.wide, out);
        else if (n + 3 == of.count) few_logits<T, 3, FACTORED>(a, b, w, of.wide, out);
        else if (n + 2 == of.count) few_logits<T, 2, FACTORED>(a, b, w, of.wide, out);
        else few_logits<T, 1, FACTORED>(a, b, w, of.wide, out);
    }
}

// Over n rows, of a vector of columns each at once.
template <class T> static void softmax(T* x, int64_t n) {
    Vec<T> most = load(x), sum = {};
    for (int64_t k = 1; k < n; k++) {
        const Vec<T> v = load(x + k * LANES<T>);
        most = most > v ? most : v;
    }
    for (int64_t k = 0; k < n; k++) {
        const Vec<T> power = exponential<T>(load(x + k * LANES<T>) - most);
        store(x + k * LANES<T>, power);
        sum += power;
    }
    for (int64_t k = 0; k < n; k++) store(x + k * LANES<T>, load(x + k * LANES<T>) / sum);
}

// sum over the words n of weight[n] value_n, of K vectors of columns, of which the first `columns` are written
template <class S, class T, int K>
static void mean_of_words(const Words<T>& of, int64_t at, const T* weight, S* out, int64_t columns) {
    Vec<T> sums[K] = {};
    for (int64_t n = 0; n < of.count; n++)
        for (int k = 0; k < K; k++)
            sums[k] += weight[n * LANES<T>] * load(of.value + n * of.stride + at + k * LANES<T>);
    for (int k = 0; k < K; k++) store_some(out + at + k * LANES<T>, sums[k], columns - at - k * LANES<T>);
}

// gamma_t = softmax over the words n of -2 w . r_tn, 0 at the padding; c_t = sum_n gamma_tn value_n. For proposals of
// one sentence, at most as many as a vector has lanes.
template <class T, class S>
static void attend(const Words<T>& of, int64_t proposals, int64_t length, int64_t width, int64_t columns, const S* a,
                   const T* w, S* c, T* gamma) {
    T *row = scratch<T, 2>(of.wide + of.count * LANES<T>), *weight = row + of.wide;
    std::fill(weight, weight + of.count * LANES<T>, T(0));
    for (int64_t t = 0; t < proposals; t++) {
        if (of.fit && factor_rows(a + t * width, 1, width, row)) {
            logits<T, true>(row, of, w, weight + t);
        } else {
            copy_rows(a + t * width, 1, width, row);
            logits<T, false>(row, of, w, weight + t);
        }
    }
    softmax(weight, of.count);
    for (int64_t t = 0; t < proposals; t++, weight++) {
        for (int64_t n = 0; n < of.count; n++) gamma[t * length + n] = weight[n * LANES<T>];
        std::fill(gamma + t * length + of.count, gamma + (t + 1) * length, T(0));
        column_pieces<T>(of.stride, of.count, [&](int64_t at, auto count) {
            if constexpr (count.value > 0) mean_of_words<S, T, count.value>(of, at, weight, c + t * columns, columns);
        });
    }
}

template <class T, class S>
static void forward(int64_t items, int64_t length, int64_t width, int64_t columns, int64_t nodes, const int64_t* starts,
                    const int64_t* lengths, const S* a, const T* b, const T* w, const T* values, S* c, T* gamma,
                    int64_t threads) {
    for_chunks(0, nodes, nodes * length * width, threads, [=](int64_t first, int64_t last) {
        T* weight = scratch<T, 3>(padded<T>(width));
        copy_rows(w, 1, width, weight);
        int64_t item = std::upper_bound(starts, starts + items + 1, first) - starts - 1;
        for (int64_t t = first; t < last; item++) {
            const int64_t end = std::min(last, starts[item + 1]);
            if (t == end) continue;
            const T *own_b = b + item * length * width, *own_values = values + item * length * columns;
            const Words<T> of(own_b, own_values, lengths[item], width, columns);
            for (; t < end; t += LANES<T>)
                attend(of, std::min(end - t, int64_t(LANES<T>)), length, width, columns, a + t * width, weight,
                       c + t * columns, gamma + t * length);
            t = end;
        }
    });
}

// Sums over the proposals of one sentence, in padded rows; without the factors 4 w of `word` and -2 of `w`.
template <class T> struct Sums {
    T *word, *value, *w;
};

// weight[n, t] of R proposals from gamma (R, length), and `delta` from the gradients of gamma to those of the logits
template <class T, int R>
static void softmax_backward(int64_t words, int64_t length, const T* gamma, T* weight, T* delta) {
    T mean[R] = {};
    for (int64_t n = 0; n < words; n++)
        for (int t = 0; t < R; t++) {
            weight[n * R + t] = gamma[t * length + n];
            mean[t] += weight[n * R + t] * delta[n * R + t];
        }
    for (int64_t n = 0; n < words; n++)
        for (int t = 0; t < R; t++) delta[n * R + t] = weight[n * R + t] * (delta[n * R + t] - mean[t]);
}

// delta[n, t] += d_c_t . value_n
template <class T, int R> static void add_word_dots(const Words<T>& of, const T* d_c, T* delta) {
    const auto few = [&](int64_t n, auto count) {
        constexpr int W = count.value;
        Vec<T> sums[W][4] = {};
        for (int64_t k = 0; k < of.stride; k += LANES<T>)
            for (int m = 0; m < W; m++)
                for (int t = 0; t < R; t++)
                    sums[m][t] += load(of.value + (n + m) * of.stride + k) * load(d_c + t * of.stride + k);
        for (int m = 0; m < W; m++) {
            T found[4] = {};
            add_lane_sums<T>(sums[m], found);
            for (int t = 0; t < R; t++) delta[(n + m) * R + t] += found[t];
        }
    };
    int64_t n = 0;
    for (; n + 2 <= of.count; n += 2) few(n, Count<2>{});
    if (n < of.count) few(n, Count<1>{});
}

// value_n += sum over t of weight[n, t] d_c_t
template <class T, int R>
static void add_to_values(const Words<T>& of, const T* d_c, const T* weight, const Sums<T>& sums) {
    for (int64_t n = 0; n < of.count; n++) {
        T* to = sums.value + n * of.stride;
        for (int64_t k = 0; k < of.stride; k += LANES<T>) {
            Vec<T> sum = load(to + k);
            for (int t = 0; t < R; t++) sum += weight[n * R + t] * load(d_c + t * of.stride + k);
            store(to + k, sum);
        }
    }
}

// Through r, from the gradients `delta` of the logits to those of R rows of a, which they replace.
template <class T, int R, bool FACTORED>
static void pairs_backward(const Words<T>& of, T* a, const T* delta, const T* w, const Sums<T>& sums) {
    for (int64_t k = 0; k < of.wide; k += LANES<T>) {
        Vec<T> own[R], of_a[R] = {}, of_w = load(sums.w + k);
        for (int t = 0; t < R; t++) own[t] = load(a + t * of.wide + k);
        const T* b = (FACTORED ? of.factors : of.plain) + k;
        T* to = sums.word + k;
        for (int64_t n = 0; n < of.count; n++, b += of.wide, to += of.wide) {
            const Vec<T> word = load(b);
            Vec<T> of_word = load(to);
            for (int t = 0; t < R; t++) {
                const Vec<T> r = sigmoid_of_pair<T, FACTORED>(own[t], word), through = r - r * r;
                of_w += delta[n * R + t] * r;
                of_a[t] += delta[n * R + t] * through;
                of_word += delta[n * R + t] * through;
            }
            store(to, of_word);
        }
        for (int t = 0; t < R; t++) store(a + t * of.wide + k, 4 * of_a[t] * load(w + k));
        store(sums.w + k, of_w);
    }
}

// The backward pass of R proposals of one sentence, from the gradients of c and gamma, either of which may be null.
template <class T, class S, int R>
static void attend_backward(const Words<T>& of, int64_t length, int64_t width, int64_t columns, const S* a, const T* w,
                            const T* gamma, const S* d_c, const T* d_gamma, S* d_a, const Sums<T>& sums) {
    T *row = scratch<T, 2>(R * (of.wide + of.stride)), *d_own_c = row + R * of.wide;
    T *weight = scratch<T, 3>(2 * of.count * R), *delta = weight + of.count * R;
    for (int64_t n = 0; n < of.count; n++)
        for (int64_t t = 0; t < R; t++) delta[n * R + t] = d_gamma ? d_gamma[t * length + n] : T(0);
    if (d_c) {
        copy_rows(d_c, R, columns, d_own_c);
        add_word_dots<T, R>(of, d_own_c, delta);
    }
    softmax_backward<T, R>(of.count, length, gamma, weight, delta);
    if (d_c) add_to_values<T, R>(of, d_own_c, weight, sums);
    if (of.fit && factor_rows(a, R, width, row)) {
        pairs_backward<T, R, true>(of, row, delta, w, sums);
    } else {
        copy_rows(a, R, width, row);
        pairs_backward<T, R, false>(of, row, delta, w, sums);
    }
    for (int64_t t = 0; t < R; t++)
        for (int64_t k = 0; k < width; k += LANES<T>)
            store_some(d_a + t * width + k, load(row + t * of.wide + k), width - k);
}

// d_w (B, A) has a row per sentence.
template <class T, class S>
static void backward(int64_t items, int64_t length, int64_t width, int64_t columns, const int64_t* starts,
                     const int64_t* lengths, const S* a, const T* b, const T* w, const T* values, const T* gamma,
                     const S* d_c, const T* d_gamma, S* d_a, T* d_b, T* d_w, T* d_values, int64_t threads) {
    for_each(items, starts[items] * length * width, threads, [=](int64_t item) {
        const T *own_b = b + item * length * width, *own_values = values + item * length * columns;
        const Words<T> of(own_b, own_values, lengths[item], width, columns);
        const int64_t size = of.count * (of.wide + of.stride) + 2 * of.wide;
        T *word = scratch<T, 4>(size), *value = word + of.count * of.wide, *of_w = value + of.count * of.stride;
        T* weight = of_w + of.wide;
        const Sums<T> sums{word, value, of_w};
        std::fill(word, word + size, T(0));
        copy_rows(w, 1, width, weight);
        const auto block = [&](int64_t t, auto count) {
            attend_backward<T, S, count.value>(of, length, width, columns, a + t * width, weight, gamma + t * length,
                                               d_c ? d_c + t * columns : d_c, d_gamma ? d_gamma + t * length : d_gamma,
                                               d_a + t * width, sums);
        };
        int64_t t = starts[item];
        for (; t + 4 <= starts[item + 1]; t += 4) block(t, Count<4>{});
        for (; t < starts[item + 1]; t++) block(t, Count<1>{});
        T *to = d_b + item * length * width, *to_values = d_values + item * length * columns;
        for (int64_t n = 0; n < of.count; n++) {
            for (int64_t k = 0; k < width; k++) to[n * width + k] = 4 * word[n * of.wide + k] * w[k];
            std::copy(value + n * of.stride, value + n * of.stride + columns, to_values + n * columns);
        }
        std::fill(to + of.count * width, to + length * width, T(0));
        std::fill(to_values + of.count * columns, to_values + length * columns, T(0));
        for (int64_t k = 0; k < width; k++) d_w[item * width + k] = -2 * of_w[k];
    });
}

#define EXPORT(T, S, name)                                                                                             \
    extern "C" void additive_forward_##name(int64_t items, int64_t length, int64_t width, int64_t columns,             \
                                            int64_t nodes, const int64_t* starts, const int64_t* lengths,              \
                                            const S* a, const T* b, const T* w, const T* values, S* c, T* gamma,       \
                                            int64_t threads) {                                                         \
        forward<T, S>(items, length, width, columns, nodes, starts, lengths, a, b, w, values, c, gamma, threads);      \
    }                                                                                                                  \
    extern "C" void additive_backward_##name(                                                                          \
        int64_t items, int64_t length, int64_t width, int64_t columns, const int64_t* starts, const int64_t* lengths,  \
        const S* a, const T* b, const T* w, const T* values, const T* gamma, const S* d_c, const T* d_gamma, S* d_a,   \
        T* d_b, T* d_w, T* d_values, int64_t threads) {                                                                \
        backward<T, S>(items, length, width, columns, starts, lengths, a, b, w, values, gamma, d_c, d_gamma, d_a, d_b, \
                       d_w, d_values, threads);                                                                        \
    }
EXPORT(float, float, float32)
EXPORT(double, double, float64)
EXPORT(float, BFloat16, bfloat16)
