# The extension for OpenVINO is compiled where OpenVINO is, by onnxpool/openvino.py, from these sources. Its list of them
# is the same.
install(FILES ort.h ort_abi.h DESTINATION onnxpool/lib/sources)
install(FILES kernels/geometry.h kernels/kernel.h DESTINATION onnxpool/lib/sources/kernels)
install(FILES openvino/extension.cc DESTINATION onnxpool/lib/sources/openvino)

# A wheel may bring it along for the release that ONNXPOOL_OPENVINO has: the folder of OpenVINO's Python package.
set(ONNXPOOL_OPENVINO "" CACHE PATH "Folder of the Python package openvino, to build its extension too")
if(ONNXPOOL_OPENVINO)
  file(GLOB ONNXPOOL_OPENVINO_LIBRARY ${ONNXPOOL_OPENVINO}/libs/libopenvino.so.*)
  file(GLOB ONNXPOOL_OPENVINO_TBB ${ONNXPOOL_OPENVINO}/libs/libtbb.so.*)
  if(NOT ONNXPOOL_OPENVINO_LIBRARY OR NOT ONNXPOOL_OPENVINO_TBB OR NOT IS_DIRECTORY ${ONNXPOOL_OPENVINO}/include)
    message(FATAL_ERROR "ONNXPOOL_OPENVINO: ${ONNXPOOL_OPENVINO} is not the folder of the Python package openvino")
  endif()
  get_filename_component(release ${ONNXPOOL_OPENVINO_LIBRARY} LAST_EXT)
  add_library(onnxpool_openvino MODULE openvino/extension.cc)
  set_target_properties(onnxpool_openvino PROPERTIES
    CXX_STANDARD 17 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF
    CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON SUFFIX .so${release})
  target_include_directories(onnxpool_openvino SYSTEM PRIVATE ${ONNXPOOL_OPENVINO}/include)
  target_compile_options(onnxpool_openvino PRIVATE -Wall -Wextra -Wconversion -Wsign-conversion -Wshadow
    $<$<BOOL:${ONNXPOOL_WERROR}>:-Werror>)
  target_link_options(onnxpool_openvino PRIVATE "LINKER:--no-undefined" "LINKER:-z,relro,-z,now")
  target_link_libraries(onnxpool_openvino PRIVATE
    ${ONNXPOOL_OPENVINO_LIBRARY} ${ONNXPOOL_OPENVINO_TBB} ${CMAKE_DL_LIBS})
  # The libraries are in the process already when OpenVINO loads this one: no path of this machine is to be in it.
  set_target_properties(onnxpool_openvino PROPERTIES SKIP_BUILD_RPATH ON)
  install(TARGETS onnxpool_openvino LIBRARY DESTINATION onnxpool/lib)
endif()
