"""A report as JUnit XML: a suite per run, a test per case and output, and a suite for the model as a whole.

passed, noted   a test, the reason of a noted one as its output       skipped      <skipped>
mismatch        <failure>                                             all else     <error>
"""

from xml.etree import ElementTree

from onnxpool.validation.report import Report, Verdict

_ELEMENT = {
    "skipped": "skipped",
    "mismatch": "failure",
    "unloadable": "error",
    "structure": "error",
    "crashed": "error",
}


def junit_xml(report: Report) -> str:
    """The whole document, which continuous integration servers read."""
    root = ElementTree.Element("testsuites", name=f"onnxpool validate {report.model}")
    whole = _suite(root, "model", [("verdict", report.verdict, "; ".join((report.summary, *report.causes)))])
    for name, value in report.environment.items():
        ElementTree.SubElement(whole.find("properties"), "property", name=name, value=value)  # type: ignore[arg-type]
    for run in report.runs:
        tests = [(f"{r.case}, {r.output}", r.verdict, r.reason) for r in run.results]
        _suite(root, run.name, tests or [("opens", run.verdict, run.reason)])
    for count in ("tests", "failures", "errors", "skipped"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in root)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(root: ElementTree.Element, name: str, tests: list[tuple[str, Verdict, str]]) -> ElementTree.Element:
    suite = ElementTree.SubElement(root, "testsuite", name=name)
    ElementTree.SubElement(suite, "properties")
    for test, verdict, reason in tests:
        case = ElementTree.SubElement(suite, "testcase", classname=name, name=_printable(test))
        if verdict in _ELEMENT:
            ElementTree.SubElement(case, _ELEMENT[verdict], type=verdict, message=_printable(reason))
        elif reason:
            ElementTree.SubElement(case, "system-out").text = _printable(reason)
    suite.set("tests", str(len(tests)))
    for count, element in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(count, str(len(suite.findall(f"testcase/{element}"))))
    return suite


def _printable(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)
