// What the loops with a register for each cell of an item share (lanes.h, blocks.h): no kernel, stride, dilation or padding
// is a case of its own. Sums go along one axis after the other: k + k + k cells for a window of k^3; a few rows at a time
// along the first one, so that their cells stay in the first cache.
//
// A lane's share is an item: a plane, or where these are few or large a part of its rows or columns, with the cells
// around it that its windows reach. Cells of an item that lie outside the input weigh nothing.
#pragma once

#include "steps.h"

namespace onnxpool::ONNXPOOL_ISA {

// Loop has weigh<kRanged>(z, first, rows, to, &weights), of every cell of some rows, and put(results).
template <class Loop, template <class, class> class OfMethod, class T>
class ItemsLoop : public Steps<Loop, T> {
 protected:
  using Base = Steps<Loop, T>;
  friend Base;
  using Base::form_, Base::inputs_, Base::other_scale_, Base::plan_, Base::scale_, Base::schedule_, Base::scratch_;
  using Base::y_;
  using Value = Wide<T>;
  using V = Vec<Value>;
  using Method = OfMethod<Value, double>;
  using W = Weights<Method, Value, true>;
  using Sums = SumsOfLanes<Value>;
  template <bool kRanged, bool kLast>
  using Along = SumsAlong<Value, W, kRanged, kLast>;
  static constexpr int64_t kN = kLanes<Value>;

 public:
  using Base::Base;

 protected:
  static constexpr int64_t kColumns = 256, kRow = 200;  // cells of a row, and of rows that are weighed at once
  static constexpr int64_t kSums = 2048;  // sums of an item that are held: those of all lanes fit the second cache

  static int64_t parts(int64_t whole, int64_t part) { return (whole + most(part, 1) - 1) / most(part, 1); }

  // How `units` are divided, `together` items in a step.
  static Schedule divide(const Plan& plan, int64_t units, int64_t together) {
    const PlannedAxis &depth = plan.depth, &height = plan.height, &width = plan.width;
    Schedule s;
    s.units = units;
    s.slices = depth.kernel == 1 ? 1 : depth.in;
    // Whole rows if an item may have them: then its cells follow each other. Else parts of them, of like size.
    const int64_t widest = most(least(kColumns, kSums / s.slices * width.stride), 4 * width.extent);
    if (width.in > widest) s.tiles = parts(width.out, (widest - width.extent) / width.stride + 1);
    s.tile = (width.out + s.tiles - 1) / s.tiles;
    s.tiles = parts(width.out, s.tile);
    s.columns = s.tiles == 1 ? width.in : (s.tile - 1) * width.stride + width.extent;
    // As many rows as sums have room for, and no more than half of them read twice.
    const int64_t once = (height.extent + height.stride - 1) / height.stride;
    const int64_t room = least((kSums / s.tile - height.extent) / height.stride + 1, kSums / s.tile / s.slices);
    s.bands = parts(height.out, most(room, once));
    // Where that fills no step, smaller parts do.
    const int64_t wanted = parts(together, s.units * s.tiles);
    if (s.bands < wanted) s.bands = most(s.bands, least(wanted, parts(height.out, most(1, once - 1))));
    s.band = (height.out + s.bands - 1) / s.bands;
    s.bands = parts(height.out, s.band);
    s.rows = s.bands == 1 ? height.in : (s.band - 1) * height.stride + height.extent;
    s.steps = parts(s.units * s.bands * s.tiles, together);
    const int64_t step_cells = kN * s.slices * s.rows * s.columns;
    Base::count_tasks(&s, step_cells, Rooms(plan, s).all());
    return s;
  }

  // Axes with more than one cell to sum, or with cells to leave out.
  static bool counts(const Axis& axis) { return axis.kernel > 1 || axis.stride > 1; }

  static int64_t depth_out(const Plan& plan) { return plan.depth.kernel == 1 ? 1 : plan.depth.out; }

  // Scratch memory, in registers: along the axes of a slice, and then along depth, sums overwrite what they were made of.
  // What is read must lie so far ahead of what is written as windows reach back into the padding.
  struct Rooms {
    int64_t group;            // rows that are weighed at once
    int64_t cells, across;    // where their cells and sums are
    int64_t slice, down, deep;  // room for a slice, where its sums go along depth, room for those

    Rooms(const Plan& plan, const Schedule& s) {
      group = s.tiles > 1 ? 1 : least(s.rows, most(1, kRow / s.columns));
      across = s.bands > 1 ? 0 : plan.height.pad * s.tile;
      cells = across + (s.tiles > 1 ? 0 : plan.width.pad) + group * most(0, s.tile - s.columns);
      slice = cells + s.rows * most(s.tile, s.columns) + kN;
      down = plan.depth.kernel > 1 ? plan.depth.pad * s.band * s.tile : 0;
      deep = plan.depth.kernel > 1 ? down + most(s.slices, plan.depth.out) * s.band * s.tile + kN : 0;
    }
    int64_t all() const { return slice + deep; }
  };

  template <bool kRanged>
  KEEP_CALL bool pool() {
    Loop& loop = static_cast<Loop&>(*this);
    const Schedule& s = schedule_;
    const PlannedAxis &depth = plan_.depth, &height = plan_.height, &width = plan_.width;
    const Rooms rooms(plan_, s);
    const auto array = [](V* start, int64_t count) { return Sums{start, start + count, start + 2 * count}; };
    const Sums slice = array(scratch_, rooms.slice), pile = array(scratch_ + 3 * rooms.slice, rooms.deep);
    const bool deep = depth.kernel > 1, tall = counts(height), wide = counts(width) || !(deep || tall);
    const Sums across = slice + (tall ? rooms.across : 0);
    W weights(depth.kernel * height.kernel * width.kernel, scale_);
    if (kRanged && form_ == Base::kCareful) weights.be_careful();
    const V unscale = weights.unscale();
    for (int64_t z = 0; z < s.slices; ++z) {
      for (int64_t row = 0; row < s.rows; row += rooms.group) {
        const int64_t rows = least(rooms.group, s.rows - row);
        const Sums own = across + row * s.tile, cells = wide ? slice + (rooms.cells + row * s.tile) : own;
        loop.template weigh<kRanged>(z, row, rows, cells, &weights);
        if (!kRanged && !weights.near(true)) {
          other_scale_ = weights.other_scale();
          return false;
        }
        if (!wide) continue;
        const auto sum = deep || tall ? Along<kRanged, false>::run : Along<kRanged, true>::run;
        sum(width, s.columns, s.tile, s.tiles == 1 ? width.pad : 0, rows, 1, cells, own, unscale);
      }
      if (!deep && !tall) continue;
      const auto sum = deep ? Along<kRanged, false>::run : Along<kRanged, true>::run;
      const Sums to = deep ? pile + (rooms.down + z * s.band * s.tile) : slice;
      sum(height, s.rows, s.band, s.bands == 1 ? height.pad : 0, 1, s.tile, across, to, unscale);
    }
    if (deep) {
      const int64_t inner = s.band * s.tile;
      Along<kRanged, true>::run(depth, s.slices, depth.out, depth.pad, 1, inner, pile + rooms.down, pile, unscale);
    }
    const Sums results = deep ? pile : slice;
    loop.put(results.p);
    if (kRanged && weights.calm()) form_ = Base::kPlain;
    return !kRanged || weights.right();
  }
};

}  // namespace onnxpool::ONNXPOOL_ISA
