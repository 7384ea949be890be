// Methods that are a quotient of two sums over the window (see method.h), on the CPU, for whole tensors. A plan's shape
// chooses among three ways: whole.h where each plane is one window, planes.h for small planes, ring.h for all others.
#pragma once

#include "planes.h"
#include "whole.h"

namespace onnxpool::ONNXPOOL_ISA {

template <template <class, class> class OfMethod, class T, class Value, class Kept>
void ring_steps(const Plan& plan, const Cells<T, OfMethod<Value, double>::kInputs>& inputs, T* y, int64_t begin,
                int64_t end, void* scratch) {
  Ring<OfMethod, T, Value, Kept> ring(plan, inputs, y, Memory(scratch));
  for (int64_t i = begin; i < end; ++i) ring.step(i);
}

template <template <class, class> class OfMethod, class T, class Value>
void weighted_steps(const Plan& plan, const void* const* inputs, void* output, int64_t begin, int64_t end,
                    void* scratch) {
  Cells<T, OfMethod<Value, double>::kInputs> cells;
  for (const T*& input : cells.input) input = static_cast<const T*>(*inputs++);
  T* const y = static_cast<T*>(output);
  const auto ring = plan.depth.kernel > 1 ? ring_steps<OfMethod, T, Value, double>
                                          : ring_steps<OfMethod, T, Value, Value>;
  if (plan.whole) {
    Whole<OfMethod, T, Value>(plan, cells, y, Memory(scratch))(begin, end);
  } else if constexpr (same<Value, float>) {
    if (!plan.small) return ring(plan, cells, y, begin, end, scratch);
    char* const rest = static_cast<char*>(scratch) + Planes<OfMethod, T>::scratch_bytes(plan) / kAlign * kAlign;
    Planes<OfMethod, T> planes(plan, cells, Memory(scratch));
    planes(begin, end, y, [&](int64_t plane) { ring(plan, cells, y, plane, plane + 1, rest); });
  } else {
    ring(plan, cells, y, begin, end, scratch);
  }
}

// Enough for every element type.
template <template <class, class> class OfMethod>
size_t weighted_scratch_bytes(const Plan& plan) {
  const size_t ring = Ring<OfMethod, double, double, double>::scratch_bytes(plan);
  if (plan.whole) return Whole<OfMethod, double, double>::scratch_bytes(plan);
  return plan.small ? ring + Planes<OfMethod, float>::scratch_bytes(plan) : ring;
}

template <template <class, class> class OfMethod>
constexpr Kernel weighted_kernel() {
  return {OfMethod<float, double>::kName,
          OfMethod<float, double>::kInputs,
          weighted_scratch_bytes<OfMethod>,
          {weighted_steps<OfMethod, float, float>, weighted_steps<OfMethod, double, double>,
           weighted_steps<OfMethod, Half, float>, weighted_steps<OfMethod, Bfloat, float>}};
}

}  // namespace onnxpool::ONNXPOOL_ISA
