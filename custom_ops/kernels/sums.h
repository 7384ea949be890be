// Sums over a kernel's cells along one axis, of registers with a plane in each lane (lanes.h): those of weights and of
// products, and from these the results.
#pragma once

#include "weights.h"

namespace onnxpool::ONNXPOOL_ISA {

// Of weights and of products, relative to 2^n in ranged form.
template <class Value>
struct SumsOfLanes {
  using V = Vec<Value>;
  V *w, *p, *n;

  INLINED SumsOfLanes operator+(int64_t i) const { return {w + i, p + i, n + i}; }
};

// Along one axis of `in` cells, `outer` times, each cell `inner` registers: the sums over the kernel's cells, or with
// kLast the results, in place of the sums of products.
template <class Value, class W, bool kRanged, bool kLast>
class SumsAlong {
  using V = Vec<Value>;
  using Sums = SumsOfLanes<Value>;
  static constexpr int64_t kInRow = 8;  // cells that are summed by themselves; then the sums are, one after the other

 public:
  INLINED static void run(const Axis& axis, int64_t in, int64_t out, int64_t pad, int64_t outer, int64_t inner,
                          Sums from, Sums to, V unscale) {
    auto sum = along<0>;
    if constexpr (!(kRanged && W::kSquares)) {  // scaled form leaves that little to do
      sum = axis.kernel == 2 ? along<2> : axis.kernel == 3 ? along<3> : axis.kernel == 5 ? along<5> : along<0>;
    }
    sum(axis, in, out, pad, outer, inner, from, to, unscale);
  }

  // Of so many cells, all of them within; kCells is 0 or that number.
  template <int kCells>
  INLINED static void one(Sums from, int64_t count, Sums to, V unscale) {
    if constexpr (kCells > 0) few<kCells>(from, 1, to, unscale);
    else any_number(from, 0, count, 1, to, unscale);
  }

 private:
  // With kCells, as many as the kernel has, what a window within the cells takes is a straight line.
  template <int kCells>
  KEEP_CALL static void along(const Axis& axis, int64_t in, int64_t out, int64_t pad, int64_t outer, int64_t inner,
                              Sums from, Sums to, V unscale) {
    const int64_t step = axis.dilation * inner;
    // Outputs whose windows lie within the cells.
    const int64_t begin = (pad + axis.stride - 1) / axis.stride, room = in + pad - axis.extent;
    const int64_t end = room < 0 ? 0 : least(room / axis.stride + 1, out);
    for (int64_t a = 0; a < outer; ++a) {
      for (int64_t o = 0; o < out; ++o) {
        const int64_t start = o * axis.stride - pad;
        const Sums cells = from + (a * in + start) * inner, sums = to + (a * out + o) * inner;
        const bool within = o >= begin && o < end;
        if constexpr (kCells > 0) {
          if (within) {
            // Outputs follow each other, or the registers of one do.
            const int64_t count = inner == 1 ? end - o : inner, apart = inner == 1 ? axis.stride : 1;
            for (int64_t i = 0; i < count; ++i) few<kCells>(cells + i * apart, step, sums + i, unscale);
            o += inner == 1 ? count - 1 : 0;
            continue;
          }
        }
        int64_t first = 0, last = axis.kernel;  // those of the kernel's cells that are among those of `from`
        if (!within) {
          first = start >= 0 ? 0 : (-start + axis.dilation - 1) / axis.dilation;
          last = least(last, start >= in ? 0 : (in - start + axis.dilation - 1) / axis.dilation);
        }
        for (int64_t i = 0; i < inner; ++i) any_number(cells + i, first, last, step, sums + i, unscale);
      }
    }
  }

  // Sums in registers; in ranged form relative to 2^top, to which cells are brought as they are added. That is exact, and so
  // a cell may as well be multiplied and added at once.
  struct Sum {
    V w, p;

    INLINED Sum operator+(const Sum& other) const { return {w + other.w, p + other.p}; }
  };
  class Adder {
   public:
    INLINED explicit Adder(V top) : relative_(top) {}

    INLINED Sum one(Sums at) const {
      if constexpr (!kRanged) return {*at.w, *at.p};
      const V factor = of_weight(at);
      return {*at.w * factor, *at.p * of_product(factor)};
    }
    INLINED Sum one_more(const Sum& sum, Sums at) const {
      if constexpr (!kRanged) return sum + one(at);
      const V factor = of_weight(at);
      return {fma(*at.w, factor, sum.w), fma(*at.p, of_product(factor), sum.p)};
    }
    INLINED Sum two(Sums at, int64_t step) const { return one_more(one(at), at + step); }

   private:
    INLINED V of_weight(Sums at) const { return relative_(all<Value>(1), *at.n); }
    INLINED static V of_product(V factor) { return W::kSquares ? factor * factor : factor; }

    Relative<Value> relative_;
  };

  // Pairs are added, up to kInRow cells, and then these sums. All are counted from the kernel's own first cell, whether
  // that is in the input or not: the sum of a window must not depend on which cells beside it an item holds.
  INLINED static void any_number(Sums from, int64_t first, int64_t last, int64_t step, Sums to, V unscale) {
    V top = all(kNone<Value>);
    if constexpr (kRanged) {
      for (int64_t k = first; k < last; ++k) top = larger(from.n[k * step], top);
    }
    const Adder adder(top);
    Sum sum{};
    while (first < last) {
      const int64_t end = least(last, (first / kInRow + 1) * kInRow);
      Sum own{};
      Sums cell = from + first * step;
      if (__builtin_expect(first % 2 != 0, 0)) own = adder.one(cell), ++first, cell = cell + step;
      for (; first + 1 < end; first += 2, cell = cell + 2 * step) own = own + adder.two(cell, step);
      if (first < end) own = adder.one_more(own, cell), ++first;
      sum = sum + own;
    }
    put(sum, top, to, unscale);
  }

  // The same, of kCells cells.
  template <int kCells>
  INLINED static void few(Sums from, int64_t step, Sums to, V unscale) {
    static_assert(kCells >= 2 && kCells <= kInRow, "the same sums");
    V top{};
    if constexpr (kRanged) {
      top = *from.n;
      UNROLL_ALL
      for (int64_t k = 1; k < kCells; ++k) top = larger(from.n[k * step], top);
    }
    const Adder adder(top);
    Sum sum = adder.two(from, step);
    UNROLL_ALL
    for (int64_t k = 2; k + 1 < kCells; k += 2) sum = sum + adder.two(from + k * step, step);
    if constexpr (kCells % 2 != 0) sum = adder.one_more(sum, from + (kCells - 1) * step);
    put(sum, top, to, unscale);
  }

  INLINED static void put(Sum sum, [[maybe_unused]] V top, Sums to, [[maybe_unused]] V unscale) {
    if constexpr (kLast) {
      const V y = quotient(sum.p, sum.w);
      if constexpr (kRanged) *to.p = W::result_at(y, sum.w, top);
      else *to.p = W::result(y, sum.w, unscale);
    } else {
      *to.w = sum.w, *to.p = sum.p;
      if constexpr (kRanged) *to.n = top;
    }
  }
};

}  // namespace onnxpool::ONNXPOOL_ISA
