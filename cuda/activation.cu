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

#define ACTIVATIONS(A, a)                                                                          \
    KERNEL(swiglu_##a, 256, const A* gate, const A* up, uint64_t count, A* out) {                  \
        swiglu(gate, up, count, out);                                                              \
    }                                                                                              \
    KERNEL(gelu_##a, 256, const A* x, uint64_t count, A* out) { gelu(x, count, out); }

ACTIVATIONS(float, f32)
ACTIVATIONS(bf16, bf16)
