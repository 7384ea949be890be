// Local importance pooling on a GPU: methods.h has its formula and special values, march.h and pool.h the loops.
#include "launch.cuh"

namespace onnxpool::cuda {

const CudaKernel local_importance = cuda_kernel<LocalImportance>();

}  // namespace onnxpool::cuda
