// SoftPool's arithmetic on one window: y = sum x_i w_i, w = softmax(x) over the cells that are in the input
// (Stergiou et al., ICCV 2021), exactly as in onnxpool/pools/soft.py, written as
//
//   y = m + sum d_i exp(d_i) / sum exp(d_i),   m = max x,   d_i = x_i - m <= 0
//
// which cannot overflow: |d exp(d)| <= 0.37. With x a cell's value, -inf takes no part, NaN or +inf gives NaN, and so
// does a window of nothing but -inf.
#pragma once

#include "method.h"

namespace onnxpool::ONNXPOOL_ISA {

template <class Value, class Sum>
struct Soft {
  static constexpr const char* kName = "SoftPool";
  static constexpr size_t kInputs = 1;
  static constexpr bool kExponential = true;

  ALWAYS_INLINE static void see(Value x, Value, Value* top, Value*) { *top = x > *top ? x : *top; }
  ALWAYS_INLINE static void weigh(Value x, Value, Value top, Value, Sum* weight, Sum* product) {
    const Value below = x - top;
    const Value d = below < ExpConstants<Value>::floor ? ExpConstants<Value>::floor : below;  // no 0 * -inf; NaN stays
    *weight = static_cast<Sum>(ScaledExp<Value>(0)(d));
    *product = static_cast<Sum>(d) * *weight;
  }
  ALWAYS_INLINE static Value result(Sum products, Sum weights, Value top, Value) {
    return static_cast<Value>(static_cast<Sum>(top) + products / weights);
  }
};

}  // namespace onnxpool::ONNXPOOL_ISA
