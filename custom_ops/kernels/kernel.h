// What a method's kernel file offers to the library: one Kernel for each instruction set it is compiled for.
#pragma once

#include "geometry.h"

namespace onnxpool {

enum ElementType : int { kF32, kF64, kF16, kBF16, kElementTypes };

// Computes steps [begin, end) of a plan. `scratch` holds `scratch_bytes(plan)` bytes of this thread's own, aligned to 64.
using Steps = void (*)(const Plan& plan, const void* const* inputs, void* output, int64_t begin, int64_t end,
                       void* scratch);

struct Kernel {
  const char* name;  // the operator's type in the domain `onnxpool`
  size_t inputs;     // all of one element type and shape
  size_t (*scratch_bytes)(const Plan& plan);
  Steps steps[kElementTypes];
};

// One per instruction set and method; those a build does not hold are not referred to (see library.cc).
namespace baseline {
extern const Kernel soft, local_importance, stochastic;
}
namespace avx2 {
extern const Kernel soft, local_importance, stochastic;
}
namespace avx512 {
extern const Kernel soft, local_importance;
}

}  // namespace onnxpool
