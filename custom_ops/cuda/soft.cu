// SoftPool on a GPU: kernels/soft.h has the formula and its special values, pool.h the loops.
#include "../kernels/soft.h"

#include "launch.cuh"

namespace onnxpool::ONNXPOOL_ISA {

const CudaKernel soft = cuda_kernel<Soft>();

}  // namespace onnxpool::ONNXPOOL_ISA
