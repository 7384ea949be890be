"""What a validation found: reports, their comparison, and certificates that bind a report to the files it is about.

:func:`onnxpool.validate` makes a :class:`Report`.
"""

from typing import TYPE_CHECKING

from onnxpool._lazy import on_demand

if TYPE_CHECKING:
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
    "issue_certificate",
    "load_certificate",
    "load_report",
    "rescale_report",
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
    "issue_certificate": "validation.certificate",
    "rescale_report": "validation.history",
    "load_certificate": "validation.certificate",
    "load_report": "validation.history",
    "verify_certificate": "validation.certificate",
}
"""The module that each name is in."""

if not TYPE_CHECKING:
    __getattr__, __dir__ = on_demand(__name__, __all__, _HOMES)
