"""Small pictures of image files, to be looked at."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from imgsubset.decoding.decode import decode_image
from imgsubset.devices import usable_cores
from imgsubset.sources.archive_members import AnyFile

THUMBNAIL_SIDE, MAX_THUMBNAIL_BYTES = 96, 4096
JPEG_QUALITIES = (80, 65, 50, 35, 20, 10)


@dataclass(frozen=True)
class JpegThumbnail:
    """A small picture: a JPEG of at most 4 KB; the mean and standard deviation of its brightness, in [0, 1]; and the
    standard deviation of its Laplacian, which is low where it is blurred."""

    jpeg: bytes
    brightness: float
    contrast: float
    sharpness: float


def make_thumbnails(files: Sequence[AnyFile]) -> list[JpegThumbnail | None]:
    """The small picture of each file, at most 96 pixels wide and high; None of one that cannot be read any more."""
    with ThreadPoolExecutor(usable_cores(), "thumbnails") as threads:  # Pillow's work lets others run
        return [*threads.map(_make_thumbnail, files)]


def _make_thumbnail(file: AnyFile) -> JpegThumbnail | None:
    try:
        decoded = decode_image(file, [THUMBNAIL_SIDE])
    except Exception:  # it was decoded before; whatever has become of it, a report has nothing to show
        return None
    square = Image.frombytes("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE), decoded.pixels[0])
    sides = decoded.info.numbers[:2]
    shape = [max(1, round(THUMBNAIL_SIDE * side / max(sides))) for side in sides]
    small = square.resize((shape[0], shape[1]), Image.Resampling.LANCZOS)
    grey = np.asarray(small.convert("L"), np.float32) / 255
    for quality in JPEG_QUALITIES:
        out = io.BytesIO()
        small.save(out, "JPEG", quality=quality, optimize=True)
        if out.tell() <= MAX_THUMBNAIL_BYTES:
            break
    edges = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return JpegThumbnail(
        out.getvalue(), float(grey.mean()), float(grey.std()), float(edges.std()) if edges.size else 0.0
    )
