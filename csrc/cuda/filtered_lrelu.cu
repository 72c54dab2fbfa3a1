// filtered_lrelu on CUDA devices: a block makes one tile of the result, and the signal at the high sampling rate
// exists in shared memory alone.
//
// Along one axis, upsampling is out[o] = sum_i f[o + shift - i rate] x[i], and downsampling
// out[o] = sum_j f[o rate + shift - j] x[j]; the transpose of either is the other with f reversed. Both filters are
// sums of products of a column and a row.
#include <cmath>
#include <limits>

#include "launch.h"

namespace unified {
namespace {

constexpr int kTile = 32;  // outputs of a block: at most kTile x kTile
constexpr int kOutputs = kTile * kTile / kThreads;  // of a thread
constexpr size_t kShared = 96 * 1024;  // bytes of shared memory from which on tiles are made smaller

// One axis of a resampling. `lines`: [terms][taps] in device memory; reversed: read backwards.
template <class Acc>
struct Axis {
  const Acc* lines;
  int taps, rate, shift, in, out;
  bool reversed;

  __device__ Acc weight(int term, int t) const { return lines[term * taps + (reversed ? taps - 1 - t : t)]; }
};

template <class Acc>
struct Filter {
  Axis<Acc> rows, columns;
  int terms;
};

struct Strides {
  int64_t picture, channel, row, column;
};

// A rectangle of a signal, of which `width` values a row are stored.
struct Area {
  int y, x, height, width;
};

// Inputs that the outputs from `first` to `first + count - 1` of an upsampling depend on begin here; and how many.
template <class Acc>
__host__ __device__ int up_low(const Axis<Acc>& axis, int first) {
  return -floor_div_int(-(first + axis.shift - axis.taps + 1), axis.rate);
}
inline int up_count(int count, int taps, int rate) { return (count + taps - 2) / rate + 1; }

// out[area] <- upsampled `source` + bias, zero outside of the signal. Ends with a barrier.
template <class T, class Acc>
__device__ void upsample(
    const T* source, const Strides& s, Acc bias, const Filter<Acc>& f, const Area& area, int low_height, int low_width,
    Acc* low, Acc* half, Acc* out) {
  const int thread = static_cast<int>(threadIdx.x);
  const int low_y = up_low(f.rows, area.y), low_x = up_low(f.columns, area.x);
  for (int i = thread; i < low_height * low_width; i += kThreads) {
    const int y = low_y + i / low_width, x = low_x + i % low_width;
    const bool inside = y >= 0 && y < f.rows.in && x >= 0 && x < f.columns.in;
    low[i] = inside ? static_cast<Acc>(source[y * s.row + x * s.column]) + bias : Acc(0);
  }
  for (int k = 0; k < f.terms; ++k) {
    __syncthreads();
    for (int i = thread; i < low_height * area.width; i += kThreads) {
      const int row = i / area.width, o = area.x + i % area.width;
      Acc sum = 0;
      const int first = up_low(f.columns, o);
      int t = o + f.columns.shift - first * f.columns.rate;
      for (int j = first - low_x; t >= 0; t -= f.columns.rate, ++j) {
        sum += f.columns.weight(k, t) * low[row * low_width + j];
      }
      half[i] = sum;
    }
    __syncthreads();
    for (int i = thread; i < area.height * area.width; i += kThreads) {
      const int o = area.y + i / area.width, column = i % area.width;
      Acc sum = k > 0 ? out[i] : Acc(0);
      const int first = up_low(f.rows, o);
      int t = o + f.rows.shift - first * f.rows.rate;
      for (int j = first - low_y; t >= 0; t -= f.rows.rate, ++j) {
        sum += f.rows.weight(k, t) * half[j * area.width + column];
      }
      const bool inside = o >= 0 && o < f.rows.out && area.x + column >= 0 && area.x + column < f.columns.out;
      out[i] = inside ? sum : Acc(0);
    }
  }
  __syncthreads();
}

// Sizes of one block's work: of its tile of the result and the areas of the other signals that it depends on.
struct Tiles {
  int tile = 0, tiles_x = 0, tiles_y = 0, high_height = 0, high_width = 0, low_height = 0, low_width = 0;
  int tangent_height = 0, tangent_width = 0, low_size = 0, half_size = 0;
};

// Mode 0: D phi(U (x + b)); else to (phi' * from v), phi' at U (x + b).
template <class T, bool Gated>
__global__ void __launch_bounds__(kThreads) filtered_kernel(
    const T* x, const T* v, const Accumulator<T>* bias, T* y, Strides x_strides, Strides v_strides, Strides y_strides,
    Filter<Accumulator<T>> first, Filter<Accumulator<T>> from, Filter<Accumulator<T>> to, int channels, Tiles t,
    Accumulator<T> slope, Accumulator<T> limit) {
  using Acc = Accumulator<T>;
  const int tile = t.tile, high_height = t.high_height, high_width = t.high_width;
  Acc* const low = reinterpret_cast<Acc*>(shared_memory());
  Acc* const half = low + t.low_size;
  Acc* const high = half + t.half_size;
  Acc* const tangent = high + high_height * high_width;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t plane = blockIdx.x / (t.tiles_x * t.tiles_y);
  const int index = static_cast<int>(blockIdx.x % (t.tiles_x * t.tiles_y));
  const int64_t n = plane / channels, c = plane % channels;
  const int out_x = index % t.tiles_x * tile, out_y = index / t.tiles_x * tile;
  const Area area{
      out_y * to.rows.rate + to.rows.shift - to.rows.taps + 1,
      out_x * to.columns.rate + to.columns.shift - to.columns.taps + 1, high_height, high_width};

  upsample(
      x + n * x_strides.picture + c * x_strides.channel, x_strides, bias ? bias[c] : Acc(0), first, area, t.low_height,
      t.low_width, low, half, high);
  if (Gated) {
    upsample(
        v + n * v_strides.picture + c * v_strides.channel, v_strides, Acc(0), from, area, t.tangent_height,
        t.tangent_width, low, half, tangent);
  }
  for (int i = thread; i < high_height * high_width; i += kThreads) {
    const Acc value = high[i], factor = value > 0 ? Acc(1) : slope, z = value * factor;
    if (Gated) high[i] = z <= limit && z >= -limit ? tangent[i] * factor : Acc(0);
    else high[i] = z > limit ? limit : (z < -limit ? -limit : z);
  }

  Acc sum[kOutputs] = {};
  for (int k = 0; k < to.terms; ++k) {
    __syncthreads();
    for (int i = thread; i < high_height * tile; i += kThreads) {
      const Acc* const row = high + i / tile * high_width + i % tile * to.columns.rate;
      Acc value = 0;
      for (int j = 0; j < to.columns.taps; ++j) value += to.columns.weight(k, to.columns.taps - 1 - j) * row[j];
      half[i] = value;
    }
    __syncthreads();
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      const int i = thread + o * kThreads;
      if (i >= tile * tile) break;
      const Acc* const column = half + i / tile * to.rows.rate * tile + i % tile;
      for (int j = 0; j < to.rows.taps; ++j) sum[o] += to.rows.weight(k, to.rows.taps - 1 - j) * column[j * tile];
    }
  }
  T* const out = y + n * y_strides.picture + c * y_strides.channel;
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) {
    const int i = thread + o * kThreads, row = out_y + i / tile, column = out_x + i % tile;
    if (i < tile * tile && row < to.rows.out && column < to.columns.out) {
      out[row * y_strides.row + column * y_strides.column] = static_cast<T>(sum[o]);
    }
  }
}

Strides strides_of(const Tensor& x) { return {x.stride(0), x.stride(1), x.stride(2), x.stride(3)}; }

template <class Acc>
struct Maps {
  Filter<Acc> first, second, first_transposed, second_transposed;
};

// up, down: the lines of one axis.
template <class Acc>
void set_axis(
    const Tensor& u, const Tensor& d, int up, int down, int before, int after, int size, Axis<Acc>& a, Axis<Acc>& b,
    Axis<Acc>& at, Axis<Acc>& bt) {
  const int up_taps = static_cast<int>(u.size(1)), down_taps = static_cast<int>(d.size(1));
  const int high = size * up + before + after - up_taps + 1;
  const int low = floor_div_int(high - down_taps, down) + 1;
  STD_TORCH_CHECK(high > 0 && low > 0, "filtered_lrelu: the picture is smaller than the filters");
  const Acc *const us = static_cast<const Acc*>(u.const_data_ptr()), *const ds = static_cast<const Acc*>(d.const_data_ptr());
  a = {us, up_taps, up, up_taps - 1 - before, size, high, false};
  at = {us, up_taps, up, before, high, size, true};
  b = {ds, down_taps, down, down_taps - 1, high, low, false};
  bt = {ds, down_taps, down, 0, low, high, true};
}

template <class T>
Tensor run(
    const Tensor& given_x, const std::optional<Tensor>& given_v, const std::optional<Tensor>& bias,
    const Maps<Accumulator<T>>& maps, double slope, double clamp, int mode) {
  using Acc = Accumulator<T>;
  const bool last = is_channels_last(given_x);
  const Tensor x = dense(given_x, last);
  const int64_t count = x.size(0), channels = x.size(1);
  const Filter<Acc>& to = mode == 2 ? maps.first_transposed : maps.second;
  const Filter<Acc>& from = mode == 2 ? maps.second_transposed : maps.first;
  Tensor y = empty_of(x, {count, channels, to.rows.out, to.columns.out}, scalar_type_of<T>(), last);
  std::optional<Tensor> v;
  if (given_v) {
    v = dense(*given_v, last);
    STD_TORCH_CHECK(
        v->size(0) == count && v->size(1) == channels && v->size(2) == from.rows.in && v->size(3) == from.columns.in &&
            v->scalar_type() == x.scalar_type(),
        "filtered_lrelu: sizes or types differ");
  }
  if (y.numel() == 0) return y;

  const auto tiles_of = [&](int tile) {
    const Axis<Acc>&rows = to.rows, &columns = to.columns;
    Tiles t;
    t.tile = tile;
    t.high_height = (tile - 1) * rows.rate + rows.taps, t.high_width = (tile - 1) * columns.rate + columns.taps;
    t.low_height = up_count(t.high_height, maps.first.rows.taps, maps.first.rows.rate);
    t.low_width = up_count(t.high_width, maps.first.columns.taps, maps.first.columns.rate);
    t.tangent_height = v ? up_count(t.high_height, from.rows.taps, from.rows.rate) : 0;
    t.tangent_width = v ? up_count(t.high_width, from.columns.taps, from.columns.rate) : 0;
    t.low_size = std::max(t.low_height * t.low_width, t.tangent_height * t.tangent_width);
    t.half_size = std::max({t.low_height * t.high_width, t.tangent_height * t.high_width, t.high_height * tile});
    return t;
  };
  Tiles t = tiles_of(kTile);
  const auto bytes = [&] {
    return (static_cast<size_t>(t.low_size) + t.half_size + (v ? 2 : 1) * t.high_height * t.high_width) * sizeof(Acc);
  };
  while (bytes() > kShared && t.tile > 4) t = tiles_of(t.tile / 2);
  const size_t shared = bytes();
  STD_TORCH_CHECK(shared <= 160 * 1024, "filtered_lrelu: the filters are too large for the CUDA kernel");
  t.tiles_x = static_cast<int>(ceil_div(to.columns.out, t.tile));
  t.tiles_y = static_cast<int>(ceil_div(to.rows.out, t.tile));
  const int64_t blocks = count * channels * t.tiles_x * t.tiles_y;
  STD_TORCH_CHECK(blocks < (int64_t{1} << 31), "filtered_lrelu: the batch is too large");

  const T* const in = static_cast<const T*>(x.const_data_ptr());
  const T* const tangent = pointer<T>(v);
  const Acc* const b = pointer<Acc>(bias);
  T* const out = static_cast<T*>(y.mutable_data_ptr());
  const Strides x_strides = strides_of(x), v_strides = v ? strides_of(*v) : Strides{}, y_strides = strides_of(y);
  const Acc low = static_cast<Acc>(slope);
  const Acc limit = clamp < 0 ? std::numeric_limits<Acc>::infinity() : static_cast<Acc>(clamp);
  const Filter<Acc> first = maps.first, before = from, after = to;
  const int channel_count = static_cast<int>(channels);
  const dim3 grid(static_cast<unsigned>(blocks));
  if (v) {
    UNIFIED_LAUNCH(
        (filtered_kernel<T, true>), grid, dim3(kThreads), shared, x, in, tangent, b, out, x_strides, v_strides,
        y_strides, first, before, after, channel_count, t, low, limit);
  } else {
    UNIFIED_LAUNCH(
        (filtered_kernel<T, false>), grid, dim3(kThreads), shared, x, in, tangent, b, out, x_strides, v_strides,
        y_strides, first, before, after, channel_count, t, low, limit);
  }
  return y;
}

Tensor any_mode(
    const Tensor& x, const std::optional<Tensor>& v, const std::optional<Tensor>& given_bias, const Tensor& up_v,
    const Tensor& up_h, const Tensor& down_v, const Tensor& down_h, int64_t up, int64_t down,
    const std::vector<int64_t>& padding, double slope, double clamp, int mode) {
  STD_TORCH_CHECK(x.dim() == 4 && padding.size() == 4 && up >= 1 && down >= 1, "filtered_lrelu: wrong arguments");
  const ScalarType acc_type = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const std::optional<Tensor> bias = packed(given_bias);
  STD_TORCH_CHECK(
      !bias || (bias->numel() == x.size(1) && bias->scalar_type() == acc_type),
      "filtered_lrelu: wrong size or type of bias");
  const Tensor lines[4] = {
      torch::stable::contiguous(up_v), torch::stable::contiguous(up_h), torch::stable::contiguous(down_v),
      torch::stable::contiguous(down_h)};
  for (const Tensor& line : lines) {
    STD_TORCH_CHECK(
        line.dim() == 2 && line.numel() > 0 && line.scalar_type() == acc_type &&
            line.get_device_index() == x.get_device_index(),
        "filtered_lrelu: wrong size, type or device of a filter");
  }
  STD_TORCH_CHECK(up_v.size(0) == up_h.size(0) && down_v.size(0) == down_h.size(0), "filtered_lrelu: terms differ");
  return with_type(x, [&](auto type) {
    using T = decltype(type);
    Maps<Accumulator<T>> m;
    const auto i = [](int64_t value) { return static_cast<int>(value); };
    set_axis(
        lines[0], lines[2], i(up), i(down), i(padding[2]), i(padding[3]), i(x.size(2)), m.first.rows, m.second.rows,
        m.first_transposed.rows, m.second_transposed.rows);
    set_axis(
        lines[1], lines[3], i(up), i(down), i(padding[0]), i(padding[1]), i(x.size(3)), m.first.columns,
        m.second.columns, m.first_transposed.columns, m.second_transposed.columns);
    m.first.terms = m.first_transposed.terms = i(up_v.size(0));
    m.second.terms = m.second_transposed.terms = i(down_v.size(0));
    return run<T>(x, v, bias, m, slope, clamp, mode);
  });
}

Tensor filtered_lrelu(
    const Tensor& x, const std::optional<Tensor>& bias, const Tensor& up_v, const Tensor& up_h, const Tensor& down_v,
    const Tensor& down_h, int64_t up, int64_t down, std::vector<int64_t> padding, double slope, double clamp) {
  return any_mode(x, std::nullopt, bias, up_v, up_h, down_v, down_h, up, down, padding, slope, clamp, 0);
}

Tensor filtered_lrelu_gated(
    const Tensor& v, const Tensor& x, const std::optional<Tensor>& bias, const Tensor& up_v, const Tensor& up_h,
    const Tensor& down_v, const Tensor& down_h, int64_t up, int64_t down, std::vector<int64_t> padding, double slope,
    double clamp, bool backwards) {
  return any_mode(x, v, bias, up_v, up_h, down_v, down_h, up, down, padding, slope, clamp, backwards ? 2 : 1);
}

STABLE_TORCH_LIBRARY_IMPL(UNIFIED_NAMESPACE, UNIFIED_DISPATCH_KEY, m) {
  m.impl("filtered_lrelu", TORCH_BOX(&filtered_lrelu));
  m.impl("filtered_lrelu_gated", TORCH_BOX(&filtered_lrelu_gated));
}

}  // namespace
}  // namespace unified
