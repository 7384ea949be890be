"""Commands that run models: predict, batch, serve, package, deploy."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

import onnxpool
from onnxpool._files import writable_folder
from onnxpool.cli import ports, tables
from onnxpool.cli.application import Json, Libraries, ModelFile, app, check_files, check_model, show, working
from onnxpool.errors import ArgumentError

deploy_app = typer.Typer(help="Serve on a cluster.", no_args_is_help=True)
app.add_typer(deploy_app, name="deploy", rich_help_panel="Running")

PictureSize = Annotated[str | None, typer.Option("--size", help="HEIGHTxWIDTH, for a model that takes any size.")]
PictureCrop = Annotated[float, typer.Option("--crop", help="How much of a picture's largest middle part to take.")]
PictureMean = Annotated[
    str | None, typer.Option("--mean", help="Per channel, of pixels from 0 to 1. Default: ImageNet's.")
]
InRuntime = Annotated[
    Literal["onnxruntime", "openvino"], typer.Option("--runtime", help="What runs it; OpenVINO on the CPU.")
]
PictureStd = Annotated[str | None, typer.Option("--std", help="Per channel, likewise.")]


@app.command(rich_help_panel="Running")
def predict(
    model: ModelFile,
    pictures: Annotated[list[Path], typer.Argument(help="Picture files.", show_default=False)],
    labels: Annotated[Path | None, typer.Option(help="Text file: a class per line. Default: MODEL.labels.txt.")] = None,
    top: Annotated[int, typer.Option(help="How many classes to print.")] = 5,
    scores: Annotated[
        Literal["auto", "softmax", "as-is"],
        typer.Option(help="Whether to take softmax. auto: unless the model ends with it, or with a sigmoid."),
    ] = "auto",
    size: PictureSize = None,
    crop: PictureCrop = 0.875,
    mean: PictureMean = None,
    std: PictureStd = None,
    runtime: InRuntime = "onnxruntime",
    as_json: Json = False,
) -> None:
    """Show what a model says about pictures: the best classes, or figures of outputs that are not scores.

    Example: onnxpool predict resnet.onnx photo.jpg --labels labels.txt
    """
    check_model(model)
    check_files(pictures=pictures, labels=labels)
    with working(f"Running {model}"):
        predictions = onnxpool.predict(
            model,
            pictures,
            labels=labels,
            top=top,
            scores=scores,
            size=picture_size(size),
            crop=crop,
            mean=numbers("mean", mean),
            std=numbers("std", std),
            runtime=runtime,
        )
    show(predictions, tables.predictions, as_json)


@app.command(rich_help_panel="Running")
def batch(
    model: ModelFile,
    source: Annotated[Path, typer.Argument(help="Folder of pictures, or Parquet: a file or a folder.")],
    output: Annotated[Path, typer.Argument(help="Folder of Parquet files to write.", show_default=False)],
    column: Annotated[str | None, typer.Option(help="Parquet column. Default: the one named as the input.")] = None,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    threads: Annotated[int, typer.Option(help="Threads of each.")] = 1,
    shard: Annotated[int, typer.Option(help="Rows of one output file.")] = 256,
    max_batch: Annotated[int, typer.Option(help="Most rows to run at once, where shapes are equal.")] = 8,
    size: PictureSize = None,
    crop: PictureCrop = 0.875,
    mean: PictureMean = None,
    std: PictureStd = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster that runs already. Default: one of its own.")] = None,
    as_json: Json = False,
) -> None:
    """Run a model on every picture of a folder, or every row of Parquet files, by worker processes of Ray.

    A run that was stopped goes on where it stood. Exit status 1 where rows could not be run; column error says why.

    Example: onnxpool batch resnet.onnx photos answers --workers 4
    """
    check_model(model)
    check_files(source=source)
    writable_folder(output)
    from rich.progress import MofNCompleteColumn, Progress

    from onnxpool.deploy import run_batch

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        shards = bar.add_task("Shards", total=None)
        done = run_batch(
            model,
            source,
            output,
            column=column,
            workers=workers,
            threads=threads,
            shard=shard,
            max_batch=max_batch,
            size=picture_size(size),
            crop=crop,
            mean=numbers("mean", mean),
            std=numbers("std", std),
            address=address,
            progress=lambda finished, total, _: bar.update(shards, completed=finished, total=total),
        )
    show(done, tables.batch, as_json)
    raise typer.Exit(1 if done.errors else 0)


@app.command(rich_help_panel="Running")
def serve(
    models: Annotated[
        Path, typer.Argument(help="ONNX file, or folder of NAME.onnx and NAME/VERSION/model.onnx.", show_default=False)
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; the default is reached from this machine only.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", "-p", help="Port of REST; 0 takes a free one.")] = 8000,
    grpc_port: Annotated[int | None, typer.Option(help="Port of gRPC, too. Default: no gRPC.")] = None,
    max_batch: Annotated[int, typer.Option(help="Rows of different requests that run together; 1 joins none.")] = 8,
    max_delay_ms: Annotated[
        float, typer.Option(help="How long a request waits for others while a worker is free.")
    ] = 0.0,
    max_queue: Annotated[int, typer.Option(help="Requests that may wait for one model.")] = 256,
    max_body_mb: Annotated[float, typer.Option(help="Largest request, in MiB.")] = 16.0,
    timeout: Annotated[float, typer.Option(help="Seconds within which a request is answered.")] = 30.0,
    threads: Annotated[
        int | None, typer.Option(help="Threads inside one operator. Default: the processors it may use, but one.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Batches of one model that run at the same time.")] = 1,
    processes: Annotated[int, typer.Option(help="Processes that share the ports, each with models of its own.")] = 1,
    kernels: Annotated[Literal["auto", "require", "off"], typer.Option(help="Whether native kernels run.")] = "auto",
    runtime: InRuntime = "onnxruntime",
    on_mismatch: Annotated[
        Literal["refuse", "warn"], typer.Option(help="What becomes of a model whose golden answers do not come out.")
    ] = "refuse",
    require_certificate: Annotated[
        bool, typer.Option("--require-certificate", help="Refuse models without a certificate that holds.")
    ] = False,
    public_key: Annotated[
        Path | None, typer.Option(help="PEM file of the Ed25519 key that must have signed the certificates.")
    ] = None,
    library: Libraries = None,
    control: Annotated[bool, typer.Option(help="Whether clients may load and unload models.")] = True,
    strict_readiness: Annotated[
        bool, typer.Option("--strict-readiness", help="Not ready while the newest file of any model does not load.")
    ] = False,
    poll: Annotated[float, typer.Option(help="Seconds between two looks for replaced files; 0 never looks.")] = 1.0,
    token_file: Annotated[
        Path | None, typer.Option(help="File of tokens, one a line; every request must carry one of them.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="Name by which it may be called; repeat it. Default: any, or loopback's."),
    ] = None,
    access_log: Annotated[
        Literal["off", "text", "json"], typer.Option(help="A line on standard error for each request.")
    ] = "off",
    tracing: Annotated[
        bool, typer.Option("--tracing", help="Send OpenTelemetry's spans to where OTEL_EXPORTER_OTLP_ENDPOINT says.")
    ] = False,
    log_level: Annotated[Literal["error", "warning", "info"], typer.Option(help="What else is logged.")] = "warning",
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain (PEM), for TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="Authorities (PEM), of which clients need a certificate.")
    ] = None,
    drain: Annotated[float, typer.Option(help="Seconds in which SIGTERM lets requests be answered.")] = 30.0,
    drain_delay: Annotated[
        float, typer.Option(help="Seconds before that, in which the server answers on but is not ready.")
    ] = 0.0,
    as_json: Json = False,
) -> None:
    """Serve models by the Open Inference Protocol until SIGTERM; prints where, and a line that asks the first one.

    Golden inputs run first, and a replaced file is loaded while the old model serves.

    Example: onnxpool serve resnet.onnx --grpc-port 8001 --max-batch 16
    """
    check_files(models=models, token_file=token_file, public_key=public_key, library=library)
    if tls_cert and tls_key:
        check_files(tls_cert=tls_cert, tls_key=tls_key, tls_client_ca=tls_client_ca)
    ports.check(host, port=port, grpc_port=grpc_port)
    import logging

    from onnxpool.serve import Options, Repository
    from onnxpool.serve.guard import read_tokens
    from onnxpool.serve.listening import Listen, Listening
    from onnxpool.serve.processes import serve as serve_by_processes
    from onnxpool.serve.server import serve

    logging.basicConfig(format="onnxpool: %(message)s", level=log_level.upper())
    options = Options(
        kernels=kernels,
        runtime=runtime,
        threads=threads,
        workers=workers,
        processes=processes,
        tracing=tracing,
        max_batch=max_batch,
        max_delay_s=max_delay_ms / 1000,
        max_queue=max_queue,
        timeout_s=timeout,
        max_body_bytes=round(max_body_mb * 2**20),
        poll_s=poll,
        on_mismatch=on_mismatch,
        require_certificate=require_certificate,
        public_key=public_key,
        libraries=tuple(library or ()),
        control=control,
        strict_readiness=strict_readiness,
        tokens=read_tokens(token_file) if token_file else (),
        hosts=tuple(allowed_host) if allowed_host else None,
        access_log=access_log,
    )
    listen = Listen(host, port, grpc_port, tls_cert, tls_key, drain, drain_delay, tls_client_ca=tls_client_ca)

    def announce(now: Listening) -> None:
        show(now, tables.listening, as_json)

    if processes > 1:
        serve_by_processes(models, options, listen, announce)
        return
    with working(f"Loading {models}"):
        repository = Repository(models, options)
    serve(repository, listen, announce)


@app.command(rich_help_panel="Running")
def package(
    model: ModelFile,
    output: Annotated[Path, typer.Argument(help="Folder to write into.", show_default=False)],
    target: Annotated[Literal["triton", "kserve", "openvino"], typer.Option(help="The server, or OpenVINO.")],
    name: Annotated[str | None, typer.Option(help="The model's name there. Default: the file's.")] = None,
    native: Annotated[
        bool | None,
        typer.Option("--native/--no-native", help="Take the native library along. Default: where the form can use it."),
    ] = None,
    max_batch: Annotated[int | None, typer.Option(help="Most items to join. Default: 32.")] = None,
    delay_ms: Annotated[float | None, typer.Option(help="Longest wait for others to join. Default: 1.")] = None,
    root: Annotated[str | None, typer.Option(help="triton: the folder's path in the server. Default: /models.")] = None,
    storage: Annotated[str | None, typer.Option(help="kserve: URI of the models, such as pvc://claim/path.")] = None,
    min_replicas: Annotated[int | None, typer.Option(help="kserve: least number of servers. Default: 1.")] = None,
    max_replicas: Annotated[int | None, typer.Option(help="kserve: largest number of servers. Default: 1.")] = None,
    instances: Annotated[int | None, typer.Option(help="Runs at the same time. Default: the server's.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each run. Default: the server's.")] = None,
    cuda: Annotated[bool, typer.Option("--cuda", help="Take the library for CUDA along, for a GPU.")] = False,
    cpus: Annotated[int | None, typer.Option(help="kserve: processors of each server. Default: 1.")] = None,
    memory_gb: Annotated[
        int | None, typer.Option(help="kserve: memory of each. Default: 1, and three times the model.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write what another server needs to run a model: a Triton model repository, or KServe's manifest with one.

    For OpenVINO: the model with the native extension, and a program of ten lines.

    Example: onnxpool package resnet.onnx repository --target triton
    """
    check_model(model)
    writable_folder(output)
    from onnxpool.deploy import package as write_package

    with working(f"Packaging {model}"):
        made = write_package(
            model,
            output,
            target,
            name=name,
            native=native,
            max_batch=max_batch,
            delay_s=None if delay_ms is None else delay_ms / 1e3,
            root=root,
            storage=storage,
            min_replicas=min_replicas,
            max_replicas=max_replicas,
            instances=instances,
            threads=threads,
            cuda=cuda or None,
            cpus=cpus,
            memory_gb=memory_gb,
        )
    show(made, tables.package, as_json)


@deploy_app.command("ray")
def deploy_ray(
    models: Annotated[Path, typer.Argument(help="ONNX file, or folder of models, as for serve.", show_default=False)],
    host: Annotated[str, typer.Option(help="Address to listen on; the default is reached from this machine only.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", "-p", help="Port; 0 takes a free one.")] = 8000,
    min_replicas: Annotated[int, typer.Option(help="Least number of server processes.")] = 1,
    max_replicas: Annotated[int, typer.Option(help="Largest number.")] = 2,
    load: Annotated[int, typer.Option(help="Requests in progress in each, from which on there are more.")] = 16,
    threads: Annotated[int, typer.Option(help="Threads of each.")] = 1,
    max_batch: Annotated[int, typer.Option(help="Rows of different requests that run together; 1 joins none.")] = 8,
    max_delay_ms: Annotated[
        float, typer.Option(help="How long a request waits for others while a worker is free.")
    ] = 0.0,
    address: Annotated[str | None, typer.Option(help="Ray cluster that runs already. Default: one of its own.")] = None,
    write: Annotated[Path | None, typer.Option(help="Only write this file, for Ray's own: serve deploy FILE.")] = None,
    as_json: Json = False,
) -> None:
    """Serve models in processes of Ray, more of them under load, until SIGTERM; prints where.

    Example: onnxpool deploy ray resnet.onnx --max-replicas 4
    """
    if not write:
        check_files(models=models)
        ports.check(host, port=port)
    from onnxpool.deploy import ray_app
    from onnxpool.serve import Options
    from onnxpool.serve.listening import Listen

    scale = ray_app.Scale(min_replicas, max_replicas, load)
    options = Options(threads=threads, max_batch=max_batch, max_delay_s=max_delay_ms / 1000)
    listen = Listen(host, port)
    if write:
        place = models.resolve() if models.exists() else models
        ray_app.write(place, write, scale, options, listen)
        needs = f"every machine of the cluster needs {place} and: pip install 'onnxpool[cpu,ray]'"
        typer.echo(json.dumps({"file": str(write), "needs": needs}) if as_json else f"{needs}\nserve deploy {write}")
        return
    with ray_app.running(models, scale, options, listen, address) as now:
        show(now, tables.listening, as_json)
        ray_app.wait()


def picture_size(text: str | None) -> tuple[int, int] | None:
    """HEIGHTxWIDTH as numbers; :class:`ArgumentError` for anything else."""
    if text is None:
        return None
    height, _, width = text.partition("x")
    if not height.isdecimal() or not width.isdecimal():
        raise ArgumentError(f"size={text!r} must be HEIGHTxWIDTH, such as 224x224")
    return int(height), int(width)


def numbers(option: str, text: str | None) -> list[float] | None:
    """Numbers with commas between them, of this option; :class:`ArgumentError` for anything else."""
    try:
        return None if text is None else [float(number) for number in text.split(",")]
    except ValueError as error:
        raise ArgumentError(f"{option}={text!r} must be numbers with commas, such as 0.5,0.5,0.5") from error
