"""A mirror with repositories of several sorts, for the browser."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

from mirror.core.repo import Repo
from tests.folders import Content, make_managed, make_safetensors

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 1024,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
    "max_position_embeddings": 40960,
}  # fmt: skip
CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# Tiny

A model for tests. See [the base](https://huggingface.co/Org/Base), [a site](https://example.com/x),
the [licence](LICENSE), and [how to start](#quick-start).

![a diagram](images/plan.png) ![badge](https://img.example/badge.svg)

## Quick start

```python
from transformers import AutoModel  # a comment

model = AutoModel.from_pretrained("Org/Tiny", revision="main")
```

| Benchmark | Score |
| --- | ---: |
| MMLU | 52.81 |
"""
HOSTILE = """# <script>document.title = "run"; alert(1)</script>Hostile

<style>body { display: none }</style>
<meta http-equiv="refresh" content="0;url=https://evil.example/">
<img src="x" onerror="alert(2)"> <a href="javascript:alert(3)">one</a> [two](javascript:alert(4))
<div style="position:fixed;inset:0;background:red;z-index:9" class="bar">cover</div>
<iframe src="https://evil.example"></iframe>
<form action="https://evil.example"><input name="a" autofocus></form>
<svg onload="alert(5)"></svg> <video src="https://evil.example/v" autoplay></video>

\u202eright to left

![x](https://evil.example/a.png)

""" + "\n".join(["|" + "a|" * 90, "|" + "-|" * 90, *["|" + "b|" * 90] * 5, "", "> " * 400 + "deep"])


def add(hub: Path, name: str, files: dict[str, bytes], **record: Any) -> Path:
    commit = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
    return make_managed(hub, Content(files, commit, Repo.parse(name)), **record)


def make_site(hub: Path) -> None:
    weights = make_safetensors({f"layers.{one}.weight": ("BF16", [64, 64]) for one in range(20)})
    add(hub, "Org/Tiny", {
        "README.md": CARD.encode(), "config.json": json.dumps(CONFIG, indent=2).encode(),
        "LICENSE": b"Apache License", "images/plan.png": image(320, 80),
        "model.safetensors": weights, "data.csv": b"name,count\nfirst,1\nsecond,2\n",
        "tokenizer_config.json": b'{"chat_template": "{% for m in messages %}{{ m }}{% endfor %}"}',
    }, refs=("refs/heads/main", "refs/tags/v1"), info={"safetensors": {"total": 9}})  # fmt: skip
    add(hub, "Org/Base", {"README.md": b"---\nlicense: mit\n---\n# Base", "config.json": b"{}"})
    add(hub, "Other/Mask", {"README.md": b"---\npipeline_tag: fill-mask\n---\n# Mask"})
    add(hub, "Other/hostile", {"README.md": HOSTILE.encode()})
    add(hub, "datasets/Org/Films", {"README.md": b"# Films", "a.jsonl": b'{"film": "one"}\n'})
    waiting = add(hub, "Org/Waiting", {"README.md": b"# Waiting", "model.safetensors": weights * 2})
    next(one for one in (waiting / "blobs").iterdir() if one.stat().st_size > 1000).unlink()


def image(width: int, height: int) -> bytes:
    """A PNG of one colour."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes((15, 118, 110)) * width) * height
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )  # fmt: skip
