// What the library exports: RegisterCustomOps for ONNX Runtime, and the kernels alone for other hosts. Between ONNX Runtime
// and the kernels stands the operator object: it reads attributes when a model loads, infers shapes, and splits each run
// over the session's threads.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

#if !defined(_WIN32)
#include <unistd.h>
#endif

#include "cuda/load.h"
#include "exported.h"
#include "instruction_sets.h"
#include "operators.h"
#include "quantized.h"

namespace onnxpool {

std::atomic<const OrtApi*> served{nullptr};

namespace {

// Of blocks of channels: what ONNX Runtime calls com.microsoft.nchwc.
constexpr char kDomain[] = "onnxpool", kBlocksDomain[] = "onnxpool.nchwc", kCudaProvider[] = "CUDAExecutionProvider";
constexpr int kElement[kElementTypes] = {abi::kFloat, abi::kDouble, abi::kFloat16, abi::kBfloat16};

// Which pieces of scratch memory are free, at most 64. Who finds none waits for one: there are as many as processors.
class Pieces {
 public:
  explicit Pieces(int64_t count) : free_(count >= kMost ? ~uint64_t{0} : (uint64_t{1} << count) - 1) {}

  static int64_t most() {
#if defined(_WIN32)
    return kMost;
#else
    static std::atomic<int64_t> known{0};  // asking takes longer than pooling a small tensor
    int64_t count = known.load(std::memory_order_relaxed);
    if (count == 0) {
      const auto processors = static_cast<int64_t>(sysconf(_SC_NPROCESSORS_ONLN));
      count = processors >= 1 && processors < kMost ? processors : kMost;
      known.store(count, std::memory_order_relaxed);
    }
    return count;
#endif
  }

  int64_t take() {
    for (;;) {
      uint64_t free = free_.load(std::memory_order_relaxed);
      const uint64_t lowest = free & (~free + 1);
      if (free == 0 || !free_.compare_exchange_weak(free, free & ~lowest, std::memory_order_acquire)) continue;
      int64_t index = 0;
      while ((lowest >> index) > 1) ++index;
      return index;
    }
  }
  void give_back(int64_t index) { free_.fetch_or(uint64_t{1} << index, std::memory_order_release); }

 private:
  static constexpr int64_t kMost = 64;
  std::atomic<uint64_t> free_;
};

// One node of one session.
struct Node {
  Ort ort;
  const Kernel& kernel;
  ElementType element;
  const CudaLibrary* cuda;  // null: on the CPU
  Window window;
  int64_t block;  // channels beside each other, or 1
  char name[128];

  Message who() const { return Message().add("%s node '%s': ", kernel.name, name); }

  OrtStatus* compute(OrtKernelContext* context) const {
    const void* inputs[2] = {};
    Shape in, out;
    const OrtMemoryInfo* memory = nullptr;
    Message why = who();
    ORT_TRY(input_tensor(ort, context, 0, &in, &inputs[0], &memory));
    if (!output_shape(window, in, &out, &why)) return ort.invalid(why);
    for (size_t i = 1; i < kernel.inputs; ++i) {
      Shape other;
      ORT_TRY(input_tensor(ort, context, i, &other, &inputs[i], &memory));
      if (!same_shape(in, other, &why)) return ort.invalid(why);
    }
    if (in.dims[1] % block != 0) {
      why.add("the input of shape ").add(in.dims, in.rank);
      return ort.invalid(why.add(" has no whole number of blocks of %d channels", static_cast<int>(block)));
    }
    void* output = nullptr;
    ORT_TRY(output_tensor(ort, context, 0, out, &output));
    Plan plan = make_plan(window, in, out);
    plan.block = block;
    if (plan.planes == 0) return nullptr;
    if (cuda != nullptr) return start(context, in, out, inputs, output);
    return run(context, plan, inputs, output, memory);
  }

  // On ONNX Runtime's stream, without waiting: CUDA graphs can capture it.
  OrtStatus* start(OrtKernelContext* context, const Shape& in, const Shape& out, const void* const* inputs,
                   void* output) const {
    void* stream = nullptr;
    char why[512] = "";
    ORT_TRY(ort.KernelContext_GetGPUComputeStream(context, &stream));
    if (cuda->launch(kernel.name, element, &window, &in, &out, inputs, output, stream, why, sizeof why) == 0)
      return nullptr;
    return ort.CreateStatus(abi::kFail, who().add("%s", why).text());
  }

  // Threads hold a piece of scratch memory for each task, the lowest that is free: one thread alone always has the same,
  // which then is in its cache.
  OrtStatus* run(OrtKernelContext* context, const Plan& plan, const void* const* inputs, void* output,
                 const OrtMemoryInfo* memory) const {
    const ElementKernel& element_kernel = kernel.of[element];
    const Schedule schedule = element_kernel.schedule(plan);
    const size_t piece = (schedule.scratch_bytes + 63) / 64 * 64, shared_bytes = (schedule.shared_bytes + 63) / 64 * 64;
    const int64_t pieces = piece == 0 ? 0 : schedule.tasks < Pieces::most() ? schedule.tasks : Pieces::most();
    Scratch scratch(ort);
    unsigned char* start = nullptr;
    if (pieces > 0 || shared_bytes > 0) {
      ORT_TRY(scratch.allocate(context, memory, shared_bytes + piece * static_cast<size_t>(pieces) + 64));
      start = reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(scratch.start()) + 63) / 64 * 64);
    }
    Pieces free(pieces);
    auto body = [&](int64_t index) noexcept {
      const int64_t own = pieces > 0 ? free.take() : 0;
      void* const own_scratch = start + shared_bytes + piece * static_cast<size_t>(own);
      element_kernel.task(plan, schedule, inputs, output, index, own_scratch, start);
      if (pieces > 0) free.give_back(own);
    };
    ORT_TRY(parallel_for(ort, context, schedule.tasks, body));
    if (shared_bytes > 0) element_kernel.finish(plan, schedule, inputs, output, start);
    return nullptr;
  }
};

// One operator and element type. These live as long as the process: sessions keep pointers to them.
struct Operator : abi::CustomOp {
  const Kernel* kernel = nullptr;
  ElementType element = kF32;
  const CudaLibrary* cuda = nullptr;
  bool blocks = false;  // of channels, whose number is the attribute block_size

  static const Operator& self(const OrtCustomOp* op) {
    return *static_cast<const Operator*>(reinterpret_cast<const abi::CustomOp*>(op));
  }

  void fill(const Kernel& k, ElementType e, const CudaLibrary* c, bool of_blocks) {
    kernel = &k;
    element = e;
    cuda = c;
    blocks = of_blocks;
    version = abi::kVersion;
    GetName = [](const OrtCustomOp* op) { return self(op).kernel->name; };
    GetExecutionProviderType = [](const OrtCustomOp* op) -> const char* {
      return self(op).cuda != nullptr ? kCudaProvider : nullptr;  // null is the CPU's
    };
    GetInputTypeCount = [](const OrtCustomOp* op) { return self(op).kernel->inputs; };
    GetInputType = [](const OrtCustomOp* op, size_t) { return kElement[self(op).element]; };
    GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
    GetOutputType = [](const OrtCustomOp* op, size_t) { return kElement[self(op).element]; };
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
    KernelComputeV2 = [](void* node, OrtKernelContext* context) { return static_cast<Node*>(node)->compute(context); };
    KernelDestroy = [](void* node) {
      static_cast<Node*>(node)->~Node();
      std::free(node);
    };
    InferOutputShapeFn = [](const OrtCustomOp*, OrtShapeInferContext* context) {
      return infer_shape(Ort(served.load(std::memory_order_acquire)), context, 2);
    };
  }

  OrtStatus* create(const Ort& ort, const OrtKernelInfo* info, void** out) const {
    void* const memory = std::malloc(sizeof(Node));
    if (memory == nullptr) return ort.CreateStatus(abi::kFail, "onnxpool: out of memory");
    auto* const node = new (memory) Node{ort, *kernel, element, cuda, {}, 1, ""};
    size_t bytes = sizeof node->name;
    if (!ort.succeeded(ort.KernelInfo_GetNodeName(info, node->name, &bytes))) node->name[0] = '\0';  // too long
    Message why = node->who();
    const KernelAttributes attributes{ort, info};
    bool good = read_window(attributes, &node->window, &why);
    for (const char* name : kForeignAttributes) {
      if (!good || !attributes.has(name)) continue;
      why.add("attribute %s is unknown; a pooling node has kernel_shape, strides, pads, dilations and ceil_mode", name);
      good = false;
    }
    if (good && blocks) good = read_block(attributes, node, &why);
    if (good) {
      *out = node;
      return nullptr;
    }
    KernelDestroy(node);
    return ort.invalid(why);
  }

  static bool read_block(const KernelAttributes& attributes, Node* node, Message* why) {
    const int64_t own = block_of_processor();
    if (node->window.rank != 2) {
      why->add("attribute kernel_shape has %d numbers; blocks of channels have 2 spatial axes",
               static_cast<int>(node->window.rank));
    } else if (!attributes.integer("block_size", &node->block) || node->block < 2 || node->block > kMostBlock) {
      why->add("attribute block_size is missing or is not an integer from 2 to %d", static_cast<int>(kMostBlock));
    } else if (own != 0 ? node->block != own : node->block % node->kernel.lanes != 0) {
      why->add("attribute block_size is %d, and this processor has other blocks: the model was optimised for another "
               "one; optimise it here", static_cast<int>(node->block));
    } else {
      return true;
    }
    return false;
  }

  static constexpr int64_t kMostBlock = 1024;
};

bool offers_cuda(const Ort& ort) {
  char** names = nullptr;
  int count = 0;
  if (!ort.succeeded(ort.GetAvailableProviders(&names, &count))) return false;
  bool found = false;
  for (int i = 0; i < count; ++i) found = found || std::strcmp(names[i], kCudaProvider) == 0;
  ort.succeeded(ort.ReleaseAvailableProviders(names, count));
  return found;
}

// The CUDA kernels where ONNX Runtime has a CUDA provider and the machine a device; else null. The environment variable
// ONNXPOOL_CUDA says 'off', or 'on': then they are registered in any case (for tests), and refused with the reason.
OrtStatus* choose_cuda(const Ort& ort, const CudaLibrary** cuda) {
  const char* const wanted = std::getenv("ONNXPOOL_CUDA");
  const bool any = wanted == nullptr || *wanted == '\0', on = !any && std::strcmp(wanted, "on") == 0;
  if (!any && !on && std::strcmp(wanted, "off") != 0) {
    return ort.invalid(Message().add("onnxpool: environment variable ONNXPOOL_CUDA is '%s'; use 'on' or 'off', or "
                                     "unset it", wanted));
  }
  if (!on && (!any || !offers_cuda(ort))) return nullptr;
  Message why;
  char no_device[512] = "";
  *cuda = load_cuda(&why.add("onnxpool: environment variable ONNXPOOL_CUDA is 'on', but "));
  if (on && *cuda == nullptr) return ort.invalid(why);
  if (!on && *cuda != nullptr && (*cuda)->devices(no_device, sizeof no_device) == 0) *cuda = nullptr;
  return nullptr;
}

// Made once, on the first registration, and never released: sessions refer to them for as long as they live.
struct Domains {
  OrtCustomOpDomain *own = nullptr, *of_blocks = nullptr;
};

OrtStatus* fill_domains(const Ort& ort, const Domains& domains) {
  constexpr size_t kEach = kMethods * kElementTypes;
  static Operator operators[2 * kEach];  // on the CPU, then on CUDA
  static Operator of_blocks[kMethods];
  const CudaLibrary* cuda = nullptr;
  Message why = Message().add("onnxpool: ");
  const Kernels* const kernels = choose_kernels(&why);
  if (kernels == nullptr) return ort.invalid(why);
  ORT_TRY(choose_cuda(ort, &cuda));
  for (size_t i = 0; i < (cuda != nullptr ? 2 * kEach : kEach); ++i) {
    const Kernel& kernel = *kernels->of[i % kEach / kElementTypes];
    operators[i].fill(kernel, static_cast<ElementType>(i % kElementTypes), i < kEach ? nullptr : cuda, false);
    ORT_TRY(add(ort, domains.own, operators[i]));
  }
  for (size_t i = 0; i < kMethods; ++i) {
    of_blocks[i].fill(*kernels->of[i], kF32, nullptr, true);
    ORT_TRY(add(ort, domains.of_blocks, of_blocks[i]));
  }
  return add_quantized(ort, kernels->quantized, domains.own);
}

OrtStatus* make_domains(const Ort& ort, Domains* out) {
  Domains fresh;
  OrtStatus* status = ort.CreateCustomOpDomain(kDomain, &fresh.own);
  if (status == nullptr) status = ort.CreateCustomOpDomain(kBlocksDomain, &fresh.of_blocks);
  if (status == nullptr) status = fill_domains(ort, fresh);
  if (status == nullptr) {
    *out = fresh;
    return nullptr;
  }
  if (fresh.own != nullptr) ort.ReleaseCustomOpDomain(fresh.own);
  if (fresh.of_blocks != nullptr) ort.ReleaseCustomOpDomain(fresh.of_blocks);
  return status;
}

OrtStatus* domains_of(const Ort& ort, Domains* out) {
  static Domains shared;
  static std::atomic_flag busy = ATOMIC_FLAG_INIT;
  while (busy.test_and_set(std::memory_order_acquire)) {
  }
  OrtStatus* const status = shared.own == nullptr ? make_domains(ort, &shared) : nullptr;
  *out = shared;
  busy.clear(std::memory_order_release);
  return status;
}

OrtStatus* register_operators(OrtSessionOptions* options, const abi::ApiBase* base) {
  const OrtApi* const table = base->GetApi(abi::kVersion);
  if (table == nullptr) {
    const Ort oldest(base->GetApi(1));  // every release serves the first version, and CreateStatus is in it
    return oldest.CreateStatus(abi::kFail, Message().add("onnxpool: this is ONNX Runtime %s, and the library needs 1.%u "
                                                         "or newer; upgrade onnxruntime, or run the model without the "
                                                         "library", base->GetVersionString(), abi::kVersion).text());
  }
  const Ort ort(table);
  const OrtApi* before = nullptr;
  if (!served.compare_exchange_strong(before, table) && before != table) {
    return ort.CreateStatus(abi::kFail, "onnxpool: the library already serves another copy of ONNX Runtime in this "
                                        "process; use one copy");
  }
  Domains domains;
  ORT_TRY(domains_of(ort, &domains));
  ORT_TRY(ort.AddCustomOpDomain(options, domains.own));
  return ort.AddCustomOpDomain(options, domains.of_blocks);
}

}  // namespace
}  // namespace onnxpool

extern "C" ONNXPOOL_EXPORT OrtStatus* ONNXPOOL_ORT_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                          const OrtApiBase* base) {
  return onnxpool::register_operators(options, reinterpret_cast<const onnxpool::abi::ApiBase*>(base));
}

extern "C" ONNXPOOL_EXPORT const onnxpool::Kernel* const* OnnxpoolKernels(int version, char* why, size_t room) {
  onnxpool::Message told = onnxpool::Message().add("onnxpool: ");
  const onnxpool::Kernels* const kernels =
      version == onnxpool::kKernelsVersion ? onnxpool::choose_kernels(&told) : nullptr;
  if (version != onnxpool::kKernelsVersion) told.add("the library of kernels is of another build");
  if (kernels != nullptr) return kernels->of;
  std::snprintf(why, room, "%s", told.text());
  return nullptr;
}
