"""A Llama of random weights, of any size, with the files that a real repository has.

usage: make_model.py FOLDER [--hidden 2048] [--layers 16] [--shards 4] …
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

_WORDS = ["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>"]
_CHAT = (
    "{{ '<|begin|>' }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% endfor %}{{ '<|assistant|>' }}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    for name, default in (
        ("hidden", 2048), ("layers", 16), ("inter", 8192), ("heads", 16), ("kv", 8),
        ("vocab", 32000), ("shards", 4),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(options.folder)
    write_config(options)
    print(write_weights(options), "bytes of weights")


def write_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text = [file.read_text(errors="ignore") for file in Path(torch.__file__).parent.glob("*.py")]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4000, initial_alphabet=alphabet, special_tokens=_WORDS)
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": _WORDS[0],
        "eos_token": _WORDS[1], "model_max_length": 4096, "chat_template": _CHAT,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))


def write_config(options: argparse.Namespace) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "hidden_size": options.hidden, "intermediate_size": options.inter,
        "num_hidden_layers": options.layers, "num_attention_heads": options.heads,
        "num_key_value_heads": options.kv, "head_dim": options.hidden // options.heads,
        "vocab_size": options.vocab, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    (options.folder / "config.json").write_text(json.dumps(config, indent=2))
    generation = {"bos_token_id": 0, "eos_token_id": 1, "do_sample": True, "temperature": 0.8}
    (options.folder / "generation_config.json").write_text(json.dumps(generation))
    card = "---\nlicense: apache-2.0\npipeline_tag: text-generation\n---\n# Random weights\n"
    (options.folder / "README.md").write_text(card)


def shapes(options: argparse.Namespace) -> dict[str, tuple[int, ...]]:
    hidden, inner = options.hidden, options.inter
    narrow = options.kv * (hidden // options.heads)
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (options.vocab, hidden),
        "lm_head.weight": (options.vocab, hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(options.layers):
        start = f"model.layers.{layer}"
        found[f"{start}.input_layernorm.weight"] = (hidden,)
        found[f"{start}.post_attention_layernorm.weight"] = (hidden,)
        for name, rows in (("q", hidden), ("k", narrow), ("v", narrow), ("o", hidden)):
            found[f"{start}.self_attn.{name}_proj.weight"] = (rows, hidden)
        found[f"{start}.mlp.gate_proj.weight"] = (inner, hidden)
        found[f"{start}.mlp.up_proj.weight"] = (inner, hidden)
        found[f"{start}.mlp.down_proj.weight"] = (hidden, inner)
    return found


def write_weights(options: argparse.Namespace) -> int:
    """Shards and their index; the bytes of all tensors."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    random = torch.Generator(device).manual_seed(0)
    found, index, total = shapes(options), {}, 0
    names = list(found)
    share = -(-len(names) // options.shards)
    for number in range(options.shards):
        file = f"model-{number + 1:05}-of-{options.shards:05}.safetensors"
        tensors = {}
        for name in names[number * share : (number + 1) * share]:
            shape = found[name]
            if len(shape) == 1:
                tensors[name] = torch.ones(shape, dtype=torch.bfloat16)
            else:
                drawn = torch.randn(*shape, generator=random, device=device) * 0.02
                tensors[name] = drawn.to(torch.bfloat16).cpu()
            index[name] = file
            total += tensors[name].numel() * 2
        save_file(tensors, str(options.folder / file), metadata={"format": "pt"})
    body = {"metadata": {"total_size": total}, "weight_map": index}
    (options.folder / "model.safetensors.index.json").write_text(json.dumps(body))
    return total


if __name__ == "__main__":
    main()
