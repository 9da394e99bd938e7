"""Bare Starlette on this project's protocol class: constants, as a base to compare with."""

from __future__ import annotations

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mirror.server.uvicorn_protocol import Protocol

ROWS = [{"type": "file", "oid": 40 * "a", "size": n, "path": f"file-{n}.json"} for n in range(50)]


async def head(_: Request) -> Response:
    return Response(headers={"etag": '"x"', "x-repo-commit": 40 * "a", "accept-ranges": "bytes"})


async def json(_: Request) -> Response:
    return JSONResponse(ROWS)


app = Starlette(routes=[Route("/json", json), Route("/org/small/resolve/main/{path:path}", head)])

if __name__ == "__main__":
    uvicorn.run(
        app, port=int(sys.argv[1]), http=Protocol, log_config=None, access_log=False, ws="none"
    )
