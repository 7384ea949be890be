// Stochastic pooling's arithmetic on one window, in its evaluation form: y = sum a_i^2 / sum a_i, a = max(x, 0), over
// the cells that are in the input, and 0 where sum a = 0 (Zeiler and Fergus, ICLR 2013), exactly as in
// onnxpool/pools/stochastic.py. Values are taken relative to a power of two near the window's largest a, so that
// squares neither overflow nor vanish. NaN or +inf in the window gives NaN; -inf counts as 0.
#pragma once

#include "method.h"

namespace onnxpool::ONNXPOOL_ISA {

template <class Value>
struct Rectified {
  HOST_DEVICE explicit Rectified(Value) {}
  HOST_DEVICE Value operator()(Value x) const { return x < 0 ? 0 : x; }  // NaN stays
};

template <class Value, class Sum>
struct Stochastic {
  static constexpr const char* kName = "StochasticPool";
  static constexpr size_t kInputs = 1;
  static constexpr bool kExponential = false;
  using Weigher = Rectified<Value>;

  HOST_DEVICE static Value factor(Value, Value weight) { return weight; }
  HOST_DEVICE static Sum quotient(Sum products, Sum weights) { return weights == 0 ? 0 : products / weights; }

  HOST_DEVICE static void see(Value x, Value, Value*, Value* size) {
    *size = (x < infinity<Value>()) & (x > *size) ? x : *size;
  }
  HOST_DEVICE static void weigh(Value x, Value, Value, Value size, Sum* weight, Sum* product) {
    *weight = static_cast<Sum>(Weigher(0)(x) * Unit<Value>(size).down);
    *product = *weight * *weight;
  }
  HOST_DEVICE static Value result(Sum products, Sum weights, Value, Value size) {
    return Unit<Value>(size).result(quotient(products, weights), size);
  }
};

}  // namespace onnxpool::ONNXPOOL_ISA
