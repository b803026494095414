"""The step of `colar-engine bench train` in PyTorch: LoRA and latent head of a model of the same shape.

    python train_step_torch.py --model DIR [--tokens 16384] [--sequence 512] [--cf 2] [--device cuda]

Of `DIR` only `config.json` is read; weights are random. The batch is that of `bench train` without `--data`: sequences
of `--sequence` packed positions, half of them a question, then the separator and chunks of c step tokens merged into
one position each, then eight tokens of answer. A step: embed and merge, one forward pass, the logits of the
labelled positions and their cross-entropy, the latent head's draw and its squared error to the next input, backward,
clipping of the gradient norm, AdamW.

Weights are bfloat16, adapters and latent head float32, products run under autocast in bfloat16, attention is
`scaled_dot_product_attention`. `--layout packed` feeds one row of all positions with their `position_ids`, as packing
of unequal sequences does; `--layout rows` makes use of the sequences' equal length, a row each, which needs no mask and
is what PyTorch does fastest. Where transformers and PEFT are not installed the model is written out below; the report
says which it was.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import peer
from sft_step_torch import latent_head

ANSWER = 8
"""Answer tokens of a sequence; shorter ones have a quarter of their positions."""


def rope_frequencies(torch, config, head_dim):
    """The inverse frequencies of the rotary embedding, with the scaling of Llama 3 where the configuration has it."""
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    theta = config.get("rope_theta") or scaling.get("rope_theta") or 10000.0
    inverse = 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    if scaling.get("rope_type", scaling.get("type")) != "llama3":
        return inverse
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * inverse / (2 * torch.pi)
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return inverse / scaling["factor"] * (1 - smooth) + inverse * smooth


def plain_model(torch, config, dtype, rank, alpha):
    """A Llama or Qwen2 decoder in plain modules, LoRA on its query and value projections."""
    nn, F = torch.nn, torch.nn.functional
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or hidden // heads
    biased = config["model_type"] == "qwen2"

    def linear(inputs, outputs, bias=False):
        return nn.Linear(inputs, outputs, bias=bias, dtype=dtype)

    class Lora(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base, self.scale = base, alpha / rank
            self.a = nn.Linear(base.in_features, rank, bias=False)
            self.b = nn.Linear(rank, base.out_features, bias=False)
            nn.init.zeros_(self.b.weight)

        def forward(self, x):
            return self.base(x) + self.b(self.a(x)) * self.scale

    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(hidden, dtype=dtype))

        def forward(self, x):
            return F.rms_norm(x, (hidden,), self.weight, config["rms_norm_eps"])

    def rotated(x, cos, sin):
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.q = Lora(linear(hidden, heads * head_dim, biased))
            self.k = linear(hidden, kv_heads * head_dim, biased)
            self.v = Lora(linear(hidden, kv_heads * head_dim, biased))
            self.o = linear(heads * head_dim, hidden)
            self.gate, self.up = linear(hidden, inner), linear(hidden, inner)
            self.down = linear(inner, hidden)
            self.before, self.after = Norm(), Norm()

        def forward(self, x, cos, sin, mask):
            n = self.before(x)
            q, k, v = (
                p(n).unflatten(-1, (-1, head_dim)).transpose(1, 2) for p in (self.q, self.k, self.v)
            )
            q, k = rotated(q, cos, sin), rotated(k, cos, sin)
            attended = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=heads != kv_heads
            )
            x = x + self.o(attended.transpose(1, 2).flatten(2))
            n = self.after(x)
            return x + self.down(F.silu(self.gate(n)) * self.up(n))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(config["vocab_size"], hidden, dtype=dtype)
            self.layers = nn.ModuleList(Layer() for _ in range(config["num_hidden_layers"]))
            self.norm = Norm()
            self.head = linear(hidden, config["vocab_size"])
            if config.get("tie_word_embeddings"):
                self.head.weight = self.embed.weight
            self.register_buffer("inverse", rope_frequencies(torch, config, head_dim), persistent=False)

        def forward(self, x, positions):
            angles = positions[..., None].float() * self.inverse
            angles = torch.cat([angles, angles], -1)[:, None]
            cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
            mask = None
            if x.shape[0] == 1:
                sequence = (positions == 0).cumsum(-1)
                mask = (sequence[:, :, None] == sequence[:, None, :]).tril()[:, None]
            for layer in self.layers:
                x = layer(x, cos, sin, mask)
            return self.norm(x)

    model = Model()
    for name, weight in model.named_parameters():
        weight.requires_grad_(".a." in name or ".b." in name)
        if weight.dim() == 2 and not weight.requires_grad:
            nn.init.normal_(weight, std=0.02)
    return model, model.embed, model.head


def library_model(torch, directory, dtype, rank, alpha):
    """The same by transformers and PEFT."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(directory)
    base = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    base.config.use_cache = False
    adapter = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(base, adapter).train()
    decoder = base.model

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x, positions):
            return decoder(inputs_embeds=x, position_ids=positions, use_cache=False).last_hidden_state

    return Model(), base.get_input_embeddings(), base.get_output_embeddings()


def batch(torch, count, rows, cf, vocab, device):
    """Random sequences: ids and scale of every position's chunk, labelled positions and labels, latent positions."""
    question, answer = rows // 2, min(ANSWER, rows // 4)
    chunks = rows - question - answer - 1
    ids = torch.randint(vocab, (count, rows, cf), device=device)
    scale = torch.zeros(rows, cf, device=device)
    scale[:, 0] = 1.0
    first = question + 1  # after the separator
    scale[first : first + chunks] = 1.0 / (cf**0.5 + 1e-5) if cf > 1 else 1.0
    drawn = torch.zeros(count, rows, dtype=torch.long, device=device)
    drawn[:, first : first + chunks] = torch.randint(cf, (count, chunks), device=device)
    labels = ids.gather(2, drawn[..., None])[..., 0]
    labelled = torch.arange(question - 1, rows - 1, device=device)
    latents = torch.arange(question, question + chunks + 1, device=device)
    return ids, scale, labels, labelled, latents


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", required=True, help="directory with a config.json")
    p.add_argument("--tokens", type=int, default=16384, help="packed positions of a step")
    p.add_argument("--sequence", type=int, default=512, help="packed positions of a sequence")
    p.add_argument("--cf", type=int, default=2, help="compression factor c")
    p.add_argument("--rank", type=int, default=128)
    p.add_argument("--head-size", type=int, help="width of the latent head (default: the hidden size)")
    p.add_argument("--layout", choices=["packed", "rows"], default="packed")
    p.add_argument("--plain", action="store_true", help="do not use transformers and PEFT")
    p.add_argument("--checkpointing", action="store_true", help="recompute layers in the backward pass")
    p.add_argument("--device", default="cuda")
    p.add_argument("--warmup", type=int, default=3)
    p.add_argument("--steps", type=int, default=10)
    args = p.parse_args()

    try:
        import torch
    except ImportError as e:
        raise SystemExit(f"PyTorch is not there: {e}") from None
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU")
    torch.manual_seed(0)
    config = json.loads((Path(args.model) / "config.json").read_text())
    implementation, why, dtype = "transformers and PEFT", None, torch.bfloat16
    with torch.device(args.device):
        try:
            if args.plain:
                raise ImportError("asked to do without")
            model, embed, output = library_model(torch, args.model, dtype, args.rank, 32)
        except ImportError as e:
            implementation, why = "plain PyTorch", str(e)
            model, embed, output = plain_model(torch, config, dtype, args.rank, 32)
        hidden = config["hidden_size"]
        head = latent_head(torch, hidden, args.head_size or hidden)
    if args.checkpointing:
        if why is not None:
            raise SystemExit("--checkpointing needs transformers and PEFT")
        model.model.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
    embed.weight.requires_grad_(False)
    trained = [w for m in (model, head) for w in m.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01, fused=args.device == "cuda")

    rows = min(args.sequence, args.tokens)
    count = args.tokens // rows
    ids, scale, labels, labelled, latents = batch(
        torch, count, rows, args.cf, config["vocab_size"], args.device
    )
    positions = torch.arange(rows, device=args.device).expand(count, rows)
    std = embed.weight.float().std()

    def step():
        with torch.no_grad():
            x = (embed(ids).float() * scale[..., None]).sum(2)
            target = x[:, latents + 1] / std
            x = x.to(dtype)
        flat = args.layout == "packed"
        fed = (x.view(1, -1, hidden), positions.reshape(1, -1)) if flat else (x, positions)
        with torch.autocast(args.device, dtype):
            h = model(*fed).view(count, rows, hidden)
            logits = output(h[:, labelled].flatten(0, 1))
            drawn = head(h[:, latents]).rsample()
        ce = torch.nn.functional.cross_entropy(logits.float(), labels[:, labelled + 1].flatten())
        latent = (drawn.float() - target).square().mean()
        (ce + latent).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return ce.detach(), latent.detach()

    seconds, events, history = [], [], []
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(args.warmup + args.steps):
        if args.device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
        start = time.perf_counter()
        ce, latent = step()
        if args.device == "cuda":
            end.record()
            end.synchronize()
            events.append(begin.elapsed_time(end) * 1e-3)
        history.append([round(ce.item(), 5), round(latent.item(), 5)])
        seconds.append(time.perf_counter() - start)
    timed = (events or seconds)[args.warmup :]
    median = statistics.median(timed)
    versions = {"torch": torch.__version__}
    if why is None:
        import peft
        import transformers

        versions |= {"transformers": transformers.__version__, "peft": peft.__version__}
    peer.emit(
        {
            "name": "training step in PyTorch",
            "device": args.device,
            "hardware": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
            "implementation": implementation,
            "without": why,
            "versions": versions,
            "dtype": "bf16",
            "layout": args.layout,
            "checkpointing": args.checkpointing,
            "positions": count * rows,
            "sequences": count,
            "labels": count * len(labelled),
            "latents": count * len(latents),
            "trained_parameters": sum(w.numel() for w in trained),
            "step_s": round(median, 5),
            "step_s_all": [round(s, 5) for s in timed],
            "positions_per_s": round(count * rows / median, 1),
            "peak_bytes": torch.cuda.max_memory_allocated()
            if args.device == "cuda"
            else int(peer.peak_rss_mib() * 2**20),
            "losses": history,
        }
    )


if __name__ == "__main__":
    main()
