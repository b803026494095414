"""One-sequence greedy decoding with llama.cpp.

    python decode_llama_cpp.py --model DIR --gguf FILE [--threads 2] [--new-tokens 128]

Calls llama.cpp's C interface straight through the bindings (decode a batch, let its greedy sampler pick), so
Python costs some microseconds a token; its defaults are kept: mapped weights, float16 key-value cache, automatic
flash attention. The prompt is tokenised by tokenizer.json of the model directory, so every peer decodes the same ids.
"""

import ctypes
import time

import peer


def main():
    p = peer.decode_parser(__doc__.splitlines()[0])
    p.add_argument("--gguf", required=True, help="the model as to_gguf.py wrote it")
    args = p.parse_args()
    peer.limit_threads(args.threads)

    import llama_cpp as ll
    from tokenizers import Tokenizer

    quiet = ll.llama_log_callback(lambda level, text, user: None)
    ll.llama_log_set(quiet, ctypes.c_void_p(0))
    t0 = time.perf_counter()
    ll.llama_backend_init()
    model = ll.llama_model_load_from_file(args.gguf.encode(), ll.llama_model_default_params())
    if not model:
        raise SystemExit(f"llama.cpp cannot load {args.gguf}")
    ids = (
        Tokenizer.from_file(f"{args.model}/tokenizer.json").encode(args.prompt, add_special_tokens=False).ids
    )
    params = ll.llama_context_default_params()
    params.n_ctx = len(ids) + args.new_tokens
    params.n_threads = params.n_threads_batch = args.threads
    context = ll.llama_init_from_model(model, params)
    sampler = ll.llama_sampler_init_greedy()
    load_s = time.perf_counter() - t0

    step, new_ids = (ll.llama_token * len(ids))(*ids), []
    t0 = time.perf_counter()
    for i in range(args.new_tokens):
        if ll.llama_decode(context, ll.llama_batch_get_one(step, len(step))) != 0:
            raise SystemExit("llama_decode failed")
        token = ll.llama_sampler_sample(sampler, context, -1)
        new_ids.append(token)
        step = (ll.llama_token * 1)(token)
        if i == 0:
            first, alive = time.perf_counter(), peer.seconds_alive()
    end = time.perf_counter()
    peer.decode_report(
        "llama.cpp", "bfloat16", args.threads, len(ids), new_ids, load_s, first - t0, end - first, alive
    )


if __name__ == "__main__":
    main()
