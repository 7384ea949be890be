// march.h and pool.h on a GPU: the kernels, and their start. Each method's .cu file compiles these for its method.
#pragma once

#include "device.cuh"
#include "kernel.h"
#include "march.h"

namespace onnxpool::cuda {

template <class Method, class Value, class T, class Index, int kTeam, int kPiece>
__global__ void __launch_bounds__(kThreads) pool_kernel(const __grid_constant__ Job<Index> job, const T* __restrict x,
                                                        const T* __restrict logit, T* __restrict y) {
  const DeviceTeam<Seat<Index, kTeam>> team{{static_cast<Index>(blockIdx.x), static_cast<Index>(gridDim.x),
                                             static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)}};
  pool<Method, Value, kPiece>(job, x, logit, y, team);
}

template <class Method, class T, class Shape>
__global__ void __launch_bounds__(kThreads)
    march_kernel(const __grid_constant__ March march, const __grid_constant__ Job<int64_t> job,
                 const T* __restrict x, const T* __restrict logit, T* __restrict y) {
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (thread >= march.threads) return;
  march_strip<Method, T, Shape>(march, job, x, logit, y, static_cast<int32_t>(thread));
}

template <class Method, class Value, class T, class Index>
cudaError_t start_pool(const Pooling& pooling, const void* x, const void* logit, void* y, cudaStream_t stream) {
  Job<Index> job = make_job<Index>(pooling);
  const auto kernel = job.team > 1 ? pool_kernel<Method, Value, T, Index, kWarp, 1>
                                   : pool_kernel<Method, Value, T, Index, 1, 3>;
  void* arguments[] = {&job, &x, &logit, &y};
  return launch(kernel, job.blocks, arguments, stream);
}

template <class Method, class T>
cudaError_t start_march(const Pooling& pooling, MarchShape shape, const void* x, const void* logit, void* y,
                        cudaStream_t stream) {
  March march = make_march(pooling, rows_of(pooling));
  Job<int64_t> job = make_job<int64_t>(pooling);
  void* arguments[] = {&march, &job, &x, &logit, &y};
  const int64_t blocks = (int64_t{march.threads} + kThreads - 1) / kThreads;
  return with_fixed(shape, [&](auto fixed) {
    return launch(march_kernel<Method, T, decltype(fixed)>, blocks, arguments, stream);
  });
}

template <class Method, class Value, class T>
cudaError_t start(const Pooling& given, const void* const* inputs, void* output, cudaStream_t stream) {
  const Pooling pooling = joined(given);
  const void *x = inputs[0], *logit = inputs[Method::kInputs - 1];
  if constexpr (sizeof(Value) == 4) {
    const MarchShape shape = shape_of(pooling, aligned<T>(x) && aligned<T>(logit));
    if (shape.rows != 0) return start_march<Method, T>(flattened(pooling), shape, x, logit, output, stream);
  }
  return fits_32_bits(pooling) ? start_pool<Method, Value, T, int32_t>(pooling, x, logit, output, stream)
                               : start_pool<Method, Value, T, int64_t>(pooling, x, logit, output, stream);
}

template <template <class> class OfMethod>
constexpr CudaKernel cuda_kernel() {
  using Single = OfMethod<float>;
  using Double = OfMethod<double>;
  return {Single::kName,
          {start<Single, float, float>, start<Double, double, double>, start<Single, float, Half>,
           start<Single, float, Bfloat>}};
}

}  // namespace onnxpool::cuda
