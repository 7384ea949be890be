// Windows with depth, two columns apart, over rows that fill registers: lanes are neighbouring cells of a row. Sums go
// along depth first, and then along height, which moves no cell to another lane; along width last, where little is left.
// Each cell is weighed once, a few rows of all slices at a time; of these sums as many are held as windows below need.
//
// An item is a band of one plane's rows of outputs, in all slices; where these are wide a part of the columns.
#pragma once

#include "steps.h"

namespace onnxpool::ONNXPOOL_ISA {

template <template <class, class> class OfMethod, class T>
class ColumnsLoop : public Steps<ColumnsLoop<OfMethod, T>, T> {
  using Base = Steps<ColumnsLoop, T>;
  friend Base;
  using Base::form_, Base::inputs_, Base::other_scale_, Base::plan_, Base::scale_, Base::schedule_, Base::scratch_;
  using Base::y_;
  using Value = Wide<T>;
  using V = Vec<Value>;
  using Method = OfMethod<Value, double>;
  using W = Weights<Method, Value, true>;
  using Sums = SumsOfLanes<Value>;
  static constexpr int64_t kN = kLanes<Value>;

 public:
  // Where outputs fill a register, and sums of all slices are not too many. One column apart, and where weights are
  // values and registers are short, planes in lanes are as fast.
  static bool suits(const Plan& plan) {
    const PlannedAxis &depth = plan.depth, &width = plan.width;
    bool small = !(W::kSquares && kVectorBytes < 64) && depth.kernel > 1 && width.stride == 2 && width.out >= kN;
    small = small && depth.out * kFewest <= kSlices;
    for (const PlannedAxis* axis : {&plan.depth, &plan.height, &plan.width}) {
      small = small && axis->kernel <= least(kMostTaps, kN) && axis->dilation == 1;
    }
    return small;
  }

  static Schedule schedule(const Plan& plan) {
    const PlannedAxis &depth = plan.depth, &height = plan.height, &width = plan.width;
    Schedule s;
    s.units = plan.planes, s.slices = depth.in;
    const int64_t registers = least(kRegisters, kSlices / depth.out);
    s.tiles = parts(width.out, (registers * kN - width.kernel) / width.stride + 1);
    s.tile = parts(width.out, s.tiles);
    s.tiles = parts(width.out, s.tile);
    s.columns = parts((s.tile - 1) * width.stride + width.kernel, kN) * kN;
    const int64_t room = kSums * kN / (depth.out * s.columns) - height.kernel;
    const int64_t at_once = least(height.out, most(1, room / height.stride + 1));
    s.rows = (at_once - 1) * height.stride + height.kernel;
    // Bands so high that rows which two of them read are few.
    s.band = most(8 * at_once, kTaskCells / (s.columns * s.slices * height.stride));
    s.bands = parts(height.out, s.band);
    s.band = parts(height.out, s.bands);
    s.bands = parts(height.out, s.band);
    s.steps = s.units * s.bands * s.tiles;
    Base::count_tasks(&s, s.band * height.stride * s.slices * s.columns, Rooms(plan, s).all());
    return s;
  }

  using Base::Base;

 private:
  static constexpr int64_t kMostTaps = 8;                   // of a kernel, along each axis
  static constexpr int64_t kFewest = 4, kRegisters = 16;    // of a row
  static constexpr int64_t kSlices = 16384 / kVectorBytes;  // registers of a row in all slices of the output, at most
  static constexpr int64_t kSums = 32768 / kVectorBytes;    // of rows at once, if one window's are not more

  static int64_t parts(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

  // Scratch memory, in registers: cells that windows share along depth, sums along depth of rows, and sums of these of
  // one row of outputs. What the last of its registers reads and does not need is within three registers more.
  struct Rooms {
    int64_t kept, rows, line;

    Rooms(const Plan& plan, const Schedule& s) {
      const int64_t registers = s.columns / kN;
      kept = most(0, plan.depth.kernel - plan.depth.stride) * s.rows * registers;
      rows = s.rows * plan.depth.out * registers, line = plan.depth.out * registers + 3;
    }
    int64_t all() const { return kept + rows + line; }
  };

  // Which cells of a row's register are in the input.
  struct Edge {
    bool whole = false;
    Span<T> lanes{0, 0};
    Ints<Value> within{};
  };

  void place(int64_t step) {
    const PlannedAxis &height = plan_.height, &width = plan_.width;
    const Schedule& s = schedule_;
    const int64_t band = step % s.bands, tile = step / s.bands % s.tiles;
    plane_ = step / s.bands / s.tiles;
    row_out_ = band * s.band, rows_out_ = least(s.band, height.out - row_out_);
    column_out_ = tile * s.tile, columns_out_ = least(s.tile, width.out - column_out_);
    row_ = row_out_ * height.stride - height.pad, column_ = column_out_ * width.stride - width.pad;
    for (int64_t i = 0; i < s.columns / kN; ++i) {
      const int64_t column = column_ + i * kN, left = width.in - column;
      edges_[i] = {column >= 0 && left >= kN, Span<T>(-column, left), lanes_between<Value>(-column, left)};
    }
  }

  template <bool kRanged>
  KEEP_CALL bool pool() {
    const PlannedAxis &depth = plan_.depth, &height = plan_.height, &width = plan_.width;
    const auto array = [&](int64_t start, int64_t count) {
      return Sums{scratch_ + 3 * start, scratch_ + 3 * start + count, scratch_ + 3 * start + 2 * count};
    };
    const Rooms rooms(plan_, schedule_);
    const Sums kept = array(0, rooms.kept), rows = array(rooms.kept, rooms.rows);
    const Sums line = array(rooms.kept + rooms.rows, rooms.line);
    constexpr int k1 = kRanged ? 0 : 1, k2 = 2 * k1, k3 = 3 * k1;  // ranged sums are for any number of cells
    const auto along = depth.kernel == 2 && depth.stride == 2   ? &ColumnsLoop::deep<kRanged, k2, 0>
                       : depth.kernel == 3 && depth.stride == 2 ? &ColumnsLoop::deep<kRanged, k3, k1>
                                                                : &ColumnsLoop::deep<kRanged, 0, 0>;
    const int64_t side = height.kernel == width.kernel ? width.kernel : 0;
    const auto results = side == 2   ? &ColumnsLoop::across<kRanged, k2>
                         : side == 3 ? &ColumnsLoop::across<kRanged, k3>
                                     : &ColumnsLoop::across<kRanged, 0>;
    W weights(depth.kernel * height.kernel * width.kernel, scale_);
    if (kRanged && form_ == Base::kCareful) weights.be_careful();
    const int64_t at_once = (schedule_.rows - height.kernel) / height.stride + 1;
    for (int64_t r = 0, next = 0; r < rows_out_;) {
      const int64_t last = least(r + at_once, rows_out_), end = (last - 1) * height.stride + height.kernel;
      next = most(next, r * height.stride);
      (this->*along)(next, end, kept, rows, &weights);
      if (!kRanged && !weights.near(true)) {
        other_scale_ = weights.other_scale();
        return false;
      }
      for (next = end; r < last; ++r) (this->*results)(r, rows, line, weights.unscale());
    }
    if (kRanged && weights.calm()) form_ = Base::kPlain;
    return !kRanged || weights.right();
  }

  // The sum, or the result, of as many cells as the kernel has along an axis.
  template <bool kRanged, bool kLast, int kCells, class Cell>
  INLINED static void sum(int64_t cells, Cell cell, Sums to, V unscale) {
    V w[kMostTaps], p[kMostTaps], n[kMostTaps];
    const int64_t count = kCells > 0 ? kCells : cells;
    if constexpr (kCells > 0) {
      UNROLL_ALL
      for (int64_t k = 0; k < kCells; ++k) cell(k, {w + k, p + k, n + k});
    } else {
      UNROLL_NONE
      for (int64_t k = 0; k < count; ++k) cell(k, {w + k, p + k, n + k});
    }
    SumsAlong<Value, W, kRanged, kLast>::template one<kCells>({w, p, n}, count, to, unscale);
  }
  template <bool kRanged>
  INLINED static void copy(Sums from, Sums to) {
    *to.w = *from.w, *to.p = *from.p;
    if constexpr (kRanged) *to.n = *from.n;
  }

  // The sums along depth of the cells of rows [from, end), slice by slice: rows that follow each other are what
  // processors fetch by themselves. If kCells is known, a window shares kKept cells with the next.
  template <bool kRanged, int kCells, int kKept>
  KEEP_CALL void deep(int64_t from, int64_t end, Sums kept, Sums rows, W* all_weights) const {
    const PlannedAxis &depth = plan_.depth, &height = plan_.height;
    const int64_t registers = schedule_.columns / kN, slice = height.in * plan_.width.in, room = schedule_.rows;
    const int64_t again = kCells > 0 ? kKept : most(0, depth.kernel - depth.stride);
    W weights = *all_weights;
    for (int64_t o = 0; o < depth.out; ++o) {
      const int64_t first = o * depth.stride - depth.pad;
      for (int64_t h = from; h < end; ++h) {
        const int64_t row = row_ + h, start = (plane_ * depth.in * height.in + row) * plan_.width.in + column_;
        const bool inside = row >= 0 && row < height.in;
        const Sums to = rows + (h % room * depth.out + o) * registers, own_kept = kept + (h - from) * registers;
        for (int64_t i = 0; i < registers; ++i) {
          const auto cell = [&](int64_t k, Sums own) INLINED {
            const int64_t z = first + k, before = k - depth.stride;
            if (o > 0 && k < again) copy<kRanged>(own_kept + (k * room * registers + i), own);
            else weigh<kRanged>(start + z * slice + i * kN, inside && z >= 0 && z < depth.in, edges_[i], own, &weights);
            if (before >= 0 && before < again) copy<kRanged>(own, own_kept + (before * room * registers + i));
          };
          sum<kRanged, false, kCells>(depth.kernel, cell, to + i, V{});
        }
      }
    }
    *all_weights = weights;
  }

  // A register of cells; those outside the input weigh nothing.
  template <bool kRanged>
  INLINED void weigh(int64_t at, bool inside, const Edge& edge, Sums to, W* weights) const {
    Cells<Value> own = no_cells<Value>();
    V product = {};
    if (inside) {
      const int64_t ahead = plan_.depth.stride * plan_.height.in * plan_.width.in;  // in a slice that comes next
      const auto read = [&](const T* cells) INLINED {
        __builtin_prefetch(cells + at + ahead, 0, 3);
        return edge.whole ? load(cells + at) : load_part(cells + at, edge.lanes);
      };
      own.x = read(inputs_.x);
      const V logit = Method::kInputs > 1 ? read(inputs_.logit) : own.x;
      if constexpr (kRanged) own = weights->split(own.x, logit);
      else own.w = weights->weight(own.x, logit);
      keep_within<kRanged>(edge.within, &own);
      product = own.w * (W::kSquares ? own.w : own.x);
      if constexpr (!kRanged) weights->see(own.w, product);
    }
    *to.w = own.w, *to.p = product;
    if constexpr (kRanged) *to.n = own.n;
  }

  // A row of results, in each slice.
  template <bool kRanged, int kCells>
  KEEP_CALL void across(int64_t r, Sums rows, Sums line, V unscale) const {
    const PlannedAxis &depth = plan_.depth, &height = plan_.height, &width = plan_.width;
    const int64_t registers = schedule_.columns / kN, inner = depth.out * registers, room = schedule_.rows;
    for (int64_t i = 0; i < inner; ++i) {
      const auto cell = [&](int64_t k, Sums own) INLINED {
        copy<kRanged>(rows + ((r * height.stride + k) % room * inner + i), own);
      };
      sum<kRanged, false, kCells>(height.kernel, cell, line + i, unscale);
    }
    for (int64_t z = 0; z < depth.out; ++z) {
      const Sums row = line + z * registers;
      T* const out = y_ + ((plane_ * depth.out + z) * height.out + row_out_ + r) * width.out + column_out_;
      for (int64_t i = 0; i < columns_out_; i += kN) {
        V y;
        const auto cell = [&](int64_t k, Sums own) INLINED {
          *own.w = pick(row.w, i, k), *own.p = pick(row.p, i, k);
          if constexpr (kRanged) *own.n = pick(row.n, i, k);
        };
        sum<kRanged, true, kCells>(width.kernel, cell, {nullptr, &y, nullptr}, unscale);
        if (columns_out_ - i >= kN) store(y, out + i); else store_part(y, Span<T>(0, columns_out_ - i), out + i);
      }
    }
  }

  // The k-th cell of each window from the i-th on.
  INLINED static V pick(const V* row, int64_t i, int64_t k) {
    const Value* const at = reinterpret_cast<const Value*>(row) + 2 * i + k / 2 * 2;
    const V a = load(at), b = load(at + kN);
    return k % 2 == 0 ? evens<Value>(a, b) : odds<Value>(a, b);
  }

  // By the formula, where the result is NaN.
  KEEP_CALL void repair() const {
    for (int64_t z = 0; z < plan_.depth.out; ++z) {
      for (int64_t r = row_out_; r < row_out_ + rows_out_; ++r) {
        T* const row = y_ + ((plane_ * plan_.depth.out + z) * plan_.height.out + r) * plan_.width.out;
        repair_row<OfMethod>(plan_, inputs_, plane_, z, r, column_out_, column_out_ + columns_out_, row);
      }
    }
  }

  // The item: its outputs, and its first cell and rows, in the input or in the padding.
  int64_t plane_ = 0, row_out_ = 0, rows_out_ = 0, column_out_ = 0, columns_out_ = 0, row_ = 0, column_ = 0;
  Edge edges_[kRegisters];
};

}  // namespace onnxpool::ONNXPOOL_ISA
