"""The Link header of a page that is not the last."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

if TYPE_CHECKING:
    from mirror.web.request import HubRequest


def page_link(request: HubRequest, cursor: int) -> dict[str, str]:
    """An absolute link to the page that starts at `cursor`.

    A relative one crashes Python clients, and ends the listing early in JavaScript and Rust.
    """
    query = [(name, value) for name, value in request.query.multi_items() if name != "cursor"]
    link = f"{request.base_url}{request.path}?{urlencode([*query, ('cursor', str(cursor))])}"
    return {"link": f'<{link}>; rel="next"'}
