// SoftPool on the CPU: soft.h has the formula and its special values, pooling.h the loops.
#include "soft.h"

#include "pooling.h"

namespace onnxpool::ONNXPOOL_ISA {

extern const Kernel soft;
constexpr Kernel soft = pooling_kernel<Soft, SoftGradient>();

}  // namespace onnxpool::ONNXPOOL_ISA
