// What each method says about one window, in two ways. Both are means of the cells x with weights w:
//
//   SoftPool (Stergiou et al., ICCV 2021)            w = exp(x)
//   local importance (Gao et al., ICCV 2019)         w = exp(l), l logits beside the values
//   stochastic, in its evaluation (Zeiler and Fergus, ICLR 2013)    w = x = max(x, 0), and 0 where all of these are 0
//
// exactly as in onnxpool/pools. A cell with x (l) = -inf takes no part. NaN gives NaN, and so does +inf in SoftPool, in
// logits and in stochastic pooling, and a window of nothing but -inf; under local importance an infinite x gives that
// infinity however small its weight (both infinities: NaN), and a cell whose logit is -inf may hold anything.
//
//   kName, kInputs       the operator's type; the inputs, of one shape: values x, and logits l (or l = x)
//
// Any window, right for every input, in two looks at its cells (pool.h):
//   see(x, l, &top, &size)                 `top` starts at -inf, `size` at 0, and padding has x = l = -inf
//   weigh(x, l, top, size, &w, &p)
//   result(sum of p, sum of w, top, size)  y
//
// A small window in registers (march.h), for ordinary inputs:
//   kOutside             x of padding, whose logits are -inf
//   clean(x)             what is kept of a cell
//   mean(window, &sure)  y; not `sure` where only the other way is right
#pragma once

#include "numeric.h"

namespace onnxpool::cuda {

// The cells of a window of kRows x kColumns.
template <size_t kRows, size_t kColumns>
struct Cells {
  float x[kRows][kColumns], logit[kRows][kColumns];
};

// The sum of term(row, column, sum so far) over a row, and of these over the rows: each term is rounded
// kRows + kColumns - 1 times at most.
template <size_t kRows, size_t kColumns, class Term>
GPU_HOST inline float sum(Term term) {
  float total = 0;
  for (size_t row = 0; row < kRows; ++row) {
    float across = term(row, 0, 0.0F);
    for (size_t column = 1; column < kColumns; ++column) across = term(row, column, across);
    total = row == 0 ? across : total + across;
  }
  return total;
}

// A mean in two looks: what the first one's sums and reciprocal err is a part of the distance from the mean that it
// found, and that distance, taken anew from the cells, is all that the second one adds.
template <size_t kRows, size_t kColumns>
GPU_HOST inline float second_look(const float (&x)[kRows][kColumns], const float (&w)[kRows][kColumns], float r,
                                  float first) {
  const float rest = sum<kRows, kColumns>(
      [&](size_t i, size_t j, float so_far) { return fmaf(w[i][j], x[i][j] - first, so_far); });
  return fmaf(rest, r, first);
}

template <size_t kRows, size_t kColumns>
GPU_HOST inline float largest(const float (&x)[kRows][kColumns]) {
  float top = x[0][0];
  for (size_t i = 0; i < kRows; ++i) {
    for (size_t j = 0; j < kColumns; ++j) top = fmaxf(top, x[i][j]);
  }
  return top;
}

// Exponentials relative to the largest logit, and their sum.
template <size_t kRows, size_t kColumns>
GPU_HOST inline float weights(const float (&logit)[kRows][kColumns], float top, float (&w)[kRows][kColumns]) {
  return sum<kRows, kColumns>([&](size_t i, size_t j, float so_far) {
    w[i][j] = exponential(logit[i][j] - top);
    return j == 0 ? w[i][j] : so_far + w[i][j];
  });
}

template <class Value>
struct Soft {
  static constexpr const char* kName = "SoftPool";
  static constexpr int kInputs = 1;

  GPU_HOST static void see(Value x, Value, Value* top, Value*) { *top = x > *top ? x : *top; }
  GPU_HOST static void weigh(Value x, Value, Value top, Value, Value* weight, Value* product) {
    constexpr Value kFloor = sizeof(Value) == 4 ? -200 : -1600;  // no 0 * -inf; NaN stays
    const Value below = x - top, d = below < kFloor ? kFloor : below;
    *weight = exponential(d);
    *product = d * *weight;
  }
  GPU_HOST static Value result(Value products, Value weights, Value top, Value) { return top + products / weights; }

  // -inf is kept as the lowest number: its weight is 0 all the same, and 0 times it is 0. Where that number is the
  // largest of a window, nobody can tell them apart: then the mean is that number, and not sure.
  static constexpr float kOutside = -kLargest<float>;
  GPU_HOST static float clean(float x) { return at_least(x, -kLargest<float>); }

  template <size_t kRows, size_t kColumns>
  GPU_HOST static float mean(const Cells<kRows, kColumns>& cells, bool* sure) {
    const auto& x = cells.x;
    const float top = largest(x);
    float w[kRows][kColumns];
    const float total = weights(x, top, w), r = rcp(total);
    const float below = sum<kRows, kColumns>(
        [&](size_t i, size_t j, float so_far) { return fmaf(w[i][j], x[i][j] - top, so_far); });
    const float y = second_look(x, w, r, fmaf(below, r, top));
    *sure = fabsf(y) < kLargest<float> || total != total;
    return y;
  }
};

template <class Value>
struct LocalImportance {
  static constexpr const char* kName = "LocalImportancePool";
  static constexpr int kInputs = 2;

  GPU_HOST static void see(Value x, Value logit, Value* top, Value* size) {
    const Value own = absolute(x);
    *top = logit > *top ? logit : *top;
    *size = (logit != -kInfinity<Value>) & (own < kInfinity<Value>) & (own > *size) ? own : *size;
  }
  GPU_HOST static void weigh(Value x, Value logit, Value top, Value size, Value* weight, Value* product) {
    const bool masked = logit == -kInfinity<Value>;
    const Value value = masked ? 0 : x * Unit<Value>(size).down;
    *weight = masked ? 0 : exponential(logit - top);
    *product = absolute(value) == kInfinity<Value> ? value : value * *weight;  // never 0 * inf
  }
  GPU_HOST static Value result(Value products, Value weights, Value, Value size) {
    return Unit<Value>(size).result(products / weights, size);
  }

  static constexpr float kOutside = 0;
  GPU_HOST static float clean(float x) { return x; }

  // What overflows, and an infinity or NaN among the values, which may be a masked cell's, ends as an infinity or NaN.
  template <size_t kRows, size_t kColumns>
  GPU_HOST static float mean(const Cells<kRows, kColumns>& cells, bool* sure) {
    const auto& x = cells.x;
    float w[kRows][kColumns];
    const float total = weights(cells.logit, largest(cells.logit), w), r = rcp(total);
    const float products = sum<kRows, kColumns>(
        [&](size_t i, size_t j, float so_far) { return fmaf(w[i][j], x[i][j], so_far); });
    const float y = second_look(x, w, r, products * r);
    *sure = fabsf(y) < kInfinity<float> || total != total;
    return y;
  }
};

template <class Value>
struct Stochastic {
  static constexpr const char* kName = "StochasticPool";
  static constexpr int kInputs = 1;

  GPU_HOST static void see(Value x, Value, Value*, Value* size) {
    *size = (x < kInfinity<Value>) & (x > *size) ? x : *size;
  }
  GPU_HOST static void weigh(Value x, Value, Value, Value size, Value* weight, Value* product) {
    *weight = (x < 0 ? 0 : x) * Unit<Value>(size).down;  // NaN stays
    *product = *weight * *weight;
  }
  GPU_HOST static Value result(Value products, Value weights, Value, Value size) {
    return Unit<Value>(size).result(weights == 0 ? 0 : products / weights, size);
  }

  static constexpr float kOutside = 0;
  GPU_HOST static float clean(float x) { return at_least(x, 0); }

  // Weights are shares, so that no square leaves the range; a sum near its ends has no reciprocal.
  template <size_t kRows, size_t kColumns>
  GPU_HOST static float mean(const Cells<kRows, kColumns>& cells, bool* sure) {
    const auto& x = cells.x;
    const float total = sum<kRows, kColumns>(
        [&](size_t i, size_t j, float so_far) { return j == 0 ? x[i][j] : so_far + x[i][j]; });
    const float r = rcp(total);
    float w[kRows][kColumns];
    const float first = sum<kRows, kColumns>([&](size_t i, size_t j, float so_far) {
      w[i][j] = x[i][j] * r;
      return fmaf(w[i][j], x[i][j], so_far);
    });
    const float y = second_look(x, w, 1, first);
    *sure = total == 0 || (total >= 0x1p-100F && total <= 0x1p+125F);
    return total == 0 ? 0 : y;
  }
};

}  // namespace onnxpool::cuda
