// Large planes that are one window each: lanes are cells that follow each other, and a plane is cut into parts, which
// threads share. A part's sums are joined to the others' when all are done.
#pragma once

#include "weights.h"
#include "window.h"

namespace onnxpool::ONNXPOOL_ISA {

// The sums of one part, relative to 2^n.
struct Part {
  double w, p, n;
  bool huge;
};

template <template <class, class> class OfMethod, class T>
class WholeLoop {
  using Value = Wide<T>;
  using V = Vec<Value>;
  using Method = OfMethod<Value, double>;
  using W = Weights<Method, Value>;
  static constexpr int64_t kN = kLanes<Value>, kInRow = 8;
  static constexpr double kMost = 0x1p990;  // that the sums of all parts do not overflow

 public:
  static constexpr int64_t kPart = 16384;  // cells

  static Schedule schedule(const Plan& plan) {
    Schedule s;
    s.cells = plan.depth.in * plan.height.in * plan.width.in;
    s.parts = (s.cells + kPart - 1) / kPart;
    s.steps = plan.planes * s.parts;
    s.steps_per_task = kTaskCells / least(s.cells, kPart) + 1;
    s.tasks = (s.steps + s.steps_per_task - 1) / s.steps_per_task;
    s.shared_bytes = static_cast<size_t>(s.steps) * sizeof(Part);
    return s;
  }

  static void step(const Schedule& s, const Inputs<T>& inputs, int64_t step, Part* part) {
    const int64_t from = step % s.parts * kPart, count = least(kPart, s.cells - from);
    const int64_t at = step / s.parts * s.cells + from;
    const Inputs<T> cells{inputs.x + at, inputs.logit + at};
    if (!sum<false>(cells, count, part)) sum<true>(cells, count, part);
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

  // Sums of kInRow registers at a time, then of these as double (for double with what rounding loses), lane by lane.
  template <bool kRanged>
  KEEP_CALL static bool sum(const Inputs<T>& cells, int64_t count, Part* part) {
    W weights(count);
    V tops = all(kNone<Value>);
    constexpr size_t kRows = kInRow;
    double w[kRoom<Value>] = {}, p[kRoom<Value>] = {}, lost_w[kRoom<Value>] = {}, lost_p[kRoom<Value>] = {};
    for (int64_t i = 0; i < count; i += kInRow * kN) {
      Cells<Value> own[kRows];
      V top = tops;
      const int64_t end = least(kInRow, (count - i + kN - 1) / kN);
      UNROLL_NONE
      for (int64_t k = 0; k < end; ++k) {
        own[k] = weigh<kRanged>(cells, i + k * kN, count, &weights);
        if constexpr (kRanged) top = larger(own[k].n, top);
      }
      V sum_w = {}, sum_p = {};
      for (int64_t k = 0; k < end; ++k) {
        V scale_w = own[k].w;
        if constexpr (kRanged) scale_w = scaled<Value>(scale_w, own[k].n - top);
        sum_w = sum_w + scale_w;
        sum_p = sum_p + scale_w * (W::kSquares ? scale_w : own[k].x);
      }
      if constexpr (!kRanged) {
        weights.see(sum_w, sum_p);
        if (!weights.near()) return false;
      }
      UNROLL_NONE
      for (int64_t lane = 0; lane < kN; ++lane) {
        if constexpr (kRanged) {
          const double factor = power(double{tops[lane]} - double{top[lane]});
          const double factor_p = W::kSquares ? factor * factor : factor;
          w[lane] *= factor, lost_w[lane] *= factor, p[lane] *= factor_p, lost_p[lane] *= factor_p;
        }
        if constexpr (same<Value, double>) {
          add(sum_w[lane], w + lane, lost_w + lane), add(sum_p[lane], p + lane, lost_p + lane);
        } else {
          w[lane] += double{sum_w[lane]}, p[lane] += double{sum_p[lane]};
        }
      }
      tops = top;
    }
    *part = {0, 0, 0, kRanged && weights.huge()};
    if (kRanged) part->n = kNone<double>;
    for (int64_t lane = 0; lane < kN; ++lane) {
      if (kRanged && double{tops[lane]} > part->n) part->n = double{tops[lane]};
    }
    double lost_w_all = 0, lost_p_all = 0;
    UNROLL_NONE
    for (int64_t lane = 0; lane < kN; ++lane) {
      const double factor = kRanged ? power(double{tops[lane]} - part->n) : 1;
      add((w[lane] + lost_w[lane]) * factor, &part->w, &lost_w_all);
      add((p[lane] + lost_p[lane]) * (W::kSquares ? factor * factor : factor), &part->p, &lost_p_all);
    }
    part->w += lost_w_all, part->p += lost_p_all;
    if (!kRanged) part->n = W::kPlainExponent;
    return kRanged || (part->p < kMost && part->p > -kMost);
  }

  template <bool kRanged>
  INLINED static Cells<Value> weigh(const Inputs<T>& cells, int64_t i, int64_t count, W* weights) {
    const bool part = count - i < kN;
    Cells<Value> own;
    own.x = part ? load_part(cells.x + i, Span<T>(0, count - i)) : load(cells.x + i);
    V logit = own.x;
    if constexpr (Method::kInputs > 1) logit = part ? load_part(cells.logit + i, Span<T>(0, count - i)) : load(cells.logit + i);
    if constexpr (kRanged) own = weights->split(own.x, logit);
    else own.w = weights->weight(own.x, logit);
    if (part) keep_within<kRanged>(lanes_between<Value>(0, count - i), &own);
    return own;
  }
};

}  // namespace onnxpool::ONNXPOOL_ISA
