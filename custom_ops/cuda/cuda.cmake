# The library `onnxpool_cuda`. It holds CUDA's runtime, so that nothing of CUDA need be installed but the driver;
# `onnxpool` loads it where there is a device. Code for each generation since 2018, and portable code (PTX) for those to
# come.
set(ONNXPOOL_CUDA_ARCHITECTURES "75-real;80-real;86-real;89-real;90-real;90-virtual" CACHE STRING
  "Architectures of the CUDA kernels, as CMAKE_CUDA_ARCHITECTURES has them")

if(NOT ONNXPOOL_CUDA STREQUAL "AUTO" AND NOT ONNXPOOL_CUDA)
  return()
endif()

set(missing "")
if(NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
  set(missing "they are built on Linux only")
elseif(ONNXPOOL_SANITIZE)
  set(missing "sanitizers are for the CPU")
else()
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(missing "no working nvcc was found; install CUDA 11.8 or newer, or name its nvcc in CUDACXX")
  else()
    set(CMAKE_CUDA_ARCHITECTURES 75)  # else the language is tried out for a default of CMake's
    enable_language(CUDA)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 11.8)
      set(missing "nvcc ${CMAKE_CUDA_COMPILER_VERSION} is too old; install CUDA 11.8 or newer")
    endif()
  endif()
endif()
if(missing AND ONNXPOOL_CUDA STREQUAL "AUTO")
  message(STATUS "No CUDA kernels: ${missing}")
  return()
elseif(missing)
  message(FATAL_ERROR "ONNXPOOL_CUDA is ${ONNXPOOL_CUDA}, but: ${missing}")
endif()
# An older nvcc does not know the newest ones, a newer one has dropped the oldest.
execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-arch OUTPUT_VARIABLE known)
set(wanted "")
foreach(architecture IN LISTS ONNXPOOL_CUDA_ARCHITECTURES)
  string(REGEX MATCH "^[0-9]+" number ${architecture})
  if(known MATCHES "compute_${number}\n")
    list(APPEND wanted ${architecture})
  endif()
endforeach()
list(JOIN wanted ", " architectures)
message(STATUS "CUDA kernels by nvcc ${CMAKE_CUDA_COMPILER_VERSION} for ${architectures}")

add_library(onnxpool_cuda SHARED
  cuda/library.cc cuda/soft.cu cuda/local_importance.cu cuda/stochastic.cu cuda/gradient.cu)
set_target_properties(onnxpool_cuda PROPERTIES
  CXX_STANDARD 17 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON
  CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
  POSITION_INDEPENDENT_CODE ON CUDA_ARCHITECTURES "${wanted}" CUDA_RUNTIME_LIBRARY Static)
target_include_directories(onnxpool_cuda SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
target_compile_definitions(onnxpool_cuda PRIVATE
  ONNXPOOL_CUDA_ARCHITECTURES="${architectures}")
set(warnings -Wall -Wextra -Wconversion -Wsign-conversion -Wshadow)
set(plain -fno-exceptions -fno-rtti)
target_compile_options(onnxpool_cuda PRIVATE
  "$<$<COMPILE_LANGUAGE:CXX>:${warnings};${plain};$<$<BOOL:${ONNXPOOL_WERROR}>:-Werror>>"
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xfatbin=-compress-all;-Xcompiler=-Wall,-Wextra;$<$<BOOL:${ONNXPOOL_WERROR}>:-Werror=all-warnings>>")
target_link_options(onnxpool_cuda PRIVATE
  "LINKER:--version-script=${CMAKE_CURRENT_SOURCE_DIR}/cuda/exports.map" "LINKER:--as-needed" "LINKER:-z,relro,-z,now"
  "LINKER:--no-undefined" -static-libgcc -static-libstdc++)
install(TARGETS onnxpool_cuda LIBRARY DESTINATION onnxpool/lib)
