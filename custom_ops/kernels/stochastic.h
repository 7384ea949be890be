// Stochastic pooling's arithmetic on one window, in its evaluation form: y = sum a_i^2 / sum a_i, a = max(x, 0), over
// the cells that are in the input, and 0 where sum a = 0 (Zeiler and Fergus, ICLR 2013), exactly as in
// onnxpool/pools/stochastic.py. Values are taken relative to a power of two near the window's largest a, so that
// squares neither overflow nor vanish. NaN or +inf in the window gives NaN; -inf counts as 0.
#pragma once

#include "method.h"

namespace onnxpool::ONNXPOOL_ISA {

template <class Value, class Sum>
struct Stochastic {
  static constexpr const char* kName = "StochasticPool";
  static constexpr size_t kInputs = 1;
  static constexpr bool kExponential = false;

  ALWAYS_INLINE static void see(Value x, Value, Value*, Value* size) {
    if (x < infinity<Value>() && x > *size) *size = x;
  }
  ALWAYS_INLINE static void weigh(Value x, Value, Value, Value size, Sum* weight, Sum* product) {
    *weight = static_cast<Sum>((x < 0 ? 0 : x) * Unit<Value>(size).down);  // NaN stays
    *product = *weight * *weight;
  }
  ALWAYS_INLINE static Value result(Sum products, Sum weights, Value, Value size) {
    return Unit<Value>(size).result(weights == 0 ? 0 : products / weights, size);
  }
};

}  // namespace onnxpool::ONNXPOOL_ISA
