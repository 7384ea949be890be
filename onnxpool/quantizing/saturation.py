"""Whether ONNX Runtime adds products of 8-bit numbers rightly on this processor.

Where the processor has no instruction for four products at once (VNNI), ONNX Runtime multiplies uint8 activations by
int8 weights in pairs, whose sums are cut off at 16 bits: ``2 x 255 x 127`` becomes 32767. With uint8 weights nothing is
cut off.

Source: ONNX Runtime's page "Quantize ONNX models", on U8S8 and saturation.
"""

from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxpool.domain import IR_VERSION, OPSETS
from onnxpool.run.session import load

WHY = "this processor has no VNNI instructions: ONNX Runtime cuts sums of two products with int8 weights off at 16 bits"


@cache
def saturates() -> bool:
    """Whether int8 weights lead to other sums here than the file says."""
    cells = 64
    weight = numpy_helper.from_array(np.full((cells, 16), 127, np.int8), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, cells])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        [weight],
    )
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSETS[0])], ir_version=IR_VERSION
    )
    (y,) = load(model, kernels="off").run({"x": np.full((1, cells), 255, np.uint8)}).values()
    return bool((y != cells * 255 * 127).any())
