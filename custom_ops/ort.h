// What kernels see of ONNX Runtime: messages, attributes, tensors, memory and threads, over the C ABI in ort_abi.h.
//
// Nothing here throws (exceptions are off): what can fail returns a status, an `OrtStatus*` that is null for success
// and otherwise ONNX Runtime's to release. `ORT_TRY(call)` returns a status that is not null to the caller's caller.
#pragma once

#include <cstdarg>
#include <cstdio>

#include "ort_abi.h"

#define ORT_TRY(call)                                 \
  do {                                                \
    if (OrtStatus* status_ = (call)) return status_;  \
  } while (false)

namespace onnxpool {

// One sentence of bounded length, for statuses; what does not fit is cut off.
class Message {
 public:
#if defined(__GNUC__)
  __attribute__((format(printf, 2, 3)))
#endif
  Message& add(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const int written = std::vsnprintf(text_ + used_, sizeof text_ - used_, format, arguments);
    va_end(arguments);
    if (written > 0) used_ += static_cast<size_t>(written);
    if (used_ >= sizeof text_) used_ = sizeof text_ - 1;
    return *this;
  }

  Message& add(const int64_t* values, size_t count) {
    for (size_t i = 0; i < count; ++i) add("%s%lld", i == 0 ? "[" : ", ", static_cast<long long>(values[i]));
    return add(count == 0 ? "[]" : "]");
  }

  const char* text() const { return text_; }

 private:
  char text_[1024] = "";
  size_t used_ = 0;
};

class Ort : public abi::Api {
 public:
  using Api::Api;

  OrtStatus* invalid(const Message& message) const { return CreateStatus(abi::kInvalidArgument, message.text()); }

  // True where the call succeeded; a failure's status is released, for callers that have their own words for it.
  bool succeeded(OrtStatus* status) const {
    if (status != nullptr) ReleaseStatus(status);
    return status == nullptr;
  }
};

// A tensor's sizes. More axes than any operator here takes are counted, but not kept.
struct Shape {
  static constexpr size_t kMost = 8;
  size_t rank = 0;
  int64_t dims[kMost] = {};
};

inline OrtStatus* read_shape(const Ort& ort, const OrtTensorTypeAndShapeInfo* info, Shape* shape) {
  ORT_TRY(ort.GetDimensionsCount(info, &shape->rank));
  return shape->rank > Shape::kMost ? nullptr : ort.GetDimensions(info, shape->dims, shape->rank);
}

inline OrtStatus* input_tensor(const Ort& ort, OrtKernelContext* context, size_t index, Shape* shape,
                               const void** data, const OrtMemoryInfo** memory) {
  const OrtValue* value = nullptr;
  ORT_TRY(ort.KernelContext_GetInput(context, index, &value));
  OrtTensorTypeAndShapeInfo* info = nullptr;
  ORT_TRY(ort.GetTensorTypeAndShape(value, &info));
  OrtStatus* status = read_shape(ort, info, shape);
  ort.ReleaseTensorTypeAndShapeInfo(info);
  ORT_TRY(status);
  ORT_TRY(ort.GetTensorMemoryInfo(value, memory));
  void* start = nullptr;
  ORT_TRY(ort.GetTensorMutableData(const_cast<OrtValue*>(value), &start));
  *data = start;
  return nullptr;
}

inline OrtStatus* output_tensor(const Ort& ort, OrtKernelContext* context, size_t index, const Shape& shape,
                                void** data) {
  OrtValue* value = nullptr;
  ORT_TRY(ort.KernelContext_GetOutput(context, index, shape.dims, shape.rank, &value));
  return ort.GetTensorMutableData(value, data);
}

// Memory for the length of one compute call, from ONNX Runtime's allocator (and so under its limits and statistics).
class Scratch {
 public:
  explicit Scratch(const Ort& ort) : ort_(ort) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  OrtStatus* allocate(const OrtKernelContext* context, const OrtMemoryInfo* memory, size_t bytes) {
    ORT_TRY(ort_.KernelContext_GetAllocator(context, memory, &allocator_));
    return ort_.AllocatorAlloc(allocator_, bytes, &start_);
  }

  void* start() const { return start_; }

  ~Scratch() {
    if (start_ != nullptr) ort_.succeeded(ort_.AllocatorFree(allocator_, start_));
    if (allocator_ != nullptr) ort_.ReleaseAllocator(allocator_);
  }

 private:
  const Ort& ort_;
  OrtAllocator* allocator_ = nullptr;
  void* start_ = nullptr;
};

// Runs body(0), ..., body(total - 1) on the session's own threads. The body must not throw: nothing would catch it.
template <class Body>
OrtStatus* parallel_for(const Ort& ort, const OrtKernelContext* context, int64_t total, Body& body) {
  static_assert(noexcept(body(int64_t{0})), "an exception on a thread of ONNX Runtime ends the process");
  const auto call = [](void* user, size_t index) { (*static_cast<Body*>(user))(static_cast<int64_t>(index)); };
  const auto count = static_cast<size_t>(total);
  return ort.KernelContext_ParallelFor(context, call, count, count, &body);
}

}  // namespace onnxpool
