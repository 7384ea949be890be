// What a ring keeps (see ring.h) where windows are two columns apart and overlap: for each input row the sums across it,
// one for each window; an output row's are these summed down. An input row's even cells and odd ones are weighed apart,
// so that what neighbouring windows read lies side by side, and need not be rearranged.
#pragma once

#include "exact.h"

namespace onnxpool::ONNXPOOL_ISA {

template <class OfMethod, class T, class Value, class SumAs>
class KeptSums {
 public:
  using Method = OfMethod;
  using Sum = SumAs;
  static constexpr bool kAhead = false, kSummed = false;
  static constexpr size_t kInputs = Method::kInputs;

  // Where it is the faster way. Sums as float convert nothing, and have less to gain.
  static bool fits(const Plan& plan) {
    const bool gains = !same<Sum, Value> || plan.height.kernel == 1;
    return gains && plan.depth.kernel == 1 && plan.width.stride == 2 && plan.width.kernel >= 3;
  }

  static size_t scratch_bytes(const Plan& plan) {
    const int64_t sums = 2 * (plan.ring + 1) * pitch(plan) + 2 * plan.tile;
    const int64_t rows = kTogether * 4 * half_pitch(plan);
    return static_cast<size_t>((sums + rows) * 8 + 8 * kPiece) + Room<Value, kInputs>::kBytes;
  }

  KeptSums(const Plan& plan, Memory* memory)
      : plan_(plan), pitch_(pitch(plan)), half_pitch_(half_pitch(plan)), padding_(padding(plan)), room_(memory) {
    memory->take((plan.ring + 1) * pitch_, &weights_, &products_);
    memory->take(kTogether * 2 * half_pitch_, &row_weights_, &row_products_);
    memory->take(plan.tile, &sum_weights_, &sum_products_);
    clear(weights_ + plan.ring * pitch_, products_ + plan.ring * pitch_, pitch_);
    clear(row_weights_, row_products_, kTogether * 2 * half_pitch_);
  }

  // Before the first row of a step: its tile may end where cells of the step before were.
  void start(const Row& row) {
    row_cells_ = row.end - row.begin;
    first_ = 2 * padding_ - (row.begin - row.start);
    columns_ = row.columns;
    for (int64_t half = 0; half < kTogether * 2 * half_pitch_; half += half_pitch_) {
      const int64_t from = half + padding_ + row_cells_ / 2;
      clear(row_weights_ + from, row_products_ + from, half + half_pitch_ - from);
    }
  }

  // How many rows, of at most `rows` that follow each other in the ring, are put there at once.
  int64_t at_once(int64_t rows) const {
    return plan_.tiles == 1 && rows * row_cells_ <= kChunk ? least(rows, kTogether) : 1;
  }

  // Input rows into the ring; it is for windows without depth, and `add` is false.
  KEEP_CALL void put(typename Method::Weigher weigher, const Cells<T, kInputs>& cells, int64_t slot, int64_t rows,
                     bool /*add*/) {
    for (int64_t i = 0; i < row_cells_; i += kChunk) {
      const int64_t own = least(kChunk, row_cells_ - i), at = padding_ + i / 2;
      const Cells<Value, kInputs> wide = room_(cells + i, rows * own);
      for (int64_t row = 0; row < rows; ++row) weigh(weigher, wide + row * own, own, row * row_pitch() + at);
    }
    for (int64_t row = 0; row < rows; ++row) across(row * row_pitch(), (slot + row) * pitch_);
  }

  void complete(int64_t, int64_t) {}

  // The sums over an output row's windows, in sum_weights() and sum_products().
  void sum(const Slots& under) {
    down(weights_, under, sum_weights_);
    down(products_, under, sum_products_);
  }
  const Sum* sum_weights() const { return sum_weights_; }
  const Sum* sum_products() const { return sum_products_; }

  // The quotients of these sums; returns how many cannot be trusted.
  int64_t quotients(Slots under, Value* results) {
    if (under.rows > 3) {
      sum(under);
      return divide<Method>(sum_products_, sum_weights_, columns_, static_cast<Sum>(Trust<Value>::least_sum), results);
    }
    int64_t at[3];
    for (int64_t k = 0; k < 3; ++k) at[k] = (k < under.rows ? under.next() : plan_.ring) * pitch_;
    return quotients_of_three(weights_, products_, at[0], at[1], at[2], columns_, results);
  }

 private:
  static constexpr int64_t kTogether = 2;  // rows
  static constexpr int64_t kLine = 16;     // numbers; rows begin on cache lines of their own

  static int64_t pitch(const Plan& plan) { return round_up(plan.tile, kLine); }
  // Before the even cells of a row, and before the odd ones: what windows of the first columns find there is 0.
  static int64_t padding(const Plan& plan) { return round_up((plan.width.pad + 1) / 2, kLine); }
  static int64_t half_pitch(const Plan& plan) {
    const int64_t cells = (most(plan.tile_span, plan.tile_in) + 1) / 2;
    return round_up(padding(plan) + cells + 1 + kLine, kLine);  // add_neighbours reads beyond
  }

  int64_t row_pitch() const { return 2 * half_pitch_; }

  template <class U>
  static void clear(U* __restrict weights, U* __restrict products, int64_t count) {
    for (int64_t i = 0; i < count; ++i) weights[i] = products[i] = 0;
  }

  void weigh(typename Method::Weigher weigher, const Cells<Value, kInputs>& cells, int64_t count, int64_t at) {
    Value *const weights = row_weights_ + at, *const products = row_products_ + at;
    weigh_pairs<Method>(weigher, cells.x(), cells.logit(), count / 2, weights, products, weights + half_pitch_,
                        products + half_pitch_);
    if (count % 2 == 0) return;
    weigh_all<Method>(weigher, cells + (count - 1), 1, weights + count / 2, products + count / 2);
  }

  // Where the k-th cell of the first window is in row_weights_.
  int64_t tap(int64_t k) const {
    const int64_t column = first_ + k * plan_.width.dilation;
    return (column & 1) * half_pitch_ + (column >> 1);
  }

  // Sums of three cells, the first window's at a, b and c. Times 1, since processors have other units for multiply-adds
  // than for additions, and busy the latter with the conversions to double.
  KEEP_CALL static void across_three(const Value* __restrict row_weights, const Value* __restrict row_products,
                                     int64_t a, int64_t b, int64_t c, int64_t count, Sum one, Sum* __restrict weights,
                                     Sum* __restrict products) {
    if constexpr (same<Sum, Value>) {
      for (int64_t i = 0; i < count; ++i) {
        weights[i] = row_weights[a + i] + row_weights[b + i] + row_weights[c + i];
        products[i] = row_products[a + i] + row_products[b + i] + row_products[c + i];
      }
    } else {
#if defined(__AVX512F__)
      if (c == a + 1) {
        add_neighbours(row_weights + a, row_weights + b, count, one, weights);
        add_neighbours(row_products + a, row_products + b, count, one, products);
        return;
      }
#endif
      for (int64_t i = 0; i < count; ++i) {
        weights[i] = (Sum{row_weights[a + i]} * one + Sum{row_weights[b + i]}) + Sum{row_weights[c + i]} * one;
        products[i] = (Sum{row_products[a + i]} * one + Sum{row_products[b + i]}) + Sum{row_products[c + i]} * one;
      }
    }
  }

  void across(int64_t from, int64_t to) {
    const Value *const weights = row_weights_ + from, *const products = row_products_ + from;
    if (plan_.width.kernel == 3) {
      return across_three(weights, products, tap(0), tap(1), tap(2), columns_, one_, weights_ + to, products_ + to);
    }
    int64_t k = 0, m = 0;
    sum_rows(plan_.width.kernel, [this, weights, &k] { return weights + tap(k++); }, columns_, weights_ + to);
    sum_rows(plan_.width.kernel, [this, products, &m] { return products + tap(m++); }, columns_, products_ + to);
  }

  void down(const Sum* ring, Slots under, Sum* sums) const {
    sum_rows(under.rows, [this, ring, &under] { return ring + under.next() * pitch_; }, columns_, sums);
  }

  KEEP_CALL static int64_t quotients_of_three(const Sum* __restrict weights, const Sum* __restrict products, int64_t a,
                                              int64_t b, int64_t c, int64_t count, Value* __restrict results) {
    typename ExpConstants<Sum>::Unsigned bad = 0;  // as wide as a sum, for the compiler's sake
    for (int64_t i = 0; i < count; ++i) {
      const Sum weight = weights[a + i] + weights[b + i] + weights[c + i];
      const Sum product = products[a + i] + products[b + i] + products[c + i];
      results[i] = static_cast<Value>(Method::quotient(product, weight));
      bad += trusted<Method, Value>(product, weight, static_cast<Sum>(Trust<Value>::least_sum)) ? 0U : 1U;
    }
    return static_cast<int64_t>(bad);
  }

  const Plan& plan_;
  const int64_t pitch_, half_pitch_, padding_;
  Room<Value, kInputs> room_;
  Sum *weights_, *products_;            // the ring, and a row of zeros after it
  Value *row_weights_, *row_products_;  // input rows, of each its even cells, then its odd ones
  Sum *sum_weights_, *sum_products_;
  Sum one_ = 1;  // a variable, or the compiler would leave the multiplications out
  int64_t row_cells_ = 0, columns_ = 0;
  int64_t first_ = 0;  // column of the first window, counted so that `padding_` cells of each kind are before the input
};

}  // namespace onnxpool::ONNXPOOL_ISA
