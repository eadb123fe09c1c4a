"""An image file to 8-bit RGB pixels, or the reason why it cannot be decoded.

file is left out does.

Imports neither numpy nor torch unless a picture needs it, so that a decoding process starts in a moment.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import IO, Any

from PIL import Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin, _imaging  # noqa: F401

from imgsubset.errors import one_line
from imgsubset.files import Stamp
from imgsubset.sources.archive_members import AnyFile, open_file
from imgsubset.sources.images import HEAD_BYTES, describe_unsupported_content

_silence_lock, _silence_stack = threading.Lock(), ExitStack()
_inside = 0  # how many threads are


@contextmanager
def silence_libraries() -> Iterator[None]:
    """A context in which Python's warnings and libtiff's messages are not shown.

    Both are settings of the whole process: the first of several threads changes them, and the last restores them.
    """
    global _inside
    with _silence_lock:
        _inside += 1
        if _inside == 1:
            _silence_stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            _silence_stack.enter_context(_silence_libtiff())
    try:
        yield
    finally:
        with _silence_lock:
            _inside -= 1
            if _inside == 0:
                _silence_stack.close()


@contextmanager
def _silence_libtiff() -> Iterator[None]:
    set_handler = _load_tiff_handler_setter()
    earlier = set_handler and set_handler(None)
    try:
        yield
    finally:
        if set_handler:
            set_handler(earlier)


@cache
def _load_tiff_handler_setter() -> Any:
    """libtiff's function for what is to print its errors, which is on stderr by default; None where Pillow hides it."""
    import ctypes

    try:
        function = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
    return function


# Importing the two plugins that Pillow does not preload keeps it from importing all forty of them instead.


# The decoders that are hardened and need no external program; the content of a file decides, not its name.
DECODING_VERSION = 1  # raised with every change of what pixels an image has: cached moments are then made anew
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
# In place of a size: 299 x 299 pixels of float32 in [0, 255], as the published FID has them; see `_as_published`.
FID_RESOLUTION = -299
BACKGROUND = (255, 255, 255)  # under transparent pixels, as most viewers show them
BAND_PIXELS = 1 << 24  # a picture above this many pixels is converted in bands, to bound the memory it takes

_TRANSPOSE = {  # EXIF orientation -> what undoes it (EXIF 2.32, tag 0x0112)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What is known of a decoded image besides its pixels.

    stamp    of its file
    numbers  its width and height in pixels, as it is shown, and the bytes of its file, which not every stamp knows
    """

    stamp: Stamp
    numbers: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image: size x size x 3 numbers, RGB, row by row, for each size asked for; and what else is known of it."""

    pixels: tuple[bytes, ...]
    info: ImageInfo


def square_bytes(size: int) -> int:
    """How many the pixels of an image of this size take."""
    return 3 * size**2 * (4 if size == FID_RESOLUTION else 1)


def decode_image(path: AnyFile, sizes: Sequence[int]) -> DecodedImage:
    """Decode an image file, opened once, to pixels of each of some sizes.

    The policy, the same for every image: EXIF orientation applied; 16-bit, 32-bit and float pixels scaled to 8
    bits; transparency composited over BACKGROUND; CMYK, palette, grey converted to RGB; the first frame of an
    animation; JPEGs decoded at the smallest of 1/1, 1/2, 1/4, 1/8 scale that is at least as large as the
    largest size; then resampled (Lanczos, antialiased) to squares, without keeping the aspect. For PUBLISHED the
    JPEG is decoded whole.

    Raises whatever Pillow raises for a file it cannot decode; `reason` turns that into a line.
    """
    opened_file, stamp = open_file(path)
    with opened_file as file, silence_libraries():
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            shown = image.size
            if image.format in ("JPEG", "MPO") and FID_RESOLUTION not in sizes:
                image.draft(image.mode, (max(sizes), max(sizes)))
            published = [_resize_for_fid(image) for size in sizes if size == FID_RESOLUTION]
            others = [size for size in sizes if size != FID_RESOLUTION]
            squares = _shrink(image, others) if others else []
            orientation = _read_orientation(image)
        length = stamp.size or file.seek(0, os.SEEK_END)
        if orientation in _TRANSPOSE:
            squares = [square.transpose(_TRANSPOSE[orientation]) for square in squares]
        if 5 <= orientation <= 8:  # which exchange width and height
            shown = shown[::-1]
        facts = ImageInfo(stamp, tuple(map(float, (*shown, length))))
        found = iter([square.tobytes() for square in squares])
        return DecodedImage(tuple(published[0] if size == FID_RESOLUTION else next(found) for size in sizes), facts)


def read_image_size(path: AnyFile) -> tuple[int, int]:
    """Width and height of an image file as its header has them. Raises what `decode` raises."""
    with open_file(path)[0] as file, silence_libraries(), Image.open(file, formats=IMAGE_FORMATS) as image:
        return image.size


def _shrink(image: Image.Image, sizes: Sequence[int]) -> list[Image.Image]:
    """RGB images of size x size, for each size."""
    width, height = image.size
    fx = fy = 1
    if width * height <= BAND_PIXELS:
        rgb = _to_rgb(image, _value_range(image))
    else:
        # Box-reduce band by band to no less than twice the largest, so that no second copy at full size exists.
        fx, fy = (max(1, side // (2 * max(sizes))) for side in image.size)
        rows = fy * max(1, BAND_PIXELS // 4 // width // fy)
        limits = _value_range(image)
        rgb = Image.new("RGB", (-(-width // fx), -(-height // fy)))
        for top in range(0, height, rows):
            band = image.crop((0, top, width, min(top + rows, height)))
            rgb.paste(_to_rgb(band, limits).reduce((fx, fy)), (0, top // fy))
    box = (0, 0, width / fx, height / fy)
    return [rgb.resize((size, size), Image.Resampling.LANCZOS, box=box) for size in sizes]


def _resize_for_fid(image: Image.Image) -> bytes:
    """The pixels that the published FID gives its network, up to a shift and a factor.

    They are resampled bilinearly as TensorFlow 1 did, to the bit as torch-fidelity does: output pixel i lies at
    i * side / 299 of the input, between the two pixels that are nearest, and no others count however large the picture.
    Like there, and unlike in `_shrink`, orientation and transparency are ignored.
    """
    import numpy as np

    limits, side = _value_range(image), abs(FID_RESOLUTION)
    # Where each output pixel lies, the two pixels beside it, and how near it is to the second.
    at = [np.arange(side, dtype=np.float32) * np.float32(length / side) for length in image.size]
    low = [where.astype(np.int64) for where in at]
    high = [np.minimum(first + 1, length - 1) for first, length in zip(low, image.size, strict=True)]
    near_x, near_y = ((where - first).astype(np.float32) for where, first in zip(at, low, strict=True))
    (width, height), rows = image.size, np.unique([low[1], high[1]])
    step, lines = max(1, BAND_PIXELS // width), []
    for top in range(0, height, step):  # so that no second copy at full size exists
        inside = rows[(rows >= top) & (rows < top + step)]
        band = image.crop((0, top, width, min(top + step, height)))
        band = (band if limits is None else _scale_to_8_bits(band, limits)).convert("RGB")
        lines.append(np.asarray(band)[inside - top].astype(np.float32))
    pixels = np.concatenate(lines)
    first, second = pixels[:, low[0]], pixels[:, high[0]]
    across = first + (second - first) * near_x[:, None]
    first, second = (across[np.searchsorted(rows, places)] for places in (low[1], high[1]))
    square: bytes = (first + (second - first) * near_y[:, None, None]).tobytes()
    return square


def _to_rgb(image: Image.Image, limits: tuple[float, float] | None) -> Image.Image:
    if limits is not None:
        image = _scale_to_8_bits(image, limits)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, BACKGROUND)
        canvas.alpha_composite(image)
        image = canvas
    return image.convert("RGB")


def _value_range(image: Image.Image) -> tuple[float, float] | None:
    """The values to show as black and white, for pixels of more than 8 bits; None for 8 bits and fewer.

    16-bit integers are shown over their whole range, and so are floats that lie in 0..1 or 0..255, as viewers
    do; any others over the range that they take.
    """
    if not (image.mode.startswith("I") or image.mode == "F"):
        return None
    if image.mode.startswith("I;"):
        return 0.0, 65535.0
    import numpy as np

    low, high = np.inf, -np.inf
    pixels = np.asarray(image).reshape(-1)
    for start in range(0, pixels.size, BAND_PIXELS):  # another copy of a large picture would be too much
        values = pixels[start : start + BAND_PIXELS]
        values = values[np.isfinite(values)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if low > high:  # no number at all
        low, high = 0.0, 1.0
    for limit in (65535.0,) if image.mode == "I" else (1.0, 255.0):
        if low >= 0 and high <= limit:
            return 0.0, limit
    return low, high


def _scale_to_8_bits(image: Image.Image, limits: tuple[float, float]) -> Image.Image:
    import numpy as np

    low, high = limits
    wide = np.float64 if high - low > 1e30 else np.float32  # whose range may be less than what the values span
    values = np.nan_to_num(np.asarray(image, dtype=wide), nan=low, posinf=high, neginf=low)
    scaled = (values - low) * (255 / max(high - low, 1e-30))
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))


def _read_orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # a broken EXIF block does not spoil the picture
        return 1


def explain_failure(error: BaseException, path: AnyFile) -> str:
    """One line that says why a file could not be decoded."""
    if isinstance(error, UnidentifiedImageError):
        try:
            with open_file(path)[0] as file:
                return _describe_content(file)
        except OSError:
            pass
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error) if isinstance(error, OSError) else f"{type(error).__name__}: {one_line(error)}"[:200]


def _describe_content(file: IO[bytes]) -> str:
    head = file.read(HEAD_BYTES)
    if not head:
        return "empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the image: run 'git lfs pull'"
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "an HTML page, not an image"
    if what := describe_unsupported_content(head):
        return what
    return f"not an image of a supported format ({', '.join(IMAGE_FORMATS)})"


THUMBNAIL_SIDE, MAX_THUMBNAIL_BYTES = 96, 4096
