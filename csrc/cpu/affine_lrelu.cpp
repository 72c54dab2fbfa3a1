// clamp(gain * lrelu(x * scale + noise + bias)) and its derivative in one pass each, on the CPU.
#include <cmath>
#include <limits>

#include "../common.h"

namespace unified {
namespace {

constexpr int64_t kTask = 1 << 14;  // values of a task
constexpr int64_t kRun = 1024;  // values that are summed up in float before they go into a double

template <class T>
struct Activation {
  using Acc = Accumulator<T>;
  Acc positive, negative, limit;

  Activation(double slope, double gain, double clamp)
      : positive(static_cast<Acc>(gain)),
        negative(static_cast<Acc>(gain * slope)),
        limit(clamp < 0 ? std::numeric_limits<Acc>::infinity() : static_cast<Acc>(static_cast<T>(clamp))) {}

  // Comparisons are written so that NaN stays NaN.
  Acc operator()(Acc z) const {
    const Acc v = z * (z > 0 ? positive : negative);
    return v > limit ? limit : (v < -limit ? -limit : v);
  }
  // The derivative from the result: its sign is that of z, and where it is clamped it has the limit's size.
  Acc derivative(Acc y) const {
    const Acc factor = y > 0 ? positive : negative;
    return std::abs(y) < limit ? factor : Acc(0);
  }
};

template <class T>
const T* pointer(const std::optional<Tensor>& x) {
  return x ? static_cast<const T*>(x->const_data_ptr()) : nullptr;
}

// Calls f(std::bool_constant...) with run-time conditions as compile-time ones.
template <class F>
void with_bool(bool a, const F& f) {
  if (a) f(std::true_type{});
  else f(std::false_type{});
}

// in_place: the result replaces `given`, which must be dense. Values are read before they are written.
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
  const T* const x = static_cast<const T*>(input.const_data_ptr());
  T* const y = static_cast<T*>(output.mutable_data_ptr());
  const Acc *const s = pointer<Acc>(scale), *const b = pointer<Acc>(bias), *const m = pointer<Acc>(noise);
  const int64_t noise_step = noise && noise->size(0) > 1 ? g.pixels : 0;

  if (!g.channels_last) {
    const int64_t blocks = ceil_div(g.pixels, kTask);
    torch::stable::parallel_for(0, g.count * g.channels * blocks, std::max<int64_t>(kTask / g.pixels, 1),
                                [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t plane = task / blocks, n = plane / g.channels, c = plane % g.channels;
        const int64_t from = task % blocks * kTask, size = std::min(kTask, g.pixels - from);
        const T* const in = x + plane * g.pixels + from;
        T* const out = y + plane * g.pixels + from;
        const Acc factor = s ? s[plane] : Acc(1), shift = b ? b[c] : Acc(0);
        if (m) {
          const Acc* __restrict map = m + n * noise_step + from;
#pragma GCC ivdep
          for (int64_t j = 0; j < size; ++j) {
            out[j] = static_cast<T>(act(static_cast<Acc>(in[j]) * factor + (map[j] + shift)));
          }
        } else {
#pragma GCC ivdep
          for (int64_t j = 0; j < size; ++j) {
            out[j] = static_cast<T>(act(static_cast<Acc>(in[j]) * factor + shift));
          }
        }
      }
    });
    return output;
  }
  const int64_t step = std::max<int64_t>(kTask / g.channels, 1);
  const std::vector<Acc> zeros(b ? 0 : g.channels, Acc(0));
  const Acc* const shifts = b ? b : zeros.data();
  torch::stable::parallel_for(0, ceil_div(g.count * g.pixels, step), 1, [&](int64_t begin, int64_t end) {
    for (int64_t pixel = begin * step; pixel < std::min(end * step, g.count * g.pixels); ++pixel) {
      const int64_t n = pixel / g.pixels;
      const T* const in = x + pixel * g.channels;
      T* const out = y + pixel * g.channels;
      const Acc add = m ? m[n * noise_step + pixel % g.pixels] : Acc(0);
      const Acc* __restrict shift = shifts;
      if (s) {
        const Acc* __restrict factor = s + n * g.channels;
#pragma GCC ivdep
        for (int64_t c = 0; c < g.channels; ++c) {
          out[c] = static_cast<T>(act(static_cast<Acc>(in[c]) * factor[c] + (add + shift[c])));
        }
      } else {
#pragma GCC ivdep
        for (int64_t c = 0; c < g.channels; ++c) {
          out[c] = static_cast<T>(act(static_cast<Acc>(in[c]) + (add + shift[c])));
        }
      }
    }
  });
  return output;
}

struct Gradients {
  Tensor x, sums, products;
};

// gx = grad phi' scale; sums = sum over pixels of grad phi'; products = that of grad phi' x (if x is given).
template <class T>
Gradients backward(
    const Tensor& given, const Tensor& result, const std::optional<Tensor>& x, const std::optional<Tensor>& scale,
    const Activation<T>& act, bool with_sums) {
  using Acc = Accumulator<T>;
  const bool last = is_channels_last(result);
  const Tensor grad = dense(given, last), output = dense(result, last);
  std::optional<Tensor> input;
  if (x) input = dense(*x, last);
  Tensor gradient = empty_of(output, sizes_of(output), scalar_type_of<T>(), last);
  const Layout3 g = Layout3::of(output);
  const ScalarType acc_type = scalar_type_of<Acc>();
  const int64_t planes = with_sums ? g.count * g.channels : 0;
  Tensor sums = torch::stable::new_zeros(output, std::vector<int64_t>{with_sums ? g.count : 0, g.channels}, acc_type);
  Tensor products =
      torch::stable::new_zeros(output, std::vector<int64_t>{with_sums && x ? g.count : 0, g.channels}, acc_type);
  if (output.numel() == 0) return {gradient, sums, products};

  const T* const dy = static_cast<const T*>(grad.const_data_ptr());
  const T* const y = static_cast<const T*>(output.const_data_ptr());
  const T* const in = pointer<T>(input);
  const Acc* const s = pointer<Acc>(scale);
  T* const dx = static_cast<T*>(gradient.mutable_data_ptr());
  const int64_t blocks = g.channels_last ? std::max<int64_t>(g.pixels * g.channels / kTask, 1) : ceil_div(g.pixels, kTask);
  // One partial sum per task, added up in a fixed order: the result does not depend on the number of threads.
  std::vector<double> partial(with_sums ? planes * blocks : 0), partial_products(x && with_sums ? planes * blocks : 0);

  if (!g.channels_last) {
    torch::stable::parallel_for(0, g.count * g.channels * blocks, std::max<int64_t>(kTask / g.pixels, 1),
                                [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t plane = task / blocks, start = task % blocks * kTask;
        const int64_t stop = std::min(start + kTask, g.pixels);
        const Acc factor = s ? s[plane] : Acc(1);
        double sum = 0, product = 0;
        for (int64_t from = start; from < stop; from += kRun) {
          const int64_t size = std::min(kRun, stop - from), offset = plane * g.pixels + from;
          const T *__restrict a = dy + offset, *__restrict b = y + offset;
          T* __restrict out = dx + offset;
          // Sixteen sums side by side are one or two vector registers.
          constexpr int kLanes = 16;
          Acc run[kLanes] = {}, run_product[kLanes] = {};
          const int64_t whole = size - size % kLanes;
          const auto each = [&](int64_t j, int lane, auto multiply) {
            const Acc value = static_cast<Acc>(a[j]) * act.derivative(static_cast<Acc>(b[j]));
            out[j] = static_cast<T>(value * factor);
            run[lane] += value;
            if constexpr (decltype(multiply)::value) run_product[lane] += value * static_cast<Acc>(in[offset + j]);
          };
          with_bool(in != nullptr && with_sums, [&](auto multiply) {
            for (int64_t j = 0; j < whole; j += kLanes) {
#pragma GCC ivdep
              for (int lane = 0; lane < kLanes; ++lane) each(j + lane, lane, multiply);
            }
            for (int64_t j = whole; j < size; ++j) each(j, static_cast<int>(j - whole), multiply);
          });
          for (int lane = 0; lane < kLanes; ++lane) sum += run[lane], product += run_product[lane];
        }
        if (with_sums) partial[task] = sum;
        if (with_sums && in) partial_products[task] = product;
      }
    });
  } else {
    const int64_t step = ceil_div(g.pixels, blocks);
    torch::stable::parallel_for(0, g.count * blocks, 1, [&](int64_t begin, int64_t end) {
      std::vector<Acc> ones(s ? 0 : g.channels, Acc(1)), run(g.channels), run_product(g.channels);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t n = task / blocks, start = task % blocks * step, stop = std::min(start + step, g.pixels);
        const Acc* __restrict factor = s ? s + n * g.channels : ones.data();
        std::fill(run.begin(), run.end(), Acc(0));
        std::fill(run_product.begin(), run_product.end(), Acc(0));
        Acc *__restrict total = run.data(), *__restrict total_product = run_product.data();
        with_bool(in != nullptr && with_sums, [&](auto multiply) {
          for (int64_t pixel = start; pixel < stop; ++pixel) {
            const int64_t offset = (n * g.pixels + pixel) * g.channels;
            const T *__restrict a = dy + offset, *__restrict b = y + offset;
            T* __restrict out = dx + offset;
#pragma GCC ivdep
            for (int64_t c = 0; c < g.channels; ++c) {
              const Acc value = static_cast<Acc>(a[c]) * act.derivative(static_cast<Acc>(b[c]));
              out[c] = static_cast<T>(value * factor[c]);
              total[c] += value;
              if constexpr (decltype(multiply)::value) total_product[c] += value * static_cast<Acc>(in[offset + c]);
            }
          }
        });
        if (with_sums) {
          for (int64_t c = 0; c < g.channels; ++c) partial[(n * g.channels + c) * blocks + task % blocks] = run[c];
          if (in) {
            for (int64_t c = 0; c < g.channels; ++c) {
              partial_products[(n * g.channels + c) * blocks + task % blocks] = run_product[c];
            }
          }
        }
      }
    });
  }
  const auto collect = [&](const std::vector<double>& from, Tensor& to) {
    Acc* const out = static_cast<Acc*>(to.mutable_data_ptr());
    for (int64_t i = 0; i < static_cast<int64_t>(from.size()) / blocks; ++i) {
      double sum = 0;
      for (int64_t k = 0; k < blocks; ++k) sum += from[i * blocks + k];
      out[i] = static_cast<Acc>(sum);
    }
  };
  collect(partial, sums);
  collect(partial_products, products);
  return {gradient, sums, products};
}

template <class F>
auto with_type(const Tensor& x, const F& f) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return f(float{});
    case ScalarType::Double: return f(double{});
    case ScalarType::BFloat16: return f(c10::BFloat16{});
    default: STD_TORCH_CHECK(false, "affine_lrelu: expected float32, float64 or bfloat16"); return f(float{});
  }
}

std::optional<Tensor> packed(const std::optional<Tensor>& x) {
  return x ? std::optional<Tensor>(torch::stable::contiguous(*x)) : std::nullopt;
}

void check_size(const std::optional<Tensor>& x, int64_t size, const Tensor& like, const char* name) {
  if (!x) return;
  const bool is_double = like.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(
      x->numel() == size && x->scalar_type() == (is_double ? ScalarType::Double : ScalarType::Float),
      "affine_lrelu: wrong size or type of ", name);
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
    const Gradients r = backward<T>(grad, y, x, packed(scale), Activation<T>(slope, gain, clamp), true);
    return std::make_tuple(r.x, r.sums, r.products);
  });
}

Tensor lrelu_gate(const Tensor& grad, const Tensor& y, double slope, double gain, double clamp) {
  STD_TORCH_CHECK(grad.numel() == y.numel() && grad.scalar_type() == y.scalar_type(), "lrelu_gate: sizes or types differ");
  return with_type(y, [&](auto type) {
    using T = decltype(type);
    return backward<T>(grad, y, std::nullopt, std::nullopt, Activation<T>(slope, gain, clamp), false).x;
  });
}

STABLE_TORCH_LIBRARY_IMPL(UNIFIED_NAMESPACE, CPU, m) {
  m.impl("affine_lrelu", TORCH_BOX(&affine_lrelu));
  m.impl("affine_lrelu_", TORCH_BOX(&affine_lrelu_));
  m.impl("affine_lrelu_backward", TORCH_BOX(&affine_lrelu_backward));
  m.impl("lrelu_gate", TORCH_BOX(&lrelu_gate));
}

}  // namespace
}  // namespace unified
