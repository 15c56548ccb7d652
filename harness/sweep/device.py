"""What an error of one sample leaves of the device: memory that is still held, or nothing that works any more."""

from __future__ import annotations

from typing import Any

from harness.sweep.memory import available


class DeviceLost(RuntimeError):
    """A device on which nothing can be computed any more by this process, in words for a user."""


def release(error: BaseException, prompt: Any = None) -> None:
    """Lets go of what a failed answer holds: the values in the frames of its traceback, and where memory was what it
    lacked, all that is remembered of the prompt (computed anew for the next one who asks) and torch's own reserve.
    """
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    if is_out_of_memory(error):
        import torch

        if prompt is not None:
            prompt.cache.clear()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or in the machine's memory."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # torch tells these by a RuntimeError: its allocator of the CPU, and cuBLAS when it finds no room for its workspace.
    return any(said in str(error) for said in ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED"))


def free(device: Any) -> int:
    """Bytes that can still be had on a device: none of a GPU that has not even room for a process."""
    import torch

    if torch.device(device).type != "cuda":
        return available()
    try:
        return torch.cuda.mem_get_info(device)[0]
    except RuntimeError:
        return 0


def room(device: Any = None) -> str:
    """What is free where a model of that `device` would lie, in words."""
    from model_wrappers.families.common import pick_device

    target = pick_device(device)
    return f"{free(target) / 2**30:.1f} GiB free on {target}"


def works(device: Any) -> bool:
    """Whether a device still computes. After some errors (an assertion or an illegal access in a kernel) the CUDA
    context of the process is gone, and every later call fails with the same error; others concern one call alone.
    """
    import torch

    if torch.device(device).type == "cpu":
        return True
    try:
        torch.accelerator.synchronize(device)
    except Exception:
        return False
    return True
