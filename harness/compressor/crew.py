"""Several processes asking: one a GPU, each every k-th sample; their parent alone writes the training set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from harness.compressor.asking import Asker, Job, Outcome
from harness.compressor.sources import Sample
from harness.sweep.process import fate, interrupts_ignored, stop, telling
from harness.sweep.workers import WorkerError


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    left: int


def ask(job: Job, samples: Sequence[Sample], count: int, take: Callable[[Outcome], None]) -> list[str]:
    """Asks the samples with `count` processes and gives each outcome to `take`, in the order in which they come.

    Returns:
        For each process that was lost, what became of it and how many samples it left unasked.

    Raises what a worker raised: UserError for what cannot be used; WorkerError for a fault of the code. No worker is
    left when it returns or raises.
    """
    import torch

    gpus = torch.cuda.device_count()
    workers: list[_Worker] = []
    lost = []
    try:
        for number in range(min(count, len(samples))):
            workers.append(_start(job, samples[number::count], f"cuda:{number % gpus}" if gpus else None))
        busy = {worker.pipe: worker for worker in workers}
        while busy:
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                try:
                    kind, content = worker.pipe.recv()
                except (EOFError, OSError):
                    kind, content = "lost", None
                if kind == "outcome":
                    worker.left -= 1
                    take(_received(content))
                elif kind == "mistake":
                    raise content
                elif kind == "fault":
                    raise WorkerError(content)
                else:
                    del busy[worker.pipe]
                    if kind == "lost":
                        lost.append(f"a process {fate(worker.process)}; {worker.left} samples of it are not asked")
    finally:
        for worker in workers:
            worker.process.terminate()
            worker.pipe.close()
        for worker in workers:
            stop(worker.process)
    return lost


def _start(job: Job, samples: Sequence[Sample], device: str | None) -> _Worker:
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=work, args=(theirs, job, list(samples), device), daemon=True)
    with interrupts_ignored():
        process.start()
    theirs.close()  # so that the pipe ends when the worker does
    return _Worker(process, ours, len(samples))


def _sent(outcome: Outcome) -> tuple[Any, ...]:
    """As arrays: torch would hand tensors over in shared memory, which is gone with a worker that has ended."""
    tensors = (outcome.attention, outcome.relevance)
    return outcome.record, outcome.reason, *(None if tensor is None else tensor.numpy() for tensor in tensors)


def _received(content: tuple[Any, ...]) -> Outcome:
    import torch

    record, reason, *arrays = content
    return Outcome(record, reason, *(None if array is None else torch.from_numpy(array) for array in arrays))


def work(pipe: Connection, job: Job, samples: list[Sample], device: str | None) -> None:
    """What a worker does from its start to its end."""
    with telling(pipe):
        import torch

        if device is None:
            torch.set_num_threads(1)
        with Asker(job, device) as asker:
            for outcome in asker.outcomes(samples):
                pipe.send(("outcome", _sent(outcome)))
        pipe.send(("done", None))
