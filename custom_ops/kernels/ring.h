// Planes of any size, an output row at a time. Windows overlap, so a cell is weighed once and not once per window: rows
// of w and p are kept in a ring while later output rows need them, summed vertically, then across. A window whose sums
// are not ordinary numbers (far below or above its neighbours, infinite, NaN) is done again by itself.
#pragma once

#include "exact.h"

namespace onnxpool::ONNXPOOL_ISA {

// T is how a cell is stored, Value how it is computed with, Kept how weights are kept: as double where they are sums
// already, and Sum how they are summed (see weighted.h). In double's own sums what rounding loses is added up.
template <template <class, class> class OfMethod, class T, class Value, class Kept, class Sum>
class Ring {
  using Method = OfMethod<Value, Sum>;
  using Weigher = typename Method::Weigher;
  using OneByOne = Exact<OfMethod<Value, double>, T, Value, double>;
  static constexpr bool kCareful = same<Value, double>;
  static constexpr size_t kInputs = Method::kInputs;

 public:
  static size_t scratch_bytes(const Plan& plan) {
    const int64_t cells = 4 * plan.ring * plan.tile_in + 4 * plan.tile_span + 5 * plan.tile;
    return OneByOne::scratch_bytes(plan) + static_cast<size_t>(cells * 8 + 13 * kPiece);
  }

  Ring(const Plan& plan, const Cells<T, kInputs>& inputs, T* y, Memory memory)
      : plan_(plan), inputs_(inputs), y_(y), exact_(plan, inputs, &memory) {
    memory.take(plan.ring * plan.tile_in, &weights_, &products_);
    memory.take(kCareful ? plan.ring * plan.tile_in : 0, &lost_ring_weights_, &lost_ring_products_);
    memory.take(plan.tile_span, &column_weights_, &column_products_, &lost_column_weights_, &lost_column_products_);
    memory.take(plan.tile, &sum_weights_, &sum_products_, &lost_weights_, &lost_products_, &result_);
    clear_columns(0, plan.tile_span);
  }

  void step(int64_t index) {
    const PlannedAxis &depth = plan_.depth, &height = plan_.height, &width = plan_.width;
    const int64_t tile = index % plan_.tiles, band = index / plan_.tiles % plan_.bands;
    row_.plane = index / plan_.tiles / plan_.bands;
    const int64_t first_column = tile * plan_.tile;
    row_.columns = least(plan_.tile, width.out - first_column);
    row_.start = first_column * width.stride - width.pad;
    row_.begin = most(row_.start, 0);
    row_.end = plan_.tiles == 1 ? width.in
                                : least(width.in, row_.start + (row_.columns - 1) * width.stride + width.extent);
    const int64_t rows = depth.out * height.out, last = least((band + 1) * plan_.band, rows);
    T* out = y_ + row_.plane * rows * width.out + first_column;
    clear_columns(0, row_.begin - row_.start);  // padding, which the step before may have written to
    clear_columns(row_.end - row_.start, plan_.tile_span);
    int64_t z = -1, exact_rows = 0;
    for (int64_t row = band * plan_.band; row < last; ++row) {
      row_.h = row % height.out;
      if (row / height.out != z || row == band * plan_.band) {
        z = row / height.out;
        row_.z = z * depth.stride - depth.pad;
        const int64_t h_last = least(height.out, row_.h + last - row) - 1;
        fill_end_ = plan_.ring == height.in ? rows_end(height, h_last) : 0;
        start_ring();
      }
      if (exact_rows == 0 && !fast()) {
        start_ring();  // much of the row was out of range: once more, with a reference of its own
        if (!fast()) exact_rows = 16;
      }
      if (exact_rows > 0) {
        exact_(row_, 0, row_.columns, result_);
        --exact_rows;
      }
      narrow_all(result_, row_.columns, out + row * width.out);
    }
  }

 private:
  // From here on rows may be asked for: a dilated window that starts in the padding begins below, but not the next.
  int64_t rows_needed() const { return most(0, row_.h * plan_.height.stride - plan_.height.pad); }
  int64_t rows_end_here() const { return rows_end(plan_.height, row_.h); }
  int64_t row_cells() const { return row_.end - row_.begin; }
  Cells<T, kInputs> cells_at(int64_t z, int64_t h) const {
    return inputs_ + (row_at(plan_, row_.plane, z, h) + row_.begin);
  }

  void clear_columns(int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      column_weights_[i] = column_products_[i] = lost_column_weights_[i] = lost_column_products_[i] = 0;
    }
  }

  // Empties the ring. Where weights are exponentials, they are from now on relative to the largest logit under the
  // current output row, or thereabouts: any value near the logits will do.
  void start_ring() {
    filled_ = rows_needed();
    if (!Method::kExponential) return;
    Value largest = -ScaledExp<Value>::kMostReference;
    for (int64_t h = filled_; h < rows_end_here(); ++h) {
      largest = largest_of(cells_at(first_inside(plan_.depth, row_.z), h).logit(), row_cells(), largest);
    }
    weigher_ = Weigher(largest);
  }

  // Rows [from, to) of the ring get w and p, summed over the window's depth.
  void fill(int64_t from, int64_t to) {
    const PlannedAxis& depth = plan_.depth;
    for (int64_t h = from; h < to;) {
      const int64_t slot = h % plan_.ring;
      const int64_t rows = plan_.tiles == 1 ? least(to - h, plan_.ring - slot) : 1;  // contiguous ones at once
      const int64_t at = slot * row_cells(), count = rows * row_cells();
      bool first = true;
      for (int64_t z = first_inside(depth, row_.z); z < least(depth.in, row_.z + depth.extent); z += depth.dilation) {
        for (int64_t i = 0; i < count; i += kChunk) {
          const int64_t cells = least(kChunk, count - i);
          const Cells<Value, kInputs> wide = room_(cells_at(z, h) + i, cells);
          first ? weigh<false>(wide, cells, at + i) : weigh<true>(wide, cells, at + i);
        }
        first = false;
      }
      for (int64_t i = at; i < at + count && kCareful; ++i) {
        weights_[i] += lost_ring_weights_[i];
        products_[i] += lost_ring_products_[i];
      }
      h += rows;
    }
  }

  template <bool kAdd>
  void weigh(const Cells<Value, kInputs>& cells, int64_t count, int64_t at) {
    const Weigher weigher = weigher_;
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

  // result_ for one output row. False, and nothing, where many windows are out of range.
  bool fast() {
    const int64_t to = most(fill_end_, rows_end_here());
    filled_ = most(filled_, rows_needed());
    if (filled_ < to) fill(filled_, to);
    filled_ = most(filled_, to);

    const int64_t offset = row_.begin - row_.start, cells = least(row_cells(), plan_.tile_span - offset);
    sum_rows(weights_, column_weights_ + offset, lost_column_weights_ + offset, cells);
    sum_rows(products_, column_products_ + offset, lost_column_products_ + offset, cells);
    across(column_weights_, lost_column_weights_, sum_weights_, lost_weights_);
    across(column_products_, lost_column_products_, sum_products_, lost_products_);

    Sum least_sum = static_cast<Sum>(Trust<Value>::least_sum);
    int64_t bad = divide(sum_products_, sum_weights_, result_, row_.columns, least_sum);
    if (bad > 0 && Method::kExponential && !any_tiny_here()) {
      least_sum = 0;
      bad = divide(sum_products_, sum_weights_, result_, row_.columns, least_sum);
    }
    if (bad == 0) return true;
    if (bad * 8 > row_.columns) return false;  // one at a time they cost more than the row at once
    const auto good = [this, least_sum](int64_t i) {
      return trusted<Method, Value>(sum_products_[i], sum_weights_[i], least_sum);
    };
    for (int64_t i = 0; i < row_.columns;) {
      int64_t j = i;
      while (j < row_.columns && !good(j)) ++j;
      if (j > i) exact_(row_, i, j, result_);
      i = j + 1;
    }
    return true;
  }

  bool any_tiny_here() const {
    const PlannedAxis& depth = plan_.depth;
    bool any = false;
    for (int64_t z = first_inside(depth, row_.z); z < least(depth.in, row_.z + depth.extent); z += depth.dilation) {
      for (int64_t h = rows_begin(plan_.height, row_.h); h < rows_end_here(); h += plan_.height.dilation) {
        any = any || any_tiny<Value>(cells_at(z, h).x(), row_cells());
      }
    }
    return any;
  }

  // Returns how many of the quotients cannot be trusted.
  static int64_t divide(const Sum* __restrict products, const Sum* __restrict weights, Value* __restrict results,
                        int64_t count, Sum least_sum) {
    typename ExpConstants<Value>::Unsigned bad = 0;  // as wide as a cell, for the compiler's sake
    for (int64_t i = 0; i < count; ++i) {
      results[i] = static_cast<Value>(Method::quotient(products[i], weights[i]));
      bad += trusted<Method, Value>(products[i], weights[i], least_sum) ? 0U : 1U;
    }
    return static_cast<int64_t>(bad);
  }

  // The ring's rows under the window, summed; the first three in one pass, since that is all that most windows have.
  void sum_rows(const Kept* ring, Sum* __restrict sum, Sum* __restrict lost, int64_t count) const {
    const int64_t step = plan_.height.dilation, last = rows_end_here();
    int64_t h = rows_begin(plan_.height, row_.h), slot = h % plan_.ring - step;
    const auto next = [this, ring, step, &slot] {
      slot += step;
      if (slot >= plan_.ring) slot -= plan_.ring;
      return ring + slot * row_cells();
    };
    if (!kCareful && h + 2 * step < last) {
      const Kept *__restrict a = next(), *__restrict b = next(), *__restrict c = next();
      for (int64_t i = 0; i < count; ++i) sum[i] = Sum{a[i]} + Sum{b[i]} + Sum{c[i]};
      h += 3 * step;
    } else if (!kCareful && h + step < last) {
      const Kept *__restrict a = next(), *__restrict b = next();
      for (int64_t i = 0; i < count; ++i) sum[i] = Sum{a[i]} + Sum{b[i]};
      h += 2 * step;
    } else {
      const Kept* __restrict a = next();
      for (int64_t i = 0; i < count; ++i) sum[i] = Sum{a[i]};
      for (int64_t i = 0; i < count && kCareful; ++i) lost[i] = 0;
      h += step;
    }
    for (; h < last; h += step) {
      const Kept* __restrict a = next();
      for (int64_t i = 0; i < count && kCareful; ++i) add(Sum{a[i]}, sum + i, lost + i);
      for (int64_t i = 0; i < count && !kCareful; ++i) sum[i] += Sum{a[i]};
    }
  }

  void across(const Sum* columns, const Sum* lost_columns, Sum* __restrict sums, Sum* __restrict lost) const {
    const PlannedAxis& width = plan_.width;
    if (!kCareful) return sum_across(width, columns, row_.columns, sums);
    for (int64_t i = 0; i < row_.columns; ++i) sums[i] = lost[i] = 0;
    for (int64_t k = 0; k < width.kernel; ++k) {
      const Sum* __restrict shifted = columns + k * width.dilation;
      const Sum* __restrict lost_shifted = lost_columns + k * width.dilation;
      for (int64_t i = 0; i < row_.columns; ++i) {
        add(shifted[i * width.stride], sums + i, lost + i);
        lost[i] += lost_shifted[i * width.stride];
      }
    }
    for (int64_t i = 0; i < row_.columns; ++i) sums[i] += lost[i];
  }

  const Plan& plan_;
  const Cells<T, kInputs> inputs_;
  T* y_;
  OneByOne exact_;
  Room<Value, kInputs> room_;
  Kept *weights_, *products_, *lost_ring_weights_, *lost_ring_products_;
  Sum *column_weights_, *column_products_, *lost_column_weights_, *lost_column_products_;
  Sum *sum_weights_, *sum_products_, *lost_weights_, *lost_products_;
  Value* result_;

  Row row_;
  // Input rows below filled_ are in the ring, by weigher_; fill_end_ is how far it may be filled ahead.
  int64_t filled_ = 0, fill_end_ = 0;
  Weigher weigher_{0};
};

}  // namespace onnxpool::ONNXPOOL_ISA
