"""The command line, a skin: each command parses, calls one function of the library, and prints the value it returns.

With ``--json`` that value goes to standard output as JSON and nothing else does. Exit status 0: done; 1: the check that
was asked for failed (``validate`` says more: :data:`onnxpool.report.EXIT_STATUS`); 2: asked wrongly, with one sentence
on standard error. typer and rich, rather than argparse: the
help, the types and the tables come from the signatures and values that exist anyway.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import typer
from rich.console import Console, RenderableType
from typer.core import TyperGroup

import onnxpool
from onnxpool.errors import ArgumentError, OnnxpoolError
from onnxpool.swap import KINDS

Form = Literal["function", "standard", "custom"]
OPSETS = range(18, 27)
"""As in :mod:`onnxpool.forms` and :mod:`onnxpool.pool`, which import NumPy and onnx: help should come at once."""


class _Printable(Protocol):
    """What the library returns to a command."""

    def to_json(self) -> dict[str, Any]: ...
    def table(self) -> RenderableType: ...


class _Commands(TyperGroup):
    """Commands that end with status 2 and one sentence where they were asked wrongly."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (OnnxpoolError, OSError) as error:
            typer.echo(f"onnxpool: {error}", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    name="onnxpool",
    cls=_Commands,
    help="PyTorch pooling layers in production: exported to ONNX, proven equal, run natively.",
    epilog="Every command has --help with an example, and --json.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

deploy_app = typer.Typer(help="Serve on a cluster.", no_args_is_help=True)
app.add_typer(deploy_app, name="deploy")

Source = "SoftPool2d(3,stride=2,padding=1), lip_resnet50, package.module:name or file.py:name"
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Seed = Annotated[int, typer.Option(help="Seed of PyTorch's generator: weights made in SOURCE, and example inputs.")]
ModelFile = Annotated[Path, typer.Argument(help="ONNX file, in any form.", show_default=False)]
OutputFile = Annotated[Path, typer.Argument(help="ONNX file to write.", show_default=False)]
SourceName = Annotated[str, typer.Argument(help=f"The network: {Source}.", show_default=False)]
Shapes = Annotated[list[str], typer.Option(help="Shape of an example input, such as 1x3x224x224; once per input.")]
DType = Annotated[
    Literal["float32", "float16", "bfloat16", "float64"],
    typer.Option(help="Element type of the network and its inputs."),
]
Dynamic = Annotated[
    list[str] | None,
    typer.Option(help="Axes that may change: batch,height,width, or of one input by number: x:0=batch,2=time."),
]
FormWanted = Annotated[Form, typer.Option(help="What the file holds; see onnxpool form --help.")]
OutputFolder = Annotated[Path, typer.Argument(help="Folder to write: a new or an empty one.", show_default=False)]
ReferenceName = Annotated[
    str | None,
    typer.Option(help=f"What is right: a golden file (.npz), or the network: {Source}. Default: the golden file."),
]
Case = Annotated[str | None, typer.Option(help="The only case to run, such as nan; see validate's report.")]
Opset = Annotated[int, typer.Option(help=f"ONNX opset, {OPSETS[0]} to {OPSETS[-1]}.")]
PictureSize = Annotated[str | None, typer.Option("--size", help="HEIGHTxWIDTH, for a model that takes any size.")]
PictureCrop = Annotated[float, typer.Option("--crop", help="How much of a picture's largest middle part to take.")]
PictureMean = Annotated[
    str | None, typer.Option("--mean", help="Per channel, of pixels from 0 to 1. Default: ImageNet's.")
]
PictureStd = Annotated[str | None, typer.Option("--std", help="Per channel, likewise.")]


def main() -> None:
    """Run the command line; what ``onnxpool`` and ``python -m onnxpool`` start."""
    app()


@app.command()
def export(
    source: SourceName,
    output: OutputFile,
    input: Shapes,  # noqa: A002 - the option is called --input
    dtype: DType = "float32",
    dynamic: Dynamic = None,
    form: FormWanted = "function",
    opset: Opset = OPSETS[0],
    checkpoint: Annotated[
        Path | None, typer.Option(help="File of the network's parameters: its state_dict, as torch.save writes it.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Export a PyTorch module to ONNX, with answers to validate it by.

    Example: onnxpool export nets.py:resnet resnet.onnx --input 1x3x224x224 --dynamic batch,height,width
    """
    from onnxpool import spelling
    from onnxpool.describe import describe

    with _working(f"Exporting {source}"):
        module = spelling.module(source, seed)
        if checkpoint:
            onnxpool.models.load_checkpoint(module, checkpoint)
        inputs = spelling.inputs(input, dtype, seed)
        axes = spelling.axes(dynamic or [], module, inputs)
        module.to(inputs[0].dtype)
        onnxpool.export(module, inputs, output, dynamic_shapes=axes, form=form, opset=opset)
        description = describe(output)
    _print(description, as_json)


@app.command()
def swap(
    source: SourceName,
    output: OutputFile,
    input: Shapes,  # noqa: A002 - the option is called --input
    rule: Annotated[
        list[str],
        typer.Option(
            help=f"LAYERS=POOLING. LAYERS: {', '.join(KINDS)}, or a path such as layer1.*. POOLING: SoftPool, "
            "PowerAvgPool(p=3), ..., same (for official), keep. The first that fits a layer counts."
        ),
    ],
    dtype: DType = "float32",
    dynamic: Dynamic = None,
    form: FormWanted = "function",
    opset: Opset = OPSETS[0],
    strict: Annotated[bool, typer.Option(help="Refuse where a layer that a rule chooses cannot be replaced.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Replace pooling layers of a PyTorch module, keep its weights, and export it; prints what became of each layer.

    Example: onnxpool swap nets.py:resnet resnet.onnx --input 1x3x224x224 --rule max=SoftPool
    """
    from onnxpool import spelling

    rules = _rules(rule)
    with _working(f"Swapping layers of {source}"):
        module = spelling.module(source, seed)
        inputs = spelling.inputs(input, dtype, seed)
        axes = spelling.axes(dynamic or [], module, inputs)
        swapped = onnxpool.swap(module.to(inputs[0].dtype), rules, example=inputs, strict=strict)
        if not swapped.replaced:
            reasons = swapped.sentences() + [f"{one.layer} is kept: {one.reason}" for one in swapped.kept]
            raise ArgumentError("; ".join([f"nothing in {source} was replaced by {', '.join(rule)}", *reasons]))
        onnxpool.export(swapped.network, inputs, output, dynamic_shapes=axes, form=form, opset=opset)
    _print(swapped, as_json)


@app.command()
def form(
    model: ModelFile,
    output: OutputFile,
    to: Annotated[Form, typer.Option(help="function, standard or custom.")],
    as_json: Json = False,
) -> None:
    """Rewrite a model: function (runs on ONNX Runtime), standard (runs anywhere), custom (needs the native library).

    Example: onnxpool form resnet.onnx resnet-standard.onnx --to standard
    """
    from onnxpool import forms, golden
    from onnxpool.describe import describe

    with _working(f"Writing {output} in {to} form"):
        forms.write(forms.to_form(model, to), output)
        golden.follow(model, output)
        description = describe(output)
    _print(description, as_json)


@app.command()
def lift(model: ModelFile, output: OutputFile, as_json: Json = False) -> None:
    """Put one node in place of each pooling that a model spells out in standard operators; prints what became of which.

    Exit status 1, and no file, where the model has none.

    Example: onnxpool lift network.onnx network-lifted.onnx
    """
    from onnxpool import forms

    with _working(f"Lifting {model}"):
        lifted = onnxpool.lift(model)
        if lifted.folds:
            forms.write(lifted.model, output)
    _print(lifted, as_json)
    raise typer.Exit(0 if lifted.folds else 1)


@app.command()
def validate(
    model: ModelFile,
    reference: ReferenceName = None,
    on: Annotated[
        list[str] | None,
        typer.Option(
            help="all, or a runtime such as openvino, in all its variants. Default: ONNX Runtime as it comes."
        ),
    ] = None,
    python: Annotated[
        list[Path] | None, typer.Option(help="Program of another environment, whose ONNX Runtime is tried, too.")
    ] = None,
    require: Annotated[
        Literal["native"] | None, typer.Option(help="Fail unless every pooling node is proven to run natively.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of ONNX Runtime.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that a runtime may take for one answer.")] = 600,
    case: Case = None,
    per_node: Annotated[
        bool,
        typer.Option("--per-node", help="Compare node by node, too: which introduces an error, which passes it on."),
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write the report as a web page, too.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the report as JUnit XML, too.")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Write a folder that reproduces the first failing case without onnxpool, too.")
    ] = None,
    certificate: Annotated[
        bool, typer.Option("--certificate", help="Write MODEL.certificate.json, too; see onnxpool verify.")
    ] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Run a model in every form, with and without native kernels, against answers in float64.

    Exit status 0: right; 1: numbers are off; 2: asked wrongly; 3: an operator or kernel is missing, or loading failed;
    4: a shape, type or name is wrong; 5: the runtime crashed. The worst decides.

    Example: onnxpool validate resnet.onnx --on all --html report.html
    """
    from onnxpool import spelling

    if certificate and case:
        raise ArgumentError(f"case={case!r} is one of many, and a certificate is for all: leave one of both out")
    given = spelling.reference(reference, seed)
    with _progress(f"Validating {model}") as progress:
        report = onnxpool.validate(
            model,
            given,
            case=case,
            on="all" if on == ["all"] else on,
            pythons=python or (),
            require=(require,) if require else (),
            threads=threads,
            timeout_s=timeout,
            progress=progress,
        )
    if html:
        _write(html, report.html())
    if junit:
        _write(junit, report.junit())
    if bundle or certificate:
        _keep(report, model, given, bundle, certificate)
    if per_node:
        from onnxpool.per_node import of_report

        with _working(f"Comparing {model} node by node"):
            _print(of_report(report, model, given), as_json)
    else:
        _print(report, as_json)
    raise typer.Exit(report.exit_status)


@app.command()
def bisect(
    model: ModelFile,
    folder: OutputFolder,
    reference: ReferenceName = None,
    case: Case = None,
    native: Annotated[bool, typer.Option("--native", help="Run pooling nodes natively.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Reduce a failing model to the smallest part that still fails, in a folder that anybody can run.

    Example: onnxpool bisect resnet.onnx smallest --reference nets.py:resnet
    """
    from onnxpool import spelling
    from onnxpool.bisection import bisect

    with _working(f"Bisecting {model}"):
        kernels: Literal["require", "off"] = "require" if native else "off"
        found = bisect(model, folder, spelling.reference(reference, seed), case, kernels=kernels)
    _print(found, as_json)


@app.command()
def bundle(
    model: ModelFile,
    folder: OutputFolder,
    reference: ReferenceName = None,
    case: Case = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write a model, one of its cases and a script that compares them: runs without onnxpool.

    Example: onnxpool bundle resnet.onnx reproducer --case nan
    """
    from onnxpool import spelling
    from onnxpool.bundle import bundle

    _print(bundle(model, folder, spelling.reference(reference, seed), case), as_json)


@app.command()
def verify(
    model: ModelFile,
    scale_bounds: Annotated[
        float | None, typer.Option(help="Judge the stored results again, with so many times each bound.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a model's certificate offline: model, weights, answers, library and signature; runs nothing.

    Exit status 1 where it does not hold, or the stored results do not pass with other bounds.

    Example: onnxpool verify resnet.onnx
    """
    from onnxpool import saved
    from onnxpool.certificate import path_for
    from onnxpool.certificate import verify as check

    verification = check(model)
    _print(verification, as_json and scale_bounds is None)
    passed = not verification.faults
    if scale_bounds is not None:
        judged = saved.judge(saved.load(path_for(model)), scale_bounds)
        _print(judged, as_json)
        passed &= judged.passed
    raise typer.Exit(0 if passed else 1)


@app.command()
def compare(
    old: Annotated[Path, typer.Argument(help="Certificate, or output of validate --json.", show_default=False)],
    new: Annotated[Path, typer.Argument(help="The later one.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Say what became worse or better from one validation to another; exit status 1 where anything became worse.

    Example: onnxpool compare released.certificate.json resnet.certificate.json
    """
    from onnxpool import saved

    difference = saved.compare(saved.load(old), saved.load(new))
    _print(difference, as_json)
    raise typer.Exit(1 if difference.worse else 0)


@app.command()
def inspect(model: ModelFile, as_json: Json = False) -> None:
    """Show what a model holds, and how each of its pooling nodes would run here.

    Example: onnxpool inspect resnet.onnx
    """
    from onnxpool.describe import describe

    _print(describe(model), as_json)


@app.command()
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
    as_json: Json = False,
) -> None:
    """Show what a model says about pictures: the best classes, or figures of outputs that are no scores.

    Example: onnxpool predict resnet.onnx photo.jpg --labels labels.txt
    """
    from onnxpool.predict import predict

    with _working(f"Running {model}"):
        predictions = predict(
            model,
            pictures,
            labels=labels,
            top=top,
            scores=scores,
            size=_size(size),
            crop=crop,
            mean=_numbers("mean", mean),
            std=_numbers("std", std),
        )
    _print(predictions, as_json)


@app.command()
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
    from rich.progress import MofNCompleteColumn, Progress

    from onnxpool.deploy import batch as batches

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        shards = bar.add_task("Shards", total=None)
        done = batches.run(
            model,
            source,
            output,
            column=column,
            workers=workers,
            threads=threads,
            shard=shard,
            max_batch=max_batch,
            size=_size(size),
            crop=crop,
            mean=_numbers("mean", mean),
            std=_numbers("std", std),
            address=address,
            progress=lambda finished, total, _: bar.update(shards, completed=finished, total=total),
        )
    _print(done, as_json)
    raise typer.Exit(1 if done.errors else 0)


@app.command()
def package(
    model: ModelFile,
    output: Annotated[Path, typer.Argument(help="Folder to write into.", show_default=False)],
    target: Annotated[Literal["triton", "kserve"], typer.Option(help="The server.")],
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
    as_json: Json = False,
) -> None:
    """Write what another server needs to run a model: a Triton model repository, or KServe's manifest with one.

    Example: onnxpool package resnet.onnx repository --target triton
    """
    from onnxpool import deploy

    with _working(f"Packaging {model}"):
        made = deploy.package(
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
        )
    _print(made, as_json)


@app.command()
def serve(
    models: Annotated[
        Path, typer.Argument(help="ONNX file, or folder of NAME.onnx and NAME/VERSION/model.onnx.", show_default=False)
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; the default is reached from this machine only.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port of REST; 0 takes a free one.")] = 8000,
    grpc_port: Annotated[int | None, typer.Option(help="Port of gRPC, too. Default: no gRPC.")] = None,
    max_batch: Annotated[int, typer.Option(help="Rows of different requests that run together; 1 joins none.")] = 8,
    max_delay_ms: Annotated[
        float, typer.Option(help="How long a request waits for others while a worker is free.")
    ] = 0.0,
    max_queue: Annotated[int, typer.Option(help="Requests that may wait for one model.")] = 256,
    max_body_mb: Annotated[float, typer.Option(help="Largest request, in MiB.")] = 16.0,
    timeout: Annotated[float, typer.Option(help="Seconds within which a request is answered.")] = 30.0,
    threads: Annotated[
        int | None, typer.Option(help="Threads inside one operator. Default: all cores but one.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Batches of one model that run at the same time.")] = 1,
    kernels: Annotated[Literal["auto", "require", "off"], typer.Option(help="Whether native kernels run.")] = "auto",
    on_mismatch: Annotated[
        Literal["refuse", "warn"], typer.Option(help="What becomes of a model whose golden answers do not come out.")
    ] = "refuse",
    require_certificate: Annotated[
        bool, typer.Option("--require-certificate", help="Refuse models without a certificate that holds.")
    ] = False,
    control: Annotated[bool, typer.Option(help="Whether clients may load and unload models.")] = True,
    poll: Annotated[float, typer.Option(help="Seconds between two looks for replaced files; 0 never looks.")] = 1.0,
    token_file: Annotated[Path | None, typer.Option(help="File with a token that every request must carry.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain (PEM), for TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    as_json: Json = False,
) -> None:
    """Serve models by the Open Inference Protocol until SIGTERM; prints where, and a line that asks the first one.

    Golden inputs run first, and a replaced file is loaded while the old model serves.

    Example: onnxpool serve resnet.onnx --grpc-port 8001 --max-batch 16
    """
    import logging

    from onnxpool.serve import Options, Repository
    from onnxpool.serve.listening import Listen
    from onnxpool.serve.server import serve

    logging.basicConfig(format="onnxpool: %(message)s")
    options = Options(
        kernels=kernels,
        threads=threads,
        workers=workers,
        max_batch=max_batch,
        max_delay_s=max_delay_ms / 1000,
        max_queue=max_queue,
        timeout_s=timeout,
        max_body_bytes=round(max_body_mb * 2**20),
        poll_s=poll,
        on_mismatch=on_mismatch,
        require_certificate=require_certificate,
        control=control,
        token=token_file.read_text(encoding="utf-8").strip() if token_file else None,
    )
    listen = Listen(host, port, grpc_port, tls_cert, tls_key)
    with _working(f"Loading {models}"):
        repository = Repository(models, options)
    serve(repository, listen, lambda now: typer.echo(json.dumps(now.to_json(), indent=2) if as_json else now.text()))


@deploy_app.command("ray")
def deploy_ray(
    models: Annotated[Path, typer.Argument(help="ONNX file, or folder of models, as for serve.", show_default=False)],
    host: Annotated[str, typer.Option(help="Address to listen on; the default is reached from this machine only.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
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
    from onnxpool.deploy import ray_app
    from onnxpool.serve import Options
    from onnxpool.serve.listening import Listen

    scale = ray_app.Scale(min_replicas, max_replicas, load)
    options = Options(threads=threads, max_batch=max_batch, max_delay_s=max_delay_ms / 1000)
    listen = Listen(host, port)
    if write:
        ray_app.write(models, write, scale, options, listen)
        return
    with ray_app.running(models, scale, options, listen, address) as now:
        typer.echo(json.dumps(now.to_json(), indent=2) if as_json else now.text())
        ray_app.wait()


@app.command()
def pools(as_json: Json = False) -> None:
    """List the pooling methods, their modules, and the types that native kernels pool here.

    Example: onnxpool pools
    """
    from onnxpool.catalog import catalog

    _print(catalog(), as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Look at this machine: versions, providers, the native library, and what is broken, with the remedy.

    Example: onnxpool doctor
    """
    from onnxpool.doctor import diagnose

    diagnosis = diagnose()
    _print(diagnosis, as_json)
    raise typer.Exit(0 if diagnosis.healthy else 1)


def _keep(report: Any, model: Path, reference: Any, folder: Path | None, certificate: bool) -> None:
    """Write what was asked for beside the report."""
    from onnxpool.bundle import bundle
    from onnxpool.certificate import issue

    if folder:
        bundle(model, folder, reference, report.failing_case)
    if certificate:
        issue(report, model)


def _rules(texts: list[str]) -> dict[str, str]:
    rules: dict[str, str] = {}
    for text in texts:
        layers, _, pooling = text.partition("=")
        if not layers or not pooling or layers in rules:
            raise ArgumentError(f"rule={text!r}: write LAYERS=POOLING, such as max=SoftPool, once for the same layers")
        rules[layers] = pooling
    return rules


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.partition("x")
    if not height.isdecimal() or not width.isdecimal():
        raise ArgumentError(f"size={text!r} must be HEIGHTxWIDTH, such as 224x224")
    return int(height), int(width)


def _numbers(option: str, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(number) for number in text.split(",")]
    except ValueError as error:
        raise ArgumentError(f"{option}={text!r} must be numbers with commas, such as 0.5,0.5,0.5") from error


def _print(value: _Printable, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(value.to_json(), indent=2, allow_nan=False))
    else:
        Console(markup=False, highlight=False).print(value.table())


def _working(what: str) -> AbstractContextManager[Any]:
    """A sign of life on standard error, where that is a terminal."""
    return Console(stderr=True, markup=False).status(f"{what} ...")


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on standard error, where that is a terminal; what it gives is told how many are done, of how many."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True, markup=False)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total, name: bar.update(task, completed=done, total=total, description=name or what)


def _write(path: Path, text: str) -> None:
    """The file gets its name only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        complete = Path(folder, path.name)
        complete.write_text(text, encoding="utf-8")
        complete.replace(path)
