// What marks a function that the library shows; exports.map and exports.txt list their names.
#pragma once

#if defined(_WIN32)
#define ONNXPOOL_EXPORT __declspec(dllexport)
#else
#define ONNXPOOL_EXPORT __attribute__((visibility("default")))
#endif
