"""Shapes of real repositories: their names, folders and sizes, and weights that are holes.

The small files are minimal ones of our own. A safetensors file begins with a whole header, made
from dimensions like the model's, so that its parameters can be counted; behind it is a hole, so
that 594 GB take some MB of disk. The digests of such files are invented: a cache names its blobs,
and the server believes the names.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import io
import math
import os
import struct
import wave
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import orjson

from mirror.core.record import Record
from mirror.core.repo import Repo
from mirror.core.tree import RepoFile, Tree, git_id, lfs_file
from mirror.store.publish import publish
from tests.folders import link, repo_dir, write

Tensors = dict[str, tuple[str, list[int]]]

_LFS = (
    "*.ckpt", "*.model", "*.onnx", "*.png", "*.pt", "*.safetensors", "*.wav", "tokenizer.json",
)  # fmt: skip
_MAX_GIT = 10_000_000  # what the hub takes outside LFS
_BYTES = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "I32": 4, "I64": 8}
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Sparse:
    """A large file, of which only what it begins with is there."""

    size: int
    head: bytes = b""

    def write(self, path: Path) -> None:
        write(path, self.head)
        os.truncate(path, self.size)


@dataclass(frozen=True)
class Shape:
    """A repository; the rest is what the hub's API is to say of it."""

    repo_id: str
    files: Mapping[str, bytes | Sparse]
    library_name: str | None
    pipeline_tag: str
    tags: frozenset[str]
    config: Mapping[str, Any]
    parameters: Mapping[str, int]
    """Of the weights at the root, by dtype."""

    @property
    def repo(self) -> Repo:
        return Repo.parse(self.repo_id)

    @cached_property
    def entries(self) -> dict[str, RepoFile]:
        return {path: self._entry(path, body) for path, body in self.files.items()}

    @cached_property
    def commit_hash(self) -> str:
        return Tree(self.entries).tree_id()

    @property
    def small_files(self) -> dict[str, bytes]:
        return {path: body for path, body in self.files.items() if isinstance(body, bytes)}

    @property
    def largest(self) -> RepoFile:
        return max(self.entries.values(), key=lambda file: file.size)

    def _entry(self, path: str, body: bytes | Sparse) -> RepoFile:
        if isinstance(body, Sparse):
            invented = hashlib.sha256(f"{self.repo_id}/{path}".encode()).hexdigest()
            return lfs_file(path, body.size, invented)
        name = path.rpartition("/")[2]
        if len(body) > _MAX_GIT or any(fnmatch.fnmatch(name, pattern) for pattern in _LFS):
            return lfs_file(path, len(body), hashlib.sha256(body).hexdigest())
        return RepoFile(path, len(body), git_id("blob", body))


def make_foreign(hub: Path, shape: Shape) -> Path:
    """A cache as huggingface_hub has written it for years: blobs, links, a ref."""
    folder = _make_blobs(hub, shape)
    for path, file in shape.entries.items():
        link(folder / "snapshots" / shape.commit_hash / path, folder / "blobs" / file.etag)
    write(folder / "refs" / "main", shape.commit_hash.encode())
    return folder


def make_managed(hub: Path, shape: Shape) -> Path:
    """What a pull leaves."""
    folder = _make_blobs(hub, shape)
    publish(
        hub,
        Record(
            repo=shape.repo,
            commit_hash=shape.commit_hash,
            files=shape.entries,
            refs=("refs/heads/main",),
            pulled_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        ),
    )
    return folder


def _make_blobs(hub: Path, shape: Shape) -> Path:
    folder = repo_dir(hub, shape.repo)
    for path, body in shape.files.items():
        blob = folder / "blobs" / shape.entries[path].etag
        if isinstance(body, Sparse):
            body.write(blob)
        else:
            write(blob, body)
    return folder


@cache
def kimi_k2_thinking() -> Shape:
    """594 GB in 62 shards: one for each layer, then the embeddings. Its code comes along."""
    first = _attention(0) | _dense("model.layers.0.mlp", 7168, 18432)
    last = _linears({"model.embed_tokens": (163840, 7168), "lm_head": (163840, 7168)})
    shards = [first, *(_kimi_layer(layer) for layer in range(1, 61)), last]
    config = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_deepseek.DeepseekV3Config",
            "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM",
        },
        "model_type": "kimi_k2",
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}},
        },
    }
    files: dict[str, bytes | Sparse] = {
        "LICENSE": b"Modified MIT License\n",
        "README.md": _card("license: other\nlicense_name: modified-mit", "text-generation"),
        "THIRD_PARTY_NOTICES.md": b"# Third-party notices\n",
        "chat_template.jinja": b"{% for m in messages %}{{ m['content'] }}{% endfor %}",
        "config.json": _json(config | {"hidden_size": 7168, "num_hidden_layers": 61}),
        "configuration_deepseek.py": _CONFIGURATION.format("DeepseekV3", "kimi_k2").encode(),
        "docs/deploy_guidance.md": b"# Deployment\n",
        "docs/tool_call_guidance.md": b"# Tool calls\n",
        "figures/banner.png": _png(),
        "figures/kimi-logo.png": _png(),
        "generation_config.json": _json({"eos_token_id": 163586, "max_length": 262144}),
        "modeling_deepseek.py": _MODELING.format("deepseek", "DeepseekV3").encode(),
        "tiktoken.model": _tiktoken(),
        "tokenization_kimi.py": _TOKENIZATION.encode(),
        "tokenizer_config.json": _json({
            "auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]},
            "tokenizer_class": "TikTokenTokenizer", "bos_token": "[BOS]", "eos_token": "[EOS]",
        }),
    }  # fmt: skip
    return Shape(
        "moonshotai/Kimi-K2-Thinking",
        _with_attributes(files | _sharded(shards, "model-{:05}-of-{:06}.safetensors")),
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=frozenset({"safetensors", "kimi_k2", "license:other"}),
        config=config,
        parameters=_parameters(*shards),
    )


def _attention(layer: int) -> Tensors:
    return _linears({
        f"model.layers.{layer}.self_attn.{name}": shape
        for name, shape in {
            "q_a_proj": (1536, 7168), "q_b_proj": (12288, 1536),
            "kv_a_proj_with_mqa": (576, 7168), "kv_b_proj": (16384, 512), "o_proj": (7168, 8192),
        }.items()
    })  # fmt: skip


def _kimi_layer(layer: int) -> Tensors:
    mlp, tensors = f"model.layers.{layer}.mlp", _attention(layer)
    tensors |= _dense(f"{mlp}.shared_experts", 7168, 2048)
    for expert in range(384):
        for name, (rows, columns) in _projections(7168, 2048).items():
            weight = f"{mlp}.experts.{expert}.{name}.weight"
            tensors[f"{weight}_packed"] = ("I32", [rows, columns // 8])
            tensors[f"{weight}_scale"] = ("BF16", [rows, columns // 32])
            tensors[f"{weight}_shape"] = ("I64", [2])
    return tensors


@cache
def glm_46v_fp8() -> Shape:
    """A vision model of 46 layers in FP8; its processors lie beside it."""
    shards = [_glm_layers(layer) for layer in range(0, 46, 2)]
    shards.append(_linears({
        "model.language_model.embed_tokens": (151552, 4096), "lm_head": (151552, 4096),
    }) | _blocks("model.visual.blocks", 24, 1536, 4096))  # fmt: skip
    config = {
        "architectures": ["Glm4vMoeForConditionalGeneration"],
        "model_type": "glm4v_moe",
        "quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"},
    }
    matter = "license: mit\nlanguage: [zh, en]\nbase_model: zai-org/GLM-4.6V"
    return Shape(
        "zai-org/GLM-4.6V-FP8",
        _with_attributes(_vision_files(config, matter) | _sharded(shards)),
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=frozenset({"glm4v_moe", "zh", "license:mit", "base_model:zai-org/GLM-4.6V"}),
        config=config,
        parameters=_parameters(*shards),
    )


def _glm_layers(first: int) -> Tensors:
    """Two layers: attention and 128 experts, each matrix with its scales."""
    tensors: Tensors = {}
    for layer in (first, first + 1):
        start = f"model.language_model.layers.{layer}"
        names = {f"{start}.self_attn.{name}_proj": (12288, 4096) for name in "qo"}
        for expert in range(128):
            for name, shape in _projections(4096, 1408).items():
                names[f"{start}.mlp.experts.{expert}.{name}"] = shape
        tensors |= _linears(names, "F8_E4M3")
        tensors |= {
            f"{name}.weight_scale": ("BF16", [rows, 1]) for name, (rows, _) in names.items()
        }
    return tensors


@cache
def autoglm_phone_9b() -> Shape:
    """A vision model of ordinary size."""
    text = "model.language_model"
    shards = [_blocks(f"{text}.layers", 10, 4096, 13696, first) for first in (0, 10, 20, 30)]
    shards[0] |= _blocks("model.visual.blocks", 24, 1536, 4096)
    shards[3] |= _linears({f"{text}.embed_tokens": (151552, 4096), "lm_head": (151552, 4096)})
    config = {"architectures": ["Glm4vForConditionalGeneration"], "model_type": "glm4v"}
    return Shape(
        "zai-org/AutoGLM-Phone-9B",
        _with_attributes(_vision_files(config, "license: mit\nlanguage: [zh]") | _sharded(shards)),
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=frozenset({"glm4v", "image-text-to-text", "zh", "license:mit"}),
        config=config,
        parameters=_parameters(*shards),
    )


@cache
def hunyuan_ocr() -> Shape:
    """A small vision model, with pictures in assets/."""
    shards = [_blocks("model.layers", 6, 1024, 3584, first) for first in (0, 6, 12, 18)]
    shards[0] |= _linears({"model.embed_tokens": (120818, 1024)})
    shards[3] |= _blocks("vit.layers", 27, 1152, 4304)
    config = {"architectures": ["HunYuanVLForConditionalGeneration"], "model_type": "hunyuan_vl"}
    files = _vision_files(config, "license: other\nlanguage: [zh, en]\ntags: [ocr]")
    files |= {
        "LICENSE": b"Community license\n",
        "assets/head.png": _png(),
        "assets/qikai1.png": _png(),
        "special_tokens_map.json": _json({"eos_token": "</s>"}),
    }
    return Shape(
        "tencent/HunyuanOCR",
        _with_attributes(files | _sharded(shards)),
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=frozenset({"hunyuan_vl", "ocr", "license:other"}),
        config=config,
        parameters=_parameters(*shards),
    )


def _vision_files(config: dict[str, Any], matter: str) -> dict[str, bytes | Sparse]:
    sizes = {"size": {"shortest_edge": 12544, "longest_edge": 9633792}, "patch_size": 14}
    return {
        "README.md": _card(matter, "image-text-to-text"),
        "chat_template.jinja": b"{% for m in messages %}<|{{ m['role'] }}|>{% endfor %}",
        "config.json": _json(config | {"vision_config": {"patch_size": 14}}),
        "generation_config.json": _json({"do_sample": True, "temperature": 0.8}),
        "preprocessor_config.json": _json(sizes | {"image_processor_type": "Glm4vImageProcessor"}),
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": _json({"eos_token": "</s>", "pad_token": "</s>"}),
        "video_preprocessor_config.json": _json(
            sizes | {"video_processor_type": "Glm4vVideoProcessor"}
        ),
    }


@cache
def glm_asr_nano() -> Shape:
    """Speech to text: one weight file, code, and recordings to try it with."""
    weights = _blocks("model.layers", 28, 2048, 6144)
    weights |= _blocks("audio_encoder.layers", 32, 1280, 2560)
    weights |= _linears({"model.embed_tokens": (59264, 2048), "lm_head": (59264, 2048)})
    config = {
        "architectures": ["GlmasrModel"],
        "auto_map": {
            "AutoConfig": "configuration_glmasr.GlmasrConfig",
            "AutoModelForCausalLM": "modeling_glmasr.GlmasrForCausalLM",
        },
        "model_type": "Glmasr",
    }
    files: dict[str, bytes | Sparse] = {
        "README.md": _card("license: mit\nlanguage: [zh, en]", "automatic-speech-recognition"),
        "config.json": _json(config | {"merge_factor": 4}),
        "configuration_glmasr.py": _CONFIGURATION.format("Glmasr", "Glmasr").encode(),
        "examples/example_en.wav": _wav(1600),
        "examples/example_zh.wav": _wav(3200),
        "inference.py": b'"""Transcribe a recording."""\n',
        "model.safetensors": _safetensors(weights),
        "modeling_glmasr.py": _MODELING.format("glmasr", "Glmasr").encode(),
        "preprocessor_config.json": _json(
            {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128}
        ),
        "requirements.txt": b"transformers\ntorchaudio\n",
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": _json({"eos_token": "</s>"}),
    }
    return Shape(
        "zai-org/GLM-ASR-Nano-2512",
        _with_attributes(files),
        library_name="transformers",
        pipeline_tag="automatic-speech-recognition",
        tags=frozenset({"safetensors", "Glmasr", "automatic-speech-recognition", "license:mit"}),
        config=config,
        parameters=_parameters(weights),
    )


@cache
def glm_tts() -> Shape:
    """Parts in folders and in many formats; at the root there is neither config nor weights."""
    halves = [_blocks("model.layers", 14, 2048, 6144, first) for first in (0, 14)]
    halves[1] |= _linears({"model.embed_tokens": (98304, 2048)})
    pickle_magic = b"\x80\x02"
    files: dict[str, bytes | Sparse] = {
        "README.md": _card("license: mit\nlanguage: [zh, en]", "text-to-speech", library=None),
        "flow/config.yaml": b"token_rate: 25\n",
        "flow/flow.pt": Sparse(1_710_000_000, pickle_magic),
        "frontend/campplus.onnx": Sparse(28_300_000, b"\x08\x06"),
        "frontend/cosyvoice_frontend.yaml": b"sample_rate: 24000\n",
        "frontend/spk2info.pt": Sparse(260_000, pickle_magic),
        "hift/hift.pt": Sparse(83_400_000, pickle_magic),
        "llm/config.json": _json({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}),
        "speech_tokenizer/config.json": _json({"model_type": "whisper"}),
        "speech_tokenizer/model.safetensors": _safetensors(_blocks("layers", 16, 1280, 2560)),
        "speech_tokenizer/preprocessor_config.json": _json({"feature_size": 128}),
        "vocos2d/generator_jit.ckpt": Sparse(1_060_000_000, pickle_magic),
        "vq32k-phoneme-tokenizer/tokenization_chatglm4.py": _TOKENIZATION.encode(),
        "vq32k-phoneme-tokenizer/tokenizer.model": _tiktoken(),
        "vq32k-phoneme-tokenizer/tokenizer_config.json": _json({"eos_token": "<|endoftext|>"}),
    }
    files |= {f"llm/{path}": body for path, body in _sharded(halves).items()}
    return Shape(
        "zai-org/GLM-TTS",
        _with_attributes(files),
        library_name=None,
        pipeline_tag="text-to-speech",
        tags=frozenset({"onnx", "safetensors", "text-to-speech", "zh", "license:mit"}),
        config={},
        parameters={},
    )


@cache
def spark_formalizer() -> Shape:
    """A plain text model of 7B, in four shards of F32."""
    shards = [_blocks("model.layers", 7, 4096, 14336, first) for first in (0, 7, 14, 21)]
    shards[0] |= _linears({"model.embed_tokens": (100352, 4096)})
    shards[3] |= _linears({"lm_head": (100352, 4096)})
    shards = [{name: ("F32", shape) for name, (_, shape) in shard.items()} for shard in shards]
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    files: dict[str, bytes | Sparse] = {
        "README.md": b"---\nlicense: apache-2.0\ndatasets: [iflytek/ExamFormal-Bench]\n---\n",
        "config.json": _json(config | {"hidden_size": 4096, "num_hidden_layers": 28}),
        "generation_config.json": _json({"max_new_tokens": 32768}),
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": _json({"eos_token": "</s>", "chat_template": "{{ messages }}"}),
    }
    return Shape(
        "iflytek/Spark-Formalizer-X1-7B",
        _with_attributes(files | _sharded(shards)),
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=frozenset({"qwen2", "license:apache-2.0", "dataset:iflytek/ExamFormal-Bench"}),
        config=config,
        parameters=_parameters(*shards),
    )


SHAPES = {
    "Kimi-K2-Thinking": kimi_k2_thinking,
    "GLM-4.6V-FP8": glm_46v_fp8,
    "AutoGLM-Phone-9B": autoglm_phone_9b,
    "HunyuanOCR": hunyuan_ocr,
    "GLM-ASR-Nano-2512": glm_asr_nano,
    "GLM-TTS": glm_tts,
    "Spark-Formalizer-X1-7B": spark_formalizer,
}


def _blocks(start: str, count: int, hidden: int, inner: int, first: int = 0) -> Tensors:
    """Transformer layers: four matrices of attention, with shared keys and values, and the MLP."""
    shapes: dict[str, tuple[int, int]] = {}
    for layer in range(first, first + count):
        attention = f"{start}.{layer}.self_attn"
        shapes |= {f"{attention}.{one}_proj": (hidden, hidden) for one in "qo"}
        shapes |= {f"{attention}.{one}_proj": (hidden // 8, hidden) for one in "kv"}
        shapes |= _prefixed(f"{start}.{layer}.mlp", _projections(hidden, inner))
    return _linears(shapes)


def _dense(start: str, hidden: int, inner: int) -> Tensors:
    return _linears(_prefixed(start, _projections(hidden, inner)))


def _projections(hidden: int, inner: int) -> dict[str, tuple[int, int]]:
    return {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}


def _prefixed(start: str, shapes: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {f"{start}.{name}": shape for name, shape in shapes.items()}


def _linears(shapes: Mapping[str, tuple[int, int]], dtype: str = "BF16") -> Tensors:
    return {f"{name}.weight": (dtype, list(shape)) for name, shape in shapes.items()}


def _parameters(*shards: Tensors) -> dict[str, int]:
    counts: dict[str, int] = {}
    for dtype, shape in (tensor for shard in shards for tensor in shard.values()):
        counts[dtype] = counts.get(dtype, 0) + math.prod(shape)
    return counts


def _sharded(
    shards: Sequence[Tensors], pattern: str = "model-{:05}-of-{:05}.safetensors"
) -> dict[str, bytes | Sparse]:
    names = [pattern.format(number, len(shards)) for number in range(1, len(shards) + 1)]
    total = sum(_BYTES[dtype] * count for dtype, count in _parameters(*shards).items())
    index = {
        "metadata": {"total_size": total},
        "weight_map": {
            tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard
        },
    }
    files = {name: _safetensors(shard) for name, shard in zip(names, shards, strict=True)}
    return {_INDEX: orjson.dumps(index), **files}


def _safetensors(tensors: Tensors) -> Sparse:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + _BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    body = orjson.dumps(header)
    head = len(body).to_bytes(8, "little") + body
    return Sparse(len(head) + end, head)


def _with_attributes(files: Mapping[str, bytes | Sparse]) -> dict[str, bytes | Sparse]:
    lines = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in _LFS)
    return {".gitattributes": lines.encode(), **files}


def _card(matter: str, pipeline_tag: str, library: str | None = "transformers") -> bytes:
    named = f"library_name: {library}\n" if library else ""
    return f"---\n{matter}\n{named}pipeline_tag: {pipeline_tag}\n---\n# Model card\n".encode()


def _json(body: Mapping[str, Any]) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_INDENT_2)


def _tokenizer() -> bytes:
    vocabulary = {"<unk>": 0, "</s>": 1, "a": 2}
    model = {"type": "WordLevel", "unk_token": "<unk>", "vocab": vocabulary}
    return _json({"version": "1.0", "added_tokens": [], "model": model})


def _tiktoken() -> bytes:
    """One token for each byte, as tiktoken writes them: base64, and the rank."""
    rows = (f"{base64.b64encode(bytes([one])).decode()} {one}\n" for one in range(256))
    return "".join(rows).encode()


def _png() -> bytes:
    """One grey pixel."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0\x80")),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _wav(frames: int) -> bytes:
    """Silence, at 16 kHz."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(2 * frames))
    return buffer.getvalue()


# The code that comes with a model: the least that transformers' Auto classes can run.
_CONFIGURATION = '''"""The model's configuration."""

from transformers import PretrainedConfig


class {0}Config(PretrainedConfig):
    model_type = "{1}"

    def __init__(self, hidden_size=64, num_hidden_layers=2, **rest):
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        super().__init__(**rest)
'''
_MODELING = '''"""The model."""

from transformers import PreTrainedModel

from .configuration_{0} import {1}Config


class {1}ForCausalLM(PreTrainedModel):
    config_class = {1}Config
'''
_TOKENIZATION = '''"""The tokenizer: one token a byte."""

from transformers import PreTrainedTokenizer


class TikTokenTokenizer(PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "tiktoken.model"}

    def __init__(self, vocab_file, **rest):
        with open(vocab_file) as file:
            self.ranks = dict(line.split() for line in file)
        super().__init__(**rest)

    @property
    def vocab_size(self):
        return len(self.ranks)

    def get_vocab(self):
        return {token: int(rank) for token, rank in self.ranks.items()}
'''
