"""One process asking one model: each sample is decoded (in the background), answered and, if right, explained."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from harness.compressor import budget
from harness.compressor.grading import Grader
from harness.compressor.sources import Sample
from harness.frames import shown
from harness.models import open_model
from harness.scoring.judge import JudgeConfig, JudgeError
from harness.sweep.device import release, works
from model_wrappers.errors import SampleError, UserError
from model_wrappers.registry import method
from model_wrappers.relevance.attention import prompt_first_layer_attention

LOOK_AHEAD = 2
"""Samples decoded and waiting."""


@dataclass(frozen=True)
class Job:
    """What every sample is asked with. `settings`: of the model; `relevance`: fields of the method `relevance`."""

    model: str
    settings: dict[str, Any]
    max_visual: int
    relevance: dict[str, Any]
    judge: JudgeConfig | None


@dataclass
class Outcome:
    """What came of one sample: its record as of `TrainingSet`, and why it is not kept, or its tensors [N_v]."""

    record: dict[str, Any]
    reason: str | None = None
    attention: Tensor | None = field(default=None, repr=False)
    relevance: Tensor | None = field(default=None, repr=False)


class Asker:
    """A model kept open. For a `with`, at whose end it is closed.

    Raises UserError where the model cannot be opened or the judge not asked.
    """

    def __init__(self, job: Job, device: str | None = None) -> None:
        self.job = job
        self.grader = Grader(job.judge)
        self.relevance: Any = method("relevance", **job.relevance)
        self.model = open_model(job.model, **job.settings, **({"device": device} if device else {}))

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        if works(self.model.device):
            self.model.close()

    def outcomes(self, samples: Sequence[Sample]) -> Iterator[Outcome]:
        """Asks the samples in order.

        Raises:
            UserError: the judge does not answer, or an error of a sample left nothing of the device that works. What
                was yielded before stands.
        """
        pool = ThreadPoolExecutor(1, "decode")
        ahead: deque[tuple[Sample, Future[Any]]] = deque()
        try:
            for sample in samples:
                ahead.append((sample, pool.submit(self._decode, sample)))
                if len(ahead) > LOOK_AHEAD:
                    yield from self._asked(*ahead.popleft())
            while ahead:
                yield from self._asked(*ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _asked(self, sample: Sample, decoding: Future[Any]) -> Iterator[Outcome]:
        outcome = self._ask(sample, decoding)
        yield outcome
        if outcome.reason and outcome.reason.startswith("failed: ") and not works(self.model.device):
            raise UserError(
                f"the device works no more after sample {sample.id} ({outcome.reason.removeprefix('failed: ')}); "
                "everything before is kept, repeat the command to go on"
            )

    def _decode(self, sample: Sample) -> tuple[Any, str]:
        """The prompt before the model, and the sample's group."""
        with sample.file.file() as (path, digest), TemporaryDirectory(prefix="retain-collect-") as folder:
            seen = shown(self.model, sample.media, path, Path(folder))
            decoded = self.model.decode([*seen, {"type": "text", "value": sample.prompt}])
        # A model that is given frames as images does not know from them that they are a video's.
        decoded = dataclasses.replace(decoded, media=sample.media)
        return decoded, sample.group or digest or str(sample.file.path)

    def _ask(self, sample: Sample, decoding: Future[Any]) -> Outcome:
        record: dict[str, Any] = {
            "id": sample.id,
            "source": sample.source,
            "group": sample.group,
            "media": sample.media,
            "n_visual": None,
            "grids": None,
            "question": sample.prompt,
            "answer": sample.answer,
            "response": None,
        }
        outcome = Outcome(record)
        try:
            decoded, record["group"] = decoding.result()
            outcome.reason = self._answer(sample, decoded, outcome)
        except JudgeError as error:
            raise UserError(str(error)) from error
        except Exception as error:  # of this sample; the others can be asked
            outcome.reason = f"failed: {_told(error)}"
            release(error)
        return outcome

    def _answer(self, sample: Sample, decoded: Any, outcome: Outcome) -> str | None:
        """Fills in the outcome; returns why the sample is not kept."""
        record = outcome.record
        if decoded.extents is not None:  # known before the vision encoder has done its work
            record["n_visual"] = len(decoded.extents)
            if (most := budget.limit(self.job.max_visual)) < record["n_visual"]:
                return f"longer than {most} visual tokens"
        prompt = self.model.encode(decoded)
        record["n_visual"], record["grids"] = prompt.n_visual, [list(grid) for grid in prompt.grids]
        record["response"], _ = self.model.answer(prompt, "vanilla", 1.0)
        right = self.grader.right(sample, record["response"])
        if right is None:
            return "failed: the judge gave no verdict that can be read"
        if not right:
            return "wrong answer"
        relevance = self.relevance.score(self.model.model, prompt).detach().float().cpu()
        attention = prompt_first_layer_attention(self.model.model, prompt).detach().float().cpu()
        if not bool(torch.isfinite(relevance).all() and torch.isfinite(attention).all()):
            return "failed: relevance or attention is not finite"
        if float(relevance.clamp(min=0).sum()) <= 0:
            return "no visual token is relevant"
        outcome.attention, outcome.relevance = attention, relevance
        return None


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())[:500]
    if text and isinstance(error, UserError | SampleError):
        return text
    return f"{type(error).__name__}: {text}".rstrip(": ")
