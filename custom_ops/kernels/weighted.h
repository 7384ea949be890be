// Methods that are a quotient of two sums over the window (see method.h), on the CPU, for whole tensors. A plan's shape
// chooses among three ways: whole.h where each plane is one window, planes.h for small planes, ring.h for all others.
#pragma once

#include "kept_cells.h"
#include "kept_sums.h"
#include "planes.h"
#include "ring.h"
#include "whole.h"

namespace onnxpool::ONNXPOOL_ISA {

template <class Ring, class T, class Cells>
void ring_steps(const Plan& plan, const Cells& inputs, T* y, int64_t begin, int64_t end, Memory memory) {
  Ring ring(plan, inputs, y, memory);
  for (int64_t i = begin; i < end; ++i) ring.step(i);
}

// Small windows of float16 and bfloat16 are summed as float, whose rounding is far below theirs. For float32 it is not:
// ten roundings make 5 ULP, so its sums are double. Cells' weights that are sums already, over depth, are so too.
template <template <class, class> class OfMethod, class T, class Value, class Sum>
void summed_steps(const Plan& plan, const Cells<T, OfMethod<Value, Sum>::kInputs>& inputs, T* y, int64_t begin,
                  int64_t end, Memory memory) {
  using Method = OfMethod<Value, Sum>;
  using OneByOne = Exact<OfMethod<Value, double>, T, Value, double>;
  using CellsRing = Ring<OneByOne, T, Value, KeptCells<Method, T, Value, Value, Sum>>;
  using DeepRing = Ring<OneByOne, T, Value, KeptCells<Method, T, Value, Sum, Sum>>;
  using SumsRing = Ring<OneByOne, T, Value, KeptSums<Method, T, Value, Sum>>;
  if constexpr (!same<Value, double>) {
    if (plan.small) {
      Planes<OfMethod, T, Sum> planes(plan, inputs, &memory);
      return planes(begin, end, y, [&](int64_t plane) { CellsRing(plan, inputs, y, memory).step(plane); });
    }
    if (KeptSums<Method, T, Value, Sum>::fits(plan)) {
      return ring_steps<SumsRing>(plan, inputs, y, begin, end, memory);
    }
  }
  if (plan.depth.kernel > 1) return ring_steps<DeepRing>(plan, inputs, y, begin, end, memory);
  ring_steps<CellsRing>(plan, inputs, y, begin, end, memory);
}

template <template <class, class> class OfMethod, class T, class Value>
void weighted_steps(const Plan& plan, const void* const* inputs, void* output, int64_t begin, int64_t end,
                    void* scratch) {
  constexpr int64_t kMostAdditions = 6;  // that a cell of a small window goes through: 3x3x3, 4x4
  Cells<T, OfMethod<Value, double>::kInputs> cells;
  for (const T*& input : cells.input) input = static_cast<const T*>(*inputs++);
  T* const y = static_cast<T*>(output);
  const Memory memory(scratch);
  if (plan.whole) return Whole<OfMethod, T, Value>(plan, cells, y, memory)(begin, end);
  if constexpr (sizeof(T) < sizeof(float)) {
    const int64_t additions = plan.depth.kernel + plan.height.kernel + plan.width.kernel - 3;
    if (additions <= kMostAdditions) return summed_steps<OfMethod, T, Value, float>(plan, cells, y, begin, end, memory);
  }
  summed_steps<OfMethod, T, Value, double>(plan, cells, y, begin, end, memory);
}

// Enough for every element type.
template <template <class, class> class OfMethod>
size_t weighted_scratch_bytes(const Plan& plan) {
  if (plan.whole) return Whole<OfMethod, double, double>::scratch_bytes(plan);
  using Method = OfMethod<double, double>;
  using OneByOne = Exact<Method, double, double, double>;
  using Sums = KeptSums<OfMethod<float, double>, float, float, double>;
  size_t ring = Ring<OneByOne, double, double, KeptCells<Method, double, double, double, double>>::scratch_bytes(plan);
  if (Sums::fits(plan)) {
    const size_t other = Ring<OneByOne, float, float, Sums>::scratch_bytes(plan);
    ring = other > ring ? other : ring;
  }
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
