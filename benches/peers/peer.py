"""Shared by the peers: the fixed prompt, the clock, the memory reading and the one JSON line at the end.

Each peer is a process of its own, so that neither its memory nor its thread pool is touched by another, and
prints exactly one JSON object on the last line of its standard output; `run.py` reads that line.
"""

import argparse
import json
import os
import time

PROMPT = "Question: Tom has 3 boxes with 24 pens each. How many pens? Let's think step by step:"
"""The prompt of every decode run: 25 tokens in the SmolLM2 vocabulary, and one of the golden continuations."""


def parser(description):
    """An argument parser with the flags that all peers have."""
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--model", required=True, help="Hugging Face model directory")
    p.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    return p


def decode_parser(description):
    """The flags of a decode run: those of `parser`, the prompt and the number of new tokens."""
    p = parser(description)
    p.add_argument("--prompt", default=PROMPT)
    p.add_argument("--new-tokens", type=int, default=128, help="tokens to decode; end-of-sequence is ignored")
    return p


def limit_threads(n):
    """Sets the thread count of every OpenMP or BLAS pool; must run before numpy or torch is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(n)


def seconds_alive():
    """Seconds since this process was started, by the kernel's clock (10 ms steps), interpreter start included."""
    with open("/proc/self/stat") as f:
        started = int(f.read().rsplit(")", 1)[1].split()[19])  # field 22, in ticks since boot
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def peak_rss_mib():
    """The largest resident set of this process so far, mapped file pages included, in MiB."""
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) / 1024


def decode_report(
    name, dtype, threads, prompt_tokens, new_ids, load_s, prefill_s, decode_s, first_token_alive_s
):
    """Prints the result of a decode run.

    `decode_s` covers every new token but the first, whose forward pass is the prefill. `start_to_first_token_s`
    counts from the start of the process, imports and loading included.
    """
    emit(
        {
            "name": name,
            "dtype": dtype,
            "threads": threads,
            "prompt_tokens": prompt_tokens,
            "new_tokens": len(new_ids),
            "load_s": round(load_s, 4),
            "prefill_tokens_per_s": round(prompt_tokens / prefill_s, 2),
            "decode_tokens_per_s": round((len(new_ids) - 1) / decode_s, 2),
            "prefill_s": round(prefill_s, 4),
            "start_to_first_token_s": round(first_token_alive_s, 3),
            "peak_rss_mib": round(peak_rss_mib(), 1),
            "token_ids": new_ids,
        }
    )


def emit(record):
    """Prints `record` with the load average of the machine as the last line of the output."""
    record["load_average_1min"] = round(os.getloadavg()[0], 2)
    print(json.dumps(record), flush=True)
