"""Validation: a model in every form and runtime against float64 answers, and what is kept of that.

    validate.py      the whole: a model to a report           report.py        what was found, as plain values
    model.py         the model, read once, in each form       as_text.py       the report in sentences
    plan.py          which configurations are to run          as_html.py       as a web page, as_svg.py its charts
    matrix.py        runs them, each in another process       as_junit.py      for continuous integration servers
    compare.py       a verdict on each output                 history.py       saved reports, read back and compared
    blame.py         which side is wrong                      certificate.py   a report, bound to the files that ran
    patterns.py      what wrong elements suggest              spread.py        how errors are spread, for the charts
    evidence.py      which files ran, and who judged          signatures.py    of certificates
    limits.py        what runtimes are known not to do        quantized.py     a quantised model beside its original
    foreign.py       operators of other libraries             invariance.py    what answers must not depend on

The public names are those below; :func:`onnxpool.validate` makes a :class:`Report`, which :func:`sentences`,
:func:`html_page` and :func:`junit_xml` show. Runtimes run in processes of their own, which may die
(:mod:`onnxpool.runtimes`); the float64 reference runs here.
"""

from typing import TYPE_CHECKING

from onnxpool._lazy import on_demand

if TYPE_CHECKING:
    from onnxpool.validation.as_html import html_page
    from onnxpool.validation.as_junit import junit_xml
    from onnxpool.validation.as_text import sentences
    from onnxpool.validation.certificate import (
        Certificate,
        Verification,
        check_certificate,
        issue_certificate,
        load_certificate,
        verify_certificate,
    )
    from onnxpool.validation.history import Difference, compare_reports, load_report, rescale_report
    from onnxpool.validation.report import EXIT_STATUS, Report, Result, Run, Verdict

__all__ = [
    "EXIT_STATUS",
    "Certificate",
    "Difference",
    "Report",
    "Result",
    "Run",
    "Verdict",
    "Verification",
    "check_certificate",
    "compare_reports",
    "html_page",
    "issue_certificate",
    "junit_xml",
    "load_certificate",
    "load_report",
    "rescale_report",
    "sentences",
    "verify_certificate",
]

_HOMES = {
    "EXIT_STATUS": "validation.report",
    "Certificate": "validation.certificate",
    "Difference": "validation.history",
    "Report": "validation.report",
    "Result": "validation.report",
    "Run": "validation.report",
    "Verdict": "validation.report",
    "Verification": "validation.certificate",
    "check_certificate": "validation.certificate",
    "compare_reports": "validation.history",
    "html_page": "validation.as_html",
    "issue_certificate": "validation.certificate",
    "junit_xml": "validation.as_junit",
    "rescale_report": "validation.history",
    "load_certificate": "validation.certificate",
    "load_report": "validation.history",
    "sentences": "validation.as_text",
    "verify_certificate": "validation.certificate",
}
"""The module that each name is in."""

if not TYPE_CHECKING:
    __getattr__, __dir__ = on_demand(__name__, __all__, _HOMES)
