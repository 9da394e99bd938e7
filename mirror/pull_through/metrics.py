"""The figures of pull-through in `/metrics`. All processes of a server write to one folder, and
`mirror/web/observe.py` adds them up."""

from __future__ import annotations

from prometheus_client import Counter

RECEIVED = Counter(
    "hubmirror_upstream_received_bytes", "Bytes of files that upstream sent.", registry=None
)
RESOLVED = Counter(
    "hubmirror_upstream_requests", "Questions to upstream about a revision.", ["outcome"],
    registry=None,
)  # fmt: skip
OPENED = Counter(
    "hubmirror_upstream_opened_files", "Files of upstream that were opened for clients.", ["place"],
    registry=None,
)  # fmt: skip
