// What all kernels share: checks, memory layouts and the choice of the element type.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

// The name that the operators are registered under; see backbones/stylegan/ops/native/operators.py.
#ifndef UNIFIED_NAMESPACE
#define UNIFIED_NAMESPACE unified_stylegan
#endif

namespace unified {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Sums and products of half precision numbers are formed in float.
template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
constexpr ScalarType scalar_type_of() {
  if constexpr (std::is_same_v<T, double>) return ScalarType::Double;
  else if constexpr (std::is_same_v<T, float>) return ScalarType::Float;
  else if constexpr (std::is_same_v<T, c10::BFloat16>) return ScalarType::BFloat16;
  else return ScalarType::Half;
}

// True if x is [N, C, H, W] with channels innermost in memory, and not (also) with columns innermost.
inline bool is_channels_last(const Tensor& x) {
  if (x.dim() != 4 || x.is_contiguous()) return false;
  const int64_t order[4] = {1, 3, 2, 0};
  int64_t expected = 1;
  for (int64_t d : order) {
    if (x.size(d) != 1 && x.stride(d) != expected) return false;
    expected *= x.size(d);
  }
  return true;
}

inline Tensor empty_of(const Tensor& like, std::vector<int64_t> sizes, ScalarType dtype, bool channels_last) {
  return torch::stable::empty(
      sizes, dtype, std::nullopt, like.device(), std::nullopt,
      channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

inline std::vector<int64_t> sizes_of(const Tensor& x) {
  const auto sizes = x.sizes();
  return {sizes.begin(), sizes.end()};
}

// x, or a copy of it, in one of the two layouts that the kernels read.
inline Tensor dense(const Tensor& x, bool channels_last) {
  return torch::stable::contiguous(x, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
// Division rounding down and its remainder, also for negative a.
inline int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
inline int64_t floor_mod(int64_t a, int64_t b) { return a - floor_div(a, b) * b; }

// Geometry of [N, C, *] for the elementwise kernels: `count` pictures of `channels` x `pixels` values.
struct Layout3 {
  int64_t count, channels, pixels;
  bool channels_last;  // [count, pixels, channels] in memory instead of [count, channels, pixels]

  static Layout3 of(const Tensor& x) {
    int64_t pixels = 1;
    for (int64_t d = 2; d < x.dim(); ++d) pixels *= x.size(d);
    return {x.size(0), x.size(1), pixels, is_channels_last(x) || pixels == 1};
  }
};

}  // namespace unified
