"""One-sequence greedy decoding with transformers.

    python decode_torch.py --model DIR [--dtype bfloat16|float32] [--threads 2] [--new-tokens 128]

The loop is written out rather than left to `generate`, so that the peer is timed without that function's logits
processors and stopping rules: one forward pass with the key-value cache and one arg max a token.
"""

import time

import peer


def main():
    p = peer.decode_parser(__doc__.splitlines()[0])
    p.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    args = p.parse_args()
    peer.limit_threads(args.threads)

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(args.threads)
    t0 = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).eval()
    load_s = time.perf_counter() - t0
    ids = tokenizer(args.prompt, add_special_tokens=False, return_tensors="pt").input_ids

    new_ids, cache, step = [], None, ids
    with torch.inference_mode():
        t0 = time.perf_counter()
        for i in range(args.new_tokens):
            out = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, step = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
            new_ids.append(step.item())
            if i == 0:
                first, alive = time.perf_counter(), peer.seconds_alive()
        end = time.perf_counter()
    peer.decode_report(
        "transformers",
        args.dtype,
        args.threads,
        ids.shape[1],
        new_ids,
        load_s,
        first - t0,
        end - first,
        alive,
    )


if __name__ == "__main__":
    main()
