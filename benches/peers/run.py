"""Measures the engine beside its peers in one run, and writes a Markdown table and the raw JSON.

    python run.py --model DIR --gguf FILE --engine target/release/colar-engine [--rounds 3] [--out results]

Every measurement is a process of its own. The peers take turns (the order is reversed in every second round),
so that a slow spell of the machine falls on all of them; the table shows the median of the rounds and their
range. What the rest of the machine did meanwhile stands beside each figure, in busy cores: total CPU time,
that taken by other guests of a virtual machine's host included, less the measured process's own. Above some
tenths of a core the figure says little, since the peers' threads spin while they wait for each other;
`--quiet-wait` holds every run back until the machine is idle. A peer that cannot run gets a line
that says why.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
TICK = os.sysconf("SC_CLK_TCK")


def tasks(args):
    """The measurements as (kind, label, command)."""
    model = ["--model", args.model]
    new_tokens = ["--new-tokens", str(args.new_tokens)]
    batch = ["--data", args.data, "--cf", str(args.cf), "--batch-size", str(args.batch_size)]

    def python(script, *more):
        return [sys.executable, str(HERE / script), *model, "--threads", str(args.threads), *more]

    if args.engine:
        yield "decode", "colar-engine", [args.engine, "bench", "decode", *model, "--no-copy", "--json"]
        yield "train", "colar-engine", [args.engine, "bench", "train", *model, *batch, "--json"]
        question = ["--data", args.data, "--cf", str(args.cf)]
        yield "rl", "colar-engine", [args.engine, "bench", "rl", *model, *question, "--json"]
    if args.gguf:
        yield "decode", "llama.cpp, bf16", python("decode_llama_cpp.py", "--gguf", args.gguf, *new_tokens)
    yield "decode", "transformers, bf16", python("decode_torch.py", "--dtype", "bfloat16", *new_tokens)
    yield "decode", "transformers, f32", python("decode_torch.py", "--dtype", "float32", *new_tokens)
    yield "train", "authors' step, f32", python("sft_step_torch.py", *batch, "--dtype", "float32")
    yield (
        "train",
        "authors' step, bf16 autocast",
        python("sft_step_torch.py", *batch, "--dtype", "bf16-autocast"),
    )
    for dtype, label in (("float32", "f32"), ("bf16-autocast", "bf16 autocast")):
        yield (
            "rl",
            f"authors' rollout and update, {label}",
            python("rl_torch.py", "--data", args.data, "--cf", str(args.cf), "--dtype", dtype),
        )


def busy_seconds():
    """CPU seconds since boot that were not idle: of all processes, and those the host gave to other guests."""
    with open("/proc/stat") as f:
        user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, f.readline().split()[1:])
    return (user + nice + system + irq + softirq + steal) / TICK


def wait_for_quiet(limit_s):
    """Returns once the machine used under 0.1 cores for 2 s, or after `limit_s` seconds."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        before = busy_seconds()
        time.sleep(2)
        if busy_seconds() - before < 0.2:
            return


def measure(command, timeout_s):
    """Runs `command`; its last line as a dict, with peak memory and the rest of the machine's load added.

    Peak memory is what the kernel counted for the process, mapped file pages included: the same measure for all.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        busy, start = busy_seconds(), time.monotonic()
        try:
            child = subprocess.Popen(command, stdout=out, stderr=err)
        except OSError as e:
            return {"error": f"{command[0]}: {e.strerror}"}
        status, usage = wait_or_kill(child, start + timeout_s)
        elapsed = time.monotonic() - start
        others = (busy_seconds() - busy - usage.ru_utime - usage.ru_stime) / elapsed
        out.seek(0)
        err.seek(0)
        lines, complaint = out.read().splitlines(), err.read().splitlines()
    if status != 0:
        why = complaint[-1] if complaint else "no message"
        return {"error": f"exit status {status} after {elapsed:.0f} s: {why}"}
    try:
        record = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        return {"error": "its last line of output is not JSON"}
    return record | {"peak_rss_mib": usage.ru_maxrss / 1024, "other_cores": max(others, 0.0)}


def wait_or_kill(child, end):
    """Waits for `child`, killing it at `end` (monotonic seconds): (exit status, resource usage)."""
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode, usage
        if time.monotonic() > end:
            child.kill()
        time.sleep(0.05)


def spread(records, key, digits):
    """`median (lowest–highest)` of a key over the rounds, or a dash where nobody reports it."""
    values = [r[key] for r in records if key in r]
    if not values:
        return "–"
    text = f"{statistics.median(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f}–{max(values):.{digits}f})"


COLUMNS = {
    "decode": [
        ("decode, tokens/s", "decode_tokens_per_s", 1),
        ("prefill, tokens/s", "prefill_tokens_per_s", 0),
        ("start to first token, s", "start_to_first_token_s", 2),
        ("peak memory, MiB", "peak_rss_mib", 0),
        ("others' load, cores", "other_cores", 2),
    ],
    "train": [
        ("step, s", "step_s", 3),
        ("positions", "positions", 0),
        ("padded to", "padded_positions", 0),
        ("positions/s", "positions_per_s", 0),
        ("peak memory, MiB", "peak_rss_mib", 0),
        ("others' load, cores", "other_cores", 2),
    ],
    "rl": [
        ("rollout, s", "rollout_s", 3),
        ("update, s", "update_s", 3),
        ("peak memory, MiB", "peak_rss_mib", 0),
        ("others' load, cores", "other_cores", 2),
    ],
}

SAME_WORK = {"rl": ["group_size", "question_tokens", "n_latents", "answer_tokens"]}
"""Fields that all peers of a kind must report alike for their times to be comparable."""


def work(kind, results):
    """A line that says how much every run of `kind` did, and where the runs do not agree on it."""
    parts = []
    for key in SAME_WORK.get(kind, []):
        who = {}
        for (k, label), records in results.items():
            for value in {r[key] for r in records if k == kind and key in r}:
                who.setdefault(value, []).append(label)
        name = key.replace("_", " ")
        if len(who) == 1:
            parts.append(f"{name} {next(iter(who))}")
        elif who:
            sides = ", ".join(f"{value} ({', '.join(labels)})" for value, labels in who.items())
            parts.append(f"**not comparable, {name} differs**: {sides}")
    return f"\n{'; '.join(parts)}\n" if parts else ""


def markdown(results, args):
    """The tables, one a kind, with the skipped peers named below."""
    titles = {
        "decode": f"One sequence, greedy, {args.new_tokens} new tokens",
        "train": f"One CoLaR supervised step: {args.batch_size} samples, c = {args.cf}, LoRA r 128",
        "rl": "One group's rollout and the update from it, LoRA r 128",
    }
    text = [
        f"{Path(args.model).resolve().name}, {args.threads} threads, {args.rounds} rounds: median (range)\n"
    ]
    for kind, columns in COLUMNS.items():
        if not any(k == kind for k, _ in results):
            continue
        text.append(
            f"\n{titles[kind]}\n\n| | {' | '.join(c[0] for c in columns)} |\n|---|{'---:|' * len(columns)}\n"
        )
        for (k, label), records in results.items():
            good = [r for r in records if "error" not in r]
            if k == kind and good:
                text.append(f"| {label} | {' | '.join(spread(good, key, d) for _, key, d in columns)} |\n")
        text.append(work(kind, results))
    for (k, label), records in results.items():
        failed = [r["error"] for r in records if "error" in r]
        if failed:
            text.append(
                f"\nNo figure from {len(failed)} of {len(records)} rounds: {label}, {k}: {failed[-1]}\n"
            )
    return "".join(text)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="Hugging Face model directory")
    p.add_argument("--gguf", help="the same model as to_gguf.py wrote it; without it llama.cpp is left out")
    p.add_argument("--engine", help="the colar-engine binary; without it the engine is left out")
    p.add_argument("--data", default=str(HERE / "samples.jsonl"))
    p.add_argument("--only", choices=list(COLUMNS))
    p.add_argument("--cf", type=int, default=2)
    p.add_argument("--batch-size", type=int, default=8)
    p.add_argument("--new-tokens", type=int, default=128)
    p.add_argument("--threads", type=int, default=2, help="the engine gets it as RAYON_NUM_THREADS")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--timeout", type=float, default=600, help="seconds until a single run is given up")
    p.add_argument("--quiet-wait", type=float, default=0, help="seconds to wait at most for an idle machine")
    p.add_argument("--out", default="peers", help="writes OUT.md and OUT.json (default ./peers)")
    args = p.parse_args()

    os.environ["RAYON_NUM_THREADS"] = str(args.threads)
    todo = [t for t in tasks(args) if args.only in (None, t[0])]
    results = {(kind, label): [] for kind, label, _ in todo}
    for i in range(args.rounds):
        for kind, label, command in todo if i % 2 == 0 else reversed(todo):
            wait_for_quiet(args.quiet_wait)
            record = measure(command, args.timeout)
            results[kind, label].append(record)
            shown = record.get("error") or {
                k: round(record[k], 3) for _, k, _ in COLUMNS[kind] if k in record
            }
            print(f"round {i + 1}, {kind}, {label}: {shown}", file=sys.stderr, flush=True)
            table = markdown(results, args)
            Path(f"{args.out}.md").write_text(table)
            rows = [{"kind": k, "label": label, "rounds": rs} for (k, label), rs in results.items()]
            Path(f"{args.out}.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(table)


if __name__ == "__main__":
    main()
