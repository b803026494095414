"""Writes a Hugging Face Llama directory as a bfloat16 GGUF file, so that llama.cpp decodes the very same weights.

    python to_gguf.py MODEL_DIR OUT.gguf [--pre smollm]

Matrices keep their bfloat16 bits; vectors (the norms) become float32, as llama.cpp wants them. The tokenizer is built
from tokenizer.json. `--pre` names llama.cpp's pre-tokenizer for it (`smollm`, `llama-bpe`, `qwen2`, ...).
Only `model_type` llama with bfloat16 weights and the default rotary frequencies is taken: a peer for a benchmark,
not a general converter.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np

PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def bf16_tensors(model_dir):
    """Yields (name, bits) of every tensor of the directory, `bits` a uint16 array mapped from the file."""
    for path in sorted(Path(model_dir).glob("*.safetensors")):
        raw = np.memmap(path, np.uint8, mode="r")
        header_len = int.from_bytes(raw[:8].tobytes(), "little")
        header = json.loads(raw[8 : 8 + header_len].tobytes())
        for name, t in header.items():
            if name == "__metadata__":
                continue
            if t["dtype"] != "BF16":
                raise SystemExit(f"{path}: {name} is {t['dtype']}, expected BF16")
            begin, end = (8 + header_len + o for o in t["data_offsets"])
            yield name, raw[begin:end].view(np.uint16).reshape(t["shape"])


def gguf_name(name):
    """The GGUF name of a tensor: `model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`."""
    if name in OUTER:
        return OUTER[name]
    _, _, layer, rest = name.split(".", 3)
    part = rest.removesuffix(".weight")
    if part not in PARTS or part == rest:
        raise SystemExit(f"no GGUF name for {name}")
    return f"blk.{layer}.{PARTS[part]}.weight"


def interleave(bits, heads):
    """Reorders the rows of q_proj or k_proj: rotary pairs (i, i + d/2) of each head become neighbours (2i, 2i + 1)."""
    rows, cols = bits.shape
    return bits.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def add_tokenizer(writer, model_dir, config, pre):
    """Writes the byte-level BPE vocabulary and merges; added special tokens become control tokens."""
    tokenizer = json.loads((Path(model_dir) / "tokenizer.json").read_text())
    vocab, added = tokenizer["model"]["vocab"], tokenizer["added_tokens"]
    tokens = [f"[PAD{i}]" for i in range(config["vocab_size"])]
    types = [gguf.TokenType.UNUSED] * len(tokens)
    for text, i in vocab.items():
        tokens[i], types[i] = text, gguf.TokenType.NORMAL
    for t in added:
        tokens[t["id"]] = t["content"]
        types[t["id"]] = gguf.TokenType.CONTROL if t["special"] else gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]])
    writer.add_add_bos_token(False)
    writer.add_bos_token_id(config["bos_token_id"])
    eos = config["eos_token_id"]
    writer.add_eos_token_id(eos[0] if isinstance(eos, list) else eos)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model_dir")
    p.add_argument("out")
    p.add_argument("--pre", default="smollm")
    args = p.parse_args()

    config = json.loads((Path(args.model_dir) / "config.json").read_text())
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if config["model_type"] != "llama" or rope.get("rope_type", "default") != "default":
        raise SystemExit("only model_type llama with default rotary frequencies is supported")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]

    writer = gguf.GGUFWriter(args.out, "llama")
    writer.add_name(Path(args.model_dir).resolve().name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_rope_freq_base(rope.get("rope_theta") or config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    add_tokenizer(writer, args.model_dir, config, args.pre)

    for name, bits in bf16_tensors(args.model_dir):
        if bits.ndim == 1:
            writer.add_tensor(gguf_name(name), (bits.astype(np.uint32) << 16).view(np.float32))
            continue
        if name.endswith("q_proj.weight"):
            bits = interleave(bits, heads)
        elif name.endswith("k_proj.weight"):
            bits = interleave(bits, kv_heads)
        raw = np.ascontiguousarray(bits).view(np.uint8)
        writer.add_tensor(gguf_name(name), raw, raw_dtype=gguf.GGMLQuantizationType.BF16)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
