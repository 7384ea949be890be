// Small planes, several at a time: all their cells are weighed in one sweep, and all their output rows lie side by side
// for the sums across and the quotients, since loops over one short row are slow to start.
//
// Exponentials are taken relative to 1. A plane with a window whose sums cannot be trusted is done again by itself, as
// large planes are (see ring.h): the result depends on the plane alone.
#pragma once

#include "exact.h"

namespace onnxpool::ONNXPOOL_ISA {

template <template <class, class> class OfMethod, class T, class Sum>
class Planes {
  using Value = float;
  using Method = OfMethod<Value, Sum>;
  using Unsigned = typename ExpConstants<Value>::Unsigned;
  static constexpr size_t kInputs = Method::kInputs;
  static constexpr int64_t kSweep = 2048;  // cells

  // Output rows are `pitch` windows apart and their columns `pitch * stride`, so that windows do not end in the next.
  static int64_t pitch(const Plan& plan) {
    return (plan.tile_span + plan.width.stride - 1) / plan.width.stride;
  }
  static int64_t cells(const Plan& plan) { return plan.depth.in * plan.height.in * plan.width.in; }
  static int64_t windows(const Plan& plan) { return plan.depth.out * plan.height.out * pitch(plan); }
  static int64_t planes(const Plan& plan) {
    return most(1, least(plan.steps_per_task, kSweep / most(cells(plan), windows(plan) * plan.width.stride)));
  }

 public:
  static size_t scratch_bytes(const Plan& plan) {
    const int64_t at_once = planes(plan), all = at_once * windows(plan);
    const int64_t bytes = 2 * at_once * cells(plan) * 4 + all * (2 * plan.width.stride * 8 + 2 * 8 + 4 * 4);
    return static_cast<size_t>(bytes + 2 * plan.width.extent * 8 + 10 * kPiece) + Room<Value, kInputs>::kBytes;
  }

  Planes(const Plan& plan, const Cells<T, kInputs>& inputs, Memory* memory)
      : plan_(plan), pitch_(pitch(plan)), cells_(cells(plan)), windows_(windows(plan)), inputs_(inputs), room_(memory) {
    const int64_t at_once = planes(plan), all = at_once * windows_;
    const int64_t columns = all * plan.width.stride + plan.width.extent;
    memory->take(at_once * cells_, &weights_, &products_);
    memory->take(columns, &column_weights_, &column_products_);
    memory->take(all, &sum_weights_, &sum_products_, &result_, &real_, &bad_, &narrow_);
    for (int64_t i = 0; i < columns; ++i) column_weights_[i] = column_products_[i] = 0;  // what stays so is padding
    for (int64_t i = 0; i < all; ++i) real_[i] = i % pitch_ < plan.width.out ? 1 : 0;
  }

  // Planes [begin, end); `again(plane)` does one by itself.
  template <class Again>
  void operator()(int64_t begin, int64_t end, T* y, Again again) {
    const int64_t at_once = planes(plan_);
    for (int64_t plane = begin; plane < end; plane += at_once) {
      const int64_t count = least(at_once, end - plane);
      weigh(inputs_ + plane * cells_, count * cells_);
      for (int64_t i = 0; i < count; ++i) sum_plane(i);
      sum_across(plan_.width, column_weights_, count * windows_, sum_weights_);
      sum_across(plan_.width, column_products_, count * windows_, sum_products_);
      divide(count * windows_);
      const T* const results = narrowed(result_, count * windows_, narrow_);
      for (int64_t i = 0; i < count; ++i) {
        if (!good(plane + i, i)) again(plane + i);
        else write(results + i * windows_, y + (plane + i) * plan_.depth.out * plan_.height.out * plan_.width.out);
      }
    }
  }

 private:
  void weigh(const Cells<T, kInputs>& from, int64_t count) {
    for (int64_t i = 0; i < count; i += kChunk) {
      const int64_t own = least(kChunk, count - i);
      weigh_all<Method>(typename Method::Weigher(0), room_(from + i, own), own, weights_ + i, products_ + i);
    }
  }

  // The sums down the columns of each output row of the sweep's plane number i.
  void sum_plane(int64_t i) {
    const PlannedAxis &depth = plan_.depth, &height = plan_.height, &width = plan_.width;
    int64_t to = i * windows_ * width.stride + width.pad;
    for (int64_t z = 0; z < depth.out; ++z) {
      for (int64_t h = 0; h < height.out; ++h, to += pitch_ * width.stride) {
        bool first = true;
        for (int64_t d = first_inside(depth, z * depth.stride - depth.pad); d < rows_end(depth, z);
             d += depth.dilation) {
          sum_rows(i * cells_ + d * height.in * width.in, h, first, to);
          first = false;
        }
      }
    }
  }

  void sum_rows(int64_t slice, int64_t h, bool first, int64_t to) {
    const PlannedAxis& height = plan_.height;
    const int64_t width = least(plan_.width.in, plan_.tile_span - plan_.width.pad), step = height.dilation * plan_.width.in;
    const int64_t begin = rows_begin(height, h), end = rows_end(height, h);
    const int64_t rows = (end - begin + height.dilation - 1) / height.dilation;
    const int64_t from = slice + begin * plan_.width.in;
    sum_column(weights_ + from, step, rows, width, first, column_weights_ + to);
    sum_column(products_ + from, step, rows, width, first, column_products_ + to);
  }

  static void sum_column(const Value* __restrict from, int64_t step, int64_t rows, int64_t width, bool first,
                         Sum* __restrict to) {
    const Value *a = from, *b = from + step, *c = from + 2 * step;
    if (first && rows == 3) {
      for (int64_t i = 0; i < width; ++i) to[i] = Sum{a[i]} + Sum{b[i]} + Sum{c[i]};
      return;
    }
    if (first && rows == 2) {
      for (int64_t i = 0; i < width; ++i) to[i] = Sum{a[i]} + Sum{b[i]};
      return;
    }
    int64_t row = 0;
    if (first) {
      for (int64_t i = 0; i < width; ++i) to[i] = Sum{a[i]};
      row = 1;
    }
    for (; row < rows; ++row) {
      const Value* added = from + row * step;
      for (int64_t i = 0; i < width; ++i) to[i] += Sum{added[i]};
    }
  }

  void divide(int64_t count) {
    const Sum *__restrict products = sum_products_, *__restrict weights = sum_weights_;
    Value* __restrict result = result_;
    Unsigned *__restrict bad = bad_;
    for (int64_t i = 0; i < count; ++i) {
      result[i] = static_cast<Value>(Method::quotient(products[i], weights[i]));
      bad[i] = trusted<Method, Value>(products[i], weights[i], static_cast<Sum>(Trust<Value>::least_sum)) ? 0U : 1U;
    }
  }

  bool good(int64_t plane, int64_t i) const {
    const int64_t at = i * windows_;
    const Unsigned *bad = bad_ + at, *real = real_ + at;
    Unsigned count = 0;
    for (int64_t j = 0; j < windows_; ++j) count += bad[j] & real[j];
    if (count == 0) return true;
    if (!Method::kExponential || any_tiny<Value>((inputs_ + plane * cells_).x(), cells_)) return false;
    for (int64_t j = at; j < at + windows_; ++j) {
      if (real_[j] != 0 && !trusted<Method, Value>(sum_products_[j], sum_weights_[j], Sum{0})) return false;
    }
    return true;
  }

  void write(const T* from, T* y) const {
    const int64_t rows = plan_.depth.out * plan_.height.out, columns = plan_.width.out;
    for (int64_t row = 0; row < rows; ++row, from += pitch_) {
      for (int64_t j = 0; j < columns; ++j) *y++ = from[j];
    }
  }

  const Plan& plan_;
  const int64_t pitch_, cells_, windows_;
  const Cells<T, kInputs> inputs_;
  Room<Value, kInputs> room_;
  Value *weights_, *products_, *result_;
  Sum *column_weights_, *column_products_, *sum_weights_, *sum_products_;
  Unsigned *real_, *bad_;
  T* narrow_;
};

}  // namespace onnxpool::ONNXPOOL_ISA
