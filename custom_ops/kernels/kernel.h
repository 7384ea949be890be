// What a method's kernel file offers to the library: one Kernel for each instruction set it is compiled for.
#pragma once

#include "geometry.h"

namespace onnxpool {

enum ElementType : int { kF32, kF64, kF16, kBF16, kElementTypes };

// How a plan is divided: steps, and tasks of several steps, which threads share. Depends on the shape and the number of
// a register's lanes alone, never on the number of threads, so that results are the same bits for any.
struct Schedule {
  enum Loop { kRows, kColumns, kLanes, kBlocks, kWhole } loop = kRows;
  int64_t units = 0, slices = 1;    // what is pooled by itself, and the slices along depth of each
  int64_t tile = 1, tiles = 1;      // output columns at once
  int64_t band = 1, bands = 1;      // output rows at once
  int64_t rows = 1, columns = 1;    // of the input, under these
  int64_t cells = 0, parts = 1;     // of a plane that is one window
  int64_t steps = 0, steps_per_task = 1, tasks = 0;
  size_t scratch_bytes = 0;         // for each thread
  size_t shared_bytes = 0;          // for all of them: what tasks leave for `finish`
};

// About 30 microseconds of work at somewhat less than a nanosecond a cell.
constexpr int64_t kTaskCells = 48 * 1024;

// `scratch` and `shared` are aligned to 64 bytes. `finish` is called once after all tasks, where there are shared_bytes.
using RunTask = void (*)(const Plan& plan, const Schedule& schedule, const void* const* inputs, void* output,
                         int64_t index, void* scratch, void* shared);
using Finish = void (*)(const Plan& plan, const Schedule& schedule, const void* const* inputs, void* output,
                        const void* shared);

struct ElementKernel {
  Schedule (*schedule)(const Plan& plan);
  RunTask task;
  Finish finish;
};

// How the gradients of a plan are divided: a task is a part of some planes' input. Depends on the same as Schedule.
struct GradientParts {
  int64_t own = 1, parts = 1;        // of the input's cells along an axis
  int64_t cells = 1, outputs = 1;    // at most: with those that a part's windows reach, and of these windows
};
struct GradientSchedule {
  GradientParts depth, height, width;
  int64_t groups = 0, tasks = 0;
  size_t scratch_bytes = 0;          // for each thread, aligned to 64 bytes
};

// From `grad`, of the output's shape, to the gradients of all inputs.
using RunGradient = void (*)(const Plan& plan, const GradientSchedule& schedule, const void* const* inputs,
                             const void* grad, void* const* slopes, int64_t index, void* scratch);

struct GradientKernel {
  GradientSchedule (*schedule)(const Plan& plan);
  RunGradient task;
};

struct Kernel {
  const char* name;  // the operator's type in the domain `onnxpool`
  size_t inputs;     // all of one element type and shape
  int64_t lanes;     // of float32: plans may have blocks of a multiple of these
  ElementKernel of[kElementTypes];
  GradientKernel gradient[kElementTypes];
};

// One per instruction set and method; those a build does not hold are not referred to (see library.cc).
namespace baseline {
extern const Kernel soft, local_importance, stochastic;
}
namespace avx2 {
extern const Kernel soft, local_importance, stochastic;
}
namespace avx512 {
extern const Kernel soft, local_importance, stochastic;
}

// For hosts other than ONNX Runtime, which load the library and ask its symbol OnnxpoolKernels: the kernels for this
// processor, kMethods of them, or null and the reason, also where the caller was compiled with another version of this
// header. A host reads attributes and shapes by geometry.h, runs every task of a schedule, and then finishes it.
constexpr size_t kMethods = 3;
constexpr int kKernelsVersion = static_cast<int>(sizeof(Kernel) << 20 | sizeof(Schedule) << 10 | sizeof(Plan));
static_assert(sizeof(Kernel) < 2048 && sizeof(Schedule) < 1024 && sizeof(Plan) < 1024, "each has its bits");
extern "C" using GetKernels = const Kernel* const* (*)(int version, char* why, size_t room);

}  // namespace onnxpool
