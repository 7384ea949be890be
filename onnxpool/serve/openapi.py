"""The REST side described as OpenAPI 3.1, with the models that are there, and the same as a page for people.

Bodies of requests have examples; that of ``infer`` is for a model that serves now, whose inputs it names.
"""

import json
import math
from collections.abc import Iterator
from html import escape
from typing import Any

from onnxpool.dtypes import TYPES
from onnxpool.serve.codec import HEADER
from onnxpool.serve.limits import NAME, VERSION
from onnxpool.serve.repository import Served
from onnxpool.serve.service import Service
from onnxpool.serve.tensors import datatype

_ERRORS = {
    400: "the request is wrong; the answer says what",
    401: "the token is missing or wrong",
    403: "another site asks, or clients may not do this here",
    404: "there is no such model, or it is not loaded",
    405: "not this method",
    408: "the body came too slowly",
    413: "the body, or a tensor, is too large",
    415: "the body's encoding is unknown",
    421: "the server is called by a name that it does not have",
    422: "the model cannot run on these inputs, or be loaded",
    429: "too many requests wait for this model; see Retry-After",
    503: "the server is not ready, or holds as much as it can",
    504: "there was no answer in time",
}


def describe(service: Service) -> dict[str, Any]:
    """The OpenAPI document."""
    names, serving = service.repository.names(), service.repository.serving()
    asked = _question(serving[0]) if serving else None
    name = _parameter("name", {"type": "string", "pattern": f"^{NAME.pattern}$", "enum": names})
    version = _parameter("version", {"type": "string", "pattern": f"^{VERSION.pattern}$", "examples": ["1"]})
    paths: dict[str, Any] = {
        "/v2": {"get": _does("What this server is", "Server")},
        "/v2/health/live": {"get": _does("Whether the server runs", "Live")},
        "/v2/health/ready": {"get": _does("Whether every model is ready", "Ready")},
        "/v2/repository/index": {"post": _does("Every model and its state", "Index", "IndexRequest", {"ready": True})},
        "/v2/models/stats": {"get": _does("How much every model has answered", "Statistics")},
        "/metrics": {"get": _does("Metrics for Prometheus", None)},
    }
    for doing in ("load", "unload"):
        does = _does(f"{doing.capitalize()} a model of the repository", "Nothing", "Control", {"parameters": {}})
        paths[f"/v2/repository/models/{{name}}/{doing}"] = {"post": does, "parameters": [name]}
    for path, parameters in (("", [name]), ("/versions/{version}", [name, version])):
        model = f"/v2/models/{{name}}{path}"
        paths[model] = {"get": _does("The model's inputs and outputs", "Model"), "parameters": parameters}
        paths[f"{model}/config"] = {"get": _does("The same, as Triton has it", "Config"), "parameters": parameters}
        paths[f"{model}/stats"] = {"get": _does("How much it has answered", "Statistics"), "parameters": parameters}
        paths[f"{model}/ready"] = {"get": _does("Whether the model is ready", "Ready"), "parameters": parameters}
        paths[f"{model}/infer"] = {"post": _infer(asked), "parameters": parameters}
    paths["/v1/models/{name}/picture"] = {"post": _picture(), "parameters": [name]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "onnxpool", "version": service.server()["version"], "description": _DESCRIPTION},
        "paths": paths,
        "components": {"schemas": _SCHEMAS},
    }


_MOST_NUMBERS = 1024
"""A larger example is none: nobody reads it."""

_FEW = 4


def _question(served: Served) -> dict[str, Any]:
    """A request that this model answers: zeros for each input, in the sizes that it was tried with."""
    inputs = []
    for info in served.session.inputs:
        shape = list(served.trial.shapes[info.name])
        data = [False if info.dtype.kind == "b" else 0] * math.prod(shape)
        inputs.append({"name": info.name, "datatype": datatype(info.dtype), "shape": shape, "data": data})
    return {"id": "one", "inputs": inputs}


_DESCRIPTION = "The Open Inference Protocol, version 2, with its binary tensor extension."


def page(document: dict[str, Any]) -> str:
    """The document as one HTML page, which needs nothing else; ``x-example`` is shown in place of an example."""
    rows = "".join(
        f"<tr><td>{method.upper()}</td><td><code>{escape(path)}</code></td><td>{escape(does['summary'])}</td></tr>"
        for path, entry in sorted(document["paths"].items())
        for method, does in entry.items()
        if method != "parameters"
    )
    statuses = "".join(f"<tr><td>{status}</td><td>{escape(meaning)}</td></tr>" for status, meaning in _ERRORS.items())
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>onnxpool: REST</title><style>
body {{ font: 1rem/1.5 system-ui; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color-scheme: light dark }}
td {{ padding: .2rem 1rem .2rem 0; vertical-align: top; overflow-wrap: anywhere }}
td:first-child {{ overflow-wrap: normal }}
td code {{ white-space: nowrap }}
h3 {{ font: inherit; margin: 1.2rem 0 .3rem; overflow-wrap: anywhere }}
@media (max-width: 40rem) {{ tr {{ display: grid; grid-template-columns: 3.5rem minmax(0, 1fr); margin-bottom: .5rem }}
  td:nth-child(3) {{ grid-column: 2 }}
  td code {{ white-space: normal }} }}
pre {{ margin: 0; padding: .7rem; border: 1px solid; border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere }}
</style></head>
<body><h1>onnxpool</h1><p>{escape(_DESCRIPTION)} <a href="/openapi.json">OpenAPI document</a>,
<a href="/">pictures</a></p>
<h2>Endpoints</h2><table>{rows}</table>
<h2>Bodies of requests</h2>{"".join(_bodies(document))}
<h2>When a request is not served</h2><table>{statuses}</table></body></html>
"""


def _bodies(document: dict[str, Any]) -> Iterator[str]:
    """An example for each body, and a line for the shell that sends it."""
    for path, entry in document["paths"].items():
        content = entry.get("post", {}).get("requestBody", {}).get("content", {})
        if "version" in path or not content:
            continue
        names = next((one["schema"].get("enum") for one in entry.get("parameters", ()) if one["name"] == "name"), None)
        place = f"$SERVER{path.replace('{name}', names[0] if names else 'NAME')}"
        shown = content.get("application/json", {}).get("x-example")
        if shown is None:
            line = f"curl --data-binary @photo.jpg {place}"
            told = f"the bytes of a picture file\n\n{line}"
        else:
            told = f"{shown}\n\ncurl --data @body.json {place}"
        yield f"<h3><b>POST</b> <code>{escape(path)}</code></h3><pre>{escape(told)}</pre>"


def _shown(body: dict[str, Any]) -> str:
    """As JSON for people: an input a line, and of a long list of numbers the first ones."""
    if "inputs" not in body:
        return json.dumps(body)
    lines = []
    for tensor in body["inputs"]:
        head = json.dumps({name: value for name, value in tensor.items() if name != "data"})
        few = json.dumps(tensor["data"][:_FEW])[:-1]
        more = f", ... {len(tensor['data'])} numbers" if len(tensor["data"]) > _FEW else ""
        lines.append(f'  {head[:-1]}, "data": {few}{more}]}}')
    rows = ",\n".join(lines)
    return f'{{"id": {json.dumps(body["id"])}, "inputs": [\n{rows}\n]}}'


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _does(
    summary: str, gives: str | None, body: str | None = None, example: dict[str, Any] | None = None
) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(gives)}} if gives else {"text/plain": {"schema": {"type": "string"}}}
    answers: dict[str, Any] = {"200": {"description": "Done", "content": content}}
    errors = {"application/json": {"schema": _ref("Error")}}
    answers |= {str(status): {"description": meaning, "content": errors} for status, meaning in _ERRORS.items()}
    if gives == "Ready":
        answers["503"]["content"] = {"application/json": {"schema": {"anyOf": [_ref("Ready"), _ref("Error")]}}}
    does: dict[str, Any] = {"summary": summary, "responses": answers}
    if body:
        described: dict[str, Any] = {"schema": _ref(body)}
        if example is not None:
            described["x-example"] = _shown(example)
            if sum(len(tensor["data"]) for tensor in example.get("inputs", ())) <= _MOST_NUMBERS:
                described["example"] = example
        does["requestBody"] = {"required": False, "content": {"application/json": described}}
    return does


def _infer(example: dict[str, Any] | None) -> dict[str, Any]:
    does = _does("Run the model", "InferResponse", "InferRequest", example)
    raw = {"schema": {"type": "string", "format": "binary"}}
    does["requestBody"]["content"]["application/octet-stream"] = raw
    does["responses"]["200"]["content"]["application/octet-stream"] = raw
    length = {"type": "string", "pattern": "^[0-9]{1,9}$"}
    does["parameters"] = [{"name": HEADER, "in": "header", "required": False, "schema": length}]
    return does


def _picture() -> dict[str, Any]:
    does = _does("Classes of a picture, and maps of the model's poolings: what the page at / shows", "Picture")
    raw = {"schema": {"type": "string", "format": "binary"}}
    return does | {"requestBody": {"required": True, "content": {"application/octet-stream": raw}}}


# --- schemas


def _ref(name: str | None) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _taken(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """An object of a request, whose unknown fields are ignored."""
    return _object(required, **properties) | {"additionalProperties": True}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TEXT, _TRUTH = {"type": "string"}, {"type": "boolean"}
_SIZE = {"type": "integer", "minimum": 0}
_TYPE = {"type": "string", "enum": [element.protocol for element in TYPES]}
_NUMBERS = {"type": "array", "items": {"anyOf": [{"type": "number"}, _TRUTH, {"type": "array"}]}}
_TENSOR = _object(("name", "datatype", "shape"), name=_TEXT, datatype=_TYPE, shape=_list({"type": "integer"}))
_GIVEN = _taken(
    ("name", "datatype", "shape"),
    name=_TEXT,
    datatype=_TYPE,
    shape=_list(_SIZE),
    parameters=_taken(binary_data_size=_SIZE),
    data=_NUMBERS,
)
_STATE = {"type": "string", "enum": ["READY", "UNAVAILABLE"]}

_SCHEMAS = {
    "Error": _object(("error",), error=_TEXT),
    "Nothing": _object(),
    "Live": _object(("live",), live=_TRUTH),
    "Ready": _object(("ready",), ready=_TRUTH, name=_TEXT),
    "Server": _object(("name", "version", "extensions"), name=_TEXT, version=_TEXT, extensions=_list(_TEXT)),
    "Model": _object(
        ("name", "versions", "platform", "inputs", "outputs"),
        name=_TEXT,
        versions=_list(_TEXT),
        platform=_TEXT,
        inputs=_list(_TENSOR),
        outputs=_list(_TENSOR),
    ),
    "Config": {"type": "object", "required": ["name", "max_batch_size", "input", "output"]},
    "Statistics": {"type": "object", "required": ["model_stats"]},
    "IndexRequest": _taken(ready=_TRUTH),
    "Index": _list(_object(("name", "version", "state"), name=_TEXT, version=_TEXT, state=_STATE, reason=_TEXT)),
    "Control": _taken(parameters=_taken(unload_dependents=_TRUTH)),
    "InferRequest": _taken(
        ("inputs",),
        id=_TEXT,
        parameters=_taken(timeout={"type": "integer", "minimum": 1}, binary_data_output=_TRUTH),
        inputs=_list(_GIVEN),
        outputs=_list(_taken(("name",), name=_TEXT, parameters=_taken(binary_data=_TRUTH))),
    ),
    "Picture": _object(
        ("model", "time_s", "size", "outputs", "poolings"),
        model=_TEXT,
        time_s={"type": "number"},
        size=_list(_SIZE),
        outputs=_list({"type": "object"}),
        poolings=_list({"type": "object"}),
    ),
    "InferResponse": _object(
        ("model_name", "model_version", "outputs"),
        model_name=_TEXT,
        model_version=_TEXT,
        id=_TEXT,
        outputs=_list(_GIVEN),
    ),
}
