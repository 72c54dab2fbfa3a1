// clamp(gain * lrelu(x * scale + noise + bias)) and its derivative in one pass each.
//
// Memory bound: a thread moves 16 bytes at a time, several of them before it uses the first. The sums over pixels of
// the backward pass are formed per block, then added up by a second, small reduction in a fixed order.
#include <limits>

#include "launch.h"

namespace unified {
namespace {

template <class T>
struct Activation {
  using Acc = Accumulator<T>;
  Acc positive, negative, limit;

  Activation(double slope, double gain, double clamp)
      : positive(static_cast<Acc>(gain)),
        negative(static_cast<Acc>(gain * slope)),
        limit(clamp < 0 ? std::numeric_limits<Acc>::infinity() : static_cast<Acc>(static_cast<T>(clamp))) {}

  // Comparisons are written so that NaN stays NaN.
  __device__ Acc operator()(Acc z) const {
    const Acc v = z * (z > 0 ? positive : negative);
    return v > limit ? limit : (v < -limit ? -limit : v);
  }
  // The derivative from the result: its sign is that of z, and where it is clamped it has the limit's size.
  __device__ Acc derivative(Acc y) const {
    return y < limit && y > -limit ? (y > 0 ? positive : negative) : Acc(0);
  }
};

struct Shape {
  int64_t count, channels, pixels, noise_step;
};

constexpr int kUnroll = 4;

template <class T, int V, bool Last, class Index>
__global__ void __launch_bounds__(kThreads) forward_kernel(
    const T* x, const Accumulator<T>* scale, const Accumulator<T>* bias, const Accumulator<T>* noise, T* y,
    Shape g, Activation<T> act) {
  using Acc = Accumulator<T>;
  const Index total = static_cast<Index>(g.count * g.channels * g.pixels / V);
  const Index channels = static_cast<Index>(g.channels), pixels = static_cast<Index>(g.pixels);
  const Index start = static_cast<Index>(blockIdx.x) * (kThreads * kUnroll) + threadIdx.x;
  Vec<T, V> in[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const Index i = start + u * kThreads;
    if (i < total) in[u] = reinterpret_cast<const Vec<T, V>*>(x)[i];
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const Index i = start + u * kThreads;
    if (i >= total) break;
    const Index element = i * V;
    Vec<T, V> out;
    if (Last) {
      const Index c = element % channels, pixel = element / channels;
      const Index n = pixel / pixels;
      const Acc add = noise ? noise[n * static_cast<Index>(g.noise_step) + pixel % pixels] : Acc(0);
      Vec<Acc, V> factor, shift;
      if (scale) factor = *reinterpret_cast<const Vec<Acc, V>*>(scale + n * channels + c);
      if (bias) shift = *reinterpret_cast<const Vec<Acc, V>*>(bias + c);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const Acc value = static_cast<Acc>(in[u].v[j]) * (scale ? factor.v[j] : Acc(1));
        out.v[j] = static_cast<T>(act(value + (add + (bias ? shift.v[j] : Acc(0)))));
      }
    } else {
      const Index plane = element / pixels, pixel = element % pixels;
      const Index n = plane / channels;
      const Acc factor = scale ? scale[plane] : Acc(1), shift = bias ? bias[plane % channels] : Acc(0);
      Vec<Acc, V> map;
      if (noise) map = *reinterpret_cast<const Vec<Acc, V>*>(noise + n * static_cast<Index>(g.noise_step) + pixel);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const Acc value = static_cast<Acc>(in[u].v[j]) * factor;
        out.v[j] = static_cast<T>(act(value + ((noise ? map.v[j] : Acc(0)) + shift)));
      }
    }
    reinterpret_cast<Vec<T, V>*>(y)[i] = out;
  }
}

// Grid: (planes, splits of the pixels). sums, products: [splits, planes], or nullptr.
template <class T, int V>
__global__ void __launch_bounds__(kThreads) backward_planes_kernel(
    const T* grad, const T* y, const T* x, const Accumulator<T>* scale, T* gx, Accumulator<T>* sums,
    Accumulator<T>* products, int64_t pixels, Activation<T> act) {
  using Acc = Accumulator<T>;
  const int64_t plane = blockIdx.x, vectors = pixels / V;
  const int64_t from = vectors * blockIdx.y / gridDim.y, to = vectors * (blockIdx.y + 1) / gridDim.y;
  const auto at = [plane, pixels](const T* p) { return reinterpret_cast<const Vec<T, V>*>(p + plane * pixels); };
  const Acc factor = scale ? scale[plane] : Acc(1);
  Acc sum = 0, product = 0;
#pragma unroll 4
  for (int64_t i = from + threadIdx.x; i < to; i += kThreads) {
    const Vec<T, V> a = at(grad)[i], b = at(y)[i];
    Vec<T, V> c, out;
    if (x) c = at(x)[i];
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const Acc value = static_cast<Acc>(a.v[j]) * act.derivative(static_cast<Acc>(b.v[j]));
      out.v[j] = static_cast<T>(value * factor);
      sum += value;
      if (x) product += value * static_cast<Acc>(c.v[j]);
    }
    reinterpret_cast<Vec<T, V>*>(gx + plane * pixels)[i] = out;
  }
  if (!sums) return;
  Acc* const shared = reinterpret_cast<Acc*>(shared_memory());
  shared[threadIdx.x] = sum;
  shared[kThreads + threadIdx.x] = product;
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      shared[threadIdx.x] += shared[threadIdx.x + half];
      shared[kThreads + threadIdx.x] += shared[kThreads + threadIdx.x + half];
    }
  }
  if (threadIdx.x == 0) {
    const int64_t index = static_cast<int64_t>(blockIdx.y) * gridDim.x + plane;
    sums[index] = shared[0];
    if (x) products[index] = shared[kThreads];
  }
}

// Channels innermost. Block: (vectors of channels, pixels side by side); grid: (channels, splits, pictures).
template <class T, int V>
__global__ void __launch_bounds__(kThreads) backward_last_kernel(
    const T* grad, const T* y, const T* x, const Accumulator<T>* scale, T* gx, Accumulator<T>* sums,
    Accumulator<T>* products, int64_t channels, int64_t pixels, Activation<T> act) {
  using Acc = Accumulator<T>;
  const int64_t c = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V, n = blockIdx.z;
  const int64_t from = pixels * blockIdx.y / gridDim.y, to = pixels * (blockIdx.y + 1) / gridDim.y;
  const bool inside = c < channels;
  Acc sum[V] = {}, product[V] = {}, factor[V];
#pragma unroll
  for (int j = 0; j < V; ++j) factor[j] = scale && inside ? scale[n * channels + c + j] : Acc(1);
  if (inside) {
#pragma unroll 4
    for (int64_t pixel = from + threadIdx.y; pixel < to; pixel += blockDim.y) {
      const int64_t offset = (n * pixels + pixel) * channels + c;
      const Vec<T, V> a = *reinterpret_cast<const Vec<T, V>*>(grad + offset);
      const Vec<T, V> b = *reinterpret_cast<const Vec<T, V>*>(y + offset);
      Vec<T, V> d, out;
      if (x) d = *reinterpret_cast<const Vec<T, V>*>(x + offset);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const Acc value = static_cast<Acc>(a.v[j]) * act.derivative(static_cast<Acc>(b.v[j]));
        out.v[j] = static_cast<T>(value * factor[j]);
        sum[j] += value;
        if (x) product[j] += value * static_cast<Acc>(d.v[j]);
      }
      *reinterpret_cast<Vec<T, V>*>(gx + offset) = out;
    }
  }
  if (!sums) return;
  Acc* const shared = reinterpret_cast<Acc*>(shared_memory());  // [2][blockDim.y][blockDim.x * V]
  const unsigned width = blockDim.x * V, size = width * blockDim.y;
#pragma unroll
  for (int j = 0; j < V; ++j) {
    shared[threadIdx.y * width + threadIdx.x * V + j] = sum[j];
    shared[size + threadIdx.y * width + threadIdx.x * V + j] = product[j];
  }
  __syncthreads();
  if (threadIdx.y == 0 && inside) {
    const int64_t index = (static_cast<int64_t>(blockIdx.y) * gridDim.z + n) * channels + c;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      Acc total = 0, total_product = 0;
      for (unsigned r = 0; r < blockDim.y; ++r) {
        total += shared[r * width + threadIdx.x * V + j];
        total_product += shared[size + r * width + threadIdx.x * V + j];
      }
      sums[index + j] = total;
      if (x) products[index + j] = total_product;
    }
  }
}

// Calls f with the number of values a thread moves at a time: as many as fill 16 bytes, if all runs divide by it.
template <class T, class F>
void with_vector(bool whole, const F& f) {
  if (whole) f(std::integral_constant<int, static_cast<int>(16 / sizeof(T))>{});
  else f(std::integral_constant<int, 1>{});
}

void check_size(const std::optional<Tensor>& x, int64_t size, const Tensor& like, const char* name) {
  if (!x) return;
  const bool is_double = like.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(
      x->numel() == size && x->scalar_type() == (is_double ? ScalarType::Double : ScalarType::Float) &&
          x->get_device_index() == like.get_device_index(),
      "affine_lrelu: wrong size, type or device of ", name);
}

// in_place: the result replaces `given`, which must be dense. A thread reads its values before it writes them.
template <class T>
Tensor forward(
    const Tensor& given, const std::optional<Tensor>& scale, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& noise, const Activation<T>& act, bool in_place = false) {
  using Acc = Accumulator<T>;
  const bool last = is_channels_last(given);
  const Tensor input = dense(given, last);
  Tensor output = in_place ? input : empty_of(input, sizes_of(input), scalar_type_of<T>(), last);
  if (output.numel() == 0) return output;
  const Layout3 g = Layout3::of(input);
  const Shape shape{g.count, g.channels, g.pixels, noise && noise->size(0) > 1 ? g.pixels : 0};
  const T* const x = static_cast<const T*>(input.const_data_ptr());
  T* const y = static_cast<T*>(output.mutable_data_ptr());
  const Acc *const s = pointer<Acc>(scale), *const b = pointer<Acc>(bias), *const m = pointer<Acc>(noise);
  constexpr int64_t most = 16 / sizeof(T);
  const bool whole = (g.channels_last ? g.channels : g.pixels) % most == 0 && is_aligned(x, 16) && is_aligned(y, 16) &&
                     is_aligned(s, most * sizeof(Acc)) && is_aligned(b, most * sizeof(Acc)) &&
                     is_aligned(m, most * sizeof(Acc));
  with_vector<T>(whole, [&](auto vector) {
    constexpr int V = decltype(vector)::value;
    const dim3 grid(static_cast<unsigned>(ceil_div(output.numel() / V, kThreads * kUnroll)));
    const bool small = output.numel() < (int64_t{1} << 31) - kThreads * kUnroll * V;
    if (g.channels_last && small) {
      UNIFIED_LAUNCH((forward_kernel<T, V, true, uint32_t>), grid, dim3(kThreads), 0, input, x, s, b, m, y, shape, act);
    } else if (g.channels_last) {
      UNIFIED_LAUNCH((forward_kernel<T, V, true, uint64_t>), grid, dim3(kThreads), 0, input, x, s, b, m, y, shape, act);
    } else if (small) {
      UNIFIED_LAUNCH((forward_kernel<T, V, false, uint32_t>), grid, dim3(kThreads), 0, input, x, s, b, m, y, shape, act);
    } else {
      UNIFIED_LAUNCH((forward_kernel<T, V, false, uint64_t>), grid, dim3(kThreads), 0, input, x, s, b, m, y, shape, act);
    }
  });
  return output;
}

template <class T>
std::tuple<Tensor, Tensor, Tensor> backward(
    const Tensor& given, const Tensor& result, const std::optional<Tensor>& given_x, const std::optional<Tensor>& scale,
    const Activation<T>& act, bool with_sums) {
  using Acc = Accumulator<T>;
  const bool last = is_channels_last(result);
  const Tensor grad = dense(given, last), output = dense(result, last);
  std::optional<Tensor> input;
  if (given_x) input = dense(*given_x, last);
  Tensor gradient = empty_of(output, sizes_of(output), scalar_type_of<T>(), last);
  const Layout3 g = Layout3::of(output);
  const ScalarType acc_type = scalar_type_of<Acc>();
  if (output.numel() == 0 || !with_sums) {
    Tensor none = torch::stable::new_zeros(output, std::vector<int64_t>{with_sums ? g.count : 0, g.channels}, acc_type);
    Tensor nothing =
        torch::stable::new_zeros(output, std::vector<int64_t>{with_sums && given_x ? g.count : 0, g.channels}, acc_type);
    if (output.numel() == 0) return {gradient, none, nothing};
  }
  const T* const dy = static_cast<const T*>(grad.const_data_ptr());
  const T* const y = static_cast<const T*>(output.const_data_ptr());
  const T* const x = pointer<T>(input);
  const Acc* const s = pointer<Acc>(scale);
  T* const dx = static_cast<T*>(gradient.mutable_data_ptr());
  constexpr int64_t most = 16 / sizeof(T);
  const bool whole = (g.channels_last ? g.channels : g.pixels) % most == 0 && is_aligned(dy, 16) && is_aligned(y, 16) &&
                     is_aligned(x, 16) && is_aligned(dx, 16);
  const int64_t vector = whole ? most : 1;
  const int64_t lanes = g.channels_last ? std::min<int64_t>(g.channels / vector, kThreads) : kThreads;
  const int64_t rows = kThreads / lanes, columns = g.channels_last ? ceil_div(g.channels / vector, lanes) : 1;
  const int64_t blocks = g.channels_last ? columns * g.count : g.count * g.channels;
  const int64_t work = g.channels_last ? g.pixels / rows : g.pixels / vector / kThreads;  // steps of one block
  const int64_t splits = std::clamp<int64_t>(kBlocks / blocks, 1, std::max<int64_t>(work / 8, 1));
  Tensor partial = torch::stable::new_empty(
      output, std::vector<int64_t>{with_sums ? splits : 0, g.count, g.channels}, acc_type);
  Tensor partial_products = torch::stable::new_empty(
      output, std::vector<int64_t>{with_sums && x ? splits : 0, g.count, g.channels}, acc_type);
  Acc* const sums = with_sums ? static_cast<Acc*>(partial.mutable_data_ptr()) : nullptr;
  Acc* const products = with_sums && x ? static_cast<Acc*>(partial_products.mutable_data_ptr()) : nullptr;
  STD_TORCH_CHECK(g.count < 65536, "affine_lrelu: the batch is too large");
  with_vector<T>(whole, [&](auto vector_constant) {
    constexpr int V = decltype(vector_constant)::value;
    if (g.channels_last) {
      const dim3 block(static_cast<unsigned>(lanes), static_cast<unsigned>(rows));
      const dim3 grid(static_cast<unsigned>(columns), static_cast<unsigned>(splits), static_cast<unsigned>(g.count));
      const size_t shared = with_sums ? 2 * lanes * rows * V * sizeof(Acc) : 0;
      UNIFIED_LAUNCH(
          (backward_last_kernel<T, V>), grid, block, shared, output, dy, y, x, s, dx, sums, products, g.channels,
          g.pixels, act);
    } else {
      const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(splits));
      const size_t shared = with_sums ? 2 * kThreads * sizeof(Acc) : 0;
      UNIFIED_LAUNCH(
          (backward_planes_kernel<T, V>), grid, dim3(kThreads), shared, output, dy, y, x, s, dx, sums, products,
          g.pixels, act);
    }
  });
  const auto collect = [&](const Tensor& from, bool wanted) {
    if (!wanted) return torch::stable::new_zeros(output, std::vector<int64_t>{0, g.channels}, acc_type);
    if (splits == 1) return torch::stable::reshape(from, std::vector<int64_t>{g.count, g.channels});
    const std::vector<int64_t> first{0};
    return torch::stable::sum(from, first);
  };
  return {gradient, collect(partial, with_sums), collect(partial_products, with_sums && x)};
}

Tensor checked_forward(
    const Tensor& x, const std::optional<Tensor>& scale, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& noise, double slope, double gain, double clamp,
    bool in_place) {
  STD_TORCH_CHECK(x.dim() >= 2, "affine_lrelu: x must be [N, C, ...]");
  const Layout3 g = Layout3::of(x);
  check_size(scale, g.count * g.channels, x, "scale");
  check_size(bias, g.channels, x, "bias");
  if (noise) check_size(noise, noise->size(0) == g.count ? g.count * g.pixels : g.pixels, x, "noise");
  return with_type(x, [&](auto type) {
    using T = decltype(type);
    return forward<T>(x, packed(scale), packed(bias), packed(noise), Activation<T>(slope, gain, clamp), in_place);
  });
}

Tensor affine_lrelu(
    const Tensor& x, const std::optional<Tensor>& scale, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& noise, double slope, double gain, double clamp) {
  return checked_forward(x, scale, bias, noise, slope, gain, clamp, false);
}

void affine_lrelu_(
    Tensor x, const std::optional<Tensor>& scale, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& noise, double slope, double gain, double clamp) {
  STD_TORCH_CHECK(x.is_contiguous() || is_channels_last(x), "affine_lrelu_: x must be dense");
  checked_forward(x, scale, bias, noise, slope, gain, clamp, true);
}

std::tuple<Tensor, Tensor, Tensor> affine_lrelu_backward(
    const Tensor& grad, const Tensor& y, const std::optional<Tensor>& x, const std::optional<Tensor>& scale,
    double slope, double gain, double clamp) {
  check_size(scale, y.size(0) * y.size(1), y, "scale");
  STD_TORCH_CHECK(grad.numel() == y.numel() && (!x || x->numel() == y.numel()), "affine_lrelu: sizes differ");
  STD_TORCH_CHECK(grad.scalar_type() == y.scalar_type(), "affine_lrelu: types differ");
  STD_TORCH_CHECK(!x || x->scalar_type() == y.scalar_type(), "affine_lrelu: types differ");
  return with_type(y, [&](auto type) {
    using T = decltype(type);
    return backward<T>(grad, y, x, packed(scale), Activation<T>(slope, gain, clamp), true);
  });
}

Tensor lrelu_gate(const Tensor& grad, const Tensor& y, double slope, double gain, double clamp) {
  STD_TORCH_CHECK(grad.numel() == y.numel() && grad.scalar_type() == y.scalar_type(), "lrelu_gate: sizes or types differ");
  return with_type(y, [&](auto type) {
    using T = decltype(type);
    return std::get<0>(
        backward<T>(grad, y, std::nullopt, std::nullopt, Activation<T>(slope, gain, clamp), false));
  });
}

STABLE_TORCH_LIBRARY_IMPL(UNIFIED_NAMESPACE, UNIFIED_DISPATCH_KEY, m) {
  m.impl("affine_lrelu", TORCH_BOX(&affine_lrelu));
  m.impl("affine_lrelu_", TORCH_BOX(&affine_lrelu_));
  m.impl("affine_lrelu_backward", TORCH_BOX(&affine_lrelu_backward));
  m.impl("lrelu_gate", TORCH_BOX(&lrelu_gate));
}

}  // namespace
}  // namespace unified
