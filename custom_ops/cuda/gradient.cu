// gradient.h on a GPU: two kernels for each method and element type, and their start.
#include "gradient.h"

#include "device.cuh"
#include "kernel.h"

namespace onnxpool::cuda {
namespace {

template <class Gradient, class Value, class T>
__global__ void __launch_bounds__(kThreads)
    keep_kernel(const __grid_constant__ Job<int64_t> job, const T* __restrict x, const T* __restrict logit,
                const T* __restrict grad, Kept<Value>* __restrict kept) {
  const DeviceTeam<AnySeat> team{{blockIdx.x, gridDim.x, static_cast<int>(threadIdx.x), kThreads, job.team}};
  keep_windows<Gradient>(job, x, logit, grad, kept, team);
}

template <class Gradient, class Value, class T>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const __grid_constant__ Gather from, const T* __restrict x, const T* __restrict logit,
                  const Kept<Value>* __restrict kept, T* __restrict dx, T* __restrict dlogit) {
  gather<Gradient>(from, x, logit, kept, dx, dlogit, int64_t{blockIdx.x} * kThreads + threadIdx.x,
                   int64_t{gridDim.x} * kThreads);
}

template <class Gradient, class Value, class T>
cudaError_t start(const Pooling& given, const void* const* inputs, const void* grad, void* const* slopes,
                  void* scratch, cudaStream_t stream) {
  constexpr int kLast = Gradient::Method::kInputs - 1;
  const Pooling pooling = joined(given);
  Job<int64_t> job = make_job<int64_t>(pooling);
  Gather from(pooling);
  const void *x = inputs[0], *logit = inputs[kLast];
  void *dx = slopes[0], *dlogit = slopes[kLast];
  void* keeping[] = {&job, &x, &logit, &grad, &scratch};
  const cudaError_t status = launch(keep_kernel<Gradient, Value, T>, job.blocks, keeping, stream);
  if (status != cudaSuccess) return status;
  void* gathering[] = {&from, &x, &logit, &scratch, &dx, &dlogit};
  return launch(gather_kernel<Gradient, Value, T>, from.blocks, gathering, stream);
}

template <template <class> class OfGradient>
constexpr CudaGradient cuda_gradient() {
  using Single = OfGradient<float>;
  return {Single::Method::kName,
          {start<Single, float, float>, start<OfGradient<double>, double, double>, start<Single, float, Half>,
           start<Single, float, Bfloat>}};
}

}  // namespace

const CudaGradient soft_gradient = cuda_gradient<SoftGradient>();
const CudaGradient local_importance_gradient = cuda_gradient<LocalImportanceGradient>();
const CudaGradient stochastic_gradient = cuda_gradient<StochasticGradient>();

}  // namespace onnxpool::cuda
