"""Validated models on other servers: packages for Triton, KServe and OpenVINO, and applications for Ray.

    packages.py   which target takes what
    triton.py     a Triton model repository
    kserve.py     the same with KServe's manifest
    openvino.py   a folder with the native extension and a program
    cluster.py    a Ray cluster, or one of this machine alone
    ray_app.py    the server's application in replicas of Ray Serve
    batch.py      folders of pictures and Parquet through Ray Data; shards.py what each output file answers, rows.py how

None of these extras is needed by another.
"""

from typing import TYPE_CHECKING

from onnxpool._lazy import on_demand

if TYPE_CHECKING:
    from onnxpool.deploy.batch import Batch, run_batch
    from onnxpool.deploy.packages import package
    from onnxpool.deploy.triton import Package

__all__ = [
    "Batch",
    "Package",
    "package",
    "run_batch",
]

_HOMES = {
    "Batch": "deploy.batch",
    "Package": "deploy.triton",
    "package": "deploy.packages",
    "run_batch": "deploy.batch",
}
"""The module that each name is in."""

if not TYPE_CHECKING:
    __getattr__, __dir__ = on_demand(__name__, __all__, _HOMES)
