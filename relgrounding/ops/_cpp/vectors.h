// Vectors of the widest kind that the processor has, and loops over rows of features with their sums in registers.
// T is float or double; the compiler's vector types split by themselves where a register is narrower.
#pragma once
#include <cstdint>
#include <cstring>
#include <numeric>
#include <type_traits>
#include <vector>

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif

template <class T, int SIZE = BYTES> struct Vector {
    typedef T type __attribute__((vector_size(SIZE)));
};
template <class T> using Vec = typename Vector<T>::type;
template <class T> constexpr int LANES = BYTES / sizeof(T);

template <class T> inline Vec<T> load(const T* from) {
    Vec<T> v;
    std::memcpy(&v, from, BYTES);
    return v;
}

template <class T> inline void store(T* to, Vec<T> v) { std::memcpy(to, &v, BYTES); }

template <class T> inline Vec<T> spread(T x) { return x - Vec<T>{}; }

// The lanes added up, half onto half, down to 16 bytes.
template <class T, int SIZE = BYTES> inline typename Vector<T, 16>::type fold(typename Vector<T, SIZE>::type v) {
    if constexpr (SIZE == 16) {
        return v;
    } else {
        typename Vector<T, SIZE / 2>::type low, high;
        std::memcpy(&low, &v, SIZE / 2);
        std::memcpy(&high, reinterpret_cast<const char*>(&v) + SIZE / 2, SIZE / 2);
        return fold<T, SIZE / 2>(low + high);
    }
}

template <class T> inline T lane_sum(Vec<T> v) {
    const auto few = fold<T>(v);
    if constexpr (sizeof(T) == 4) return (few[0] + few[2]) + (few[1] + few[3]);
    else return few[0] + few[1];
}

// to[k] += lane_sum(v[k]), the same sums for four vectors at a time.
template <class T> inline void add_lane_sums(const Vec<T> (&v)[4], T* to) {
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
    if constexpr (sizeof(T) == 4) {
        const auto a = fold<T>(v[0]), b = fold<T>(v[1]), c = fold<T>(v[2]), d = fold<T>(v[3]);
        const auto ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
        const auto cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
        auto sums = __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
        decltype(sums) before;
        std::memcpy(&before, to, 16);
        sums += before;
        std::memcpy(to, &sums, 16);
        return;
    }
#endif
#endif
    for (int k = 0; k < 4; k++) to[k] += lane_sum<T>(v[k]);
}

// Memory of the calling thread for n numbers, until its next call with this PLACE. It begins where a line of the cache
// does: vectors that lie across two lines are read at half the speed.
template <class T, int PLACE = 0> inline T* scratch(int64_t n) {
    constexpr int64_t LINE = 64;
    static thread_local std::vector<char> kept;
    if (int64_t(kept.size()) < n * int64_t(sizeof(T)) + LINE) kept.resize((n + n / 4) * sizeof(T) + LINE);
    const auto begin = reinterpret_cast<std::uintptr_t>(kept.data());
    return reinterpret_cast<T*>((begin + LINE - 1) / LINE * LINE);
}

// 0, 1, ..., n - 1, until the next call.
inline const int64_t* counting(int64_t n) {
    int64_t* numbers = scratch<int64_t, 1>(n);
    std::iota(numbers, numbers + n, 0);
    return numbers;
}

// Calls body(first, vectors) for pieces of `dim` columns that have at most 8 vectors, a compile-time number of them, then
// body(first, 0) for each column that is left. As the `rows` of a piece are read again and again, a piece has 4 vectors
// at most where those of 8 would take more than this many bytes, which is when the first cache keeps too few of them.
constexpr int64_t PIECE = 52 << 10;
template <int N> struct Count {
    static constexpr int value = N;
};
template <class T, class Body> inline void column_pieces(int64_t dim, int64_t rows, Body body) {
    int64_t at = 0;
    if (rows * 8 * BYTES <= PIECE)
        for (; at + 8 * LANES<T> <= dim; at += 8 * LANES<T>) body(at, Count<8>{});
    for (; at + 4 * LANES<T> <= dim; at += 4 * LANES<T>) body(at, Count<4>{});
    for (; at + 2 * LANES<T> <= dim; at += 2 * LANES<T>) body(at, Count<2>{});
    for (; at + LANES<T> <= dim; at += LANES<T>) body(at, Count<1>{});
    for (; at < dim; at++) body(at, Count<0>{});
}

// to[k] += lane_sum(product(k)) for k of first .. last, and + 0 for the up to three after them.
template <class T, class Product> inline void add_products(int64_t first, int64_t last, Product product, T* to) {
    int64_t k = first;
    for (; k + 4 <= last; k += 4) {
        const Vec<T> products[4] = {product(k), product(k + 1), product(k + 2), product(k + 3)};
        add_lane_sums<T>(products, to + k);
    }
    if (k < last) {
        const Vec<T> none = {};
        const Vec<T> products[4] = {product(k), k + 1 < last ? product(k + 1) : none,
                                    k + 2 < last ? product(k + 2) : none, none};
        add_lane_sums<T>(products, to + k);
    }
}

// dots[r] += row . table_r for r of 0 .. n, of K vectors of columns (0: of one column). Also adds 0 to the up to three
// numbers after the n-th.
template <class T, int K> inline void add_dots(const T* row, const T* table, int64_t stride, int64_t n, T* dots) {
    if constexpr (K == 0) {
        for (int64_t r = 0; r < n; r++) dots[r] += *row * table[r * stride];
    } else {
        Vec<T> mine[K];
        for (int k = 0; k < K; k++) mine[k] = load(row + k * LANES<T>);
        const auto product = [&](int64_t r) {
            Vec<T> products = {};
            for (int k = 0; k < K; k++) products += mine[k] * load(table + r * stride + k * LANES<T>);
            return products;
        };
        add_products<T>(0, n, product, dots);
    }
}

template <class T> inline T dot(const T* a, const T* b, int64_t n) {
    Vec<T> sums[4] = {};
    int64_t e = 0;
    for (; e + 4 * LANES<T> <= n; e += 4 * LANES<T>)
        for (int k = 0; k < 4; k++) sums[k] += load(a + e + k * LANES<T>) * load(b + e + k * LANES<T>);
    T sum = lane_sum<T>((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; e < n; e++) sum += a[e] * b[e];
    return sum;
}

// Calls body(stride), with a compile-time stride where rows of K vectors lie next to each other, as in `Rows`.
template <class T, int K, class Body> inline void with_stride(int64_t stride, Body body) {
    if (stride == K * LANES<T>) body(std::integral_constant<int64_t, K * LANES<T>>{});
    else body(stride);
}

// The innermost loops are functions of their own: inlined they would have too few registers.
#define INNERMOST __attribute__((noinline)) static

// Where sums start that start at nothing: a choice between a load and zero would put them into memory.
template <class T> alignas(BYTES) constexpr T NOTHING[8 * LANES<T>] = {};

// sum over e of weight[e] table[index[e]], of K vectors of columns (0: of one column) from `table` on.
template <class T, int K>
INNERMOST void weighted_sum(const T* table, int64_t stride, const int64_t* index, const T* weight, int64_t n,
                         const T* start, T* out) {
    if constexpr (K == 0) {
        T sum = start ? *start : T(0);
        for (int64_t e = 0; e < n; e++) sum += weight[e] * table[index[e] * stride];
        *out = sum;
    } else {
        Vec<T> sum[K];
        if (!start) start = NOTHING<T>;
        for (int k = 0; k < K; k++) sum[k] = load(start + k * LANES<T>);
        with_stride<T, K>(stride, [&](auto step) {
            for (int64_t e = 0; e < n; e++) {
                const T* row = table + index[e] * step;
                for (int k = 0; k < K; k++) sum[k] += weight[e] * load(row + k * LANES<T>);
            }
        });
        for (int k = 0; k < K; k++) store(out + k * LANES<T>, sum[k]);
    }
}

// The same, and dot[e] += own . table[index[e]]. Also adds 0 to the up to three numbers after the n-th.
template <class T, int K>
INNERMOST void weighted_sum_and_dots(const T* table, int64_t stride, const int64_t* index, const T* weight, int64_t n,
                                  const T* own, T* out, T* dot) {
    if constexpr (K == 0) {
        T sum = 0;
        for (int64_t e = 0; e < n; e++) {
            T x = table[index[e] * stride];
            sum += weight[e] * x;
            dot[e] += *own * x;
        }
        *out = sum;
    } else {
        Vec<T> sum[K] = {}, mine[K];
        for (int k = 0; k < K; k++) mine[k] = load(own + k * LANES<T>);
        with_stride<T, K>(stride, [&](auto step) {
            const auto product = [&](int64_t e) {
                const T* row = table + index[e] * step;
                Vec<T> products = {};
                for (int k = 0; k < K; k++) {
                    Vec<T> x = load(row + k * LANES<T>);
                    sum[k] += weight[e] * x;
                    products += mine[k] * x;
                }
                return products;
            };
            add_products<T>(0, n, product, dot);
        });
        for (int k = 0; k < K; k++) store(out + k * LANES<T>, sum[k]);
    }
}

// The rows that some edges read: from `low` on, so many.
struct Span {
    int64_t low = 0, rows = 0;

    Span(const int64_t* index, int64_t n) {
        if (n == 0) return;
        int64_t high = low = index[0];
        for (int64_t e = 1; e < n; e++) {
            low = index[e] < low ? index[e] : low;
            high = index[e] > high ? index[e] : high;
        }
        rows = high - low + 1;
    }
};

// K vectors of columns of a table. Rows that many edges read are copied next to each other: of rows that lie a power of
// two apart the cache holds a few only.
template <class T, int K> struct Rows {
    const T* first;  // of row 0
    int64_t stride;

    Rows(const T* table, int64_t table_stride, Span span, int64_t edges) : first(table), stride(table_stride) {
        constexpr int64_t columns = K * LANES<T>;
        if (columns == 0 || columns == stride || 2 * span.rows > edges) return;
        T* packed = scratch<T, 1>(span.rows * columns);
        for (int64_t row = 0; row < span.rows; row++)
            std::memcpy(packed + row * columns, table + (span.low + row) * stride, columns * sizeof(T));
        first = packed - span.low * columns;
        stride = columns;
    }
};
