// Any window, with one plane in each lane: cells are transposed on their way in, results on their way out, and in
// between a window is a few loads and additions that concern no other lane. So no kernel, stride, dilation or padding is
// a case of its own. Sums go along one axis after the other: k + k + k cells for a window of k^3.
//
// A lane's share is an item: a plane, or where these are few or large a part of its rows or columns, with the cells
// around it that its windows reach. Cells of an item that lie outside the input weigh nothing.
#pragma once

#include "weights.h"
#include "window.h"

namespace onnxpool::ONNXPOOL_ISA {

constexpr int64_t kInRow = 8;  // cells that are summed one after the other; then the sums are

// Sums of weights and of products, relative to 2^n in ranged form.
template <class Value>
struct SumsOf {
  using V = Vec<Value>;
  V *w, *p, *n;

  INLINED SumsOf operator+(int64_t i) const { return {w + i, p + i, n + i}; }

  // Along one axis of `in` cells, `outer` times, each cell `inner` registers: the sums over the kernel's cells.
  template <bool kRanged, bool kSquares>
  KEEP_CALL static void along(const Axis& axis, int64_t in, int64_t out, int64_t pad, int64_t outer, int64_t inner,
                              SumsOf from, SumsOf to) {
    const int64_t step = axis.dilation * inner;
    for (int64_t a = 0; a < outer; ++a) {
      for (int64_t o = 0; o < out; ++o) {
        // The kernel's cells [first, last) are among those of `from`.
        const int64_t start = o * axis.stride - pad;
        const int64_t first = start >= 0 ? 0 : (-start + axis.dilation - 1) / axis.dilation;
        const int64_t last = least(axis.kernel, start >= in ? 0 : (in - start + axis.dilation - 1) / axis.dilation);
        const int64_t at = (a * in + start) * inner, put = (a * out + o) * inner;
        for (int64_t i = 0; i < inner; ++i) one<kRanged, kSquares>(from, at + i, first, last, step, to + (put + i));
      }
    }
  }

 private:
  // Runs of kInRow cells are counted from the kernel's own first cell, whether that is in the input or not: the sum of a
  // window must not depend on which cells beside it an item holds.
  template <bool kRanged, bool kSquares>
  INLINED static void one(SumsOf from, int64_t at, int64_t first, int64_t last, int64_t step, SumsOf to) {
    V top = all(kNone<Value>), w = {}, p = {};
    if constexpr (kRanged) {
      for (int64_t k = first; k < last; ++k) top = larger(from.n[at + k * step], top);
      *to.n = top;
    }
    for (int64_t begin = first; begin < last;) {
      const int64_t end = least(last, (begin / kInRow + 1) * kInRow);
      V own_w = {}, own_p = {};
      for (; begin < end; ++begin) {
        const int64_t k = at + begin * step;
        if constexpr (kRanged) {
          const V factor = scaled<Value>(all<Value>(1), from.n[k] - top);
          own_w = fma(from.w[k], factor, own_w);
          own_p = fma(from.p[k], kSquares ? factor * factor : factor, own_p);
        } else {
          own_w = own_w + from.w[k], own_p = own_p + from.p[k];
        }
      }
      w = w + own_w, p = p + own_p;
    }
    *to.w = w, *to.p = p;
  }
};

template <template <class, class> class OfMethod, class T>
class LanesLoop {
  using Value = Wide<T>;
  using V = Vec<Value>;
  using Method = OfMethod<Value, double>;
  using W = Weights<Method, Value>;
  static constexpr int64_t kN = kLanes<Value>;

 public:
  // Of an item, about, and at most: what is held of a register's items fits the second cache.
  static constexpr int64_t kCells = 2048, kMostCells = 4096;

  static Schedule schedule(const Plan& plan) {
    const PlannedAxis &depth = plan.depth, &height = plan.height, &width = plan.width;
    Schedule s;
    const bool flat = depth.kernel == 1;
    s.units = plan.planes * (flat ? depth.out : 1);
    s.slices = flat ? 1 : depth.in;
    // Whole rows if an item may have them: then its cells follow each other. Else parts of them, of like size.
    const int64_t tall = least(height.in, height.extent), room = kMostCells / s.slices / tall;
    const int64_t widest = most(kCells / s.slices / tall, 4 * width.extent);
    if (width.in > most(room, 4 * width.extent)) s.tiles = parts(width.out, (widest - width.extent) / width.stride + 1);
    s.tile = (width.out + s.tiles - 1) / s.tiles;
    s.tiles = parts(width.out, s.tile);
    s.columns = s.tiles == 1 ? width.in : (s.tile - 1) * width.stride + width.extent;
    const int64_t rows = most(kCells / s.slices / s.columns, least(height.in, 2 * height.extent));
    if (rows < height.in) s.bands = parts(height.out, (rows - height.extent) / height.stride + 1);
    // Where that fills no register, smaller parts do, as long as no more than half of the rows are read twice.
    const int64_t wanted = parts(kN, s.units * s.tiles);
    const int64_t smallest = most(1, (height.extent + height.stride - 1) / height.stride - 1);
    if (s.bands < wanted) s.bands = most(s.bands, least(wanted, parts(height.out, smallest)));
    s.band = (height.out + s.bands - 1) / s.bands;
    s.bands = parts(height.out, s.band);
    s.rows = s.bands == 1 ? height.in : (s.band - 1) * height.stride + height.extent;
    s.steps = (s.units * s.bands * s.tiles + kN - 1) / kN;
    const int64_t step_cells = kN * s.slices * s.rows * s.columns;
    s.steps_per_task = kTaskCells / step_cells + 1;
    s.tasks = (s.steps + s.steps_per_task - 1) / s.steps_per_task;
    const int64_t first = most(s.slices * s.rows * s.columns + kN, s.slices * s.band * s.tile);
    const int64_t second = most(s.slices * s.rows * s.tile, depth_out(plan) * s.band * s.tile + kN);
    s.scratch_bytes = static_cast<size_t>(3 * (first + second) * kVectorBytes);
    return s;
  }

  LanesLoop(const Plan& plan, const Schedule& schedule, const Inputs<T>& inputs, T* y, void* scratch)
      : plan_(plan), schedule_(schedule), inputs_(inputs), y_(y), scratch_(static_cast<V*>(scratch)) {}

  // Items [step * kN, (step + 1) * kN). Which form of weights they have does not show in their bits, so that it may
  // depend on the steps before: after one that had to be done again, all are ranged at once.
  void step(int64_t step) {
    place(step);
    if (near_ && near_step<false>()) return;
    near_ = false;
    if (!near_step<true>()) repair();
  }

 private:
  using Sums = SumsOf<Value>;

  static int64_t parts(int64_t whole, int64_t part) { return (whole + most(part, 1) - 1) / most(part, 1); }

  static int64_t depth_out(const Plan& plan) { return plan.depth.kernel == 1 ? 1 : plan.depth.out; }

  // Where each lane's item lies. Lanes that have none do the last item once more, and write nothing.
  KEEP_CALL void place(int64_t step) {
    const Plan& plan = plan_;
    const Schedule& s = schedule_;
    const int64_t items = s.units * s.bands * s.tiles;
    used_ = least(kN, items - step * kN);
    UNROLL_NONE
    for (int64_t lane = 0; lane < kN; ++lane) {
      const int64_t item = step * kN + least(lane, used_ - 1), unit = item % s.units, part = item / s.units;
      Item& at = items_[lane];
      at.tile = part % s.tiles, at.band = part / s.tiles;
      const bool flat = plan.depth.kernel == 1;
      at.plane = flat ? unit / plan.depth.out : unit;
      at.z = flat ? unit % plan.depth.out : 0;
      at.slice = at.plane * plan.depth.in + at.z * plan.depth.stride;
      at.row = s.bands == 1 ? 0 : at.band * s.band * plan.height.stride - plan.height.pad;
      at.column = s.tiles == 1 ? 0 : at.tile * s.tile * plan.width.stride - plan.width.pad;
      at.out_rows = least(s.band, plan.height.out - at.band * s.band);
      at.out_columns = least(s.tile, plan.width.out - at.tile * s.tile);
    }
  }

  // False where weights are out of range; ranged, where a cell is huge.
  template <bool kRanged>
  KEEP_CALL bool near_step() {
    const Schedule& s = schedule_;
    const int64_t first = most(s.slices * s.rows * s.columns + kN, s.slices * s.band * s.tile);
    const int64_t second = most(s.slices * s.rows * s.tile, depth_out(plan_) * s.band * s.tile + kN);
    Sums a{scratch_, scratch_ + first, scratch_ + 2 * first};
    V* const start = scratch_ + 3 * first;
    Sums b{start, start + second, start + 2 * second};
    W weights(plan_.depth.kernel * plan_.height.kernel * plan_.width.kernel);
    if (!weigh<kRanged>(a, &weights)) return false;
    const PlannedAxis &depth = plan_.depth, &height = plan_.height, &width = plan_.width;
    const auto sum_along = SumsOf<Value>::template along<kRanged, W::kSquares>;
    sum_along(width, s.columns, s.tile, s.tiles == 1 ? width.pad : 0, s.slices * s.rows, 1, a, b);
    sum_along(height, s.rows, s.band, s.bands == 1 ? height.pad : 0, s.slices, s.tile, b, a);
    if (depth.kernel > 1) {
      sum_along(depth, s.slices, depth.out, depth.pad, 1, s.band * s.tile, a, b);
    } else {
      b = a;
    }
    const int64_t outputs = depth_out(plan_) * s.band * s.tile;
    for (int64_t i = 0; i < outputs; ++i) {
      const V y = quotient(b.p[i], b.w[i]);
      if constexpr (kRanged) b.p[i] = W::result(y, b.w[i], b.n[i]);
      else b.p[i] = W::result(y, b.w[i]);
    }
    put(b.p);
    return !kRanged || !weights.huge();
  }

  // Every cell of the items: its weight, and its value times that.
  template <bool kRanged>
  bool weigh(Sums to, W* weights) {
    const Schedule& s = schedule_;
    const PlannedAxis &height = plan_.height, &width = plan_.width;
    Run run;
    for (int64_t z = 0; z < s.slices; ++z) {
      for (int64_t r = 0; r < (s.tiles == 1 ? 1 : s.rows); ++r) {
        UNROLL_NONE
        for (int64_t lane = 0; lane < kN; ++lane) {
          const Item& at = items_[lane];
          const int64_t row = at.row + r;
          run.start[lane] = ((at.slice + z) * height.in + row) * width.in + at.column;
          if (s.tiles == 1) {  // rows follow each other without a gap
            run.from[lane] = most(0, -row) * width.in;
            run.to[lane] = least(s.rows, height.in - row) * width.in;
          } else {
            const bool inside = row >= 0 && row < height.in;
            run.from[lane] = most(0, -at.column);
            run.to[lane] = inside ? least(s.columns, width.in - at.column) : 0;
          }
        }
        const int64_t count = s.tiles == 1 ? s.rows * s.columns : s.columns;
        const int64_t at = (z * s.rows + r) * s.columns;
        if (!weigh_run<kRanged>(run, count, to + at, weights)) return false;
      }
    }
    return true;
  }

  // `count` cells of each lane, from `start` on; those of [from, to) are in the input.
  struct Run {
    int64_t start[kRoom<Value>], from[kRoom<Value>], to[kRoom<Value>];
  };

  KEEP_CALL void load_cells(const T* cells, const Run& run, int64_t i, bool whole, V* rows) const {
    // As many streams as lanes are more than a processor follows by itself: where the next register's planes will be.
    const int64_t ahead = kN * (run.start[1] - run.start[0]);
    if (whole) {
      UNROLL_ALL
      for (int64_t lane = 0; lane < kN; ++lane) {
        __builtin_prefetch(cells + run.start[lane] + i + ahead);
        rows[lane] = load(cells + run.start[lane] + i);
      }
    } else {
      UNROLL_NONE
      for (int64_t lane = 0; lane < kN; ++lane) {
        rows[lane] = load_part(cells + run.start[lane] + i, Span<T>(run.from[lane] - i, run.to[lane] - i));
      }
    }
    transpose<Value>(rows);
  }

  template <bool kRanged>
  INLINED bool weigh_run(const Run& run, int64_t count, Sums to, W* weights) const {
    using Signed = typename ExpConstants<Value>::Signed;
    int64_t latest = 0, earliest = count;
    Ints<Value> from, to_end;
    UNROLL_NONE
    for (int64_t lane = 0; lane < kN; ++lane) {
      latest = most(latest, run.from[lane]), earliest = least(earliest, run.to[lane]);
      from[lane] = static_cast<Signed>(run.from[lane]), to_end[lane] = static_cast<Signed>(run.to[lane]);
    }
    for (int64_t i = 0; i < count; i += kN) {
      const bool inside = latest <= i && earliest >= least(i + kN, count);
      V rows[kRoom<Value>], logits[Method::kInputs > 1 ? kRoom<Value> : 1];
      load_cells(inputs_.x, run, i, inside && i + kN <= count, rows);
      if constexpr (Method::kInputs > 1) load_cells(inputs_.logit, run, i, inside && i + kN <= count, logits);
      const auto cell = [&](int64_t j) INLINED {
        const V logit = Method::kInputs > 1 ? logits[Method::kInputs > 1 ? j : 0] : rows[j];
        Cells<Value> cells;
        if constexpr (kRanged) {
          cells = weights->split(rows[j], logit);
        } else {
          cells.x = rows[j];
          cells.w = weights->weight(rows[j], logit);
        }
        if (!inside) {
          const auto at = static_cast<Signed>(i + j);
          const auto within = (from <= at) & (to_end > at);
          cells.w = within ? cells.w : V{};
          if constexpr (kRanged) cells.n = within ? cells.n : all(kNone<Value>);
          if constexpr (kRanged) cells.x = within ? cells.x : V{};
        }
        const V product = cells.w * (W::kSquares ? cells.w : cells.x);
        to.w[i + j] = cells.w, to.p[i + j] = product;
        if constexpr (kRanged) to.n[i + j] = cells.n;
        else weights->see_cell(cells.w, product);
      };
      const int64_t end = least(kN, count - i);
      for (int64_t j = 0; j < end; ++j) cell(j);
      if (!kRanged && !weights->near()) return false;
    }
    return true;
  }

  // Results to where they belong.
  KEEP_CALL void put(const V* results) const {
    const Schedule& s = schedule_;
    const PlannedAxis &depth = plan_.depth, &height = plan_.height, &width = plan_.width;
    const bool joined = s.tiles == 1;
    for (int64_t z = 0; z < depth_out(plan_); ++z) {
      for (int64_t r = 0; r < (joined ? 1 : s.band); ++r) {
        const int64_t count = joined ? s.band * s.tile : s.tile;
        for (int64_t i = 0; i < count; i += kN) {
          V rows[kRoom<Value>];
          for (int64_t j = 0; j < kN; ++j) rows[j] = results[(z * s.band + r) * s.tile + i + j];
          transpose<Value>(rows);
          UNROLL_NONE
          for (int64_t lane = 0; lane < used_; ++lane) {
            const Item& at = items_[lane];
            const int64_t slice = at.plane * depth.out + at.z + z, row = at.band * s.band + r;
            T* const out = y_ + (slice * height.out + row) * width.out + at.tile * s.tile + i;
            const int64_t own = joined ? at.out_rows * width.out : r < at.out_rows ? at.out_columns : 0;
            if (own - i >= kN) store(rows[lane], out); else store_part(rows[lane], Span<T>(0, own - i), out);
          }
        }
      }
    }
  }

  // By the formula, where the result is NaN.
  KEEP_CALL void repair() const {
    const Schedule& s = schedule_;
    const PlannedAxis &depth = plan_.depth, &height = plan_.height, &width = plan_.width;
    for (int64_t lane = 0; lane < used_; ++lane) {
      const Item& at = items_[lane];
      for (int64_t z = at.z; z < at.z + depth_out(plan_); ++z) {
        for (int64_t r = at.band * s.band; r < at.band * s.band + at.out_rows; ++r) {
          repair_row<OfMethod>(plan_, inputs_, at.plane, z, r, at.tile * s.tile, at.tile * s.tile + at.out_columns,
                               y_ + ((at.plane * depth.out + z) * height.out + r) * width.out);
        }
      }
    }
  }

  struct Item {
    int64_t plane, z, slice, row, column, band, tile, out_rows, out_columns;
  };

  const Plan& plan_;
  const Schedule& schedule_;
  const Inputs<T> inputs_;
  T* const y_;
  V* const scratch_;
  int64_t used_ = 0;
  bool near_ = true;
  Item items_[kRoom<Value>];
};

}  // namespace onnxpool::ONNXPOOL_ISA
