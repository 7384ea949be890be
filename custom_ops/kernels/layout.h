// Matrices in memory, rows to columns: how channels that stand last become planes, and planes channels that stand last.
#pragma once

#include <cstddef>
#include <cstdint>

namespace onnxpool {

// `to`, of `columns` rows, from `from`, of `rows` rows, both of numbers of so many bytes: 4 or 8. A part of it: the
// columns [begin, end) of `from`.
using Turn = void(size_t bytes, int64_t rows, int64_t columns, int64_t begin, int64_t end, const void* from, void* to);

// Columns that are turned together: a line of cache or more.
constexpr int64_t kTurned = 32;

namespace baseline {
Turn turn;
}
namespace avx2 {
Turn turn;
}
namespace avx512 {
Turn turn;
}

}  // namespace onnxpool
