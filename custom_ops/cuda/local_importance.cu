// Local importance pooling on a GPU: kernels/local_importance.h has its formula and special values, pool.h the loops.
#include "../kernels/local_importance.h"

#include "launch.cuh"

namespace onnxpool::ONNXPOOL_ISA {

const CudaKernel local_importance = cuda_kernel<LocalImportance>();

}  // namespace onnxpool::ONNXPOOL_ISA
