"""A lifted ONNX model is compared with the ONNX model it was made of, before it is given to anybody.

(:mod:`onnxpool.network.prove` compares an exported model with its PyTorch module.)
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxpool.errors import FormError, OnnxpoolError
from onnxpool.golden import bounds, collect, from_function
from onnxpool.golden.file import Golden
from onnxpool.golden.inputs import Feeds
from onnxpool.lifting.sizes import resized
from onnxpool.lifting.tracing import attempt
from onnxpool.run.session import Session, load


def prove(original: ir.Model, lifted: ir.Model) -> str:
    """What the lifted model agrees with.

    The float64 judge comes first; where it cannot judge, or differs (onnx's evaluator has errors of its own), the
    original in ONNX Runtime decides.
    """
    from onnxpool.golden import from_model  # brings onnx's evaluator, which nothing else here needs

    session = load(lifted, kernels="off")
    faults = []
    for referee in (partial(from_model.record, roundings=2), _runtime):
        goldens = []
        try:
            goldens.append(referee(original))
        except OnnxpoolError as error:
            faults.append(str(error))
        goldens += _at_other_sizes(original, referee)
        differences = [difference for one in goldens for difference in _differences(session, one)]
        if goldens and not differences:
            cases = sum(len(one.cases) for one in goldens)
            return f"equal to {goldens[0].source} in {cases} cases, wherever that is finite"
        faults += [f"{goldens[0].source}: {one}" for one in differences[:1]]
    raise FormError(
        f"the lifted model could not be shown to equal the original, so it is not given: {'; '.join(faults)}"
    )


def _at_other_sizes(original: ir.Model, referee: Callable[..., Golden]) -> Iterator[Golden]:
    """The answers to ordinary inputs of sizes that many windows divide, as far as the original takes them."""
    for fixed in resized(original):
        with suppress(OnnxpoolError):
            yield referee(fixed, only="ordinary")


_ORDINARY = ("ordinary", "image", "constant", "negative", "zeros", "batch", "sizes")
"""Cases in which float32 and float16 neither overflow nor underflow in the original."""


def _runtime(original: ir.Model, only: str | None = None) -> Golden:
    """The original model's own answers to ordinary inputs, in ONNX Runtime."""
    session = load(original, kernels="off")
    names = [info.name for info in session.outputs]
    dtypes = {info.name: info.dtype for info in session.inputs}

    def answer(feeds: Feeds) -> dict[str, Any]:
        own = {name: array.astype(dtypes[name]) for name, array in feeds.items()}
        return dict(zip(names, attempt(session, own), strict=True))

    golden = from_function.record(answer, original, only=only)
    ordinary = tuple(case for case in golden.cases if case.name.startswith(_ORDINARY))
    return replace(golden, source="the original in ONNX Runtime", cases=ordinary)


def _differences(session: Session, golden: Golden) -> Iterator[str]:
    """Where the lifted model is not what ``golden`` says, of the elements that are finite there.

    Inputs with NaN or infinity are left out: runtimes drop these from AveragePool, or clip them, each in its way. So
    are those too small for any window, of which a spelling may make nothing, where a pooling node refuses.
    """
    compared = 0
    for case in golden.cases:
        if not all(np.isfinite(array).all() for array in collect.widen(case.inputs).values()):
            continue
        if not any(answer.size for answer in case.answers.values()):
            continue
        outputs = session.run(case.inputs)
        for name, answer in case.answers.items():
            actual = outputs[name]
            if actual.shape != answer.shape:
                yield f"{name!r} has shape {actual.shape} in place of {answer.shape} in case {case.name!r}"
                continue
            finite = np.isfinite(answer) & np.isfinite(answer.astype(actual.dtype).astype(np.float64))
            bound = bounds.network(answer[finite], actual.dtype, case.yardstick[name], golden.yardstick)
            error = bounds.measure(actual[finite], answer[finite], bound.allowed)
            compared += int(finite.sum())
            if not error.within:
                odd = f", not finite in {error.nan + error.infinite} elements" if error.nan + error.infinite else ""
                yield f"{name!r} is off by {error.max_abs:.3g} of {error.allowed:.3g}{odd}, in case {case.name!r}"
    if not compared:
        yield "it gives nothing finite to compare with"
