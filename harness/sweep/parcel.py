"""What one process decoded for another, handed over in memory that both see.

Through a pipe, megabytes of tensors come in tens or hundreds of reads. Each read lets go of Python's lock, and beside a
thread that launches a model's small operations each takes milliseconds to get it back: a pause for every 64 KB or so.
So tensors lie in an anonymous file, which is gone with its last user, and the pipe carries its descriptor.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import IO, Any

ALIGNED = 64
"""Bytes between which tensors begin."""


class Parcel:
    """Anything that can be pickled, ready to be sent once. Tensors must be on the CPU; theirs is memory that the
    receiver may write to. Raises what pickling raises, OSError where memory is lacking.
    """

    def __init__(self, content: Any) -> None:
        buffers: list[pickle.PickleBuffer] = []
        packed = io.BytesIO()
        _packer(packed, buffers).dump(content)
        parts = [buffer.raw() for buffer in buffers]
        self._packed, self._sizes = packed.getvalue(), [part.nbytes for part in parts]
        self._file: IO[bytes] | None = None
        if any(self._sizes):
            self._file = os.fdopen(os.memfd_create("retain"), "wb")
            for part in parts:
                self._file.write(part)
                self._file.write(bytes(-part.nbytes % ALIGNED))
            self._file.flush()

    def send(self, pipe: Connection) -> None:
        """Raises OSError where nobody is there to receive it."""
        pipe.send((self._packed, self._sizes))
        if self._file is not None:
            with self._file:
                reduction.send_handle(pipe, self._file.fileno(), None)  # type: ignore[arg-type]


def receive(pipe: Connection) -> Any:
    """What was sent. Raises EOFError or OSError where the sender is gone."""
    packed, sizes = pipe.recv()
    if not any(sizes):
        return pickle.loads(packed, buffers=[bytearray() for _ in sizes])
    descriptor = reduction.recv_handle(pipe)
    try:
        whole = memoryview(mmap.mmap(descriptor, 0))
    finally:
        os.close(descriptor)
    parts, start = [], 0
    for size in sizes:
        parts.append(whole[start : start + size])
        start += size + -size % ALIGNED
    return pickle.loads(packed, buffers=parts)


def _packer(file: io.BytesIO, buffers: list[pickle.PickleBuffer]) -> pickle.Pickler:
    """Takes tensors for the NumPy arrays that share their memory: torch's own form takes six times as long to read."""
    import torch

    class Packer(pickle.Pickler):
        def reducer_override(self, value: Any) -> Any:
            plain = type(value) is torch.Tensor and value.dtype != torch.bfloat16
            return (torch.from_numpy, (value.numpy(),)) if plain else NotImplemented

    return Packer(file, protocol=5, buffer_callback=buffers.append)
