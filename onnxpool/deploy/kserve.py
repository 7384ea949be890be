"""A package for KServe: a model repository for its Triton runtime, and the manifest that serves it.

    FOLDER/models/                    to be copied to ``storage``: what triton.py writes
    FOLDER/inference-service.yaml     then: kubectl apply -f inference-service.yaml

KServe copies ``storage`` to /mnt/models in the container, so that the native library travels with the model and the
image needs nothing of ours. Fields are those of the API serving.kserve.io/v1beta1; the runtime is KServe's own
``kserve-tritonserver``, with another release of Triton: the one that it names by default, 23.05, has an ONNX Runtime
that loads no file of onnxpool.

>>> package("network.onnx", "package", storage="pvc://models/network").files  # doctest: +SKIP
('inference-service.yaml', 'models/network/1/model.onnx', ...)
"""

import json
import os
import re
import shlex
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from onnxpool._files import complete
from onnxpool.deploy import triton
from onnxpool.deploy.triton import Package
from onnxpool.errors import ArgumentError

MOUNT = "/mnt/models"
"""Where KServe puts a model."""

SCHEMES = ("pvc", "s3", "gs", "hdfs", "webhdfs", "https", "http", "hf", "oci", "abfs")
"""What KServe's storage initializer fetches from."""

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def package(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    storage: str,
    name: str | None = None,
    native: bool | None = None,
    max_batch: int = 32,
    delay_s: float = 0.001,
    min_replicas: int = 1,
    max_replicas: int = 1,
    instances: int | None = None,
    threads: int | None = None,
    cuda: bool = False,
    cpus: int = 1,
    memory_gb: int | None = None,
) -> Package:
    """Write the model and its manifest into ``folder``, which must not hold a manifest.

    ``storage`` is where KServe will find the folder ``models``: a URI such as ``pvc://claim/path``. ``name`` is the
    file's without it, in KServe's letters. Each server has ``cpus`` processors and ``memory_gb`` (None: 1, and three
    times the model), and a GPU with ``cuda``. The others as for :func:`onnxpool.deploy.triton.package`.

    Raises the same errors, and :class:`ArgumentError` for a URI or numbers of replicas that KServe does not take.
    """
    name = re.sub(r"[^a-z0-9]+", "-", Path(model).stem.lower()).strip("-") if name is None else name
    if not _NAME.fullmatch(name):
        raise ArgumentError(f"name={name!r} must be lower-case letters, digits and '-', at most 63, a letter first")
    if urlsplit(storage).scheme not in SCHEMES or not urlsplit(storage).netloc:
        raise ArgumentError(f"storage={storage!r} must be a URI of {', '.join(SCHEMES)}, such as pvc://models/{name}")
    if not 0 <= min_replicas <= max_replicas or max_replicas < 1:
        raise ArgumentError(f"min_replicas={min_replicas}, max_replicas={max_replicas}: use 0 <= min <= max, max >= 1")
    if cpus < 1 or (memory_gb is not None and memory_gb < 1):
        raise ArgumentError(f"cpus={cpus!r}, memory_gb={memory_gb!r}: each must be at least 1")
    path = Path(folder, "inference-service.yaml")
    if path.exists():
        raise ArgumentError(f"{path} exists; remove it, or give another folder")
    made = triton.package(
        model,
        Path(folder, "models"),
        name=name,
        root=MOUNT,
        native=native,
        max_batch=max_batch,
        delay_s=delay_s,
        instances=instances,
        threads=threads,
        cuda=cuda,
    )
    if memory_gb is None:
        model_bytes = sum(file.stat().st_size for file in Path(folder, "models", name, "1").iterdir())
        memory_gb = 1 + -(-3 * model_bytes // 2**30)
    text = manifest(name, storage, min_replicas, max_replicas, cpus, memory_gb, cuda)
    complete(path, lambda file: file.write_text(text, encoding="utf-8"))
    return replace(
        made,
        folder=os.fspath(folder),
        files=(path.name, *(f"models/{file}" for file in made.files)),
        notes=(f"copy models/ to {storage}, then kubectl apply -f {path.name}", *made.notes),
        run=f"kubectl apply -f {shlex.quote(os.fspath(path.resolve()))}",
    )


def manifest(
    name: str, storage: str, min_replicas: int, max_replicas: int, cpus: int, memory_gb: int, cuda: bool
) -> str:
    """The text of ``inference-service.yaml``."""
    device = '\n          nvidia.com/gpu: "1"' if cuda else ""
    return f"""apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {name}
spec:
  predictor:
    minReplicas: {min_replicas}
    maxReplicas: {max_replicas}
    model:
      runtime: kserve-tritonserver
      runtimeVersion: {triton.RELEASE}-py3
      modelFormat:
        name: onnx
        version: "1"
      protocolVersion: v2
      storageUri: {json.dumps(storage, ensure_ascii=False)}
      resources:
        requests:
          cpu: "{cpus}"
          memory: {memory_gb}Gi
        limits:
          cpu: "{cpus}"
          memory: {memory_gb}Gi{device}
"""
