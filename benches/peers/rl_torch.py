"""One CoLaR reinforcement step in PyTorch, transformers and PEFT, doing the work that the authors' code does for it.

    python rl_torch.py --model DIR --data samples.jsonl [--cf 2] [--dtype float32|bf16-autocast]

Written from the paper's procedure and from the order of the authors' passes (arXiv 2505.16552,
xiaomi-research/colar), to time it, not to train with. The group answers the first question of the file. The rollout:

1. tokenise the question once for every member of the group, and prefill all of them;
2. draw a latent, feed it, draw a token from the logits of the whole vocabulary, until the chain's end;
3. prefill question, latents and separator again, and sample the answer (`generate`, top-p 0.9, temperature 1);
4. decode the answers, compare them with the right one, and take the group's advantages;
5. take the old log-probabilities from one more forward pass over everything, the logits of every position.

The update, over a shuffled minibatch that is the whole group: that forward pass with its graph, the clipped loss of
latents and answer tokens (each the mean over a sequence, then over sequences), backward, gradient norm clipped to 1,
AdamW. Weights are float32 and the vocabulary is grown by one [PAD] row, as there.

Two things are fixed so that every run does the same work, on either side of the comparison: the separator cannot be drawn
before the last latent nor the end of the sequence before the last answer token, and every other chain counts as
right, since an untrained head's answers are all wrong and would leave no gradient. Everything else is sampled.
"""

import json
import statistics
import time
from dataclasses import dataclass
from typing import Any

import peer
from sft_step_torch import SEPARATOR, latent_head


@dataclass
class Experience:
    """A group's rollouts: tensors of [group, length], of [group, length, hidden_size] for latents."""

    question: Any
    """Token ids, the separator last; as all members ask the same, there is no padding."""
    latents: Any
    """Input embeddings."""
    n_latents: Any
    """[group]: how many latents each chain has; here all have the same number."""
    answer: Any
    """Token ids, the separator first."""
    answer_mask: Any
    advantages: Any
    """[group, 1]."""
    old: Any = None
    """The result of `logprobs` for the policy that made the rollout."""

    def take(self, rows):
        """The experiences at `rows` as a minibatch."""
        of = {k: v[rows] for k, v in vars(self).items() if k != "old"}
        return Experience(**of, old=tuple(v[rows] for v in self.old))


class Policy:
    """The LoRA model with its latent head, tokenizer and generation settings."""

    def __init__(self, torch, args):
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch, self.n_latents, self.answer_tokens = torch, args.latents, args.answer_tokens
        self.tokenizer = AutoTokenizer.from_pretrained(args.model)
        self.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        self.separator = self.tokenizer.convert_tokens_to_ids(SEPARATOR)
        base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
        self.embeds_std = base.get_input_embeddings().weight.std().item()
        base.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        base.generation_config.pad_token_id = self.tokenizer.pad_token_id
        base.generation_config.eos_token_id = self.tokenizer.eos_token_id
        self.embed = base.get_input_embeddings()
        lora = LoraConfig(r=128, lora_alpha=32, target_modules=["q_proj", "v_proj"])
        self.llm = get_peft_model(base, lora).train()
        self.head_size = args.head_size or base.config.hidden_size
        self.head = latent_head(torch, base.config.hidden_size, self.head_size)
        self.trained = [w for m in (self.llm, self.head) for w in m.parameters() if w.requires_grad]

    def forward(self, inputs, mask, positions, cache=None):
        """A pass that gives logits and hidden states of every position, and the cache."""
        return self.llm(
            inputs_embeds=inputs,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            output_hidden_states=True,
        )

    def generate(self, prompts):
        """Question ids, latents and answer ids (separator first) of one chain for each prompt."""
        torch = self.torch
        encoded = self.tokenizer(prompts, return_tensors="pt", add_special_tokens=False)
        question, mask = encoded["input_ids"], encoded["attention_mask"]
        inputs, one = [self.embed(question)], torch.ones_like(question[:, :1])
        positions = mask.cumsum(1) - 1
        out = self.forward(inputs[0], mask, positions)
        for _ in range(self.n_latents):
            drawn = self.head(out.hidden_states[-1][:, -1:]).rsample() * self.embeds_std
            inputs.append(drawn)
            mask, positions = torch.cat([mask, one], 1), positions[:, -1:] + 1
            out = self.forward(drawn, mask, positions, out.past_key_values)
            logits = out.logits[:, -1].index_fill(1, one.new_tensor([self.separator]), -torch.inf)
            # A chain would end where this draws the separator; the mask above moves that to the last latent.
            torch.multinomial(logits.softmax(-1), 1)
        end = one * self.separator
        answer = self.llm.generate(
            inputs_embeds=torch.cat([*inputs, self.embed(end)], 1),
            attention_mask=torch.cat([mask, one], 1),
            do_sample=True,
            top_p=0.9,
            temperature=1.0,
            min_new_tokens=self.answer_tokens,
            max_new_tokens=self.answer_tokens,
        )
        return question, torch.cat(inputs[1:], 1), torch.cat([end, answer], 1)

    def logprobs(self, e):
        """Teacher-forced log-probabilities: of latents [group, latents] (mean over the elements), of answer tokens."""
        torch = self.torch
        inputs = torch.cat([self.embed(e.question), e.latents, self.embed(e.answer)], 1)
        ones = [torch.ones_like(e.question), torch.ones_like(e.latents[..., 0], dtype=torch.long)]
        mask = torch.cat([*ones, e.answer_mask], 1)
        out = self.forward(inputs, mask, (mask.cumsum(1) - 1).clamp_min(0))
        before = e.question.shape[1] - 1
        drawn_from = self.head(out.hidden_states[-1][:, before : before + e.latents.shape[1]])
        latent = drawn_from.log_prob(e.latents / self.embeds_std).mean(-1)
        # As chains may differ in length, the separator's logits are picked a sequence at a time; in the backward pass
        # every pick costs a gradient as large as all logits.
        ends = [out.logits[i, n + before : n + before + 1] for i, n in enumerate(e.n_latents.tolist())]
        logits = torch.cat([torch.stack(ends), out.logits[:, -e.answer.shape[1] : -1]], 1)
        answer = logits.log_softmax(-1).gather(2, e.answer.unsqueeze(2)).squeeze(2)
        return latent, answer


def same_answer(given, right):
    """Whether two answers are the same number, or failing that the same text."""
    given, right = (a.strip("\n ").rstrip(".").replace(",", "") for a in (given, right))
    try:
        return float(given) == float(right)
    except ValueError:
        return given == right


def rollout(policy, prompt, right, group_size):
    """One group's experiences for `prompt`, with the log-probabilities of the policy that made them."""
    torch = policy.torch
    with torch.no_grad():
        question, latents, answer = policy.generate([prompt] * group_size)
        texts = policy.tokenizer.batch_decode(answer, skip_special_tokens=True)
        verdicts = [same_answer(t.split("Answer:")[-1], right) for t in texts]
        rewards = torch.tensor([[float(v or i % 2)] for i, v in enumerate(verdicts)])
        e = Experience(
            question=question,
            latents=latents,
            n_latents=torch.full([group_size], latents.shape[1]),
            answer=answer,
            answer_mask=answer.ne(policy.tokenizer.pad_token_id).long(),
            advantages=(rewards - rewards.mean()) / (rewards.std() + 1e-8),
        )
        e.old = policy.logprobs(e)
    return e


def clipped_loss(torch, new, old, mask, advantages, eps=0.2):
    """GRPO's clipped surrogate: the mean over a sequence's elements, then over the sequences."""
    ratio = (new - old).exp()
    gain = torch.min(ratio * advantages, ratio.clamp(1 - eps, 1 + eps) * advantages)
    return -((gain * mask).sum(1) / mask.sum(1)).mean()


def update(policy, optimizer, e):
    """One minibatch's step: (loss, gradient norm before clipping, largest change of a log-probability)."""
    torch = policy.torch
    latent, answer = policy.logprobs(e)
    old_latent, old_answer = e.old
    loss = clipped_loss(torch, latent, old_latent, torch.ones_like(latent), e.advantages)
    loss = loss + clipped_loss(torch, answer, old_answer, e.answer_mask, e.advantages)
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.trained, 1.0)
    optimizer.step()
    off = max((latent - old_latent).abs().max().item(), (answer - old_answer).abs().max().item())
    return loss.item(), norm.item(), off


def main():
    p = peer.parser(__doc__.splitlines()[0])
    p.add_argument("--data", required=True, help="JSON lines of question, steps, answer; the first is used")
    p.add_argument("--cf", type=int, default=2, help="compression factor c")
    p.add_argument("--group-size", type=int, default=8, help="chains a question, and experiences a minibatch")
    p.add_argument("--latents", type=int, default=16, help="latents of every chain")
    p.add_argument("--answer-tokens", type=int, default=16, help="tokens of every answer")
    p.add_argument(
        "--head-size", type=int, help="width of the latent head's trunk (default: the hidden size)"
    )
    p.add_argument("--dtype", choices=["float32", "bf16-autocast"], default="float32")
    p.add_argument("--lr", type=float, default=1e-6)
    p.add_argument("--warmup", type=int, default=1)
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    peer.limit_threads(args.threads)

    import torch

    if args.group_size < 2:
        raise SystemExit("--group-size: a group of one has no spread of rewards, so no advantage")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    with open(args.data) as f:
        sample = json.loads(f.readline())
    prompt = f"Question: {sample['question']} Let's think step by step:(Thinking speed: {args.cf}){SEPARATOR}"
    policy = Policy(torch, args)
    optimizer = torch.optim.AdamW(policy.trained, lr=args.lr, weight_decay=0.01)

    rollouts, updates, history = [], [], []
    for _ in range(args.warmup + args.steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bf16-autocast"):
            t0 = time.perf_counter()
            e = rollout(policy, prompt, sample["answer"], args.group_size)
            t1 = time.perf_counter()
            history.append(update(policy, optimizer, e.take(torch.randperm(args.group_size))))
            t2 = time.perf_counter()
        rollouts.append(t1 - t0)
        updates.append(t2 - t1)
    rollouts, updates = rollouts[args.warmup :], updates[args.warmup :]
    peer.emit(
        {
            "name": "authors' procedure in torch",
            "dtype": args.dtype,
            "threads": args.threads,
            "cf": args.cf,
            "group_size": args.group_size,
            "question_tokens": e.question.shape[1],
            "n_latents": e.latents.shape[1],
            "answer_tokens": e.answer.shape[1] - 1,
            "head_size": policy.head_size,
            "trained_parameters": sum(w.numel() for w in policy.trained),
            "rollout_s": round(statistics.median(rollouts), 4),
            "rollout_s_all": [round(s, 4) for s in rollouts],
            "update_s": round(statistics.median(updates), 4),
            "update_s_all": [round(s, 4) for s in updates],
            "losses": [round(loss, 6) for loss, _, _ in history],
            "grad_norms": [round(norm, 5) for _, norm, _ in history],
            "largest_logprob_change": max(off for _, _, off in history),
            "peak_rss_mib": round(peer.peak_rss_mib(), 1),
        }
    )


if __name__ == "__main__":
    main()
