"""The types of the extension module. Its docstrings say what things are; here stand the shapes of arrays."""

from collections.abc import Sequence
from os import PathLike
from types import TracebackType
from typing import Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

_Path: TypeAlias = str | PathLike[str]
_Method: TypeAlias = Literal["colar", "cot", "icot", "coconut", "distill", "plain"]
_Factor: TypeAlias = int | float | str

__all__ = [
    "Done",
    "Engine",
    "Generation",
    "Latent",
    "Losses",
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
    "run_command",
]

__version__: str

@final
class Engine:
    def __new__(
        cls,
        model: _Path | None = None,
        adapter: _Path | None = None,
        *,
        run: _Path | None = None,
        device: Literal["auto", "cpu", "cuda", "cuda-host"] = "auto",
        dtype: Literal["f32", "bf16"] | None = None,
        lora: Literal["merge", "apart"] | None = None,
        template: Literal["paper", "chat"] | None = None,
        threads: int = ...,
        allow_long: bool = False,
        escape_marks: bool = False,
        no_mmap: bool = False,
    ) -> Engine: ...
    def generate(
        self,
        text: str,
        *,
        method: _Method | None = None,
        compression_factor: _Factor | None = None,
        sampling: Sampling | None = None,
        trace: bool = False,
    ) -> Generation: ...
    def generate_batch(
        self,
        texts: Sequence[str],
        *,
        method: _Method | None = None,
        compression_factor: _Factor | None = None,
        sampling: Sampling | Sequence[Sampling] | None = None,
        trace: bool = False,
    ) -> list[Generation]: ...
    def stream(
        self,
        text: str,
        *,
        method: _Method | None = None,
        compression_factor: _Factor | None = None,
        sampling: Sampling | None = None,
        trace: bool = False,
    ) -> Stream: ...
    def score(
        self,
        samples: Sequence[Sample],
        *,
        method: _Method | None = None,
        compression_factor: int = ...,
        batch_tokens: int = ...,
    ) -> Score: ...
    def tokens(self, text: str) -> list[int]: ...
    def text(self, ids: Sequence[int]) -> str: ...
    def token_text(self, id: int) -> str: ...
    def embeddings(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """[len(ids), hidden_size]"""
    @property
    def method(self) -> _Method | None: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def description(self) -> str: ...

@final
class Sampling:
    def __new__(
        cls,
        *,
        latent_temperature: float = ...,
        eol_temperature: float = ...,
        temperature: float = ...,
        top_p: float = ...,
        max_latents: int = ...,
        max_cot_tokens: int = ...,
        max_new_tokens: int = ...,
        seed: int = ...,
        separator_bias: float = ...,
    ) -> Sampling: ...
    def greedy(self) -> Sampling: ...
    @property
    def latent_temperature(self) -> float: ...
    @property
    def eol_temperature(self) -> float: ...
    @property
    def temperature(self) -> float: ...
    @property
    def top_p(self) -> float: ...
    @property
    def max_latents(self) -> int: ...
    @property
    def max_cot_tokens(self) -> int: ...
    @property
    def max_new_tokens(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def separator_bias(self) -> float: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class Generation:
    @property
    def text(self) -> str: ...
    @property
    def answer(self) -> str | None: ...
    @property
    def question(self) -> str: ...
    @property
    def compression_factor(self) -> str: ...
    @property
    def n_latents(self) -> int: ...
    @property
    def token_ids(self) -> list[int]: ...
    @property
    def ending(self) -> Literal["finished", "limit", "cancelled"]: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def answer_tokens(self) -> int: ...
    @property
    def prefill_ms(self) -> float: ...
    @property
    def latents_ms(self) -> float: ...
    @property
    def answer_ms(self) -> float: ...
    @property
    def trace(self) -> Trace | None: ...

@final
class Trace:
    @property
    def latents(self) -> NDArray[np.float32]:
        """[n, hidden_size]"""
    @property
    def token_ids(self) -> NDArray[np.uint32]:
        """[n, k]"""
    @property
    def tokens(self) -> list[list[str]]:
        """n lists of k"""
    @property
    def cosines(self) -> NDArray[np.float32]:
        """[n, k]"""
    @property
    def end_probabilities(self) -> NDArray[np.float32]:
        """[n], or [0] for thoughts"""
    def __len__(self) -> int: ...

@final
class Prefilled: ...

@final
class Latent:
    @property
    def number(self) -> int: ...

@final
class Token:
    @property
    def id(self) -> int: ...
    @property
    def text(self) -> str: ...

@final
class Done:
    @property
    def text(self) -> str: ...
    @property
    def generation(self) -> Generation: ...

@final
class Stream:
    def cancel(self) -> None: ...
    @property
    def generation(self) -> Generation | None: ...
    def __iter__(self) -> Stream: ...
    def __next__(self) -> Prefilled | Latent | Token | Done: ...
    def __enter__(self) -> Stream: ...
    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

@final
class Sample:
    def __new__(cls, question: str, steps: Sequence[str], answer: str) -> Sample: ...
    @property
    def question(self) -> str: ...
    @property
    def steps(self) -> list[str]: ...
    @property
    def answer(self) -> str: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class Losses:
    @property
    def ce(self) -> float: ...
    @property
    def latent_mse(self) -> float | None: ...
    @property
    def latent_nll(self) -> float | None: ...
    @property
    def entropy(self) -> float | None: ...
    @property
    def ce_positions(self) -> int: ...
    @property
    def latent_positions(self) -> int: ...
    @property
    def teacher_ce(self) -> float | None: ...
    @property
    def distill(self) -> float | None: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class SampleScore:
    @property
    def question(self) -> str: ...
    @property
    def losses(self) -> Losses: ...

@final
class Score:
    @property
    def samples(self) -> list[SampleScore]: ...
    @property
    def total(self) -> Losses: ...
    def columns(self) -> dict[str, NDArray[np.float64]]:
        """[samples] each"""

def load_samples(path: _Path) -> list[Sample]: ...
def run_command(arguments: Sequence[str]) -> int: ...
