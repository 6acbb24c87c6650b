// Additive attention of proposals over the words of sentences: see `relgrounding/ops/additive_attention/pieces.py`.
//
// B sentences of up to L words, of `lengths` (B,); N proposals, those of sentence i from starts[i] to starts[i + 1].
// a (N, A) and b (B, L, A) are the exponentials of twice the arguments: r = 1 / (1 + a b), tanh = 1 - 2 r. w (A,);
// values (B, L, V); c (N, V); gamma (N, L).
#include <algorithm>
#include <type_traits>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "exponential.h"
#include "parallel.h"
#include "vectors.h"

template <class V> inline V reciprocal(V x) { return 1 / x; }
#if defined(__AVX512F__)
// A division takes three times as long as an estimate of 14 bits and one step of Newton's method, which doubles them.
template <> inline Vec<float> reciprocal(Vec<float> x) {
    const Vec<float> r = (Vec<float>)_mm512_rcp14_ps((__m512)x);
    return r * (2 - x * r);
}
#endif

// sum over the columns of w / (1 + a b)
template <class T> static T weighted_reciprocals(const T* a, const T* b, const T* w, int64_t width) {
    constexpr int64_t ONE = LANES<T>;
    Vec<T> sums[2] = {};
    int64_t k = 0;
    for (; k + 2 * ONE <= width; k += 2 * ONE)
        for (int half = 0; half < 2; half++) {
            const int64_t at = k + half * ONE;
            sums[half] += load(w + at) * reciprocal<Vec<T>>(1 + load(a + at) * load(b + at));
        }
    T sum = lane_sum<T>(sums[0] + sums[1]);
    for (; k < width; k++) sum += w[k] / (1 + a[k] * b[k]);
    return sum;
}

// gamma_t = softmax over the words n of -2 w . r_tn, 0 at the padding; c_t = sum_n gamma_tn value_n
template <class T>
static void forward(int64_t items, int64_t length, int64_t width, int64_t columns, int64_t nodes, const int64_t* starts,
                    const int64_t* lengths, const T* a, const T* b, const T* w, const T* values, T* c, T* gamma,
                    int64_t threads) {
    for_chunks(0, nodes, nodes * length * width, threads, [=](int64_t first, int64_t last) {
        const int64_t* each = counting(length);
        int64_t item = std::upper_bound(starts, starts + items + 1, first) - starts - 1;
        for (int64_t t = first; t < last; t++) {
            while (starts[item + 1] <= t) item++;
            const int64_t words = lengths[item];
            T* own = gamma + t * length;
            for (int64_t n = 0; n < words; n++)
                own[n] = -2 * weighted_reciprocals(a + t * width, b + (item * length + n) * width, w, width);
            const T most = largest(own, words);
            for (int64_t n = 0; n < words; n++) own[n] -= most;
            exponentials(own, words);
            const T sum = total(own, words);
            for (int64_t n = 0; n < words; n++) own[n] /= sum;
            std::fill(own + words, own + length, T(0));
            column_pieces<T>(columns, words, [&](int64_t at, auto count) {
                weighted_sum<T, count.value>(values + item * length * columns + at, columns, each, own, words, nullptr,
                                             c + t * columns + at);
            });
        }
    });
}

// K vectors of columns (0: one column) of one sentence: the gradients through r, for the gradients `delta` (proposals,
// words) of the logits.
template <class T, int K>
static void pairs_backward(int64_t proposals, int64_t words, int64_t width, const T* delta, const T* a, const T* b,
                           const T* w, T* d_a, T* d_b, T* d_w) {
    constexpr int VECTORS = K ? K : 1, WIDTH = K ? LANES<T> : 1;
    using Piece = std::conditional_t<K == 0, T, Vec<T>>;
    const auto read = [](const T* from, int k) {
        if constexpr (K == 0) return *from;
        else return load(from + k * WIDTH);
    };
    const auto write = [](T* to, int k, Piece x) {
        if constexpr (K == 0) *to = x;
        else store(to + k * WIDTH, x);
    };
    Piece slope[VECTORS], of_w[VECTORS] = {};
    for (int k = 0; k < VECTORS; k++) slope[k] = 4 * read(w, k);
    for (int64_t t = 0; t < proposals; t++) {
        Piece own[VECTORS], of_a[VECTORS] = {};
        for (int k = 0; k < VECTORS; k++) own[k] = read(a + t * width, k);
        for (int64_t n = 0; n < words; n++) {
            const T d = delta[t * words + n];
            for (int k = 0; k < VECTORS; k++) {
                const Piece r = reciprocal<Piece>(1 + own[k] * read(b + n * width, k));
                const Piece d_r = d * r, through = d_r - d_r * r;
                of_w[k] += d_r;
                of_a[k] += through;
                write(d_b + n * width, k, read(d_b + n * width, k) + through);
            }
        }
        for (int k = 0; k < VECTORS; k++) write(d_a + t * width, k, of_a[k] * slope[k]);
    }
    for (int k = 0; k < VECTORS; k++) {
        for (int64_t n = 0; n < words; n++) write(d_b + n * width, k, read(d_b + n * width, k) * slope[k]);
        write(d_w, k, -2 * of_w[k]);
    }
}

// From the gradients of c and gamma, either of which may be null. d_a and d_w (B, A), a row per sentence, are written;
// d_b and d_values are zeros before.
template <class T>
static void backward(int64_t items, int64_t length, int64_t width, int64_t columns, const int64_t* starts,
                     const int64_t* lengths, const T* a, const T* b, const T* w, const T* values, const T* gamma,
                     const T* d_c, const T* d_gamma, T* d_a, T* d_b, T* d_w, T* d_values, int64_t threads) {
    for_each(items, starts[items] * length * width, threads, [=](int64_t item) {
        const int64_t begin = starts[item], proposals = starts[item + 1] - begin, words = lengths[item];
        const int64_t *each = counting(proposals), size = proposals * words + 3;  // `add_dots` writes 3 beyond the end
        const T *own_b = b + item * length * width, *own_values = values + item * length * columns;
        T *own_d_b = d_b + item * length * width, *own_d_values = d_values + item * length * columns;
        T* delta = scratch<T>(size);
        std::fill(delta, delta + size, T(0));
        for (int64_t t = 0; t < proposals; t++) {
            const T* weight = gamma + (begin + t) * length;
            T* own = delta + t * words;
            for (int64_t n = 0; d_gamma && n < words; n++) own[n] = d_gamma[(begin + t) * length + n];
            if (d_c)
                column_pieces<T>(columns, words, [&](int64_t at, auto count) {
                    add_dots<T, count.value>(d_c + (begin + t) * columns + at, own_values + at, columns, words, own);
                });
            T mean = 0;
            for (int64_t n = 0; n < words; n++) mean += weight[n] * own[n];
            for (int64_t n = 0; n < words; n++) own[n] = weight[n] * (own[n] - mean);
        }
        if (d_c)
            for (int64_t n = 0; n < words; n++) {
                T* weight = scratch<T, 2>(proposals);
                for (int64_t t = 0; t < proposals; t++) weight[t] = gamma[(begin + t) * length + n];
                column_pieces<T>(columns, proposals, [&](int64_t at, auto count) {
                    weighted_sum<T, count.value>(d_c + begin * columns + at, columns, each, weight, proposals, nullptr,
                                                 own_d_values + n * columns + at);
                });
            }
        const auto piece = [&](int64_t at, auto count) {
            pairs_backward<T, count.value>(proposals, words, width, delta, a + begin * width + at, own_b + at, w + at,
                                           d_a + begin * width + at, own_d_b + at, d_w + item * width + at);
        };
        int64_t at = 0;
        for (; at + 4 * LANES<T> <= width; at += 4 * LANES<T>) piece(at, Count<4>{});
        for (; at + LANES<T> <= width; at += LANES<T>) piece(at, Count<1>{});
        for (; at < width; at++) piece(at, Count<0>{});
    });
}

#define EXPORT(T, name)                                                                                                \
    extern "C" void additive_forward_##name(int64_t items, int64_t length, int64_t width, int64_t columns,             \
                                            int64_t nodes, const int64_t* starts, const int64_t* lengths,              \
                                            const T* a, const T* b, const T* w, const T* values, T* c, T* gamma,       \
                                            int64_t threads) {                                                         \
        forward<T>(items, length, width, columns, nodes, starts, lengths, a, b, w, values, c, gamma, threads);         \
    }                                                                                                                  \
    extern "C" void additive_backward_##name(                                                                          \
        int64_t items, int64_t length, int64_t width, int64_t columns, const int64_t* starts, const int64_t* lengths,  \
        const T* a, const T* b, const T* w, const T* values, const T* gamma, const T* d_c, const T* d_gamma, T* d_a,   \
        T* d_b, T* d_w, T* d_values, int64_t threads) {                                                                \
        backward<T>(items, length, width, columns, starts, lengths, a, b, w, values, gamma, d_c, d_gamma, d_a, d_b,    \
                    d_w, d_values, threads);                                                                           \
    }
EXPORT(float, float32)
EXPORT(double, float64)
