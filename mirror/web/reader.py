"""Who reads a page: a browser that navigates, its language, its theme, and its session."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from mirror.core.errors import RequestError
from mirror.pages.messages import LANGUAGES, accepted_language
from mirror.pages.template import THEMES, Reader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Scope

    from mirror.web.proxy import ProxySettings

LANGUAGE_COOKIE, THEME_COOKIE, SESSION_COOKIE = (
    f"hubmirror_{name}" for name in ("lang", "theme", "session")
)
_MAX_COOKIES = 8192
_PAGE = b"text/html"


def wants_page(scope: Scope) -> bool:
    """Whether a browser navigates: it prefers HTML. Clients of the API ask for anything else, or
    for anything (`*/*`)."""
    for name, value in scope["headers"]:
        if name == b"accept":
            return is_page(value)
    return False


def is_page(accept: bytes) -> bool:
    """Whether an Accept header begins with HTML."""
    return accept[: len(_PAGE)].lower() == _PAGE


def reader_key(scope: Scope) -> tuple[str, str, bool]:
    """Everything in the headers of a browser that a page depends on, for the key of the cache."""
    headers = Headers(raw=scope["headers"])
    cookies = read_cookies(headers)
    language = cookies.get(LANGUAGE_COOKIE, "")
    if language not in LANGUAGES:
        language = accepted_language(headers.get("accept-language", ""))
    return language, _theme(cookies), SESSION_COOKIE in cookies


def reader_of(scope: Scope, proxy: ProxySettings) -> Reader:
    """The reader of a page."""
    headers = Headers(raw=scope["headers"])
    language, theme, has_session = reader_key(scope)
    query = parse_qsl(scope["query_string"].decode("ascii", "replace"))
    asked = dict(query)
    try:
        base_url = proxy.base_url(scope, headers)
    except RequestError:
        base_url = ""
    return Reader(
        asked["lang"] if asked.get("lang") in LANGUAGES else language,
        asked["theme"] if asked.get("theme") in THEMES else theme,
        base_url,
        urlsplit(base_url).path,
        local_path(scope["raw_path"].decode("ascii", "replace")),
        tuple(query),
        has_session and proxy.signer.closed,
    )


def preference_cookies(scope: Scope, reader: Reader) -> list[str]:
    """The Set-Cookie headers that keep the language and the theme in the query."""
    asked = dict(parse_qsl(scope["query_string"].decode("ascii", "replace")))
    chosen = (
        (LANGUAGE_COOKIE, asked.get("lang"), LANGUAGES),
        (THEME_COOKIE, asked.get("theme"), THEMES),
    )
    return [
        f"{name}={value}; Path={reader.root or '/'}; Max-Age=31536000; SameSite=Lax"
        for name, value, known in chosen
        if value in known
    ]


def local_path(path: str) -> str:
    """A path of this server. A browser takes `//host` and `/\\host` for another host."""
    return "/" + path.lstrip("/\\").replace("\\", "%5C")


def read_cookies(headers: Headers) -> Mapping[str, str]:
    return cookie_parser(headers.get("cookie", "")[:_MAX_COOKIES])


def _theme(cookies: Mapping[str, str]) -> str:
    theme = cookies.get(THEME_COOKIE, "")
    return theme if theme in THEMES else ""
