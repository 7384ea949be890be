// Any window, with channels in lanes that lie beside each other in memory: tensors in blocks of channels, as ONNX Runtime
// keeps them from one convolution to the next (its layout NCHWc). What planes in lanes are transposed to, these are (lanes.h).
#pragma once

#include "items.h"

namespace onnxpool::ONNXPOOL_ISA {

// Of windows without depth, and blocks of a multiple of the number of lanes. A unit is as many channels as there are lanes.
template <template <class, class> class OfMethod, class T>
class BlocksLoop : public ItemsLoop<BlocksLoop<OfMethod, T>, OfMethod, T> {
  using Base = ItemsLoop<BlocksLoop, OfMethod, T>;
  friend Base;
  friend Steps<BlocksLoop, T>;
  using Base::inputs_, Base::other_scale_, Base::plan_, Base::scale_, Base::schedule_, Base::scratch_, Base::y_, Base::kN;
  using typename Base::Value, typename Base::V, typename Base::Method, typename Base::W, typename Base::Sums;

 public:
  static Schedule schedule(const Plan& plan) { return Base::divide(plan, plan.planes / kN, 1); }

  using Base::Base;

 private:
  // Windows of 2 or 3 cells two apart have a loop of their own in plain form, with the same sums in the same order.
  template <bool kRanged>
  INLINED bool pool() {
    if constexpr (!kRanged) {
      const PlannedAxis &height = plan_.height, &width = plan_.width;
      const bool close = height.dilation == 1 && width.dilation == 1;
      if (close && height.kernel == width.kernel && height.stride == 2 && width.stride == 2) {
        if (width.kernel == 2) return strip<2>();
        if (width.kernel == 3) return strip<3>();
      }
    }
    return Base::template pool<kRanged>();
  }

  // Sums of weights and of products.
  struct Sum {
    V w, p;

    INLINED Sum operator+(const Sum& other) const { return {w + other.w, p + other.p}; }
  };

  // A row of the input, or one outside of it, which has no cells.
  struct Row {
    const T *x, *logit;
    bool inside;
  };
  INLINED Row row_at(int64_t row) const {
    const bool inside = row >= 0 && row < plan_.height.in;
    const int64_t start = plan_.cell_of(plane_, 0, inside ? row : 0, 0);
    return {inputs_.x + start, inputs_.logit + start, inside};
  }

  // With kEdge, columns may lie outside.
  template <bool kEdge>
  INLINED Sum cell(const Row& row, int64_t column, W* weights) const {
    if (kEdge && (!row.inside || column < 0 || column >= plan_.width.in)) return Sum{V{}, V{}};
    const V x = load(row.x + column * plan_.block);
    const V w = weights->weight(x, Method::kInputs > 1 ? load(row.logit + column * plan_.block) : x);
    const V product = w * (W::kSquares ? w : x);
    weights->see(w, product);
    return {w, product};
  }

  // Of one row's cells in the window at `column`. Of three, the last is the first of the next window.
  template <int kKernel, bool kEdge>
  INLINED Sum along(const Row& row, int64_t column, Sum* shared, W* weights) const {
    const Sum second = cell<kEdge>(row, column + 1, weights);
    if constexpr (kKernel == 2) return cell<kEdge>(row, column, weights) + second;
    const Sum first = *shared;
    *shared = cell<kEdge>(row, column + 2, weights);
    return first + second + *shared;
  }

  INLINED void keep(int64_t i, const Sum& sum) { scratch_[2 * i] = sum.w, scratch_[2 * i + 1] = sum.p; }

  // Each window of a row of outputs, by visit(edge, i): edge is a type that says whether columns may lie outside.
  template <int kKernel, class Visit>
  INLINED void each(bool inside, Visit visit) const {
    const int64_t left = left_, room = plan_.width.in - left - kKernel;
    int64_t begin = left < 0 ? 1 : 0, end = room < 0 ? 0 : least(columns_out_, room / 2 + 1);
    if (!inside || end < begin) begin = end = columns_out_;
    for (int64_t i = 0; i < begin; ++i) visit(std::true_type{}, i);
    for (int64_t i = begin; i < end; ++i) visit(std::false_type{}, i);
    for (int64_t i = end; i < columns_out_; ++i) visit(std::true_type{}, i);
  }

  // The first of three rows, of the topmost windows.
  INLINED void top(W* weights) {
    const Row row = row_at(row_out_ * 2 - plan_.height.pad);
    Sum shared = cell<true>(row, left_, weights);
    each<3>(row.inside, [&](auto edge, int64_t i) INLINED {
      keep(i, along<3, decltype(edge)::value>(row, left_ + 2 * i, &shared, weights));
    });
  }

  // The others of a row of outputs; the sums of the lowest are kept for those below.
  template <int kKernel>
  INLINED void pair(int64_t row_out, V unscale, W* weights) {
    const int64_t row = row_out * 2 - plan_.height.pad + (kKernel - 2);
    const Row upper = row_at(row), lower = row_at(row + 1);
    const int64_t block = plan_.block, next = row + 3 < plan_.height.in ? 2 * plan_.width.in * block : 0;
    T* const y = y_ + plan_.result_of(plane_, 0, row_out, column_out_);
    Sum shared_above{V{}, V{}}, shared_below = shared_above;
    if constexpr (kKernel == 3) {
      shared_above = cell<true>(upper, left_, weights), shared_below = cell<true>(lower, left_, weights);
    }
    each<kKernel>(upper.inside && lower.inside, [&](auto edge, int64_t i) INLINED {
      constexpr bool kEdge = decltype(edge)::value;
      const int64_t column = left_ + 2 * i;
      if constexpr (!kEdge) {
        fetch(upper, next + column * block), fetch(lower, next + column * block);
      }
      const Sum above = along<kKernel, kEdge>(upper, column, &shared_above, weights);
      const Sum below = along<kKernel, kEdge>(lower, column, &shared_below, weights);
      Sum sum = above;
      if constexpr (kKernel == 3) {
        sum = Sum{scratch_[2 * i], scratch_[2 * i + 1]} + above;
        keep(i, below);
      }
      sum = sum + below;
      store(W::result(quotient(sum.p, sum.w), sum.w, unscale), y + i * block);
    });
  }

  // The first two cells from `start` on, which are wanted soon.
  INLINED static void fetch(const Row& row, int64_t start) {
    for (int64_t i = start; i < start + 2 * kN; i += kN) {
      __builtin_prefetch(row.x + i, 0, 2);
      if constexpr (Method::kInputs > 1) __builtin_prefetch(row.logit + i, 0, 2);
    }
  }

  template <int kKernel>
  KEEP_CALL bool strip() {
    W weights(kKernel * kKernel, scale_);
    left_ = column_out_ * 2 - plan_.width.pad;
    if (kKernel == 3) top(&weights);
    for (int64_t r = 0; r < rows_out_; ++r) {
      pair<kKernel>(row_out_ + r, weights.unscale(), &weights);
      if (weights.near(true)) continue;
      other_scale_ = weights.other_scale();
      return false;
    }
    return true;
  }

  void place(int64_t step) {
    const PlannedAxis &height = plan_.height, &width = plan_.width;
    const Schedule& s = schedule_;
    const int64_t tile = step % s.tiles, band = step / s.tiles % s.bands;
    plane_ = step / s.tiles / s.bands * kN;
    row_out_ = band * s.band, rows_out_ = least(s.band, height.out - row_out_);
    column_out_ = tile * s.tile, columns_out_ = least(s.tile, width.out - column_out_);
    row_ = s.bands == 1 ? 0 : row_out_ * height.stride - height.pad;
    column_ = s.tiles == 1 ? 0 : column_out_ * width.stride - width.pad;
  }

  // Every cell of some rows of the item: its weight, and its value times that. Where the item has whole rows, these
  // follow each other without a gap, and so do the cells outside the input; else there is one row.
  template <bool kRanged>
  INLINED void weigh(int64_t, int64_t first, int64_t rows, Sums to, W* weights) const {
    const PlannedAxis &height = plan_.height, &width = plan_.width;
    const bool joined = schedule_.tiles == 1;
    const int64_t row = row_ + first, count = rows * schedule_.columns;
    const int64_t above = most(0, -row), left = least(rows, height.in - row);
    int64_t from = joined ? above * width.in : most(0, -column_);
    int64_t end = joined ? left * width.in : above == 0 && left > 0 ? least(count, width.in - column_) : 0;
    end = most(end, 0), from = least(from, end);
    const int64_t start = plan_.cell_of(plane_, 0, row, column_);
    for (int64_t i = 0; i < from; ++i) nothing<kRanged>(to + i);
    for (int64_t i = from; i < end; ++i) {
      const V x = load(inputs_.x + start + i * plan_.block);
      const V logit = Method::kInputs > 1 ? load(inputs_.logit + start + i * plan_.block) : x;
      Cells<Value> cells;
      if constexpr (kRanged) cells = weights->split(x, logit);
      else cells.x = x, cells.w = weights->weight(x, logit);
      const V product = cells.w * (W::kSquares ? cells.w : cells.x);
      to.w[i] = cells.w, to.p[i] = product;
      if constexpr (kRanged) to.n[i] = cells.n;
      else weights->see(cells.w, product);
    }
    for (int64_t i = end; i < count; ++i) nothing<kRanged>(to + i);
  }

  template <bool kRanged>
  INLINED static void nothing(Sums to) {
    *to.w = V{}, *to.p = V{};
    if constexpr (kRanged) *to.n = all(kNone<Value>);
  }

  INLINED void put(const V* results) const {
    for (int64_t r = 0; r < rows_out_; ++r) {
      T* const row = y_ + plan_.result_of(plane_, 0, row_out_ + r, column_out_);
      for (int64_t i = 0; i < columns_out_; ++i) store(results[r * schedule_.tile + i], row + i * plan_.block);
    }
  }

  // By the formula, where the result is NaN.
  KEEP_CALL void repair() const {
    for (int64_t lane = 0; lane < kN; ++lane) {
      for (int64_t r = 0; r < rows_out_; ++r) {
        T* const row = y_ + plan_.result_of(plane_ + lane, 0, row_out_ + r, 0);
        repair_row<OfMethod>(plan_, inputs_, plane_ + lane, 0, row_out_ + r, column_out_, column_out_ + columns_out_, row);
      }
    }
  }

  int64_t plane_ = 0, row_ = 0, column_ = 0;  // the first cell of the item
  int64_t left_ = 0;                           // the column of the first window
  int64_t row_out_ = 0, column_out_ = 0, rows_out_ = 0, columns_out_ = 0;
};

}  // namespace onnxpool::ONNXPOOL_ISA
