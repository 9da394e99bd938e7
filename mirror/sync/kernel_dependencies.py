"""Finds the kernels that a model or another kernel loads."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

_MAX_CODE_FILES = 200
_MAX_BUILDS = 1000
_CALL = re.compile(
    rb"\b(?:get_kernel|(?:Layer|Func)Repository)\(\s*(?:repo_id\s*=\s*)?[\"']([\w./-]{3,200})[\"']"
)
# `attn_implementation` names a kernel as `org/name`, `org/name@revision` or `org/name:function`.
_ATTENTION = re.compile(r"([\w.-]+/[\w.-]+)(?:@[^/:]+)?(?::[^/:]+)?")

# What transformers 5 loads by itself (the calls of `get_kernel` in transformers/integrations and
# transformers/models). A test compares both tables with the package.
BY_QUANTIZATION = {
    "eetq": ("kernels-community/quantization-eetq",),
    "fbgemm_fp8": ("kernels-community/fp8-fbgemm",),
    "fp8": ("kernels-community/finegrained-fp8", "kernels-community/deep-gemm"),
    "metal": ("kernels-community/mlx-quantization-metal-kernels",),
    "mxfp4": ("kernels-community/gpt-oss-triton-kernels",),
    "mxfp8": ("kernels-community/finegrained-fp8", "kernels-community/deep-gemm"),
    "nvfp4": ("kernels-community/nvfp4-gemm",),
}
BY_MODEL_TYPE = {
    "mra": "kernels-community/mra",
    "rwkv": "kernels-community/rwkv",
    "sam3_video": "kernels-community/cv-utils",
    "yoso": "kernels-community/yoso",
}


def of_config(config: Any) -> Iterator[tuple[str, str]]:
    """Pairs of repo_id and role: the kernels that transformers loads for a `config.json`."""
    if not isinstance(config, dict):
        return
    quantization = config.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    for repo_id in BY_QUANTIZATION.get(str(method), ()):
        yield repo_id, f"the kernel of transformers for {method}"
    model_type = str(config.get("model_type"))
    if model_type in BY_MODEL_TYPE:
        yield BY_MODEL_TYPE[model_type], f"the kernel of transformers for {model_type}"
    for key in ("attn_implementation", "_attn_implementation"):
        if found := _ATTENTION.fullmatch(str(config.get(key))):
            yield found[1], "its attention kernel"


def of_code(files: Collection[str], read: Callable[[str], bytes]) -> Iterator[tuple[str, str]]:
    """Pairs of repo_id and role: the kernels that the Python files of a model load by name."""
    names = sorted(path for path in files if path.endswith(".py"))
    for name in names[:_MAX_CODE_FILES]:
        for repo_id in dict.fromkeys(_CALL.findall(read(name))):
            yield repo_id.decode(), "a kernel that its code loads"


def of_builds(files: Collection[str], read_json: Callable[[str], Any]) -> Iterator[tuple[str, str]]:
    """Pairs of repo_id and role: the kernels that the builds of a kernel depend on."""
    builds = (path for path in sorted(files) if re.fullmatch(r"build/[^/]+/metadata\.json", path))
    for path in itertools.islice(builds, _MAX_BUILDS):
        metadata = read_json(path)
        depends = metadata.get("kernel-depends") if isinstance(metadata, dict) else None
        for entry in depends if isinstance(depends, list) else ():
            if isinstance(entry, dict):
                yield str(entry.get("repo-id")), "a kernel that it depends on"
