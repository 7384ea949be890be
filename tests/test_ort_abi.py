"""Our declarations of ONNX Runtime's C ABI against its official header, wherever that is found.

A small program includes both and is only compiled: every slot, member, signature and constant is a `static_assert`.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CUSTOM_OPS = Path(__file__).parent.parent / "custom_ops"
HEADER = "onnxruntime_c_api.h"
USUAL_PLACES = (
    str(CUSTOM_OPS.parent / "build/onnxruntime_headers"),
    "/usr/include/onnxruntime",
    "/usr/include/onnxruntime/core/session",
    "/usr/local/include/onnxruntime",
    "/usr/local/include",
    "/opt/homebrew/include/onnxruntime",
)

PROGRAM = r"""
#include <cstddef>
#include <type_traits>
#include "onnxruntime_c_api.h"
#include "ort_abi.h"

// Enumerations are int on our side; `noexcept` is not part of the ABI.
template <class T> struct Plain { using type = std::conditional_t<std::is_enum_v<T>, int, T>; };
template <class T> struct Plain<T*> { using type = typename Plain<T>::type*; };
template <class T> struct Plain<const T*> { using type = const typename Plain<T>::type*; };
template <class R, class... A> struct Plain<R (*)(A...)> {
  using type = typename Plain<R>::type (*)(typename Plain<A>::type...);
};
template <class R, class... A> struct Plain<R (*)(A...) noexcept> : Plain<R (*)(A...)> {};
template <class A, class B>
constexpr bool same = std::is_same_v<typename Plain<A>::type, typename Plain<B>::type>;

namespace abi = onnxpool::abi;

#define SLOT(name, slot, result, arguments)                                             \
  static_assert(offsetof(OrtApi, name) == (slot) * sizeof(void*), #name " is elsewhere"); \
  static_assert(same<decltype(OrtApi::name), abi::Api::name##Function>, #name " differs");
ONNXPOOL_ORT_SLOTS(SLOT)

#define MEMBER(name, since, result, arguments)                                                          \
  static_assert(offsetof(OrtCustomOp, name) == offsetof(abi::CustomOp, name), #name " is elsewhere");   \
  static_assert(same<decltype(OrtCustomOp::name), decltype(abi::CustomOp::name)>, #name " differs");
ONNXPOOL_ORT_CUSTOM_OP_MEMBERS(MEMBER)

static_assert(offsetof(OrtCustomOp, version) == offsetof(abi::CustomOp, version));
static_assert(sizeof(OrtCustomOp) >= sizeof(abi::CustomOp));
static_assert(offsetof(OrtApiBase, GetApi) == offsetof(abi::ApiBase, GetApi));
static_assert(offsetof(OrtApiBase, GetVersionString) == offsetof(abi::ApiBase, GetVersionString));
static_assert(same<decltype(OrtApiBase::GetApi), decltype(abi::ApiBase::GetApi)>);
static_assert(same<decltype(OrtApiBase::GetVersionString), decltype(abi::ApiBase::GetVersionString)>);

static_assert(int{ORT_FAIL} == abi::kFail && int{ORT_INVALID_ARGUMENT} == abi::kInvalidArgument);
static_assert(int{ORT_OP_ATTR_INT} == abi::kAttributeInt && int{ORT_OP_ATTR_INTS} == abi::kAttributeInts);
static_assert(int{ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT} == abi::kFloat);
static_assert(int{ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8} == abi::kUint8);
static_assert(int{ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8} == abi::kInt8);
static_assert(int{ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16} == abi::kFloat16);
static_assert(int{ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE} == abi::kDouble);
static_assert(int{ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16} == abi::kBfloat16);
static_assert(int{INPUT_OUTPUT_REQUIRED} == 0 && int{OrtMemTypeDefault} == 0);  // what library.cc answers
"""


def header_folder():
    given = os.environ.get("ONNXRUNTIME_INCLUDE_DIR")
    folders = [Path(given)] if given else [Path(place) for place in USUAL_PLACES]
    found = next((folder for folder in folders if (folder / HEADER).is_file()), None)
    if found is None and given:
        pytest.fail(f"ONNXRUNTIME_INCLUDE_DIR={given} holds no {HEADER}; unset it, or give the header's folder")
    if found is None:
        pytest.skip(
            f"no {HEADER} on this machine; install Debian 13's libonnxruntime-dev, or unpack it with dpkg -x, "
            "and set ONNXRUNTIME_INCLUDE_DIR to the folder of the header"
        )
    return found


def compiled(program, folder):
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler on this machine; install one, or name it in CXX")
    command = [compiler, "-std=c++17", "-fsyntax-only", f"-I{folder}", f"-I{CUSTOM_OPS}", "-x", "c++", "-"]
    return subprocess.run(command, input=program, text=True, capture_output=True, check=False)


def test_every_slot_and_member_is_where_the_official_header_has_it():
    result = compiled(PROGRAM, header_folder())
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("ours", "wrong", "complaint"),
    [
        ("SLOT(GetDimensions, 62", "SLOT(GetDimensions, 63", "GetDimensions is elsewhere"),
        ("(OrtValue * value, void** out)", "(OrtValue * value, char** out)", "GetTensorMutableData differs"),
        ("MEMBER(GetName, 1,", "MEMBER(GetVersion, 1,", "GetVersion"),
        ("uint32_t version = 0;", "uint32_t version = 0; void* extra = nullptr;", "CreateKernel is elsewhere"),
        ("kBfloat16 = 16", "kBfloat16 = 15", "static assertion failed"),
    ],
)
def test_the_comparison_sees_a_fault(ours, wrong, complaint, tmp_path):
    folder = header_folder()
    text = (CUSTOM_OPS / "ort_abi.h").read_text()
    assert ours in text
    (tmp_path / "ort_abi.h").write_text(text.replace(ours, wrong))
    result = compiled(PROGRAM.replace('"ort_abi.h"', f'"{tmp_path}/ort_abi.h"'), folder)
    assert result.returncode != 0
    assert complaint in result.stderr
