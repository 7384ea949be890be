// Strips of windows of 2 x 2 or 3 x 3 cells, two apart. Even and odd places of a row are taken apart; the third column of a
// lane's window is the odd one of the lane before. All in registers, but for the row that windows below need again.
#pragma once

#include "rows.h"

namespace onnxpool::ONNXPOOL_ISA {

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
    const Relative<Value> relative(top);
    for (auto& row : rows) for (auto& tap : row.tap) tap.w = relative(tap.w, tap.n);
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

}  // namespace onnxpool::ONNXPOOL_ISA
