// Custom operators as somebody else may write them, in a domain of their own, for float32 alone.
//
//   ScaledSquare   scale * x * x
//   Coupled        x + 0.001 * (size of the first axis): what a row gives depends on how many stand beside it
//   Counting       x + 0.001 * (how often it has run in this process)
//   Crashing       x, but the process ends where an element is NaN
//
// -DTAMPERED makes ScaledSquare wrong by one part in a thousand.

#include "ort_abi.h"

#include <cstdlib>
#include <vector>

namespace {

using onnxpool::abi::Api;
using onnxpool::abi::ApiBase;
using onnxpool::abi::CustomOp;

enum class Kind { kScaledSquare, kCoupled, kCounting, kCrashing };

struct Operator : CustomOp {
  const char* name;
  Kind kind;
};

struct Kernel {
  const OrtApi* api;
  Kind kind;
  float scale;
};

int counted = 0;

OrtStatus* create(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** made) {
  auto* kernel = new Kernel{api, reinterpret_cast<const Operator*>(op)->kind, 1.0F};
  if (OrtStatus* status = Api(api).KernelInfoGetAttribute_float(info, "scale", &kernel->scale)) {
    if (kernel->kind == Kind::kScaledSquare) {
      delete kernel;
      return status;
    }
    Api(api).ReleaseStatus(status);
  }
  *made = kernel;
  return nullptr;
}

float value(const Kernel& kernel, float x, int64_t rows) {
  switch (kernel.kind) {
    case Kind::kScaledSquare:
#ifdef TAMPERED
      return kernel.scale * x * x * 1.001F;
#else
      return kernel.scale * x * x;
#endif
    case Kind::kCoupled:
      return x + 0.001F * static_cast<float>(rows);
    case Kind::kCounting:
      return x + 0.001F * static_cast<float>(counted);
    default:
      if (x != x) std::abort();
      return x;
  }
}

OrtStatus* compute(void* given, OrtKernelContext* context) {
  const Kernel& kernel = *static_cast<Kernel*>(given);
  const Api api(kernel.api);
  const OrtValue* x = nullptr;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  size_t rank = 0;
  if (OrtStatus* status = api.KernelContext_GetInput(context, size_t{0}, &x)) return status;
  if (OrtStatus* status = api.GetTensorTypeAndShape(x, &info)) return status;
  api.GetDimensionsCount(info, &rank);
  std::vector<int64_t> dims(rank);
  api.GetDimensions(info, dims.data(), rank);
  api.ReleaseTensorTypeAndShapeInfo(info);
  OrtValue* y = nullptr;
  if (OrtStatus* status = api.KernelContext_GetOutput(context, size_t{0}, dims.data(), rank, &y)) return status;
  void* from = nullptr;
  void* to = nullptr;
  if (OrtStatus* status = api.GetTensorMutableData(const_cast<OrtValue*>(x), &from)) return status;
  if (OrtStatus* status = api.GetTensorMutableData(y, &to)) return status;
  int64_t size = 1;
  for (int64_t dim : dims) size *= dim;
  if (kernel.kind == Kind::kCounting) ++counted;
  for (int64_t i = 0; i < size; ++i) {
    static_cast<float*>(to)[i] = value(kernel, static_cast<const float*>(from)[i], rank ? dims[0] : 1);
  }
  return nullptr;
}

Operator described(const char* name, Kind kind) {
  Operator op{};
  op.version = onnxpool::abi::kVersion;
  op.name = name;
  op.kind = kind;
  op.GetName = [](const OrtCustomOp* self) { return reinterpret_cast<const Operator*>(self)->name; };
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
  op.GetInputType = [](const OrtCustomOp*, size_t) -> int { return onnxpool::abi::kFloat; };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.GetOutputType = [](const OrtCustomOp*, size_t) -> int { return onnxpool::abi::kFloat; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t) -> int { return 0; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) -> int { return 0; };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) -> int { return 0; };
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = compute;
  return op;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                                const OrtApiBase* base) {
  static Operator operators[] = {
      described("ScaledSquare", Kind::kScaledSquare),
      described("Coupled", Kind::kCoupled),
      described("Counting", Kind::kCounting),
      described("Crashing", Kind::kCrashing),
  };
  const OrtApi* table = reinterpret_cast<const ApiBase*>(base)->GetApi(onnxpool::abi::kVersion);
  const Api api(table);
  OrtCustomOpDomain* domain = nullptr;
  if (OrtStatus* status = api.CreateCustomOpDomain("their.domain", &domain)) return status;
  for (const Operator& op : operators) {
    if (OrtStatus* status = api.CustomOpDomain_Add(domain, reinterpret_cast<const OrtCustomOp*>(&op))) return status;
  }
  return api.AddCustomOpDomain(options, domain);  // the domain lives as long as the process
}
