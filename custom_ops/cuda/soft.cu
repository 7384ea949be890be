// SoftPool on a GPU: methods.h has its formula and special values, march.h and pool.h the loops.
#include "launch.cuh"

namespace onnxpool::cuda {

const CudaKernel soft = cuda_kernel<Soft>();

}  // namespace onnxpool::cuda
