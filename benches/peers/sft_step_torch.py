"""One CoLaR supervised step in PyTorch, transformers and PEFT, doing the work that the authors' code does for it.

    python sft_step_torch.py --model DIR --data samples.jsonl [--cf 2] [--dtype float32|bf16-autocast]

Written from the paper's procedure and from the shape of the authors' batches (arXiv 2505.16552,
xiaomi-research/colar), to time it, not to train with: every step takes the same first `--batch-size` samples.
What a step does:

1. tokenise; questions are padded on the left, steps on the left to whole chunks of c, answers on the right;
2. embed, and merge each chunk of c step tokens into one vector, sum / (sqrt(k) + 1e-5);
3. one forward pass of the padded batch through the LoRA model (r 128, alpha 32, q_proj and v_proj), the logits of
   every position, cross-entropy against one random token of each chunk and every token of the answer;
4. the latent head on the steps' hidden states, a reparameterised draw, its squared error to the next input;
5. backward, AdamW.

As there, the weights are float32 (`bf16-autocast` runs the products in bfloat16), the vocabulary is grown by one
[PAD] row, and the steps segment is padded to the same width. A step's time includes its tokenisation, as there.
"""

import json
import statistics
import time

import peer

SEPARATOR = "###"


def segments(sample, cf):
    """The three texts of a sample: question, steps, answer without the end-of-sequence token."""
    return (
        f"Question: {sample['question']} Let's think step by step:(Thinking speed: {cf})",
        SEPARATOR + "\n".join(sample["steps"]),
        f"{SEPARATOR}Answer:{sample['answer']}",
    )


def pad(torch, rows, fill, side, width=None):
    """Stacks lists of ids into ([batch, width] int64, mask of the same shape), padded on `side`."""
    width = width or max(map(len, rows))
    ids = torch.full((len(rows), width), fill)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if side == "left" else slice(len(row))
        ids[i, at], mask[i, at] = torch.tensor(row), 1
    return ids, mask


def chunks(torch, rows, fill, cf):
    """Cuts steps into chunks of `cf`: ([batch, chunks, cf] ids, mask of the same shape).

    The separator ends a chunk of its own. The width is that of the authors' alignment, ceil(longest / c) + 1 chunks,
    which is one more than the longest sample needs when c divides its number of tokens after the separator.
    """
    longest = max(map(len, rows))
    width = longest if cf == 1 else (-(-longest // cf) + 1)
    aligned = []
    for row in rows:
        tail = -(len(row) - 1) % cf
        aligned.append([None] * (cf - 1) + row + [None] * tail)
    ids = torch.full((len(rows), width * cf), fill)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(aligned):
        for j, token in enumerate(row, start=width * cf - len(row)):
            if token is not None:
                ids[i, j], mask[i, j] = token, 1
    return ids.view(len(rows), width, cf), mask.view(len(rows), width, cf)


def latent_head(torch, hidden_size, head_size):
    """The latent head: a two-layer trunk, then one projection each for the mean and the log of the deviation."""
    nn = torch.nn

    class LatentHead(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Sequential(
                nn.Linear(hidden_size, head_size),
                nn.GELU(),
                nn.Linear(head_size, head_size),
                nn.LayerNorm(head_size),
            )
            self.mean = nn.Linear(head_size, hidden_size)
            self.log_std = nn.Linear(head_size, hidden_size)

        def forward(self, h):
            x = self.fc(h)
            return torch.distributions.Normal(self.mean(x), self.log_std(x).exp())

    return LatentHead()


def losses(torch, llm, head, tokenizer, embeds_std, samples, cf):
    """The loss of one batch (cross-entropy + latent), and its counts of real and padded positions."""
    embed, fill = llm.get_input_embeddings(), tokenizer.pad_token_id
    texts = [segments(s, cf) for s in samples]

    def encode(part, end=""):
        return tokenizer([t[part] + end for t in texts], add_special_tokens=False)["input_ids"]

    q_ids, q_mask = pad(torch, encode(0), fill, "left")
    s_ids, s_mask = chunks(torch, encode(1), fill, cf)
    a_ids, a_mask = pad(torch, encode(2, tokenizer.eos_token), fill, "right")

    count = s_mask.sum(-1)
    merged = (embed(s_ids) * s_mask.unsqueeze(-1)).sum(2)
    if cf > 1:
        merged = merged / (count.sqrt() + 1e-5).unsqueeze(-1)
    drawn = torch.multinomial(s_mask.flatten(0, 1) + 1e-5, 1).view(*count.shape, 1)
    c_mask, c_labels = (count > 0).long(), s_ids.gather(2, drawn).squeeze(2)

    inputs = torch.cat([embed(q_ids), merged, embed(a_ids)], 1)
    mask = torch.cat([q_mask, c_mask, a_mask], 1)
    labels = torch.cat([torch.full_like(q_ids, -100), c_labels, a_ids], 1).masked_fill(mask == 0, -100)
    out = llm(
        inputs_embeds=inputs,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp_min(0),
        labels=labels,
        output_hidden_states=True,
    )

    q, s = q_ids.shape[1], c_mask.shape[1]
    predicted = head(out.hidden_states[-1][:, q : q + s]).rsample()
    target = inputs[:, q + 1 : q + s + 1].detach() / embeds_std
    squared = torch.nn.functional.mse_loss(predicted, target, reduction="none").mean(-1)
    latent = (squared * c_mask).sum() / c_mask.sum()
    return out.loss, latent, int(mask.sum()), mask.numel()


def main():
    p = peer.parser(__doc__.splitlines()[0])
    p.add_argument("--data", required=True, help="JSON lines of question, steps, answer")
    p.add_argument("--cf", type=int, default=2, help="compression factor c")
    p.add_argument("--batch-size", type=int, default=8)
    p.add_argument(
        "--head-size", type=int, help="width of the latent head's trunk (default: the hidden size)"
    )
    p.add_argument("--dtype", choices=["float32", "bf16-autocast"], default="float32")
    p.add_argument("--lr", type=float, default=1e-4)
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    peer.limit_threads(args.threads)

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    with open(args.data) as f:
        samples = [json.loads(line) for line in f][: args.batch_size]
    if len(samples) < args.batch_size:
        raise SystemExit(f"{args.data}: {len(samples)} samples, fewer than the batch size {args.batch_size}")

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    embeds_std = base.get_input_embeddings().weight.std().item()
    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    llm = get_peft_model(base, LoraConfig(r=128, lora_alpha=32, target_modules=["q_proj", "v_proj"])).train()
    hidden_size = base.config.hidden_size
    head = latent_head(torch, hidden_size, args.head_size or hidden_size)
    trained = [w for m in (llm, head) for w in m.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr, weight_decay=0.01)

    seconds, history = [], []
    for _ in range(args.warmup + args.steps):
        t0 = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bf16-autocast"):
            ce, latent, real, padded = losses(torch, llm, head, tokenizer, embeds_std, samples, args.cf)
        (ce + latent).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - t0)
        history.append([round(ce.item(), 5), round(latent.item(), 5)])
    timed = seconds[args.warmup :]
    median = statistics.median(timed)
    peer.emit(
        {
            "name": "authors' procedure in torch",
            "dtype": args.dtype,
            "threads": args.threads,
            "cf": args.cf,
            "batch_size": args.batch_size,
            "head_size": args.head_size or hidden_size,
            "trained_parameters": sum(w.numel() for w in trained),
            "positions": real,
            "padded_positions": padded,
            "step_s": round(median, 4),
            "step_s_all": [round(s, 4) for s in timed],
            "positions_per_s": round(real / median, 1),
            "losses": history,
            "peak_rss_mib": round(peer.peak_rss_mib(), 1),
        }
    )


if __name__ == "__main__":
    main()
