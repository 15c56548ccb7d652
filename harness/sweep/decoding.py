"""Samples decoded ahead of the model that answers them, in order: in a thread, or in processes of their own.

The rule is `processes`. A GPU leaves the cores to decoding, while the thread that feeds it needs Python for itself; so
there media are read and processed in other processes. On a CPU the model needs the cores, and one thread decodes.

A message (which may write the frames and images that VLMEvalKit keeps) is always made in this process, one at a time.
A process is given it, reads the media, runs the processor and sends back what came out, tensors on the CPU, or why
nothing did. One that is killed is started again and its sample decoded once more; a sample at which that happens twice
has it as its reason.
"""

from __future__ import annotations

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

from harness.sweep.parcel import Parcel, receive
from harness.sweep.process import fate, stop
from model_wrappers.errors import SampleError, UserError

T = TypeVar("T")

LOOK_AHEAD = 4
"""Samples decoded and waiting: enough to hide decoding, few enough to hold in memory."""
MOST = 4
"""Processes that decode for one GPU; with more, one that waits for its turn holds memory for nothing."""
SWITCH_SECONDS = 0.0005
"""How long a thread that brings a sample from a process waits for Python's lock, each of the few times that it must:
default is 5 ms, and the model's thread, which lets go of the lock for microseconds, makes it wait all of them."""
FEW = 50
"""Samples for which no process is started: it imports VLMEvalKit for itself, which takes seconds."""


def processes(device: str, samples: int, share: int | None = None) -> int:
    """How many processes to start that decode so many samples for a model on `device`; 0 is a thread of this one.

    None for a CPU, for a few samples, or in a process that may not have any (a worker of `harness.sweep.workers`); else
    as many as the GPU's `share` of the cores has left beside the one that feeds it, at most `MOST`.

    `share`: default is that of one of the GPUs that this process sees. Whoever sees one of several must be told.
    """
    import torch

    if not device.startswith("cuda") or samples < FEW or current_process().daemon:
        return 0
    if share is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        share = cores // max(1, torch.cuda.device_count())
    return max(0, min(MOST, share - 1))


class Decoders:
    """Processes that decode for one model, kept from one `Decoding` to the next: to start one takes seconds.

    They start when they are first wanted. For a `with`, at whose end none is left. `count`: 0 is a thread.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._running: list[_Decoder] = []

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ready(self, model: Any, dataset: str) -> list[_Decoder]:
        """All of them, to decode as `model` does now (its frames, say) for `dataset`.

        Raises UserError where one dies before it can.
        """
        if not self.count:
            return []
        made = pickle.dumps((model.decoder(), dataset))
        if self._running:
            for decoder in self._running:
                decoder.use(made)
            return self._running
        self._running = [_Decoder() for _ in range(self.count)]
        try:
            for decoder in self._running:
                decoder.start(made)
            for decoder in self._running:
                decoder.expect_ready()
        except BaseException:
            self.stop()
            raise
        return self._running

    def stop(self) -> None:
        """Ends them, whatever they are doing."""
        stopped, self._running = self._running, []
        for decoder in stopped:
            decoder.stop()


class Decoding:
    """Decodes the rows of one benchmark for one model. For a `with`, at whose end no thread is left; the processes are
    their owner's, but for the end by an exception: one in the middle of a sample would have to be waited for.

    Args:
        model: an opened `model_wrappers.families.common.FamilyModel`.
        message: makes the message of a row, given its position.
        dataset: its name in VLMEvalKit.
        decoders: of this model.
    """

    def __init__(
        self, model: Any, message: Callable[[int], list[dict[str, Any]]], dataset: str, decoders: Decoders
    ) -> None:
        self.model, self.message, self.dataset, self.decoders = model, message, dataset, decoders
        self._processes = 0
        self._idle: SimpleQueue[_Decoder] = SimpleQueue()
        self._lock = threading.Lock()

    def __enter__(self) -> Decoding:
        import torch

        # One torch thread for decoding: a second team of threads would take turns with the model's, or spin beside it.
        # It holds for the thread that says so and for those begun later, hence the reset at the end.
        self._threads = torch.get_num_threads()
        self._switch = sys.getswitchinterval()
        ready = self.decoders.ready(self.model, self.dataset)
        if ready:
            sys.setswitchinterval(SWITCH_SECONDS)
        for decoder in ready:
            self._idle.put(decoder)
        self._processes = len(ready)
        self._pool = ThreadPoolExecutor(
            max(1, self._processes), "decode", initializer=torch.set_num_threads, initargs=(1,)
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        import torch

        self._pool.shutdown(wait=False, cancel_futures=True)
        if kind is not None:
            self.decoders.stop()
        self._pool.shutdown()
        torch.set_num_threads(self._threads)
        sys.setswitchinterval(self._switch)

    def ahead(self, wanted: Sequence[T], position: Callable[[T], int]) -> Iterator[tuple[T, Future[Any]]]:
        """The wanted samples, in order, with their decoding, done or under way, some of them ahead of the one in hand.

        `position`: the row of one of them. A future raises what is wrong with its sample.
        """
        decode = self._there if self._processes else self._here
        waiting: deque[tuple[T, Future[Any]]] = deque()
        for each in wanted:
            waiting.append((each, self._pool.submit(decode, position(each))))
            if len(waiting) > max(LOOK_AHEAD, 2 * self._processes):
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
        self._told = False
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def start(self, made: bytes) -> None:
        """Begins the process; `made` is what it decodes with, pickled."""
        with self._lock:
            if self._stopped:
                raise UserError("decoding was stopped")
            self._made, self._told = made, True
            self._pipe, theirs = get_context("spawn").Pipe()
            self._process = get_context("spawn").Process(target=serve, args=(theirs, made), daemon=True)
            # Ctrl-C reaches every process of a terminal: this one is deaf to it from its first moment on.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self._process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()  # so that the pipe ends when the process does

    def use(self, made: bytes) -> None:
        """Has it decode with `made` from the next message on."""
        self._told = self._told and made == self._made
        self._made = made

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
                self._pipe.send((None if self._told else self._made, message))
                self._told = True
                done, content = receive(self._pipe)
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
    """What a process that decodes does from its start to its end, which is its parent's end at the latest.

    It receives (None or what it decodes with from now on, pickled; a message).
    """
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
            changed, message = pipe.recv()
            if changed is not None:
                model, dataset = pickle.loads(changed)
            try:
                answer = Parcel((True, model.decode(message, dataset)))
            except Exception as error:
                answer = Parcel((False, _portable(error)))
            answer.send(pipe)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone


def _portable(error: Exception) -> Exception:
    """The error itself if it survives pickling, else one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
