"""Estimates the GPU memory that a model needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

BITS = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16,
    "I16": 16, "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_CACHE_BYTES = 2
_MOST = 2**40
CONTEXT = 8192
"""The longest context, in tokens, that the estimate assumes."""

OVERHEAD = 0.2
"""What programs need beside the weights and the cache, as a part of the weights."""


@dataclass(frozen=True, slots=True)
class Memory:
    """An estimate in bytes, with the numbers that it is made of. `cache` is 0 if the configuration
    does not say enough about the attention."""

    weights: int
    cache: int
    context: int
    layers: int = 0
    heads: int = 0
    head_size: int = 0

    @property
    def overhead(self) -> int:
        return int(self.weights * OVERHEAD)

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.overhead


def weight_bytes(parameters: Mapping[str, int]) -> int:
    """The size of the tensors, from the number of values of each dtype."""
    return sum(count * BITS.get(dtype.upper(), 16) // 8 for dtype, count in parameters.items())


def estimate(weights: int, config: Mapping[str, Any]) -> Memory | None:
    """The estimate for one request of up to `CONTEXT` tokens; None without weights."""
    if not weights:
        return None
    nested = config.get("text_config")
    text = {**config, **nested} if isinstance(nested, dict) else config
    longest = _number(text, "max_position_embeddings") or CONTEXT
    context = min(longest, CONTEXT)
    layers = _number(text, "num_hidden_layers")
    all_heads = _number(text, "num_attention_heads")
    heads = _number(text, "num_key_value_heads") or all_heads
    head_size = _number(text, "head_dim")
    if not head_size and all_heads:
        head_size = _number(text, "hidden_size") // all_heads
    cache = 2 * layers * heads * head_size * context * _CACHE_BYTES
    return Memory(weights, cache, context, layers, heads, head_size)


def context_length(config: Mapping[str, Any]) -> int:
    """The longest context of a model in tokens; 0 if its configuration does not say it."""
    nested = config.get("text_config")
    text = {**config, **nested} if isinstance(nested, dict) else config
    return _number(text, "max_position_embeddings") or _number(text, "n_positions")


def _number(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    return value if type(value) is int and 0 < value < _MOST else 0
