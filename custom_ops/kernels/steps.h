// What the loops with items share: a task does steps one after the other, with scratch memory of its own.
#pragma once

#include "sums.h"
#include "window.h"

namespace onnxpool::ONNXPOOL_ISA {

// Loop has place(step), pool<kRanged>() and repair(). pool is false where weights are out of range; ranged, where that
// needs care; carefully, where a cell is huge, and then repair does such windows by the formula.
template <class Loop, class T>
class Steps {
 public:
  using V = Vec<Wide<T>>;

  Steps(const Plan& plan, const Schedule& schedule, const Inputs<T>& inputs, T* y, void* scratch)
      : plan_(plan), schedule_(schedule), inputs_(inputs), y_(y), scratch_(static_cast<V*>(scratch)) {}

  // Which form of weights a step's items have does not show in their bits, so that it may depend on the steps before:
  // after one that had to be done again they are at once as that one was, as long as one needs it.
  void step(int64_t step) {
    Loop& loop = static_cast<Loop&>(*this);
    loop.place(step);
    if (form_ == kPlain) {
      if (loop.template pool<false>()) return;
      if (other_scale_ != 0) {
        scale_ = other_scale_;
        if (loop.template pool<false>()) return;
      }
      form_ = kRange;
    }
    if (form_ == kRange && loop.template pool<true>()) return;
    form_ = kCareful;
    if (!loop.template pool<true>()) loop.repair();
  }

 protected:
  static void count_tasks(Schedule* s, int64_t step_cells, int64_t registers) {
    s->steps_per_task = kTaskCells / step_cells + 1;
    s->tasks = (s->steps + s->steps_per_task - 1) / s->steps_per_task;
    s->scratch_bytes = static_cast<size_t>(3 * registers * kVectorBytes);
  }

  const Plan& plan_;
  const Schedule& schedule_;
  const Inputs<T> inputs_;
  T* const y_;
  V* const scratch_;
  enum { kPlain, kRange, kCareful } form_ = kPlain;
  Wide<T> scale_ = 1, other_scale_ = 0;  // of plain form
};

}  // namespace onnxpool::ONNXPOOL_ISA
