// exp, exp - 1 and sigmoid, and the largest and the sum of a short one.
#pragma once
#include <limits>

#include "vectors.h"

template <class T> struct Float;
template <> struct Float<float> {
    using Bits = int32_t;
    static constexpr float lowest = -87.0f, log2e = 1.44269504088896341f, ln2_high = 0.693359375f,
                           ln2_low = -2.12194440054690583e-4f, round = 12582912.0f;  // 1.5 * 2^23
    static constexpr int mantissa = 23, bias = 127, terms = 7;
};
template <> struct Float<double> {
    using Bits = int64_t;
    static constexpr double lowest = -708.0, log2e = 1.44269504088896340736, ln2_high = 6.93145751953125e-1,
                            ln2_low = 1.42860682030941723212e-6, round = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr int mantissa = 52, bias = 1023, terms = 13;
};

// 2^k and r with x = k ln 2 + r, k the nearest integer to x / ln 2, for x <= 0. Below `lowest`, x counts as `lowest`.
template <class T> struct Split {
    Vec<T> power, r;

    explicit Split(Vec<T> x) {
        using F = Float<T>;
        using Bits = typename Vector<typename F::Bits>::type;
        x = x < F::lowest ? spread(F::lowest) : x;
        const Vec<T> shifted = x * F::log2e + F::round, k = shifted - F::round;
        r = x - k * F::ln2_high - k * F::ln2_low;
        // The low bits of `shifted` are k, and those of `round` are none.
        const Bits bits = (Bits)shifted - (Bits)spread(F::round) + F::bias;
        power = (Vec<T>)(bits << F::mantissa);
    }
};

// The Taylor series of exp(r) from r^first / first! on, divided by r^first; |r| <= ln 2 / 2, and the first term left
// out is below the type's rounding.
template <class T> inline Vec<T> series(Vec<T> r, int first) {
    using F = Float<T>;
    T factorial[F::terms + 1] = {1};
    for (int n = 1; n <= F::terms; n++) factorial[n] = factorial[n - 1] * n;
    Vec<T> sum = spread(1 / factorial[F::terms]);
    for (int n = F::terms - 1; n >= first; n--) sum = sum * r + 1 / factorial[n];
    return sum;
}

// exp(x) for x <= 0; below `lowest`, the smallest normal numbers, it stays that small.
template <class T> inline Vec<T> exponential(Vec<T> x) {
    const Split<T> split(x);
    return series<T>(split.r, 0) * split.power;
}

// exp(x) - 1 for x <= 0, exact to the type's rounding also where it is small.
template <class T> inline Vec<T> exponential_less_one(Vec<T> x) {
    const Split<T> split(x);
    return series<T>(split.r, 1) * split.r * split.power + (split.power - 1);
}

// Every x becomes its exponential.
template <class T> inline void exponentials(T* x, int64_t n) {
    int64_t e = 0;
    for (; e + LANES<T> <= n; e += LANES<T>) store(x + e, exponential<T>(load(x + e)));
    T rest[LANES<T>] = {};
    std::memcpy(rest, x + e, (n - e) * sizeof(T));
    store(rest, exponential<T>(load(rest)));
    std::memcpy(x + e, rest, (n - e) * sizeof(T));
}

// 1 / (1 + exp(-x))
template <class T> inline Vec<T> sigmoid(Vec<T> x) {
    const Vec<T> power = exponential<T>(x > 0 ? -x : x);
    return (x > 0 ? spread(T(1)) : power) / (1 + power);
}

// Every x becomes its sigmoid.
template <class T> inline void sigmoids(T* x, int64_t n) {
    int64_t e = 0;
    for (; e + LANES<T> <= n; e += LANES<T>) store(x + e, sigmoid<T>(load(x + e)));
    T rest[LANES<T>] = {};
    std::memcpy(rest, x + e, (n - e) * sizeof(T));
    store(rest, sigmoid<T>(load(rest)));
    std::memcpy(x + e, rest, (n - e) * sizeof(T));
}

// Few numbers at a time, for the edges of a node.
template <class T> inline T largest(const T* x, int64_t n) {
    using Few = typename Vector<T, 16>::type;
    constexpr int lanes = 16 / sizeof(T);
    constexpr T none = -std::numeric_limits<T>::infinity();
    Few most = Few{} + none;
    int64_t e = 0;
    for (; e + lanes <= n; e += lanes) {
        Few v;
        std::memcpy(&v, x + e, 16);
        most = most > v ? most : v;
    }
    T found = none;
    for (int k = 0; k < lanes; k++) found = found > most[k] ? found : most[k];
    for (; e < n; e++) found = found > x[e] ? found : x[e];
    return found;
}

template <class T> inline T total(const T* x, int64_t n) {
    using Few = typename Vector<T, 16>::type;
    constexpr int lanes = 16 / sizeof(T);
    Few sum = {};
    int64_t e = 0;
    for (; e + lanes <= n; e += lanes) {
        Few v;
        std::memcpy(&v, x + e, 16);
        sum += v;
    }
    T found = sum[0];
    for (int k = 1; k < lanes; k++) found += sum[k];
    for (; e < n; e++) found += x[e];
    return found;
}
