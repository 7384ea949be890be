// Parts of a tensor, with a plane in each lane: a task is a part of as many planes as a register has lanes, some outputs
// and the cells that their windows reach, each in a box of registers. Gradients and draws share this.
#pragma once

#include "cells.h"
#include "geometry.h"

namespace onnxpool::ONNXPOOL_ISA {

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

// Cells, or outputs, along one axis.
struct Range {
  int64_t begin, end;

  int64_t count() const { return end - begin; }
};

// visit(where in a plane of these sizes, how many, where in the box) for each run of a box's cells: rows that follow each
// other without a gap are one.
template <class Visit>
INLINE void each_run(const Range& depth, const Range& height, const Range& width, int64_t plane_height,
                     int64_t plane_width, const Visit& visit) {
  const bool whole_rows = width.count() == plane_width;
  const int64_t run = whole_rows ? height.count() * plane_width : width.count();
  int64_t in_box = 0;
  for (int64_t i = depth.begin; i < depth.end; ++i) {
    for (int64_t j = height.begin; j < (whole_rows ? height.begin + 1 : height.end); ++j, in_box += run) {
      visit((i * plane_height + j) * plane_width + width.begin, run, in_box);
    }
  }
}

// `Part` is what a task has of an axis: its `cells` and its `outputs`, each a Range.
template <class Part, class T>
class PartLoop {
 protected:
  using Value = Wide<T>;
  using V = Vec<Value>;
  static constexpr int64_t kN = kLanes<Value>;
  static constexpr int64_t kCells = 2048;  // of a part, about: what is held of it fits the second cache

  PartLoop(const Plan& plan, const GradientSchedule& s, int64_t index)
      : plan_(plan),
        schedule_(s),
        depth_(plan.depth, s.depth, index / s.groups / s.width.parts / s.height.parts),
        height_(plan.height, s.height, index / s.groups / s.width.parts % s.height.parts),
        width_(plan.width, s.width, index / s.groups % s.width.parts) {
    planes_.first = index % s.groups * kN;
    planes_.used = least(kN, plan.planes - planes_.first);
  }

  // Without its scratch memory; divide(axis, wanted) gives parts of about so many cells.
  template <class Divide>
  static GradientSchedule divided(const Plan& plan, const Divide& divide) {
    GradientSchedule s;
    const int64_t slices = least(plan.depth.in, 2 * plan.depth.extent), rows = least(plan.height.in, plan.height.extent);
    s.width = divide(plan.width, kCells / (slices * rows));
    s.height = divide(plan.height, kCells / (slices * s.width.cells));
    s.depth = divide(plan.depth, kCells / (s.height.cells * s.width.cells));
    s.groups = (plan.planes + kN - 1) / kN;
    s.tasks = s.groups * s.depth.parts * s.height.parts * s.width.parts;
    return s;
  }

  // In registers, with room for what whole registers write beyond.
  static int64_t cells(const GradientSchedule& s) { return s.depth.cells * s.height.cells * s.width.cells + kN; }
  static int64_t outputs(const GradientSchedule& s) { return s.depth.outputs * s.height.outputs * s.width.outputs + kN; }
  static int64_t window_cells(const Plan& plan) {
    const auto most_inside = [](const PlannedAxis& axis) { return least(axis.kernel, axis.in); };
    return most_inside(plan.depth) * most_inside(plan.height) * most_inside(plan.width);
  }

  template <class Visit>
  void each_run_of_cells(const Visit& visit) const {
    each_run(depth_.cells, height_.cells, width_.cells, plan_.height.in, plan_.width.in, visit);
  }
  template <class Visit>
  void each_run_of_outputs(const Visit& visit) const {
    each_run(depth_.outputs, height_.outputs, width_.outputs, plan_.height.out, plan_.width.out, visit);
  }

  // visit(z, h, w, where in the box), the window's start along each axis, for each window in the order of outputs; before
  // it place(clips) where windows have other cells than those before, counted from their start.
  template <class Place, class Visit>
  INLINED void each_window(const Place& place, const Visit& visit) const {
    Clip z, h, w, known_z, known_h, known_w;
    for (int64_t i = depth_.outputs.begin; i < depth_.outputs.end; ++i) {
      z = Clip(plan_.depth, i);
      for (int64_t j = height_.outputs.begin; j < height_.outputs.end; ++j) {
        h = Clip(plan_.height, j);
        for (int64_t k = width_.outputs.begin; k < width_.outputs.end; ++k) {
          w = Clip(plan_.width, k);
          if (!z.same_cells(known_z) || !h.same_cells(known_h) || !w.same_cells(known_w)) {
            place(z, h, w);
            known_z = z, known_h = h, known_w = w;
          }
          const int64_t row = (z.start - depth_.cells.begin) * height_.cells.count() + h.start - height_.cells.begin;
          visit(z.start, h.start, w.start, row * width_.cells.count() + w.start - width_.cells.begin);
        }
      }
    }
  }

  // visit(where in the box, where in a plane) for each cell of a window, counted from its start.
  template <class Visit>
  void each_cell(const Clip& z, const Clip& h, const Clip& w, const Visit& visit) const {
    for (int64_t i = z.first; i < z.last; ++i) {
      for (int64_t j = h.first; j < h.last; ++j) {
        const int64_t slice = i * plan_.depth.dilation, row = j * plan_.height.dilation;
        for (int64_t k = w.first; k < w.last; ++k) {
          const int64_t column = k * plan_.width.dilation;
          visit((slice * height_.cells.count() + row) * width_.cells.count() + column,
                (slice * plan_.height.in + row) * plan_.width.in + column);
        }
      }
    }
  }

  const Plan& plan_;
  const GradientSchedule& schedule_;
  const Part depth_, height_, width_;
  PlanesInLanes<T> planes_;
};

}  // namespace onnxpool::ONNXPOOL_ISA
