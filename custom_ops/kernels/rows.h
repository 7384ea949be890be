// Windows of 2 or 3 columns and rows without dilation, side by side along rows: each lane is an output. Every cell is
// weighed once, and what windows below need again of a row is kept in a buffer on the stack. Where windows are two
// columns apart, even and odd places are taken apart; the third column is the odd one of the lane before. Windows one
// apart are made of columns, each summed once for three of them.
//
// y = P / W with P = sum w x, W = sum w would err by several ULP. A second look takes away most of that:
// y1 = P / W, y = y1 + sum w (x - y1) / W, whose roundings are relative to how far cells lie from y1 (or, with columns,
// from their means, and these from y1). Short cells, which round more than that themselves, go without.
#pragma once

#include "weights.h"
#include "window.h"

namespace onnxpool::ONNXPOOL_ISA {

constexpr int64_t kStrip = 8;  // output rows after which the form of weights is chosen anew

enum Form { kPlain, kScaled, kRanged };  // of weights; scaled is plain, and only rectified ones have it

// More about a strip's form, and what it says about that of the next one.
template <class Value>
struct Scaling {
  Value scale = 1, other_scale = 0;
  bool careful = false, calm = false;  // of ranged form; whether plain form would do

  template <class W>
  INLINED bool fail(const W& weights) {
    other_scale = weights.other_scale();
    return false;
  }
  template <class W>
  INLINED bool done(const W& weights) {
    calm = weights.calm();
    return weights.right();
  }
};

// The rows of one plane's slice, and the windows over them.
template <class T>
struct Slice {
  Inputs<T> inputs, inputs_of_tensor;
  T* y;
  int64_t height, width;      // of the input
  int64_t out_width;
  int64_t top, left;          // padding
};

// The taps of a lane's window in one row.
template <class Value, size_t kSide>
struct Taps {
  Cells<Value> tap[kSide];
};

// y of the windows whose cells are the rows' taps; `n` is not used in plain form.
template <bool kRanged, bool kLook, size_t kSide, class Value, class Weights>
INLINE Vec<Value> pool_taps(Taps<Value, kSide> (&rows)[kSide], Weights* weights) {
  using V = Vec<Value>;
  V top;
  if constexpr (kRanged) {
    top = rows[0].tap[0].n;
    for (auto& row : rows) for (auto& tap : row.tap) top = larger(tap.n, top);
    for (auto& row : rows) for (auto& tap : row.tap) tap.w = scaled<Value>(tap.w, tap.n - top);
  }
  if constexpr (Weights::kSquares) for (auto& row : rows) for (auto& tap : row.tap) tap.x = tap.w;
  V W, P;
  for (size_t i = 0; i < kSide; ++i) {
    const auto& tap = rows[i].tap;
    V w = tap[0].w, p = tap[0].w * tap[0].x;
    for (size_t j = 1; j < kSide; ++j) w = w + tap[j].w, p = fma(tap[j].w, tap[j].x, p);
    W = i == 0 ? w : W + w;
    P = i == 0 ? p : P + p;
  }
  if constexpr (!kRanged) weights->see(W, P);
  V y;
  if constexpr (kLook) {
    const V r = reciprocal(W), y1 = P * r;
    V rest;
    for (size_t i = 0; i < kSide; ++i) {
      const auto& tap = rows[i].tap;
      V own = tap[0].w * (tap[0].x - y1);
      for (size_t j = 1; j < kSide; ++j) own = fma(tap[j].w, tap[j].x - y1, own);
      rest = i == 0 ? own : rest + own;
    }
    y = fma(rest, r, y1);
  } else {
    y = quotient(P, W);
  }
  if constexpr (kRanged) return Weights::result_at(y, W, top);
  return Weights::result(y, W, weights->unscale());
}

// Windows of kSide x kSide cells, two apart. All in registers, but for the row that windows below need again.
template <class Method, class T, size_t kSide, Form kForm>
class StripsTwoApart {
  using Value = Wide<T>;
  using V = Vec<Value>;
  using W = Weights<Method, Value, kForm == kScaled>;
  static constexpr bool kIsRanged = kForm == kRanged;
  static constexpr int64_t kN = kLanes<Value>;
  static constexpr bool kCarries = kSide == 3, kLook = sizeof(T) > 2;

 public:
  static constexpr int64_t kTile = 2048 / static_cast<int64_t>(sizeof(Value));  // output columns at most
  static constexpr size_t kRoomOfTile = static_cast<size_t>(kTile / kN + 2);

  explicit StripsTwoApart(const Slice<T>& slice) : slice_(slice) {}

  // Outputs [from, to) of output rows [begin, end). With `carried`, the strip before has been done by this object.
  // False where weights are out of range: then outputs are not right. Ranged: false where that needs care.
  bool operator()(int64_t begin, int64_t end, int64_t from, int64_t to, bool carried, Scaling<Value>* scaling) {
    W weights(kSide * kSide, scaling->scale);
    if (kIsRanged && scaling->careful) weights.be_careful();
    if (kCarries && !carried) start_carry(begin * 2 - slice_.top, from, to, &weights);
    for (int64_t row = begin; row < end; ++row) {
      output_row(row, from, to, &weights);
      if (!kIsRanged && !weights.near(false)) return scaling->fail(weights);
    }
    return !kIsRanged || scaling->done(weights);
  }

 private:
  struct Row {
    const T *x, *logit;
    bool inside;
  };
  // A row outside the input is one of no weight; its cells are those of a row that every window over it has.
  INLINED Row row_at(int64_t h, int64_t other) const {
    const bool inside = h >= 0 && h < slice_.height;
    const int64_t offset = (inside ? h : other) * slice_.width;
    return {slice_.inputs.x + offset, slice_.inputs.logit + offset, inside};
  }

  // Which of the cells from a column on are in the input, and which of these are at even and odd places.
  struct Edge {
    int64_t column;
    Span<T> first, second;
    Ints<Value> even, odd;

    INLINED Edge(int64_t at, int64_t left)
        : column(at), first(-at, left), second(-at - kN, left - kN),
          even(lanes_between<Value>((1 - at) / 2, (left + 1) / 2)), odd(lanes_between<Value>(-at / 2, left / 2)) {}
  };
  // A row has two of them, and the next row the same.
  INLINED const Edge* edge_at(int64_t column, bool end) {
    Edge* const edge = edges_ + end;
    if (edge->column != column) *edge = Edge(column, slice_.width - column);
    return edge;
  }

  // Even and odd cells from this column on.
  template <bool kPart>
  INLINED void load_pair(const T* row, int64_t column, const Edge* edge, V* even, V* odd) const {
    const T* const at = row + column;
    const V a = kPart ? load_part(at, edge->first) : load(at);
    const V b = kPart ? load_part(at + kN, edge->second) : load(at + kN);
    *even = evens<Value>(a, b), *odd = odds<Value>(a, b);
  }

  template <bool kPart>
  INLINED void weigh_row(W* weights, const Row& row, int64_t column, const Edge* edge, Cells<Value>* even,
                         Cells<Value>* odd) const {
    V even_logit, odd_logit;
    load_pair<kPart>(row.x, column, edge, &even->x, &odd->x);
    if constexpr (Method::kInputs > 1) load_pair<kPart>(row.logit, column, edge, &even_logit, &odd_logit);
    else even_logit = even->x, odd_logit = odd->x;
    if constexpr (kIsRanged) {
      *even = weights->split(even->x, even_logit), *odd = weights->split(odd->x, odd_logit);
    } else {
      even->w = weights->weight(even->x, even_logit), odd->w = weights->weight(odd->x, odd_logit);
    }
    if constexpr (kPart) {
      keep_within<kIsRanged>(row.inside ? edge->even : Ints<Value>{}, even);
      keep_within<kIsRanged>(row.inside ? edge->odd : Ints<Value>{}, odd);
    }
  }

  INLINED int64_t column_of(int64_t output) const { return kSide == 3 ? output * 2 + 1 - slice_.left : output * 2; }
  INLINED bool whole(int64_t column) const { return column >= 0 && column + 2 * kN <= slice_.width; }
  // The third column of the first lane is a cell before it.
  INLINED int64_t first_block(int64_t from) const {
    return kSide == 3 && column_of(from) > 0 ? from - kN : from;
  }

  struct Carried {
    V even_w, odd_w, even_n, odd_n, even_x, odd_x;
  };
  struct CarriedPlain {
    V even_w, odd_w;
  };
  using Carry = std::conditional_t<kIsRanged, Carried, CarriedPlain>;

  INLINED static void keep(const Cells<Value>& even, const Cells<Value>& odd, Carry* carry) {
    carry->even_w = even.w, carry->odd_w = odd.w;
    if constexpr (kIsRanged) {
      carry->even_n = even.n, carry->odd_n = odd.n, carry->even_x = even.x, carry->odd_x = odd.x;
    }
  }

  INLINED void start_carry(int64_t h, int64_t from, int64_t to, W* weights) {
    const Row row = row_at(h, 0);
    const int64_t first = first_block(from);
    for (int64_t i = first; i < to; i += kN) {
      Cells<Value> even, odd;
      weigh_row<true>(weights, row, column_of(i), edge_at(column_of(i), i >= from), &even, &odd);
      keep(even, odd, carry_ + (i - first) / kN);
    }
  }

  INLINED void take_taps(const Cells<Value>& even, const Cells<Value>& odd, Cells<Value>* before,
                         Taps<Value, kSide>* taps) const {
    if constexpr (kSide == 3) {
      taps->tap[0].w = after<Value>(before->w, odd.w);
      taps->tap[0].x = after<Value>(before->x, odd.x);
      if constexpr (kIsRanged) taps->tap[0].n = after<Value>(before->n, odd.n);
      *before = odd;
    }
    taps->tap[kSide - 2] = kSide == 3 ? odd : even;
    taps->tap[kSide - 1] = kSide == 3 ? even : odd;
  }

  INLINED void output_row(int64_t output, int64_t from, int64_t to, W* weights) {
    const int64_t h = output * 2 - slice_.top + (kCarries ? 1 : 0);  // of the first new row
    const int64_t known = h >= 0 && h < slice_.height ? h : h - 1;
    const Row rows[] = {row_at(h, h - 1), row_at(h + 1, known)}, old = row_at(h - 1, known);
    T* const out = slice_.y + output * slice_.out_width;
    Cells<Value> before[3];
    for (Cells<Value>& cells : before) cells = no_cells<Value>();
    Carry* carry = carry_;
    const auto step = [&](int64_t i, auto part, auto emit) INLINED {
      constexpr bool kPart = decltype(part)::value;
      const int64_t column = column_of(i);
      const Edge* const edge = kPart ? edge_at(column, decltype(emit)::value) : nullptr;
      Taps<Value, kSide> taps[kSide];
      Cells<Value> even, odd;
      UNROLL_ALL
      for (size_t r = 0; r < 2; ++r) {
        weigh_row<kPart>(weights, rows[r], column, edge, &even, &odd);
        take_taps(even, odd, before + r, taps + r);
      }
      if constexpr (kCarries) {
        Cells<Value> old_even, old_odd;
        if constexpr (kIsRanged) {
          old_even = {carry->even_x, carry->even_w, carry->even_n}, old_odd = {carry->odd_x, carry->odd_w, carry->odd_n};
        } else {
          load_pair<kPart>(old.x, column, edge, &old_even.x, &old_odd.x);
          old_even.w = carry->even_w, old_odd.w = carry->odd_w;
        }
        take_taps(old_even, old_odd, before + 2, taps + 2);
        keep(even, odd, carry++);
      }
      if constexpr (decltype(emit)::value) {
        const V y = pool_taps<kIsRanged, kLook>(taps, weights);
        if (to - i >= kN) store(y, out + i); else store_part(y, Span<T>(0, to - i), out + i);
      }
    };
    const auto yes = std::true_type();
    const auto no = std::false_type();
    int64_t i = first_block(from);
    if (i < from) step(i, yes, no), i += kN;
    const bool inside = rows[0].inside && rows[1].inside;
    for (; i < to && inside && whole(column_of(i)); i += kN) step(i, no, yes);
    for (; i < to; i += kN) step(i, yes, yes);
  }

  const Slice<T>& slice_;
  Edge edges_[2] = {{slice_.width, 0}, {slice_.width, 0}};
  Carry carry_[kCarries ? kRoomOfTile : 1];
};

// Windows of 3 x 3 cells, one apart. Rows are weighed into buffers, which the three rows of windows over them share.
template <class Method, class T, Form kForm>
class StripsOneApart {
  using Value = Wide<T>;
  using V = Vec<Value>;
  using W = Weights<Method, Value, kForm == kScaled>;
  static constexpr bool kIsRanged = kForm == kRanged;
  static constexpr int64_t kN = kLanes<Value>, kSide = 3;
  static constexpr bool kLook = sizeof(T) > 2;
  static constexpr Value kSmallest = 0x1p-126F;

 public:
  static constexpr int64_t kTile = 384;
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

  INLINED Column column_of(const Row* const (&rows)[kSide], int64_t i, W* weights) const {
    Cells<Value> cells[kSide];
    for (int64_t r = 0; r < kSide; ++r) cells[r] = rows[r]->get(i);
    Column column{};
    if constexpr (kIsRanged) {
      column.n = larger(cells[2].n, larger(cells[1].n, cells[0].n));
      for (auto& cell : cells) cell.w = scaled<Value>(cell.w, cell.n - column.n);
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

  INLINED V pool_columns(Column (&columns)[kSide], W* weights) const {
    V top;
    if constexpr (kIsRanged) {
      top = larger(columns[2].n, larger(columns[1].n, columns[0].n));
      for (Column& column : columns) {
        const V factor = scaled<Value>(all<Value>(1), column.n - top);
        column.w = column.w * factor, column.rest = column.rest * factor, column.product = column.product * factor;
        if constexpr (W::kSquares) {
          column.mean = column.mean * factor, column.rest = column.rest * factor;
          column.product = column.product * factor;
        }
      }
    }
    const auto& [a, b, c] = columns;
    const V sum = a.w + b.w + c.w;
    V y;
    if constexpr (kLook) {
      const V r = reciprocal(sum), y1 = fma(c.w, c.mean, fma(b.w, b.mean, a.w * a.mean)) * r;
      const auto rest = [&](const Column& column) INLINED { return fma(column.w, column.mean - y1, column.rest); };
      y = fma(rest(a) + rest(b) + rest(c), r, y1);
    } else {
      y = quotient(a.product + b.product + c.product, sum);
    }
    if constexpr (kIsRanged) return W::result_at(y, sum, top);
    return W::result(y, sum, weights->unscale());
  }

  INLINED void pool_row(int64_t output, int64_t from, int64_t to, W* weights) {
    const Row* rows[kSide];
    for (int64_t r = 0; r < kSide; ++r) rows[r] = row_of(output - slice_.top + r);
    T* const out = slice_.y + output * slice_.out_width + from;
    const int64_t count = to - from;
    Column before = column_of(rows, 0, weights), own = column_of(rows, kN, weights);
    for (int64_t i = 0; i < count; i += kN) {
      const Column next = column_of(rows, i + 2 * kN, weights);
      Column columns[kSide] = {before.moved(after<Value>, own), own, own.moved(ahead<Value>, next)};
      before = own, own = next;
      const V y = pool_columns(columns, weights);
      if (count - i >= kN) store(y, out + i); else store_part(y, Span<T>(0, count - i), out + i);
    }
  }

  const Slice<T>& slice_;
  Row rows_[kSide];
};

// Strips [begin, end) of one slice, output columns [from, to). Which form of weights a strip has does not show in its
// bits, so that it may depend on the strips before: after two that had to be done again they are as those were, as long as
// one needs it.
template <template <class, class> class OfMethod, class T, template <Form> class OfStrips>
class SliceLoop {
 public:
  SliceLoop(const Plan& plan, const Slice<T>& slice, int64_t plane, int64_t z, int64_t from, int64_t to)
      : plan_(plan), slice_(slice), plane_(plane), z_(z), from_(from), to_(to) {}

  void run(int64_t begin, int64_t end) {
    constexpr bool kScales = !OfMethod<Wide<T>, double>::kExponential;
    for (int64_t before = -2; begin < end;) {
      if (!kScales || scaling_.scale == 1) begin = near<kPlain>(begin, end);
      if constexpr (kScales) {
        if (begin < end && scaling_.other_scale != 0) scaling_.scale = scaling_.other_scale;
        if (scaling_.scale != 1) begin = near<kScaled>(begin, end);
      }
      if (begin == end) return;
      const bool again = begin == before + 1;
      before = begin;
      begin = ranged(begin, again ? end : begin + 1);
    }
  }

 private:
  // Until weights are out of range: the strip where that is so, or `end`.
  template <Form kForm>
  KEEP_CALL int64_t near(int64_t begin, int64_t end) {
    OfStrips<kForm> strips(slice_);
    for (int64_t i = begin; i < end; ++i) {
      if (!strips(i * kStrip, last_row(i), from_, to_, i > begin, &scaling_)) return i;
    }
    return end;
  }
  // Until plain form would do.
  KEEP_CALL int64_t ranged(int64_t begin, int64_t end) {
    OfStrips<kRanged> strips(slice_);
    scaling_.careful = scaling_.calm = false;
    bool carried = false;
    while (begin < end && !scaling_.calm) {
      const bool right = strips(begin * kStrip, last_row(begin), from_, to_, carried, &scaling_);
      carried = right;  // else the next strip would not see the huge cells of its first rows
      if (!right && !scaling_.careful) {
        scaling_.careful = true, scaling_.calm = false;
        continue;
      }
      for (int64_t h = begin * kStrip; !right && h < last_row(begin); ++h) {
        repair_row<OfMethod>(plan_, slice_.inputs_of_tensor, plane_, z_, h, from_, to_, slice_.y + h * slice_.out_width);
      }
      ++begin;
    }
    return begin;
  }
  int64_t last_row(int64_t strip) const { return least((strip + 1) * kStrip, plan_.height.out); }

  const Plan& plan_;
  const Slice<T>& slice_;
  const int64_t plane_, z_, from_, to_;
  Scaling<Wide<T>> scaling_;
};

}  // namespace onnxpool::ONNXPOOL_ISA
