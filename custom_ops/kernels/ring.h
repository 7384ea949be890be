// Planes of any size, an output row at a time. Windows overlap, so a cell is weighed once and not once per window: what
// is made of an input row is kept in a ring while later output rows need it. A window whose sums are not ordinary
// numbers (far below or above its neighbours, infinite, NaN) is done again by itself.
#pragma once

#include "exact.h"

namespace onnxpool::ONNXPOOL_ISA {

// Kept is what the ring keeps, and how that is summed: KeptCells or KeptSums. With Kept::kAhead the ring is filled as
// far as it holds, for long loops, else no sooner than needed, so that all stays near. With Kept::kSummed quotients()
// leaves the sums behind.
template <class OneByOne, class T, class Value, class Kept>
class Ring {
  using Method = typename Kept::Method;
  using Sum = typename Kept::Sum;
  using Weigher = typename Method::Weigher;
  static constexpr size_t kInputs = Method::kInputs;

 public:
  static size_t scratch_bytes(const Plan& plan) {
    return OneByOne::scratch_bytes(plan) + Kept::scratch_bytes(plan) + static_cast<size_t>(plan.tile * 8 + kPiece);
  }

  Ring(const Plan& plan, const Cells<T, kInputs>& inputs, T* y, Memory memory)
      : plan_(plan), inputs_(inputs), y_(y), exact_(plan, inputs, &memory), kept_(plan, &memory) {
    memory.take(plan.tile, &result_);
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
    kept_.start(row_);
    const int64_t rows = depth.out * height.out, first = band * plan_.band, last = least(first + plan_.band, rows);
    T* out = y_ + (row_.plane * rows + first) * width.out + first_column;
    row_.h = first % height.out;
    int64_t z = first / height.out, exact_rows = 0;
    for (int64_t row = first; row < last; ++row, ++row_.h, out += width.out) {
      if (row_.h == height.out) {
        row_.h = 0;
        ++z;
      }
      if (row == first || row_.h == 0) {
        row_.z = z * depth.stride - depth.pad;
        const int64_t z_first = first_inside(depth, row_.z), z_last = least(depth.in, row_.z + depth.extent);
        slice_ = cells_at(z_first, 0);
        slices_ = (z_last - z_first + depth.dilation - 1) / depth.dilation;
        slice_step_ = depth.dilation * height.in * width.in;
        const int64_t h_last = least(height.out, row_.h + last - row) - 1;
        fill_end_ = rows_end(height, h_last);
        start_ring();
      }
      Value* result = result_;
      if constexpr (same<T, Value>) result = out;
      if (exact_rows == 0 && !fast(result)) {
        start_ring();  // much of the row was out of range: once more, with a reference of its own
        if (!fast(result)) exact_rows = 16;
      }
      if (exact_rows > 0) {
        exact_(row_, 0, row_.columns, result);
        --exact_rows;
      }
      if constexpr (!same<T, Value>) narrow_all(result, row_.columns, out);
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

  void skip_to(int64_t h) {
    filled_ = h;
    slot_ = h % plan_.ring;
  }

  // Empties the ring. Where weights are exponentials, they are from now on relative to the largest logit under the
  // current output row, or thereabouts: any value near the logits will do.
  void start_ring() {
    skip_to(rows_needed());
    if (!Method::kExponential) return;
    Value largest = -ScaledExp<Value>::kMostReference;
    for (int64_t h = filled_; h < rows_end_here(); ++h) {
      largest = largest_of(cells_at(first_inside(plan_.depth, row_.z), h).logit(), row_cells(), largest);
    }
    weigher_ = Weigher(largest);
  }

  void fill(int64_t to) {
    while (filled_ < to) {
      const int64_t rows = kept_.at_once(least(to - filled_, plan_.ring - slot_));
      Cells<T, kInputs> cells = slice_ + filled_ * plan_.width.in;
      for (int64_t k = 0; k < slices_; ++k) {
        kept_.put(weigher_, cells, slot_, rows, k > 0);
        cells = cells + slice_step_;
      }
      kept_.complete(slot_, rows);
      filled_ += rows;
      slot_ += rows;
      if (slot_ == plan_.ring) slot_ = 0;
    }
  }

  Slots under() const {
    const int64_t first = rows_begin(plan_.height, row_.h), step = plan_.height.dilation;
    const int64_t span = rows_end_here() - first, slot = slot_ - (filled_ - first);
    return {slot < 0 ? slot + plan_.ring : slot, step, plan_.ring, step == 1 ? span : (span + step - 1) / step};
  }

  // One output row. False, and nothing, where many windows are out of range.
  bool fast(Value* result) {
    if (filled_ < rows_needed()) skip_to(rows_needed());
    const int64_t end = rows_end_here();
    if (filled_ < end) fill(Kept::kAhead ? least(fill_end_, rows_needed() + plan_.ring) : end);
    int64_t bad = kept_.quotients(under(), result);
    if (bad == 0) return true;

    if (!Kept::kSummed) kept_.sum(under());
    const Sum *const products = kept_.sum_products(), *const weights = kept_.sum_weights();
    Sum least_sum = static_cast<Sum>(Trust<Value>::least_sum);
    if (Method::kExponential && !any_tiny_here()) {
      least_sum = 0;
      bad = divide<Method>(products, weights, row_.columns, least_sum, result);
    }
    if (bad * 8 > row_.columns) return false;  // one at a time they cost more than the row at once
    const auto good = [=](int64_t i) { return trusted<Method, Value>(products[i], weights[i], least_sum); };
    for (int64_t i = 0; bad > 0 && i < row_.columns;) {
      int64_t j = i;
      while (j < row_.columns && !good(j)) ++j;
      if (j > i) exact_(row_, i, j, result);
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

  const Plan& plan_;
  const Cells<T, kInputs> inputs_;
  T* y_;
  OneByOne exact_;
  Kept kept_;
  Value* result_;  // a row, where it is not stored as it is computed

  Row row_;
  // The input's slices under the windows: the first one's row 0, how many, how far apart.
  Cells<T, kInputs> slice_;
  int64_t slices_ = 0, slice_step_ = 0;
  // Input rows below filled_ are in the ring, by weigher_; that one's place is slot_. None from fill_end_ on is needed.
  int64_t filled_ = 0, slot_ = 0, fill_end_ = 0;
  Weigher weigher_{0};
};

}  // namespace onnxpool::ONNXPOOL_ISA
