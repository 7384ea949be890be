// SoftPool on the CPU: soft.h has the formula and its special values, weighted.h the loops.
#include "soft.h"

#include "weighted.h"

namespace onnxpool::ONNXPOOL_ISA {

extern const Kernel soft;
constexpr Kernel soft = weighted_kernel<Soft>();

}  // namespace onnxpool::ONNXPOOL_ISA
