// Stochastic pooling on the CPU: stochastic.h has the formula and its special values, pooling.h the loops.
#include "stochastic.h"

#include "pooling.h"

namespace onnxpool::ONNXPOOL_ISA {

extern const Kernel stochastic;
constexpr Kernel stochastic = pooling_kernel<Stochastic, StochasticGradient>();

}  // namespace onnxpool::ONNXPOOL_ISA
