// Local importance pooling on the CPU: local_importance.h has the formula and its special values, pooling.h the loops.
#include "local_importance.h"

#include "pooling.h"

namespace onnxpool::ONNXPOOL_ISA {

extern const Kernel local_importance;
constexpr Kernel local_importance = pooling_kernel<LocalImportance, LocalImportanceGradient>();

}  // namespace onnxpool::ONNXPOOL_ISA
