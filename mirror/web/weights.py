"""What the hub says about the weights of a repository: LFS files, and headers of safetensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from mirror.core.errors import RequestError
from mirror.core.tree import check_path
from mirror.derived import hub_json
from mirror.derived.weight_headers import HeaderError
from mirror.web.api import json_response

if TYPE_CHECKING:
    from starlette.responses import Response

    from mirror.core.source import Snapshot
    from mirror.web.request import HubRequest

_MAX_INDEX = 16 * 1024 * 1024
_MAX_SHARDS = 2000
_MAX_TENSORS = 1_000_000


def lfs_files(request: HubRequest) -> Response:
    """The LFS files of the default branch (`list_lfs_files`)."""
    snapshot = request.snapshot()
    pushed = hub_json.date(snapshot.last_modified)
    files = (stored.file for _, stored in sorted(snapshot.files.items()))
    rows = [
        {"fileOid": file.lfs_sha256, "oid": file.lfs_sha256, "filename": file.path,
         "size": file.size, "pushedAt": pushed}
        for file in files if file.lfs_sha256
    ]  # fmt: skip
    return json_response(rows)


def safetensors_metadata(request: HubRequest) -> Response:
    """The header of each shard that an index names, and the metadata of the index
    (`get_sharded_safetensors_metadata`)."""
    snapshot = request.snapshot()
    path = check_path("/".join(request.params))
    index = _index(request, snapshot, path)
    folder = path.rpartition("/")[0]
    facts, headers, tensors = request.facts(snapshot), {}, 0
    for shard in _shards(path, index["weight_map"]):
        name = f"{folder}/{shard}" if folder else shard
        snapshot.find(check_path(name))
        try:
            headers[shard] = facts.safetensors_header(name)
        except HeaderError as exc:
            raise RequestError(f"{name} has no header of safetensors: {exc}.") from exc
        tensors += len(headers[shard])
        if tensors > _MAX_TENSORS:
            raise RequestError(f"The shards of {path} have more than {_MAX_TENSORS} tensors.")
    return json_response({"index": {"metadata": index.get("metadata")}, "headers": headers})


def _index(request: HubRequest, snapshot: Snapshot, path: str) -> dict[str, Any]:
    size = snapshot.find(path).file.size
    body = request.facts(snapshot).read(path, _MAX_INDEX) if size <= _MAX_INDEX else b""
    try:
        index = orjson.loads(body)
    except orjson.JSONDecodeError:
        index = None
    if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
        raise RequestError(f"{path[:200]!r} is not an index of safetensors.")
    return index


def _shards(path: str, weight_map: dict[str, Any]) -> list[str]:
    shards = sorted({str(shard) for shard in weight_map.values()})
    if len(shards) > _MAX_SHARDS:
        raise RequestError(f"{path} names more than {_MAX_SHARDS} shards.")
    return shards
