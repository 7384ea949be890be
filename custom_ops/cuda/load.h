// Loads libonnxpool_cuda.so from the folder of the library that this is compiled into.
#pragma once

#include "library.h"

#if defined(__linux__)
#include <dlfcn.h>

#include <cstring>
#endif

namespace onnxpool {

// The CUDA kernels, or null and the reason. Once loaded they stay: sessions keep pointers into them.
inline const CudaLibrary* load_cuda(Message* why) {
#if defined(__linux__)
  Dl_info own;
  static const char here = 0;
  const char* const slash = dladdr(&here, &own) != 0 ? std::strrchr(own.dli_fname, '/') : nullptr;
  const int folder = slash != nullptr ? static_cast<int>(slash - own.dli_fname) : 1;
  Message path;
  path.add("%.*s/libonnxpool_cuda.so", folder, slash != nullptr ? own.dli_fname : ".");
  void* const library = dlopen(path.text(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    why->add("%s", dlerror());
    return nullptr;
  }
  const auto get = reinterpret_cast<GetCudaLibrary>(dlsym(library, "OnnxpoolCuda"));
  const CudaLibrary* const cuda = get != nullptr ? get() : nullptr;
  if (cuda != nullptr && cuda->version == kCudaVersion) return cuda;
  why->add("%s is of another build", path.text());
#else
  why->add("there are CUDA kernels on Linux only");
#endif
  return nullptr;
}

}  // namespace onnxpool
