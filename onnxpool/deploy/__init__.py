"""Validated models on other servers: packages for Triton and KServe, and applications for Ray.

    triton.py     a Triton model repository
    kserve.py     the same with KServe's manifest
    cluster.py    a Ray cluster, or one of this machine alone
    ray_app.py    the server's application in replicas of Ray Serve
    batch.py      folders of pictures and Parquet through Ray Data; shards.py what each output file answers, rows.py how

Modules are imported where they are used: none of these extras is needed by another.
"""

import inspect
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from onnxpool.errors import ArgumentError

if TYPE_CHECKING:
    from onnxpool.deploy.triton import Package

Target: TypeAlias = Literal["triton", "kserve"]


def package(model: str | os.PathLike[str], folder: str | os.PathLike[str], target: Target, **options: Any) -> "Package":
    """Write the package for ``target``; an option of None is left out.

    Raises :class:`ArgumentError` for an option that this target does not take, and what its own ``package`` raises.
    """
    from onnxpool.deploy import kserve, triton

    makers: dict[str, Callable[..., Package]] = {"triton": triton.package, "kserve": kserve.package}
    make = makers[target]
    taken = inspect.signature(make).parameters
    given = {option: value for option, value in options.items() if value is not None}
    for option, value in given.items():
        if option not in taken:
            raise ArgumentError(f"{option}={value!r} is not for target={target!r}")
    if "storage" in taken and "storage" not in given:
        raise ArgumentError(
            f"storage is missing; target={target!r} needs it: the URI that the models will be copied to"
        )
    return make(model, folder, **given)
