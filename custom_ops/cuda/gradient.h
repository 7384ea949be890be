// Gradients on a GPU, any window of any input: what one thread computes. Formulas, special values and the type that is
// added up in are those of kernels/gradient.h.
//
// First each window is computed anew and keeps three numbers (keep_windows: a thread, or a warp where windows are
// large). Then each cell of the input adds up what the windows that hold it send, in the order of outputs (gather): no
// two threads write to one place, so that nothing is atomic and bits are the same in every run.
#pragma once

#include "pool.h"

namespace onnxpool::cuda {

// What a window keeps: the largest cell (or a scale), its share of dL/dy, and its mean.
template <class Value>
struct Kept {
  Value top, share, mean;
};

// 0 below the normal numbers; finite, for products with weights of 0; NaN stays.
template <class Value>
GPU_HOST inline Value floored(Value below) {
  constexpr Value kFloor = sizeof(Value) == 4 ? -200 : -1600;
  return below < kFloor ? kFloor : below;
}

// keep(g, look, team) is one window with its dL/dy, where look(visit) calls visit(x, logit) for this lane's cells.
// send(kept, x, logit, &dx, &dlogit) adds what a window sends to one of its cells.
template <class Value>
struct SoftGradient {
  using Method = Soft<Value>;

  template <class Look, class Team>
  GPU_HOST static Kept<Value> keep(Value g, Look look, const Team& team) {
    Value top = -kInfinity<Value>;
    look([&](Value x, Value) { top = x > top ? x : top; });
    top = largest(top, team);
    Total<Value> weights, moments;
    look([&](Value x, Value) {
      const Value below = floored(x - top), weight = exponential(below);
      weights.add(weight), moments.add(weight * below);
    });
    weights.gather(team), moments.gather(team);
    const Value reciprocal = 1 / weights.value();
    return {top, g * reciprocal, moments.value() * reciprocal};
  }
  // dy/dx_i = w_i (1 + x_i - y)
  GPU_HOST static void send(const Kept<Value>& window, Value x, Value, Value* dx, Value*) {
    const Value below = floored(x - window.top);
    *dx += window.share * exponential(below) * (1 + below - window.mean);
  }
};

template <class Value>
struct LocalImportanceGradient {
  using Method = LocalImportance<Value>;

  template <class Look, class Team>
  GPU_HOST static Kept<Value> keep(Value g, Look look, const Team& team) {
    Value top = -kInfinity<Value>;
    look([&](Value, Value logit) { top = logit > top ? logit : top; });
    top = largest(top, team);
    Total<Value> weights, halves;
    look([&](Value, Value logit) { weights.add(exponential(floored(logit - top))); });
    weights.gather(team);
    const Value reciprocal = 1 / weights.value();
    look([&](Value x, Value logit) { halves.add(exponential(floored(logit - top)) * reciprocal * (x / 2)); });
    halves.gather(team);
    const Value half = halves.value(), size = absolute(half), most = kLargest<Value> / 2;  // of the largest numbers
    return {top, g * reciprocal, 2 * (size > most && size < kInfinity<Value> ? (half < 0 ? -most : most) : half)};
  }
  // dy/dx_i = w_i, dy/dl_i = w_i (x_i - y)
  GPU_HOST static void send(const Kept<Value>& window, Value x, Value logit, Value* dx, Value* dlogit) {
    const Value step = window.share * exponential(floored(logit - window.top));
    *dx += step, *dlogit += step * (x - window.mean);
  }
};

template <class Value>
struct StochasticGradient {
  using Method = Stochastic<Value>;

  template <class Look, class Team>
  GPU_HOST static Kept<Value> keep(Value g, Look look, const Team& team) {
    Value top = kSmallest<Value>;
    look([&](Value x, Value) { top = x > top ? x : top; });
    const Value inverse = 1 / largest(top, team), scale = inverse > kSmallest<Value> ? inverse : kSmallest<Value>;
    Total<Value> shares, squares;
    look([&](Value x, Value) {
      const Value share = (x < 0 ? 0 : x) * scale;
      shares.add(share), squares.add(share * share);
    });
    shares.gather(team), squares.gather(team);
    const Value total = shares.value();
    const bool some = total > 0 && total < kInfinity<Value>;
    const Value reciprocal = 1 / (some ? total : 1);
    return {some ? scale : 0, g * reciprocal, squares.value() * reciprocal};
  }
  // dy/dx_i = (2 a_i - y) / sum a where x_i > 0, else 0; 0 for a window with NaN or infinity, whose scale is 0.
  GPU_HOST static void send(const Kept<Value>& window, Value x, Value, Value* dx, Value*) {
    const Value share = (x < 0 ? 0 : x) * window.top;
    if (share > 0) *dx += window.share * (2 * share - window.mean);
  }
};

template <class Gradient, class Value, class T, class Team>
GPU_HOST inline void keep_windows(const Job<int64_t>& job, const T* x, const T* logit, const T* grad,
                                  Kept<Value>* kept, const Team& team) {
  for (int64_t output = team.first(); output < job.outputs; output += team.step()) {
    const Place<int64_t> place = place_of(job, output);
    const auto look = [&](auto visit) {
      each_cell(job, place, team.lane(), team.lanes(), [&](int64_t i) {
        const Value own = widen(x[i]);
        visit(own, Gradient::Method::kInputs == 1 ? own : widen(logit[i]));
      });
    };
    const Kept<Value> found = Gradient::keep(widen(grad[output]), look, team);
    if (team.lane() == 0) kept[output] = found;
  }
}

// Along an axis, window o holds the cell at c where 0 <= c + pad - o stride < extent, and dilation divides that: every
// `period` windows, from one that the inverse of the stride gives.
struct GatherAxis {
  int64_t out = 1, pad = 0, extent = 1, inverse = 0, period = 1;
  bool dilated = false;
  Divisor<int64_t> by_in, by_stride, by_common, by_period;

  GatherAxis() = default;
  explicit GatherAxis(const PooledAxis& axis)
      : out(axis.out), pad(axis.pad), extent(axis.extent), dilated(axis.dilation > 1), by_in(axis.in),
        by_stride(axis.stride) {
    int64_t common = axis.stride, rest = axis.dilation, factor = 1, next = 0;
    while (rest != 0) {  // Euclid: common is stride * factor, but for multiples of the dilation
      const int64_t times = common / rest, rest_after = common - times * rest, next_after = factor - times * next;
      common = rest, rest = rest_after, factor = next, next = next_after;
    }
    period = axis.dilation / common;
    inverse = (factor % period + period) % period;
    by_common = Divisor<int64_t>(common), by_period = Divisor<int64_t>(period);
  }

  // Windows first, first + period, ... up to last.
  struct Range {
    int64_t first, last;
  };
  GPU_HOST Range holding(int64_t cell) const {
    const int64_t at = cell + pad, ended = at - extent;
    int64_t rest, known, residue, unused;
    Range range{ended < 0 ? 0 : by_stride.divide(ended, &unused) + 1, by_stride.divide(at, &unused)};
    if (range.last >= out) range.last = out - 1;
    if (dilated) {
      by_period.divide(by_common.divide(at, &rest), &residue);
      if (rest != 0) return {0, -1};
      by_period.divide(residue * inverse, &residue);
      by_period.divide(range.first, &known);
      range.first += residue - known + (residue < known ? period : 0);
    }
    return range;
  }
};

struct Gather {
  int64_t cells = 0, blocks = 0;  // of all planes together
  GatherAxis depth, height, width;

  // The pooling may be joined.
  explicit Gather(const Pooling& pooling)
      : cells(pooling.planes * pooling.depth.in * pooling.height.in * pooling.width.in), blocks(blocks_for(cells)),
        depth(pooling.depth), height(pooling.height), width(pooling.width) {}

  // Calls visit(output) for each window that holds a cell.
  template <class Visit>
  GPU_HOST void each_window(int64_t cell, Visit visit) const {
    int64_t z, h, w;
    const int64_t rows = width.by_in.divide(cell, &w), slices = height.by_in.divide(rows, &h);
    const int64_t plane = depth.by_in.divide(slices, &z);
    const GatherAxis::Range along_z = depth.holding(z), along_h = height.holding(h), along_w = width.holding(w);
    for (int64_t i = along_z.first; i <= along_z.last; i += depth.period) {
      for (int64_t j = along_h.first; j <= along_h.last; j += height.period) {
        const int64_t row = ((plane * depth.out + i) * height.out + j) * width.out;
        for (int64_t k = along_w.first; k <= along_w.last; k += width.period) visit(row + k);
      }
    }
  }
};

// For the thread that begins with cell `first` and goes on by `step`.
template <class Gradient, class Value, class T>
GPU_HOST inline void gather(const Gather& from, const T* x, const T* logit, const Kept<Value>* kept, T* dx, T* dlogit,
                            int64_t first, int64_t step) {
  constexpr bool kTwo = Gradient::Method::kInputs == 2;
  for (int64_t cell = first; cell < from.cells; cell += step) {
    const Value own = widen(x[cell]), own_logit = kTwo ? widen(logit[cell]) : own;
    Value sum = 0, sum_logit = 0;
    from.each_window(cell, [&](int64_t output) { Gradient::send(kept[output], own, own_logit, &sum, &sum_logit); });
    narrow(sum, dx + cell);
    if (kTwo) narrow(sum_logit, dlogit + cell);
  }
}

}  // namespace onnxpool::cuda
