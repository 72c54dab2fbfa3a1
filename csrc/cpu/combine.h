// Weighted sums of rows: the one inner loop of all filters on the CPU.
#pragma once

#include <cstdint>

namespace unified {

template <int Taps, bool Add, class Source, class Acc>
inline void combine_fixed(
    Acc* __restrict out, int64_t size, const Source* const* __restrict sources, const Acc* weights) {
  const Source* __restrict source[Taps];
  Acc weight[Taps];
  for (int t = 0; t < Taps; ++t) {
    source[t] = sources[t];
    weight[t] = weights[t];
  }
#pragma GCC ivdep
  for (int64_t j = 0; j < size; ++j) {
    Acc sum = Add ? out[j] : Acc(0);
#pragma GCC unroll 8
    for (int t = 0; t < Taps; ++t) sum += weight[t] * static_cast<Acc>(source[t][j]);
    out[j] = sum;
  }
}

template <bool Add, class Source, class Acc>
inline void combine_up_to_8(
    Acc* out, int64_t size, int taps, const Source* const* sources, const Acc* weights) {
  switch (taps) {
    case 1: return combine_fixed<1, Add>(out, size, sources, weights);
    case 2: return combine_fixed<2, Add>(out, size, sources, weights);
    case 3: return combine_fixed<3, Add>(out, size, sources, weights);
    case 4: return combine_fixed<4, Add>(out, size, sources, weights);
    case 5: return combine_fixed<5, Add>(out, size, sources, weights);
    case 6: return combine_fixed<6, Add>(out, size, sources, weights);
    case 7: return combine_fixed<7, Add>(out, size, sources, weights);
    default: return combine_fixed<8, Add>(out, size, sources, weights);
  }
}

// out[j] = (add ? out[j] : 0) + sum over t of weights[t] sources[t][j], 0 <= j < size.
template <class Source, class Acc>
inline void combine(
    Acc* out, int64_t size, int taps, const Source* const* sources, const Acc* weights, bool add) {
  if (taps == 0 && !add) {
    for (int64_t j = 0; j < size; ++j) out[j] = Acc(0);
  }
  while (taps > 0) {
    const int now = taps < 8 ? taps : 8;
    if (add) combine_up_to_8<true>(out, size, now, sources, weights);
    else combine_up_to_8<false>(out, size, now, sources, weights);
    taps -= now, sources += now, weights += now;
    add = true;
  }
}

}  // namespace unified
