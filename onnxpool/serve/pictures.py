"""A picture through a model, for the page at ``/``: the best classes, and what each pooling of the model did.

    POST /v1/models/NAME/picture[?size=HEIGHTxWIDTH]
        the picture's bytes -> classes, time, size, and maps before and after each pooling

A picture is prepared as ``onnxpool predict`` does it, so that both give the same classes: scaled to the model's size,
or for a model that takes any to the size that is asked for, or left as it is. The answer's classes and time are those
of the session that serves. Maps come from a second session of the same file, made at the first picture, which has
poolings' inputs and outputs among its outputs: for a few poolings, the channels that differ most from place to place,
scaled down, as bytes between the channel's least and largest value.
"""

import asyncio
import base64
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from onnxpool.errors import OnnxpoolError
from onnxpool.graph import forms
from onnxpool.run import session
from onnxpool.run.picture import Preparation, number_of_pixels
from onnxpool.run.predict import Reader
from onnxpool.serve import bodies
from onnxpool.serve.limits import Refusal
from onnxpool.serve.patience import NO_ANSWER, Patience
from onnxpool.serve.repository import Served
from onnxpool.serve.responses import answer
from onnxpool.serve.service import Service
from onnxpool.serve.tensors import Tensors

Result = TypeVar("Result")

MOST_PIXELS = 1 << 20
"""Of the picture, for models that take any size: every map between two layers grows with it."""

_POOLINGS, _CHANNELS, _PIXELS = 12, 8, 64  # what one page shows well
_STANDARD = ("MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool")


@dataclass(frozen=True)
class Pool:
    """A pooling of the model, ours or a standard operator, by the names of what it takes and gives."""

    node: str
    operator: str
    before: str
    after: str


@dataclass(frozen=True)
class Look:
    """What is made of one model at its first picture."""

    reader: Reader
    pools: tuple[Pool, ...]
    session: session.Session


class Pictures:
    """The endpoint over one service; one picture at a time, since it may be large when it is decoded.

    What is done with a picture goes on where its client no longer waits, and the next one waits for that: so there is
    one thread for it.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self._looks: WeakKeyDictionary[Served, Look] = WeakKeyDictionary()
        self._one = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="onnxpool-picture")

    def routes(self) -> list[Route]:
        """What the application mounts."""
        return [Route("/v1/models/{name}/picture", self.picture, methods=["POST"])]

    async def picture(self, request: Request) -> Response:
        """Answer one picture; refuses (422) what is none, and a model that takes none."""
        with self.service.counted("page") as found, self.service.holding() as held:
            body = await bodies.read(request, self.service.options, held)
            size = _size(request.query_params.get("size"))
            served = found(self.service.repository.get(request.path_params["name"]))
            with Patience() as patience:
                patience.allow(self.service.options.timeout_s, 504, NO_ANSWER)
                try:
                    async with self._one:
                        return answer(await self._answer(served, body, size, patience))
                except Refusal:
                    raise
                except OnnxpoolError as error:
                    raise Refusal(422, str(error)) from error

    async def _answer(
        self, served: Served, body: bytes, size: tuple[int, int] | None, patience: Patience
    ) -> dict[str, Any]:
        look = await self._apart(self._look, served)
        preparation = Preparation.of(served.session.inputs, size=size)
        feeds = await self._apart(_feeds, preparation, body)
        start_s = time.perf_counter()
        outputs = await self.service.infer(served, feeds, patience)
        return {
            "model": served.name,
            "time_s": time.perf_counter() - start_s,
            "size": preparation.size_of(feeds[preparation.name]),
            "outputs": [asdict(output) for output in look.reader.read(outputs)],
            "poolings": await self._apart(_maps, look, feeds),
        }

    async def _apart(self, work: Callable[..., Result], *given: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *given))

    def _look(self, served: Served) -> Look:
        if served not in self._looks:
            file = self.service.repository.file(served)
            if file is None:
                raise Refusal(422, f"the file of {served.name!r} is another than the one that is served; load it first")
            self._looks[served] = look(file, served, self.service)
        return self._looks[served]


def look(file: Path, served: Served, service: Service) -> Look:
    """The second session of a model, and how its outputs are read."""
    Preparation.of(served.session.inputs)  # refuses a model that takes none
    model = forms.read(file).clone()
    pools = poolings(model)[:_POOLINGS]
    shown = {value.name for value in model.graph.outputs}
    values = {value.name: value for node in model.graph for value in node.outputs}
    for name in dict.fromkeys(name for pool in pools for name in (pool.before, pool.after)):
        if name in values and name not in shown:
            model.graph.outputs.append(values[name])
    options = service.options
    running = session.load(model, runtime=options.runtime, kernels=options.kernels, threads=options.session_threads)
    return Look(Reader(file), tuple(pools), running)


def _size(text: str | None) -> tuple[int, int] | None:
    if not text:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text)
    if not found or int(found[1]) * int(found[2]) > MOST_PIXELS:
        raise Refusal(422, f"size={text!r:.40} must be HEIGHTxWIDTH, such as 224x224, of {MOST_PIXELS} pixels at most")
    return int(found[1]), int(found[2])


def _feeds(preparation: Preparation, body: bytes) -> Tensors:
    """The picture as an array; one that would keep its own size must not be large."""
    pixels = number_of_pixels(body) if preparation.size is None else 0
    if pixels > MOST_PIXELS:
        raise Refusal(422, f"the picture has {pixels} pixels; a model of any size is shown {MOST_PIXELS}: give a size")
    return preparation.feeds(body)


def poolings(model: ir.Model) -> list[Pool]:
    """Every pooling of the main graph, in the order of execution, in any form of the model."""
    ours = {
        node.outputs[0]: Pool(node.name, node.op_type, node.inputs[0], node.outputs[0])
        for node in forms.pool_nodes(model)
    }
    found = []
    for node in model.graph:
        name = str(node.outputs[0].name)
        if name in ours:
            found.append(ours[name])
        elif node.domain == "" and node.op_type in _STANDARD:
            found.append(Pool(node.name or "", node.op_type, str(node.inputs[0].name), name))  # type: ignore[union-attr]
    return found


def _maps(look: Look, feeds: Tensors) -> list[dict[str, Any]]:
    """Each pooling whose input and output have rows and columns."""
    maps: list[dict[str, Any]] = []
    values = {**feeds, **look.session.run(feeds)} if look.pools else {}
    for pool in look.pools:
        before, after = values.get(pool.before), values.get(pool.after)
        if before is None or after is None or before.ndim != 4 or after.ndim != 4:
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            spread = np.nan_to_num(before[0].astype(np.float64).std(axis=(1, 2)))
        channels = np.argsort(-spread, kind="stable")[:_CHANNELS]
        shown = [{"channel": int(i), "before": _map(before[0, i]), "after": _map(after[0, i])} for i in channels]
        shapes = {"before": before.shape, "after": after.shape}
        maps.append({"node": pool.node, "operator": pool.operator, **shapes, "channels": shown})
    return maps


def _map(plane: NDArray[Any]) -> dict[str, Any]:
    """A plane as bytes from its least to its largest value, at most so many pixels high and wide; NaN is 0."""
    plane = plane[:: -(-plane.shape[0] // _PIXELS), :: -(-plane.shape[1] // _PIXELS)].astype(np.float64)
    finite = plane[np.isfinite(plane)]
    least, largest = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    scaled = (np.clip(plane, least, largest) - least) / ((largest - least) or 1)
    data = np.nan_to_num(scaled * 255).round().astype(np.uint8)
    return {
        "rows": data.shape[0],
        "columns": data.shape[1],
        "least": float(least),
        "largest": float(largest),
        "data": base64.b64encode(data.tobytes()).decode(),
    }
