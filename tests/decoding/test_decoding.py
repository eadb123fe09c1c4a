from __future__ import annotations

import io
import os
import socket
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import create, noise, normal_user, png_bytes, smooth
from PIL import Image, ImageOps, UnidentifiedImageError

from imgsubset.decoding import decode
from imgsubset.decoding.decode import decode_image, explain_failure
from imgsubset.errors import InputError
from imgsubset.sources.listing import RejectedFile, list_images

SIDE = 16


def pixels(path: Path, size: int = SIDE) -> np.ndarray:
    return np.frombuffer(decode_image(path, [size]).pixels[0], np.uint8).reshape(size, size, 3)


def difference(one: np.ndarray, other: np.ndarray | Image.Image) -> np.ndarray:
    return np.abs(one.astype(int) - np.asarray(other).astype(int))


def why(path: Path) -> str:
    """The reason why a file cannot be decoded."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 (any exception is a reason)
        decode_image(path, [SIDE])
    return explain_failure(caught.value, path)


def encoded(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def rejected(source: Path) -> dict[str, str]:
    return {file.path: file.reason for file in list_images(source).rejected}


# Listing


def test_paths_are_sorted_by_their_bytes(tmp_path: Path) -> None:
    ordered = ["B.png", "a-b.jpg", "a.jpg", "a/z.jpg", "a0.jpg", "b.jpg", "é.jpg", "\U0001f600.jpg", "\udcff.jpg"]
    assert ordered != sorted(ordered)
    for name in reversed(ordered):
        create(tmp_path / name)
    assert list_images(tmp_path).paths == tuple(ordered)


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.JPG", "a.JpEg", "a.jfif", "a.PNG", "a.apng", "a.WebP", "a.bmp", "a.gif", "a.TIF", "a.b.tiff"]
)
def test_extensions_match_without_regard_to_case(tmp_path: Path, name: str) -> None:
    create(tmp_path / name)
    assert list_images(tmp_path).paths == (name,)


def test_other_files_are_counted_as_ignored(tmp_path: Path) -> None:
    for name in ["a.svg", "b.txt", "jpg", "c.jpg.part", "sub/d.eps", "e.jpg"]:
        create(tmp_path / name)
    listing = list_images(tmp_path)
    assert (listing.paths, listing.rejected, listing.ignored) == (("e.jpg",), (), 5)


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    for name in [".a.jpg", ".thumbnails/b.jpg", "c/.d.png", "c/e.jpg"]:
        create(tmp_path / name)
    assert list_images(tmp_path).paths == ("c/e.jpg",)


def test_a_hidden_source_is_listed(tmp_path: Path) -> None:
    create(tmp_path / ".hidden" / "a.jpg")
    assert list_images(tmp_path / ".hidden").paths == ("a.jpg",)


def test_links_to_files_are_followed(tmp_path: Path) -> None:
    target = create(tmp_path / "elsewhere" / "file.bin")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "link.jpg").symlink_to(target)
    assert list_images(tmp_path / "source").paths == ("link.jpg",)


def test_a_source_given_by_a_link_is_listed(tmp_path: Path) -> None:
    create(tmp_path / "real" / "a.jpg")
    (tmp_path / "link").symlink_to("real")
    assert list_images(tmp_path / "link").paths == ("a.jpg",)


def test_loops_of_links_end_and_list_each_file_once(tmp_path: Path) -> None:
    create(tmp_path / "a" / "1.jpg")
    create(tmp_path / "a" / "b" / "2.jpg")
    (tmp_path / "a" / "self").symlink_to(".")
    (tmp_path / "a" / "b" / "up").symlink_to("../..")
    (tmp_path / "a" / "b" / "around").symlink_to("../../c")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "back").symlink_to("../a")
    listing = list_images(tmp_path)
    assert (listing.paths, listing.rejected) == (("a/1.jpg", "a/b/2.jpg"), ())


def test_a_folder_reached_by_a_link_too_keeps_its_real_path(tmp_path: Path) -> None:
    create(tmp_path / "z" / "1.jpg")
    (tmp_path / "a").symlink_to("z")
    assert list_images(tmp_path).paths == ("z/1.jpg",)


def test_a_folder_outside_is_entered_by_the_first_of_its_links(tmp_path: Path) -> None:
    create(tmp_path / "outside" / "1.jpg")
    (tmp_path / "source").mkdir()
    for name in ("y", "x"):
        (tmp_path / "source" / name).symlink_to("../outside")
    assert list_images(tmp_path / "source").paths == ("x/1.jpg",)


@pytest.mark.parametrize("up", ["..", "../..", "/"])
def test_a_link_to_a_folder_that_contains_the_source_is_not_entered(tmp_path: Path, up: str) -> None:
    source = tmp_path / "outer" / "source"
    create(source / "in.jpg")
    create(source.parent / "out.jpg")
    create(tmp_path / "further.jpg")
    (source / "up").symlink_to(up)
    assert list_images(source).paths == ("in.jpg",)


def test_a_folder_named_like_an_image_is_a_folder(tmp_path: Path) -> None:
    create(tmp_path / "x.jpg" / "y.png")
    listing = list_images(tmp_path)
    assert (listing.paths, listing.rejected) == (("x.jpg/y.png",), ())


def make_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket is limited to 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


SPECIAL: dict[str, tuple[Callable[[Path], None], str]] = {
    "fifo": (os.mkfifo, "not a regular file"),
    "socket": (make_socket, "not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "dangling": (lambda path: path.symlink_to("nowhere"), "dangling link"),
    "itself": (lambda path: path.symlink_to(path.name), "cannot follow link: Too many levels of symbolic links"),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_rejected_with_its_reason(tmp_path: Path, kind: str) -> None:
    make, expected = SPECIAL[kind]
    make(tmp_path / "x.jpg")
    make(tmp_path / "x.txt")
    create(tmp_path / "y.jpg")
    listing = list_images(tmp_path)
    assert (listing.paths, listing.ignored) == (("y.jpg",), 1)
    assert listing.rejected == (RejectedFile("x.jpg", expected),)


@pytest.mark.slow
def test_an_unreadable_folder_is_named_and_the_rest_listed(open_folder: Path) -> None:
    create(open_folder / "a" / "1.jpg")
    create(open_folder / "shut" / "2.jpg")
    (open_folder / "shut").chmod(0)
    with normal_user(open_folder):
        listing = list_images(open_folder)
    assert listing.paths == ("a/1.jpg",)
    assert listing.rejected == (RejectedFile("shut", "cannot read folder: Permission denied"),)


def test_an_unreadable_file_is_rejected_with_its_reason(open_folder: Path) -> None:
    path = create(open_folder / "1.jpg", encoded(smooth(0, 20, 20), "JPEG"))
    path.chmod(0)
    with normal_user(open_folder):
        assert why(path) == "Permission denied"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("absent", "No such file or directory"), ("image.png", "is one file"), ("fifo", "not a regular file")],
)
@pytest.mark.timeout(30)
def test_a_source_that_is_no_folder_is_named(tmp_path: Path, name: str, expected: str) -> None:
    create(tmp_path / "image.png")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match=expected) as caught:
        list_images(tmp_path / name)
    assert f"'{tmp_path / name}'" in str(caught.value)


def test_an_unreadable_source_is_an_input_error(open_folder: Path) -> None:
    shut = open_folder / "shut"
    shut.mkdir(mode=0)
    with normal_user(open_folder), pytest.raises(InputError, match="shut': Permission denied"):
        list_images(shut)


# Decoding


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied(tmp_path: Path, kind: str, orientation: int) -> None:
    path = tmp_path / "photo"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(1, 24, 12)).save(path, kind, exif=exif)
    with Image.open(path) as photo:
        expected = ImageOps.exif_transpose(photo).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    assert difference(pixels(path), expected).max() <= 1


def test_a_broken_exif_block_does_not_spoil_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(noise(1, SIDE, SIDE)).save(path, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert (pixels(path) == noise(1, SIDE, SIDE)).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, kind: str) -> None:
    values = np.linspace(0, 65535, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE)
    Image.fromarray(values).save(tmp_path / "deep", kind)
    expected = np.rint(values / 257)
    assert difference(pixels(tmp_path / "deep"), np.stack([expected] * 3, -1)).max() == 0


@pytest.mark.parametrize(
    ("low", "high", "black", "white"),
    [(0.0, 1.0, 0, 1), (0.25, 0.5, 0, 1), (0.0, 200.0, 0, 255), (-1.0, 1.0, -1, 1), (10.0, 4000.0, 10, 4000)],
)
def test_float_pixels_are_scaled_by_their_range(
    tmp_path: Path, low: float, high: float, black: float, white: float
) -> None:
    values = np.linspace(low, high, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    Image.fromarray(values).save(tmp_path / "x.tif")
    expected = (values - black) / (white - black) * 255
    assert np.abs(pixels(tmp_path / "x.tif")[..., 1] - expected).max() <= 0.51


@pytest.mark.parametrize(("bad", "shown"), [(np.nan, 0), (np.inf, 255), (-np.inf, 0)])
def test_a_float_pixel_that_is_no_number_spoils_no_other(tmp_path: Path, bad: float, shown: int) -> None:
    values = np.linspace(0, 1, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    expected = np.rint(values * 255)
    values[3, 5], expected[3, 5] = bad, shown
    Image.fromarray(values).save(tmp_path / "x.tif")
    assert difference(pixels(tmp_path / "x.tif"), np.stack([expected] * 3, -1)).max() <= 1


@pytest.mark.parametrize("value", [np.nan, 0.0, 7.5])
def test_constant_float_pixels_are_decoded(tmp_path: Path, value: float) -> None:
    Image.fromarray(np.full((9, 9), value, np.float32)).save(tmp_path / "x.tif")
    assert len(np.unique(pixels(tmp_path / "x.tif"))) == 1


def test_32_bit_integers_are_scaled_by_their_range(tmp_path: Path) -> None:
    values = np.linspace(-1000, 99_000, SIDE * SIDE).astype(np.int32).reshape(SIDE, SIDE)
    Image.fromarray(values).save(tmp_path / "x.tif")
    expected = (values + 1000) / 100_000 * 255
    assert np.abs(pixels(tmp_path / "x.tif")[..., 0] - expected).max() <= 0.51


def test_a_cmyk_jpeg_has_the_colours_of_its_rgb_original(tmp_path: Path) -> None:
    photo = smooth(3, 64, 48)
    photo.convert("CMYK").save(tmp_path / "x.jpg", quality=95, subsampling=0)
    with Image.open(tmp_path / "x.jpg") as stored:
        assert stored.mode == "CMYK"
    expected = photo.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    assert difference(pixels(tmp_path / "x.jpg"), expected).mean() < 2


def over_white(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return 255 + (color - 255.0) * (alpha[..., None] / 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_composited_over_white(tmp_path: Path, mode: str, kind: str) -> None:
    values = noise(4, SIDE, SIDE, 4)
    if mode == "LA":
        values[..., 1:3] = values[..., :1]
    Image.fromarray(values).convert(mode).save(tmp_path / "x", kind)
    assert np.abs(pixels(tmp_path / "x") - over_white(values[..., :3], values[..., 3])).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_the_transparent_colour_of_a_palette_is_white(tmp_path: Path, kind: str) -> None:
    index = noise(5, SIDE, SIDE, 1) % 3
    picture = Image.fromarray(index).convert("P")
    palette = [(255, 0, 0), (0, 200, 0), (0, 0, 100)]
    picture.putpalette([value for color in palette for value in color])
    picture.putdata(index.reshape(-1).tolist())
    picture.save(tmp_path / "x", kind, transparency=0)
    expected = np.array([(255, 255, 255), *palette[1:]])[index]
    assert (pixels(tmp_path / "x") == expected).all()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_1_bit_pixels_are_black_and_white(tmp_path: Path, kind: str) -> None:
    bits = noise(6, SIDE, SIDE, 1) > 127
    Image.fromarray(bits).save(tmp_path / "x", kind)
    assert (pixels(tmp_path / "x") == np.where(bits, 255, 0)[..., None]).all()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (SIDE, SIDE), color) for color in ("red", "blue", "lime")]
    frames[0].save(tmp_path / "x", kind, save_all=True, append_images=frames[1:], duration=50)
    assert difference(pixels(tmp_path / "x"), frames[0]).max() <= 1


@pytest.mark.parametrize("size", [8, 40])
def test_pixels_are_resampled_with_antialiasing_to_a_square(tmp_path: Path, size: int) -> None:
    picture = Image.fromarray(noise(7, 50, 30))
    picture.save(tmp_path / "x.png")
    expected = picture.resize((size, size), Image.Resampling.LANCZOS)
    assert difference(pixels(tmp_path / "x.png", size), expected).max() == 0


def test_the_content_and_not_the_name_decides_the_format(tmp_path: Path) -> None:
    picture = Image.fromarray(noise(8, SIDE, SIDE))
    create(tmp_path / "x.jpg", encoded(picture, "PNG"))
    assert difference(pixels(tmp_path / "x.jpg"), picture).max() == 0


def test_the_stamp_is_what_the_file_system_says(tmp_path: Path) -> None:
    path = create(tmp_path / "x.png", encoded(Image.new("L", (9, 9)), "PNG"))
    os.utime(path, ns=(1, 1_234_567_890_987_654_321))
    stamp = decode_image(path, [SIDE]).info.stamp
    assert (stamp.size, stamp.mtime_ns) == (os.stat(path).st_size, os.stat(path).st_mtime_ns)
    assert stamp.mtime_ns == 1_234_567_890_987_654_321


# JPEGs at a reduced scale, large pictures in bands


@pytest.mark.parametrize(
    ("size", "scaled"), [(32, (80, 60)), (60, (80, 60)), (61, (160, 120)), (200, (320, 240)), (400, (640, 480))]
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_reaches_the_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, scaled: tuple[int, int]
) -> None:
    photo = smooth(9, 640, 480)
    photo.save(tmp_path / "x.jpg", quality=95)
    seen = []
    shrink = decode._shrink
    monkeypatch.setattr(decode, "_shrink", lambda image, size: (seen.append(image.size), shrink(image, size))[1])
    with Image.open(tmp_path / "x.jpg") as full:
        expected = full.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
    assert difference(pixels(tmp_path / "x.jpg", size), expected).mean() < 1
    assert seen == [scaled]


@pytest.mark.parametrize("size", [(400, 300), (64, 900), (3000, 7), (9, 2000), (40, 5000)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "I;16", "CMYK"])
def test_a_large_picture_in_bands_is_nearly_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, size: tuple[int, int]
) -> None:
    picture = smooth(10, *size)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    elif mode == "RGBA":
        picture.putalpha(smooth(11, *size).convert("L"))
    else:
        picture = picture.convert(mode)
    picture.save(tmp_path / "x", "TIFF" if mode == "CMYK" else "PNG")
    direct = pixels(tmp_path / "x")
    monkeypatch.setattr(decode, "BAND_PIXELS", 4096)
    banded = difference(pixels(tmp_path / "x"), direct)
    assert banded.mean() < 1
    assert banded.max() < 8


@pytest.mark.slow
def test_a_picture_above_the_limit_is_decoded_right(tmp_path: Path) -> None:
    side = 4200
    assert side * side > decode.BAND_PIXELS
    picture = smooth(12, side, side).convert("L")
    picture.save(tmp_path / "x.png", compress_level=1)
    expected = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS).convert("RGB")
    assert difference(pixels(tmp_path / "x.png"), expected).mean() < 1


# Files that are no pictures, or worse


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
def test_a_truncated_file_is_rejected_with_its_reason(tmp_path: Path, kind: str, part: float) -> None:
    content = encoded(Image.fromarray(noise(13, 90, 70)), kind)
    path = create(tmp_path / "x", content[: int(len(content) * part)])
    text = why(path)
    assert text
    assert "\n" not in text
    if kind in ("JPEG", "PNG", "BMP"):
        assert "truncated" in text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><title>404</title>", "an HTML page, not an image"),
        (b"\n  <HTML><body>no</body></HTML>", "an HTML page, not an image"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "a Git LFS pointer, not the image: run 'git lfs pull'",
        ),
        (b"some words", "not an image of a supported format (JPEG, PNG, WEBP, BMP, GIF, TIFF)"),
        (b"\x89PNG\r\n\x1a\n", "not an image of a supported format (JPEG, PNG, WEBP, BMP, GIF, TIFF)"),
    ],
)
def test_what_is_no_picture_is_named_for_what_it_is(tmp_path: Path, content: bytes, expected: str) -> None:
    assert why(create(tmp_path / "x.jpg", content)) == expected


@pytest.mark.parametrize("kind", ["EPS", "PDF", "PPM", "ICO", "TGA", "PCX", "SGI", "DDS", "ICNS"])
def test_a_format_that_is_not_hardened_is_never_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an external program was started")

    path = create(tmp_path / "x.jpg", encoded(Image.new("RGB", (32, 32), "red"), kind))
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(UnidentifiedImageError):
        decode_image(path, [SIDE])


def test_a_decompression_bomb_is_refused(tmp_path: Path, bomb: bytes) -> None:
    text = why(create(tmp_path / "bomb.png", bomb))
    assert text.startswith("DecompressionBombError: ")
    assert "400000000 pixels" in text


@pytest.mark.slow
def test_a_bomb_in_a_text_chunk_is_refused(tmp_path: Path) -> None:
    text = (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9))
    assert "too large" in why(create(tmp_path / "x.png", png_bytes(1, 1, 8, 0, b"\0\0", [text])))


@pytest.mark.timeout(30)
def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    assert why(tmp_path / "x.jpg") == "not a regular file"


def test_a_file_that_is_gone_is_rejected_with_its_reason(tmp_path: Path) -> None:
    assert why(tmp_path / "gone.jpg") == "No such file or directory"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("two\n lines"), "ValueError: two lines"),
        (MemoryError(), "MemoryError: MemoryError"),
        (SyntaxError("x" * 500), "SyntaxError: " + "x" * 187),
    ],
)
def test_any_exception_makes_one_short_line(tmp_path: Path, error: Exception, expected: str) -> None:
    assert explain_failure(error, tmp_path / "x.jpg") == expected
