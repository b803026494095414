"""What a model thinks: its latents against the tokens whose embeddings point their way.

    cargo run --release -- train          # or any other run
    pip install ./python matplotlib
    python python/examples/latents.py     # the newest run in runs/; --run names another
"""

import argparse

import matplotlib
import numpy as np

from numpy.typing import NDArray

from colar_engine import Engine, Sampling

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--run", help="the directory of a run (the newest in runs/)")
parser.add_argument("--cf", default="2", help="the compression factor")
parser.add_argument("--out", default="latents.png")
parser.add_argument("question", nargs="?", default="Mia buys 3 bags of 5 pens, sells 6 and finds 4. How many has Mia now?")
options = parser.parse_args()

engine = Engine(run=options.run, device="cpu")
made = engine.generate(options.question, compression_factor=options.cf, sampling=Sampling().greedy(), trace=True)
trace = made.trace
assert trace is not None  # it was asked for
if not len(trace):
    raise SystemExit("there is nothing to plot: the model reasons in words")

# The three nearest tokens of each latent, in the order in which they first come up.
ids = list(dict.fromkeys(trace.token_ids[:, :3].ravel().tolist()))
labels = [repr(engine.token_text(id))[1:-1] for id in ids]


def directions(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of length 1."""
    lengths: NDArray[np.float32] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths


cosines = directions(engine.embeddings(ids)) @ directions(trace.latents).T  # [tokens, latents]

size = (2 + 0.35 * len(trace), 2.2 + 0.22 * len(ids))
figure, (above, below) = plt.subplots(2, sharex=True, figsize=size, height_ratios=[len(ids), 3], layout="constrained")
limit = float(np.abs(cosines).max())
image = above.imshow(cosines, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit)
above.set_yticks(range(len(ids)), labels, fontfamily="monospace")
above.set_ylabel("token")
title = f"{made.text.strip()} after {made.n_latents} latents, c = {made.compression_factor}"
above.set_title(f"{made.question}\n{title}", fontsize="small", wrap=True)
figure.colorbar(image, ax=above, label="cosine")
below.bar(range(len(trace.end_probabilities)), trace.end_probabilities, color="grey")
below.set_ylabel("ends")
below.set_ylim(0, 1)
below.set_xlabel("latent")
below.set_xticks(range(len(trace)), range(1, len(trace) + 1))
figure.savefig(options.out, dpi=150)
print(f"{options.out}: {len(trace)} latents, {len(ids)} tokens; {made.text.strip()}")
