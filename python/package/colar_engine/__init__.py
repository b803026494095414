"""Language models that reason in compressed latent vectors (CoLaR).

    >>> from colar_engine import Engine
    >>> engine = Engine("models/SmolLM2-135M", "runs/colar/best")
    >>> engine.generate("A pen costs 3. What do 4 pens cost?", compression_factor=2).text

An `Engine` is loaded once, and generates, streams, traces and scores from any thread; the interpreter is free meanwhile, and
Ctrl-C ends what runs. `Sampling` says how latents and tokens are drawn. Errors are `ColarError`, in one line.
"""

from ._errors import ColarError, FileError, NumericalError, OptionError
from ._native import (
    Done,
    Engine,
    Generation,
    Latent,
    Losses,
    Prefilled,
    Sample,
    SampleScore,
    Sampling,
    Score,
    Stream,
    Token,
    Trace,
    __version__,
    load_samples,
)

__all__ = [
    "ColarError",
    "Done",
    "Engine",
    "FileError",
    "Generation",
    "Latent",
    "Losses",
    "NumericalError",
    "OptionError",
    "Prefilled",
    "Sample",
    "SampleScore",
    "Sampling",
    "Score",
    "Stream",
    "Token",
    "Trace",
    "__version__",
    "load_samples",
]
