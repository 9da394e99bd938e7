"""Handlers for the operator: health, metrics, and the welcome page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse, Response

from mirror.core.errors import UnavailableError

if TYPE_CHECKING:
    from mirror.web.request import HubRequest


_MAX_PROBLEMS = 100


def healthz(_: HubRequest) -> Response:
    """200 while the process runs. The handler uses no thread and no disk."""
    return PlainTextResponse("ok\n")


def readyz(request: HubRequest) -> Response:
    """200 if every source can be listed, with the files that cannot be served, as of the last look.

    Names of repositories and files are shown only if the mirror has no token: the route is open.
    """
    context = request.context
    try:
        context.openllm_files.check()
        count = sum(1 for _ in context.source.repos())
    except UnavailableError as exc:
        return PlainTextResponse(f"{exc}\n", 503)
    lines = [f"ready: {count} repositories"]
    if problems := context.catalog.last_look().problems:
        lines.append(
            f"{len(problems)} of them have files that cannot be served. `hubmirror ls` lists them."
        )
        if not context.proxy.signer.closed:
            lines += problems[:_MAX_PROBLEMS]
    return PlainTextResponse("\n".join(lines) + "\n")


def metrics(request: HubRequest) -> Response:
    """The text that Prometheus scrapes."""
    body = request.context.metrics.render()
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")


def welcome(request: HubRequest) -> Response:
    base = request.base_url
    return PlainTextResponse(
        "This is hubmirror, a local Hugging Face hub. On a client:\n\n"
        f"  export HF_ENDPOINT={base}\n"
        "  hf download ORG/NAME\n\n"
        f"What is here: {base}/api/models\n"
    )
