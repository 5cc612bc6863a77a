"""The HTTP application: routes, errors in OpenAI's form, the page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

from pocketlm import __version__
from pocketlm.serving.chat import ChatOrder
from pocketlm.serving.completions import CompletionOrder
from pocketlm.serving.errors import ApiError
from pocketlm.serving.exchange import Exchange, Service
from pocketlm.serving.gate import Gate, State
from pocketlm.serving.limits import Limits
from pocketlm.serving.metrics import Metrics
from pocketlm.serving.models import ServedModel
from pocketlm.serving.openapi import document
from pocketlm.serving.orders import find_model
from pocketlm.serving.page_files import page_files
from pocketlm.serving.routed import RoutedExchange
from pocketlm.serving.router import Asking, Router

THREADS = 2
"""For parsing, templates and tokenizing, and as many for grammars, beside the engines' threads."""
STOP_SECONDS = 5.0
EXPOSED_HEADERS = (
    "x-seed", "x-request-id", "x-pocketlm-routed", "x-pocketlm-confidence", "retry-after", "x-should-retry",
)  # fmt: skip
"""That web pages of other origins may read."""


def create_app(
    models: Mapping[str, ServedModel],
    limits: Limits,
    token: str | None,
    origins: Sequence[str] = (),
    router: Router | None = None,
) -> FastAPI:
    """The application; `app.state.gate` is its gate's `State`.

    Args:
        models: by their names.
        token: that clients must send; None: loopback names alone are answered to.
        origins: of web pages that may call it besides its own.
        router: sends chats on to a larger model where ours are unsure.
    """
    metrics = Metrics(models)
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="prepare")
    compilers = ThreadPoolExecutor(THREADS, thread_name_prefix="compile")
    service = Service(models, limits, metrics, threads, compilers)
    asking = None if router is None else Asking(router)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        for pool in (threads, compilers):
            pool.shutdown(wait=False, cancel_futures=True)
        for model in models.values():
            model.worker.stop(STOP_SECONDS)

    app = FastAPI(
        title="pocketlm", version=__version__, docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan,
        redirect_slashes=False,
    )  # fmt: skip
    page = page_files()
    app.state.gate = gate = State()
    described = JSONResponse(document(models, limits, token is not None))

    @app.post("/v1/completions")
    async def completions() -> Response:
        return Exchange(service, CompletionOrder)

    @app.post("/v1/chat/completions")
    async def chat() -> Response:
        return Exchange(service, ChatOrder) if asking is None else RoutedExchange(service, ChatOrder, asking)

    @app.get("/v1/models")
    async def list_models() -> Response:
        return JSONResponse({"object": "list", "data": [_described(model) for model in models.values()]})

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Response:
        return JSONResponse(_described(find_model(models, name)))

    @app.get("/health")
    async def health() -> Response:
        broken = [name for name, model in models.items() if model.worker.failure]
        return JSONResponse({"status": "failed" if broken else "ok", "failed": broken}, 503 if broken else 200)

    @app.get("/ready")
    async def ready() -> Response:
        broken = any(model.worker.failure for model in models.values())
        status = "failed" if broken else "draining" if gate.draining else "ready"
        return JSONResponse({"status": status}, 200 if status == "ready" else 503)

    @app.get("/metrics")
    async def figures() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return described

    def route(place: str, answer: Response) -> None:
        @app.get(place)
        async def file() -> Response:
            return answer

    for place, answer in page.items():
        route(place, answer)

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException) -> Response:
        message = {404: f"there is nothing at {request.url.path[:200]}", 405: "this path takes another method"}
        answer = ApiError(error.status_code, message.get(error.status_code, str(error.detail))).response()
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return ApiError(500, "the server failed on this request; its log says more", code="internal_error").response()

    app.add_middleware(Gate, state=gate, limits=limits, metrics=metrics, token=token, open_paths=["/health", *page])
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"],
            allow_headers=["*"], expose_headers=list(EXPOSED_HEADERS),  # OpenAI's own client sends x-stainless-... too
        )  # fmt: skip
    return app


def _described(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "pocketlm",
        "context_length": model.context,
    }
