// Strips of windows of 3 x 3 cells, one apart. Rows are weighed into buffers, which the three rows of windows over them
// share; windows are made of columns of three cells, each summed once for three of them.
#pragma once

#include "rows.h"

namespace onnxpool::ONNXPOOL_ISA {

template <class Method, class T, Form kForm>
class StripsOneApart {
  using Value = Wide<T>;
  using V = Vec<Value>;
  using W = Weights<Method, Value, kForm == kScaled>;
  static constexpr bool kIsRanged = kForm == kRanged;
  static constexpr int64_t kN = kLanes<Value>, kSide = 3;
  static constexpr bool kLook = sizeof(T) > 2;
  static constexpr Value kSmallest = 0x1p-126F;
  // Where there are registers for it, columns go from one to the next; elsewhere a row's are stored first, and read again
  // one place to the left and to the right.
  static constexpr bool kInRegisters = kVectorBytes == 64;

 public:
  static constexpr int64_t kTile = kInRegisters ? 384 : 256;
  static constexpr size_t kRoomOfTile = static_cast<size_t>(kTile + 3 * kN);

  explicit StripsOneApart(const Slice<T>& slice) : slice_(slice) {}

  bool operator()(int64_t begin, int64_t end, int64_t from, int64_t to, bool carried, Scaling<Value>* scaling) {
    W weights(kSide * kSide, scaling->scale);
    if (kIsRanged && scaling->careful) weights.be_careful();
    int64_t next = begin - slice_.top + (carried ? kSide - 1 : 0);
    for (int64_t row = begin; row < end; ++row) {
      for (; next < row - slice_.top + kSide; ++next) weigh_row(next, from, to, &weights);
      pool_row(row, from, to, &weights);
      if (!kIsRanged && !weights.near(false)) return scaling->fail(weights);
    }
    return !kIsRanged || scaling->done(weights);
  }

 private:
  // A row's cells, from one register before the middle of the first window on.
  struct Row {
    alignas(kVectorBytes) Value x[kRoomOfTile], w[kRoomOfTile], n[kIsRanged ? kRoomOfTile : 1];

    INLINED void set(int64_t i, const Cells<Value>& cells) {
      store(cells.w, w + i);
      if constexpr (!W::kSquares) store(cells.x, x + i);
      if constexpr (kIsRanged) store(cells.n, n + i);
    }
    INLINED Cells<Value> get(int64_t i) const {
      Cells<Value> cells{load((W::kSquares ? w : x) + i), load(w + i), V{}};
      if constexpr (kIsRanged) cells.n = load(n + i);
      return cells;
    }
  };

  INLINED Row* row_of(int64_t h) { return rows_ + (h + kSide) % kSide; }

  // The cells from `column` on; those outside the row weigh nothing.
  template <bool kPart>
  INLINED Cells<Value> weigh(const T* x, const T* logits, int64_t column, W* weights) const {
    const int64_t left = slice_.width - column;
    const auto read = [&](const T* row) INLINED {
      return kPart ? load_part(row + column, Span<T>(-column, left)) : load(row + column);
    };
    Cells<Value> cells;
    cells.x = read(x);
    const V logit = Method::kInputs > 1 ? read(logits) : cells.x;
    if constexpr (kIsRanged) cells = weights->split(cells.x, logit);
    else cells.w = weights->weight(cells.x, logit);
    if constexpr (kPart) keep_within<kIsRanged>(lanes_between<Value>(-column, left), &cells);
    return cells;
  }

  INLINED void weigh_row(int64_t h, int64_t from, int64_t to, W* weights) {
    Row* const row = row_of(h);
    const bool inside = h >= 0 && h < slice_.height;
    const T *x = slice_.inputs.x + h * slice_.width, *logits = slice_.inputs.logit + h * slice_.width;
    const int64_t end = inside ? least(slice_.width, to - slice_.left + kSide - 1) : 0;
    int64_t column = from - slice_.left + 1, i = kN;
    row->set(0, inside && column > 0 ? weigh<true>(x, logits, column - kN, weights) : no_cells<Value>());
    for (; column < end && column + kN <= slice_.width; column += kN, i += kN) {
      row->set(i, weigh<false>(x, logits, column, weights));
    }
    for (; column < end; column += kN, i += kN) row->set(i, weigh<true>(x, logits, column, weights));
    for (; i < to - from + 3 * kN; i += kN) row->set(i, no_cells<Value>());
  }

  // Three cells one below the other, which three windows share: their weight, with that their mean, and what its rounding
  // left, sum w (x - mean); without a second look, their sum of products. In ranged form all are relative to 2^n.
  struct Column {
    V w, mean, rest, product, n;

    INLINED Column moved(V (*move)(V, V), const Column& other) const {
      return {move(w, other.w), move(mean, other.mean), move(rest, other.rest), move(product, other.product),
              move(n, other.n)};
    }
  };

  // The same of a whole row of windows.
  struct ColumnsOfRow {
    static constexpr size_t kRoom = kInRegisters ? 1 : kRoomOfTile;
    alignas(kVectorBytes) Value w[kRoom], mean[kRoom], rest[kRoom], n[kIsRanged ? kRoom : 1];

    INLINED void set(int64_t i, const Column& column) {
      store(column.w, w + i);
      store(kLook ? column.mean : column.product, mean + i);
      if constexpr (kLook) store(column.rest, rest + i);
      if constexpr (kIsRanged) store(column.n, n + i);
    }
    INLINED Column get(int64_t i) const {
      Column column{load(w + i), load(mean + i), V{}, load(mean + i), V{}};
      if constexpr (kLook) column.rest = load(rest + i);
      if constexpr (kIsRanged) column.n = load(n + i);
      return column;
    }
  };

  INLINED Column column_of(const Row* const (&rows)[kSide], int64_t i, W* weights) const {
    Cells<Value> cells[kSide];
    for (int64_t r = 0; r < kSide; ++r) cells[r] = rows[r]->get(i);
    Column column{};
    if constexpr (kIsRanged) {
      column.n = larger(cells[2].n, larger(cells[1].n, cells[0].n));
      const Relative<Value> relative(column.n);
      for (auto& cell : cells) cell.w = relative(cell.w, cell.n);
    }
    if constexpr (W::kSquares) for (auto& cell : cells) cell.x = cell.w;
    column.w = cells[0].w + cells[1].w + cells[2].w;
    column.product = fma(cells[2].w, cells[2].x, fma(cells[1].w, cells[1].x, cells[0].w * cells[0].x));
    if constexpr (!kIsRanged) weights->see(column.w, column.product);
    if constexpr (kLook) {
      column.mean = column.product * reciprocal(larger(all(kSmallest), column.w));  // 0 where nothing has a weight
      column.rest = cells[0].w * (cells[0].x - column.mean);
      for (int64_t r = 1; r < kSide; ++r) column.rest = fma(cells[r].w, cells[r].x - column.mean, column.rest);
    }
    return column;
  }

  INLINED V pool_columns(const Column (&columns)[kSide], W* weights) const {
    V top, factor[kSide], w[kSide], mean[kSide], rest[kSide];
    if constexpr (kIsRanged) top = larger(columns[2].n, larger(columns[1].n, columns[0].n));
    for (int64_t i = 0; i < kSide; ++i) {
      w[i] = columns[i].w, mean[i] = columns[i].mean, rest[i] = columns[i].rest;
      if constexpr (kIsRanged) {
        factor[i] = Relative<Value>(top)(all<Value>(1), columns[i].n);
        w[i] = w[i] * factor[i];
        if constexpr (W::kSquares) mean[i] = mean[i] * factor[i], rest[i] = rest[i] * factor[i];
      }
    }
    // Of what is relative to each column's 2^n.
    const auto sum_of = [&](V a, V b, V c) INLINED {
      if constexpr (kIsRanged) return fma(c, factor[2], fma(b, factor[1], a * factor[0]));
      return a + b + c;
    };
    const V sum = w[0] + w[1] + w[2];
    V y;
    if constexpr (kLook) {
      const V r = reciprocal(sum), y1 = fma(w[2], mean[2], fma(w[1], mean[1], w[0] * mean[0])) * r;
      const auto rest_of = [&](int64_t i) INLINED { return fma(columns[i].w, mean[i] - y1, rest[i]); };
      y = fma(sum_of(rest_of(0), rest_of(1), rest_of(2)), r, y1);
    } else {
      const auto product_of = [&](int64_t i) INLINED {
        return kIsRanged && W::kSquares ? columns[i].product * factor[i] : columns[i].product;
      };
      y = quotient(sum_of(product_of(0), product_of(1), product_of(2)), sum);
    }
    if constexpr (kIsRanged) return W::result_at(y, sum, top);
    return W::result(y, sum, weights->unscale());
  }

  INLINED void pool_row(int64_t output, int64_t from, int64_t to, W* weights) {
    const Row* rows[kSide];
    for (int64_t r = 0; r < kSide; ++r) rows[r] = row_of(output - slice_.top + r);
    T* const out = slice_.y + output * slice_.out_width + from;
    const int64_t count = to - from;
    const auto pool = [&](int64_t i, const Column (&columns)[kSide]) INLINED {
      const V y = pool_columns(columns, weights);
      if (count - i >= kN) store(y, out + i); else store_part(y, Span<T>(0, count - i), out + i);
    };
    if constexpr (kInRegisters) {
      Column before = column_of(rows, 0, weights), own = column_of(rows, kN, weights);
      for (int64_t i = 0; i < count; i += kN) {
        const Column next = column_of(rows, i + 2 * kN, weights);
        pool(i, {before.moved(after<Value>, own), own, own.moved(ahead<Value>, next)});
        before = own, own = next;
      }
    } else {
      for (int64_t i = 0; i < count + 2 * kN; i += kN) columns_.set(i, column_of(rows, i, weights));
      for (int64_t i = 0; i < count; i += kN) {
        pool(i, {columns_.get(i + kN - 1), columns_.get(i + kN), columns_.get(i + kN + 1)});
      }
    }
  }

  const Slice<T>& slice_;
  Row rows_[kSide];
  ColumnsOfRow columns_;
};

}  // namespace onnxpool::ONNXPOOL_ISA
