"""How :mod:`onnxpool.validation.report` shows what a validation found: text, JUnit XML, and a web page with charts."""
