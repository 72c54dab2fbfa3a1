// filtered_lrelu on the CPU.
//
// The signal at the high sampling rate exists as one row at a time. `kLanes` channels are worked on together, with
// the channels innermost, so that every filter is a sum of products of one number and one or two vector registers.
//
// Along one axis, upsampling is out[o] = sum_i f[o + shift - i rate] x[i], and downsampling
// out[o] = sum_j f[o rate + shift - j] x[j]. The transpose of either is the other with f reversed.
// Both filters are sums of products of a column and a row.
#include <cmath>
#include <limits>

#include "../common.h"
#include "combine.h"

namespace unified {
namespace {

constexpr int64_t kLanes = 16;

template <class Acc>
struct Axis {
  std::vector<std::vector<Acc>> lines;  // [terms][taps]
  int64_t rate = 1, shift = 0, in = 0, out = 0;

  int64_t taps() const { return static_cast<int64_t>(lines[0].size()); }
  // Inputs first(o) to last(o), not included, that output o of an upsampling depends on.
  int64_t up_first(int64_t o) const { return std::clamp<int64_t>(ceil_div_signed(o + shift - taps() + 1), 0, in); }
  int64_t up_last(int64_t o) const { return std::clamp<int64_t>(floor_div(o + shift, rate) + 1, 0, in); }
  int64_t down_first(int64_t o) const { return std::clamp<int64_t>(o * rate + shift - taps() + 1, 0, in); }
  int64_t down_last(int64_t o) const { return std::clamp<int64_t>(o * rate + shift + 1, 0, in); }

 private:
  int64_t ceil_div_signed(int64_t a) const { return -floor_div(-a, rate); }
};

// Where the inputs of an output begin, how many they are, and the first of their weights.
struct Window {
  int64_t first, taps, weight;
};

template <class Acc>
std::vector<Window> up_windows(const Axis<Acc>& axis) {
  std::vector<Window> windows;
  for (int64_t o = 0; o < axis.out; ++o) {
    const int64_t first = axis.up_first(o);
    windows.push_back({first, axis.up_last(o) - first, o + axis.shift - first * axis.rate});
  }
  return windows;
}

// Weights are counted in the reversed filter, where they ascend: that of input j, f[o rate + shift - j], is
// reversed[taps - 1 - o rate - shift + j].
template <class Acc>
std::vector<Window> down_windows(const Axis<Acc>& axis) {
  std::vector<Window> windows;
  for (int64_t o = 0; o < axis.out; ++o) {
    const int64_t first = axis.down_first(o);
    windows.push_back({first, axis.down_last(o) - first, axis.taps() - 1 - o * axis.rate - axis.shift + first});
  }
  return windows;
}

template <class Acc>
struct Filter {
  Axis<Acc> rows, columns;
};

// Lanes of one picture: where they are, how many are real.
template <class T>
struct Lanes {
  T* data;
  int64_t lane_stride, row_stride, column_stride, count;
};

// 32 bytes, a vector register of common processors; compilers split it where registers are smaller.
template <class Acc>
struct Register;
template <>
struct Register<float> {
  typedef float type __attribute__((vector_size(32), aligned(4), may_alias));
};
template <>
struct Register<double> {
  typedef double type __attribute__((vector_size(32), aligned(8), may_alias));
};

// out[s] = sum over t of weights[t weight_step] in[t kLanes + s].
template <class Acc>
inline void dot_columns(Acc* out, const Acc* in, const Acc* weights, int64_t taps, int64_t weight_step) {
  using V = typename Register<Acc>::type;
  constexpr int64_t kWidth = sizeof(V) / sizeof(Acc), kCount = kLanes / kWidth;
  V sum[kCount] = {};
  for (int64_t t = 0; t < taps; ++t, in += kLanes, weights += weight_step) {
#pragma GCC unroll 8
    for (int64_t s = 0; s < kCount; ++s) sum[s] += *weights * *reinterpret_cast<const V*>(in + s * kWidth);
  }
#pragma GCC unroll 8
  for (int64_t s = 0; s < kCount; ++s) *reinterpret_cast<V*>(out + s * kWidth) = sum[s];
}

// Rows at the high sampling rate, made from a picture at the low one on demand.
template <class T, class Acc>
class Upsampler {
 public:
  Upsampler(const Filter<Acc>& filter, Lanes<const T> source, const Acc* bias)
      : f_(filter), source_(source), bias_(bias), slots_(filter.rows.taps() / filter.rows.rate + 2),
        width_(filter.columns.out * kLanes), line_(filter.columns.in * kLanes),
        ring_(filter.rows.lines.size() * slots_ * width_), windows_(up_windows(filter.columns)) {}

  // Row o; rows must be asked for in ascending order.
  void row(int64_t o, Acc* out) {
    const int64_t first = f_.rows.up_first(o), last = f_.rows.up_last(o);
    for (next_ = std::max(next_, first); next_ < last; ++next_) fetch(next_);
    for (size_t k = 0; k < f_.rows.lines.size(); ++k) {
      sources_.clear(), weights_.clear();
      for (int64_t i = first; i < last; ++i) {
        sources_.push_back(slot(k, i));
        weights_.push_back(f_.rows.lines[k][o + f_.rows.shift - i * f_.rows.rate]);
      }
      combine(out, width_, static_cast<int>(sources_.size()), sources_.data(), weights_.data(), k > 0);
    }
  }

 private:
  Acc* slot(size_t k, int64_t i) { return ring_.data() + (k * slots_ + i % slots_) * width_; }

  void fetch(int64_t i) {
    const Axis<Acc>& axis = f_.columns;
    const T* const row = source_.data + i * source_.row_stride;
    if (source_.lane_stride == 1 && source_.count == kLanes) {
      for (int64_t c = 0; c < axis.in; ++c) {
        for (int64_t s = 0; s < kLanes; ++s) {
          line_[c * kLanes + s] = static_cast<Acc>(row[c * source_.column_stride + s]) + (bias_ ? bias_[s] : Acc(0));
        }
      }
    } else {
      for (int64_t s = 0; s < source_.count; ++s) {
        const Acc shift = bias_ ? bias_[s] : Acc(0);
        const T* const lane = row + s * source_.lane_stride;
        for (int64_t c = 0; c < axis.in; ++c) {
          line_[c * kLanes + s] = static_cast<Acc>(lane[c * source_.column_stride]) + shift;
        }
      }
    }
    for (size_t k = 0; k < axis.lines.size(); ++k) {
      Acc* const out = slot(k, i);
      for (int64_t o = 0; o < axis.out; ++o) {
        const Window& w = windows_[o];
        dot_columns(
            out + o * kLanes, line_.data() + w.first * kLanes, axis.lines[k].data() + w.weight, w.taps, -axis.rate);
      }
    }
  }

  const Filter<Acc>& f_;
  Lanes<const T> source_;
  const Acc* bias_;
  int64_t slots_, width_, next_ = 0;
  std::vector<Acc> line_, ring_;
  std::vector<Window> windows_;
  std::vector<const Acc*> sources_;
  std::vector<Acc> weights_;
};

// Takes rows at the high sampling rate from `produce(row, out)`, writes rows at the low one.
template <class T, class Acc, class Produce>
void downsample(const Filter<Acc>& f, const Lanes<T>& target, int64_t row0, int64_t row1, const Produce& produce) {
  const Axis<Acc>&rows = f.rows, &columns = f.columns;
  const size_t terms = rows.lines.size();
  const int64_t slots = rows.taps() + 1, width = columns.out * kLanes;
  std::vector<Acc> high(columns.in * kLanes), ring(terms * slots * width), result(width);
  std::vector<const Acc*> sources;
  std::vector<Acc> weights;
  std::vector<std::vector<Acc>> reversed;
  for (const auto& line : columns.lines) reversed.emplace_back(line.rbegin(), line.rend());
  const auto slot = [&](size_t k, int64_t j) { return ring.data() + (k * slots + j % slots) * width; };
  const std::vector<Window> windows = down_windows(columns);
  int64_t next = 0;
  for (int64_t o = row0; o < row1; ++o) {
    const int64_t first = rows.down_first(o), last = rows.down_last(o);
    for (next = std::max(next, first); next < last; ++next) {
      produce(next, high.data());
      for (size_t k = 0; k < terms; ++k) {
        Acc* const out = slot(k, next);
        for (int64_t p = 0; p < columns.out; ++p) {
          const Window& w = windows[p];
          dot_columns(out + p * kLanes, high.data() + w.first * kLanes, reversed[k].data() + w.weight, w.taps, 1);
        }
      }
    }
    for (size_t k = 0; k < terms; ++k) {
      sources.clear(), weights.clear();
      for (int64_t j = first; j < last; ++j) {
        sources.push_back(slot(k, j));
        weights.push_back(rows.lines[k][o * rows.rate + rows.shift - j]);
      }
      combine(result.data(), width, static_cast<int>(sources.size()), sources.data(), weights.data(), k > 0);
    }
    T* const row = target.data + o * target.row_stride;
    for (int64_t s = 0; s < target.count; ++s) {
      T* const lane = row + s * target.lane_stride;
      for (int64_t c = 0; c < columns.out; ++c) lane[c * target.column_stride] = static_cast<T>(result[c * kLanes + s]);
    }
  }
}

template <class Acc>
std::vector<std::vector<Acc>> lines_of(const Tensor& given, bool reversed) {
  const Tensor lines = torch::stable::contiguous(given);
  STD_TORCH_CHECK(lines.dim() == 2 && lines.numel() > 0, "filtered_lrelu: filters must be [terms, taps]");
  std::vector<std::vector<Acc>> result;
  const int64_t taps = lines.size(1);
  for (int64_t k = 0; k < lines.size(0); ++k) {
    std::vector<Acc> line(taps);
    for (int64_t t = 0; t < taps; ++t) {
      const int64_t at = k * taps + (reversed ? taps - 1 - t : t);
      if (lines.scalar_type() == ScalarType::Double) {
        line[t] = static_cast<Acc>(static_cast<const double*>(lines.const_data_ptr())[at]);
      } else {
        STD_TORCH_CHECK(lines.scalar_type() == ScalarType::Float, "filtered_lrelu: filters must be float32 or 64");
        line[t] = static_cast<Acc>(static_cast<const float*>(lines.const_data_ptr())[at]);
      }
    }
    result.push_back(std::move(line));
  }
  return result;
}

struct Geometry {
  int64_t up, down, left, right, top, bottom;
};

// The upsampling and downsampling of the forward pass, and their transposes.
template <class Acc>
struct Maps {
  Filter<Acc> first, second, first_transposed, second_transposed;

  Maps(const Tensor& up_v, const Tensor& up_h, const Tensor& down_v, const Tensor& down_h, const Geometry& g,
       int64_t height, int64_t width) {
    const auto axis = [](const Tensor& u, const Tensor& d, int64_t up, int64_t down, int64_t before, int64_t after,
                         int64_t size, Axis<Acc>& a, Axis<Acc>& b, Axis<Acc>& at, Axis<Acc>& bt) {
      const int64_t up_taps = u.size(1), high = size * up + before + after - up_taps + 1;
      const int64_t low = floor_div(high - d.size(1), down) + 1;
      STD_TORCH_CHECK(high > 0 && low > 0, "filtered_lrelu: the picture is smaller than the filters");
      a = {lines_of<Acc>(u, false), up, up_taps - 1 - before, size, high};
      at = {lines_of<Acc>(u, true), up, before, high, size};
      b = {lines_of<Acc>(d, false), down, d.size(1) - 1, high, low};
      bt = {lines_of<Acc>(d, true), down, 0, low, high};
    };
    axis(up_v, down_v, g.up, g.down, g.top, g.bottom, height, first.rows, second.rows, first_transposed.rows,
         second_transposed.rows);
    axis(up_h, down_h, g.up, g.down, g.left, g.right, width, first.columns, second.columns, first_transposed.columns,
         second_transposed.columns);
  }
};

template <class T>
Lanes<T> lanes_of(T* data, bool last, int64_t n, int64_t c, int64_t channels, int64_t height, int64_t width) {
  const int64_t count = std::min(kLanes, channels - c);
  if (last) return {data + n * height * width * channels + c, 1, width * channels, channels, count};
  return {data + (n * channels + c) * height * width, height * width, width, 1, count};
}

// mode 0: D phi(U (x + b)); 1: D (phi' U v); 2: U' (phi' D' v), phi' at U (x + b).
template <class T>
Tensor run(
    const Tensor& given_x, const std::optional<Tensor>& given_v, const std::optional<Tensor>& bias, const Maps<Accumulator<T>>& maps,
    double slope, double clamp, int mode) {
  using Acc = Accumulator<T>;
  const bool last = is_channels_last(given_x);
  const Tensor x = dense(given_x, last);
  const int64_t count = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
  const Filter<Acc>& to = mode == 2 ? maps.first_transposed : maps.second;
  const Filter<Acc>& from = mode == 2 ? maps.second_transposed : maps.first;
  const int64_t out_height = to.rows.out, out_width = to.columns.out;
  Tensor y = empty_of(x, {count, channels, out_height, out_width}, scalar_type_of<T>(), last);
  std::optional<Tensor> v;
  if (given_v) {
    v = dense(*given_v, last);
    STD_TORCH_CHECK(
        v->size(0) == count && v->size(1) == channels && v->size(2) == from.rows.in && v->size(3) == from.columns.in &&
            v->scalar_type() == x.scalar_type(),
        "filtered_lrelu: sizes or types differ");
  }
  if (y.numel() == 0) return y;

  const T* const in = static_cast<const T*>(x.const_data_ptr());
  const T* const tangent = v ? static_cast<const T*>(v->const_data_ptr()) : nullptr;
  const Acc* const b = bias ? static_cast<const Acc*>(bias->const_data_ptr()) : nullptr;
  T* const out = static_cast<T*>(y.mutable_data_ptr());
  const Acc low = static_cast<Acc>(slope);
  const Acc limit = clamp < 0 ? std::numeric_limits<Acc>::infinity() : static_cast<Acc>(clamp);
  const int64_t groups = ceil_div(channels, kLanes), values = maps.first.columns.out * kLanes;
  // Rows are split only where there are fewer groups of channels than threads: each part starts the filters anew.
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t parts = count * groups >= 2 * threads || threads == 1
                            ? 1
                            : std::clamp<int64_t>(ceil_div(2 * threads, count * groups), 1, ceil_div(out_height, 16));
  torch::stable::parallel_for(0, count * groups * parts, 1, [&](int64_t begin, int64_t end) {
    std::vector<Acc> other(mode == 0 ? 0 : values);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task % parts, n = task / parts / groups, c = task / parts % groups * kLanes;
      Upsampler<T, Acc> signal(maps.first, lanes_of(in, last, n, c, channels, height, width), b ? b + c : nullptr);
      const Lanes<T> target = lanes_of(out, last, n, c, channels, out_height, out_width);
      const int64_t row0 = out_height * part / parts, row1 = out_height * (part + 1) / parts;
      if (mode == 0) {
        downsample(to, target, row0, row1, [&](int64_t row, Acc* high) {
          signal.row(row, high);
          for (int64_t j = 0; j < values; ++j) {
            const Acc z = high[j] * (high[j] > 0 ? Acc(1) : low);
            high[j] = z > limit ? limit : (z < -limit ? -limit : z);
          }
        });
      } else {
        const auto lanes = lanes_of(tangent, last, n, c, channels, from.rows.in, from.columns.in);
        Upsampler<T, Acc> tangents(from, lanes, nullptr);
        downsample(to, target, row0, row1, [&](int64_t row, Acc* high) {
          signal.row(row, other.data());
          tangents.row(row, high);
          for (int64_t j = 0; j < values; ++j) {
            const Acc factor = other[j] > 0 ? Acc(1) : low;
            high[j] = std::abs(other[j] * factor) <= limit ? high[j] * factor : Acc(0);
          }
        });
      }
    }
  });
  return y;
}

Tensor any_mode(
    const Tensor& x, const std::optional<Tensor>& v, const std::optional<Tensor>& given_bias, const Tensor& up_v,
    const Tensor& up_h, const Tensor& down_v, const Tensor& down_h, int64_t up, int64_t down,
    const std::vector<int64_t>& padding, double slope, double clamp, int mode) {
  STD_TORCH_CHECK(x.dim() == 4 && padding.size() == 4 && up >= 1 && down >= 1, "filtered_lrelu: wrong arguments");
  const Geometry g{up, down, padding[0], padding[1], padding[2], padding[3]};
  std::optional<Tensor> bias;
  if (given_bias) {
    bias = torch::stable::contiguous(*given_bias);
    const bool is_double = x.scalar_type() == ScalarType::Double;
    STD_TORCH_CHECK(
        bias->numel() == x.size(1) && bias->scalar_type() == (is_double ? ScalarType::Double : ScalarType::Float),
        "filtered_lrelu: wrong size or type of bias");
  }
  const auto with = [&](auto type) {
    using T = decltype(type);
    const Maps<Accumulator<T>> maps(up_v, up_h, down_v, down_h, g, x.size(2), x.size(3));
    return run<T>(x, v, bias, maps, slope, clamp, mode);
  };
  switch (x.scalar_type()) {
    case ScalarType::Float: return with(float{});
    case ScalarType::Double: return with(double{});
    case ScalarType::BFloat16: return with(c10::BFloat16{});
    default: STD_TORCH_CHECK(false, "filtered_lrelu: expected float32, float64 or bfloat16"); return x;
  }
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

STABLE_TORCH_LIBRARY_IMPL(UNIFIED_NAMESPACE, CPU, m) {
  m.impl("filtered_lrelu", TORCH_BOX(&filtered_lrelu));
  m.impl("filtered_lrelu_gated", TORCH_BOX(&filtered_lrelu_gated));
}

}  // namespace
}  // namespace unified
