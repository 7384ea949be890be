// Stochastic pooling on a GPU: kernels/stochastic.h has the formula and its special values, pool.h the loops.
#include "../kernels/stochastic.h"

#include "launch.cuh"

namespace onnxpool::ONNXPOOL_ISA {

const CudaKernel stochastic = cuda_kernel<Stochastic>();

}  // namespace onnxpool::ONNXPOOL_ISA
