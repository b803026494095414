"""The effect of reinforcement learning on the embedded default, over several seeds, and of its parts.

    python scripts/rl_seeds.py --engine target/release/colar-engine --out runs/rl-seeds [--seeds 5] [--jobs 2]

For every seed the default run (`colar-engine train`), then its last stage again with one thing changed at a
time; every policy answers the same 1,000 held-out questions, greedily. What is there already is not run
again, so a run that was cut off goes on. Writes OUT/seeds.json and prints the table: means over seeds with
95 % intervals (Student's t).
"""

import argparse
import concurrent.futures
import json
import math
import statistics
import subprocess
from pathlib import Path

VARIANTS = {
    "as the default run": [],
    "sum instead of mean over a rollout's elements": ["--average-per-token-loss=false"],
    "length not punished": ["--punish-latent-length=false"],
    "neither": ["--average-per-token-loss=false", "--punish-latent-length=false"],
}
"""The variants of the reinforcement learning stage: a name in the table, and the flags that differ."""

T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Student's t at 97.5 %, by degrees of freedom."""


def call(command):
    """Runs `command`; its standard output."""
    return subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def evaluate(engine, run, checkpoint):
    """Accuracy in percent and #L of a checkpoint at c = 2, greedy, on the run's test questions."""
    data = run / "data" / "test.jsonl"
    command = [engine, "eval", "--model", run / "model", "--adapter", checkpoint, "--data", data]
    (row,) = json.loads(call([*command, "--cf", "2", "--greedy", "--json"]))
    return {"accuracy": 100 * row["accuracy"], "length": row["mean_length"]}


def one_seed(engine, threads, out, seed):
    """The results of one seed."""
    run = out / f"seed{seed}"
    if not (run / "table.json").exists():
        resume = ["--resume"] if run.exists() else []
        call([engine, "train", "--seed", seed, "--threads", threads, "--out", run, *resume])
    results = {"supervised": evaluate(engine, run, run / "colar" / "best")}
    for i, (name, flags) in enumerate(VARIANTS.items()):
        directory = run / "rl" if not flags else run / f"rl-{i}"
        if not (directory / "rl.svg").exists():
            config = ["--config", run / "rl" / "config.toml", "--out", directory]
            resume = ["--resume"] if directory.exists() else []
            call([engine, "train", *config, *flags, *resume])
        results[name] = evaluate(engine, run, directory / "best")
    print(f"seed {seed}: {json.dumps(results)}", flush=True)
    return results


def interval(values):
    """`mean ± half width` of a 95 % interval."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.1f}"
    half = T_975[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.1f} ± {half:.1f}"


def table(seeds):
    """Markdown, a row a policy."""
    lines = ["| policy, c = 2 | accuracy (%) | #L | #L against supervised (%) |", "|:---|---:|---:|---:|"]
    for name in seeds[0]:
        accuracy = interval([s[name]["accuracy"] for s in seeds])
        length = interval([s[name]["length"] for s in seeds])
        change = interval([100 * (s[name]["length"] / s["supervised"]["length"] - 1) for s in seeds])
        lines.append(f"| {name} | {accuracy} | {length} | {'' if name == 'supervised' else change} |")
    return "\n".join(lines)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--engine", default="target/release/colar-engine")
    p.add_argument("--out", type=Path, default=Path("runs/rl-seeds"))
    p.add_argument("--seeds", type=int, default=5, choices=range(1, 11))
    p.add_argument("--jobs", type=int, default=1, help="seeds that run at the same time")
    p.add_argument("--threads", type=int, default=0, help="threads of each; 0 is one a core")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        runs = [pool.submit(one_seed, args.engine, args.threads, args.out, seed) for seed in range(args.seeds)]
        seeds = [run.result() for run in runs]
    (args.out / "seeds.json").write_text(json.dumps(seeds, indent=1) + "\n")
    print(table(seeds))


if __name__ == "__main__":
    main()
