// Local importance pooling's arithmetic on one window: y = sum x_i exp(l_i) / sum exp(l_i) over the cells that are in
// the input, with logits l beside the values x (Gao et al., ICCV 2019), exactly as in
// onnxpool/pools/local_importance.py. Exponents are taken relative to the window's largest logit and values relative
// to a power of two near its largest |x|, so that nothing overflows; y lies between the window's values.
//
// A cell with logit -inf takes no part, whatever its x. Else NaN in x or l gives NaN, and so does a logit of +inf or a
// window of nothing but -inf; an infinite x gives that infinity however small its weight (both infinities: NaN).
#pragma once

#include "method.h"

namespace onnxpool::ONNXPOOL_ISA {

template <class Value, class Sum>
struct LocalImportance {
  static constexpr const char* kName = "LocalImportancePool";
  static constexpr size_t kInputs = 2;
  static constexpr bool kExponential = true;

  ALWAYS_INLINE static void see(Value x, Value logit, Value* top, Value* size) {
    const Value own = absolute(x);
    *top = logit > *top ? logit : *top;
    if (logit != -infinity<Value>() && own < infinity<Value>() && own > *size) *size = own;
  }
  ALWAYS_INLINE static void weigh(Value x, Value logit, Value top, Value size, Sum* weight, Sum* product) {
    const bool masked = logit == -infinity<Value>();
    const Value w = masked ? 0 : ScaledExp<Value>(0)(logit - top);
    const Sum value = static_cast<Sum>(masked ? 0 : x * Unit<Value>(size).down);
    *weight = static_cast<Sum>(w);
    *product = absolute(value) == infinity<Sum>() ? value : value * *weight;  // never 0 * inf
  }
  ALWAYS_INLINE static Value result(Sum products, Sum weights, Value, Value size) {
    return Unit<Value>(size).result(products / weights, size);
  }
};

}  // namespace onnxpool::ONNXPOOL_ISA
