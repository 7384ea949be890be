// pool.h on a GPU: the kernels, and their start. Each method's .cu file compiles these for its method.
#pragma once

#include "kernel.h"
#include "pool.h"

namespace onnxpool::ONNXPOOL_ISA {

template <int kTeam>
struct DeviceTeam : Seat<kTeam> {
  template <class T>
  __device__ T exchange(T value, int distance) const {
    return __shfl_xor_sync(0xffffffff, value, distance);
  }
};

template <class Method, class Value, class T, int kTeam>
__global__ void __launch_bounds__(kThreads) pool_kernel(const __grid_constant__ Job job, const T* __restrict x,
                                                        const T* __restrict logit, T* __restrict y) {
  const DeviceTeam<kTeam> team{{blockIdx.x, gridDim.x, static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)}};
  pool<Method, Value>(job, x, logit, y, team);
}

// The launch's own status; nothing waits for the kernel.
template <class Method, class Value, class T>
cudaError_t start(const Job& job, const void* const* inputs, void* output, cudaStream_t stream) {
  const auto kernel = job.team == 1 ? pool_kernel<Method, Value, T, 1> : pool_kernel<Method, Value, T, kWarp>;
  const void *x = inputs[0], *logit = inputs[Method::kInputs - 1];
  void* arguments[] = {const_cast<Job*>(&job), &x, &logit, &output};
  const dim3 blocks(static_cast<unsigned>(job.blocks)), threads(static_cast<unsigned>(job.threads));
  const cudaError_t status = cudaLaunchKernel(reinterpret_cast<const void*>(kernel), blocks, threads, arguments, 0, stream);
  if (status != cudaSuccess) cudaGetLastError();  // it is reported here, and not once more to who looks next
  return status;
}

template <template <class, class> class OfMethod>
constexpr CudaKernel cuda_kernel() {
  using Single = OfMethod<float, float>;
  using Double = OfMethod<double, double>;
  return {Single::kName,
          {start<Single, float, float>, start<Double, double, double>, start<Single, float, Half>,
           start<Single, float, Bfloat>}};
}

}  // namespace onnxpool::ONNXPOOL_ISA
