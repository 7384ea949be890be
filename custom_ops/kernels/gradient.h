// Gradients: from dL/dy to dL/dx (and dL/dlogits), for any window. As in lanes.h each lane is a plane; a task is a part of
// as many planes as a register has lanes, with the cells around it that its windows reach. Windows that cross from one
// part into another are computed in both, and every cell adds up what its windows send in the same order, so that bits
// depend on its windows alone: not on parts, other planes or the number of threads.
//
// Each window subtracts its own largest cell and recomputes its weights, so that all inputs are right, and nothing of the
// forward pass is kept. What is added up is of the type that is computed in, float for short cells.
#pragma once

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

// Cells of planes as registers, one plane in each lane.
template <class T>
struct PlanesInLanes {
  using Value = Wide<T>;
  using V = Vec<Value>;
  static constexpr int64_t kN = kLanes<Value>;

  int64_t first = 0, used = 0;  // planes; lanes that have none take the last one again, and write nothing

  // `count` cells of each plane, from `at` on; writes whole registers' worth of them.
  void load_run(const T* cells, int64_t plane_cells, int64_t at, int64_t count, V* box) const {
    for (int64_t i = 0; i < count; i += kN) {
      V rows[kRoom<Value>];
      UNROLL_NONE
      for (int64_t lane = 0; lane < kN; ++lane) {
        const T* const from = cells + (first + least(lane, used - 1)) * plane_cells + at + i;
        rows[lane] = count - i >= kN ? load(from) : load_part(from, Span<T>(0, count - i));
      }
      transpose<Value>(rows);
      for (int64_t j = 0; j < kN; ++j) box[i + j] = rows[j];
    }
  }
  void store_run(const V* box, int64_t plane_cells, int64_t at, int64_t count, T* cells) const {
    for (int64_t i = 0; i < count; i += kN) {
      V rows[kRoom<Value>];
      for (int64_t j = 0; j < kN; ++j) rows[j] = box[i + j];
      transpose<Value>(rows);
      UNROLL_NONE
      for (int64_t lane = 0; lane < used; ++lane) {
        T* const to = cells + (first + lane) * plane_cells + at + i;
        if (count - i >= kN) store(rows[lane], to); else store_part(rows[lane], Span<T>(0, count - i), to);
      }
    }
  }
};

// A part of one axis: its own cells, those that its windows reach, and the outputs of these.
struct AxisPart {
  int64_t own, own_end, cell, cell_end, output, output_end;

  AxisPart(const PlannedAxis& axis, const GradientParts& parts, int64_t index) {
    own = index * parts.own, own_end = least(axis.in, own + parts.own);
    const int64_t reach = own + axis.pad - axis.extent + axis.stride;  // of the first window that is not before it
    output = least(axis.out, reach > 0 ? reach / axis.stride : 0);
    output_end = most(output, least(axis.out, (own_end - 1 + axis.pad) / axis.stride + 1));
    cell = own, cell_end = own_end;
    if (output < output_end) {
      cell = most(0, least(own, output * axis.stride - axis.pad));
      cell_end = most(own_end, least(axis.in, (output_end - 1) * axis.stride - axis.pad + axis.extent));
    }
  }
  int64_t cells() const { return cell_end - cell; }
  int64_t outputs() const { return output_end - output; }
};

// The kernel's cells [first, last) that lie in the input, for a window that starts at `start`.
struct Clip {
  int64_t start = 0, first = 0, last = 0;

  Clip() = default;
  Clip(const PlannedAxis& axis, int64_t output) : start(output * axis.stride - axis.pad) {
    first = start >= 0 ? 0 : (-start + axis.dilation - 1) / axis.dilation;
    last = least(axis.kernel, (axis.in - start + axis.dilation - 1) / axis.dilation);
  }
  bool same_cells(const Clip& other) const { return first == other.first && last == other.last; }
};

template <template <class> class OfGradient, size_t kInputs, class T>
class GradientLoop {
  using Value = Wide<T>;
  using V = Vec<Value>;
  static constexpr int64_t kN = kLanes<Value>;
  static constexpr int64_t kCells = 2048;  // of a part, about: what is held of it fits the second cache

 public:
  static GradientSchedule schedule(const Plan& plan) {
    GradientSchedule s;
    const int64_t slices = least(plan.depth.in, 2 * plan.depth.extent), rows = least(plan.height.in, plan.height.extent);
    s.width = parts(plan.width, kCells / (slices * rows));
    s.height = parts(plan.height, kCells / (slices * s.width.cells));
    s.depth = parts(plan.depth, kCells / (s.height.cells * s.width.cells));
    s.groups = (plan.planes + kN - 1) / kN;
    s.tasks = s.groups * s.depth.parts * s.height.parts * s.width.parts;
    const int64_t window = window_cells(plan), boxes = 2 * static_cast<int64_t>(kInputs) * cells(s) + outputs(s);
    s.scratch_bytes =
        static_cast<size_t>(boxes + 2 * window) * kVectorBytes + static_cast<size_t>(window) * sizeof(int32_t);
    return s;
  }

  static void task(const Plan& plan, const GradientSchedule& s, const void* const* inputs, const void* grad,
                   void* const* slopes, int64_t index, void* scratch) {
    GradientLoop(plan, s, index).run(inputs, static_cast<const T*>(grad), slopes, static_cast<V*>(scratch));
  }

 private:
  GradientLoop(const Plan& plan, const GradientSchedule& s, int64_t index)
      : plan_(plan),
        schedule_(s),
        depth_(plan.depth, s.depth, index / s.groups / s.width.parts / s.height.parts),
        height_(plan.height, s.height, index / s.groups / s.width.parts % s.height.parts),
        width_(plan.width, s.width, index / s.groups % s.width.parts) {
    planes_.first = index % s.groups * kN;
    planes_.used = least(kN, plan.planes - planes_.first);
  }

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

  // In registers, with room for what whole registers write beyond.
  static int64_t cells(const GradientSchedule& s) { return s.depth.cells * s.height.cells * s.width.cells + kN; }
  static int64_t outputs(const GradientSchedule& s) { return s.depth.outputs * s.height.outputs * s.width.outputs + kN; }
  static int64_t window_cells(const Plan& plan) {
    const auto most_inside = [](const PlannedAxis& axis) { return least(axis.kernel, axis.in); };
    return most_inside(plan.depth) * most_inside(plan.height) * most_inside(plan.width);
  }

  void run(const void* const* inputs, const T* grad, void* const* slopes, V* scratch) {
    const int64_t cells_room = cells(schedule_);
    V *box[2], *slope[2];
    for (size_t i = 0; i < kInputs; ++i) {
      box[i] = scratch, slope[i] = scratch + cells_room, scratch += 2 * cells_room;
      load_box(static_cast<const T*>(inputs[i]), box[i]);
      const int64_t count = depth_.cells() * height_.cells() * width_.cells();
      for (int64_t j = 0; j < count; ++j) slope[i][j] = V{};
    }
    V* const g = scratch;
    load_grad(grad, g);
    V* const kept = g + outputs(schedule_);
    WindowCells<V> window{box[0], box[kInputs - 1], slope[0], slope[kInputs - 1], nullptr, 0, kept,
                          kept + window_cells(plan_)};
    send(window, g, reinterpret_cast<int32_t*>(kept + 2 * window_cells(plan_)));
    for (size_t i = 0; i < kInputs; ++i) store_own(slope[i], static_cast<T*>(slopes[i]));
  }

  // Every window, in the order of outputs.
  KEEP_CALL void send(WindowCells<V> window, const V* g, int32_t* at) const {
    const OfGradient<Value> gradient{};
    Clip z, h, w, known_z, known_h, known_w;
    window.at = at;
    const WindowCells<V> boxes = window;
    for (int64_t i = depth_.output; i < depth_.output_end; ++i) {
      z = Clip(plan_.depth, i);
      for (int64_t j = height_.output; j < height_.output_end; ++j) {
        h = Clip(plan_.height, j);
        for (int64_t k = width_.output; k < width_.output_end; ++k) {
          w = Clip(plan_.width, k);
          if (!z.same_cells(known_z) || !h.same_cells(known_h) || !w.same_cells(known_w)) {
            window.count = place(z, h, w, at);
            known_z = z, known_h = h, known_w = w;
          }
          const int64_t row = (z.start - depth_.cell) * height_.cells() + h.start - height_.cell;
          const int64_t start = row * width_.cells() + w.start - width_.cell;
          window.x = boxes.x + start, window.logit = boxes.logit + start;
          window.dx = boxes.dx + start, window.dlogit = boxes.dlogit + start;
          gradient(window, *g++);
        }
      }
    }
  }

  // Where a window's cells are, from its start on; how many they are.
  int64_t place(const Clip& z, const Clip& h, const Clip& w, int32_t* at) const {
    int64_t count = 0;
    for (int64_t i = z.first; i < z.last; ++i) {
      for (int64_t j = h.first; j < h.last; ++j) {
        const int64_t row = i * plan_.depth.dilation * height_.cells() + j * plan_.height.dilation;
        for (int64_t k = w.first; k < w.last; ++k) {
          at[count++] = static_cast<int32_t>(row * width_.cells() + k * plan_.width.dilation);
        }
      }
    }
    return count;
  }

  // Rows that follow each other without a gap are one run.
  void load_box(const T* cells, V* box) const {
    const PlannedAxis &height = plan_.height, &width = plan_.width;
    const int64_t plane_cells = plan_.depth.in * height.in * width.in;
    const bool whole_rows = width_.cells() == width.in;
    const int64_t run = whole_rows ? height_.cells() * width.in : width_.cells();
    for (int64_t i = depth_.cell; i < depth_.cell_end; ++i) {
      for (int64_t j = height_.cell; j < (whole_rows ? height_.cell + 1 : height_.cell_end); ++j, box += run) {
        planes_.load_run(cells, plane_cells, (i * height.in + j) * width.in + width_.cell, run, box);
      }
    }
  }
  void load_grad(const T* grad, V* box) const {
    const PlannedAxis &height = plan_.height, &width = plan_.width;
    const int64_t plane_cells = plan_.depth.out * height.out * width.out;
    const bool whole_rows = width_.outputs() == width.out;
    const int64_t run = whole_rows ? height_.outputs() * width.out : width_.outputs();
    for (int64_t i = depth_.output; i < depth_.output_end; ++i) {
      for (int64_t j = height_.output; j < (whole_rows ? height_.output + 1 : height_.output_end); ++j, box += run) {
        planes_.load_run(grad, plane_cells, (i * height.out + j) * width.out + width_.output, run, box);
      }
    }
  }
  void store_own(const V* box, T* slopes) const {
    const PlannedAxis &height = plan_.height, &width = plan_.width;
    const int64_t plane_cells = plan_.depth.in * height.in * width.in;
    const bool whole_rows = width_.own_end - width_.own == width.in;
    const int64_t run = whole_rows ? (height_.own_end - height_.own) * width.in : width_.own_end - width_.own;
    for (int64_t i = depth_.own; i < depth_.own_end; ++i) {
      for (int64_t j = height_.own; j < (whole_rows ? height_.own + 1 : height_.own_end); ++j) {
        const int64_t row = (i - depth_.cell) * height_.cells() + j - height_.cell;
        const V* const from = box + row * width_.cells() + width_.own - width_.cell;
        planes_.store_run(from, plane_cells, (i * height.in + j) * width.in + width_.own, run, slopes);
      }
    }
  }

  const Plan& plan_;
  const GradientSchedule& schedule_;
  const AxisPart depth_, height_, width_;
  PlanesInLanes<T> planes_;
};

template <template <class> class OfGradient, size_t kInputs, class T>
constexpr GradientKernel gradient_of() {
  return {GradientLoop<OfGradient, kInputs, T>::schedule, GradientLoop<OfGradient, kInputs, T>::task};
}

}  // namespace onnxpool::ONNXPOOL_ISA
