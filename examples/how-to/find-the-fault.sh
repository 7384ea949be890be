# Find the fault: the program of docs/how-to/find-the-fault.md, to be run in a copy of examples/files.
set -e
onnxpool validate network.onnx --reference nets.py:network --per-node   # which node, and which line of your code
onnxpool bundle network.onnx reproducer --case nan     # model, case and script, which run without onnxpool
onnxpool validate network.onnx --case nan              # one case again
onnxpool validate network.onnx --without nan --without 'sizes 0x*'    # all but these
