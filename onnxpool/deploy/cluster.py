"""The Ray cluster that work is given to: one that runs already, or one of this machine alone that ends with the work.

The latter stays on loopback. Ray would talk over the machine's own address, and listen there, even where told 127.0.0.1
by its argument alone: an environment variable that is meant for Windows and macOS is what makes it keep to loopback.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onnxpool.errors import ArgumentError, MissingExtra

LOOPBACK = "127.0.0.1"

_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
_OBJECTS_BYTES = 256 << 20  # Ray would take a third of the memory; nothing large is passed through it here


@contextmanager
def cluster(address: str | None, processors: int) -> Iterator[Any]:
    """The module ``ray``, connected to the cluster at ``address``; None: to one of our own with so many processors.

    A program that is connected already stays so. Raises :class:`ArgumentError` where no cluster is at ``address``, and
    where one of our own would leave loopback, since the program imported Ray before it came here.
    """
    if address is None:
        _keep_to_loopback()
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("ray", "ray", "running on Ray") from error
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(**_own(processors) if address is None else {"address": address}, **_QUIET)
    except ConnectionError as error:
        raise ArgumentError(f"address={address!r}: no Ray cluster answers there: {error}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _keep_to_loopback() -> None:
    if "ray" in sys.modules and os.environ.get(_VARIABLE) != "0":
        raise ArgumentError(
            f"address=None: Ray was imported before, and would listen on every interface; set {_VARIABLE}=0 before "
            "that, or give the address of a cluster"
        )
    os.environ.update({_VARIABLE: "0", "RAY_USAGE_STATS_ENABLED": "0"})


def _own(processors: int) -> dict[str, Any]:
    return {
        "address": "local",  # even where RAY_ADDRESS names another
        "num_cpus": processors,
        "include_dashboard": False,
        "object_store_memory": _OBJECTS_BYTES,
        "_node_ip_address": LOOPBACK,
    }
