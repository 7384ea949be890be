// Planes that are one window (global pooling): contiguous cells, weighed in long sweeps and summed in lanes.
//
// Exponentials are taken relative to 1, since most logits are near 0; where that leaves sums that cannot be trusted,
// once more relative to the largest logit, and then the window by itself. The result depends on the window alone.
#pragma once

#include "exact.h"

namespace onnxpool::ONNXPOOL_ISA {

// A sum of many numbers, as several sums side by side: one alone would wait for each addition. So many as kTogether are
// added as they are, then as double; what rounding loses is kept for double only.
template <class Value, int64_t kTogether>
class LaneSum {
  static constexpr bool kCareful = same<Value, double>;
  static constexpr int64_t kLanes = 8;

 public:
  void add_all(const Value* values, int64_t count) {
    int64_t i = 0;
    for (; i + kLanes * kTogether <= count; i += kLanes * kTogether) add_lanes<kTogether>(values + i);
    for (; i + kLanes <= count; i += kLanes) add_lanes<1>(values + i);
    for (; i < count; ++i) add_one(values[i], 0);
  }

  double total() const {
    double sum = 0, lost = 0;
    for (int64_t j = 0; j < kLanes; ++j) {
      if (kCareful) {
        add(sums_[j], &sum, &lost);
        lost += lost_[j];
      } else {
        sum += sums_[j];
      }
    }
    return sum + lost;
  }

 private:
  template <int64_t kCount>
  void add_lanes(const Value* values) {
    for (int64_t j = 0; j < kLanes; ++j) {
      Value together = values[j];
      for (int64_t k = 1; k < kCount; ++k) together += values[k * kLanes + j];
      add_one(together, j);
    }
  }

  void add_one(Value value, int64_t lane) {
    if (kCareful) add(double{value}, sums_ + lane, lost_ + lane);
    else sums_[lane] += double{value};
  }

  double sums_[8] = {}, lost_[8] = {};
};

template <template <class, class> class OfMethod, class T, class Value>
class Whole {
  using Sum = double;
  using Method = OfMethod<Value, Sum>;
  using Weigher = typename Method::Weigher;
  static constexpr size_t kInputs = Method::kInputs;

 public:
  static size_t scratch_bytes(const Plan& plan) {
    return Exact<Method, T, Value, Sum>::scratch_bytes(plan) + Room<Value, kInputs>::kBytes;
  }

  Whole(const Plan& plan, const Cells<T, kInputs>& inputs, T* y, Memory memory)
      : count_(plan.depth.in * plan.height.in * plan.width.in),
        inputs_(inputs),
        y_(y),
        exact_(plan, inputs, &memory),
        room_(&memory) {
    row_.columns = 1;
    row_.start = -plan.width.pad;
    row_.end = plan.width.in;
    row_.z = -plan.depth.pad;
  }

  // Planes [begin, end).
  void operator()(int64_t begin, int64_t end) {
    const int64_t at_once = most(1, kChunk / count_);
    for (int64_t plane = begin; plane < end; plane += at_once) {
      if (at_once == 1) {
        long_sums(plane, Weigher(0));
        finish(plane);
        continue;
      }
      const int64_t planes = least(at_once, end - plane);
      weigh(Weigher(0), cells(plane), planes * count_);
      for (int64_t i = 0; i < planes; ++i) {
        weight_ = product_ = {};
        weight_.add_all(weights_ + i * count_, count_);
        product_.add_all(products_ + i * count_, count_);
        finish(plane + i);
      }
    }
  }

 private:
  Cells<T, kInputs> cells(int64_t plane) const { return inputs_ + plane * count_; }

  // From the sums relative to 1 to the result.
  void finish(int64_t plane) {
    Value result;
    if (!quotient(plane, &result)) {
      long_sums(plane, Weigher(largest(plane)));
      row_.plane = plane;
      if (!Method::kExponential || !quotient(plane, &result)) exact_(row_, 0, 1, &result);
    }
    narrow(result, y_ + plane);
  }

  Value largest(int64_t plane) const {
    return largest_of(cells(plane).logit(), Method::kExponential ? count_ : 0, -ScaledExp<Value>::kMostReference);
  }

  void long_sums(int64_t plane, const Weigher& weigher) {
    weight_ = product_ = {};
    for (int64_t i = 0; i < count_; i += kChunk) {
      const int64_t count = least(kChunk, count_ - i);
      weigh(weigher, cells(plane) + i, count);
      weight_.add_all(weights_, count);
      product_.add_all(products_, count);
    }
  }

  void weigh(Weigher weigher, const Cells<T, kInputs>& from, int64_t count) {
    if constexpr (same<T, Half> && kHalfInstruction && Method::kExponential) {
      weigh_few<Method>(weigher, from, count, weights_, products_);
    } else {
      weigh_all<Method>(weigher, room_(from, count), count, weights_, products_);
    }
  }

  // False where it cannot be trusted.
  bool quotient(int64_t plane, Value* result) const {
    const Sum weight = weight_.total(), product = product_.total();
    *result = static_cast<Value>(Method::quotient(product, weight));
    if (trusted<Method, Value>(product, weight, static_cast<Sum>(Trust<Value>::least_sum))) return true;
    return Method::kExponential && trusted<Method, Value>(product, weight, Sum{0}) &&
           !any_tiny<Value>(cells(plane).x(), count_);
  }

  const int64_t count_;
  const Cells<T, kInputs> inputs_;
  T* y_;
  Exact<Method, T, Value, Sum> exact_;
  Room<Value, kInputs> room_;
  alignas(kAlign) Value weights_[kChunk], products_[kChunk];
  LaneSum<Value, sizeof(T) < sizeof(float) ? 3 : 1> weight_, product_;
  Row row_;
};

}  // namespace onnxpool::ONNXPOOL_ISA
