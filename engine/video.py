"""Videos in and out, through PyAV (FFmpeg's libraries, ``pip install 'densepose-engine[video]'``)."""

from __future__ import annotations

import os
from pathlib import Path

from .pictures.video.reader import SoundPacket, VideoReader
from .pictures.video.writer import CONTAINERS, LOSSLESS_SUFFIXES, VideoWriter

__all__ = ["LOSSLESS_SUFFIXES", "SUFFIXES", "SoundPacket", "VideoReader", "VideoWriter", "is_video"]

#: What is taken for a video among the inputs of ``infer``, and what it can write.
SUFFIXES = tuple(CONTAINERS)


def is_video(path: str | os.PathLike[str]) -> bool:
    """By its name."""
    return Path(path).suffix.lower() in SUFFIXES
