"""WebDataset tars for tests, made with the standard library."""

import io
import json
import tarfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def jpeg(seed: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    stream = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def tar_of(path: Path, members: Iterable[tuple[str, bytes | str] | tarfile.TarInfo]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, content = member
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def sample(key: str, text: str = "a text", seed: int = 0, **about: Any) -> list[tuple[str, bytes | str]]:
    """A sample as img2dataset writes it: picture, json, text."""
    return [
        (f"{key}.jpg", jpeg(seed)),
        (f"{key}.json", json.dumps({"key": key, "caption": text, **about})),
        (f"{key}.txt", text),
    ]
