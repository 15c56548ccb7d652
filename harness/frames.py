"""The visual part of a message; a video in frames for a model that takes no videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model_wrappers.errors import SampleError


def shown(model: Any, media: str, path: Path, folder: Path) -> list[dict[str, str]]:
    """The picture or video at `path` as `model.decode` takes it.

    For a model without videos, the frames that VLMEvalKit gives such models of its video benchmarks, as files.

    Args:
        media: image or video.
        folder: where the frames are written.

    Raises:
        SampleError: there is no such video.
    """
    path = path.absolute()  # the readers make URLs of paths
    if media == "image" or model.VIDEO_LLM:
        return [{"type": media, "value": str(path)}]
    if not path.is_file():
        raise SampleError(f"The video {path} does not exist.")
    import decord
    from PIL import Image

    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    count = min(model.nframe, len(reader))
    message = []
    for number in range(1, count + 1):
        frame = folder / f"{path.stem}-{number}.png"
        Image.fromarray(reader[number * len(reader) // (count + 1)].asnumpy()).save(frame)
        message.append({"type": "image", "value": str(frame)})
    return message
