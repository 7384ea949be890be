// The pooling operators as an extension of OpenVINO: core.add_extension(this library), and models in function or custom
// form run natively on its CPU plugin, with dynamic sizes too.
//
// Compiled for one release of OpenVINO against the headers in its Python wheel (onnxpool/openvino.py says how). The
// kernels are not in it: they are in libonnxpool.so, which it loads from its own folder.
//
// Threads are OpenVINO's: a run's tasks are shared among those of the arena that it is in, so that
// inference_num_threads holds. Results are the same bits for any number of them.
#include <dlfcn.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/conversion.hpp>
#include <openvino/op/op.hpp>
#include <string>
#include <vector>

#include "../kernels/geometry.h"
#include "../kernels/kernel.h"

namespace onnxpool {
namespace {

constexpr char kDomain[] = "onnxpool";

// Those of libonnxpool.so beside this library. Throws the reason where there are none.
const Kernel* const* load_kernels() {
  Dl_info own;
  static const char here = 0;
  const std::string file = dladdr(&here, &own) != 0 ? own.dli_fname : "";
  const std::string path = file.substr(0, file.rfind('/') + 1) + "libonnxpool.so";
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);  // stays: nodes keep pointers into it
  OPENVINO_ASSERT(library != nullptr, "onnxpool: ", dlerror());
  const auto get = reinterpret_cast<GetKernels>(dlsym(library, "OnnxpoolKernels"));
  OPENVINO_ASSERT(get != nullptr, "onnxpool: ", path, " is of another build");
  char why[1024] = "";
  const Kernel* const* const kernels = get(kKernelsVersion, why, sizeof why);
  OPENVINO_ASSERT(kernels != nullptr, why);
  return kernels;
}

const Kernel* const* kernels() {
  static const Kernel* const* const loaded = load_kernels();
  return loaded;
}

const Kernel& kernel_named(const std::string& name) {
  for (size_t i = 0; i < kMethods; ++i) {
    if (name == kernels()[i]->name) return *kernels()[i];
  }
  OPENVINO_THROW("onnxpool: there is no kernel for ", name);
}

using Integers = std::vector<int64_t>;

struct Attributes {
  Integers kernel_shape, strides, pads, dilations;
  int64_t ceil_mode = 0;

  // As geometry.h reads them.
  bool ints(const std::string& name, int64_t* out, size_t room, size_t* count) const {
    const Integers& numbers = name == "kernel_shape" ? kernel_shape
                              : name == "strides"    ? strides
                              : name == "pads"       ? pads
                                                     : dilations;
    *count = numbers.size();
    if (numbers.size() > room) return false;
    std::copy(numbers.begin(), numbers.end(), out);
    return true;
  }
  bool integer(const char*, int64_t* out) const {
    *out = ceil_mode;
    return true;
  }
};

ElementType element_of(ov::element::Type type) {
  switch (type) {
    case ov::element::f32: return kF32;
    case ov::element::f64: return kF64;
    case ov::element::f16: return kF16;
    case ov::element::bf16: return kBF16;
    default: return kElementTypes;
  }
}

Shape shape_of(const ov::Tensor& tensor) {
  Shape shape;
  for (const size_t size : tensor.get_shape()) {
    if (shape.rank < Shape::kMost) shape.dims[shape.rank] = static_cast<int64_t>(size);
    ++shape.rank;
  }
  return shape;
}

// Aligned memory for the length of one run.
class Memory {
 public:
  explicit Memory(size_t bytes) {
    start_ = bytes == 0 ? nullptr : static_cast<unsigned char*>(std::aligned_alloc(kAlignment, rounded(bytes)));
    if (bytes != 0 && start_ == nullptr) throw std::bad_alloc();
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { std::free(start_); }

  unsigned char* start() const { return start_; }
  static size_t rounded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

 private:
  static constexpr size_t kAlignment = 64;
  unsigned char* start_;
};

// A thread has a piece of scratch memory of its own, by its place in the arena.
void run(const ElementKernel& kernel, const Plan& plan, const void* const* inputs, void* output) {
  const Schedule schedule = kernel.schedule(plan);
  const size_t piece = Memory::rounded(schedule.scratch_bytes);
  const int places = schedule.tasks > 1 ? tbb::this_task_arena::max_concurrency() : 1;
  const Memory shared(schedule.shared_bytes), scratch(piece * static_cast<size_t>(places));
  const auto task = [&](int64_t index, int place) {
    void* const own = piece > 0 ? scratch.start() + piece * static_cast<size_t>(place) : nullptr;
    kernel.task(plan, schedule, inputs, output, index, own, shared.start());
  };
  if (places == 1) {
    for (int64_t i = 0; i < schedule.tasks; ++i) task(i, 0);
  } else {
    tbb::parallel_for(int64_t{0}, schedule.tasks, [&](int64_t i) { task(i, tbb::this_task_arena::current_thread_index()); });
  }
  if (schedule.shared_bytes > 0) kernel.finish(plan, schedule, inputs, output, shared.start());
}

// An operator with one input for values, (N, C, *spatial), and for some methods one of the same shape for logits.
class Pooling : public ov::op::Op {
 public:
  OPENVINO_OP("Pooling", "onnxpool");

  bool visit_attributes(ov::AttributeVisitor& visitor) override {
    visitor.on_attribute("kernel_shape", attributes_.kernel_shape);
    visitor.on_attribute("strides", attributes_.strides);
    visitor.on_attribute("pads", attributes_.pads);
    visitor.on_attribute("dilations", attributes_.dilations);
    visitor.on_attribute("ceil_mode", attributes_.ceil_mode);
    return true;
  }

  void validate_and_infer_types() override {
    const Window pooled = window();
    const ov::element::Type type = get_input_element_type(0);
    ov::PartialShape shape = get_input_partial_shape(0);
    const size_t inputs = kernel_named(get_type_name()).inputs;
    NODE_VALIDATION_CHECK(this, get_input_size() == inputs, "takes ", inputs, " inputs");
    for (size_t i = 1; i < inputs; ++i) {
      NODE_VALIDATION_CHECK(this, get_input_element_type(i) == type && get_input_partial_shape(i).compatible(shape),
                            "the inputs must be of one type and shape");
      ov::PartialShape::merge_into(shape, get_input_partial_shape(i));
    }
    NODE_VALIDATION_CHECK(this, type.is_dynamic() || element_of(type) != kElementTypes, "has no kernel for ", type);
    if (shape.rank().is_static()) {
      const auto rank = static_cast<size_t>(pooled.rank);
      NODE_VALIDATION_CHECK(this, shape.size() == rank + 2, "the input has ", shape.size(), " axes, expected ", rank + 2);
      std::vector<ov::Dimension> sizes(shape.begin(), shape.end());
      for (size_t i = 0; i < rank; ++i) sizes[2 + i] = pooled_size(pooled.axis[i], sizes[2 + i]);
      shape = ov::PartialShape(sizes);
    }
    set_output_type(0, type, shape);
  }

  bool has_evaluate() const override { return true; }

  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    const Window pooled = window();
    const Shape in = shape_of(inputs[0]);
    Shape out;
    Message why;
    OPENVINO_ASSERT(output_shape(pooled, in, &out, &why), who(), why.text());
    const void* data[2] = {};
    for (size_t i = 0; i < inputs.size(); ++i) {
      OPENVINO_ASSERT(same_shape(in, shape_of(inputs[i]), &why), who(), why.text());
      data[i] = inputs[i].data();
    }
    outputs[0].set_shape(ov::Shape(out.dims, out.dims + out.rank));
    const Plan plan = make_plan(pooled, in, out);
    const ElementType element = element_of(inputs[0].get_element_type());
    OPENVINO_ASSERT(element != kElementTypes, who(), "no kernel for ", inputs[0].get_element_type());
    if (plan.planes > 0) run(kernel_named(get_type_name()).of[element], plan, data, outputs[0].data());
    return true;
  }

 protected:
  Pooling() = default;
  Pooling(const ov::OutputVector& inputs, Attributes attributes) : Op(inputs), attributes_(std::move(attributes)) {}

  Attributes attributes_;

 private:
  std::string who() const { return std::string(get_type_name()) + " node '" + get_friendly_name() + "': "; }

  // Throws the reason where the attributes are wrong.
  Window window() const {
    Window read;
    Message why;
    OPENVINO_ASSERT(read_window(attributes_, &read, &why), who(), why.text());
    return read;
  }

  ov::Dimension pooled_size(const Axis& axis, const ov::Dimension& size) const {
    if (size.is_static()) {
      const int64_t n = size.get_length(), cells = axis.output(n);
      NODE_VALIDATION_CHECK(this, n >= 1 && cells >= 1 && !axis.misses(n), n, " cells are too few for a window that spans ",
                            axis.extent, " positions ", axis.dilation, " apart with padding ", axis.pad);
      return cells;
    }
    const auto bounded = [&](int64_t n) { return n < 1 ? int64_t{0} : std::max(int64_t{0}, axis.output(n)); };
    const int64_t most = size.get_max_length();  // -1: no bound
    return {bounded(size.get_min_length()), most < 0 ? most : bounded(most)};
  }
};

template <class Operator>
class Named : public Pooling {
 public:
  Named() = default;
  Named(const ov::OutputVector& inputs, Attributes attributes) : Pooling(inputs, std::move(attributes)) {}

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    return made(inputs, attributes_);
  }

  // From a node of an ONNX model.
  static ov::OutputVector convert(const ov::frontend::NodeContext& context) {
    const auto refuse = [&](const std::string& what) {
      OPENVINO_THROW(Operator::get_type_info_static().name, " node '", context.get_name(), "': ", what);
    };
    for (const char* name : kForeignAttributes) {
      if (context.has_attribute(name)) refuse(std::string("attribute ") + name + " is unknown");
    }
    const auto integers = [&](const char* name) { return context.get_attribute<Integers>(name, Integers()); };
    if (!context.has_attribute("ceil_mode")) refuse("attribute ceil_mode is missing");
    Attributes attributes{integers("kernel_shape"), integers("strides"), integers("pads"), integers("dilations"),
                          context.get_attribute<int64_t>("ceil_mode")};
    ov::OutputVector inputs;
    for (size_t i = 0; i < context.get_input_size(); ++i) inputs.push_back(context.get_input(static_cast<int>(i)));
    const auto node = made(inputs, attributes, context.get_name());
    node->get_rt_info()["onnxpool_node"] = context.get_name();  // OpenVINO calls a node by its output
    return node->outputs();
  }

  // For the file formats of OpenVINO and of ONNX.
  static void extend(std::vector<ov::Extension::Ptr>* extensions) {
    const char* const name = Operator::get_type_info_static().name;
    extensions->push_back(std::make_shared<ov::OpExtension<Operator>>());
    extensions->push_back(std::make_shared<ov::frontend::onnx::ConversionExtension>(name, kDomain, convert));
  }

 private:
  static std::shared_ptr<Operator> made(const ov::OutputVector& inputs, const Attributes& attributes,
                                        const std::string& name = "") {
    const auto node = std::make_shared<Operator>(inputs, attributes);
    if (!name.empty()) node->set_friendly_name(name);
    node->constructor_validate_and_infer_types();
    return node;
  }
};

class SoftPool : public Named<SoftPool> {
 public:
  OPENVINO_OP("SoftPool", "onnxpool", Pooling);
  using Named::Named;
};

class LocalImportancePool : public Named<LocalImportancePool> {
 public:
  OPENVINO_OP("LocalImportancePool", "onnxpool", Pooling);
  using Named::Named;
};

class StochasticPool : public Named<StochasticPool> {
 public:
  OPENVINO_OP("StochasticPool", "onnxpool", Pooling);
  using Named::Named;
};

std::vector<ov::Extension::Ptr> extensions() {
  kernels();  // so that add_extension fails where there are none, and not the first model
  std::vector<ov::Extension::Ptr> made;
  SoftPool::extend(&made);
  LocalImportancePool::extend(&made);
  StochasticPool::extend(&made);
  return made;
}

}  // namespace
}  // namespace onnxpool

OPENVINO_CREATE_EXTENSIONS(onnxpool::extensions())
