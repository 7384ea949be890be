// pool.h on a GPU: the kernels, and their start. Each method's .cu file compiles these for its method.
#pragma once

#include "kernel.h"
#include "pool.h"

namespace onnxpool::ONNXPOOL_ISA {

template <class Index, int kTeam>
struct DeviceTeam : Seat<Index, kTeam> {
  template <class T>
  __device__ T exchange(T value, int distance) const {
    return __shfl_xor_sync(0xffffffff, value, distance);
  }
};

template <class Method, class Value, class T, class Index, int kTeam, class Cells>
__global__ void __launch_bounds__(kThreads) pool_kernel(const __grid_constant__ Job<Index> job, const T* __restrict x,
                                                        const T* __restrict logit, T* __restrict y) {
  const DeviceTeam<Index, kTeam> team{{static_cast<Index>(blockIdx.x), static_cast<Index>(gridDim.x),
                                       static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)}};
  pool<Method, Value, Cells>(job, x, logit, y, team);
}

// The launch's own status; nothing waits for the kernel.
template <class Method, class Value, class T, class Index>
cudaError_t start_job(const Job<Index>& job, const void* const* inputs, void* output, cudaStream_t stream) {
  const auto kernel = job.team > 1    ? pool_kernel<Method, Value, T, Index, kWarp, Pieces<Method, Value, T, 1>>
                      : job.side == 2 ? pool_kernel<Method, Value, T, Index, 1, Square<Method, Value, T, 2>>
                      : job.side == 3 ? pool_kernel<Method, Value, T, Index, 1, Square<Method, Value, T, 3>>
                                      : pool_kernel<Method, Value, T, Index, 1, Pieces<Method, Value, T, 3>>;
  const void *x = inputs[0], *logit = inputs[Method::kInputs - 1];
  void* arguments[] = {const_cast<Job<Index>*>(&job), &x, &logit, &output};
  const dim3 blocks(static_cast<unsigned>(job.blocks)), threads(static_cast<unsigned>(job.threads));
  const auto* const code = reinterpret_cast<const void*>(kernel);
  const cudaError_t status = cudaLaunchKernel(code, blocks, threads, arguments, 0, stream);
  if (status != cudaSuccess) cudaGetLastError();  // it is reported here, and not once more to who looks next
  return status;
}

template <class Method, class Value, class T>
cudaError_t start(const Plan& given, const void* const* inputs, void* output, cudaStream_t stream) {
  const Plan plan = joined(given);
  return fits_32_bits(plan) ? start_job<Method, Value, T>(make_job<int32_t>(plan), inputs, output, stream)
                            : start_job<Method, Value, T>(make_job<int64_t>(plan), inputs, output, stream);
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
