// upfirdn2d on the CPU.
//
// The filter is a sum of products of a column and a row (one product for the usual filters). Each output row is
// first the weighted sum of the input rows it depends on, then, for each of the `up` phases of its columns, a
// weighted sum of shifts of that row. Both are sums of contiguous runs in either layout: with channels innermost
// a shift by one column is a shift by `channels` values.
#include <cmath>

#include "../common.h"
#include "combine.h"

namespace unified {
namespace {

constexpr int64_t kRun = 4096;  // values of a row that are worked on at a time, to stay in the first cache
constexpr int64_t kRows = 16;  // output rows of a task

struct Term {
  std::vector<double> column, row;
};

// The filter (correlation form, gain included) as a sum of products column x row^T.
std::vector<Term> terms_of(const std::vector<double>& f, int64_t height, int64_t width, double tolerance) {
  int64_t pivot = 0;
  for (int64_t i = 1; i < height * width; ++i) {
    if (std::abs(f[i]) > std::abs(f[pivot])) pivot = i;
  }
  const int64_t top = pivot / width, left = pivot % width;
  Term product{std::vector<double>(height), std::vector<double>(width)};
  if (f[pivot] == 0) return {product};
  for (int64_t i = 0; i < height; ++i) product.column[i] = f[i * width + left] / f[pivot];
  for (int64_t j = 0; j < width; ++j) product.row[j] = f[top * width + j];
  bool exact = true;
  for (int64_t i = 0; i < height; ++i) {
    for (int64_t j = 0; j < width; ++j) {
      const double error = std::abs(product.column[i] * product.row[j] - f[i * width + j]);
      exact = exact && error <= tolerance * std::abs(f[pivot]);
    }
  }
  if (exact) return {product};
  std::vector<Term> terms;
  for (int64_t i = 0; i < height; ++i) {
    Term term{std::vector<double>(height, 0.0), {f.begin() + i * width, f.begin() + (i + 1) * width}};
    term.column[i] = 1;
    terms.push_back(std::move(term));
  }
  return terms;
}

struct Geometry {
  int64_t in_height, in_width, out_height, out_width, up, down, left, top;
  int64_t lane;  // values per column: the channels if they are innermost, else 1
  int64_t in_row, out_row;  // strides of rows
};

template <class T>
struct Worker {
  using Acc = Accumulator<T>;
  const Geometry& g;
  const std::vector<Term>& terms;
  std::vector<Acc> line, planes, result;
  std::vector<const T*> rows;
  std::vector<const Acc*> shifts;
  std::vector<Acc> weights;

  // Output rows row0 to row1, columns column0 to column1.
  void run(const T* x, T* y, int64_t row0, int64_t row1, int64_t column0, int64_t column1) {
    const int64_t lane = g.lane, up = g.up, down = g.down;
    const int64_t taps = static_cast<int64_t>(terms[0].row.size());
    // Columns low to high of the input, those outside of it zero.
    const int64_t low = floor_div(column0 * down - g.left, up);
    const int64_t high = floor_div((column1 - 1) * down + taps - 1 - g.left, up) + 1;
    const int64_t from = std::clamp<int64_t>(low, 0, g.in_width), to = std::clamp<int64_t>(high, from, g.in_width);
    const int64_t width = high - low, plane = ceil_div(width, down) * lane;
    line.assign(width * lane, Acc(0));
    if (down > 1) planes.assign(plane * down, Acc(0));
    result.resize((column1 - column0) * lane);
    constexpr bool direct = std::is_same_v<T, Acc>;

    for (int64_t o = row0; o < row1; ++o) {
      T* const out = y + o * g.out_row + column0 * lane;
      Acc* phase_out = result.data();
      if constexpr (direct) {
        if (up == 1) phase_out = out;
      }
      for (size_t k = 0; k < terms.size(); ++k) {
        vertical(x, o, terms[k].column, from, to, low);
        const Acc* source = line.data();
        if (down > 1) {
          split(source, planes.data(), width, plane);
          source = planes.data();
        }
        Acc* phase = phase_out;
        for (int64_t p = 0; p < std::min(up, column1 - column0); ++p) {
          const int64_t columns = ceil_div(column1 - column0 - p, up);
          shifts.clear(), weights.clear();
          const int64_t first = (column0 + p) * down - g.left;
          for (int64_t t = floor_mod(-first, up); t < taps; t += up) {
            const int64_t c = floor_div(first + t, up) - low;
            shifts.push_back(source + (down > 1 ? (c % down) * plane + (c / down) * lane : c * lane));
            weights.push_back(static_cast<Acc>(terms[k].row[t]));
          }
          combine(phase, columns * lane, static_cast<int>(shifts.size()), shifts.data(), weights.data(), k > 0);
          phase += columns * lane;
        }
      }
      if (direct && up == 1) continue;
      const Acc* phase = result.data();
      for (int64_t p = 0; p < std::min(up, column1 - column0); ++p) {
        const int64_t columns = ceil_div(column1 - column0 - p, up);
        spread(phase, out + p * lane, columns);
        phase += columns * lane;
      }
    }
  }

  // Columns p, p + down, ... to plane p. The common cases have constant strides, which the compiler vectorises.
  void split(const Acc* __restrict from, Acc* __restrict to, int64_t width, int64_t plane) const {
    const int64_t lane = g.lane, down = g.down;
    for (int64_t p = 0; p < std::min(down, width); ++p, to += plane) {
      const int64_t columns = ceil_div(width - p, down);
      const Acc* __restrict source = from + p * lane;
      if (lane == 1 && down == 2) {
        for (int64_t c = 0; c < columns; ++c) to[c] = source[2 * c];
      } else if (lane == 1) {
        for (int64_t c = 0; c < columns; ++c) to[c] = source[down * c];
      } else {
        for (int64_t c = 0; c < columns; ++c) {
          for (int64_t s = 0; s < lane; ++s) to[c * lane + s] = source[c * down * lane + s];
        }
      }
    }
  }

  void spread(const Acc* __restrict from, T* __restrict to, int64_t columns) const {
    const int64_t lane = g.lane, up = g.up;
    if (lane == 1 && up == 2) {
      for (int64_t c = 0; c < columns; ++c) to[2 * c] = static_cast<T>(from[c]);
    } else if (lane == 1) {
      for (int64_t c = 0; c < columns; ++c) to[up * c] = static_cast<T>(from[c]);
    } else {
      for (int64_t c = 0; c < columns; ++c) {
        for (int64_t s = 0; s < lane; ++s) to[c * up * lane + s] = static_cast<T>(from[c * lane + s]);
      }
    }
  }

  void vertical(
      const T* x, int64_t o, const std::vector<double>& column, int64_t from, int64_t to, int64_t low) {
    rows.clear(), weights.clear();
    const int64_t first = o * g.down - g.top;
    for (int64_t t = floor_mod(-first, g.up); t < static_cast<int64_t>(column.size()); t += g.up) {
      const int64_t i = floor_div(first + t, g.up);
      if (i < 0 || i >= g.in_height || column[t] == 0) continue;
      rows.push_back(x + i * g.in_row + from * g.lane);
      weights.push_back(static_cast<Acc>(column[t]));
    }
    combine(
        line.data() + (from - low) * g.lane, (to - from) * g.lane, static_cast<int>(rows.size()), rows.data(),
        weights.data(), false);
  }
};

template <class T>
Tensor run(
    const Tensor& given, const std::vector<Term>& terms, int64_t up, int64_t down,
    const std::vector<int64_t>& padding, int64_t out_height, int64_t out_width) {
  const bool last = is_channels_last(given);
  const Tensor x = dense(given, last);
  const int64_t count = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
  Tensor y = empty_of(x, {count, channels, out_height, out_width}, scalar_type_of<T>(), last);
  if (y.numel() == 0) return y;

  const int64_t lane = last ? channels : 1, planes = last ? count : count * channels;
  const Geometry g{height, width, out_height, out_width, up, down, padding[0], padding[2],
                   lane, width * lane, out_width * lane};
  const int64_t step = std::max<int64_t>(kRun / lane, 1);
  const int64_t column_blocks = ceil_div(out_width, step), row_blocks = ceil_div(out_height, kRows);
  const T* const in = static_cast<const T*>(x.const_data_ptr());
  T* const out = static_cast<T*>(y.mutable_data_ptr());
  torch::stable::parallel_for(0, planes * column_blocks * row_blocks, 1, [&](int64_t begin, int64_t end) {
    Worker<T> worker{g, terms, {}, {}, {}, {}, {}, {}};
    for (int64_t task = begin; task < end; ++task) {
      const int64_t plane = task / (column_blocks * row_blocks), block = task % (column_blocks * row_blocks);
      const int64_t column0 = block / row_blocks * step, row0 = block % row_blocks * kRows;
      worker.run(
          in + plane * height * g.in_row, out + plane * out_height * g.out_row, row0,
          std::min(row0 + kRows, out_height), column0, std::min(column0 + step, out_width));
    }
  });
  return y;
}

// Schema: see operators.py. padding: (left, right, top, bottom).
Tensor upfirdn2d(
    const Tensor& x, const Tensor& filter, int64_t up, int64_t down, std::vector<int64_t> padding, bool flip,
    double gain) {
  STD_TORCH_CHECK(x.dim() == 4 && filter.dim() == 2 && padding.size() == 4, "upfirdn2d: wrong dimensions");
  STD_TORCH_CHECK(up >= 1 && down >= 1, "upfirdn2d: up and down must be at least 1");
  const Tensor f = torch::stable::contiguous(filter);
  const int64_t kh = f.size(0), kw = f.size(1);
  const int64_t out_height = floor_div(x.size(2) * up + padding[2] + padding[3] - kh, down) + 1;
  const int64_t out_width = floor_div(x.size(3) * up + padding[0] + padding[1] - kw, down) + 1;
  STD_TORCH_CHECK(kh * kw > 0 && out_height > 0 && out_width > 0, "upfirdn2d: the result would be empty");

  std::vector<double> values(kh * kw);
  const bool is_double = f.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(is_double || f.scalar_type() == ScalarType::Float, "upfirdn2d: the filter must be float32 or 64");
  for (int64_t i = 0; i < kh * kw; ++i) {
    const double value = is_double ? static_cast<const double*>(f.const_data_ptr())[i]
                                   : static_cast<const float*>(f.const_data_ptr())[i];
    values[flip ? i : kh * kw - 1 - i] = value * gain;
  }
  const auto terms = terms_of(values, kh, kw, x.scalar_type() == ScalarType::Double ? 1e-15 : 2e-7);
  switch (x.scalar_type()) {
    case ScalarType::Float: return run<float>(x, terms, up, down, padding, out_height, out_width);
    case ScalarType::Double: return run<double>(x, terms, up, down, padding, out_height, out_width);
    case ScalarType::BFloat16: return run<c10::BFloat16>(x, terms, up, down, padding, out_height, out_width);
    default: STD_TORCH_CHECK(false, "upfirdn2d: expected float32, float64 or bfloat16"); return x;
  }
}

STABLE_TORCH_LIBRARY_IMPL(UNIFIED_NAMESPACE, CPU, m) { m.impl("upfirdn2d", TORCH_BOX(&upfirdn2d)); }

}  // namespace
}  // namespace unified
