"""The package of a model for another server, or for OpenVINO: what each target takes, and what it needs.

>>> package("network.onnx", "repository", "triton", max_batch=8).files  # doctest: +SKIP
('network/1/libonnxpool.so', 'network/1/model.golden.npz', 'network/1/model.onnx', 'network/config.pbtxt', ...)
"""

import inspect
import os
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

from onnxpool.deploy import kserve, openvino, triton
from onnxpool.deploy.triton import Package
from onnxpool.errors import ArgumentError

Target: TypeAlias = Literal["triton", "kserve", "openvino"]


def package(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    target: Target,
    *,
    name: str | None = None,
    native: bool | None = None,
    max_batch: int | None = None,
    delay_s: float | None = None,
    root: str | None = None,
    storage: str | None = None,
    min_replicas: int | None = None,
    max_replicas: int | None = None,
    instances: int | None = None,
    threads: int | None = None,
    cuda: bool | None = None,
    cpus: int | None = None,
    memory_gb: int | None = None,
) -> Package:
    """Write what the server or program ``target`` needs to run ``model`` into ``folder``.

    Options are those of :func:`onnxpool.deploy.triton.package`, :func:`onnxpool.deploy.kserve.package` and
    :func:`onnxpool.deploy.openvino.package`; None leaves one out. ``root`` is for Triton alone; ``storage``, which
    KServe needs, and the numbers of replicas, processors and memory for KServe; OpenVINO takes ``name`` and ``native``.

    Raises :class:`ArgumentError` for an option that this target does not take, and what its own ``package`` raises.
    """
    makers: dict[str, Callable[..., Package]] = {
        "triton": triton.package,
        "kserve": kserve.package,
        "openvino": openvino.package,
    }
    if target not in makers:
        raise ArgumentError(f"target={target!r} is unknown; use one of {', '.join(get_args(Target))}")
    make = makers[target]
    taken = inspect.signature(make).parameters
    options: dict[str, Any] = {
        "name": name,
        "native": native,
        "max_batch": max_batch,
        "delay_s": delay_s,
        "root": root,
        "storage": storage,
        "min_replicas": min_replicas,
        "max_replicas": max_replicas,
        "instances": instances,
        "threads": threads,
        "cuda": cuda,
        "cpus": cpus,
        "memory_gb": memory_gb,
    }
    given = {option: value for option, value in options.items() if value is not None}
    for option, value in given.items():
        if option not in taken:
            raise ArgumentError(f"{option}={value!r} is not for target={target!r}")
    if "storage" in taken and "storage" not in given:
        raise ArgumentError(
            f"storage is missing; target={target!r} needs it: the URI that the models will be copied to"
        )
    return make(model, folder, **given)
