"""Do the engine and PEFT read each other's adapters, and compute the same with them?

    pip install torch transformers peft safetensors
    python tests/peft/check_peft.py make  --model DIR --out DIR [--rank 4 --targets q_proj,v_proj --rslora]
    python tests/peft/check_peft.py check --model DIR --adapter DIR [--engine PATH] [--prompt TEXT]
    python tests/peft/check_peft.py all   --model DIR --out DIR --engine PATH

`make` lets PEFT write an adapter with random weights (B too, so that it changes the output), and completes it to
a checkpoint with colar.json and a random latent head; `--variant` is one of the forms in which people save adapters.
`all` makes and checks every one of them. `check` loads any checkpoint with PEFT, makes sure that
every tensor of its file arrived in the model and that the adapter changes the logits, and, given the engine's binary,
compares the greedy continuations of both, token for token. A difference is forgiven only where the best two logits
are closer than float32 arithmetic can tell apart (1e-4).
"""

import argparse
import json
import os
import subprocess
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

PROMPTS = [
    "Question: A shop has 12 apples and buys 7 more. It sells 5. How many are left?",
    "Tom has 3 boxes with 24 pens each",
    "###Answer:",
]
# What each form adds to the plain configuration.
VARIANTS = {
    "plain": {},
    "pattern": {"target_modules": r".*\.layers\.\d+\.self_attn\.[qk]_proj"},
    "all-linear": {"target_modules": "all-linear"},
    "layers": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "exclude": {"target_modules": "all-linear", "exclude_modules": r".*\.0\.mlp\..*"},
    "ranks": {
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {"layers.1.self_attn.q_proj": 7, "down_proj": 2},
        "alpha_pattern": {r"0\.self_attn\.q_proj": 40, r"mlp\..*": 3},
    },
    "dora": {"use_dora": True, "target_modules": ["q_proj", "o_proj", "down_proj"]},
    "dora-ranks": {"use_dora": True, "use_rslora": True, "rank_pattern": {"v_proj": 3}},
    "head": {"modules_to_save": ["lm_head"]},
    "embeddings": {"modules_to_save": ["embed_tokens"]},
    "both": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "bias": {"bias": "all"},
}
NEW_TOKENS = 12
TIE = 1e-4


def base_model(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def make(args):
    torch.manual_seed(args.seed)
    settings = {
        "r": args.rank,
        "lora_alpha": args.alpha,
        "target_modules": args.targets.split(","),
        "use_rslora": args.rslora,
        "task_type": "CAUSAL_LM",
    }
    model = get_peft_model(base_model(args.model), LoraConfig(**settings | VARIANTS[args.variant]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
        elif "magnitude" in name:
            weight.data *= 1 + 0.5 * torch.rand_like(weight)
        elif "modules_to_save" in name or (args.variant == "bias" and name.endswith("bias")):
            weight.data += 0.5 * weight.std() * torch.randn_like(weight)
    # A tied head would be stored a second time, as the base model has it.
    model.save_pretrained(args.out, save_embedding_layers=False)
    hidden, inner = model.config.hidden_size, args.head_size
    shapes = {"fc.0": (inner, hidden), "fc.2": (inner, inner), "mean": (hidden, inner), "log_std": (hidden, inner)}
    head = {}
    for name, shape in shapes.items():
        head[f"latent_policy.{name}.weight"] = torch.randn(shape) * 0.02
        head[f"latent_policy.{name}.bias"] = torch.zeros(shape[0])
    head["latent_policy.fc.3.weight"], head["latent_policy.fc.3.bias"] = torch.ones(inner), torch.zeros(inner)
    save_file(head, os.path.join(args.out, "latent_head.safetensors"))
    colar = {
        "embeds_std": float(model.get_input_embeddings().weight.std()),
        "merge": "sqrt",
        "latent_head": {"intermediate_size": inner, "deterministic": False},
        "thinking_separator": "###",
    }
    with open(os.path.join(args.out, "colar.json"), "w") as file:
        json.dump(colar, file, indent=1)
    print(f"made {args.out}: {args.variant}, r {args.rank}, targets {args.targets}, rslora {args.rslora}")


def load(args):
    """The model with its adapter, after making sure that all of the adapter's file is in it."""
    model = PeftModel.from_pretrained(base_model(args.model), args.adapter).eval()
    stored = load_file(os.path.join(args.adapter, "adapter_model.safetensors"))
    inside = {}
    for name, weight in model.named_parameters():
        name = name.replace("magnitude_vector.default.weight", "magnitude_vector").replace(".modules_to_save", "")
        inside[name.replace(".default.", ".")] = weight
    adapters = {name for name in inside if "lora_" in name}
    assert adapters <= stored.keys() <= inside.keys(), f"names differ: {sorted(stored.keys() ^ adapters)[:4]}"
    for name, weight in stored.items():
        assert torch.equal(weight.float(), inside[name].float()), f"{name} differs"
    print(f"PEFT loaded {len(stored)} tensors, each equal to the file's")
    return model


@torch.no_grad()
def greedy(model, ids):
    """The continuation, and for each of its tokens how far the best logit is above the second."""
    tokens, gaps = [], []
    for _ in range(NEW_TOKENS):
        logits = model(torch.tensor([ids + tokens])).logits[0, -1]
        best, second = logits.topk(2).values
        tokens.append(int(logits.argmax()))
        gaps.append(float(best - second))
    return tokens, gaps


def engine(args, prompt):
    command = [args.engine, "generate", "--method", "plain", "--greedy", "--json"]
    command += ["--model", args.model, "--adapter", args.adapter, "--max-new-tokens", str(NEW_TOKENS), prompt]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 0, f"{' '.join(command)}: {out.stderr.strip()}"
    return json.loads(out.stdout)["token_ids"]


def check(args):
    model = load(args)
    tokenizer = Tokenizer.from_file(os.path.join(args.model, "tokenizer.json"))
    eos = model.generation_config.eos_token_id
    eos = set(eos) if isinstance(eos, list) else {eos}
    compared = 0
    for prompt in args.prompt or PROMPTS:
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
            with model.disable_adapter():
                moved = (logits - model(torch.tensor([ids])).logits[0, -1]).abs().max().item()
        assert moved > 0, "the adapter changes nothing"
        print(f"  {prompt[:40]!r}: the adapter moves logits by up to {moved:.3g}")
        if not args.engine:
            continue
        want, gaps = greedy(model, ids)
        got = engine(args, prompt)
        for place, (theirs, gap) in enumerate(zip(want, gaps)):
            if place == len(got):
                assert want[place - 1] in eos or theirs in eos, f"the engine stopped after {place} tokens"
                break
            if got[place] != theirs:
                assert gap < TIE, f"token {place}: engine {got[place]}, PEFT {theirs}, gap {gap:.3g}"
                print(f"  token {place} is a tie ({gap:.1g}); the rest is not compared")
                break
            compared += 1
            if theirs in eos:
                break
    if args.engine:
        assert compared > 0, "nothing was compared"
        print(f"OK: {compared} tokens of greedy continuation are the same")
    else:
        print("OK: PEFT loads it (no --engine given: outputs not compared)")


def all_variants(args):
    out = args.out
    for variant in VARIANTS:
        args.variant, args.out = variant, os.path.join(out, variant)
        args.adapter = args.out
        make(args)
        check(args)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    maker = commands.add_parser("make")
    maker.add_argument("--model", required=True)
    maker.add_argument("--out", required=True)
    maker.add_argument("--rank", type=int, default=4)
    maker.add_argument("--alpha", type=int, default=16)
    maker.add_argument("--targets", default="q_proj,v_proj")
    maker.add_argument("--rslora", action="store_true")
    maker.add_argument("--head-size", type=int, default=40)
    maker.add_argument("--seed", type=int, default=0)
    maker.add_argument("--variant", choices=VARIANTS, default="plain")
    maker.set_defaults(run=make)
    every = commands.add_parser("all")
    every.add_argument("--model", required=True)
    every.add_argument("--out", required=True)
    every.add_argument("--engine", required=True)
    every.set_defaults(
        run=all_variants, rank=4, alpha=16, targets="q_proj,v_proj", rslora=False, head_size=40, seed=0, prompt=None
    )
    checker = commands.add_parser("check")
    checker.add_argument("--model", required=True)
    checker.add_argument("--adapter", required=True)
    checker.add_argument("--engine")
    checker.add_argument("--prompt", action="append")
    checker.set_defaults(run=check)
    args = parser.parse_args()
    try:
        args.run(args)
    except AssertionError as failure:
        sys.exit(f"FAILED: {failure}")


if __name__ == "__main__":
    main()
