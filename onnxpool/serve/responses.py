"""Answers in JSON, and how a refusal looks: ``{"error": "..."}`` with its status, and when to come back."""

from typing import Any

import orjson
from starlette.responses import Response

from onnxpool.serve.limits import Refusal

FAILED = {"error": "the server failed; its log says why"}


def answer(value: Any, status: int = 200) -> Response:
    """``value`` as JSON."""
    return Response(orjson.dumps(value), status, media_type="application/json")


def refusal(refused: Refusal) -> Response:
    """What a client is told that is not served."""
    response = answer({"error": str(refused)}, refused.status)
    if refused.retry_after_s is not None:
        response.headers["retry-after"] = str(refused.retry_after_s)
    if refused.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response
