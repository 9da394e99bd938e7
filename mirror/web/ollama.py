"""gguf files as a container registry, for Ollama and for llama.cpp before 2026.

A manifest's tag is a quantisation (`Q4_K_M`), a file name, or `latest`. Layers are named by their
sha256, so blobs are found again by digest among the files of the repository's HEAD; Ollama's
config is made here, always of the same bytes.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response

from mirror.core.errors import EntryNotFoundError, RequestError
from mirror.web.api import json_response
from mirror.web.file_response import blob_response, body_response

if TYPE_CHECKING:
    from mirror.core.source import Snapshot, StoredFile
    from mirror.web.request import HubRequest

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.ollama.image."
_DEFAULT_QUANTISATIONS = ("Q4_K_M", "Q8_0")  # llama.cpp's own order
# What a repository may hold beside the weights for Ollama, by the hub's convention.
_EXTRAS = {"template": "template", "system": "system", "params": "params"}
_SMALL = 1024 * 1024
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
# llama.cpp's `gguf_filename_is_model` skips the same files.
_NO_MODEL = re.compile(r"mmproj|imatrix|(^|/)(mtp|eagle3|dflash|dspark)-")
# llama.cpp's `llama_ftype` numbers of the common quantisations.
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 32: "BF16",
}  # fmt: skip


def manifest(request: HubRequest) -> Response:
    """The manifest of one quantisation, in the form that the client knows."""
    snapshot = request.snapshot()
    stored = _choose(snapshot, request.params[0])
    request.asked.paths.add(stored.file.path)
    if "llama-cpp" in request.headers.get("user-agent", ""):
        return json_response(_llama_manifest(snapshot, stored))
    if _SPLIT.search(stored.file.path):
        raise RequestError(
            f"{stored.file.path} is one of several parts, and Ollama loads models of one file only."
        )
    layers = [_layer("model", _sha256(request, stored), stored.file.size)]
    if projector := _projector(snapshot):
        layers.append(_layer("projector", _sha256(request, projector), projector.file.size))
    for path, kind in _EXTRAS.items():
        if body := request.facts(snapshot).read(path, _SMALL):
            layers.append(_layer(kind, hashlib.sha256(body).hexdigest(), len(body)))
    config = _config(request, snapshot, stored)
    body = orjson.dumps({
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _descriptor(_CONFIG, hashlib.sha256(config).hexdigest(), len(config)),
        "layers": layers,
    })  # fmt: skip
    return Response(body, 200, media_type=_MANIFEST)


def blob(request: HubRequest) -> Response:
    """A layer or a config by its digest."""
    snapshot = request.snapshot()
    digest = request.params[0].removeprefix("sha256:")
    headers = {
        "content-type": "application/octet-stream",
        "docker-content-digest": f"sha256:{digest}",
    }
    for stored in snapshot.files.values():
        if stored.file.lfs_sha256 == digest or (
            _is_small_layer(stored) and _sha256(request, stored) == digest
        ):
            request.asked.paths.add(stored.file.path)
            return blob_response(stored, headers, request.file_request)
    for stored in _weights(snapshot):
        config = _config(request, snapshot, stored)
        if hashlib.sha256(config).hexdigest() == digest:
            return body_response(config, headers, request.file_request)
    raise EntryNotFoundError(snapshot.repo, snapshot.commit_hash, f"sha256:{digest[:64]}")


def _choose(snapshot: Snapshot, tag: str) -> StoredFile:
    """The gguf file that a tag means; of a split one, its first part."""
    weights = _weights(snapshot)
    wanted = _DEFAULT_QUANTISATIONS if tag == "latest" else (tag.removesuffix(".gguf"),)
    for one in wanted:
        pattern = re.compile(rf"(^|[^a-z0-9]){re.escape(one)}([^a-z0-9_]|$)", re.IGNORECASE)
        for stored in weights:
            if pattern.search(stored.file.path.removesuffix(".gguf")):
                return stored
    if tag == "latest" and weights:
        return weights[0]
    raise EntryNotFoundError(snapshot.repo, snapshot.commit_hash, f"a gguf file for {tag[:80]}")


def _weights(snapshot: Snapshot) -> list[StoredFile]:
    ggufs = [path for path in sorted(snapshot.files) if path.endswith(".gguf")]
    return [snapshot.files[path] for path in ggufs if not _NO_MODEL.search(path)]


def _projector(snapshot: Snapshot) -> StoredFile | None:
    names = [path for path in sorted(snapshot.files) if path.endswith(".gguf") and "mmproj" in path]
    return snapshot.files[names[0]] if names else None


def _llama_manifest(snapshot: Snapshot, stored: StoredFile) -> dict[str, Any]:
    body: dict[str, Any] = {"ggufFile": {"rfilename": stored.file.path, "size": stored.file.size}}
    if projector := _projector(snapshot):
        body["mmprojFile"] = {"rfilename": projector.file.path, "size": projector.file.size}
    return body


def _config(request: HubRequest, snapshot: Snapshot, stored: StoredFile) -> bytes:
    facts = request.facts(snapshot).gguf_of(stored.file.path) or {}
    family = str(facts.get("architecture", "unknown"))
    digest = _sha256(request, stored)
    return orjson.dumps({
        "model_format": "gguf",
        "model_family": family,
        "model_families": [family],
        "model_type": f"{facts.get('total', 0) / 1e9:.1f}B",
        "file_type": _FILE_TYPES.get(_number(facts.get("file_type")), "unknown"),
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    })  # fmt: skip


def _number(value: Any) -> int:
    return value if isinstance(value, int) else -1


def _is_small_layer(stored: StoredFile) -> bool:
    small = stored.file.size <= _SMALL
    return small and (stored.file.path in _EXTRAS or stored.file.path.endswith(".gguf"))


def _sha256(request: HubRequest, stored: StoredFile) -> str:
    """The sha256 of a file; computed for one that is small enough to be kept outside LFS."""
    if stored.file.lfs_sha256:
        return stored.file.lfs_sha256
    body = request.facts(request.snapshot()).read(stored.file.path, stored.file.size)
    return hashlib.sha256(body).hexdigest()


def _layer(kind: str, sha256: str, size: int) -> dict[str, Any]:
    return _descriptor(f"{_LAYER}{kind}", sha256, size)


def _descriptor(media_type: str, sha256: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{sha256}", "size": size}


def registry(_: HubRequest) -> Response:
    """`GET /v2/`: a registry is here."""
    return json_response({})
