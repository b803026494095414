// SwiGLU and exact GELU, element by element.
//
//   swiglu   out = silu(gate) * up, silu(g) = g / (1 + e^-g)
//   gelu     out = x * Phi(x), Phi the normal distribution function (erf, not its tanh approximation)
//
// Backward needs the inputs: with s = sigmoid(gate), dgate = dout * up * s * (1 + gate * (1 - s)) and
// dup = dout * gate * s; dx = dout * (Phi(x) + x * phi(x)).
//
// Bound by memory: SwiGLU, on the path of every token, reads and writes 16 bytes at a time.
#include "pointwise.cuh"

template <class A>
__device__ void swiglu(const A* gate, const A* up, uint64_t count, A* out) {
    constexpr uint32_t N = Vec<A>::COUNT;
    const uint64_t whole = count / N;
    for (uint64_t i = grid_thread(); i < whole; i += grid_threads()) {
        const Vec<A> g = load_vec(gate + i * N), u = load_vec(up + i * N);
        Vec<A> y;
#pragma unroll
        for (uint32_t k = 0; k < N; k++) y.at[k] = from_float<A>(silu(to_float(g.at[k])) * to_float(u.at[k]));
        *reinterpret_cast<Vec<A>*>(out + i * N) = y;
    }
    for (uint64_t i = whole * N + grid_thread(); i < count; i += grid_threads()) {
        out[i] = from_float<A>(silu(to_float(gate[i])) * to_float(up[i]));
    }
}

template <class A>
__device__ void gelu(const A* x, uint64_t count, A* out) {
    for (uint64_t i = grid_thread(); i < count; i += grid_threads()) {
        out[i] = from_float<A>(exact_gelu(to_float(x[i])));
    }
}

// The gradients take the place of their inputs.
template <class A>
__device__ __forceinline__ void swiglu_slopes(float dout, A* gate, A* up) {
    const float g = to_float(*gate), u = to_float(*up);
    const float s = 1.0f / (1.0f + expf(-g)), silu = g * s;
    *gate = from_float<A>(dout * u * (s + silu * (1.0f - s)));
    *up = from_float<A>(dout * silu);
}

template <class A>
__device__ void swiglu_backward(const A* dout, uint64_t count, A* gate, A* up) {
    constexpr uint32_t N = Vec<A>::COUNT;
    const uint64_t whole = count / N;
    for (uint64_t i = grid_thread(); i < whole; i += grid_threads()) {
        const Vec<A> d = load_vec(dout + i * N);
        Vec<A> g = load_vec(gate + i * N), u = load_vec(up + i * N);
#pragma unroll
        for (uint32_t k = 0; k < N; k++) swiglu_slopes(to_float(d.at[k]), &g.at[k], &u.at[k]);
        *reinterpret_cast<Vec<A>*>(gate + i * N) = g;
        *reinterpret_cast<Vec<A>*>(up + i * N) = u;
    }
    for (uint64_t i = whole * N + grid_thread(); i < count; i += grid_threads()) {
        swiglu_slopes(to_float(dout[i]), gate + i, up + i);
    }
}

template <class A>
__device__ void gelu_backward(const A* dout, const A* x, uint64_t count, A* dx) {
    for (uint64_t i = grid_thread(); i < count; i += grid_threads()) {
        const float at = to_float(x[i]);
        const float share = 0.5f * (1.0f + erff(at * 0.70710678118654752440f));
        const float density = 0.39894228040143267794f * expf(-0.5f * at * at);
        dx[i] = from_float<A>(to_float(dout[i]) * (share + at * density));
    }
}

#define ACTIVATIONS(A, a)                                                                          \
    KERNEL(swiglu_##a, 256, const A* gate, const A* up, uint64_t count, A* out) {                  \
        swiglu(gate, up, count, out);                                                              \
    }                                                                                              \
    KERNEL(gelu_##a, 256, const A* x, uint64_t count, A* out) { gelu(x, count, out); }             \
    KERNEL(swiglu_backward_##a, 256, const A* dout, uint64_t count, A* gate, A* up) {              \
        swiglu_backward(dout, count, gate, up);                                                    \
    }                                                                                              \
    KERNEL(gelu_backward_##a, 256, const A* dout, const A* x, uint64_t count, A* dx) {             \
        gelu_backward(dout, x, count, dx);                                                         \
    }

ACTIVATIONS(float, f32)
ACTIVATIONS(bf16, bf16)
