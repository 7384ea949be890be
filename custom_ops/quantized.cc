// Operators on tensors of 8 bits: `(N, *spatial, C) -> the same with pooled spatial axes`, uint8 or int8, logits like x.
// Attributes: those of the window, as in library.cc; x_scale, y_scale (and logit_scale), positive floats; x_zero_point,
// y_zero_point, integers of the element type.
#include "quantized.h"

#include <cstdlib>
#include <new>

#include "operators.h"

namespace onnxpool {
namespace {

// The schedule. It depends on the shape alone, so that results are the same for any number of threads.
QuantizedPlan divide(const Plan& plan, int64_t channels) {
  constexpr int64_t kTaskCells = 64 * 1024, kChannels = 64;  // some 30 microseconds; a line of cache
  const auto shortest = [](int64_t a, int64_t b) { return a < b ? a : b; };
  const auto parts = [](int64_t whole, int64_t part) { return (whole + part - 1) / part; };
  QuantizedPlan divided;
  divided.plan = plan, divided.channels = channels;
  const int64_t window = plan.depth.kernel * plan.height.kernel * plan.width.kernel;
  const int64_t columns = kTaskCells / kChannels / window + 1;  // of outputs, for kChannels channels
  divided.tile = shortest(plan.width.out, columns > 8 ? columns : 8);
  divided.tiles = parts(plan.width.out, divided.tile);
  const int64_t lines = columns / divided.tile + 1;  // of channels
  divided.chunk = lines >= parts(channels, kChannels) ? channels : lines * kChannels;
  divided.chunks = parts(channels, divided.chunk);
  divided.steps = plan.planes * plan.depth.out * parts(plan.height.out, kBand) * divided.tiles * divided.chunks;
  const int64_t cells = kBand * divided.tile * divided.chunk * window;
  divided.steps_per_task = cells > kTaskCells ? 1 : kTaskCells / cells;
  divided.tasks = parts(divided.steps, divided.steps_per_task);
  return divided;
}

struct QuantizedNode {
  Ort ort;
  const QuantizedKernel& kernel;
  bool is_signed;
  Window window;
  QuantizedTables tables;
  char name[128];

  Message who() const { return Message().add("%s node '%s': ", kernel.name, name); }

  OrtStatus* compute(OrtKernelContext* context) const {
    const void* inputs[2] = {};
    Shape in, out;
    const OrtMemoryInfo* memory = nullptr;
    Message why = who();
    ORT_TRY(input_tensor(ort, context, 0, &in, &inputs[0], &memory));
    const Shape first = channels_first(in);
    if (!output_shape(window, first, &out, &why)) return ort.invalid(why);
    for (size_t i = 1; i < kernel.inputs; ++i) {
      Shape other;
      ORT_TRY(input_tensor(ort, context, i, &other, &inputs[i], &memory));
      if (!same_shape(in, other, &why)) return ort.invalid(why);
    }
    void* output = nullptr;
    ORT_TRY(output_tensor(ort, context, 0, channels_last(out), &output));
    Plan plan = make_plan(window, first, out);
    if (plan.planes == 0) return nullptr;
    plan.planes = first.dims[0];
    const QuantizedPlan divided = divide(plan, first.dims[1]);
    auto body = [&](int64_t index) noexcept { kernel.task[is_signed](divided, tables, inputs, output, index); };
    return parallel_for(ort, context, divided.tasks, body);
  }

  static Shape channels_first(const Shape& last) {
    Shape shape = last;
    if (last.rank < 3 || last.rank > Shape::kMost) return shape;  // refused by output_shape
    shape.dims[1] = last.dims[last.rank - 1];
    for (size_t i = 2; i < last.rank; ++i) shape.dims[i] = last.dims[i - 1];
    return shape;
  }
  static Shape channels_last(const Shape& first) {
    Shape shape = first;
    for (size_t i = 2; i < first.rank; ++i) shape.dims[i - 1] = first.dims[i];
    shape.dims[first.rank - 1] = first.dims[1];
    return shape;
  }
};

bool read_quantization(const KernelAttributes& attributes, bool logits, Quantization* stored, Message* why) {
  const int64_t lowest = stored->is_signed ? -128 : 0;
  const auto scale = [&](const char* name, float* out) {
    if (attributes.number(name, out) && *out > 0 && *out < 0x1p127F) return true;
    why->add("attribute %s is missing or is not a positive number", name);
    return false;
  };
  const auto zero = [&](const char* name, int32_t* out) {
    int64_t whole = 0;
    const bool given = attributes.integer(name, &whole) && whole >= lowest && whole <= lowest + 255;
    *out = static_cast<int32_t>(whole);
    if (!given) why->add("attribute %s is missing or is not an integer of the tensor's element type", name);
    return given;
  };
  if (!scale("x_scale", &stored->x_scale) || !scale("y_scale", &stored->y_scale)) return false;
  stored->logit_scale = stored->x_scale;
  if (logits && !scale("logit_scale", &stored->logit_scale)) return false;
  if (!zero("x_zero_point", &stored->x_zero) || !zero("y_zero_point", &stored->y_zero)) return false;
  const double ratio = static_cast<double>(stored->x_scale) / static_cast<double>(stored->y_scale);
  if (ratio >= static_cast<double>(kLeastRatio) && ratio <= static_cast<double>(kMostRatio)) return true;
  why->add("x_scale is %g times y_scale; expected 2^-24 to 2^8 times", ratio);
  return false;
}

struct QuantizedOperator : abi::CustomOp {
  const QuantizedKernel* kernel = nullptr;
  bool is_signed = false;

  static const QuantizedOperator& self(const OrtCustomOp* op) {
    return *static_cast<const QuantizedOperator*>(reinterpret_cast<const abi::CustomOp*>(op));
  }
  static int type(const OrtCustomOp* op) { return self(op).is_signed ? abi::kInt8 : abi::kUint8; }

  void fill(const QuantizedKernel& k, bool of_int8) {
    kernel = &k;
    is_signed = of_int8;
    version = abi::kVersion;
    GetName = [](const OrtCustomOp* op) { return self(op).kernel->name; };
    GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };  // the CPU's
    GetInputTypeCount = [](const OrtCustomOp* op) { return self(op).kernel->inputs; };
    GetInputType = [](const OrtCustomOp* op, size_t) { return type(op); };
    GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
    GetOutputType = [](const OrtCustomOp* op, size_t) { return type(op); };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return 0; };   // required
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return 0; };  // required
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return 0; };       // the provider's own
    GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
    GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
    GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
    GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return INT32_MAX; };
    CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** node) {
      return self(op).create(Ort(api), info, node);
    };
    KernelComputeV2 = [](void* node, OrtKernelContext* context) {
      return static_cast<QuantizedNode*>(node)->compute(context);
    };
    KernelDestroy = [](void* node) {
      static_cast<QuantizedNode*>(node)->~QuantizedNode();
      std::free(node);
    };
    InferOutputShapeFn = [](const OrtCustomOp*, OrtShapeInferContext* context) {
      return infer_shape(Ort(served.load(std::memory_order_acquire)), context, 1);
    };
  }

  OrtStatus* create(const Ort& ort, const OrtKernelInfo* info, void** out) const {
    void* const memory = std::malloc(sizeof(QuantizedNode));
    if (memory == nullptr) return ort.CreateStatus(abi::kFail, "onnxpool: out of memory");
    auto* const node = new (memory) QuantizedNode{ort, *kernel, is_signed, {}, {}, ""};
    size_t bytes = sizeof node->name;
    if (!ort.succeeded(ort.KernelInfo_GetNodeName(info, node->name, &bytes))) node->name[0] = '\0';  // too long
    Message why = node->who();
    const KernelAttributes attributes{ort, info};
    Quantization stored;
    stored.is_signed = is_signed;
    if (read_window(attributes, &node->window, &why) && read_quantization(attributes, kernel->inputs > 1, &stored, &why)) {
      kernel->prepare(stored, &node->tables);
      *out = node;
      return nullptr;
    }
    KernelDestroy(node);
    return ort.invalid(why);
  }
};

}  // namespace

OrtStatus* add_quantized(const Ort& ort, const QuantizedKernel* kernels, OrtCustomOpDomain* domain) {
  static QuantizedOperator operators[2 * kQuantized];  // these live as long as the process: sessions point to them
  for (size_t i = 0; i < 2 * kQuantized; ++i) {
    operators[i].fill(kernels[i / 2], i % 2 == 1);
    ORT_TRY(add(ort, domain, operators[i]));
  }
  return nullptr;
}

}  // namespace onnxpool
