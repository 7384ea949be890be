// Methods that are a quotient of two sums over the window (see method.h), on the CPU, for whole tensors. A plan's shape
// chooses among three ways: whole.h where each plane is one window, planes.h for small planes, ring.h for all others.
#pragma once

#include "planes.h"
#include "whole.h"

namespace onnxpool::ONNXPOOL_ISA {

// Small windows of float16 and bfloat16 are summed as float, whose rounding is far below theirs. For float32 it is not:
// ten roundings make 5 ULP, so its sums are double. Weights that are kept as sums, over depth, are of the sums' type.
template <template <class, class> class OfMethod, class T, class Value, class Kept, class Sum>
void steps_by_size(const Plan& plan, const Cells<T, OfMethod<Value, Sum>::kInputs>& inputs, T* y, int64_t begin,
                   int64_t end, void* scratch) {
  Memory memory(scratch);
  if constexpr (same<Kept, float>) {
    if (plan.small) {
      Planes<OfMethod, T, Sum> planes(plan, inputs, &memory);
      planes(begin, end, y, [&](int64_t plane) {
        Ring<OfMethod, T, Value, Kept, Sum>(plan, inputs, y, memory).step(plane);
      });
      return;
    }
  }
  Ring<OfMethod, T, Value, Kept, Sum> ring(plan, inputs, y, memory);
  for (int64_t i = begin; i < end; ++i) ring.step(i);
}

template <template <class, class> class OfMethod, class T, class Value>
void weighted_steps(const Plan& plan, const void* const* inputs, void* output, int64_t begin, int64_t end,
                    void* scratch) {
  constexpr int64_t kMostAdditions = 6;  // that a cell of a small window goes through: 3x3x3, 4x4
  Cells<T, OfMethod<Value, double>::kInputs> cells;
  for (const T*& input : cells.input) input = static_cast<const T*>(*inputs++);
  T* const y = static_cast<T*>(output);
  const int64_t additions = plan.depth.kernel + plan.height.kernel + plan.width.kernel - 3;
  if (plan.whole) return Whole<OfMethod, T, Value>(plan, cells, y, Memory(scratch))(begin, end);
  if constexpr (sizeof(T) < sizeof(float)) {
    if (additions <= kMostAdditions) {
      return steps_by_size<OfMethod, T, Value, float, float>(plan, cells, y, begin, end, scratch);
    }
  }
  if (plan.depth.kernel > 1 && !plan.small) {
    return steps_by_size<OfMethod, T, Value, double, double>(plan, cells, y, begin, end, scratch);
  }
  steps_by_size<OfMethod, T, Value, Value, double>(plan, cells, y, begin, end, scratch);
}

// Enough for every element type.
template <template <class, class> class OfMethod>
size_t weighted_scratch_bytes(const Plan& plan) {
  if (plan.whole) return Whole<OfMethod, double, double>::scratch_bytes(plan);
  const size_t ring = Ring<OfMethod, double, double, double, double>::scratch_bytes(plan);
  return plan.small ? ring + Planes<OfMethod, float, double>::scratch_bytes(plan) : ring;
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
