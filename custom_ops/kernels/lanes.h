// Any window, with one plane in each lane: cells are transposed on their way in, results on their way out, and in
// between a window is a few loads and additions that concern no other lane (items.h).
#pragma once

#include "items.h"

namespace onnxpool::ONNXPOOL_ISA {

template <template <class, class> class OfMethod, class T>
class LanesLoop : public ItemsLoop<LanesLoop<OfMethod, T>, OfMethod, T> {
  using Base = ItemsLoop<LanesLoop, OfMethod, T>;
  friend Base;
  friend Steps<LanesLoop, T>;
  using Base::inputs_, Base::plan_, Base::schedule_, Base::y_, Base::kN, Base::depth_out;
  using typename Base::Value, typename Base::V, typename Base::Method, typename Base::W, typename Base::Sums;

 public:
  static Schedule schedule(const Plan& plan) {
    return Base::divide(plan, plan.planes * (plan.depth.kernel == 1 ? plan.depth.out : 1), kN);
  }

  using Base::Base;

 private:
  struct Item {
    int64_t plane, z, band, tile;
    int64_t start, row, column;              // its first cell, if it were in the input
    int64_t out, out_rows, out_columns;
  };

  // Where each lane's item lies. Lanes that have none do the last item once more, and write nothing.
  KEEP_CALL void place(int64_t step) {
    const PlannedAxis &depth = plan_.depth, &height = plan_.height, &width = plan_.width;
    const Schedule& s = schedule_;
    used_ = least(kN, s.units * s.bands * s.tiles - step * kN);
    int64_t tile = step * kN % s.tiles, unit = step * kN / s.tiles % s.units, band = step * kN / s.tiles / s.units;
    const bool stacked = depth.kernel == 1 && depth.out > 1;  // units are slices
    UNROLL_NONE
    for (int64_t lane = 0; lane < kN; ++lane) {
      Item& at = items_[lane];
      at.plane = stacked ? unit / depth.out : unit, at.z = stacked ? unit % depth.out : 0;
      at.band = band, at.tile = tile;
      at.row = s.bands == 1 ? 0 : band * s.band * height.stride - height.pad;
      at.column = s.tiles == 1 ? 0 : tile * s.tile * width.stride - width.pad;
      at.start = ((at.plane * depth.in + at.z * depth.stride) * height.in + at.row) * width.in + at.column;
      at.out = ((at.plane * depth.out + at.z) * height.out + band * s.band) * width.out + tile * s.tile;
      at.out_rows = least(s.band, height.out - band * s.band);
      at.out_columns = least(s.tile, width.out - tile * s.tile);
      if (lane + 1 >= used_) continue;
      if (++tile < s.tiles) continue;
      tile = 0;
      if (++unit < s.units) continue;
      unit = 0, ++band;
    }
  }

  // `count` cells of each lane, from `start` on; those of [from, to) are in the input.
  struct Run {
    int64_t start[kRoom<Value>], from[kRoom<Value>], to[kRoom<Value>];
    int64_t latest, earliest;  // from, to
    int64_t ahead;             // where cells are that are wanted next
    int64_t room;              // cells from the last of `start` to the end of the tensor
  };

  // Every cell of some rows of the items: its weight, and its value times that.
  template <bool kRanged>
  INLINED void weigh(int64_t z, int64_t first, int64_t rows, Sums to, W* weights) const {
    const Schedule& s = schedule_;
    const PlannedAxis &height = plan_.height, &width = plan_.width;
    const int64_t count = rows * s.columns;
    Run run;
    run.latest = 0, run.earliest = count, run.room = plan_.planes * plan_.depth.in * height.in * width.in;
    int64_t furthest = 0;
    UNROLL_NONE
    for (int64_t lane = 0; lane < kN; ++lane) {
      const Item& at = items_[lane];
      const int64_t row = at.row + first, above = most(0, -row), left = least(rows, height.in - row);
      run.start[lane] = at.start + (z * height.in + first) * width.in;
      // Whole rows follow each other without a gap.
      run.from[lane] = s.tiles == 1 ? above * width.in : most(0, -at.column);
      run.to[lane] = s.tiles == 1 ? left * width.in
                     : above == 0 && left > 0 ? least(s.columns, width.in - at.column) : 0;
      run.latest = most(run.latest, run.from[lane]), run.earliest = least(run.earliest, run.to[lane]);
      furthest = most(furthest, run.start[lane]);
    }
    run.room -= furthest;
    // As many streams as lanes are more than a processor follows by itself.
    run.ahead = rows < s.rows ? count : s.slices > 1 ? height.in * width.in : kN * (run.start[1] - run.start[0]);
    weigh_run<kRanged>(run, count, to, weights);
  }

  KEEP_CALL void load_cells(const T* cells, const Run& run, int64_t i, bool whole, V* rows) const {
    if (whole) {
      UNROLL_ALL
      for (int64_t lane = 0; lane < kN; ++lane) {
        __builtin_prefetch(cells + run.start[lane] + i + run.ahead, 0, 2);  // the first cache is full of sums
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
  INLINED void weigh_run(const Run& run, int64_t count, Sums to, W* weights) const {
    using Signed = typename ExpConstants<Value>::Signed;
    Ints<Value> from, to_end;
    UNROLL_NONE
    for (int64_t lane = 0; lane < kN; ++lane) {
      from[lane] = static_cast<Signed>(run.from[lane]), to_end[lane] = static_cast<Signed>(run.to[lane]);
    }
    for (int64_t i = 0; i < count; i += kN) {
      const bool inside = run.latest <= i && run.earliest >= least(i + kN, count);
      const bool whole = inside && i + kN <= run.room;  // what follows a run is loaded too, and not looked at
      V rows[kRoom<Value>], logits[Method::kInputs > 1 ? kRoom<Value> : 1];
      load_cells(inputs_.x, run, i, whole, rows);
      if constexpr (Method::kInputs > 1) load_cells(inputs_.logit, run, i, whole, logits);
      const int64_t end = least(kN, count - i);
      for (int64_t j = 0; j < end; ++j) {
        const V logit = Method::kInputs > 1 ? logits[Method::kInputs > 1 ? j : 0] : rows[j];
        Cells<Value> cells;
        if constexpr (kRanged) cells = weights->split(rows[j], logit);
        else cells.x = rows[j], cells.w = weights->weight(rows[j], logit);
        if (!inside) {
          const auto at = static_cast<Signed>(i + j);
          keep_within<kRanged>((from <= at) & (to_end > at), &cells);
        }
        const V product = cells.w * (W::kSquares ? cells.w : cells.x);
        to.w[i + j] = cells.w, to.p[i + j] = product;
        if constexpr (kRanged) to.n[i + j] = cells.n;
        else weights->see(cells.w, product);
      }
    }
  }

  // Results to where they belong.
  KEEP_CALL void put(const V* results) const {
    const Schedule& s = schedule_;
    const bool joined = s.tiles == 1;  // rows follow each other
    const int64_t slice = plan_.height.out * plan_.width.out, width = plan_.width.out;
    for (int64_t z = 0; z < depth_out(plan_); ++z) {
      for (int64_t r = 0; r < (joined ? 1 : s.band); ++r) {
        T* out[kRoom<Value>];
        int64_t own[kRoom<Value>], all_have = kN, count = joined ? s.band * s.tile : s.tile;
        UNROLL_NONE
        for (int64_t lane = 0; lane < kN; ++lane) {
          const Item& at = items_[lane];
          out[lane] = y_ + at.out + z * slice + r * width;
          own[lane] = lane >= used_ ? 0 : joined ? at.out_rows * width : r < at.out_rows ? at.out_columns : 0;
          all_have = lane == 0 ? own[lane] : least(all_have, own[lane]);
        }
        for (int64_t i = 0; i < count; i += kN) {
          V rows[kRoom<Value>];
          UNROLL_ALL
          for (int64_t j = 0; j < kN; ++j) rows[j] = results[(z * s.band + r) * s.tile + i + j];
          transpose<Value>(rows);
          if (all_have - i >= kN) {
            UNROLL_ALL
            for (int64_t lane = 0; lane < kN; ++lane) store(rows[lane], out[lane] + i);
          } else {
            UNROLL_NONE
            for (int64_t lane = 0; lane < used_; ++lane) {
              store_part(rows[lane], Span<T>(0, own[lane] - i), out[lane] + i);
            }
          }
        }
      }
    }
  }

  // By the formula, where the result is NaN.
  KEEP_CALL void repair() const {
    for (int64_t lane = 0; lane < used_; ++lane) {
      const Item& at = items_[lane];
      for (int64_t z = 0; z < depth_out(plan_); ++z) {
        for (int64_t r = 0; r < at.out_rows; ++r) {
          const int64_t column = at.tile * schedule_.tile;
          T* const row = y_ + at.out - column + (z * plan_.height.out + r) * plan_.width.out;
          repair_row<OfMethod>(plan_, inputs_, at.plane, at.z + z, at.band * schedule_.band + r, column,
                               column + at.out_columns, row);
        }
      }
    }
  }

  int64_t used_ = 0;
  Item items_[kRoom<Value>];
};

}  // namespace onnxpool::ONNXPOOL_ISA
