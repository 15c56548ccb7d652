"""One pass over the samples for every method and every keep.

For a model and a benchmark, each sample is decoded (in the background, a few samples ahead) and encoded once; then
vanilla answers, each method scores once, and each keep cuts and generates. Only what the store lacks is done. The
answers are those that VLMEvalKit's own loop gets from the same wrapper, one cell at a time.
"""

from __future__ import annotations

import copy
import logging
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from harness.experiments import Experiment
from harness.plan import Data, Plan, PlannedCell, make, open_settings
from harness.progress import Progress
from harness.store import Answer, CellWriter, Index, Store, missing
from model_wrappers.errors import SampleError, UserError

log = logging.getLogger(__name__)

LOOK_AHEAD = 4
"""Samples decoded and waiting: enough to hide decoding, few enough to hold in memory."""


@dataclass(frozen=True)
class Failure:
    """A sample that some cells of one model and benchmark have no answer to, and why."""

    model: str
    benchmark: str
    index: Index
    cells: int
    reason: str


@dataclass
class Timing:
    """Where the wall time of the answering went, in seconds. `decode` is the time spent waiting for decoded samples."""

    wall: float = 0.0
    decode: float = 0.0
    encode: float = 0.0
    answer: float = 0.0

    @property
    def overhead(self) -> float:
        """Share (0 to 1) of the wall time that is neither decoding nor the model."""
        return 1.0 - (self.decode + self.encode + self.answer) / self.wall if self.wall else 0.0


@dataclass
class SweepResult:
    """What a run did: the plan it followed, new answers, samples that failed, and where the time went."""

    plan: Plan
    answered: int = 0
    failures: list[Failure] = field(default_factory=list)
    timing: Timing = field(default_factory=Timing)

    @property
    def cells(self) -> list[PlannedCell]:
        """All cells of the table."""
        return self.plan.cells


@dataclass(frozen=True)
class _Column:
    """One cell while it is being answered."""

    label: str
    method: Any
    keep: float
    writer: CellWriter
    wanted: frozenset[Index]


def run(
    experiment: Experiment,
    store: Store,
    *,
    data: Data,
    progress: Progress | None = None,
    plan: Plan | None = None,
) -> SweepResult:
    """Answers what the store lacks of an experiment and returns when every sample of every cell was asked.

    A failed sample is recorded with its reason and the run goes on; it is asked again in the next run. Safe to kill at
    any moment.

    Raises UserError for what no sample could be answered with (a checkpoint or method that cannot be used), StoreError
    when the disk refuses, KeyboardInterrupt as it comes; each answer given before is kept in all cases.
    """
    plan = plan or make(experiment, data, store)
    progress = progress or Progress()
    result = SweepResult(plan)
    todo = lacking(plan, store)
    total = sum(len(plan.samples[cell.benchmark]) for cell in plan.cells)
    progress.begin(total, total - sum(todo.values()))
    for name in experiment.models:
        benchmarks = [benchmark for benchmark in experiment.benchmarks if todo[name, benchmark]]
        if not benchmarks:
            continue
        progress.at(f"opening {name}")
        for benchmark in benchmarks:
            data.open(benchmark)
        model = _open(experiment, name)
        started = time.perf_counter()
        try:
            for benchmark in benchmarks:
                progress.at(f"{name} {benchmark}")
                _Pass(plan, store, data, progress, result, model, name, benchmark).run()
        finally:
            result.timing.wall += time.perf_counter() - started
            model.close()
    return result


def lacking(plan: Plan, store: Store) -> dict[tuple[str, str], int]:
    """By model and benchmark, how many answers the store lacks; a failed sample is lacking."""
    found: dict[tuple[str, str], int] = {}
    for cell in plan.cells:
        answers = store.cell(cell.settings).read()
        key = (cell.model, cell.benchmark)
        found[key] = found.get(key, 0) + len(missing(answers, plan.samples[cell.benchmark]))
    return found


def _open(experiment: Experiment, name: str) -> Any:
    """The model, after every row's method said that it can run on it."""
    from harness.models import open_model
    from model_wrappers.registry import method

    model = open_model(name, **open_settings(experiment))
    for row in experiment.rows:
        method(row.method, **row.fields).check(model.model)
    return model


class _Pass:
    """One model over one benchmark."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        data: Data,
        progress: Progress,
        result: SweepResult,
        model: Any,
        name: str,
        benchmark: str,
    ) -> None:
        self.plan, self.store, self.progress, self.result = plan, store, progress, result
        self.model, self.name, self.benchmark = model, name, benchmark
        self.data = data.open(benchmark)
        self.evidence = data.evidence(benchmark)
        self.dataset: str = self.data.dataset.dataset_name
        use_frames_of(model, self.data.dataset)

    def run(self) -> None:
        """Asks each sample that some cell lacks. The cells are locked from here to the end."""
        indices = self.plan.samples[self.benchmark]
        with ExitStack() as stack:
            columns = [self._column(cell, indices, stack) for cell in self.plan.of(self.name, self.benchmark)]
            wanted = [
                (position, index, [column for column in columns if index in column.wanted])
                for position, index in enumerate(indices)
                if any(index in column.wanted for column in columns)
            ]
            for (position, index, asked), decoded in self._decoded(wanted, stack):
                self._ask(position, index, asked, decoded)

    def _column(self, cell: PlannedCell, indices: list[Index], stack: ExitStack) -> _Column:
        from model_wrappers.registry import method

        row = self.plan.experiment.rows[cell.row]
        writer = stack.enter_context(self.store.cell(cell.settings).open())
        label = f"{row.method}@{cell.keep:g}"
        wanted = frozenset(missing(writer.answers, indices))
        return _Column(label, method(row.method, **row.fields), cell.keep, writer, wanted)

    def _decoded(self, wanted: list[Any], stack: ExitStack) -> Iterator[tuple[Any, Future[Any]]]:
        """The wanted samples with their decoding, done or under way, `LOOK_AHEAD` of them ahead of the one in hand."""
        import torch

        # One torch thread for decoding: a second team of threads would take turns with the model's, or spin beside it.
        # It holds for the thread that says so and for those begun later, hence the reset at the end.
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        pool = ThreadPoolExecutor(1, "decode", initializer=torch.set_num_threads, initargs=(1,))
        stack.callback(pool.shutdown, cancel_futures=True)
        ahead: deque[tuple[Any, Future[Any]]] = deque()
        for each in wanted:
            ahead.append((each, pool.submit(self._decode, each[0])))
            if len(ahead) > LOOK_AHEAD:
                yield ahead.popleft()
        yield from ahead

    def _decode(self, position: int) -> Any:
        """What VLMEvalKit's loop would hand to the model for this row, decoded. Runs in the background."""
        return self.model.decode(message_for(self.model, self.data, position), self.dataset)

    def _ask(self, position: int, index: Index, asked: list[_Column], decoded: Future[Any]) -> None:
        timing, clock = self.result.timing, time.perf_counter
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
            self._fail(index, asked, error, self.data.problem(position))
            return
        for column in asked:
            start = clock()
            try:
                text, record = self.model.answer(prompt, column.method, column.keep)
            except UserError:
                raise  # the method cannot be used at all: no sample of it could be answered
            except Exception as error:
                timing.answer += clock() - start
                self._fail(index, [column], error)
                continue
            seconds = clock() - start
            timing.answer += seconds
            column.writer.append(
                Answer(
                    index,
                    text,
                    visual=record.visual,
                    kept=len(record.kept),
                    kv_visual=[int(count) for count in record.kv_visual],
                    evidence_kept=_share(prompt.evidence, record.kept),
                    scoring_seconds=round(record.scoring_seconds, 6),
                    seconds=round(seconds, 6),
                )
            )
            self.result.answered += 1
            self.progress.advance()

    def _attach_evidence(self, prompt: Any, index: Index) -> None:
        cells = self.evidence.get(str(index))
        if cells is not None:
            mask = evidence_mask(cells, prompt.grids, f"evidence of {self.benchmark} {index}")
            prompt.evidence = mask.to(prompt.visual.device)

    def _fail(self, index: Index, columns: list[_Column], error: Exception, known: str | None = None) -> None:
        """Records why a sample has no answer: what is `known` of its media, else what the code said."""
        reason = known or _reason(error)
        log.debug("%s %s %s failed", self.name, self.benchmark, index, exc_info=error)
        for column in columns:
            column.writer.append(Answer(index, error=reason))
            self.progress.advance(failed=True)
        which = "" if len(columns) > 1 else f"{columns[0].label}: "
        self.result.failures.append(Failure(self.name, self.benchmark, index, len(columns), which + reason))


def use_frames_of(model: Any, dataset: Any) -> None:
    """Has the model sample the frames that the dataset is opened with, as VLMEvalKit's loop does."""
    model.nframe, model.fps = (dataset.nframe, None) if dataset.nframe > 0 else (None, dataset.fps)


def message_for(model: Any, opened: Any, position: int) -> list[dict[str, str]]:
    """The message of one row as `infer_data` and then `model.generate` of VLMEvalKit would make it.

    Raises UserError where the row cannot be asked, such as a missing video.
    """
    dataset = opened.dataset
    if model.use_custom_prompt(dataset.dataset_name):
        message = model.build_prompt(opened.rows.iloc[position], dataset=dataset, video_llm=model.VIDEO_LLM)
    else:
        message = opened.message(position)
    return model.preproc_content(copy.deepcopy(message))


def evidence_mask(cells: list[list[int]], grids: list[tuple[int, int, int]], where: str) -> Any:
    """Visual tokens by [t, row, column] of the prompt's first grid, as a mask [N_v]. UserError for a cell outside the
    grid.
    """
    import torch

    mask = torch.zeros(sum(t * h * w for t, h, w in grids), dtype=torch.bool)
    frames, height, width = grids[0]
    for t, row, column in cells:
        if not (0 <= t < frames and 0 <= row < height and 0 <= column < width):
            grid = f"{frames} x {height} x {width}"
            raise UserError(f"{where}: cell {[t, row, column]} lies outside the grid of {grid} tokens")
        mask[(t * height + row) * width + column] = True
    return mask


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
