// What a ring keeps (see ring.h): w and p of every cell. An output row's are summed down the columns, then across.
#pragma once

#include "exact.h"

namespace onnxpool::ONNXPOOL_ISA {

// T is how a cell is stored, Value how it is computed with, Kept how weights are kept: as double where they are sums
// already, over depth, and Sum how they are summed (see weighted.h). In double's own sums what rounding loses is added.
template <class OfMethod, class T, class Value, class KeptAs, class SumAs>
class KeptCells {
 public:
  using Method = OfMethod;
  using Kept = KeptAs;
  using Sum = SumAs;
  static constexpr bool kAhead = true, kSummed = true;
  static constexpr size_t kInputs = Method::kInputs;

  static size_t scratch_bytes(const Plan& plan) {
    const int64_t cells = 4 * plan.ring * plan.tile_in + 4 * plan.tile_span + 4 * plan.tile;
    return static_cast<size_t>(cells * 8 + 12 * kPiece) + Room<Value, kInputs>::kBytes;
  }

  KeptCells(const Plan& plan, Memory* memory) : plan_(plan), room_(memory) {
    memory->take(plan.ring * plan.tile_in, &weights_, &products_);
    memory->take(kCareful ? plan.ring * plan.tile_in : 0, &lost_ring_weights_, &lost_ring_products_);
    memory->take(plan.tile_span, &column_weights_, &column_products_, &lost_column_weights_, &lost_column_products_);
    memory->take(plan.tile, &sum_weights_, &sum_products_, &lost_weights_, &lost_products_);
    clear_columns(0, plan.tile_span);
  }

  // Before the first row of a step: its tile has other padding than the step before.
  void start(const Row& row) {
    row_cells_ = row.end - row.begin;
    offset_ = row.begin - row.start;
    columns_ = row.columns;
    clear_columns(0, offset_);
    clear_columns(offset_ + row_cells_, plan_.tile_span);
  }

  // How many rows, of at most `rows` that follow each other in the ring, are put there at once.
  int64_t at_once(int64_t rows) const { return plan_.tiles == 1 ? rows : 1; }

  // Input rows into the ring; added to what is there, where the window has depth.
  void put(typename Method::Weigher weigher, const Cells<T, kInputs>& cells, int64_t slot, int64_t rows, bool add) {
    const int64_t at = slot * row_cells_, count = rows * row_cells_;
    for (int64_t i = 0; i < count; i += kChunk) {
      const int64_t own = least(kChunk, count - i);
      const Cells<Value, kInputs> wide = room_(cells + i, own);
      add ? weigh<true>(weigher, wide, own, at + i) : weigh<false>(weigher, wide, own, at + i);
    }
  }

  void complete(int64_t slot, int64_t rows) {
    for (int64_t i = slot * row_cells_; i < (slot + rows) * row_cells_ && kCareful; ++i) {
      weights_[i] += lost_ring_weights_[i];
      products_[i] += lost_ring_products_[i];
    }
  }

  // The sums over an output row's windows, in sum_weights() and sum_products().
  void sum(const Slots& under) {
    const int64_t cells = least(row_cells_, plan_.tile_span - offset_);
    down(weights_, under, cells, column_weights_ + offset_, lost_column_weights_ + offset_);
    down(products_, under, cells, column_products_ + offset_, lost_column_products_ + offset_);
    across(column_weights_, lost_column_weights_, sum_weights_, lost_weights_);
    across(column_products_, lost_column_products_, sum_products_, lost_products_);
  }
  const Sum* sum_weights() const { return sum_weights_; }
  const Sum* sum_products() const { return sum_products_; }

  // The quotients of these sums; returns how many cannot be trusted.
  int64_t quotients(const Slots& under, Value* results) {
    sum(under);
    const Sum least_sum = static_cast<Sum>(Trust<Value>::least_sum);
    return divide<Method>(sum_products_, sum_weights_, columns_, least_sum, results);
  }

 private:
  static constexpr bool kCareful = same<Value, double>;

  void clear_columns(int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      column_weights_[i] = column_products_[i] = lost_column_weights_[i] = lost_column_products_[i] = 0;
    }
  }

  template <bool kAdd>
  void weigh(typename Method::Weigher weigher, const Cells<Value, kInputs>& cells, int64_t count, int64_t at) {
    const Value *x = cells.x(), *logit = cells.logit();
    Kept *__restrict weights = weights_ + at, *__restrict products = products_ + at;
    Kept *__restrict lost_weights = lost_ring_weights_ + at, *__restrict lost_products = lost_ring_products_ + at;
    for (int64_t i = 0; i < count; ++i) {
      const Value own_weight = weigher(logit[i]);
      const Kept weight = static_cast<Kept>(own_weight);
      const Kept product = static_cast<Kept>(Method::factor(x[i], own_weight)) * weight;
      if (kAdd && kCareful) {
        add(weight, weights + i, lost_weights + i);
        add(product, products + i, lost_products + i);
      } else {
        weights[i] = kAdd ? weights[i] + weight : weight;
        products[i] = kAdd ? products[i] + product : product;
      }
      if (!kAdd && kCareful) lost_weights[i] = lost_products[i] = 0;
    }
  }

  void down(const Kept* ring, Slots under, int64_t count, Sum* sums, Sum* lost) const {
    const auto next = [this, ring, &under] { return ring + under.next() * row_cells_; };
    if constexpr (kCareful) {
      for (int64_t i = 0; i < count; ++i) sums[i] = lost[i] = 0;
      for (int64_t k = 0; k < under.rows; ++k) add_carefully(next(), 1, count, sums, lost);
    } else {
      sum_rows(under.rows, next, count, sums);
    }
  }

  void across(const Sum* columns, const Sum* lost_columns, Sum* __restrict sums, Sum* __restrict lost) const {
    const PlannedAxis& width = plan_.width;
    if (!kCareful) return sum_across(width, columns, columns_, sums);
    for (int64_t i = 0; i < columns_; ++i) sums[i] = lost[i] = 0;
    for (int64_t k = 0; k < width.kernel; ++k) {
      const Sum* const __restrict lost_shifted = lost_columns + k * width.dilation;
      add_carefully(columns + k * width.dilation, width.stride, columns_, sums, lost);
      for (int64_t i = 0; i < columns_; ++i) lost[i] += lost_shifted[i * width.stride];
    }
    for (int64_t i = 0; i < columns_; ++i) sums[i] += lost[i];
  }

  static void add_carefully(const Sum* __restrict row, int64_t step, int64_t count, Sum* __restrict sums,
                            Sum* __restrict lost) {
    for (int64_t i = 0; i < count; ++i) add(row[i * step], sums + i, lost + i);
  }

  const Plan& plan_;
  Room<Value, kInputs> room_;
  Kept *weights_, *products_, *lost_ring_weights_, *lost_ring_products_;
  Sum *column_weights_, *column_products_, *lost_column_weights_, *lost_column_products_;
  Sum *sum_weights_, *sum_products_, *lost_weights_, *lost_products_;
  int64_t row_cells_ = 0, offset_ = 0, columns_ = 0;
};

}  // namespace onnxpool::ONNXPOOL_ISA
