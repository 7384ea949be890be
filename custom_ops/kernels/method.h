// What a pooling method that is a quotient of two sums over its window, y = sum p_i / sum w_i, says about itself.
//
//   kName, kInputs       the operator's type; the inputs, of one shape: values x, and logits l (where there are none, l = x)
//   kExponential         weights are exponentials, which need a reference to stay in range
//
//   see(x, l, &top, &size)                 one window by itself, right for every input, in two looks at its cells:
//   weigh(x, l, top, size, &w, &p)         `top` starts at -inf, `size` at 0, and padding has x = l = -inf
//   result(sum of p, sum of w, top, size)  y
//
// Plain functions of one cell, for window.h; the loops weigh cells a register at a time (weights.h).
#pragma once

#include "numeric.h"

namespace onnxpool::ONNXPOOL_ISA {

template <class T>
ALWAYS_INLINE inline T infinity() {
  return bits<T>(ExpConstants<T>::kMinusInfinity ^ (typename ExpConstants<T>::Unsigned{1} << (8 * sizeof(T) - 1)));
}

template <class T>
ALWAYS_INLINE inline T absolute(T x) {
  using Unsigned = typename ExpConstants<T>::Unsigned;
  return bits<T>(bits<Unsigned>(x) & (~Unsigned{0} >> 1));
}

// A power of two near a window's largest finite magnitude. Multiplying by `down` makes that 1 to 4 (or less, where it
// is below the normal numbers), exactly but for cells too small to matter.
template <class T>
struct Unit {
  using K = ExpConstants<T>;
  T down, up;

  ALWAYS_INLINE explicit Unit(T size) {
    using Unsigned = typename K::Unsigned;
    constexpr Unsigned kMost = 2 * K::kBias - 1;
    const Unsigned own = bits<Unsigned>(size) >> K::kMantissa, above = own < 1 ? 1 : own;
    const Unsigned exponent = above > kMost ? kMost : above;
    up = bits<T>(exponent << K::kMantissa);
    down = bits<T>((2 * K::kBias - exponent) << K::kMantissa);
  }

  // A mean of cells scaled down, back up; rounding does not take it beyond the largest of them.
  template <class Sum>
  ALWAYS_INLINE T result(Sum mean, T size) const {
    const Sum most = static_cast<Sum>(size * down);
    const bool beyond = absolute(mean) > most && absolute(mean) < infinity<Sum>();
    return static_cast<T>(beyond ? (mean < 0 ? -most : most) : mean) * up;
  }
};

}  // namespace onnxpool::ONNXPOOL_ISA
