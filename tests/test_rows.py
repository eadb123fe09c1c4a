"""What goes wrong with sources, destinations and machines, row by row of README.md: what other files lack."""

from __future__ import annotations

import errno
import io
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, create, noise, normal_user, png_bytes, selection_of, smooth, strict_json, tree
from forked import Forked
from PIL import Image
from torch import Tensor

from imgsubset import Options, select
from imgsubset import files as copying
from imgsubset.decoding.decode import decode_image, explain_failure
from imgsubset.errors import BadFilesError, OutputError
from imgsubset.features import distributed_ingest, feature_spaces, ingest, load
from imgsubset.search.exchange import Exchanges
from imgsubset.statistics import objective
from imgsubset.writing import copying as copies
from imgsubset.writing import destination
from imgsubset.writing.ownership import open_folder

Program = Callable[..., Run]
SEARCH = ("--candidates", 64, "--chains", 1, "--steps", 8, "--size", 16, "--channels", "8,8", "--device", "cpu")
FAST = (*SEARCH, "--workers", 0)
OPTIONS = Options(candidates=32, chains=1, steps=8, size=16, channels=(8, 8), device="cpu", workers=0)
SIDE = 16
# The module: the package's attributes of these names are functions.
export = import_module("imgsubset.writing.export")
GIB = 1 << 30


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def outcome(path: Path) -> str:
    """The reason why a file cannot be decoded; empty if it can."""
    try:
        (pixels,) = decode_image(path, [SIDE]).pixels
    except Exception as error:
        return explain_failure(error, path)
    assert len(pixels) == SIDE * SIDE * 3
    return ""


def check_failure(run: Run, code: int, culprit: str) -> None:
    assert (run.code, run.out) == (code, ""), run
    assert run.err.startswith("imgsubset: error: ")
    assert run.err.count("\n") == 1
    assert culprit in run.err


def chosen(out: Path) -> list[str]:
    return [file["path"] for file in strict_json((out / "manifest.json").read_bytes())["files"]]


# Row 1: damaged files

KINDS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_row01_files_cut_off_anywhere(tmp_path: Path, kind: str) -> None:
    content = encoded(Image.fromarray(noise(1, 40, 30)), kind)
    reasons = []
    for length in {*range(0, 64), *range(0, len(content), max(1, len(content) // 50)), len(content) - 100}:
        reasons.append(outcome(create(tmp_path / "x.jpg", content[:length])))
        assert "\n" not in reasons[-1]
    assert reasons.count("") <= len(reasons) // 20  # nothing but an end that holds no pixels may lack


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_row01_flipped_bytes_are_pixels_or_one_line(tmp_path: Path, kind: str) -> None:
    content = encoded(smooth(2, 30, 20), kind)
    generator = np.random.default_rng(0)
    for place in [*range(40), *generator.integers(0, len(content), 60)]:
        changed = bytearray(content)
        changed[place] ^= int(generator.integers(1, 256))
        text = outcome(create(tmp_path / "x.jpg", bytes(changed)))
        assert "\n" not in text
        assert len(text) < 300


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--strict"]], ids=str)
def test_row01_every_kind_of_damage_in_one_run(imgsubset: Program, tmp_path: Path, more: list[str]) -> None:
    folder, bad = tmp_path / "source", {"empty.jpg", "lfs.jpg", "page.jpg"}
    for number in range(5):
        smooth(number, 20, 20).save(create(folder / f"{number}.png"))
    create(folder / "empty.jpg")
    create(folder / "page.jpg", b"<!DOCTYPE html><title>404</title>")
    create(folder / "lfs.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    for kind in KINDS:
        content = encoded(Image.fromarray(noise(3, 40, 30)), kind)
        for part in (1, 5, 9):
            name = f"cut{part}.{kind.lower()}"
            create(folder / name, content[: len(content) * part // 10])
            bad.add(name)
        for place in (0, 1, 2, 3):
            name = f"flip{place}.{kind.lower()}"
            create(folder / name, content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
            if outcome(folder / name):
                bad.add(name)
    before = tree(folder)
    run = imgsubset("select", folder, tmp_path / "out", "-n", 4, "-v", *SEARCH, *more)
    if more:
        check_failure(run, 4, f"{len(bad)} files of source '{folder}' cannot be used")
        assert not (tmp_path / "out").exists()
    else:
        assert (run.code, run.err) == (0, "")
        rejected = strict_json((tmp_path / "out" / "manifest.json").read_bytes())["rejected"]
        assert {one["path"] for one in rejected} == bad
        assert all(f"\n  {one['path']}: {one['reason']}" in run.out for one in rejected)
        assert "lfs.jpg: a Git LFS pointer, not the image: run 'git lfs pull'" in run.out
    assert tree(folder) == before


# Row 2: pictures that are too large

MEMORY = """
import resource, sys
from pathlib import Path
from imgsubset.decoding.decode import decode_image, explain_failure
try:
    decode_image(sys.argv[1], [64])
    print("decoded")
except Exception as error:
    print(explain_failure(error, sys.argv[1]))
status = Path("/proc/self/status")
if status.exists():  # ru_maxrss counts what the parent held when it forked
    print([int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")][0] * 1024)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def memory(path: Path) -> tuple[str, int]:
    """What a decoding process makes of a file, and the bytes that it takes."""
    command = [sys.executable, "-c", MEMORY, str(path)]
    run = subprocess.run(command, capture_output=True, check=True, text=True, timeout=240)
    said, peak = run.stdout.splitlines()
    return said, int(peak)


def chunk(kind: bytes, data: bytes) -> bytes:
    import zlib

    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_gif(side: int, frame: int) -> bytes:
    screen = struct.pack("<HHBBB", side, side, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return b"GIF89a" + screen + b"," + struct.pack("<HHHHB", 0, 0, frame, frame, 0) + b"\x02\x02\x4c\x01\0;"


def huge_tiff(width: int, height: int, compression: int = 1) -> bytes:
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, compression), (262, 3, 1)]
    tags += [(273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, 100)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


def animated_png(frames: int, side: int) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    first = struct.pack(">IIIIIHHBB", 0, side, side, 0, 0, 1, 1, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"acTL", struct.pack(">II", frames, 0)), chunk(b"fcTL", first)]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", b"x"), chunk(b"IEND", b"")])


BOMBS: dict[str, Callable[[], bytes]] = {
    "png": lambda: png_bytes(20_000, 20_000, 1, 0, b"")[:2000],
    "animated png": lambda: animated_png(1 << 30, 20_000),
    "gif": lambda: huge_gif(65_535, 65_535),
    "gif with a huge frame": lambda: huge_gif(1, 65_535),
    "tiff": lambda: huge_tiff(100_000, 100_000),
    "tiff of 2^64 pixels": lambda: huge_tiff(0xFFFFFFFF, 0xFFFFFFFF),
    "bmp": lambda: b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "bmp of runs": lambda: (
        b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 60_000, 60_000, 1, 8, 1, 0, 0, 0, 0, 0)
    ),
    "jpeg": lambda: encoded(Image.new("L", (8, 8)), "JPEG").replace(b"\0\x08\0\x08", b"\xff\xff\xff\xff", 1),
    "webp": lambda: b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\xff" * 2 + bytes(10),
    "colour profile": lambda: png_bytes(1, 1, 8, 0, b"\0\0", [(b"iCCP", b"x\0\0" + deflated(300_000_000))]),
    "text": lambda: png_bytes(1, 1, 8, 0, b"\0\0", [(b"zTXt", b"x\0\0" + deflated(300_000_000))]),
    "texts": lambda: png_bytes(1, 1, 8, 0, b"\0\0", [(b"zTXt", b"x\0\0" + deflated(1_000_000))] * 500),
    "international texts": lambda: png_bytes(
        *(1, 1, 8, 0, b"\0\0"), [(b"iTXt", b"x\0\1\0\0\0" + deflated(1_000_000))] * 500
    ),
}


def deflated(count: int) -> bytes:
    import zlib

    return zlib.compress(bytes(count), 9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOMBS)
def test_row02_a_bomb_takes_no_memory(tmp_path: Path, kind: str) -> None:
    content = BOMBS[kind]()
    assert len(content) < 1_000_000
    said, peak = memory(create(tmp_path / "x.png", content))
    assert said != "decoded"
    assert peak < GIB / 4


def sparse_tiff(path: Path, side: int, samples: int, bits: int, tags: list[tuple[int, int]]) -> None:
    """An uncompressed picture of zeros, which takes no room on the disk and no time to write."""
    offset, size = 8 + 2 + 12 * (9 + len(tags)) + 4, side * side * samples * bits // 8
    every = [(256, side), (257, side), (258, bits), (259, 1), (273, offset), (277, samples), (278, side), (279, size)]
    every = sorted([*every, (284, 1), *tags])
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in every)
    create(path, b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(every)) + entries + bytes(4))
    os.truncate(path, offset + size)


def progressive_jpeg(path: Path) -> None:
    Image.new("RGB", (10_000, 10_000)).save(path, "JPEG", progressive=True, subsampling=0)


LARGE: dict[str, Callable[[Path], None]] = {
    "progressive": progressive_jpeg,
    "floats": lambda path: sparse_tiff(path, 10_000, 1, 32, [(262, 1), (339, 3)]),
    "transparent, of the most pixels that are allowed": lambda path: sparse_tiff(
        path, 13_300, 4, 8, [(262, 2), (338, 2)]
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LARGE)
def test_row02_a_hundred_megapixels_and_more_take_less_than_two_gigabytes(tmp_path: Path, kind: str) -> None:
    LARGE[kind](tmp_path / "x")
    said, peak = memory(tmp_path / "x")
    (tmp_path / "x").unlink()
    assert said == "decoded"
    assert peak < 2 * GIB


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1), (2, 65_000)], ids=str)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_row02_a_strip_takes_no_memory(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    Image.new("RGB", size, "teal").save(tmp_path / "x", kind)
    said, peak = memory(tmp_path / "x")
    assert said == "decoded"
    assert peak < GIB / 4


# Row 3: formats that are risky to open

FITS = b"".join(
    card.ljust(80).encode()
    for card in ("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 4", "NAXIS2  = 4", "END")
).ljust(2880) + bytes(2880)
RISKY: dict[str, bytes] = {
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(touch x) system\nshowpage\n",
    "eps in a DOS wrapper": b"\xc5\xd0\xd3\xc6"
    + struct.pack("<6I", 30, 60, 0, 0, 0, 0)
    + b"\xff\xff%!PS-Adobe-3.0 EPSF-3.0\n",
    "psd": b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 4, 4, 8, 3) + bytes(12) + b"\0\0" + bytes(48),
    "fits": FITS,
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file:///etc/passwd"/></svg>',
    "xml and svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
    "pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n",
    "wmf": b"\xd7\xcd\xc6\x9a\0\0" + bytes(40),
    "mvg": b"push graphic-context\nfill 'url(https://example.invalid/x|touch x)'\n",
    "jpeg 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
}


@pytest.mark.parametrize("kind", RISKY)
def test_row03_a_risky_format_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a risky decoder or an external program was started")

    risky = ["EPS", "PSD", "FITS", "WMF", "JPEG2000", "SVG", "PDF"]
    monkeypatch.setattr(Image, "ID", [*risky, *Image.ID])
    for name in risky:  # as if a host had registered all of them, eager to open
        monkeypatch.setitem(Image.OPEN, name, (refuse, lambda _: True))
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(os, "system", refuse)
    for name in ("x.jpg", "x.png", "x.tif"):
        path = create(tmp_path / name, RISKY[kind])
        known = "a JPEG 2000 picture" if kind == "jpeg 2000" else "not an image of a supported format (JPEG, PNG, WEBP"
        assert outcome(path).startswith(known)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_row03_no_external_program_is_started(
    imgsubset: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    for name in ("gs", "gswin64c", "inkscape", "convert", "magick", "pdftoppm", "xdg-open"):
        create(tmp_path / "bin" / name, f"#!/bin/sh\ntouch '{tmp_path}/started'\n".encode()).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for number, content in enumerate(RISKY.values()):
        create(tmp_path / "source" / f"{number}.jpg", content)
    smooth(0, 9, 9).save(tmp_path / "source" / "good.png")
    run = imgsubset("select", tmp_path / "source", tmp_path / "out", "-n", 1, "--workers", workers, *SEARCH)
    assert (run.code, run.err) == (0, "")
    assert f"skipped {len(RISKY)} files" in run.out
    assert chosen(tmp_path / "out") == ["good.png"]
    assert not (tmp_path / "started").exists()


# Row 4: pixels of every kind


def shown(path: Path) -> np.ndarray:
    return np.frombuffer(decode_image(path, [SIDE]).pixels[0], np.uint8).reshape(SIDE, SIDE, 3).astype(int)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB"])
def test_row04_every_mode_has_the_colours_of_its_conversion(tmp_path: Path, mode: str) -> None:
    photo = smooth(1, SIDE, SIDE)
    if mode == "LAB":
        picture = Image.new("LAB", (SIDE, SIDE), (128, 128, 128))
    else:
        picture = photo.convert("P").convert("PA") if mode == "PA" else photo.convert(mode)
    picture.save(tmp_path / "x", "TIFF")
    with Image.open(tmp_path / "x") as opened:
        expected = np.asarray(opened.convert("RGB")).astype(int)
    assert np.abs(shown(tmp_path / "x") - expected).max() <= 2


@pytest.mark.parametrize("transform", [0, 2])
def test_row04_jpegs_as_adobe_writes_them(tmp_path: Path, transform: int) -> None:
    """Inverted CMYK, and YCCK, which is Y, Cb and Cr of the inverted and K."""
    photo = smooth(2, SIDE, SIDE)
    ink = 255 - np.asarray(photo).astype(int)
    # Pillow inverts what it writes, and marks it as transform 0.
    first = np.asarray(Image.fromarray(ink.astype(np.uint8)).convert("YCbCr")).astype(int) if transform else ink
    stored = np.concatenate([255 - first if transform else first, np.zeros((SIDE, SIDE, 1), int)], 2).astype(np.uint8)
    content = encoded(cmyk(stored), "JPEG", quality=100, subsampling=0)
    at = content.index(b"Adobe") + 11
    assert content[at] == 0
    path = create(tmp_path / "x.jpg", content[:at] + bytes([transform]) + content[at + 1 :])
    assert np.abs(shown(path) - np.asarray(photo)).mean() < 4


def cmyk(values: np.ndarray) -> Image.Image:
    return Image.frombytes("CMYK", (values.shape[1], values.shape[0]), values.tobytes())


def test_row04_big_endian_and_signed_pixels_are_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE)
    tags = [(256, SIDE), (257, SIDE), (258, 16), (259, 1), (262, 1), (273, 8 + 2 + 9 * 12 + 4), (277, 1), (278, SIDE)]
    tags += [(279, values.nbytes)]
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"MM\0*" + struct.pack(">I", 8) + struct.pack(">H", len(tags)) + entries + bytes(4)
    path = create(tmp_path / "x.tif", head + values.astype(">u2").tobytes())
    assert np.abs(shown(path)[..., 0] - np.rint(values / 257)).max() <= 1


def test_row04_scores_of_odd_pixels_are_finite(imgsubset: Program, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    spoilt = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    for number, bad in enumerate([np.nan, np.inf, -np.inf]):
        values = spoilt.copy()
        values[::3, ::2] = bad
        Image.fromarray(values).save(folder / f"spoilt{number}.tif")
        Image.fromarray(np.full((20, 20), bad, np.float32)).save(folder / f"all{number}.tif")
    Image.fromarray(np.full((20, 20), 3.4e38, np.float32)).save(folder / "huge.tif")
    Image.fromarray((spoilt.astype(float) * 6e38 - 3e38).astype(np.float32)).save(folder / "wide.tif")
    Image.fromarray((spoilt * 65535).astype(np.uint16)).save(folder / "deep.png")
    for mode in ("1", "LA", "P", "CMYK"):
        smooth(5, 20, 20).convert(mode).save(folder / f"{mode}.tif")
    total = len(list(folder.iterdir()))
    run = imgsubset("select", folder, tmp_path / "out", "-n", 4, "--json", *FAST)
    assert (run.code, run.err) == (0, "")
    record = strict_json(run.out)  # which refuses NaN and Infinity
    assert record["counts"]["usable"] == total
    assert all(np.isfinite(one["value"]) for one in record["score"]["divergences"].values())
    assert np.isfinite(record["score"]["loss"])


# Row 5: what is no file


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_row05_a_folder_full_of_what_is_no_file(imgsubset: Program, tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "source"
    for number in range(4):
        smooth(number, 9, 9).save(create(folder / "x.jpg" / f"{number}.png"))
    os.mkfifo(folder / "fifo.png")
    here = os.getcwd()
    os.chdir(folder)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
    os.chdir(here)
    for name, target in {
        **{"zero.png": "/dev/zero", "dangling.png": "nowhere", "self.png": "self.png"},
        **{"loop": "..", "x.jpg/back": "../x.jpg", "all": "/", "again": "x.jpg"},
    }.items():
        (folder / name).symlink_to(target)
    run = imgsubset("select", folder, tmp_path / "out", "-n", 4, "--workers", workers, *SEARCH)
    assert (run.code, run.err) == (0, "")
    assert chosen(tmp_path / "out") == [f"x.jpg/{number}.png" for number in range(4)]
    assert "\nskipped 5 files:\n  dangling.png: dangling link\n  fifo.png: not a regular file\n" in run.out
    assert "\n  socket.png: not a regular file\n  zero.png: not a regular file" in run.out


# Row 6: what may not be read; root may read everything, so as another user


def test_row06_an_unreadable_file_is_named_and_strict_fails(open_folder: Path) -> None:
    for number in range(4):
        smooth(number, 9, 9).save(create(open_folder / "source" / f"{number}.png"))
    (open_folder / "source" / "2.png").chmod(0)
    with normal_user(open_folder):
        found = select(open_folder / "source", 2, OPTIONS)
        with pytest.raises(BadFilesError, match=r"'2\.png': Permission denied") as caught:
            select(open_folder / "source", 2, replace(OPTIONS, strict=True))
    assert [(one.path, one.reason) for one in found.rejected] == [("2.png", "Permission denied")]
    assert caught.value.exit_code == 4


# Row 7: names

NAMES = [
    *(" lead.png", "trail .png", "two  spaces.png", "new\nline.png", "\x1b]0;title\x07.png", "\x1b[2Jclear.png"),
    *("-n.png", "--strict.png", "\udcff\udcfe.png", "a\udc80b.png", "n" * 251 + ".png", "Case.png", "case.png"),
    *("e\u0301.png", "\u00e9.png", "\u202ertl.png", "%s%n.png", "'quote\".png", "back\\slash.png", "*?[.png", "\t.png"),
]


@pytest.mark.slow
def test_row07_every_name_is_copied_byte_by_byte(imgsubset: Program, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    for number, name in enumerate(NAMES):
        create(folder / name, encoded(smooth(number, 9, 9), "PNG"))
    create(folder / "\x1b[31mbad.png")
    run = imgsubset("select", folder, tmp_path / "out", "-n", "100%", "-v", "--workers", 1, *SEARCH)
    assert (run.code, run.err) == (0, "")
    assert all(char.isprintable() or char == "\n" for char in run.out)
    wanted = {os.fsencode(name): (folder / name).read_bytes() for name in NAMES}
    out = os.fsencode(tmp_path / "out")
    found = {name: Path(os.fsdecode(os.path.join(out, name))).read_bytes() for name in os.listdir(out)}
    content = found.pop(b"manifest.json")
    assert found == wanted
    content.decode("ascii")
    assert {os.fsencode(file["path"]) for file in strict_json(content)["files"]} == set(wanted)
    assert imgsubset("verify", tmp_path / "out").code == 0


def test_row07_a_leading_dash_is_a_name_after_two_dashes(imgsubset: Program, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    smooth(0, 9, 9).save(create(tmp_path / "-n" / "--json.png"))
    run = imgsubset("select", "-n", 1, *FAST, "--", "-n", "-q")
    assert (run.code, run.err) == (0, "")
    assert chosen(tmp_path / "-q") == ["--json.png"]


# Row 8: one name for several files


def test_row08_the_same_name_in_many_folders(imgsubset: Program, tmp_path: Path) -> None:
    for number in range(20):
        smooth(number, 9, 9).save(create(tmp_path / "source" / f"{number}" / "x.png"))
    assert imgsubset("select", tmp_path / "source", tmp_path / "out", "-n", "100%", *FAST).code == 0
    for number in range(20):
        assert (tmp_path / f"out/{number}/x.png").read_bytes() == (tmp_path / f"source/{number}/x.png").read_bytes()


FOLDED = [
    ("Case.png", "case.png"),
    ("A/x.png", "a/x.png"),
    ("e\u0301.png", "\u00e9.png"),
    ("stra\u00dfe.png", "STRASSE.png"),
]


@pytest.mark.slow
@pytest.mark.parametrize("names", FOLDED, ids=ascii)
def test_row08_a_collision_is_refused_before_anything_is_copied(
    imgsubset: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str]
) -> None:
    folder = tmp_path / "source"
    for number, name in enumerate(names):
        smooth(number, 9, 9).save(create(folder / name))
    if len(list(folder.rglob("*.png"))) < 2:
        pytest.skip("this file system folds case itself")
    arguments = ("select", folder, tmp_path / "out", "-n", 2, *FAST)
    with monkeypatch.context() as patch:
        patch.setattr(destination, "is_case_insensitive", lambda *_: True)
        run = imgsubset(*arguments)
    check_failure(run, 5, "would have one name in the destination, whose file system folds case")
    assert not (tmp_path / "out").exists()
    assert imgsubset(*arguments).code == 0
    assert len(tree(tmp_path / "out")) == 3


def test_row08_what_does_not_collide_is_kept(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destination, "is_case_insensitive", lambda *_: True)
    paths = ["a/1.jpg", "a/2.png", "b/1.jpg", "6.bmp"]
    done = export.export(selection_of(folder, paths), tmp_path / "out")
    assert sorted(done.hashes) == sorted(paths)


def test_row08_a_file_system_that_folds_case_is_known_by_a_name_in_it(tmp_path: Path) -> None:
    create(tmp_path / "name")
    with open_folder(tmp_path) as folder:
        assert destination.is_case_insensitive(folder, "name") == (tmp_path / "NAME").exists()
        create(tmp_path / "NAME")  # which a folding file system shows by itself
        assert destination.is_case_insensitive(folder, "name")


@pytest.mark.parametrize("name", ["Manifest.json", "MANIFEST.JSON"])
def test_row08_a_label_that_would_be_the_manifest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / "source"
    smooth(0, 9, 9).save(create(folder / f"{Path(name).stem}.png"))
    create(folder / name, b"{}")
    monkeypatch.setattr(destination, "is_case_insensitive", lambda *_: True)
    with pytest.raises(OutputError):
        export.export(select(folder, 1, OPTIONS), tmp_path / "out")


# Row 9: source and destination

APART: dict[str, tuple[str, int]] = {
    "source": ("source", 2),
    "source/.": ("source/.", 2),
    "link": ("link", 2),
    "source/a": ("source/a", 2),
    "source/new/out": ("source/new/out", 2),
    "link/a/new": ("link/a/new", 2),
    ".": (".", 2),
    "up": ("up", 2),
    "file": ("file", 5),
    "file/below": ("file/below", 5),
    "full": ("full", 5),
    "dangling": ("dangling", 5),
    "waiting": ("waiting", 5),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "place"),
    [
        *(("select", place) for place in APART),
        *(("split", place) for place in APART if place not in (".", "up", "full", "waiting")),  # which hold the parts
    ],
)
def test_row09_a_useless_destination_changes_nothing(
    imgsubset: Program, folder: Path, tmp_path: Path, command: str, place: str
) -> None:
    path, code = APART[place]
    (tmp_path / "link").symlink_to("source")
    (tmp_path / "up").symlink_to(tmp_path)
    create(tmp_path / "file", b"mine")
    create(tmp_path / "full" / "notes.txt", b"mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    create(tmp_path / "victim", b"mine")
    (tmp_path / "waiting" / "a").mkdir(parents=True)
    (tmp_path / "waiting" / "a" / "1.jpg").symlink_to("../../victim")
    before, names = tree(tmp_path), sorted(tmp_path.rglob("*"))
    what = ("train=50%", "test=50%") if command == "split" else ("-n", "100%")
    run = imgsubset(command, folder, tmp_path / path, *what, "--no-cache", *FAST)
    assert (run.code, run.out) == (code, ""), run.err
    assert str(tmp_path / path) in run.err
    assert (tree(tmp_path), sorted(tmp_path.rglob("*"))) == (before, names)


def test_row09_a_part_of_a_split_may_not_be_the_source(imgsubset: Program, folder: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    run = imgsubset("split", folder, tmp_path, "source=50%", "test=50%", "--no-cache", *FAST)
    check_failure(run, 2, "is the source itself")
    assert tree(tmp_path) == before


# Row 10: destinations that fail

LIMITED = """
import resource, sys
from imgsubset import cli
size = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
cli.main()
"""


@pytest.mark.slow
def test_row10_a_file_size_limit_leaves_nothing_half(imgsubset: Program, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    for number in range(3):
        create(folder / f"{number}.bmp", encoded(Image.fromarray(noise(number, 40, 40)), "BMP"))
    create(folder / "large.bmp", encoded(Image.fromarray(noise(9, 300, 300)), "BMP"))
    arguments = ["select", folder, tmp_path / "out", "-n", "100%", *FAST, "--no-cache"]
    run = Forked(LIMITED, 100_000, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said, complaint = run.communicate()
    assert (run.returncode, said) == (5, b"")
    assert complaint.decode() == f"imgsubset: error: cannot write to '{tmp_path / 'out'}': File too large\n"
    assert not (tmp_path / "out").exists()
    assert imgsubset(*arguments).code == 0
    assert len(tree(tmp_path / "out")) == 5


@pytest.mark.slow
def test_row10_no_room_for_decoding_is_no_traceback(tmp_path: Path) -> None:
    smooth(0, 9, 9).save(create(tmp_path / "source" / "1.png"))
    arguments = ["select", tmp_path / "source", tmp_path / "out", "-n", 1, *SEARCH, "--no-cache", "--workers", 1]
    run = Forked(LIMITED, 1000, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said, complaint = run.communicate()
    assert (run.returncode, said) == (1, b"")
    assert complaint.startswith(b"imgsubset: error: ")
    assert complaint.count(b"\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["write", "fsync", "mkdir", "open", "rename"])
def test_row10_any_error_of_the_disk_at_any_call(
    imgsubset: Program, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """The first call that is about a copy fails; the run ends with 5 and its line, and the next one completes."""
    out = tmp_path / "out"
    failing = {
        "write": (copies, "hash_stream"),
        "fsync": (copying.os, "fsync"),
        "mkdir": (copying.os, "mkdir"),
        "open": (copies, "create_file"),
        "rename": (copying.os, "rename"),
    }
    owner, name = failing[call]

    def fail(*arguments: Any, **named: Any) -> Any:
        raise OSError(number, os.strerror(number))

    selection = selection_of(folder, ["a/1.jpg", "a/2.png"])
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(OutputError, match=os.strerror(number)):
            export.export(selection, out)
    assert not {"manifest.json", "a/1.jpg", "a/2.png"} & set(tree(out))
    assert [path for path in tree(out) if copying.PARTIAL_PREFIX in path] == []
    export.export(selection, out)
    assert set(tree(out)) == {"a/1.jpg", "a/2.png", "manifest.json"}


@pytest.mark.slow
def test_row10_a_full_device_is_found_out_before_copying(imgsubset: Program, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        for number in range(3):
            create(tmp_path / "source" / f"{number}.bmp", encoded(Image.fromarray(noise(number, 100, 100)), "BMP"))
        run = imgsubset("select", tmp_path / "source", small / "out", "-n", 3, *FAST)
        check_failure(run, 5, "bytes free, but the chosen images take 90,162")
        assert not (small / "out").exists()
        run = imgsubset("select", tmp_path / "source", small / "out", "-n", 1, *FAST)
        assert (run.code, len(tree(small))) == (0, 2)
    finally:
        subprocess.run(["umount", str(small)], check=True)


# Rows 13 and 14: copies that are not what was chosen


@pytest.mark.parametrize("when", ["gone", "changed", "corrupted"])
def test_rows13_14_the_program_names_the_file(
    imgsubset: Program, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    victim = folder / "b" / "1.jpg"

    def late(*arguments: Any, **named: Any) -> Any:
        if when == "gone":
            victim.unlink()
        elif when == "changed":
            victim.write_bytes(victim.read_bytes()[::-1])
        return real(*arguments, **named)

    def corrupt(read: int, written: int, real: Any = shutil.copystat) -> None:
        if os.path.samestat(os.fstat(read), victim.stat()):
            os.pwrite(written, victim.read_bytes()[::-1], 0)
        real(read, written)

    real = export.export_to_locked
    monkeypatch.setattr("imgsubset.tasks.select.export_to_locked", late)
    if when == "corrupted":
        monkeypatch.setattr(shutil, "copystat", corrupt)
    run = imgsubset("select", folder, tmp_path / "out", "-n", "100%", *FAST)
    said = {
        "gone": "cannot be read any more",
        "changed": "changed while",
        "corrupted": "differs from it when read back",
    }
    check_failure(run, 5, f"'{victim}'")
    assert said[when] in run.err
    assert not {"b/1.jpg", "manifest.json"} & set(tree(tmp_path / "out"))


# Rows 16 and 17: sizes and sources that are hardly any


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("count", [5, 6])
def test_row17_fewer_images_than_channels(imgsubset: Program, tmp_path: Path, n: int, count: int) -> None:
    for number in range(count):
        smooth(number, 12, 12).save(create(tmp_path / "source" / f"{number}.png"))
    run = imgsubset("select", tmp_path / "source", tmp_path / "out", "-n", n, "--json", *FAST)
    assert run.code == 0
    score = strict_json(run.out)["score"]
    assert score["loss"] >= 0
    assert (score["loss"] == 0) == (n == count)
    assert score["effective_size"] == pytest.approx(count) if n == count else score["effective_size"] > 0


def test_row17_a_dead_channel_is_told(tmp_path: Path) -> None:
    for number in range(9):
        dark = Image.fromarray(noise(number, 12, 12) // 64)
        dark.save(create(tmp_path / "source" / f"{number}.png"))
    found = select(tmp_path / "source", 3, OPTIONS, extractor=with_dead_channels)
    assert found.warnings == ("2 of 5 channels of extractor do not vary in the source and are left out",)
    assert all(np.isfinite(value) for value in found.score.divergences.values())


@pytest.mark.parametrize("sizes", [(9,), (9, 10, 11)], ids=str)
def test_row17_images_that_are_all_alike_are_told(imgsubset: Program, tmp_path: Path, sizes: tuple[int, ...]) -> None:
    for number in range(9):
        size = sizes[number % len(sizes)]
        Image.new("RGB", (size, 9), "teal").save(create(tmp_path / "source" / f"{number}.png"))
    run = imgsubset("select", tmp_path / "source", tmp_path / "out", "-n", 3, *FAST)
    assert run.code == 0
    assert "every subset is as close as any other" in " ".join(run.out.split())


def with_dead_channels(pixels: Tensor) -> Tensor:
    maps = pixels.float().permute(0, 3, 1, 2)[:, :, ::4, ::4]
    return torch.cat([maps, torch.zeros_like(maps[:, :1]), torch.full_like(maps[:, :1], 7.0)], 1)


# Row 18: GPUs


@pytest.mark.slow
def test_row18_smaller_batches_of_images_are_tried() -> None:
    def run(batch: list[int], height: int) -> tuple[list[int], int]:
        if height > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch, height

    found = list(ingest._run_in_batches(run, iter(range(7)), 16))
    assert found == [([0, 1], 2), ([2, 3], 2), ([4, 5], 2), ([6], 2)]  # all of one shape

    def never(batch: list[int], height: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        list(ingest._run_in_batches(never, iter(range(7)), 16))


STAGES: dict[str, tuple[Any, str]] = {
    "ingest": (ingest, "compute_image_moments"),
    "baseline": (objective, "compute_subset_moments"),
    "exchange": (Exchanges, "step"),
    "rank": (import_module("imgsubset.search.ranking"), "herding_order"),
}


def run_out_of_memory(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """As on a GPU with too little memory: whatever is asked of another device than `cpu` fails in this stage."""
    owner, name = STAGES[stage]
    real, device = getattr(owner, name), load.torch_device
    small = [True]

    def remembered(asked: str) -> torch.device:
        small[0] = asked != "cpu"
        return device("cpu")

    def fail(*arguments: Any, **named: Any) -> Any:
        if small[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(*arguments, **named)

    for module in (load, feature_spaces, distributed_ingest):
        monkeypatch.setattr(module, "torch_device", remembered)
    for module in (load, feature_spaces):
        monkeypatch.setattr(module, "device_name", str)
    monkeypatch.setattr(owner, name, fail)


@pytest.mark.slow
@pytest.mark.usefixtures("few_deals")
@pytest.mark.parametrize(
    ("command", "stage"),
    [
        *((command, stage) for command in ("select", "split") for stage in STAGES),
        *(("score", "ingest"), ("score", "baseline"), ("compare", "ingest")),
    ],
)
def test_row18_the_cpu_does_what_a_gpu_has_no_memory_for(
    imgsubset: Program, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, command: str
) -> None:
    few = ("--candidates", 32, "--chains", 1, "--steps", 8, "--size", 16, "--channels", "8,8")
    search = few if command in ("select", "split") else few[-4:]
    what: dict[str, tuple[object, ...]] = {
        "select": ("-n", 5, "--mode", "none"),
        "split": (tmp_path / "out", "a=3", "b=4", "--dry-run"),
        "score": (tmp_path / "subset",),
        "compare": (tmp_path / "subset",),
    }
    (tmp_path / "subset").mkdir()
    for number in range(6):
        shutil.copy2(pictures / f"class{number % 3}" / f"{number:03d}.png", tmp_path / "subset")
    run_out_of_memory(monkeypatch, stage)
    arguments = (command, pictures, *what[command], *search, "--no-cache", "--workers", 0)
    run = imgsubset(*arguments)
    assert (run.code, run.err) == (0, "")
    assert "the GPU has too little memory for this, so the CPU did it" in " ".join(run.out.split())
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        check_failure(imgsubset(*arguments, "--device", "cuda"), 3, "--device cpu does without it")


@pytest.mark.slow
def test_row18_paths_from_an_iterator_are_there_for_the_cpu_too(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(pictures.rglob("*.png"))
    run_out_of_memory(monkeypatch, "baseline")
    assert len(select(iter(paths), 5, replace(OPTIONS, device="auto")).chosen) == 5


# Row 20: a run that is cut off and started again


@pytest.mark.slow
def test_row20_what_was_decoded_before_a_cut_is_not_decoded_again(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "STORE_BATCH_IMAGES", 16)
    options = replace(OPTIONS, cache=str(tmp_path / "cache"), workers=1)
    seen = []

    def cut(stage: str, done: int, total: int, note: str = "") -> None:
        seen.append(done)
        if sum(seen) >= 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        select(pictures, 9, options, progress=cut)
    again = select(pictures, 9, options)
    assert again.cached >= sum(seen) - 16
    assert again.ranked == select(pictures, 9, OPTIONS).ranked


# Row 21: what must not matter


@pytest.fixture(scope="module")
def usual(pictures: Path) -> tuple[str, ...]:
    return select(pictures, 9, OPTIONS).ranked


@pytest.mark.slow
@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_row21_the_order_of_the_files(
    pictures: Path, usual: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    scandir = os.scandir

    class Entries:
        def __init__(self, folder: Any) -> None:
            with scandir(folder) as entries:
                self.entries = sorted(
                    entries, key=lambda entry: hash(entry.name) if order == "shuffled" else entry.name
                )
            self.entries.reverse()

        def __enter__(self) -> Any:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr("imgsubset.sources.listing.os.scandir", Entries)
    assert select(pictures, 9, OPTIONS).ranked == usual


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_row21_the_number_of_processes(pictures: Path, usual: tuple[str, ...], workers: int) -> None:
    assert select(pictures, 9, replace(OPTIONS, workers=workers)).ranked == usual


@pytest.mark.slow
def test_row21_which_images_are_cached_and_so_the_batches(
    pictures: Path, usual: tuple[str, ...], tmp_path: Path
) -> None:
    part = tmp_path / "part"
    for name in ("class1", "class2/005.png"):
        (part / name).parent.mkdir(parents=True, exist_ok=True)
    options = replace(OPTIONS, cache=str(tmp_path / "cache"))
    some = sorted(pictures.rglob("*.png"))[7:50]
    select(some, 3, options)
    found = select(pictures, 9, options)
    assert found.ranked == usual
    assert select(pictures, 9, options).ranked == usual


# Row 22: the source


@pytest.mark.slow
@pytest.mark.usefixtures("few_deals")
@pytest.mark.parametrize("mode", ["copy", "symlink", "hardlink", "none"])
def test_row22_no_run_changes_the_source(imgsubset: Program, folder: Path, tmp_path: Path, mode: str) -> None:
    create(folder / "bad.jpg")
    create(folder / "a" / "1.txt", b"label")
    before = tree(folder)
    runs: list[tuple[int, tuple[object, ...]]] = [
        (0, ("select", folder, tmp_path / "out", "-n", 4, "--mode", mode, "--ranked", *FAST)),
        (0, ("select", folder, tmp_path / "out", "-n", 3, "--mode", mode, "--overwrite", *FAST)),
        (4, ("select", folder, tmp_path / "bad", "-n", 3, "--mode", mode, "--strict", *FAST)),
        (6, ("select", folder, tmp_path / "gate", "-n", 1, "--mode", mode, "--max-loss", "1e-9", *FAST)),
    ]
    if mode == "copy":
        runs += [
            (0, ("split", folder, tmp_path / "split", "a=3", "b=5", "--mode", mode, *FAST)),
            (0, ("verify", tmp_path / "out")),
            (0, ("score", folder, tmp_path / "out", "--size", 16, "--workers", 0)),
            (0, ("compare", folder, tmp_path / "out", "--size", 16, "--workers", 0)),
        ]
    for code, arguments in runs:
        run = imgsubset(*arguments)
        assert run.code == code, run
        assert tree(folder) == before
