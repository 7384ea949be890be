// The slice of ONNX Runtime's C ABI that this library uses, in our own declarations: no header of theirs is needed.
//
// ONNX Runtime hands functions out in a table, `OrtApi`, whose slots never move (new ones are appended), and takes an
// operator as a struct, `OrtCustomOp`, whose members never move. So a slot number and a signature say all there is to
// know. tests/test_ort_abi.py holds both lists below against the official header, number by number and type by type.
//
// Enumerations are plain `int` here: their underlying type is not part of what is promised, their values are.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(_WIN32)
#define ONNXPOOL_ORT_CALL __stdcall
#else
#define ONNXPOOL_ORT_CALL
#endif

// Opaque to us, and to everybody outside ONNX Runtime.
struct OrtApi;
struct OrtApiBase;
struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOp;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeInferContext;
struct OrtTensorTypeAndShapeInfo;
struct OrtValue;
struct OrtOpAttr;
struct OrtMemoryInfo;
struct OrtAllocator;

namespace onnxpool::abi {

// The API version we ask for, and the one our operators declare. It is that of the oldest ONNX Runtime we support
// (1.24), so that every supported one serves it; the functions below have all been there since version 18.
constexpr uint32_t kVersion = 24;

// Error codes (OrtErrorCode), attribute kinds (OrtOpAttrType), element types (ONNXTensorElementDataType).
enum : int { kFail = 1, kInvalidArgument = 2 };
enum : int { kAttributeInt = 1, kAttributeInts = 2 };
enum : int { kFloat = 1, kUint8 = 2, kInt8 = 3, kFloat16 = 10, kDouble = 11, kBfloat16 = 16 };

struct ApiBase {
  const OrtApi*(ONNXPOOL_ORT_CALL* GetApi)(uint32_t version)noexcept;
  const char*(ONNXPOOL_ORT_CALL* GetVersionString)()noexcept;
};

// SLOT(name, slot in OrtApi, return type, arguments)
#define ONNXPOOL_ORT_SLOTS(SLOT)                                                                                   \
  SLOT(CreateStatus, 0, OrtStatus*, (int code, const char* message))                                               \
  SLOT(CreateCustomOpDomain, 26, OrtStatus*, (const char* domain, OrtCustomOpDomain** out))                        \
  SLOT(CustomOpDomain_Add, 27, OrtStatus*, (OrtCustomOpDomain * domain, const OrtCustomOp* op))                    \
  SLOT(AddCustomOpDomain, 28, OrtStatus*, (OrtSessionOptions * options, OrtCustomOpDomain * domain))               \
  SLOT(GetTensorMutableData, 51, OrtStatus*, (OrtValue * value, void** out))                                       \
  SLOT(CreateTensorTypeAndShapeInfo, 57, OrtStatus*, (OrtTensorTypeAndShapeInfo * *out))                           \
  SLOT(SetTensorElementType, 58, OrtStatus*, (OrtTensorTypeAndShapeInfo * info, int type))                         \
  SLOT(SetDimensions, 59, OrtStatus*, (OrtTensorTypeAndShapeInfo * info, const int64_t* dims, size_t count))       \
  SLOT(GetTensorElementType, 60, OrtStatus*, (const OrtTensorTypeAndShapeInfo* info, int* out))                    \
  SLOT(GetDimensionsCount, 61, OrtStatus*, (const OrtTensorTypeAndShapeInfo* info, size_t* out))                   \
  SLOT(GetDimensions, 62, OrtStatus*, (const OrtTensorTypeAndShapeInfo* info, int64_t* dims, size_t count))        \
  SLOT(GetSymbolicDimensions, 63, OrtStatus*,                                                                      \
       (const OrtTensorTypeAndShapeInfo* info, const char* names[], size_t count))                                 \
  SLOT(GetTensorTypeAndShape, 65, OrtStatus*, (const OrtValue* value, OrtTensorTypeAndShapeInfo** out))            \
  SLOT(AllocatorAlloc, 75, OrtStatus*, (OrtAllocator * allocator, size_t bytes, void** out))                       \
  SLOT(AllocatorFree, 76, OrtStatus*, (OrtAllocator * allocator, void* memory))                                    \
  SLOT(KernelInfoGetAttribute_float, 85, OrtStatus*, (const OrtKernelInfo* info, const char* name, float* out))    \
  SLOT(KernelInfoGetAttribute_int64, 86, OrtStatus*, (const OrtKernelInfo* info, const char* name, int64_t* out))  \
  SLOT(KernelInfoGetAttribute_string, 87, OrtStatus*,                                                              \
       (const OrtKernelInfo* info, const char* name, char* out, size_t* bytes))                                    \
  SLOT(KernelContext_GetInput, 90, OrtStatus*, (const OrtKernelContext* context, size_t index, const OrtValue** out)) \
  SLOT(KernelContext_GetOutput, 91, OrtStatus*,                                                                    \
       (OrtKernelContext * context, size_t index, const int64_t* dims, size_t count, OrtValue** out))              \
  SLOT(ReleaseStatus, 93, void, (OrtStatus * status))                                                              \
  SLOT(ReleaseTensorTypeAndShapeInfo, 99, void, (OrtTensorTypeAndShapeInfo * info))                                \
  SLOT(ReleaseCustomOpDomain, 101, void, (OrtCustomOpDomain * domain))                                             \
  SLOT(GetAvailableProviders, 125, OrtStatus*, (char*** names, int* count))                                         \
  SLOT(ReleaseAvailableProviders, 126, OrtStatus*, (char** names, int count))                                      \
  SLOT(ReleaseAllocator, 132, void, (OrtAllocator * allocator))                                                    \
  SLOT(KernelInfoGetAttributeArray_int64, 163, OrtStatus*,                                                         \
       (const OrtKernelInfo* info, const char* name, int64_t* out, size_t* count))                                 \
  SLOT(KernelContext_GetGPUComputeStream, 193, OrtStatus*, (const OrtKernelContext* context, void** out))          \
  SLOT(GetTensorMemoryInfo, 194, OrtStatus*, (const OrtValue* value, const OrtMemoryInfo** out))                   \
  SLOT(KernelInfo_GetNodeName, 244, OrtStatus*, (const OrtKernelInfo* info, char* out, size_t* bytes))             \
  SLOT(KernelContext_GetAllocator, 253, OrtStatus*,                                                                \
       (const OrtKernelContext* context, const OrtMemoryInfo* memory, OrtAllocator** out))                         \
  SLOT(ShapeInferContext_GetInputTypeShape, 268, OrtStatus*,                                                       \
       (const OrtShapeInferContext* context, size_t index, OrtTensorTypeAndShapeInfo** out))                       \
  SLOT(ShapeInferContext_GetAttribute, 269, OrtStatus*,                                                            \
       (const OrtShapeInferContext* context, const char* name, const OrtOpAttr** out))                             \
  SLOT(ShapeInferContext_SetOutputTypeShape, 270, OrtStatus*,                                                      \
       (const OrtShapeInferContext* context, size_t index, const OrtTensorTypeAndShapeInfo* info))                 \
  SLOT(SetSymbolicDimensions, 271, OrtStatus*,                                                                     \
       (OrtTensorTypeAndShapeInfo * info, const char* names[], size_t count))                                      \
  SLOT(ReadOpAttr, 272, OrtStatus*, (const OrtOpAttr* attribute, int kind, void* data, size_t bytes, size_t* out)) \
  SLOT(KernelContext_ParallelFor, 274, OrtStatus*,                                                                 \
       (const OrtKernelContext* context, void (*body)(void*, size_t), size_t total, size_t batches, void* user))

// MEMBER(name, API version it came with, return type, arguments), in order; `uint32_t version` stands before them.
#define ONNXPOOL_ORT_CUSTOM_OP_MEMBERS(MEMBER)                                                                     \
  MEMBER(CreateKernel, 1, void*, (const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info))            \
  MEMBER(GetName, 1, const char*, (const OrtCustomOp* op))                                                         \
  MEMBER(GetExecutionProviderType, 1, const char*, (const OrtCustomOp* op))                                        \
  MEMBER(GetInputType, 1, int, (const OrtCustomOp* op, size_t index))                                              \
  MEMBER(GetInputTypeCount, 1, size_t, (const OrtCustomOp* op))                                                    \
  MEMBER(GetOutputType, 1, int, (const OrtCustomOp* op, size_t index))                                             \
  MEMBER(GetOutputTypeCount, 1, size_t, (const OrtCustomOp* op))                                                   \
  MEMBER(KernelCompute, 1, void, (void* kernel, OrtKernelContext* context))                                        \
  MEMBER(KernelDestroy, 1, void, (void* kernel))                                                                   \
  MEMBER(GetInputCharacteristic, 8, int, (const OrtCustomOp* op, size_t index))                                    \
  MEMBER(GetOutputCharacteristic, 8, int, (const OrtCustomOp* op, size_t index))                                   \
  MEMBER(GetInputMemoryType, 12, int, (const OrtCustomOp* op, size_t index))                                       \
  MEMBER(GetVariadicInputMinArity, 14, int, (const OrtCustomOp* op))                                               \
  MEMBER(GetVariadicInputHomogeneity, 14, int, (const OrtCustomOp* op))                                            \
  MEMBER(GetVariadicOutputMinArity, 14, int, (const OrtCustomOp* op))                                              \
  MEMBER(GetVariadicOutputHomogeneity, 14, int, (const OrtCustomOp* op))                                           \
  MEMBER(CreateKernelV2, 16, OrtStatus*,                                                                           \
         (const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel))                     \
  MEMBER(KernelComputeV2, 16, OrtStatus*, (void* kernel, OrtKernelContext* context))                               \
  MEMBER(InferOutputShapeFn, 17, OrtStatus*, (const OrtCustomOp* op, OrtShapeInferContext* context))               \
  MEMBER(GetStartVersion, 17, int, (const OrtCustomOp* op))                                                        \
  MEMBER(GetEndVersion, 17, int, (const OrtCustomOp* op))                                                          \
  MEMBER(GetMayInplace, 18, size_t, (int** input_index, int** output_index))                                       \
  MEMBER(ReleaseMayInplace, 18, void, (int* input_index, int* output_index))                                       \
  MEMBER(GetAliasMap, 18, size_t, (int** input_index, int** output_index))                                         \
  MEMBER(ReleaseAliasMap, 18, void, (int* input_index, int* output_index))

// Null members are ones that we do not offer; ONNX Runtime asks before it calls the optional ones.
struct CustomOp {
  uint32_t version = 0;
#define ONNXPOOL_MEMBER(name, since, result, arguments) result(ONNXPOOL_ORT_CALL* name) arguments = nullptr;
  ONNXPOOL_ORT_CUSTOM_OP_MEMBERS(ONNXPOOL_MEMBER)
#undef ONNXPOOL_MEMBER
};

// The table with types: `Api(table).CreateStatus(code, text)` would read `OrtApi::CreateStatus` of the official header.
class Api {
 public:
  explicit Api(const OrtApi* table) : slots_(reinterpret_cast<const void* const*>(table)) {}

#define ONNXPOOL_SLOT(name, slot, result, arguments)                                      \
  using name##Function = result(ONNXPOOL_ORT_CALL*) arguments noexcept;                   \
  template <class... Arguments>                                                           \
  result name(Arguments... given) const noexcept {                                        \
    return reinterpret_cast<name##Function>(const_cast<void*>(slots_[slot]))(given...);   \
  }
  ONNXPOOL_ORT_SLOTS(ONNXPOOL_SLOT)
#undef ONNXPOOL_SLOT

 private:
  const void* const* slots_;
};

}  // namespace onnxpool::abi
