// One window by itself, by the method's formula: right for every input, and slow. For the few windows that the loops
// leave: those with cells too huge for the arithmetic of weights.h.
#pragma once

#include "cells.h"

namespace onnxpool::ONNXPOOL_ISA {

// Adds, and keeps what rounding lost (Knuth's two-sum): the error of a long sum would grow with its length.
inline void add(double value, double* sum, double* lost) {
  const double total = *sum + value, back = total - *sum;
  *lost += (*sum - (total - back)) + (value - back);
  *sum = total;
}

// First cell of a window that lies in the input, as a position.
INLINE int64_t first_inside(const PlannedAxis& axis, int64_t start) {
  return start >= 0 ? start : start + (-start + axis.dilation - 1) / axis.dilation * axis.dilation;
}

// A tensor's inputs: values, and logits, which are the values where a method has none.
template <class T>
struct Inputs {
  const T *x, *logit;
};

template <template <class, class> class OfMethod, class T>
KEEP_CALL T pool_window(const Plan& plan, const Inputs<T>& inputs, int64_t plane, int64_t z, int64_t h, int64_t w) {
  using Value = Wide<T>;
  using Method = OfMethod<Value, double>;
  const PlannedAxis* const axes[] = {&plan.depth, &plan.height, &plan.width};
  const int64_t at[] = {z, h, w};
  int64_t first[3], end[3];
  for (int i = 0; i < 3; ++i) {
    const int64_t start = at[i] * axes[i]->stride - axes[i]->pad;
    first[i] = first_inside(*axes[i], start);
    end[i] = least(axes[i]->in, start + axes[i]->extent);
  }
  const auto each = [&](auto visit) {
    for (int64_t i = first[0]; i < end[0]; i += plan.depth.dilation) {
      for (int64_t j = first[1]; j < end[1]; j += plan.height.dilation) {
        for (int64_t k = first[2]; k < end[2]; k += plan.width.dilation) {
          const int64_t cell = plan.cell_of(plane, i, j, k);
          visit(widen(inputs.x[cell]), widen(inputs.logit[cell]));
        }
      }
    }
  };
  Value top = -infinity<Value>(), size = 0;
  each([&](Value x, Value logit) { Method::see(x, logit, &top, &size); });
  double weights = 0, products = 0, lost_weights = 0, lost_products = 0;
  each([&](Value x, Value logit) {
    double weight, product;
    Method::weigh(x, logit, top, size, &weight, &product);
    add(weight, &weights, &lost_weights);
    add(product, &products, &lost_products);
  });
  // What a sum that became infinite has lost is NaN.
  const double lost = lost_products == lost_products ? lost_products : 0;
  T y;
  narrow(Method::result(products + lost, weights + lost_weights, top, size), &y);
  return y;
}

// Those of the outputs [from, to) of a row, which begins at `row`, that are NaN.
template <template <class, class> class OfMethod, class T>
KEEP_CALL void repair_row(const Plan& plan, const Inputs<T>& inputs, int64_t plane, int64_t z, int64_t h,
                          int64_t from, int64_t to, T* row) {
  for (int64_t i = from; i < to; ++i) {
    const Wide<T> y = widen(row[i * plan.block]);
    if (y != y) row[i * plan.block] = pool_window<OfMethod>(plan, inputs, plane, z, h, i);
  }
}

}  // namespace onnxpool::ONNXPOOL_ISA
