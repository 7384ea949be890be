// SoftPool's arithmetic on one window: y = sum x_i w_i, w = softmax(x) over the cells that are in the input
// (Stergiou et al., ICCV 2021), exactly as in onnxpool/pools/soft.py, written as
//
//   y = m + sum d_i exp(d_i) / sum exp(d_i),   m = max x,   d_i = x_i - m <= 0
//
// which cannot overflow: |d exp(d)| <= 0.37. With x a cell's value, -inf takes no part, NaN or +inf gives NaN, and so
// does a window of nothing but -inf.
#pragma once

#include "numeric.h"

namespace onnxpool::ONNXPOOL_ISA {

// d, cut off where exp(d) is 0, so that 0 * -inf cannot arise; NaN stays.
template <class T>
inline T soft_distance(T x, T maximum) {
  const T d = x - maximum;
  return d < ExpConstants<T>::floor ? ExpConstants<T>::floor : d;
}

template <class T, class Sum>
inline T soft_result(T maximum, Sum weights, Sum weighted_distances) {
  return static_cast<T>(static_cast<Sum>(maximum) + weighted_distances / weights);
}

}  // namespace onnxpool::ONNXPOOL_ISA
