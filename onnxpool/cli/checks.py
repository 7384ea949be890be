"""Commands that compare models with what they should give: validate, bisect, bundle, verify, compare."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import onnxpool
from onnxpool._files import writable
from onnxpool.cli import tables
from onnxpool.cli.application import (
    Case,
    Checkpoint,
    Json,
    Libraries,
    ModelFile,
    OutputFolder,
    Quiet,
    ReferenceName,
    Seed,
    app,
    check_files,
    check_model,
    new_folder,
    progress_bar,
    show,
    working,
    write_text,
)
from onnxpool.cli.complaint import complain
from onnxpool.cli.completion import case_names, runtimes
from onnxpool.errors import ArgumentError, FormError, nearest

if TYPE_CHECKING:
    from onnxpool.diagnosis.results import Nodes
    from onnxpool.validation import Report


@app.command(rich_help_panel="Proof")
def validate(
    model: ModelFile,
    reference: ReferenceName = None,
    checkpoint: Checkpoint = None,
    library: Libraries = None,
    on: Annotated[
        list[str] | None,
        typer.Option(
            help="all, or a runtime such as openvino, in all its variants. Default: ONNX Runtime as it comes.",
            autocompletion=runtimes,
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
    invariant: Annotated[
        str | None,
        typer.Option(help="Of batch,threads,runs: whether answers depend on these, and whether bit for bit or not."),
    ] = None,
    case: Case = None,
    without: Annotated[
        list[str] | None, typer.Option(help="Case to leave out, such as nan or 'sizes 0x*'; may be repeated.")
    ] = None,
    max_steps: Annotated[
        float | None,
        typer.Option(help="Quantised model: steps that an output may be off its float original, named by --reference."),
    ] = None,
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
    sign: Annotated[
        Path | None, typer.Option(help="PEM file of an Ed25519 private key, which signs the certificate.")
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run a model in every form, with and without native kernels, against answers in float64.

    Exit status 0: right; 1: numbers are off; 2: usage error; 3: an operator or kernel is missing, or loading failed;
    4: a shape, type or name is wrong; 5: the runtime crashed. The worst decides.

    Example: onnxpool validate resnet.onnx --on all --html report.html
    """
    check_model(model)
    if certificate and case:
        raise ArgumentError(f"case={case!r} is one of many, and a certificate is for all: leave one of both out")
    if sign and not certificate:
        raise ArgumentError(f"sign={str(sign)!r} is for a certificate: add --certificate")
    for file in (html, junit, model.with_suffix(".certificate.json") if certificate else None):
        if file:
            writable(file)
    if bundle:
        new_folder(bundle)
    check_files(checkpoint=checkpoint, library=library, sign=sign)
    _check_runtimes(on or [])
    _check_case(model, reference, case)
    from onnxpool.cli import spelling

    given = spelling.reference(reference, seed)
    if checkpoint:
        if given is None or isinstance(given, str) or not hasattr(given, "state_dict"):
            raise ArgumentError(f"checkpoint={str(checkpoint)!r} is for a network: name it by --reference")
        onnxpool.models.load_checkpoint(given, checkpoint)  # type: ignore[arg-type]
    try:
        with progress_bar(f"Validating {model}") as progress:
            report = onnxpool.validate(
                model,
                given,
                case=case,
                without=without or (),
                on="all" if on == ["all"] else on,
                pythons=python or (),
                require=(require,) if require else (),
                threads=threads,
                timeout_s=timeout,
                progress=progress,
                max_steps=max_steps,
                libraries=library or (),
                invariant=tuple(invariant.split(",")) if invariant else (),  # type: ignore[arg-type]
            )
    except FormError as error:  # a file that cannot be loaded fails; one that is not there is a usage error
        complain(str(error))
        raise typer.Exit(3 if model.is_file() else 2) from error
    nodes = None
    if per_node:
        from onnxpool.diagnosis import compare_nodes_of_report

        with working(f"Comparing {model} node by node"):
            both = compare_nodes_of_report(report, model, given, libraries=library or ())
        nodes = both.nodes
        show(both, tables.nodes_of_report, as_json, quiet)
    else:
        show(report, tables.report, as_json, quiet)
    _write_pages(report, nodes, html, junit)
    if bundle or certificate:
        _keep(report, model, given, bundle, certificate, sign, library or ())
    raise typer.Exit(report.exit_status)


@app.command(rich_help_panel="Proof")
def bisect(
    model: ModelFile,
    folder: OutputFolder,
    reference: ReferenceName = None,
    case: Case = None,
    library: Libraries = None,
    native: Annotated[bool, typer.Option("--native", help="Run pooling nodes natively.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Reduce a failing model to the smallest part that still fails, in a folder that anybody can run.

    Example: onnxpool bisect resnet.onnx smallest --reference nets.py:resnet
    """
    check_model(model)
    new_folder(folder)
    check_files(library=library)
    _check_case(model, reference, case)
    from onnxpool.cli import spelling
    from onnxpool.diagnosis import bisect_model

    with working(f"Bisecting {model}"):
        kernels: Literal["require", "off"] = "require" if native else "off"
        given = spelling.reference(reference, seed)
        found = bisect_model(model, folder, given, case, kernels=kernels, libraries=library or ())
    show(found, tables.bisection, as_json)


@app.command(rich_help_panel="Proof")
def bundle(
    model: ModelFile,
    folder: OutputFolder,
    reference: ReferenceName = None,
    case: Case = None,
    library: Libraries = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write a model, one of its cases and a script that compares them: runs without onnxpool.

    Example: onnxpool bundle resnet.onnx reproducer --case nan
    """
    check_model(model)
    new_folder(folder)
    check_files(library=library)
    _check_case(model, reference, case)
    from onnxpool.cli import spelling
    from onnxpool.diagnosis import write_bundle

    written = write_bundle(model, folder, spelling.reference(reference, seed), case, libraries=library or ())
    show(written, tables.bundle, as_json)


@app.command(rich_help_panel="Proof")
def verify(
    model: ModelFile,
    public_key: Annotated[
        Path | None, typer.Option(help="PEM file of the Ed25519 key that must have signed it.")
    ] = None,
    library: Libraries = None,
    scale_bounds: Annotated[
        float | None, typer.Option(help="Judge the stored results again, with so many times each bound.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Check a model's certificate offline: model, weights, answers, libraries and signatures; runs nothing.

    Says what was found, who judged and when.

    Exit status 1 where it does not hold, or the stored results do not pass with other bounds.

    Example: onnxpool verify resnet.onnx
    """
    check_model(model)
    check_files(public_key=public_key, library=library)
    from onnxpool.validation import load_report, rescale_report, verify_certificate
    from onnxpool.validation.certificate import path_for

    verification = verify_certificate(model, public_key=public_key, libraries=library or ())
    show(verification, tables.verification, as_json and scale_bounds is None, quiet)
    passed = not verification.faults
    if scale_bounds is not None:
        rescaled = rescale_report(load_report(path_for(model)), scale_bounds)
        show(rescaled, tables.report, as_json, quiet)
        passed &= rescaled.passed
    raise typer.Exit(0 if passed else 1)


@app.command(rich_help_panel="Proof")
def compare(
    old: Annotated[Path, typer.Argument(help="Certificate, or output of validate --json.", show_default=False)],
    new: Annotated[Path, typer.Argument(help="The later one.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Say what became worse or better from one validation to another; exit status 1 where anything became worse.

    Example: onnxpool compare released.certificate.json resnet.certificate.json
    """
    check_files(old=old, new=new)
    from onnxpool.validation import compare_reports, load_report

    difference = compare_reports(load_report(old), load_report(new))
    show(difference, tables.difference, as_json)
    raise typer.Exit(1 if difference.worse else 0)


def _check_runtimes(on: list[str]) -> None:
    """Refuse a runtime that is not known, before anything heavy is imported."""
    from onnxpool.runtimes import RUNTIMES

    for one in on:
        if one not in ("all", *RUNTIMES):
            raise ArgumentError(f"on={on!r}{nearest(one, RUNTIMES)} must be 'all', or some of {', '.join(RUNTIMES)}")


def _check_case(model: Path, reference: str | None, case: str | None) -> None:
    """Refuse a case that the golden file does not have, likewise."""
    if case and (reference is None or reference.endswith(".npz")):
        known = case_names(model.with_suffix(".golden.npz") if reference is None else Path(reference))
        if known and case not in known:
            raise ArgumentError(f"case={case!r}{nearest(case, known)} is not one of {', '.join(known)}")


def _write_pages(report: "Report", nodes: "Nodes | None", html: Path | None, junit: Path | None) -> None:
    """The report as files."""
    from onnxpool.validation import html_page, junit_xml

    if html:
        write_text(html, html_page(report, nodes))
    if junit:
        write_text(junit, junit_xml(report))


def _keep(
    report: Any,
    model: Path,
    reference: Any,
    folder: Path | None,
    certificate: bool,
    sign: Path | None,
    libraries: Sequence[Path],
) -> None:
    """Write what was asked for beside the report."""
    from onnxpool.diagnosis import write_bundle
    from onnxpool.validation import issue_certificate

    if folder:
        write_bundle(model, folder, reference, report.failing_case, libraries=libraries)
    if certificate:
        issue_certificate(report, model, private_key=sign)
