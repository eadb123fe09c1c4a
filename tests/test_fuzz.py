"""Damaged pictures, options, job files, embeddings and caches: an answer or one of the program's errors, soon and in
little memory.

IMGSUBSET_FUZZ is the number of examples of each test, small unless it is given:
`IMGSUBSET_FUZZ=10000 pytest tests/test_fuzz.py --timeout 0`.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import create, noise, smooth
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from imgsubset import select
from imgsubset.annotations import filters
from imgsubset.annotations.classes import parse_classes, parse_groups, read_labels
from imgsubset.annotations.coco import filter_coco
from imgsubset.annotations.filters import filter_candidates, list_candidates
from imgsubset.annotations.yolo import make_data_yaml
from imgsubset.cli.batch import read_jobs
from imgsubset.cli.options import parse_option
from imgsubset.cli.split import parse_parts
from imgsubset.divergence_weights import Weights
from imgsubset.errors import ImgsubsetError, InputError, UsageError
from imgsubset.features import cache
from imgsubset.features.cache import Cache, CacheQuery, delete_entries, list_entries
from imgsubset.features.embeddings import read_embeddings
from imgsubset.files import Stamp
from imgsubset.inputs import Embeddings
from imgsubset.options import FIELDS, Options
from imgsubset.results.as_json import describe_cache
from imgsubset.results.as_text import cache_summary
from imgsubset.sources.listing import list_images, parse_paths
from imgsubset.tasks.inputs import resolve_n, resolve_part_sizes

EXAMPLES = int(os.environ.get("IMGSUBSET_FUZZ", "0"))
fuzzed = settings(
    max_examples=EXAMPLES or 60,
    deadline=None,
    derandomize=not EXAMPLES,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
SIDE = 16

# A process that decodes the files it is told, one a line: a crash, a hang or a hunger for memory ends it alone.
DECODER = """
import resource, signal, sys
from imgsubset.decoding.decode import decode_image, explain_failure
decode_image(sys.argv[1], [16])
try:
    decode_image(sys.argv[2], [16])  # imports numpy before there is a limit
except Exception:
    pass
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
print("ready", flush=True)
for line in sys.stdin:
    signal.alarm(120)  # whose default is to end the process
    try:
        image = decode_image(line[:-1], [16])
        (pixels,), stamp = image.pixels, image.info.stamp
        print("pixels", len(pixels), flush=True)
    except Exception as error:
        print("refused", repr(explain_failure(error, line[:-1])), flush=True)
    signal.alarm(0)
"""


class Decoder:
    """Decodes in the process."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "x.jpg"
        Image.new("RGB", (9, 9)).save(folder / "first.png")
        Image.fromarray(np.zeros((9, 9), np.float32)).save(folder / "second.tif")
        command = [sys.executable, "-c", DECODER, str(folder / "first.png"), str(folder / "second.tif")]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        assert self.stdout.readline() == "ready\n"

    def check(self, content: bytes) -> str:
        """Decode a file of this content: it must come to pixels or to one short line."""
        self.file.write_bytes(content)
        self.stdin.write(f"{self.file}\n")
        self.stdin.flush()
        said = self.stdout.readline()
        assert said, f"the decoder ended with {self.process.wait()} at {content.hex()}"
        kind, _, rest = said.strip().partition(" ")
        if kind == "pixels":
            assert int(rest) == SIDE * SIDE * 3
        else:
            assert kind == "refused"
            assert len(rest) < 1000
            assert "\\n" not in rest
        return kind

    def close(self) -> str:
        """End it; what it wrote to stderr."""
        return self.process.communicate()[1]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decoder]:
    one = Decoder(tmp_path_factory.mktemp("fuzz"))
    yield one
    assert "Traceback" not in one.close()


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def samples() -> dict[str, list[bytes]]:
    """Valid files of each format, of several kinds of pixels and compressions."""
    photo, exif = smooth(1, 24, 18), Image.Exif()
    exif[0x0112] = 6
    alpha = Image.fromarray(noise(2, 24, 18, 4))
    deep = Image.fromarray(noise(3, 24, 18, 1).astype(np.uint16) * 257)
    frames = {"save_all": True, "append_images": [smooth(4, 24, 18), smooth(5, 24, 18)]}
    return {
        "JPEG": [
            encoded(photo, "JPEG", exif=exif),
            encoded(photo, "JPEG", progressive=True, optimize=True),
            encoded(photo.convert("CMYK"), "JPEG"),
            encoded(photo.convert("L"), "JPEG", restart_marker_blocks=1),
        ],
        "PNG": [
            encoded(photo, "PNG", exif=exif),
            encoded(alpha, "PNG"),
            encoded(deep, "PNG"),
            encoded(photo.convert("P"), "PNG", transparency=3),
            encoded(photo.convert("1"), "PNG"),
            encoded(photo, "PNG", **frames),
        ],
        "WEBP": [
            encoded(photo, "WEBP", exif=exif),
            encoded(alpha, "WEBP", lossless=True),
            encoded(photo, "WEBP", **frames),
        ],
        "BMP": [encoded(photo, "BMP"), encoded(photo.convert("P"), "BMP"), encoded(photo.convert("1"), "BMP")],
        "GIF": [encoded(photo, "GIF"), encoded(photo, "GIF", **frames)],
        "TIFF": [
            encoded(photo, "TIFF", exif=exif),
            encoded(photo, "TIFF", compression="tiff_lzw"),
            encoded(photo, "TIFF", compression="jpeg"),
            encoded(photo.convert("1"), "TIFF", compression="group4"),
            encoded(alpha, "TIFF", compression="tiff_adobe_deflate"),
            encoded(Image.fromarray(noise(6, 24, 18, 1).astype(np.float32)), "TIFF", compression="packbits"),
            encoded(deep, "TIFF", **{"save_all": True, "append_images": [deep]}),
        ],
    }


SAMPLES = samples()
EVERY = [content for some in SAMPLES.values() for content in some]
EDGES = [0, 1, 0x7F, 0x80, 0xFF]
NUMBERS = [struct.pack(order + kind, value) for order in "<>" for kind, values in (("H", (0, 1, 0xFFFF, 0x8000)),
           ("I", (0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 65_536))) for value in values]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, kind: str) -> bytes:
    """A valid file of a format after some damage."""
    content = bytearray(draw(st.sampled_from(SAMPLES[kind])))
    for _ in range(draw(st.integers(1, 4))):
        # Headers decide most, and are most of what goes wrong.
        reach = draw(st.sampled_from([24, 128, len(content)]))
        at = draw(st.integers(0, max(0, min(reach, len(content)) - 1)))
        how = draw(st.sampled_from(["byte", "flip", "number", "cut", "insert", "drop", "repeat", "splice"]))
        if how == "byte":
            content[at : at + 1] = bytes([draw(st.sampled_from(EDGES) | st.integers(0, 255))])
        elif how == "flip":
            content[at : at + 1] = bytes([byte ^ (1 << draw(st.integers(0, 7))) for byte in content[at : at + 1]])
        elif how == "number":
            value = draw(st.sampled_from(NUMBERS))
            content[at : at + len(value)] = value
        elif how == "cut":
            del content[at + 1 :]
        elif how == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif how == "drop":
            del content[at : at + draw(st.integers(1, 16))]
        elif how == "repeat":
            length = draw(st.integers(1, 64))
            content[at:at] = content[at : at + length] * draw(st.integers(1, 8))
        else:
            other = draw(st.sampled_from(EVERY))
            content[at:] = other[draw(st.integers(0, len(other) - 1)) :]
    return mended(bytes(content)) if kind == "PNG" and draw(st.booleans()) else bytes(content)


def mended(content: bytes) -> bytes:
    """A PNG with checksums that are right, so that the damage is not found by them."""
    at, parts = 8, [content[:8]]
    while at + 12 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        body = content[at + 4 : at + 8 + length]
        parts += [content[at : at + 4], body, struct.pack(">I", zlib.crc32(body))]
        at += 12 + length
    return b"".join([*parts, content[at:]])


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", SAMPLES)
def test_the_samples_are_valid(decoder: Decoder, kind: str) -> None:
    for content in SAMPLES[kind]:
        assert decoder.check(content) == "pixels"


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", SAMPLES)
def test_a_damaged_picture_is_pixels_or_a_reason(decoder: Decoder, kind: str) -> None:
    @fuzzed
    @given(content=damaged(kind))
    def attempt(content: bytes) -> None:
        decoder.check(content)

    attempt()


@pytest.mark.slow
@pytest.mark.timeout(0)
@fuzzed
@given(prefix=st.sampled_from([content[:12] for content in EVERY]), rest=st.binary(max_size=400))
def test_any_bytes_are_pixels_or_a_reason(decoder: Decoder, prefix: bytes, rest: bytes) -> None:
    decoder.check(prefix + rest)


# Options

NUMBER = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["", " ", "nan", "inf", "-inf", "1e400", "-0", "0x1", "1_0", "\u0661", "1e-400", "9" * 5000, "--1"]
    ),
)
WORDS = st.text(max_size=30) | st.lists(
    st.sampled_from(["kl", "js", "frechet", "auto", "%", "=", ",", " ", "s", "m", "h", ".", "-", "e", "\0", "\x1b["])
    | NUMBER,
    max_size=8,
).map("".join)


def one_line(error: ImgsubsetError, text: str) -> None:
    """A usage error repeats what it is about and is no essay."""
    assert len(str(error)) < 600 + 4 * len(text)


@fuzzed
@given(text=WORDS)
def test_weights_are_finite_or_refused(text: str) -> None:
    try:
        weights = Weights.parse(text)
    except UsageError as error:
        one_line(error, text)
    else:
        assert all(0 <= value < float("inf") for value in astuple(weights))
        assert 0.999 < sum(weights.shares().values()) < 1.001


@fuzzed
@given(text=WORDS | NUMBER | NUMBER.map(lambda number: number + "%"), usable=st.integers(1, 10**9))
def test_sizes_are_possible_or_refused(text: str, usable: int) -> None:
    try:
        assert 1 <= resolve_n(text, usable) <= usable
    except ImgsubsetError as error:
        one_line(error, text)


@fuzzed
@given(text=WORDS | st.tuples(NUMBER, st.sampled_from(["", "s", "m", "h", "d"])).map("".join))
def test_times_are_numbers_that_options_check(text: str) -> None:
    try:
        options = Options(time_limit=parse_option("time_limit", text))
    except UsageError as error:
        one_line(error, text)
    else:
        assert options.time_limit is not None
        assert 0 < options.time_limit < float("inf")


@fuzzed
@given(text=WORDS | st.lists(NUMBER, max_size=5).map(",".join))
def test_channels_are_numbers_that_options_check(text: str) -> None:
    try:
        assert min(Options(channels=parse_option("channels", text)).channels) >= 1
    except UsageError as error:
        one_line(error, text)


PART = WORDS | st.tuples(st.text(max_size=8), st.just("="), NUMBER, st.sampled_from(["", "%"])).map("".join)


@fuzzed
@given(words=st.lists(PART, max_size=5).map(tuple), usable=st.integers(1, 10**6))
def test_parts_are_possible_or_refused(words: tuple[str, ...], usable: int) -> None:
    try:
        sizes = resolve_part_sizes(parse_parts(words), usable)
    except ImgsubsetError as error:
        one_line(error, "".join(words))
    else:
        assert min(sizes.values()) >= 1
        assert sum(sizes.values()) <= usable


@fuzzed
@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_list_of_paths(content: bytes) -> None:
    assert all(path and os.fsencode(path) in content for path in parse_paths(content))


# Job files

KEYS = [
    "source",
    "destination",
    "n",
    "weights",
    "seed",
    "channels",
    "time-limit",
    "time_limit",
    "include",
    "json",
    "keep",
]
SCALARS = (
    st.integers().map(str)
    | st.floats().map(lambda value: str(value).replace("1e+", "1e"))
    | st.booleans().map(lambda value: str(value).lower())
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=12).map(
        lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    )
    | st.sampled_from(
        ['"10%"', '"kl=1"', '"\\u0000"', '"\\u001b[31m"', "1979-05-27", "[]", "{}", '["a", "b"]', "{kl = 1}"]
    )
)
LINE = st.tuples(st.sampled_from(KEYS) | st.text("ab-_", min_size=1, max_size=4), SCALARS).map(" = ".join)
TABLE = st.sampled_from(
    ["", "[defaults]", "[jobs]", "[jobs.a]", "[jobs.b]", "[jobs.'\u00e9 x']", "[other]", "[[jobs]]"]
)
TOML = st.lists(st.tuples(TABLE, st.lists(LINE, max_size=4).map("\n".join)).map("\n".join), max_size=4).map("\n".join)
VALID = b"""[defaults]
n = "10%"
[jobs.cats]
source = "cats"
destination = "subsets/cats"
weights = "kl=1,frechet=2"
[jobs.dogs]
source = "dogs"
destination = "subsets/dogs"
channels = [8, 8]
"""


@st.composite
def damaged_jobs(draw: st.DrawFn) -> bytes:
    content = bytearray(VALID)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 6))] = draw(
            st.binary(max_size=4) | st.sampled_from([b"\n", b"=", b"[", b'"'])
        )
    return bytes(content)


@fuzzed
@given(content=TOML.map(str.encode) | damaged_jobs() | st.binary(max_size=100))
def test_a_job_file_is_jobs_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "jobs.toml"
    file.write_bytes(content)
    try:
        jobs = read_jobs(file)
    except (UsageError, InputError) as error:
        one_line(error, content.decode(errors="replace"))
    else:
        assert jobs
        assert all(isinstance(job.source, Path) for job in jobs.values())


def test_the_job_file_that_is_damaged_is_valid(tmp_path: Path) -> None:
    (tmp_path / "jobs.toml").write_bytes(VALID)
    assert list(read_jobs(tmp_path / "jobs.toml")) == ["cats", "dogs"]


@pytest.mark.slow
def test_a_decoder_that_ends_is_noticed(tmp_path: Path) -> None:
    """The harness itself: a process that is killed or out of memory fails the test."""
    one = Decoder(tmp_path)
    one.process.kill()
    with pytest.raises((AssertionError, BrokenPipeError)):
        one.check(b"x")
    with contextlib.suppress(BrokenPipeError):
        one.close()


# Files of labels and lists, patterns

IMAGES = ("a.png", "x/b.png", "x/images/c.png", "é/d.png")
PIECES = st.sampled_from([*IMAGES, *'path label path,label\n , " ../ ./ / \ufeff'.split(" "), "\n", "\r\n", "\0", " "])
CSV = st.lists(PIECES | st.text(max_size=4), max_size=30).map("".join)
FRAGMENT = st.sampled_from(
    "( ) [ ] {9999999999} {2} * + ? | \\ . ^ $ (? (?P<a> (a|a)* [[:alpha:]] [! **/ / ! # a b.png \\1 (?<= && --".split()
)
PATTERN = st.lists(FRAGMENT | st.text(max_size=3), max_size=12).map("".join)
ODD_NAMES = st.sampled_from([*IMAGES, "a/" * 3000 + "x.png", "\0", ""])
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | ODD_NAMES
VALUES = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner), max_leaves=5
)
IMAGE = st.fixed_dictionaries({"id": SCALAR | VALUES, "file_name": SCALAR | VALUES})
NOTE = st.fixed_dictionaries({"image_id": SCALAR | VALUES})
COCO = st.fixed_dictionaries({"images": st.lists(IMAGE | VALUES, max_size=5) | VALUES}, optional={
    "annotations": st.lists(NOTE | VALUES, max_size=5) | VALUES, "info": VALUES})  # fmt: skip


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "REGEX_TIMEOUT_SECONDS", 0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labels")
    for name in IMAGES:
        create(root / "source" / name)
    return root


@fuzzed
@given(content=CSV.map(lambda text: text.encode(errors="replace")) | st.binary(max_size=100))
def test_a_file_of_labels_is_labels_or_refused(folder: Path, content: bytes) -> None:
    file = create(folder / "labels.csv", content)
    listing = list_images(folder / "source")
    with contextlib.suppress(InputError):
        assert len(read_labels(listing, IMAGES[:1], file)) == 1


@fuzzed
@given(content=(COCO | VALUES).map(json.dumps).map(str.encode) | st.binary(max_size=100))
def test_a_coco_file_is_cut_or_refused(folder: Path, content: bytes) -> None:
    file = create(folder / "coco.json", content)
    try:
        kept = json.loads(filter_coco(file, IMAGES[:2], IMAGES)[0])
    except InputError as error:
        one_line(error, content.decode(errors="replace"))
    else:
        assert isinstance(kept["images"], list)


@pytest.mark.slow
@fuzzed
@given(content=CSV.map(lambda text: text.encode(errors="replace")) | st.binary(max_size=200))
def test_a_list_is_a_listing_or_refused(folder: Path, content: bytes) -> None:
    try:
        found = list_candidates(create(folder / "list.txt", content), Options())
    except InputError as error:
        one_line(error, str(folder))
    else:
        assert all(Path(found.locate(path)).is_file() for path in found.paths)
        assert list(found.paths) == sorted(set(found.paths), key=os.fsencode)


@pytest.mark.slow
@fuzzed
@given(pattern=PATTERN | st.text(max_size=20))
def test_a_pattern_matches_or_is_refused_in_time(folder: Path, pattern: str) -> None:
    listing = list_images(folder / "source")
    for attempt in (
        lambda: filter_candidates(listing, Options(exclude=(pattern,))),
        lambda: filter_candidates(listing, Options(include=(pattern,))),
        lambda: filter_candidates(listing, Options(sidecars=pattern)),
        lambda: parse_groups((*IMAGES, "a" * 200), pattern),
        lambda: parse_classes((*IMAGES, "a" * 200), pattern),
    ):
        try:
            attempt()
        except UsageError as error:
            one_line(error, 3 * pattern + "a" * 200)


@pytest.mark.slow
@fuzzed
@given(
    content=st.lists(st.sampled_from(["names:", "train: x", "path: ..", "- a", "  0: b", "# c", "---", "\0", "é"])).map(
        "\n".join
    )
)
def test_a_description_is_written_anew(folder: Path, content: str) -> None:
    create(folder / "source/data.yaml", content.encode())
    try:
        found = make_data_yaml(list_images(folder / "source"), {"train": ["x"]})
    except InputError as error:
        one_line(error, str(folder))
    else:
        assert found is None or (found[1].startswith(b"#") and "path" not in yaml.safe_load(found[1]))


# Embeddings

SHAPES = [
    "(8, 3)",
    "(8,)",
    "()",
    "(0, 3)",
    "(8, 10**30)",
    "(8, -3)",
    "(-1, 3)",
    "(99999999999999999999, 0)",
    "(8, 3.0)",
]
SHAPES += ["(8, 99999999999999)", "[8, 3]", "'x'", "(8, None)", "((8,), 3)", "(True, 3)"]
TYPES = [
    "'<f4'",
    "'>f8'",
    "'|O'",
    "'<c16'",
    "'<U3'",
    "'|V4'",
    "'|b1'",
    "[('a', '<f4')]",
    "'f99'",
    "''",
    "None",
    "'|S0'",
]
WORDS = ["[" * 5000, "(" * 200, "{", "", "\0", "'" * 3, "-" * 50_000 + "1", "\\\n" * 50, "{[]: 1}", "{1: 2, **3}"]
HEADERS = st.one_of(
    st.builds(
        "{{'descr': {}, 'fortran_order': {}, 'shape': {}, }}".format,
        st.sampled_from(TYPES),
        st.sampled_from(["True", "False", "0"]),
        st.sampled_from(SHAPES),
    ),
    st.sampled_from(WORDS),
    st.text(max_size=60),
)


@pytest.mark.slow
@fuzzed
@given(
    header=HEADERS, version=st.sampled_from([1, 1, 2, 3, 9]), off=st.sampled_from([0, 0, 0, 1, -1, 5000]),
    rest=st.one_of(st.just(np.ones((8, 3), np.float32).tobytes()), st.binary(max_size=200)),
)  # fmt: skip
def test_an_array_file_is_embeddings_or_refused(
    pictures: Path, tmp_path: Path, header: str, version: int, off: int, rest: bytes
) -> None:
    text = header.encode("latin-1", "replace")
    length = max(0, len(text) + off).to_bytes(2 if version == 1 else 4, "little")
    file = tmp_path / "features.npy"
    file.write_bytes(b"\x93NUMPY" + bytes([version, 0]) + length + text + rest)
    source = list_images(pictures)
    with contextlib.suppress(ImgsubsetError):
        found = read_embeddings(Embeddings(file, source.paths[:8]), source, torch.device("cpu"))
        assert found.images.table.isfinite().all()


# Caches

RECIPE_FILES = st.sampled_from([b"", b"null", b"[1]", b"{}", b"\xff", b"[" * 100_000, b"1" * 5000, b'{"a": NaN}'])
RECORDS = [("file", "<u8", 4), ("positions", "<i4"), ("row", "<f4", (6,))]
ARRAYS = [RECORDS, RECORDS[:2], [*RECORDS[:2], ("row", "<f8", (6,))], [*RECORDS[:2], ("row", "<f4", (0,))], "<f4"]


def _saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


SEGMENTS = st.one_of(
    RECIPE_FILES,
    st.binary(max_size=80).map(lambda rest: b"\x93NUMPY\x01\x00" + rest),
    st.builds(lambda kind, count: _saved(np.zeros(count, kind)), st.sampled_from(ARRAYS), st.sampled_from([0, 1, 4])),
)


@pytest.mark.slow
@fuzzed
@given(
    recipe=RECIPE_FILES, segments=st.lists(st.tuples(SEGMENTS, st.booleans(), st.integers(0, 10**20 - 1)), max_size=4)
)
def test_a_cache_is_read_or_as_if_it_were_not_there(
    tmp_path: Path, recipe: bytes, segments: list[tuple[bytes, bool, int]]
) -> None:
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    names, stamps, rows = [b"a", b"b"], [Stamp(9, 10**18)] * 2, np.ones((2, 6), np.float32)
    Cache(tmp_path / "cache", {}).put(names, stamps, rows, 3)
    (home,) = (tmp_path / "cache").iterdir()
    for content, under_its_digest, time_ns in segments:
        digest = cache._digest(content, home) if under_its_digest else "0" * 32
        create(home / f"{time_ns:020}-4-{digest}.npy", content)
    create(home / "recipe.json", recipe)
    create(tmp_path / "cache" / f"moments-{cache._digest(recipe)}" / "recipe.json", recipe)
    kept = list_entries(tmp_path / "cache")
    assert home in [one.path for one in kept]
    assert cache_summary(tmp_path, kept)
    assert describe_cache(tmp_path, kept)
    found = Cache(tmp_path / "cache", {}).get(CacheQuery(names, stamps))
    assert found.found.shape == (2,)
    assert len(found.rows) == 2 or not found.found.any()
    again = Cache(tmp_path / "cache", {})
    again.put(names, stamps, rows, 3)
    assert again.problem is None
    delete_entries(tmp_path / "cache")
    assert list_entries(tmp_path / "cache") == []


# Options of Python

ODD = [None, True, 0, -1, 3, 10**12, 10**30, 1e300, 1e-300, math.nan, math.inf, 0.5, "", "auto", "x", "\0", "\udcff"]
ODD += [(), (1,), (1, 2, 3), ("x",), [[]], {}, {"a": 1}, b"x", object(), np.float32(1), np.int64(2), np.ones(2), 1j]


@pytest.mark.slow
@fuzzed
@given(words=st.dictionaries(st.sampled_from(sorted(FIELDS)), st.sampled_from(range(len(ODD))), min_size=1, max_size=3))
def test_options_of_any_type_are_options_or_refused(words: dict[str, int]) -> None:
    with contextlib.suppress(ImgsubsetError):
        options = Options(**{name: ODD[place] for name, place in words.items()})
        assert json.dumps(options.affecting(), default=astuple)


@pytest.mark.parametrize("value", [0.0, 1.0, -1e14])
def test_embeddings_that_are_all_alike_choose_any_images(pictures: Path, value: float) -> None:
    paths = list_images(pictures).paths
    options = Options(candidates=8, chains=1, steps=2, device="cpu", workers=0)
    selection = select(pictures, 9, options, embeddings=Embeddings(np.full((len(paths), 4), value), paths))
    assert len(selection.chosen) == 9
    assert any("every subset is as close as any other" in warning for warning in selection.warnings)
