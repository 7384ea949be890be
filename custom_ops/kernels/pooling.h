// A method's kernel: whole tensors, by one of the loops. rows.h where windows are 2 or 3 wide and rows are long enough for
// registers along them; whole.h where a plane is one window; columns.h for 3d windows over long rows; lanes.h for
// everything else; blocks.h where channels lie beside each other.
#pragma once

#include "blocks.h"
#include "columns.h"
#include "gradient.h"
#include "lanes.h"
#include "one_apart.h"
#include "two_apart.h"
#include "whole.h"

namespace onnxpool::ONNXPOOL_ISA {

template <template <class, class> class OfMethod, class T>
class Pooling {
  using Value = Wide<T>;
  using Method = OfMethod<Value, double>;
  using Whole = WholeLoop<OfMethod, T>;
  using Lanes = LanesLoop<OfMethod, T>;
  using Columns = ColumnsLoop<OfMethod, T>;
  using Blocks = BlocksLoop<OfMethod, T>;
  static constexpr int64_t kN = kLanes<Value>;

  template <Form kForm>
  using TwoByTwo = StripsTwoApart<Method, T, 2, kForm>;
  template <Form kForm>
  using ThreeByThree = StripsTwoApart<Method, T, 3, kForm>;
  template <Form kForm>
  using ThreeByThreeClose = StripsOneApart<Method, T, kForm>;

 public:
  static Schedule schedule(const Plan& plan) {
    Schedule s;
    if (kBlocks && plan.block > 1) {
      s = Blocks::schedule(plan), s.loop = Schedule::kBlocks;
    } else if (is_whole(plan)) {
      s = Whole::schedule(plan), s.loop = Schedule::kWhole;
    } else if (suits_rows(plan)) {
      s = rows_schedule(plan), s.loop = Schedule::kRows;
    } else if (kRows && Columns::suits(plan)) {
      s = Columns::schedule(plan), s.loop = Schedule::kColumns;
    } else {
      s = Lanes::schedule(plan), s.loop = Schedule::kLanes;
    }
    return s;
  }

  static void task(const Plan& plan, const Schedule& s, const void* const* inputs, void* output, int64_t index,
                   void* scratch, void* shared) {
    const Inputs<T> cells = inputs_of(inputs);
    T* const y = static_cast<T*>(output);
    const int64_t begin = index * s.steps_per_task, end = least(begin + s.steps_per_task, s.steps);
    if constexpr (kBlocks) {
      if (s.loop == Schedule::kBlocks) {
        Blocks blocks(plan, s, cells, y, scratch);
        for (int64_t step = begin; step < end; ++step) blocks.step(step);
        return;
      }
    }
    if constexpr (kRows) {
      if (s.loop == Schedule::kRows) return rows(plan, s, cells, y, begin, end);
      if (s.loop == Schedule::kColumns) {
        Columns columns(plan, s, cells, y, scratch);
        for (int64_t step = begin; step < end; ++step) columns.step(step);
        return;
      }
    }
    if (s.loop == Schedule::kLanes) {
      Lanes lanes(plan, s, cells, y, scratch);
      for (int64_t step = begin; step < end; ++step) lanes.step(step);
      return;
    }
    if (s.shared_bytes == 0) return Whole::steps(plan, s, cells, y, begin, end);
    for (int64_t step = begin; step < end; ++step) Whole::step(s, cells, step, static_cast<Part*>(shared) + step);
  }

  static void finish(const Plan& plan, const Schedule& s, const void* const* inputs, void* output,
                     const void* shared) {
    Whole::finish(plan, s, inputs_of(inputs), static_cast<T*>(output), static_cast<const Part*>(shared));
  }

 private:
  // Cells of a row up to which planes in lanes are faster: the ends of rows cost, and registers that they half fill.
  // AVX-512 has 32 registers, which hold all that a window two cells apart needs.
  static int64_t most_short(const PlannedAxis& width) {
    if (width.stride == 2 && kVectorBytes == 64) return 0;
    return width.kernel == 2 ? 24 : 63;
  }

  // For the types that networks run in. The others go without the loop along rows, and its code.
  static constexpr bool kRows = !same<T, double> && !same<T, Bfloat>;

  static constexpr bool kBlocks = same<T, float>;  // ONNX Runtime has blocks of these alone

  static Inputs<T> inputs_of(const void* const* inputs) {
    return {static_cast<const T*>(inputs[0]), static_cast<const T*>(inputs[Method::kInputs - 1])};
  }

  static bool is_whole(const Plan& plan) {
    return plan.depth.whole(plan.depth.in) && plan.height.whole(plan.height.in) && plan.width.whole(plan.width.in);
  }

  static bool suits_rows(const Plan& plan) {
    const PlannedAxis &height = plan.height, &width = plan.width;
    const bool square = height.kernel == width.kernel && height.stride == width.stride;
    const bool two = width.kernel == 2 && width.stride == 2 && width.pad == 0 && height.pad == 0;
    const bool three = width.kernel == 3 && width.stride <= 2, rows_are_long = width.in > most_short(width);
    const bool close = width.dilation == 1 && height.dilation == 1 && plan.depth.kernel == 1;
    const int64_t lanes = (width.out + kN - 1) / kN * kN;
    return kRows && square && (two || three) && close && rows_are_long && 4 * width.out >= 3 * lanes;
  }

  static Schedule rows_schedule(const Plan& plan) {
    const PlannedAxis &height = plan.height, &width = plan.width;
    Schedule s;
    s.units = plan.planes * plan.depth.out;
    s.tile = least(width.out, width.stride == 2 ? ThreeByThree<kPlain>::kTile : ThreeByThreeClose<kPlain>::kTile);
    s.tiles = (width.out + s.tile - 1) / s.tile;
    s.bands = (height.out + kStrip - 1) / kStrip;
    s.steps = s.units * s.tiles * s.bands;
    const int64_t cells = (s.tile * width.stride + 16) * least(kStrip, height.out) * height.stride;
    s.steps_per_task = kTaskCells / cells + 1;
    s.tasks = (s.steps + s.steps_per_task - 1) / s.steps_per_task;
    return s;
  }

  static void rows(const Plan& plan, const Schedule& s, const Inputs<T>& inputs, T* y, int64_t begin, int64_t end) {
    const PlannedAxis &height = plan.height, &width = plan.width;
    bool ranged = false;
    while (begin < end) {
      const int64_t strip = begin % s.bands, column = begin / s.bands % s.tiles * s.tile;
      const int64_t unit = begin / s.bands / s.tiles;
      const int64_t last = least(s.bands, strip + end - begin);
      const int64_t plane = unit / plan.depth.out, z = unit % plan.depth.out;
      const int64_t in = (plane * plan.depth.in + z * plan.depth.stride) * height.in * width.in;
      const Slice<T> slice{{inputs.x + in, inputs.logit + in}, inputs, y + unit * height.out * width.out, height.in,
                           width.in, width.out, height.pad, width.pad};
      const int64_t to = least(column + s.tile, width.out);
      const auto run = [&](auto loop) INLINED { loop.run(strip, last); };
      if (width.kernel == 2) run(SliceLoop<OfMethod, T, TwoByTwo>(plan, slice, plane, z, column, to, &ranged));
      else if (width.stride == 2) run(SliceLoop<OfMethod, T, ThreeByThree>(plan, slice, plane, z, column, to, &ranged));
      else run(SliceLoop<OfMethod, T, ThreeByThreeClose>(plan, slice, plane, z, column, to, &ranged));
      begin += last - strip;
    }
  }
};

template <template <class, class> class OfMethod, class T>
constexpr ElementKernel element_kernel() {
  return {Pooling<OfMethod, T>::schedule, Pooling<OfMethod, T>::task, Pooling<OfMethod, T>::finish};
}

template <template <class, class> class OfMethod, template <class> class OfGradient>
constexpr Kernel pooling_kernel() {
  constexpr size_t kInputs = OfMethod<float, double>::kInputs;
  return {OfMethod<float, double>::kName,
          kInputs,
          kLanes<float>,
          {element_kernel<OfMethod, float>(), element_kernel<OfMethod, double>(), element_kernel<OfMethod, Half>(),
           element_kernel<OfMethod, Bfloat>()},
          {gradient_of<OfGradient, kInputs, float>(), gradient_of<OfGradient, kInputs, double>(),
           gradient_of<OfGradient, kInputs, Half>(), gradient_of<OfGradient, kInputs, Bfloat>()}};
}

}  // namespace onnxpool::ONNXPOOL_ISA
