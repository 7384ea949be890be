// Planes that are one window each: lanes are cells that follow each other. Small planes have a register of sums each,
// whose lanes are added for a register of planes at once. Large ones are cut into parts, which threads share; a part's
// sums are joined to the others' when all are done.
#pragma once

#include "weights.h"
#include "window.h"

namespace onnxpool::ONNXPOOL_ISA {

// The sums of one part, relative to 2^n.
struct Part {
  double w, p, n;
  bool huge;
};

// The lanes of each of a register's number of rows joined in a tree: lane j of the result is row j's.
template <class Value, int kBlock = 1, class Join>
INLINE Vec<Value> join_lanes(Vec<Value>* rows, Join join) {
  constexpr int kN = kLanes<Value>;
  UNROLL_ALL
  for (int i = 0; i < kN / kBlock; i += 2) {
    const Vec<Value> a = rows[i], b = rows[i + 1];
    rows[i / 2] = join(shuffle<Swapped<kN, kBlock, false>>(a, b), shuffle<Swapped<kN, kBlock, true>>(a, b));
  }
  if constexpr (2 * kBlock < kN) return join_lanes<Value, 2 * kBlock>(rows, join);
  return rows[0];
}

template <template <class, class> class OfMethod, class T>
class WholeLoop {
  using Value = Wide<T>;
  using V = Vec<Value>;
  using Method = OfMethod<Value, double>;
  using W = Weights<Method, Value, false>;
  static constexpr int64_t kN = kLanes<Value>, kInRow = 8, kRow = kInRow * kN;
  static constexpr size_t kLevels = 8;  // 2^8 rows are more than a small plane has
  static constexpr double kMost = 0x1p990;  // that the sums of all parts do not overflow

 public:
  static constexpr int64_t kPart = 16384, kLarge = 2048;  // cells

  static Schedule schedule(const Plan& plan) {
    Schedule s;
    s.cells = plan.depth.in * plan.height.in * plan.width.in;
    if (s.cells < kLarge) {
      s.steps = (plan.planes + kN - 1) / kN;
      s.steps_per_task = kTaskCells / (kN * s.cells) + 1;
      s.tasks = (s.steps + s.steps_per_task - 1) / s.steps_per_task;
      return s;
    }
    s.parts = (s.cells + kPart - 1) / kPart;
    s.steps = plan.planes * s.parts;
    s.steps_per_task = kTaskCells / least(s.cells, kPart) + 1;
    s.tasks = (s.steps + s.steps_per_task - 1) / s.steps_per_task;
    s.shared_bytes = static_cast<size_t>(s.steps) * sizeof(Part);
    return s;
  }

  // Steps [begin, end) of small planes. Which form of weights they have does not show in their bits: after one that had
  // to be done again they are ranged at once, as long as one needs it.
  static void steps(const Plan& plan, const Schedule& s, const Inputs<T>& inputs, T* y, int64_t begin, int64_t end) {
    bool calm = true;  // plain form would do
    for (int64_t step = begin; step < end; ++step) {
      const int64_t first = step * kN, used = least(kN, plan.planes - first);
      const Inputs<T> cells{inputs.x + first * s.cells, inputs.logit + first * s.cells};
      if (calm && planes<false>(cells, s.cells, used, y + first, false, &calm)) continue;
      if (planes<true>(cells, s.cells, used, y + first, false, &calm)) continue;
      if (planes<true>(cells, s.cells, used, y + first, true, &calm)) continue;
      for (int64_t i = first; i < first + used; ++i) repair_row<OfMethod>(plan, inputs, i, 0, 0, 0, 1, y + i);
    }
  }

  static void step(const Schedule& s, const Inputs<T>& inputs, int64_t step, Part* part) {
    const int64_t from = step % s.parts * kPart, count = least(kPart, s.cells - from);
    const int64_t at = step / s.parts * s.cells + from;
    const Inputs<T> cells{inputs.x + at, inputs.logit + at};
    if (sum<false>(cells, count, part, false) || sum<true>(cells, count, part, false)) return;
    sum<true>(cells, count, part, true);
  }

  static void finish(const Plan& plan, const Schedule& s, const Inputs<T>& inputs, T* y, const Part* parts) {
    for (int64_t plane = 0; plane < plan.planes; ++plane) {
      const Part* const own = parts + plane * s.parts;
      double top = kNone<double>, w = 0, p = 0, lost_w = 0, lost_p = 0;
      bool huge = false;
      for (int64_t i = 0; i < s.parts; ++i) top = own[i].n > top ? own[i].n : top, huge |= own[i].huge;
      for (int64_t i = 0; i < s.parts; ++i) {
        const double factor = power(own[i].n - top);
        add(own[i].w * factor, &w, &lost_w);
        add(own[i].p * (W::kSquares ? factor * factor : factor), &p, &lost_p);
      }
      w += lost_w, p += lost_p;
      const double mean = W::kSquares && w == 0 ? 0 : p / w;
      narrow(static_cast<Value>(W::kSquares && mean == mean ? mean * power(top) : mean), y + plane);
      if (huge) repair_row<OfMethod>(plan, inputs, plane, 0, 0, 0, 1, y + plane);
    }
  }

 private:
  // 2^n, or 0 below what matters.
  static double power(double n) {
    return n < -1020 ? 0 : bits<double>(static_cast<uint64_t>(static_cast<int64_t>(n) + 1023) << 52);
  }

  using Reference = typename W::Reference;

  // The largest ranks from cell i on, of a row or what there is of it, and of `top`, lane by lane.
  INLINED static V raise(const Inputs<T>& cells, int64_t i, int64_t count, W* weights, V top) {
    const int64_t end = least(kInRow, (count - i + kN - 1) / kN);
    UNROLL_NONE
    for (int64_t k = 0; k < end; ++k) {
      const Cells<Value> own = read(cells, i + k * kN, count);  // its logits
      V rank = weights->rank(own.x, own.w);
      if (count - i - k * kN < kN) rank = lanes_between<Value>(0, count - i - k * kN) ? rank : W::no_rank();
      top = larger(rank, top);
    }
    return top;
  }

  // The sums of such a row, ranged: relative to `from`; four at a time, then these in a tree.
  template <bool kRanged>
  INLINED static void sum_row(const Inputs<T>& cells, int64_t i, int64_t count, W* weights, const Reference& from, V* w,
                              V* p) {
    const int64_t end = least(kInRow, (count - i + kN - 1) / kN);
    constexpr int64_t kSums = 4;
    V own_w[kSums] = {}, own_p[kSums] = {};
    UNROLL_NONE
    for (int64_t k = 0; k < end; k += kSums) {
      UNROLL_ALL
      for (int64_t j = 0; j < kSums; ++j) {
        if (k + j >= end) break;
        const Cells<Value> cell = weigh<kRanged>(cells, i + (k + j) * kN, count, weights, from);
        own_w[j] = own_w[j] + cell.w, own_p[j] = fma(cell.w, W::kSquares ? cell.w : cell.x, own_p[j]);
      }
    }
    *w = (own_w[0] + own_w[1]) + (own_w[2] + own_w[3]), *p = (own_p[0] + own_p[1]) + (own_p[2] + own_p[3]);
  }

  // One result for each of `used` planes that follow each other. False as in LanesLoop::pool.
  template <bool kRanged>
  KEEP_CALL static bool planes(const Inputs<T>& inputs, int64_t count, int64_t used, T* y, bool careful, bool* calm) {
    W weights(count);
    if (kRanged && careful) weights.be_careful();
    V w[kRoom<Value>] = {}, p[kRoom<Value>] = {}, ranks[kRoom<Value>];
    Reference from{}, references{};
    if constexpr (kRanged) {
      for (int64_t plane = 0; plane < kN; ++plane) {
        const Inputs<T> cells{inputs.x + plane * count, inputs.logit + plane * count};
        ranks[plane] = W::no_rank();
        for (int64_t i = 0; plane < used && i < count; i += kRow) {
          ranks[plane] = raise(cells, i, count, &weights, ranks[plane]);
        }
      }
      references = W::reference(join_lanes<Value>(ranks, [](V a, V b) INLINED { return larger(a, b); }));
    }
    for (int64_t plane = 0; plane < used; ++plane) {
      const Inputs<T> cells{inputs.x + plane * count, inputs.logit + plane * count};
      if constexpr (kRanged) from = references.of_lane(plane);
      // Rows in a tree: sums of 1, 2, 4... of them wait until there are as many again.
      V waiting_w[kLevels], waiting_p[kLevels];
      int64_t rows = 0, level = 0;
      for (int64_t i = 0; i < count; i += kRow, ++rows) {
        V own_w, own_p;
        sum_row<kRanged>(cells, i, count, &weights, from, &own_w, &own_p);
        for (level = 0; (rows >> level & 1) != 0; ++level) {
          own_w = waiting_w[level] + own_w, own_p = waiting_p[level] + own_p;
        }
        waiting_w[level] = own_w, waiting_p[level] = own_p;
      }
      for (level = 0; rows >> level != 0; ++level) {
        if ((rows >> level & 1) == 0) continue;
        w[plane] = waiting_w[level] + w[plane], p[plane] = waiting_p[level] + p[plane];
      }
    }
    const auto sum = [](V a, V b) INLINED { return a + b; };
    const V sum_w = join_lanes<Value>(w, sum), sum_p = join_lanes<Value>(p, sum);
    if constexpr (!kRanged) {
      weights.see(sum_w, sum_p);
      if (!weights.near(false)) return false;
    }
    V result = quotient(sum_p, sum_w);
    if constexpr (kRanged) result = W::result_at(result, sum_w, references.n);
    else result = W::result(result, sum_w, weights.unscale());
    store_part(result, Span<T>(0, used), y);
    if (kRanged) *calm = weights.calm();
    return !kRanged || weights.right();
  }

  // Sums of kInRow registers at a time, then of these as double (for double with what rounding loses), lane by lane.
  template <bool kRanged>
  KEEP_CALL static bool sum(const Inputs<T>& cells, int64_t count, Part* part, bool careful) {
    W weights(count);
    if (kRanged && careful) weights.be_careful();
    V rank = W::no_rank();
    Reference from{};
    from.n = all(kNone<Value>);
    double w[kRoom<Value>] = {}, p[kRoom<Value>] = {}, lost_w[kRoom<Value>] = {}, lost_p[kRoom<Value>] = {};
    for (int64_t i = 0; i < count; i += kRow) {
      const V before = from.n;
      if constexpr (kRanged) rank = raise(cells, i, count, &weights, rank), from = W::reference(rank);
      V sum_w, sum_p;
      sum_row<kRanged>(cells, i, count, &weights, from, &sum_w, &sum_p);
      if constexpr (!kRanged) {
        weights.see(sum_w, sum_p);
        if (!weights.near(false)) return false;
      }
      UNROLL_NONE
      for (int64_t lane = 0; lane < kN; ++lane) {
        if constexpr (kRanged) {
          const double factor = power(double{before[lane]} - double{from.n[lane]});
          const double factor_p = W::kSquares ? factor * factor : factor;
          w[lane] *= factor, lost_w[lane] *= factor, p[lane] *= factor_p, lost_p[lane] *= factor_p;
        }
        if constexpr (same<Value, double>) {
          add(sum_w[lane], w + lane, lost_w + lane), add(sum_p[lane], p + lane, lost_p + lane);
        } else {
          w[lane] += double{sum_w[lane]}, p[lane] += double{sum_p[lane]};
        }
      }
    }
    *part = {0, 0, 0, kRanged && !weights.right()};
    if (kRanged) part->n = kNone<double>;
    for (int64_t lane = 0; lane < kN; ++lane) {
      if (kRanged && double{from.n[lane]} > part->n) part->n = double{from.n[lane]};
    }
    double lost_w_all = 0, lost_p_all = 0;
    UNROLL_NONE
    for (int64_t lane = 0; lane < kN; ++lane) {
      const double factor = kRanged ? power(double{from.n[lane]} - part->n) : 1;
      add((w[lane] + lost_w[lane]) * factor, &part->w, &lost_w_all);
      add((p[lane] + lost_p[lane]) * (W::kSquares ? factor * factor : factor), &part->p, &lost_p_all);
    }
    part->w += lost_w_all, part->p += lost_p_all;
    if (!kRanged) part->n = W::kPlainExponent;
    return kRanged ? !part->huge : !(part->p >= kMost || part->p <= -kMost);
  }

  // Cells from i on, and in place of weights their logits; 0 beyond the last one.
  INLINED static Cells<Value> read(const Inputs<T>& cells, int64_t i, int64_t count) {
    const bool part = count - i < kN;
    Cells<Value> own{};
    own.x = part ? load_part(cells.x + i, Span<T>(0, count - i)) : load(cells.x + i);
    own.w = own.x;
    if constexpr (Method::kInputs > 1) own.w = part ? load_part(cells.logit + i, Span<T>(0, count - i)) : load(cells.logit + i);
    return own;
  }

  template <bool kRanged>
  INLINED static Cells<Value> weigh(const Inputs<T>& cells, int64_t i, int64_t count, W* weights, const Reference& from) {
    Cells<Value> own = read(cells, i, count);
    if constexpr (kRanged) own = weights->relative(own.x, own.w, from);
    else own.w = weights->weight(own.x, own.w);
    if (count - i < kN) keep_within<kRanged>(lanes_between<Value>(0, count - i), &own);
    return own;
  }
};

}  // namespace onnxpool::ONNXPOOL_ISA
