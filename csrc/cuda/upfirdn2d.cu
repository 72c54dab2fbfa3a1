// upfirdn2d on CUDA devices, for filters of up to 32 x 32 taps.
//
// Channels outermost: a block reads a tile of one picture into shared memory and each thread writes a column of
// kStrip outputs, from registers where nothing is inserted (up = 1) and the filter has at most 4 x 4 taps.
// Channels innermost: a thread writes kStrip neighbouring columns of a few channels; what neighbours share comes
// from the cache.
#include "launch.h"

namespace unified {
namespace {

struct Geometry {
  int channels, in_height, in_width, out_height, out_width, up, down, left, top, taps_y, taps_x;
};

constexpr int kStrip = 4;
constexpr int kTileX = 64, kTileY = 16;  // outputs of a block: kThreads * kStrip
static_assert(kTileX * kTileY == kThreads * kStrip);

// Correlation form, gain included: weights[taps_y][taps_x].
template <class T>
__device__ void load_weights(Accumulator<T>* weights, const Accumulator<T>* filter, const Geometry& g, bool flip, double gain) {
  const int size = g.taps_y * g.taps_x;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  for (int i = thread; i < size; i += threads) {
    weights[i] = filter[flip ? i : size - 1 - i] * static_cast<Accumulator<T>>(gain);
  }
}

// Shared memory: weights, then the tile [tile_height][tile_width]. Down > 0: up = 1, at most 4 x 4 taps.
template <class T, int Down>
__global__ void __launch_bounds__(kThreads) planes_kernel(
    const T* x, const Accumulator<T>* filter, T* y, Geometry g, bool flip, double gain, int tiles_x, int tiles_y,
    int tile_width, int tile_height) {
  using Acc = Accumulator<T>;
  Acc* const weights = reinterpret_cast<Acc*>(shared_memory());
  Acc* const tile = weights + (Down > 0 ? 16 : g.taps_y * g.taps_x);
  const int64_t plane = blockIdx.x / (tiles_x * tiles_y);
  const int index = static_cast<int>(blockIdx.x % (tiles_x * tiles_y));
  const int out_x = index % tiles_x * kTileX, out_y = index / tiles_x * kTileY;
  const int low_x = floor_div_int(out_x * g.down - g.left, g.up), low_y = floor_div_int(out_y * g.down - g.top, g.up);
  const int thread = static_cast<int>(threadIdx.x);

  if (Down > 0) {
    // Padded with zeros to 4 x 4.
    if (thread < 16) {
      const int ty = thread / 4, tx = thread % 4;
      const bool inside = ty < g.taps_y && tx < g.taps_x;
      const int at = ty * g.taps_x + tx, size = g.taps_y * g.taps_x;
      weights[thread] = inside ? filter[flip ? at : size - 1 - at] * static_cast<Acc>(gain) : Acc(0);
    }
  } else {
    load_weights<T>(weights, filter, g, flip, gain);
  }
  const T* const in = x + plane * g.in_height * g.in_width;
  for (int i = thread; i < tile_width * tile_height; i += kThreads) {
    const int iy = low_y + i / tile_width, ix = low_x + i % tile_width;
    const bool inside = iy >= 0 && iy < g.in_height && ix >= 0 && ix < g.in_width;
    tile[i] = inside ? static_cast<Acc>(in[static_cast<int64_t>(iy) * g.in_width + ix]) : Acc(0);
  }
  __syncthreads();

  const int ox = out_x + thread % kTileX, oy = out_y + thread / kTileX * kStrip;
  if (ox >= g.out_width) return;
  Acc sum[kStrip] = {};
  if (Down > 0) {
    Acc weight[4][4];
#pragma unroll
    for (int t = 0; t < 16; ++t) weight[t / 4][t % 4] = weights[t];
    const Acc* const column = tile + (thread / kTileX * kStrip * Down) * tile_width + thread % kTileX * Down;
#pragma unroll
    for (int row = 0; row < (kStrip - 1) * Down + 4; ++row) {
      Acc value[4];
#pragma unroll
      for (int t = 0; t < 4; ++t) value[t] = column[row * tile_width + t];
#pragma unroll
      for (int o = 0; o < kStrip; ++o) {
        const int ty = row - o * Down;
        if (ty < 0 || ty >= 4) continue;
#pragma unroll
        for (int t = 0; t < 4; ++t) sum[o] += weight[ty][t] * value[t];
      }
    }
  } else {
    const int base_x = ox * g.down - g.left, first_x = floor_mod_int(-base_x, g.up);
#pragma unroll
    for (int o = 0; o < kStrip; ++o) {
      if (oy + o >= g.out_height) break;
      const int base_y = (oy + o) * g.down - g.top;
      for (int ty = floor_mod_int(-base_y, g.up); ty < g.taps_y; ty += g.up) {
        const Acc* const row = tile + (floor_div_int(base_y + ty, g.up) - low_y) * tile_width;
        int ix = floor_div_int(base_x + first_x, g.up) - low_x;
        for (int tx = first_x; tx < g.taps_x; tx += g.up, ++ix) sum[o] += weights[ty * g.taps_x + tx] * row[ix];
      }
    }
  }
  T* const out = y + plane * g.out_height * g.out_width;
#pragma unroll
  for (int o = 0; o < kStrip; ++o) {
    if (oy + o < g.out_height) out[static_cast<int64_t>(oy + o) * g.out_width + ox] = static_cast<T>(sum[o]);
  }
}

// Channels innermost. `Strip` columns a thread: 1, or kStrip where up = down = 1.
template <class T, int V, int Strip>
__global__ void __launch_bounds__(kThreads) last_kernel(
    const T* x, const Accumulator<T>* filter, T* y, Geometry g, bool flip, double gain, int64_t total) {
  using Acc = Accumulator<T>;
  Acc* const weights = reinterpret_cast<Acc*>(shared_memory());
  load_weights<T>(weights, filter, g, flip, gain);
  __syncthreads();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= total) return;
  const int vectors = g.channels / V, strips = (g.out_width + Strip - 1) / Strip;
  const int c = static_cast<int>(i % vectors) * V;
  const int64_t rest = i / vectors, line = rest / strips;
  const int ox = static_cast<int>(rest % strips) * Strip;
  const int oy = static_cast<int>(line % g.out_height);
  const int64_t n = line / g.out_height;
  const T* const in = x + n * g.in_height * g.in_width * g.channels + c;
  Acc sum[Strip][V] = {};
  const int base_x = ox * g.down - g.left, base_y = oy * g.down - g.top;
  const int first_x = floor_mod_int(-base_x, g.up);
  for (int ty = floor_mod_int(-base_y, g.up); ty < g.taps_y; ty += g.up) {
    const int iy = floor_div_int(base_y + ty, g.up);
    if (iy < 0 || iy >= g.in_height) continue;
    const T* const row = in + static_cast<int64_t>(iy) * g.in_width * g.channels;
    int ix = floor_div_int(base_x + first_x, g.up);
#pragma unroll 4
    for (int tx = first_x; tx < g.taps_x + Strip - 1; tx += g.up, ++ix) {
      if (ix < 0 || ix >= g.in_width) continue;
      const Vec<T, V> value = *reinterpret_cast<const Vec<T, V>*>(row + static_cast<int64_t>(ix) * g.channels);
#pragma unroll
      for (int o = 0; o < Strip; ++o) {
        const int t = tx - o;
        if (t < 0 || t >= g.taps_x) continue;
        const Acc weight = weights[ty * g.taps_x + t];
#pragma unroll
        for (int j = 0; j < V; ++j) sum[o][j] += weight * static_cast<Acc>(value.v[j]);
      }
    }
  }
#pragma unroll
  for (int o = 0; o < Strip; ++o) {
    if (ox + o >= g.out_width) break;
    Vec<T, V> out;
#pragma unroll
    for (int j = 0; j < V; ++j) out.v[j] = static_cast<T>(sum[o][j]);
    *reinterpret_cast<Vec<T, V>*>(y + ((n * g.out_height + oy) * g.out_width + ox + o) * g.channels + c) = out;
  }
}

template <class T>
Tensor run(const Tensor& given, const Tensor& filter, const Geometry& g, bool flip, double gain) {
  using Acc = Accumulator<T>;
  const bool last = is_channels_last(given);
  const Tensor x = dense(given, last);
  Tensor y = empty_of(x, {x.size(0), x.size(1), g.out_height, g.out_width}, scalar_type_of<T>(), last);
  if (y.numel() == 0) return y;
  const T* const in = static_cast<const T*>(x.const_data_ptr());
  const Acc* const f = static_cast<const Acc*>(filter.const_data_ptr());
  T* const out = static_cast<T*>(y.mutable_data_ptr());
  if (last) {
    constexpr int most = 16 / sizeof(T);
    const bool whole = g.channels % most == 0 && is_aligned(in, 16) && is_aligned(out, 16);
    const size_t shared = g.taps_x * g.taps_y * sizeof(Acc);
    const auto launch = [&](auto vector, auto strip) {
      constexpr int V = decltype(vector)::value, Strip = decltype(strip)::value;
      const int64_t total = x.size(0) * g.out_height * ceil_div(g.out_width, Strip) * (g.channels / V);
      const dim3 grid(static_cast<unsigned>(ceil_div(total, kThreads)));
      UNIFIED_LAUNCH((last_kernel<T, V, Strip>), grid, dim3(kThreads), shared, x, in, f, out, g, flip, gain, total);
    };
    using One = std::integral_constant<int, 1>;
    using Many = std::integral_constant<int, most>;
    using Four = std::integral_constant<int, kStrip>;
    const bool strip = g.up == 1 && g.down == 1;
    if (whole && strip) launch(Many{}, Four{});
    else if (whole) launch(Many{}, One{});
    else if (strip) launch(One{}, Four{});
    else launch(One{}, One{});
    return y;
  }
  const bool small = g.up == 1 && g.down <= 2 && g.taps_x <= 4 && g.taps_y <= 4;
  const int taps_x = small ? 4 : g.taps_x, taps_y = small ? 4 : g.taps_y;
  const int tile_width = ((kTileX - 1) * g.down + taps_x - 1) / g.up + 2;
  const int tile_height = ((kTileY - 1) * g.down + taps_y - 1) / g.up + 2;
  const int tiles_x = static_cast<int>(ceil_div(g.out_width, kTileX));
  const int tiles_y = static_cast<int>(ceil_div(g.out_height, kTileY));
  const size_t shared = (static_cast<size_t>(tile_width) * tile_height + (small ? 16 : taps_x * taps_y)) * sizeof(Acc);
  const int64_t blocks = x.size(0) * x.size(1) * tiles_x * tiles_y;
  STD_TORCH_CHECK(blocks < (int64_t{1} << 31) && shared <= 160 * 1024, "upfirdn2d: too large for the CUDA kernel");
  const dim3 grid(static_cast<unsigned>(blocks));
  if (small && g.down == 1) {
    UNIFIED_LAUNCH(
        (planes_kernel<T, 1>), grid, dim3(kThreads), shared, x, in, f, out, g, flip, gain, tiles_x, tiles_y,
        tile_width, tile_height);
  } else if (small) {
    UNIFIED_LAUNCH(
        (planes_kernel<T, 2>), grid, dim3(kThreads), shared, x, in, f, out, g, flip, gain, tiles_x, tiles_y,
        tile_width, tile_height);
  } else {
    UNIFIED_LAUNCH(
        (planes_kernel<T, 0>), grid, dim3(kThreads), shared, x, in, f, out, g, flip, gain, tiles_x, tiles_y,
        tile_width, tile_height);
  }
  return y;
}

Tensor upfirdn2d(
    const Tensor& x, const Tensor& filter, int64_t up, int64_t down, std::vector<int64_t> padding, bool flip,
    double gain) {
  STD_TORCH_CHECK(x.dim() == 4 && filter.dim() == 2 && padding.size() == 4, "upfirdn2d: wrong dimensions");
  STD_TORCH_CHECK(up >= 1 && down >= 1, "upfirdn2d: up and down must be at least 1");
  STD_TORCH_CHECK(filter.get_device_index() == x.get_device_index(), "upfirdn2d: the filter is on another device");
  const Tensor f = torch::stable::contiguous(filter);
  const int64_t kh = f.size(0), kw = f.size(1);
  const int64_t out_height = floor_div(x.size(2) * up + padding[2] + padding[3] - kh, down) + 1;
  const int64_t out_width = floor_div(x.size(3) * up + padding[0] + padding[1] - kw, down) + 1;
  STD_TORCH_CHECK(kh * kw > 0 && out_height > 0 && out_width > 0, "upfirdn2d: the result would be empty");
  STD_TORCH_CHECK(kh <= 32 && kw <= 32 && up <= 16 && down <= 16, "upfirdn2d: too large for the CUDA kernel");
  STD_TORCH_CHECK(
      f.scalar_type() == (x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float),
      "upfirdn2d: the filter has the wrong type");
  const auto i = [](int64_t value) { return static_cast<int>(value); };
  const Geometry g{i(x.size(1)), i(x.size(2)), i(x.size(3)), i(out_height), i(out_width), i(up), i(down),
                   i(padding[0]), i(padding[2]), i(kh), i(kw)};
  return with_type(x, [&](auto type) { return run<decltype(type)>(x, f, g, flip, gain); });
}

STABLE_TORCH_LIBRARY_IMPL(UNIFIED_NAMESPACE, UNIFIED_DISPATCH_KEY, m) { m.impl("upfirdn2d", TORCH_BOX(&upfirdn2d)); }

}  // namespace
}  // namespace unified
