// Local importance pooling on the CPU: local_importance.h has the formula and its special values, weighted.h the loops.
#include "local_importance.h"

#include "weighted.h"

namespace onnxpool::ONNXPOOL_ISA {

extern const Kernel local_importance;
constexpr Kernel local_importance = weighted_kernel<LocalImportance>();

}  // namespace onnxpool::ONNXPOOL_ISA
