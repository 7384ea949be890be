// What the library's operators share: how attributes are read when a model loads and when shapes are inferred, and the
// inference of shapes.
#pragma once

#include <atomic>

#include "kernels/geometry.h"

namespace onnxpool {

// The ONNX Runtime that we serve. Shape inference is the one callback that is not given it.
extern std::atomic<const OrtApi*> served;

inline OrtStatus* add(const Ort& ort, OrtCustomOpDomain* domain, const abi::CustomOp& op) {
  return ort.CustomOpDomain_Add(domain, reinterpret_cast<const OrtCustomOp*>(&op));
}

struct KernelAttributes {
  const Ort& ort;
  const OrtKernelInfo* info;

  bool ints(const char* name, int64_t* out, size_t room, size_t* count) const {
    *count = 0;
    if (!ort.succeeded(ort.KernelInfoGetAttributeArray_int64(info, name, nullptr, count)) || *count > room) return false;
    return ort.succeeded(ort.KernelInfoGetAttributeArray_int64(info, name, out, count));
  }
  bool integer(const char* name, int64_t* out) const {
    return ort.succeeded(ort.KernelInfoGetAttribute_int64(info, name, out));
  }
  bool number(const char* name, float* out) const {
    return ort.succeeded(ort.KernelInfoGetAttribute_float(info, name, out));
  }
  bool has(const char* name) const {
    int64_t whole = 0;
    float one = 0;
    size_t count = 0;
    return integer(name, &whole) || number(name, &one) ||
           ort.succeeded(ort.KernelInfoGetAttribute_string(info, name, nullptr, &count)) ||
           ort.succeeded(ort.KernelInfoGetAttributeArray_int64(info, name, nullptr, &count));
  }
};

struct InferenceAttributes {
  const Ort& ort;
  const OrtShapeInferContext* context;

  bool ints(const char* name, int64_t* out, size_t room, size_t* count) const {
    size_t bytes = 0;
    if (!read(name, abi::kAttributeInts, out, room * sizeof(int64_t), &bytes)) return false;
    *count = bytes / sizeof(int64_t);
    return true;
  }
  bool integer(const char* name, int64_t* out) const {
    size_t bytes = 0;
    return read(name, abi::kAttributeInt, out, sizeof(int64_t), &bytes);
  }
  bool read(const char* name, int kind, void* out, size_t room, size_t* bytes) const {
    const OrtOpAttr* attribute = nullptr;
    return ort.succeeded(ort.ShapeInferContext_GetAttribute(context, name, &attribute)) && attribute != nullptr &&
           ort.succeeded(ort.ReadOpAttr(attribute, kind, out, room, bytes));
  }
};

// Known sizes give sizes, a named size gives a formula of its name (equal names must mean equal sizes: ONNX Runtime
// shares memory by them), other axes pass through; spatial ones stand from `first` on. Where a size has neither, nothing
// is set: ONNX Runtime would take -1 for a size and warn in every run. What is wrong with the node is left for its
// creation to refuse.
inline OrtStatus* infer_shape(const Ort& ort, OrtShapeInferContext* context, size_t first) {
  OrtTensorTypeAndShapeInfo* input = nullptr;  // the context's own
  ORT_TRY(ort.ShapeInferContext_GetInputTypeShape(context, size_t{0}, &input));
  Shape shape;
  Window window;
  Message ignored;
  ORT_TRY(read_shape(ort, input, &shape));
  if (!read_window(InferenceAttributes{ort, context}, &window, &ignored)) return nullptr;
  const auto rank = static_cast<size_t>(window.rank);
  if (shape.rank != rank + 2) return nullptr;  // an unknown rank looks like rank 0
  const char* names[Shape::kMost] = {};
  Message formulas[kMostAxes];
  ORT_TRY(ort.GetSymbolicDimensions(input, names, shape.rank));
  for (size_t i = 0; i < shape.rank; ++i) {
    const bool named = names[i] != nullptr && names[i][0] != '\0';
    if (shape.dims[i] < 0 && !named) return nullptr;
    if (i < first || i >= first + rank) continue;
    const Axis& axis = window.axis[i - first];
    if (shape.dims[i] >= 0) {
      shape.dims[i] = axis.output(shape.dims[i]);
      if (shape.dims[i] < 1) return nullptr;
    } else {
      const auto shift = static_cast<long long>(axis.shift()), stride = static_cast<long long>(axis.stride);
      formulas[i - first].add("floor((%s %c %lld)/%lld) + 1", names[i], shift < 0 ? '-' : '+',
                              shift < 0 ? -shift : shift, stride);
      names[i] = formulas[i - first].text();
    }
  }
  OrtTensorTypeAndShapeInfo* output = nullptr;
  ORT_TRY(ort.CreateTensorTypeAndShapeInfo(&output));
  int type = 0;  // the input's: ONNX Runtime asks the operator of the first element type for all of them
  OrtStatus* status = ort.GetTensorElementType(input, &type);
  if (status == nullptr) status = ort.SetTensorElementType(output, type);
  if (status == nullptr) status = ort.SetDimensions(output, shape.dims, shape.rank);
  if (status == nullptr) status = ort.SetSymbolicDimensions(output, names, shape.rank);
  if (status == nullptr) status = ort.ShapeInferContext_SetOutputTypeShape(context, size_t{0}, output);
  ort.ReleaseTensorTypeAndShapeInfo(output);
  return status;
}

}  // namespace onnxpool
