// Stochastic pooling on the CPU: stochastic.h has the formula and its special values, weighted.h the loops.
#include "stochastic.h"

#include "weighted.h"

namespace onnxpool::ONNXPOOL_ISA {

extern const Kernel stochastic;
constexpr Kernel stochastic = weighted_kernel<Stochastic>();

}  // namespace onnxpool::ONNXPOOL_ISA
