"""Validate a model: the program of docs/how-to/validate.md, to be run in a copy of examples/files."""

import onnxpool
from onnxpool.validation import html_page, junit_xml, sentences

report = onnxpool.validate("network.onnx")
print(report.passed, report.exit_status)  # True 0
first = report.to_json()["runs"][0]["results"][0]
print(first["verdict"], first["share"] < 1)  # passed True
told = sentences(report)
html, junit = html_page(report), junit_xml(report)
