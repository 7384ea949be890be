// Stochastic pooling in training: from a uniform number for each window to the cell that it draws, and from gradients of
// what was drawn to gradients of the input. What a kernel file offers to pointers.cc.
//
//   a = max(x, 0), t = u sum a:   drawn is the last cell with a > 0 whose predecessors, in the kernel's order, sum up to
//   no more than t;  y = its value;  y = 0 where no cell is above 0, NaN where one is NaN or +inf: both draw none
//
// Sums are of doubles, in the kernel's order, so that a window's draw depends on its cells and its number alone.
#pragma once

#include "kernel.h"

namespace onnxpool {

// Uniform numbers are float, for float64 double. A place is the position of the cell in its plane, -1 for none, in
// integers of the same size.
struct DrawKernel {
  GradientSchedule (*schedule)(const Plan& plan);
  void (*task)(const Plan& plan, const GradientSchedule& schedule, const void* x, const void* uniforms, void* y,
               void* places, int64_t index, void* scratch);
  GradientSchedule (*schedule_slopes)(const Plan& plan);
  void (*task_slopes)(const Plan& plan, const GradientSchedule& schedule, const void* grad, const void* places,
                      void* slopes, int64_t index, void* scratch);
};

// Cells of a plane that places can tell apart.
constexpr int64_t kMostPlaces = INT32_MAX;

namespace baseline {
extern const DrawKernel draw[kElementTypes];
}
namespace avx2 {
extern const DrawKernel draw[kElementTypes];
}
namespace avx512 {
extern const DrawKernel draw[kElementTypes];
}

}  // namespace onnxpool
