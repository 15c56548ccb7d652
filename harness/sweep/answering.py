"""One process answering: a model kept open, and one pass over the samples of a benchmark for every method and keep.

Each sample is decoded (in the background, see `harness.sweep.decoding`) and encoded once; then vanilla answers, each
method scores once, and each keep cuts and generates. Only what the store lacks is done.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

from harness.disk import stop_if_full
from harness.evidence import evidence_mask
from harness.plan import Data, Plan, PlannedCell, open_settings
from harness.store import Answer, Index
from harness.sweep.decoding import Decoders, Decoding, processes
from harness.sweep.device import DeviceLost, release, works
from harness.sweep.progress import Progress
from model_wrappers.errors import SampleError, UserError

log = logging.getLogger(__name__)


class Writer(Protocol):
    """Where the answers of one cell go."""

    def lacking(self, indices: list[Index]) -> list[Index]:
        """Those of `indices` that are to be asked."""

    def failed(self, index: Index) -> bool:
        """Whether it was asked before and has no answer of it."""

    def append(self, answer: Answer) -> None:
        """Takes an answer, or why there is none."""


class Cells(Protocol):
    """Where the answers of all cells go: the store, or what brings them to it from another machine."""

    def open(self, settings: Mapping[str, Any]) -> AbstractContextManager[Writer]:
        """The writer of the cell of these settings, for a `with`."""


@dataclass(frozen=True)
class Failure:
    """A sample that some cells of one model and benchmark have no answer to, and why."""

    model: str
    benchmark: str
    index: Index
    cells: int
    reason: str


@dataclass(frozen=True)
class Unfinished:
    """A model and benchmark that was given up in its middle, and why; the same command goes on with it."""

    model: str
    benchmark: str
    reason: str


@dataclass
class Timing:
    """Where the wall time of the answering went, in seconds, summed over workers. `decode` is the time spent waiting
    for decoded samples.
    """

    wall: float = 0.0
    decode: float = 0.0
    encode: float = 0.0
    answer: float = 0.0

    @property
    def overhead(self) -> float:
        """Share (0 to 1) of the wall time that is neither decoding nor the model."""
        return 1.0 - (self.decode + self.encode + self.answer) / self.wall if self.wall else 0.0

    def add(self, other: Timing) -> None:
        """Adds another worker's seconds."""
        self.wall += other.wall
        self.decode += other.decode
        self.encode += other.encode
        self.answer += other.answer


@dataclass
class Tally:
    """What was done: new answers, samples that failed, groups that were given up, and where the time went.

    `peaks`: the most memory that each answering process held, in bytes.
    """

    answered: int = 0
    failures: list[Failure] = field(default_factory=list)
    unfinished: list[Unfinished] = field(default_factory=list)
    timing: Timing = field(default_factory=Timing)
    peaks: list[int] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Adds what somebody else did."""
        self.answered += other.answered
        self.failures += other.failures
        self.unfinished += other.unfinished
        self.timing.add(other.timing)
        self.peaks += other.peaks

    def take(self) -> Tally:
        """What was counted since the last time."""
        taken = Tally(**vars(self))
        vars(self).update(vars(Tally()))
        return taken


class Answerer:
    """Answers one (model, benchmark) after the other; the model stays open until another one is needed, and the
    processes that decode for it stay with it.

    `share`: how many of the machine's cores are this process's, see `processes`. `lost`: why this process can answer
    nothing more, if it cannot. For a `with`, at whose end the model is closed.
    """

    def __init__(self, plan: Plan, store: Cells, data: Data, progress: Progress, share: int | None = None) -> None:
        self.plan, self.store, self.data, self.progress, self.share = plan, store, data, progress, share
        self.lost: str | None = None
        self._name = ""
        self._model: Any = None
        self._decoders = Decoders(0)

    def __enter__(self) -> Answerer:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def answer(self, name: str, benchmark: str, tally: Tally) -> None:
        """Asks every sample of one model and benchmark that some cell lacks, and counts in `tally`.

        A failed sample is recorded with its reason. Where an error of one sample leaves nothing of the device that
        works, the group and all later ones are `unfinished`: their samples were not asked, so they did not fail.

        Raises UserError for what no sample could be answered with, StoreError when the disk refuses, KeyboardInterrupt
        as it comes; each answer given before is kept.
        """
        for _ in self.asked(name, benchmark, tally):
            pass

    def asked(self, name: str, benchmark: str, tally: Tally) -> Iterator[None]:
        """`answer`, with a pause after each sample."""
        if self.lost:
            tally.unfinished.append(Unfinished(name, benchmark, self.lost))
            return
        self.data.open(benchmark, self.plan.experiment.frames_of(name))
        if name != self._name:
            self._close()
            self.progress.at(f"opening {name}")
            self._model, self._name = _open(self.plan, name, self.data.folder), name
        self.progress.at(f"{name} {benchmark}")
        start = time.perf_counter()
        try:
            yield from _Pass(self, tally, self._model, name, benchmark).run()
        except DeviceLost as error:
            self.lost = str(error)
            self._model, self._name = None, ""  # not closed: that is a call to the device too
            self._close()
            tally.unfinished.append(Unfinished(name, benchmark, self.lost))
        finally:
            tally.timing.wall += time.perf_counter() - start

    def decoders(self, samples: int) -> Decoders:
        """Those of the open model: that run already, else as many as are worth it for so many samples."""
        if not self._decoders.count:
            self._decoders = Decoders(processes(self._model.device, samples, self.share))
        return self._decoders

    def _close(self) -> None:
        self._decoders.stop()
        self._decoders = Decoders(0)
        if self._model is not None:
            self._model.close()
        self._model, self._name = None, ""


def _open(plan: Plan, name: str, data: Path) -> Any:
    """The model, after the method of every row that has a cell of it said that it can run on it."""
    from harness.compressor.chosen import method_of
    from harness.models import open_model

    model = open_model(name, **open_settings(plan.experiment, name))
    for number in sorted({cell.row for cell in plan.cells if cell.model == name}):
        row = plan.experiment.rows[number]
        method_of(plan.experiment, name, row, data).check(model.model)
    return model


@dataclass(frozen=True)
class _Column:
    """One cell while it is being answered."""

    label: str
    method: Any
    keep: float
    writer: Writer
    wanted: frozenset[Index]


class _Pass:
    """One model over one benchmark."""

    def __init__(self, answerer: Answerer, tally: Tally, model: Any, name: str, benchmark: str) -> None:
        self.plan, self.store, self.progress = answerer.plan, answerer.store, answerer.progress
        self.decoders = answerer.decoders
        self.tally, self.model, self.name, self.benchmark = tally, model, name, benchmark
        self.data = answerer.data.open(benchmark, self.plan.experiment.frames_of(name))
        self.evidence = answerer.data.evidence(benchmark)
        self.dataset: str = self.data.dataset.dataset_name
        if self.data.modality == "image":
            model.set_dump_image(self.data.dump_image)
        else:
            use_frames_of(model, self.data.dataset)

    def run(self) -> Iterator[None]:
        """Asks each sample that some cell lacks, with a pause after it. The cells are open from here to the end.

        Those come last that failed before: one that takes the device with it every time keeps no other from its answer.
        """
        indices = self.plan.samples[self.benchmark]
        with ExitStack() as stack:
            columns = [self._column(cell, indices, stack) for cell in self.plan.of(self.name, self.benchmark)]
            wanted = [
                (position, index, [column for column in columns if index in column.wanted])
                for position, index in enumerate(indices)
                if any(index in column.wanted for column in columns)
            ]
            wanted.sort(key=lambda each: any(column.writer.failed(each[1]) for column in each[2]))
            decoders = self.decoders(len(wanted))
            decoding = stack.enter_context(Decoding(self.model, self._message, self.dataset, decoders))
            for (position, index, asked), decoded in decoding.ahead(wanted, itemgetter(0)):
                self._ask(position, index, asked, decoded)
                yield

    def _column(self, cell: PlannedCell, indices: list[Index], stack: ExitStack) -> _Column:
        from harness.compressor.chosen import method_of

        row = self.plan.experiment.rows[cell.row]
        writer = stack.enter_context(self.store.open(cell.settings))
        label = f"{row.method}@{cell.keep:g}"
        wanted = frozenset(writer.lacking(indices))
        chosen = method_of(self.plan.experiment, self.name, row, self.data.data)
        return _Column(label, chosen, cell.keep, writer, wanted)

    def _message(self, position: int) -> list[dict[str, str]]:
        """What VLMEvalKit's loop would hand to the model for this row."""
        return message_for(self.model, self.data, position)

    def _ask(self, position: int, index: Index, asked: list[_Column], decoded: Future[Any]) -> None:
        timing, clock = self.tally.timing, time.perf_counter
        start = clock()
        try:
            try:
                inputs = decoded.result()
            finally:
                timing.decode += clock() - start
            start = clock()
            try:
                prompt = self.model.encode(inputs)
                self._attach_evidence(prompt, index)
            finally:
                timing.encode += clock() - start
        except Exception as error:
            self._fail(index, asked, error, known=self.data.problem(position))
            return
        start = clock()
        outcomes = self.model.answer_together(prompt, [(column.method, column.keep) for column in asked])
        try:
            for place, text, record, seconds in outcomes:
                if isinstance(text, Exception):
                    self._fail(index, [asked[place]], text, prompt)
                else:
                    self._write(index, asked[place], prompt, text, record, seconds)
        finally:  # a UserError comes through: the method cannot be used at all, no sample of it could be answered
            timing.answer += clock() - start

    def _write(self, index: Index, column: _Column, prompt: Any, text: str, record: Any, seconds: float) -> None:
        column.writer.append(
            Answer(
                index,
                text,
                visual=record.visual,
                kept=record.realised,
                kv_visual=[int(count) for count in record.kv_visual],
                worked=None if record.worked is None else [int(count) for count in record.worked],
                evidence_kept=None if record.made is not None else _share(prompt.evidence, record.kept),
                scoring_seconds=round(record.scoring_seconds, 6),
                seconds=round(seconds, 6),
            )
        )
        self.tally.answered += 1
        self.progress.advance()

    def _attach_evidence(self, prompt: Any, index: Index) -> None:
        entry = self.evidence.get(str(index))
        if entry is not None:
            where = f"evidence of {self.benchmark} {index}"
            if prompt.extents is None:
                raise SampleError(f"{where}: the class of {self.name} does not tell what its visual tokens show")
            prompt.evidence = evidence_mask(entry, prompt.extents, where).to(prompt.visual.device)

    def _fail(
        self, index: Index, columns: list[_Column], error: Exception, prompt: Any = None, known: str | None = None
    ) -> None:
        """Records why a sample has no answer: what is `known` of its media, else what the code said; frees what it
        held. Raises DeviceLost where nothing more can be answered, StoreError where nothing more can be written.
        """
        stop_if_full(error)
        reason = known or _reason(error)
        log.debug("%s %s %s failed", self.name, self.benchmark, index, exc_info=error)
        for column in columns:
            column.writer.append(Answer(index, error=reason))
            self.progress.advance(failed=True)
        which = "" if len(columns) > 1 else f"{columns[0].label}: "
        self.tally.failures.append(Failure(self.name, self.benchmark, index, len(columns), which + reason))
        release(error, prompt)
        if not works(self.model.device):
            raise DeviceLost(f"the device works no more after sample {index} ({reason})") from None


def use_frames_of(model: Any, dataset: Any) -> None:
    """Has the model sample the frames that the dataset is opened with, as VLMEvalKit's loop does."""
    model.nframe, model.fps = (dataset.nframe, None) if dataset.nframe > 0 else (None, dataset.fps)


def message_for(model: Any, opened: Any, position: int) -> list[dict[str, str]]:
    """The message of one row as `infer_data` and then `model.generate` of VLMEvalKit would make it.

    Of an image benchmark, the model must have been given its `dump_image`, as the kit's loop does.
    Raises UserError where the row cannot be asked, such as a missing video.
    """
    dataset = opened.dataset
    name = dataset.dataset_name
    if getattr(dataset, "force_use_dataset_prompt", False) or not model.use_custom_prompt(name):
        message = opened.message(position, video_llm=model.VIDEO_LLM)
    elif opened.modality == "image":
        message = model.build_prompt(opened.rows.iloc[position], dataset=name)
    else:
        message = model.build_prompt(opened.rows.iloc[position], dataset=dataset, video_llm=model.VIDEO_LLM)
    return model.preproc_content(copy.deepcopy(message))


def _share(evidence: Any, kept: Any) -> float | None:
    if evidence is None:
        return None
    total = int(evidence.sum())
    return round(int(evidence[kept].sum()) / total, 6) if total else None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:500]
    if text and isinstance(error, UserError | SampleError):
        return text
    return f"{type(error).__name__}: {text}".rstrip(": ")
