"""Does transformers load what `colar-engine export` writes, and compute the same logits with it?

    pip install torch transformers safetensors
    python tests/export/check_export.py --engine target/release/colar-engine --model DIR --adapter CHECKPOINT

The checkpoint is exported in float32, in float32 over several files, and in bfloat16. Each directory must load without
a tensor that is missing or left over. The logits of the float32 ones are compared with those of the base model whose
weights had scale * B @ A added by PyTorch; the bfloat16 one with the exported float32 weights, rounded by PyTorch. A
tolerance is that of sums in another order: 1e-5 of the largest logit. The engine's greedy continuation from the exported directory must be that
of transformers, up to ties of less than 1e-4.
"""

import argparse
import json
import math
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

PROMPTS = [
    "Question: A shop has 12 apples and buys 7 more. It sells 5. How many are left?",
    "Tom has 3 boxes with 24 pens each",
    "###Answer:",
]
NEW_TOKENS = 12
TIE = 1e-4
TOLERANCE = 1e-5


def run(*command):
    out = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert out.returncode == 0, f"{' '.join(map(str, command))}: {out.stderr.strip()}"
    return out.stdout


def load(path):
    """The model in float32; fails on tensors that are missing or left over."""
    model, info = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    faults = {name: sorted(info[name]) for name in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[name]}
    assert not faults, f"{path}: {faults}"
    return model.eval()


def merged(model_dir, adapter):
    """The base model with the adapter added to its weights by PyTorch."""
    model = load(model_dir)
    config = json.loads((adapter / "adapter_config.json").read_text())
    root = math.sqrt(config["r"]) if config.get("use_rslora") else config["r"]
    scale = config["lora_alpha"] / root
    tensors = load_file(adapter / "adapter_model.safetensors")
    weights = dict(model.named_parameters())
    moved = 0
    for name, a in tensors.items():
        if ".lora_A." not in name:
            continue
        b = tensors[name.replace(".lora_A.", ".lora_B.")]
        weight = weights[name.removeprefix("base_model.model.").replace(".lora_A.", ".")]
        weight.data += scale * (b.float() @ a.float())
        moved += 1
    assert moved, "the checkpoint has no adapter"
    return model


@torch.no_grad()
def check(name, exported, want, tokenizer, engine):
    model = load(exported)
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        got, expected = (m(torch.tensor([ids])).logits for m in (model, want))
        error = ((got - expected).abs().max() / expected.abs().max()).item()
        assert error <= TOLERANCE, f"{name}: logits differ by {error:.2e} of the largest for {prompt!r}"
        command = [engine, "generate", "--method", "plain", "--greedy", "--json", "--device", "cpu"]
        command += ["--model", exported, "--max-new-tokens", NEW_TOKENS, prompt]
        tokens = json.loads(run(*command))["token_ids"]
        for i, token in enumerate(tokens):
            logits = model(torch.tensor([ids + tokens[:i]])).logits[0, -1]
            gap = (logits.max() - logits[token]).item()
            assert gap <= TIE, f"{name}: token {i} of the engine is {gap:.3g} below the best for {prompt!r}"
    print(f"{name}: {len(PROMPTS)} prompts, logits and continuations agree")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    want = merged(args.model, args.adapter)
    bytes_all = sum(p.numel() * 4 for p in want.parameters())
    with tempfile.TemporaryDirectory() as tmp:
        for name, flags in [
            ("float32", ["--dtype", "f32"]),
            ("float32 in shards", ["--dtype", "f32", "--max-shard-size", f"{bytes_all / 3000:.3f}KB"]),
            ("bfloat16", ["--dtype", "bf16"]),
        ]:
            out = Path(tmp) / name.replace(" ", "-")
            run(args.engine, "export", "--model", args.model, "--adapter", args.adapter, "--out", out, *flags)
            if "shards" in name:
                files = len(list(out.glob("model-*.safetensors")))
                assert files > 1, f"{files} file of weights"
            if name == "bfloat16":
                # Of two sums in another order one may round up and the other down.
                want = load(Path(tmp) / "float32")
                weights = want.state_dict().items()
                want.load_state_dict({key: value.to(torch.bfloat16).float() for key, value in weights})
            check(name, out, want, tokenizer, args.engine)


if __name__ == "__main__":
    main()
