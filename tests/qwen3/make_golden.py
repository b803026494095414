"""A Qwen3 with random weights, and what `transformers` and PEFT compute with it: the fixtures of tests/golden/qwen3.rs.

    python3 -m venv target/qwen3-venv && target/qwen3-venv/bin/pip install -r tests/qwen3/requirements.txt
    target/qwen3-venv/bin/python tests/qwen3/make_golden.py

Writes tests/golden/qwen3-tiny, a model directory (with the tokenizer of tests/golden/qwen2-tiny) whose heads together
are wider than the model, and in it

* golden.json: the tokens of a sample, prompts and their greedy continuations;
* golden.safetensors, per case KEY: `KEY.logits` [T, V], `KEY.hidden.LAYER` [T, H] (what `output_hidden_states` gives
  from the first block on; the last is after the final norm), `KEY.loss` and `KEY.grad.NAME`; and `KEY.autocast`, how far
  all gradients together are from these, relative to their norm, when PyTorch's autocast computes them in bfloat16;
* adapter/: an adapter on all seven projections, as PEFT stores it, with a latent head of random weights, which none of
  the cases uses.

Cases: `tied` trains all weights of the model as it is, `untied` the same with the output head `untied.lm_head.weight`
of golden.safetensors, `lora` the adapter alone. The loss is the mean cross-entropy of all tokens after the question.
Everything is float32 with the plain ("eager") attention.
"""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

ROOT = Path(__file__).resolve().parents[1] / "golden"
OUT = ROOT / "qwen3-tiny"
NEW_TOKENS = 12
# Continuations whose best two logits are nearer than this somewhere would not tell a wrong engine from rounding.
LEAST_GAP = 0.02
# Nor would one that says the same all the time.
LEAST_TOKENS = 6

CONFIG = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "torch_dtype": "float32",
}


def model(tied):
    config = Qwen3Config(**CONFIG, tie_word_embeddings=tied)
    config._attn_implementation = "eager"
    torch.manual_seed(3)
    made = Qwen3ForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name.endswith("norm.weight"):
                weight.normal_(1.0, 0.3)
            elif name != "lm_head.weight":
                weight.normal_(0.0, 0.1 if "embed" in name else 0.3)
        # Last, so that the others are the same in both.
        if not tied:
            made.lm_head.weight.normal_(0.0, 0.1)
    return made


def tokens(count, generator):
    # 0 and 1 are the ends of texts.
    return torch.randint(2, CONFIG["vocab_size"], (count,), generator=generator).tolist()


def measure(key, net, sample, wanted):
    """The vectors of the case `key`."""
    found = passes(key, net, sample, wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = passes(key, net, sample, wanted)
    gradients = [name for name in found if ".grad." in name]
    off = sum((half[name] - found[name]).square().sum() for name in gradients)
    size = sum(found[name].square().sum() for name in gradients)
    return found | {f"{key}.autocast": (off / size).sqrt().reshape(1)}


def passes(key, net, sample, wanted):
    """States, logits, loss and gradients of a forward and a backward pass."""
    ids = torch.tensor([sample["question"] + sample["steps"] + sample["answer"]])
    labels = ids.clone()
    labels[:, : len(sample["question"])] = -100
    net.zero_grad()
    out = net(ids, labels=labels, output_hidden_states=True)
    out.loss.backward()
    found = {f"{key}.loss": out.loss.reshape(1), f"{key}.logits": out.logits[0]}
    for layer, states in enumerate(out.hidden_states[1:]):
        found[f"{key}.hidden.{layer}"] = states[0]
    for name, weight in net.named_parameters():
        if wanted(name):
            # As the engine names weights and files do: without PEFT's prefix and the adapter's name.
            short = name.removeprefix("base_model.model.").replace(".default", "")
            found[f"{key}.grad.{short}"] = weight.grad
    return {name: t.detach().clone().contiguous() for name, t in found.items()}


@torch.no_grad()
def continue_greedily(net, prompt):
    ids, gap = list(prompt), float("inf")
    for _ in range(NEW_TOKENS):
        best = net(torch.tensor([ids])).logits[0, -1].topk(2)
        gap = min(gap, (best.values[0] - best.values[1]).item())
        ids.append(best.indices[0].item())
    return ids[len(prompt) :], gap


def add_latent_head(directory, hidden, inner):
    shapes = [("fc.0", (inner, hidden)), ("fc.2", (inner, inner)), ("fc.3", (inner,))]
    shapes += [("mean", (hidden, inner)), ("log_std", (hidden, inner))]
    head = {}
    for name, shape in shapes:
        head[f"latent_policy.{name}.weight"] = torch.randn(shape) * 0.3
        head[f"latent_policy.{name}.bias"] = torch.randn(shape[:1]) * 0.3
    save_file(head, directory / "latent_head.safetensors")
    config = {
        "embeds_std": 0.1,
        "merge": "sqrt",
        "latent_head": {"intermediate_size": inner, "deterministic": False},
        "thinking_separator": "###",
    }
    (directory / "colar.json").write_text(json.dumps(config, indent=1) + "\n")


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    for file in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(ROOT / "qwen2-tiny" / file, OUT / file)
    tied = model(tied=True)
    tied.save_pretrained(OUT)

    generator = torch.Generator().manual_seed(7)
    sample = {part: tokens(n, generator) for part, n in [("question", 9), ("steps", 7), ("answer", 4)]}
    rows = []
    while len(rows) < 3:
        prompt = tokens(3 + 4 * len(rows), generator)
        continuation, gap = continue_greedily(tied, prompt)
        if gap > LEAST_GAP and len(set(continuation)) >= LEAST_TOKENS:
            rows.append({"prompt": prompt, "continuation": continuation})

    vectors = measure("tied", tied, sample, lambda name: True)
    untied = model(tied=False)
    for name, weight in tied.named_parameters():
        assert torch.equal(weight, untied.get_parameter(name)), name
    vectors["untied.lm_head.weight"] = untied.lm_head.weight.detach().clone()
    vectors |= measure("untied", untied, sample, lambda name: True)

    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = get_peft_model(tied, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM"))
    torch.manual_seed(11)
    with torch.no_grad():
        for name, weight in lora.named_parameters():
            if "lora_" in name:
                weight.normal_(0.0, 0.2)
    lora.save_pretrained(OUT / "adapter")
    (OUT / "adapter" / "README.md").unlink(missing_ok=True)
    # PEFT writes a set, in an order that differs from run to run.
    file = OUT / "adapter" / "adapter_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"target_modules": targets}, indent=1) + "\n")
    vectors |= measure("lora", lora, sample, lambda name: "lora_" in name)
    add_latent_head(OUT / "adapter", CONFIG["hidden_size"], inner=24)

    save_file(vectors, OUT / "golden.safetensors")
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    text = f'{{\n "sample": {json.dumps(sample)},\n "rows": [\n  {lines}\n ]\n}}\n'
    (OUT / "golden.json").write_text(text)


main()
