"""The objectives of implicit chain of thought, Coconut and distillation in plain PyTorch, as fixtures of the tests.

    pip install torch safetensors tokenizers
    python tests/thoughts/reference.py tests/golden/llama-tiny tests/golden/qwen2-tiny

Everything is as naive as its definition and in float64: no cache, one forward over the whole sequence for every
thought, gradients by autograd, one sample at a time. Writes into each model's directory

* thoughts.json: the samples, and per case its tokens and losses;
* thoughts.safetensors: the projector (`thought_projector.*`), and per case `KEY.grad.NAME`, `KEY.SAMPLE.thoughts` (the
  input embeddings of the thoughts, [n, H]) and, under distillation, `KEY.SAMPLE.teacher` and `KEY.SAMPLE.student` (the
  hidden states that are compared, [layers, H]).

Case KEY trains the golden adapter (and the projector), or with a final `.full` all weights of the bare model. The
forward pass is first checked against the hidden states of sft.safetensors.
"""

import json
import math
import os
import sys

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

SAMPLES = [
    {
        "question": "A shop has 12 apples and buys 7 more. It sells 5. How many are left?",
        "steps": "<<12+7=19>>\n<<19-5=14>>",
        "answer": "14",
    },
    {
        "question": "Tom has 3 boxes with 24 pens each and gives 10 pens away. How many pens does Tom have now?",
        "steps": "<<3*24=72>>\n<<72-10=62>>\n<<62+0=62>>",
        "answer": "62",
    },
]
STAGES = 3
THOUGHTS_PER_STEP = 2
DISTILL_THOUGHTS = 6
WEIGHTS = {"student": 1.0, "teacher": 1.0, "distill": 20.0}


def rope_frequencies(config):
    dim, scaling = config["head_dim"], config.get("rope_scaling")
    freq = 1.0 / config["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    if not scaling:
        return freq
    assert scaling["rope_type"] == "llama3"
    factor, original = scaling["factor"], scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelength = 2 * math.pi / freq
    smooth = ((original / wavelength - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * freq / factor + smooth * freq


class Model:
    """A Llama or Qwen2 decoder over one sequence; `weights` by their names in the file, adapters without PEFT's prefix."""

    def __init__(self, path, adapted):
        self.config = json.load(open(os.path.join(path, "config.json")))
        c = self.config
        c.setdefault("head_dim", c["hidden_size"] // c["num_attention_heads"])
        self.weights = {k: v.double() for k, v in load_file(os.path.join(path, "model.safetensors")).items()}
        self.scale = None
        if adapted:
            adapter = json.load(open(os.path.join(path, "adapter", "adapter_config.json")))
            self.scale = adapter["lora_alpha"] / adapter["r"]
            lora = load_file(os.path.join(path, "adapter", "adapter_model.safetensors"))
            trained = {k.removeprefix("base_model.model."): v.double() for k, v in lora.items()}
        else:
            trained = dict(self.weights)
        projector = load_projector(c["hidden_size"])
        self.trained = {k: v.clone().requires_grad_() for k, v in (trained | projector).items()}
        self.weights |= self.trained

    def linear(self, name, x):
        w = self.weights
        y = x @ w[name + ".weight"].T
        if name + ".bias" in w:
            y = y + w[name + ".bias"]
        if name + ".lora_A.weight" in w:
            y = y + self.scale * (x @ w[name + ".lora_A.weight"].T) @ w[name + ".lora_B.weight"].T
        return y

    def norm(self, name, x):
        eps = self.config["rms_norm_eps"]
        return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * self.weights[name + ".weight"]

    def rotate(self, x):
        # x: [heads, T, head_dim]
        angles = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * rope_frequencies(self.config)
        cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    def attention(self, p, x):
        c, t = self.config, x.shape[0]
        heads, kv_heads, dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        q, k, v = (self.linear(f"{p}.{n}_proj", x).view(t, -1, dim).transpose(0, 1) for n in "qkv")
        q, k = self.rotate(q), self.rotate(k)
        k, v = (y.repeat_interleave(heads // kv_heads, 0) for y in (k, v))
        scores = q @ k.transpose(1, 2) / math.sqrt(dim)
        future = torch.ones(t, t, dtype=torch.bool).triu(1)
        out = scores.masked_fill(future, -torch.inf).softmax(-1) @ v
        return self.linear(f"{p}.o_proj", out.transpose(0, 1).reshape(t, -1))

    def __call__(self, x):
        """Input embeddings [T, H] to the outputs of all blocks, [T, H] each, the last one after the final norm."""
        states = []
        for i in range(self.config["num_hidden_layers"]):
            p = f"model.layers.{i}"
            x = x + self.attention(f"{p}.self_attn", self.norm(f"{p}.input_layernorm", x))
            n = self.norm(f"{p}.post_attention_layernorm", x)
            gate, up = (self.linear(f"{p}.mlp.{part}_proj", n) for part in ("gate", "up"))
            x = x + self.linear(f"{p}.mlp.down_proj", F.silu(gate) * up)
            states.append(x)
        states[-1] = self.norm("model.norm", x)
        return states

    def embed(self, ids):
        return self.weights["model.embed_tokens.weight"][torch.tensor(ids)]

    def log_probabilities(self, hidden):
        head = "model.embed_tokens.weight" if self.config["tie_word_embeddings"] else "lm_head.weight"
        return (hidden @ self.weights[head].T).log_softmax(-1)

    def project(self, h):
        w = {k.removeprefix("thought_projector."): v for k, v in self.weights.items()}
        inner = F.gelu(w["fc.0.weight"] @ h + w["fc.0.bias"])
        return w["fc.2.weight"] @ inner + w["fc.2.bias"]

    def read(self, question, thoughts, tail, projected=False):
        """The losses of the labels, the inputs of the thoughts, and the states of every layer."""
        x = self.embed(question)
        for _ in range(thoughts):
            h = self(x)[-1][-1]
            x = torch.cat([x, (self.project(h) if projected else h)[None]])
        states = self(torch.cat([x, self.embed(tail)]))
        logprobs = self.log_probabilities(states[-1])
        # The separator that ends the question, then the tail: each from the row before it.
        first = len(question) + thoughts
        labels = [(len(question) - 2, question[-1])] + [(first - 1 + i, id) for i, id in enumerate(tail)]
        losses = torch.stack([-logprobs[row, id] for row, id in labels])
        return losses, x[len(question) :], states


def load_projector(hidden):
    """PyTorch's own initial values of two linear layers."""
    torch.manual_seed(1)
    layers = {"fc.0": torch.nn.Linear(hidden, hidden), "fc.2": torch.nn.Linear(hidden, hidden)}
    values = {f"{n}.{k}": v.detach().clone() for n, layer in layers.items() for k, v in layer.named_parameters()}
    return {f"thought_projector.{k}": v.double() for k, v in values.items()}


def tokens(path, config, method, stage, sample):
    """A sample as token ids: each part as one string, without special tokens."""
    tokenizer = Tokenizer.from_file(os.path.join(path, "tokenizer.json"))
    ids = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    [separator] = ids("###")
    eos = config["eos_token_id"]
    prompt = f"Question: {sample['question']} Let's think step by step:(Thinking speed: auto)"
    question = ids(prompt) + [separator]
    answer = ids(f"Answer:{sample['answer']}") + [eos]
    colon = len(ids("Answer:")) - 1
    assert answer[: colon + 1] == ids("Answer:")
    steps = sample["steps"].split("\n")
    if method == "distill":
        in_words = ids(f"###{sample['steps']}###")[1:]
        return {
            "question": question,
            "tail": [separator] + answer,
            "teacher_tail": in_words + answer,
            "student_colon": 1 + colon,
            "teacher_colon": len(in_words) + colon,
        }
    remaining = "\n".join(steps[stage:]) if stage < STAGES else ""
    if method == "icot":
        in_words = ids(f"###{remaining}###") if remaining else [separator, separator]
        return {"question": question, "tail": in_words[1:] + answer, "answer": len(answer)}
    in_words = ids(f"{remaining}###") if remaining else [separator]
    return {"question": question, "tail": in_words + answer}


def run_case(path, key, method, stage, full):
    model = Model(path, adapted=not full)
    thoughts = {"icot": 0, "coconut": THOUGHTS_PER_STEP * stage, "distill": DISTILL_THOUGHTS}[method]
    case = {"key": key, "method": method, "stage": stage, "thoughts": thoughts, "full": full, "tokens": []}
    student, teacher, distances, tensors = [], [], [], {}
    for i, sample in enumerate(SAMPLES):
        t = tokens(path, model.config, method, stage, sample)
        case["tokens"].append(t)
        losses, inputs, states = model.read(t["question"], thoughts, t["tail"], projected=method == "distill")
        student.append(losses)
        if thoughts:
            tensors[f"{key}.{i}.thoughts"] = inputs
        if method == "distill":
            losses, _, taught = model.read(t["question"], 0, t["teacher_tail"])
            teacher.append(losses)
            row = len(t["question"]) + thoughts + t["student_colon"]
            mine = torch.stack([s[row] for s in states])
            theirs = torch.stack([s[len(t["question"]) + t["teacher_colon"]] for s in taught])
            distances.append(F.smooth_l1_loss(mine, theirs.detach()))
            tensors |= {f"{key}.{i}.student": mine, f"{key}.{i}.teacher": theirs}
    parts = {"student": torch.cat(student).mean()}
    if method == "distill":
        parts |= {"teacher": torch.cat(teacher).mean(), "distill": torch.stack(distances).mean()}
    total = sum(WEIGHTS[k] * v for k, v in parts.items())
    total.backward()
    case["losses"] = {k: v.item() for k, v in (parts | {"total": total}).items()}
    for name, weight in model.trained.items():
        if weight.grad is not None:
            tensors[f"{key}.grad.{name}"] = weight.grad
    return case, tensors


def check_forward(path):
    """The hidden states that the golden supervised cases hold, from the same input embeddings."""
    model = Model(path, adapted=True)
    with safe_open(os.path.join(path, "sft.safetensors"), "pt") as f:
        key = next(k.removesuffix(".hidden") for k in f.keys() if k.endswith(".hidden") and "full" not in k)
        x, want = (f.get_tensor(f"{key}.{n}").double() for n in ("inputs_embeds", "hidden"))
    got = model(x.view(-1, x.shape[-1]))[-1]
    error = ((got - want.view_as(got)).norm() / want.norm()).item()
    assert error < 1e-5, f"{path}: hidden states of {key} are off by {error:.1e}"
    print(f"{path}: hidden states of {key} agree to {error:.1e}")


def main(paths):
    for path in paths:
        check_forward(path)
        wanted = [(m, s, False) for m in ("icot", "coconut") for s in range(1, STAGES + 1)]
        wanted += [("distill", 0, False), ("coconut", 2, True) if "llama" in path else ("distill", 0, True)]
        hidden = json.load(open(os.path.join(path, "config.json")))["hidden_size"]
        cases, tensors = [], load_projector(hidden)
        for method, stage, full in wanted:
            key = method + (f".{stage}" if stage else "") + (".full" if full else "")
            case, values = run_case(path, key, method, stage, full)
            print(path, key, case["losses"])
            cases.append(case)
            tensors |= values
        tensors = {k: v.detach().float().contiguous() for k, v in tensors.items()}
        save_file(tensors, os.path.join(path, "thoughts.safetensors"))
        with open(os.path.join(path, "thoughts.json"), "w") as f:
            json.dump({"samples": SAMPLES, "weights": WEIGHTS, "cases": cases}, f, indent=1)
            f.write("\n")


main(sys.argv[1:])
