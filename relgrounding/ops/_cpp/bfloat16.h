// Rows that are stored as float, double or bfloat16, read and written as vectors of the type that is computed in.
#pragma once
#include <algorithm>

#include "vectors.h"

struct BFloat16 {
    uint16_t bits;
};

// The type that sums of S are made in.
template <class S> struct Computed {
    using type = S;
};
template <> struct Computed<BFloat16> {
    using type = float;
};
template <> struct Vector<BFloat16, BYTES> : Vector<float, BYTES> {};

inline Vec<float> load(const BFloat16* from) {
    using Bits = Vector<uint32_t>::type;
    Bits bits;
    for (int k = 0; k < LANES<float>; k++) bits[k] = uint32_t(from[k].bits) << 16;
    return (Vec<float>)bits;
}

// Rounded to the nearest, ties to even.
inline void store(BFloat16* to, Vec<float> v) {
    using Bits = Vector<uint32_t>::type;
    const Bits bits = (Bits)v, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    const Bits found = v == v ? rounded : Bits{} + 0x7fc0;
    for (int k = 0; k < LANES<float>; k++) to[k].bits = uint16_t(found[k]);
}

// Of a vector, only the first `count` numbers where it has more; the others are read as 0.
template <class S> inline Vec<typename Computed<S>::type> load_some(const S* from, int64_t count) {
    using T = typename Computed<S>::type;
    if (count >= LANES<T>) return load(from);
    S some[LANES<T>] = {};
    std::copy(from, from + count, some);
    return load(some);
}
template <class S> inline void store_some(S* to, Vec<typename Computed<S>::type> v, int64_t count) {
    using T = typename Computed<S>::type;
    if (count >= LANES<T>) return store(to, v);
    S some[LANES<T>];
    store(some, v);
    std::copy(some, some + count, to);
}

// The width of rows that begin and end with whole vectors.
template <class T> inline int64_t padded(int64_t width) { return (width + LANES<T> - 1) / LANES<T> * LANES<T>; }

// Applies a function to rows of `width` numbers, vector by vector, and writes rows of padded<T>(width). The function sees
// zeros behind the end of a row.
template <class S, class T, class Function>
inline void pad_rows(const S* from, int64_t rows, int64_t width, T* to, Function change) {
    const int64_t stride = padded<T>(width);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t k = 0; k < stride; k += LANES<T>)
            store(to + row * stride + k, change(load_some(from + row * width + k, width - k)));
}
