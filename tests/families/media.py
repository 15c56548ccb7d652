"""Small pictures and videos with something in them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image


def picture(path: Path, width: int = 90, height: int = 60, seed: int = 0) -> str:
    """Writes a picture of coloured blocks; returns its path."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST).save(path)
    return str(path)


def video(path: Path, frames: int = 12, width: int = 112, height: int = 84, seed: int = 0, rate: int = 4) -> str:
    """Writes an mp4 whose coloured blocks change from frame to frame; returns its path."""
    random = np.random.default_rng(seed)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
    for _ in range(frames):
        blocks = random.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        writer.write(cv2.resize(blocks, (width, height), interpolation=cv2.INTER_NEAREST))
    writer.release()
    return str(path)
