// Gradients: from dL/dy to dL/dx (and dL/dlogits), for any window. As in lanes.h each lane is a plane; a task is a part of
// as many planes as a register has lanes, with the cells around it that its windows reach. Windows that cross from one
// part into another are computed in both, and every cell adds up what its windows send in the same order, so that bits
// depend on its windows alone: not on parts, other planes or the number of threads.
//
// Each window subtracts its own largest cell and recomputes its weights, so that all inputs are right, and nothing of the
// forward pass is kept. What is added up is of the type that is computed in, float for short cells.
#pragma once

#include "parts.h"
#include "weights.h"

namespace onnxpool::ONNXPOOL_ISA {

constexpr int64_t kGradientRun = 32;  // cells that are summed one after the other; then the sums are

// The cells of one window, in the boxes of a task.
template <class V>
struct WindowCells {
  const V *x, *logit;
  V *dx, *dlogit;
  const int32_t* at;  // where each of `count` cells is
  int64_t count;
  V *kept, *other;    // room for `count` registers each

  template <class Visit>
  INLINED void each(Visit visit) const {
    for (int64_t i = 0; i < count; ++i) visit(i, at[i]);
  }
  // The sums of the two numbers that visit(i, at, &a, &b) sets.
  template <class Visit>
  INLINED void sum(Visit visit, V* a, V* b) const {
    *a = V{}, *b = V{};
    for (int64_t i = 0; i < count;) {
      V run_a = {}, run_b = {};
      for (const int64_t end = least(count, i + kGradientRun); i < end; ++i) {
        V own_a, own_b;
        visit(i, at[i], &own_a, &own_b);
        run_a = run_a + own_a, run_b = run_b + own_b;
      }
      *a = *a + run_a, *b = *b + run_b;
    }
  }
};

// exp of what is not positive; 0 below the normal numbers, NaN stays. `floor` is finite, for products with weights of 0.
template <class Value>
class ExpBelow {
  using V = Vec<Value>;
  static constexpr Value kLeast = same<Value, float> ? -87 : -708;

 public:
  INLINED static V floored(V below) { return larger(all<Value>(ExpConstants<Value>::floor), below); }
  INLINED V operator()(V below) const { return below < kLeast ? V{} : exp_(below); }

 private:
  Exp<Value> exp_{0};
};

// Each is given one window and its share of dL/dy, g. Their formulas are those of the method's file in onnxpool/pools.
template <class Value>
struct SoftGradient {
  using V = Vec<Value>;
  ExpBelow<Value> exp;

  // dy/dx_i = w_i (1 + x_i - y)
  INLINED void operator()(const WindowCells<V>& window, V g) const {
    V top = all(-infinity<Value>()), total, moment;
    window.each([&](int64_t, int32_t at) INLINED { top = larger(window.x[at], top); });
    window.sum(
        [&](int64_t i, int32_t at, V* weight, V* product) INLINED {
          const V below = exp.floored(window.x[at] - top);
          *weight = exp(below), *product = *weight * below;
          window.kept[i] = *weight, window.other[i] = below;
        },
        &total, &moment);
    const V reciprocal = quotient(all<Value>(1), total), share = g * reciprocal, mean = moment * reciprocal;
    window.each([&](int64_t i, int32_t at) INLINED {
      window.dx[at] = fma(share * window.kept[i], 1 + window.other[i] - mean, window.dx[at]);
    });
  }
};

template <class Value>
struct LocalImportanceGradient {
  using V = Vec<Value>;
  ExpBelow<Value> exp;

  // dy/dx_i = w_i, dy/dl_i = w_i (x_i - y)
  INLINED void operator()(const WindowCells<V>& window, V g) const {
    V top = all(-infinity<Value>()), total, y, unused;
    window.each([&](int64_t, int32_t at) INLINED { top = larger(window.logit[at], top); });
    window.sum(
        [&](int64_t i, int32_t at, V* weight, V* other) INLINED {
          *weight = exp(exp.floored(window.logit[at] - top)), *other = V{};
          window.kept[i] = *weight;
        },
        &total, &unused);
    const V reciprocal = quotient(all<Value>(1), total);
    window.sum(
        [&](int64_t i, int32_t at, V* product, V* other) INLINED {
          window.kept[i] = window.kept[i] * reciprocal;
          *product = window.kept[i] * window.x[at], *other = V{};
        },
        &y, &unused);
    window.each([&](int64_t i, int32_t at) INLINED {
      const V step = g * window.kept[i];
      window.dx[at] = window.dx[at] + step;
      window.dlogit[at] = fma(step, window.x[at] - y, window.dlogit[at]);
    });
  }
};

template <class Value>
struct StochasticGradient {
  using V = Vec<Value>;

  // dy/dx_i = (2 a_i - y) / sum a where x_i > 0, else 0; 0 for a window with NaN or infinity.
  INLINED void operator()(const WindowCells<V>& window, V g) const {
    constexpr Value kSmallest = same<Value, float> ? Value(0x1p-126F) : Value(0x1p-1022);
    V top = {}, total, squares;
    window.each([&](int64_t, int32_t at) INLINED { top = larger(window.x[at], top); });
    // Any factor that keeps the squares in range does.
    const V scale = larger(1 / larger(top, all(kSmallest)), all(kSmallest));
    window.sum(
        [&](int64_t i, int32_t at, V* share, V* square) INLINED {
          const V x = window.x[at];
          *share = (x < 0 ? V{} : x) * scale, *square = *share * *share;
          window.kept[i] = *share;
        },
        &total, &squares);
    const auto some = (total > 0) & (total < infinity<Value>());
    const V reciprocal = 1 / (some ? total : all<Value>(1)), mean = squares * reciprocal, step = g * reciprocal;
    window.each([&](int64_t i, int32_t at) INLINED {
      const V share = window.kept[i], slope = step * (2 * share - mean);
      window.dx[at] = window.dx[at] + ((share > 0) & some ? slope : V{});
    });
  }
};

// A part of one axis: its own cells, those that its windows reach, and the outputs of these.
struct CellsPart {
  Range own, cells, outputs;

  CellsPart(const PlannedAxis& axis, const GradientParts& parts, int64_t index) {
    own = {index * parts.own, least(axis.in, (index + 1) * parts.own)};
    const int64_t reach = own.begin + axis.pad - axis.extent + axis.stride;  // of the first window that is not before it
    outputs.begin = least(axis.out, reach > 0 ? reach / axis.stride : 0);
    outputs.end = most(outputs.begin, least(axis.out, (own.end - 1 + axis.pad) / axis.stride + 1));
    cells = own;
    if (outputs.count() > 0) {
      cells.begin = most(0, least(own.begin, outputs.begin * axis.stride - axis.pad));
      cells.end = most(own.end, least(axis.in, (outputs.end - 1) * axis.stride - axis.pad + axis.extent));
    }
  }
};

template <template <class> class OfGradient, size_t kInputs, class T>
class GradientLoop : PartLoop<CellsPart, T> {
  using Base = PartLoop<CellsPart, T>;
  using typename Base::V;
  using typename Base::Value;
  using Base::depth_, Base::height_, Base::width_, Base::plan_, Base::planes_, Base::schedule_;

 public:
  static GradientSchedule schedule(const Plan& plan) {
    GradientSchedule s = Base::divided(plan, parts);
    const int64_t window = Base::window_cells(plan);
    const int64_t boxes = 2 * static_cast<int64_t>(kInputs) * Base::cells(s) + Base::outputs(s);
    s.scratch_bytes =
        static_cast<size_t>(boxes + 2 * window) * kVectorBytes + static_cast<size_t>(window) * sizeof(int32_t);
    return s;
  }

  static void task(const Plan& plan, const GradientSchedule& s, const void* const* inputs, const void* grad,
                   void* const* slopes, int64_t index, void* scratch) {
    GradientLoop(plan, s, index).run(inputs, static_cast<const T*>(grad), slopes, static_cast<V*>(scratch));
  }

 private:
  using Base::Base;

  // Parts of about so many cells, but of several windows, so that not too many are computed twice.
  static GradientParts parts(const PlannedAxis& axis, int64_t wanted) {
    GradientParts found;
    const int64_t own = most(wanted, 4 * axis.extent), count = (axis.in + own - 1) / own;
    const int64_t share = (axis.in + count - 1) / count;
    found.own = count == 1 ? axis.in : (share + axis.stride - 1) / axis.stride * axis.stride;
    found.parts = (axis.in + found.own - 1) / found.own;
    found.cells = least(axis.in, found.own + 2 * (axis.extent + axis.stride));
    found.outputs = least(axis.out, (found.own + axis.extent) / axis.stride + 2);
    return found;
  }

  void run(const void* const* inputs, const T* grad, void* const* slopes, V* scratch) {
    const int64_t cells_room = Base::cells(schedule_), plane = plan_.depth.in * plan_.height.in * plan_.width.in;
    V *box[2], *slope[2];
    for (size_t n = 0; n < kInputs; ++n) {
      box[n] = scratch, slope[n] = scratch + cells_room, scratch += 2 * cells_room;
      Base::each_run_of_cells([&](int64_t at, int64_t count, int64_t in_box) {
        planes_.load_run(static_cast<const T*>(inputs[n]), plane, at, count, box[n] + in_box);
      });
      const int64_t count = depth_.cells.count() * height_.cells.count() * width_.cells.count();
      for (int64_t i = 0; i < count; ++i) slope[n][i] = V{};
    }
    V* const g = scratch;
    Base::each_run_of_outputs([&](int64_t at, int64_t count, int64_t in_box) {
      planes_.load_run(grad, plan_.depth.out * plan_.height.out * plan_.width.out, at, count, g + in_box);
    });
    V* const kept = g + Base::outputs(schedule_);
    const int64_t window_cells = Base::window_cells(plan_);
    WindowCells<V> window{box[0], box[kInputs - 1], slope[0], slope[kInputs - 1], nullptr, 0, kept, kept + window_cells};
    send(window, g, reinterpret_cast<int32_t*>(kept + 2 * window_cells));
    for (size_t n = 0; n < kInputs; ++n) store_own(slope[n], static_cast<T*>(slopes[n]));
  }

  KEEP_CALL void send(WindowCells<V> window, const V* g, int32_t* at) const {
    const OfGradient<Value> gradient{};
    window.at = at;
    const WindowCells<V> boxes = window;
    const auto place = [&](const Clip& z, const Clip& h, const Clip& w) {
      window.count = 0;
      Base::each_cell(z, h, w, [&](int64_t in_box, int64_t) { at[window.count++] = static_cast<int32_t>(in_box); });
    };
    Base::each_window(place, [&](int64_t, int64_t, int64_t, int64_t start) INLINED {
      window.x = boxes.x + start, window.logit = boxes.logit + start;
      window.dx = boxes.dx + start, window.dlogit = boxes.dlogit + start;
      gradient(window, *g++);
    });
  }

  void store_own(const V* box, T* slopes) const {
    const PlannedAxis &height = plan_.height, &width = plan_.width;
    const int64_t plane = plan_.depth.in * height.in * width.in;
    const bool whole_rows = width_.own.count() == width.in;
    const int64_t run = whole_rows ? height_.own.count() * width.in : width_.own.count();
    for (int64_t i = depth_.own.begin; i < depth_.own.end; ++i) {
      for (int64_t j = height_.own.begin; j < (whole_rows ? height_.own.begin + 1 : height_.own.end); ++j) {
        const int64_t row = (i - depth_.cells.begin) * height_.cells.count() + j - height_.cells.begin;
        const V* const from = box + row * width_.cells.count() + width_.own.begin - width_.cells.begin;
        planes_.store_run(from, plane, (i * height.in + j) * width.in + width_.own.begin, run, slopes);
      }
    }
  }
};

template <template <class> class OfGradient, size_t kInputs, class T>
constexpr GradientKernel gradient_of() {
  return {GradientLoop<OfGradient, kInputs, T>::schedule, GradientLoop<OfGradient, kInputs, T>::task};
}

}  // namespace onnxpool::ONNXPOOL_ISA
