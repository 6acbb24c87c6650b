// The recurrence of a bidirectional GRU: see `relgrounding/ops/gru/cpp.py`.
//
// B sequences of up to L steps; the N real steps of all are rows, those of sequence i from starts[i] to starts[i + 1].
// H units. Of each of the two directions: u (3 H, H) and c (3 H,), the recurrent weight and bias, with the rows of
// r, z, n one below the other; gates (N, 3 H), what the inputs give, which r, z and n replace; hidden (N, H),
// u_n h + c_n; y (B, L, 2 H). Sequences step together in groups, the longest first, so that those still running are the
// first ones; what becomes of one does not depend on the others of its group.
#include <algorithm>
#include <memory>
#include <numeric>

#include "bfloat16.h"
#include "exponential.h"
#include "parallel.h"
#include "vectors.h"

constexpr int64_t GROUP = 16;
// Vectors of columns per block of a product, as many as leave registers for the sums of four rows.
constexpr int MOST_COLUMNS = BYTES == 64 ? 4 : 2;

template <class T> inline Vec<T> hyperbolic_tangent(Vec<T> v) {
    const Vec<T> less = exponential_less_one<T>(v > 0 ? -2 * v : 2 * v), size = less / (2 + less);
    return v > 0 ? -size : size;
}

// Calls body(first, rows) for pieces of 4, 2 or 1 of n rows, a compile-time number.
template <class Body> inline void row_pieces(int64_t n, Body body) {
    int64_t at = 0;
    for (; at + 4 <= n; at += 4) body(at, Count<4>{});
    if (at + 2 <= n) body(at, Count<2>{}), at += 2;
    if (at < n) body(at, Count<1>{});
}

// Sequences that step together in one direction.
struct Group {
    const int64_t *starts, *members;
    int64_t count;
    bool backward;

    int64_t length(int64_t k) const { return starts[members[k] + 1] - starts[members[k]]; }
    // Those that have this step.
    int64_t running(int64_t step) const {
        int64_t n = 0;
        while (n < count && length(n) > step) n++;
        return n;
    }
    // Where a step lies in its sequence.
    int64_t time(int64_t k, int64_t step) const { return backward ? length(k) - 1 - step : step; }
    int64_t row(int64_t k, int64_t step) const { return starts[members[k]] + time(k, step); }
};

// Calls body(group) for the groups of both directions.
template <class Body>
static void for_groups(int64_t items, const int64_t* starts, int64_t units, int64_t threads, Body body) {
    const std::unique_ptr<int64_t[]> order(new int64_t[items]);
    std::iota(order.get(), order.get() + items, 0);
    const auto length = [=](int64_t item) { return starts[item + 1] - starts[item]; };
    std::stable_sort(order.get(), order.get() + items, [&](int64_t a, int64_t b) { return length(a) > length(b); });
    const int64_t groups = (items + GROUP - 1) / GROUP, *members = order.get();
    for_each(2 * groups, starts[items] * units * units * 6, threads, [=](int64_t k) {
        const int64_t first = k / 2 * GROUP;
        body(Group{starts, members + first, std::min(GROUP, items - first), k % 2 == 1});
    });
}

// Of each vector of units j and each unit k: u_r[j, k], u_z[j, k], u_n[j, k].
template <class T> static void pack(const T* u, int64_t units, T* to) {
    for (int64_t j = 0; j < padded<T>(units); j++) {
        T* column = to + j / LANES<T> * units * 3 * LANES<T> + j % LANES<T>;
        for (int64_t gate = 0; gate < 3; gate++)
            for (int64_t k = 0; k < units; k++)
                column[(3 * k + gate) * LANES<T>] = j < units ? u[(gate * units + j) * units + k] : T(0);
    }
}

template <class T> struct Forward {
    int64_t length, units;
    T *gates, *hidden;
    const T *packed, *bias;  // (3, padded units)
    T* y;

    // Units j .. j + LANES after a step, of R sequences from k on.
    template <int R>
    void block(const Group& of, int64_t step, int64_t k, int64_t j, const T* state, T* next) const {
        const int64_t wide = padded<T>(units), left = units - j;
        const T* weights = packed + j * units * 3;
        Vec<T> sums[R][3];
        for (int r = 0; r < R; r++)
            for (int gate = 0; gate < 3; gate++) sums[r][gate] = load(bias + gate * wide + j);
        for (int64_t m = 0; m < units; m++, weights += 3 * LANES<T>) {
            const Vec<T> w[3] = {load(weights), load(weights + LANES<T>), load(weights + 2 * LANES<T>)};
            for (int r = 0; r < R; r++)
                for (int gate = 0; gate < 3; gate++) sums[r][gate] += state[(k + r) * wide + m] * w[gate];
        }
        for (int r = 0; r < R; r++) {
            const int64_t row = of.row(k + r, step);
            T* own = gates + row * 3 * units + j;
            const Vec<T> reset = sigmoid<T>(load_some(own, left) + sums[r][0]);
            const Vec<T> update = sigmoid<T>(load_some(own + units, left) + sums[r][1]);
            const Vec<T> fresh = hyperbolic_tangent<T>(load_some(own + 2 * units, left) + reset * sums[r][2]);
            const Vec<T> now = fresh + update * (load(state + (k + r) * wide + j) - fresh);
            store_some(own, reset, left);
            store_some(own + units, update, left);
            store_some(own + 2 * units, fresh, left);
            store_some(hidden + row * units + j, sums[r][2], left);
            store(next + (k + r) * wide + j, now);
            const int64_t place = of.members[k + r] * length + of.time(k + r, step);
            store_some(y + (2 * place + of.backward) * units + j, now, left);
        }
    }

    void operator()(const Group& of) const {
        const int64_t wide = padded<T>(units);
        T *state = scratch<T, 0>(2 * GROUP * wide), *next = state + GROUP * wide;
        std::fill(state, state + GROUP * wide, T(0));
        for (int64_t step = 0, running; (running = of.running(step)) > 0; step++, std::swap(state, next))
            for (int64_t j = 0; j < wide; j += LANES<T>)
                row_pieces(running, [&](int64_t k, auto rows) { block<rows.value>(of, step, k, j, state, next); });
        for (int64_t k = 0; k < of.count; k++)
            for (int64_t t = of.length(k); t < length; t++) {
                T* place = y + (2 * (of.members[k] * length + t) + of.backward) * units;
                std::fill(place, place + units, T(0));
            }
    }
};

template <class T>
static void forward(int64_t items, int64_t length, int64_t units, const int64_t* starts, T* const* gates,
                    T* const* hidden, const T* const* u, const T* const* c, T* y, int64_t threads) {
    const int64_t wide = padded<T>(units), size = (units + 1) * 3 * wide;
    T* packed = scratch<T, 1>(2 * size);
    for_each(2, 2 * size * 8, threads, [=](int64_t way) {
        T* bias = packed + way * size + units * 3 * wide;
        pack(u[way], units, packed + way * size);
        pad_rows(c[way], 3, units, bias, [](Vec<T> v) { return v; });
    });
    for_groups(items, starts, units, threads, [=](const Group& of) {
        const T* own = packed + of.backward * size;
        Forward<T>{length, units, gates[of.backward], hidden[of.backward], own, own + units * 3 * wide, y}(of);
    });
}

template <class T> struct Backward {
    int64_t length, units;
    const T *gates, *hidden, *u, *y, *grad;
    T *d_recurrent, *d_inputs, *before;

    // Gradients of the gates of a step before their activations; `down`: that of the state after it, then its part
    // that goes straight to the state before it.
    void gates_backward(const Group& of, int64_t step, int64_t k, T* down) const {
        const int64_t row = of.row(k, step), place = of.members[k] * length + of.time(k, step);
        const T *own = gates + row * 3 * units, *above = grad + (2 * place + of.backward) * units;
        const T* last = step ? y + (2 * (place + (of.backward ? 1 : -1)) + of.backward) * units : nullptr;
        T *recurrent = d_recurrent + row * 3 * units, *inputs = d_inputs + row * 3 * units;
        for (int64_t j = 0; j < units; j += LANES<T>) {
            const int64_t left = units - j;
            const auto read = [=](const T* from) { return load_some(from + j, left); };
            const Vec<T> reset = read(own), update = read(own + units), fresh = read(own + 2 * units);
            const Vec<T> h = last ? read(last) : Vec<T>{}, total = read(above) + load(down + j);
            const Vec<T> of_fresh = total * (1 - update) * (1 - fresh * fresh), of_hidden = of_fresh * reset;
            const Vec<T> of_reset = of_hidden * read(hidden + row * units) * (1 - reset);
            const Vec<T> of_update = total * (h - fresh) * update * (1 - update);
            for (T* to : {recurrent, inputs}) {
                store_some(to + j, of_reset, left);
                store_some(to + units + j, of_update, left);
            }
            store_some(recurrent + 2 * units + j, of_hidden, left);
            store_some(inputs + 2 * units + j, of_fresh, left);
            store_some(before + row * units + j, h, left);
            store(down + j, total * update);
        }
    }

    // down_k += d_recurrent_k u, of R sequences and K vectors of columns from j on (0: of one column).
    template <int R, int K>
    void block(const Group& of, int64_t step, int64_t k, int64_t j, T* down) const {
        const int64_t wide = padded<T>(units);
        const T *own[R], *weights = u + j;
        for (int r = 0; r < R; r++) own[r] = d_recurrent + of.row(k + r, step) * 3 * units;
        if constexpr (K == 0) {
            for (int r = 0; r < R; r++)
                for (int64_t m = 0; m < 3 * units; m++) down[(k + r) * wide + j] += own[r][m] * weights[m * units];
        } else {
            Vec<T> sums[R][K];
            for (int r = 0; r < R; r++)
                for (int v = 0; v < K; v++) sums[r][v] = load(down + (k + r) * wide + j + v * LANES<T>);
            for (int64_t m = 0; m < 3 * units; m++, weights += units)
                for (int v = 0; v < K; v++) {
                    const Vec<T> w = load(weights + v * LANES<T>);
                    for (int r = 0; r < R; r++) sums[r][v] += own[r][m] * w;
                }
            for (int r = 0; r < R; r++)
                for (int v = 0; v < K; v++) store(down + (k + r) * wide + j + v * LANES<T>, sums[r][v]);
        }
    }

    void operator()(const Group& of) const {
        const int64_t wide = padded<T>(units);
        T* down = scratch<T, 0>(GROUP * wide);
        std::fill(down, down + GROUP * wide, T(0));
        for (int64_t step = of.length(0) - 1; step >= 0; step--) {
            const int64_t running = of.running(step);
            for (int64_t k = 0; k < running; k++) gates_backward(of, step, k, down + k * wide);
            const auto columns = [&](int64_t j, auto width) {
                row_pieces(running, [&](int64_t k, auto n) { block<n.value, width.value>(of, step, k, j, down); });
            };
            int64_t j = 0;
            for (; step && j + MOST_COLUMNS * LANES<T> <= units; j += MOST_COLUMNS * LANES<T>)
                columns(j, Count<MOST_COLUMNS>{});
            for (; step && j + LANES<T> <= units; j += LANES<T>) columns(j, Count<1>{});
            for (; step && j < units; j++) columns(j, Count<0>{});
        }
    }
};

#define EXPORT(T, name)                                                                                                \
    extern "C" void gru_forward_##name(int64_t items, int64_t length, int64_t units, const int64_t* starts,            \
                                       T* gates, T* gates_back, T* hidden, T* hidden_back, const T* u,                 \
                                       const T* u_back, const T* c, const T* c_back, T* y, int64_t threads) {          \
        T *const all_gates[] = {gates, gates_back}, *const all_hidden[] = {hidden, hidden_back};                       \
        const T *const all_u[] = {u, u_back}, *const all_c[] = {c, c_back};                                            \
        forward<T>(items, length, units, starts, all_gates, all_hidden, all_u, all_c, y, threads);                     \
    }                                                                                                                  \
    extern "C" void gru_backward_##name(int64_t items, int64_t length, int64_t units, const int64_t* starts,           \
                                        const T* gates, const T* gates_back, const T* hidden, const T* u,              \
                                        const T* u_back, const T* y, const T* grad, T* d_recurrent, T* d_inputs,       \
                                        T* before, int64_t threads) {                                                  \
        const int64_t rows = starts[items];                                                                            \
        for_groups(items, starts, units, threads, [=](const Group& of) {                                               \
            const int64_t skipped = of.backward * rows;                                                                \
            Backward<T>{length, units, of.backward ? gates_back : gates, hidden + skipped * units,                     \
                        of.backward ? u_back : u, y, grad, d_recurrent + skipped * 3 * units,                          \
                        d_inputs + skipped * 3 * units, before + skipped * units}(of);                                 \
        });                                                                                                            \
    }
EXPORT(float, float32)
EXPORT(double, float64)
