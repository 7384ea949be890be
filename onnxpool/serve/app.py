"""The REST side as one ASGI application, for uvicorn here and for whatever else hosts one, such as Ray Serve.

>>> app = application(Repository("models"))  # doctest: +SKIP

Each request gets a line in the access log where there is one (:class:`Told`).
What comes is checked in this order: who asks (:class:`Guard`), how much it is (:mod:`onnxpool.serve.bodies`), what it
says (:mod:`onnxpool.serve.codec`). Errors are ``{"error": "..."}`` with a status that says whose they are.
"""

import asyncio
import base64
import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from onnxpool.serve import bodies, codec
from onnxpool.serve.access import Told
from onnxpool.serve.guard import Guard
from onnxpool.serve.inference import Inference
from onnxpool.serve.limits import Options, Refusal
from onnxpool.serve.openapi import describe, page
from onnxpool.serve.pictures import Pictures
from onnxpool.serve.repository import Repository
from onnxpool.serve.responses import FAILED, answer, refusal
from onnxpool.serve.service import Service, in_thread
from onnxpool.serve.siblings import Siblings

PAGE = Path(__file__).with_name("page.html")
"""Served at ``/`` where it is there."""

log = logging.getLogger("onnxpool.serve")


def application(repository: Repository, options: Options | None = None, siblings: Siblings | None = None) -> Starlette:
    """The application for these models; ``options`` are those of the repository where not given.

    ``siblings`` are other processes that serve the same models on the same port.

    ``application(...).state.service`` is what a gRPC server beside it shares.
    """
    service = Service(repository, options or repository.options, siblings)
    rest = _Rest(service)
    routes = rest.routes()
    if service.access.tracing is not None:
        service.access.tracing.route_of = partial(_route_of, routes)
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(Inference, service=service),
            Middleware(Told, access=service.access, closing=lambda: service.draining),
            Middleware(Guard, options=service.options),
        ],
        exception_handlers={Refusal: _refused, HTTPException: _unrouted, Exception: _failed},
        lifespan=rest.lifespan,
    )
    app.router.redirect_slashes = False  # to an absolute address, which is wrong behind a proxy that ends TLS
    app.state.service = service
    return app


class _Rest:
    """Endpoints over one service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.repository = service.repository
        self.policy = _policy(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}

    def routes(self) -> list[Route]:
        models = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
        routes = [
            *(Route(f"{model}/infer", self.infer, methods=["POST"]) for model in models),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/v2", self.server),
            Route("/v2/repository/index", self.index, methods=["POST"]),
            Route("/v2/repository/models/{name}/load", self.load, methods=["POST"]),
            Route("/v2/repository/models/{name}/unload", self.unload, methods=["POST"]),
            Route("/v2/models/stats", self.statistics),
            Route("/metrics", self.metrics),
            Route("/openapi.json", self.openapi),
            Route("/docs", self.docs),
            Route("/", self.home),
            *Pictures(self.service).routes(),
        ]
        for model in models:
            routes += [
                Route(f"{model}/ready", self.model_ready),
                Route(f"{model}/config", self.config),
                Route(f"{model}/stats", self.statistics),
                Route(model, self.model),
            ]
        return routes

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        looking = asyncio.create_task(self._look())
        yield
        looking.cancel()

    async def _look(self) -> None:
        while poll_s := self.service.options.poll_s:
            await asyncio.sleep(poll_s)
            try:
                await in_thread(self.repository.look)
            except Exception as error:  # such as a folder that is gone for a moment; no file may end the looking
                log.warning("looking for new files failed: %s", error)

    async def infer(self, _: Request) -> Response:
        """Inference is answered before requests are routed; the route says which methods there are."""
        raise HTTPException(405, headers={"Allow": "POST"})

    # --- what there is

    async def live(self, _: Request) -> Response:
        return answer({"live": True})

    async def ready(self, _: Request) -> Response:
        ready = self.service.ready()
        return answer({"ready": ready}, 200 if ready else 503)

    async def server(self, _: Request) -> Response:
        return answer(self.service.server())

    async def model(self, request: Request) -> Response:
        return answer(self.service.model(self.repository.get(**request.path_params)))

    async def model_ready(self, request: Request) -> Response:
        served = self.repository.get(**request.path_params)
        ready = not served.batcher.stuck
        return answer({"name": served.name, "ready": ready}, 200 if ready else 503)

    async def config(self, request: Request) -> Response:
        return answer(self.service.config(self.repository.get(**request.path_params)))

    async def statistics(self, request: Request) -> Response:
        return answer(await self.service.all_statistics(**request.path_params))

    # --- the repository

    async def index(self, request: Request) -> Response:
        given = codec.known(await self._fields(request), "request", ready=bool)
        return answer(self.repository.index(**given))

    async def load(self, request: Request) -> Response:
        await self.service.load(request.path_params["name"], await self._parameters(request))
        return answer({})

    async def unload(self, request: Request) -> Response:
        await self._parameters(request)
        await self.service.unload(request.path_params["name"])
        return answer({})

    async def _parameters(self, request: Request) -> dict[str, Any]:
        given = codec.known(await self._fields(request), "request", parameters=dict)
        return dict(given.get("parameters", {}))

    async def _fields(self, request: Request) -> dict[str, Any]:
        with self.service.holding() as held:
            return codec.fields(await bodies.read(request, self.service.options, held))

    # --- for people and monitors

    async def metrics(self, _: Request) -> Response:
        return Response(await self.service.all_metrics(), media_type=CONTENT_TYPE_LATEST)

    async def openapi(self, _: Request) -> Response:
        return answer(describe(self.service))

    async def docs(self, _: Request) -> Response:
        return HTMLResponse(page(describe(self.service)), headers=_NO_SCRIPT)

    async def home(self, _: Request) -> Response:
        return FileResponse(PAGE, headers=self.policy) if PAGE.exists() else RedirectResponse("/docs")


def _route_of(routes: list[Route], path: str) -> str | None:
    """The address with names of places, such as /v2/models/{name}, that this path is one of."""
    return next((route.path for route in routes if route.path_regex.match(path)), None)


_CLOSED = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_NO_SCRIPT = {"content-security-policy": _CLOSED}


def _policy(html: str) -> dict[str, str]:
    """What a page with one script may do: run that, ask this server, and show pictures that it was given."""
    script = html.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"script-src 'sha256-{digest}'; connect-src 'self'; img-src 'self' blob: data:"
    return {"content-security-policy": f"{_CLOSED}; {allowed}"}


# --- what is not served


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return refusal(error)


async def _unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said, where = error.detail, f"{request.url.path!r:.200}"
    if error.status_code == 404:
        said = f"nothing is served at {where}; /docs says what is"
    elif error.status_code == 405:
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "POST").split(", ")))
        said = f"{where} is not for {request.method}; use {allowed}"
    response = answer({"error": said}, error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _failed(_: Request, __: Exception) -> Response:
    return answer(FAILED, 500)
