"""Samples decoded ahead of the model that answers them, in order: in a thread, or in processes of their own.

The rule is `processes`. A GPU leaves the cores to decoding, while the thread that feeds it needs Python for itself; so
there media are read and processed in other processes. On a CPU the model needs the cores, and one thread decodes.

A message (which may write the frames and images that VLMEvalKit keeps) is always made in this process, one at a time.
A process is given it, reads the media, runs the processor and sends back what came out, tensors on the CPU, or why
nothing did. One that is killed is started again and its sample decoded once more; a sample at which that happens twice
has it as its reason.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import current_process, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any, TypeVar

from harness.sweep.process import fate, stop
from model_wrappers.errors import SampleError, UserError

T = TypeVar("T")

LOOK_AHEAD = 4
"""Samples decoded and waiting: enough to hide decoding, few enough to hold in memory."""
MOST = 4
"""Processes that decode for one GPU; with more, one that waits for its turn holds memory for nothing."""
FEW = 50
"""Samples for which no process is started: it imports VLMEvalKit for itself, which takes seconds."""


def processes(device: str, samples: int) -> int:
    """How many processes decode so many samples for a model on `device`; 0 is a thread of this one.

    None for a CPU, for a few samples, or in a process that may not have any (a worker of `harness.sweep.workers`); else
    as many as a GPU's share of the cores has left beside the one that feeds it, at most `MOST`.
    """
    import torch

    if not device.startswith("cuda") or samples < FEW or current_process().daemon:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(MOST, cores // max(1, torch.cuda.device_count()) - 1))


class Decoding:
    """Decodes the rows of one benchmark for one model. For a `with`, at whose end no thread and no process is left.

    Args:
        model: an opened `model_wrappers.families.common.FamilyModel`.
        message: makes the message of a row, given its position.
        dataset: its name in VLMEvalKit.
        count: processes; 0 is a thread.
    """

    def __init__(
        self, model: Any, message: Callable[[int], list[dict[str, Any]]], dataset: str, count: int = 0
    ) -> None:
        self.model, self.message, self.dataset = model, message, dataset
        self._decoders = [_Decoder() for _ in range(count)]
        self._idle: SimpleQueue[_Decoder] = SimpleQueue()
        self._lock = threading.Lock()

    def __enter__(self) -> Decoding:
        import torch

        # One torch thread for decoding: a second team of threads would take turns with the model's, or spin beside it.
        # It holds for the thread that says so and for those begun later, hence the reset at the end.
        self._threads = torch.get_num_threads()
        try:
            if self._decoders:
                made = pickle.dumps((self.model.decoder(), self.dataset))
                for decoder in self._decoders:
                    decoder.start(made)
                for decoder in self._decoders:
                    decoder.expect_ready()
                    self._idle.put(decoder)
        except BaseException:
            for decoder in self._decoders:
                decoder.stop()
            raise
        count = max(1, len(self._decoders))
        self._pool = ThreadPoolExecutor(count, "decode", initializer=torch.set_num_threads, initargs=(1,))
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        self._pool.shutdown(wait=False, cancel_futures=True)
        for decoder in self._decoders:
            decoder.stop()
        self._pool.shutdown()
        torch.set_num_threads(self._threads)

    def ahead(self, wanted: Sequence[T], position: Callable[[T], int]) -> Iterator[tuple[T, Future[Any]]]:
        """The wanted samples, in order, with their decoding, done or under way, some of them ahead of the one in hand.

        `position`: the row of one of them. A future raises what is wrong with its sample.
        """
        decode = self._there if self._decoders else self._here
        waiting: deque[tuple[T, Future[Any]]] = deque()
        for each in wanted:
            waiting.append((each, self._pool.submit(decode, position(each))))
            if len(waiting) > max(LOOK_AHEAD, 2 * len(self._decoders)):
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()

    def _here(self, position: int) -> Any:
        return self.model.decode(self.message(position), self.dataset)

    def _there(self, position: int) -> Any:
        with self._lock:
            message = self.message(position)
        decoder = self._idle.get()
        try:
            return decoder.decode(message)
        finally:
            self._idle.put(decoder)


class _Decoder:
    """One process that decodes, as its parent sees it."""

    def __init__(self) -> None:
        self._made = b""
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def start(self, made: bytes) -> None:
        """Begins the process; `made` is what it decodes with, pickled."""
        with self._lock:
            if self._stopped:
                raise UserError("decoding was stopped")
            self._made = made
            self._pipe, theirs = get_context("spawn").Pipe()
            self._process = get_context("spawn").Process(target=serve, args=(theirs, made), daemon=True)
            # Ctrl-C reaches every process of a terminal: this one is deaf to it from its first moment on.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self._process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()  # so that the pipe ends when the process does

    def expect_ready(self) -> None:
        """Waits until it can decode. Raises UserError where it died before."""
        assert self._pipe
        try:
            self._pipe.recv_bytes()
        except (EOFError, OSError) as error:
            raise UserError(f"a process that was to decode samples {self._end()}") from error

    def decode(self, message: list[dict[str, Any]]) -> Any:
        """What the model's `decode` gives for a message. Raises what it raises; SampleError where it kills twice."""
        for _ in range(2):
            assert self._pipe
            try:
                self._pipe.send(message)
                done, content = pickle.loads(self._pipe.recv_bytes())
            except (EOFError, OSError):
                how = self._end()
                self.start(self._made)
                self.expect_ready()
                continue
            if done:
                return content
            raise content
        raise SampleError(f"the process that decoded it {how}, and so did the next")

    def stop(self) -> None:
        """Ends the process, whatever it is doing; whoever waits for it is told that it is gone."""
        with self._lock:
            self._stopped = True
        if self._process is not None:
            self._process.terminate()
            stop(self._process)

    def _end(self) -> str:
        assert self._process and self._pipe
        self._pipe.close()
        return fate(self._process)


def serve(pipe: Connection, made: bytes) -> None:
    """What a process that decodes does from its start to its end, which is its parent's end at the latest."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears of it and ends this process
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch is loaded: decoding needs no GPU, and none of its memory
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    model, dataset = pickle.loads(made)
    if "vlmeval" in sys.modules:  # the model's class is one of VLMEvalKit's, which looks data sets up by their names
        from harness.vlmevalkit import register_datasets

        register_datasets()
    try:
        pipe.send_bytes(b"ready")
        while True:
            message = pipe.recv()
            try:
                answer = _packed((True, model.decode(message, dataset)))
            except Exception as error:
                answer = pickle.dumps((False, _portable(error)))
            pipe.send_bytes(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone


def _packed(content: Any) -> bytes:
    """Pickled, tensors as NumPy arrays: torch's own form takes the receiving thread six times as long to read."""
    import torch

    class Packer(pickle.Pickler):
        def reducer_override(self, value: Any) -> Any:
            plain = type(value) is torch.Tensor and value.dtype != torch.bfloat16
            return (torch.from_numpy, (value.numpy(),)) if plain else NotImplemented

    packed = io.BytesIO()
    Packer(packed, protocol=5).dump(content)
    return packed.getvalue()


def _portable(error: Exception) -> Exception:
    """The error itself if it survives pickling, else one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
