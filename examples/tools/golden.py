"""Does the working tree still select the same images as an earlier commit?

    python examples/tools/golden.py BASE [--only NAME ...]

Runs the commands below on small generated sources, once with the package as of commit BASE and once with that of the
working tree, and compares the files that each selects, and their order where a command writes one. Both run on this
machine with this interpreter, so nothing is recorded: another processor rounds differently and may select others.

Exits with 1 if a command fails or a list differs.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

ROOT = Path(__file__).resolve().parents[2]
ORDERS = ("ranked.txt", "ordered.txt")


@dataclass(frozen=True)
class Case:
    """A command without the program's name; `before` is how BASE spells it, where that differs."""

    command: str
    before: str = ""


# Commands run in this order, with one cache: the first `select` of a source is cold, later ones are warm.
CASES = {
    "cold": Case("select photos OUT -n 24"),
    "warm": Case("select photos OUT -n 24"),
    "uncached": Case("select photos OUT -n 24 --no-cache"),
    "one-thread": Case("select photos OUT -n 24 --workers 1"),
    "two-threads": Case("select photos OUT -n 10% --workers 2 --seed 3"),
    "ordered": Case("select photos OUT -n 12 --ranked"),
    "auto": Case("select photos OUT -n auto --target-loss 0.2"),
    "classes": Case("select photos OUT -n 30 --stratify"),
    "balanced": Case("select photos OUT -n 30 --stratify --stratify-as equal --seed 1"),
    "groups": Case("select photos OUT -n 24 --group-by 'g([0-9]+)'"),
    "required": Case("select photos OUT -n 24 --keep keep.txt --drop drop.txt"),
    "dedupe": Case("select copies OUT -n 20 --dedupe"),
    "table": Case("select photos OUT -n 24 --match table.csv --match image=0.5"),
    "difficulty": Case("select photos OUT -n 24 --stratify --match hardness"),
    "features": Case("select photos OUT -n 24 --features random-cnn=1,colour=1,hog=0.5"),
    "embeddings": Case("select photos OUT -n 24 --embeddings embeddings.npy --paths paths.txt"),
    "archive": Case("select photos.zip OUT.tar -n 24"),
    "shards": Case("select 'shard-{0..1}.tar' OUT -n 16"),
    "candidates": Case("select photos OUT -n 24 --preset image-randomer"),
    "rising": Case("select photos OUT -n 24 --preset image-randomiser"),
    "fast": Case("select photos OUT -n 24 --preset fast"),
    "thorough": Case("select photos OUT -n 24 --preset thorough"),
    "split": Case("split photos OUT train=70% val=20% test=10% --stratify"),
    "split-groups": Case("split photos OUT train=50% test=50% --group-by 'g([0-9]+)'"),
}


def draw_photo(rng: np.random.Generator, kind: int) -> Image.Image:
    """A small picture whose colours and texture depend on its kind."""
    base = rng.normal(90 + 40 * kind, 30, (6, 6, 3)).clip(0, 255).astype(np.uint8)
    photo = Image.fromarray(base).resize((48 + 8 * kind, 48), Image.Resampling.BICUBIC)
    pixels = np.asarray(photo, float) + rng.normal(0, rng.gamma(2, 6), (photo.height, photo.width, 1))
    photo = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return photo.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.5))) if kind == 1 else photo


def write_sources(folder: Path) -> None:
    """Write the sources, tables and lists that the commands name."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(240):
        kind = (number % 7 > 3) + (number % 5 == 0)
        paths.append(f"class{kind}/g{number // 3:02d}-{number:03d}.jpg")
        file = folder / "photos" / paths[-1]
        file.parent.mkdir(parents=True, exist_ok=True)
        draw_photo(rng, kind).save(file, quality=int(rng.integers(60, 95)))
    for number, path in enumerate(paths[:60]):
        for copy in range(1 + (number % 4 == 0)):
            file = folder / "copies" / f"{number:02d}-{copy}.jpg"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes((folder / "photos" / path).read_bytes())
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for path in paths:
            archive.write(folder / "photos" / path, path)
    for part in range(2):
        with tarfile.open(folder / f"shard-{part}.tar", "w") as shard:
            for number, path in enumerate(paths[part::2]):
                shard.add(folder / "photos" / path, f"{part}{number:03d}.jpg")
                label = tarfile.TarInfo(f"{part}{number:03d}.cls")
                label.size = 1
                shard.addfile(label, io.BytesIO(path[5].encode()))
    np.save(folder / "embeddings.npy", rng.normal(size=(240, 40)).astype(np.float32) * rng.gamma(2, 1, 40))
    (folder / "paths.txt").write_text("".join(f"{path}\n" for path in paths))
    (folder / "keep.txt").write_text("".join(f"{path}\n" for path in paths[5:200:60]))
    (folder / "drop.txt").write_text("".join(f"{path}\n" for path in paths[::9]))
    with (folder / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "age", "site"])
        table.writerows([path, round(rng.normal(50, 12), 1), "ABC"[int(rng.integers(3))]] for path in paths)


def selected(destination: Path) -> list[str]:
    """The images in a destination, then the lines of the order, if it has one."""
    if destination.suffix == ".tar":
        with tarfile.open(destination) as archive:
            return sorted(name for name in archive.getnames() if name.endswith(".jpg"))
    orders = [line for name in ORDERS for file in destination.glob(name) for line in file.read_text().splitlines()]
    return sorted(str(file.relative_to(destination)) for file in destination.rglob("*.jpg")) + orders


def run_cases(source: Path, sources: Path, folder: Path, commands: dict[str, str]) -> dict[str, list[str] | str]:
    """What each command selects with the package in `source`; its message where it fails."""
    found: dict[str, list[str] | str] = {}
    environment = {**os.environ, "PYTHONPATH": str(source), "XDG_CACHE_HOME": str(folder / "cache")}
    for name, command in commands.items():
        words = shlex.split(command)
        words[2] = str(folder / words[2].replace("OUT", name))
        done = subprocess.run(
            [sys.executable, "-m", "imgsubset", *words], cwd=sources, env=environment, capture_output=True, text=True
        )
        found[name] = done.stderr.strip() if done.returncode else selected(Path(words[2]))
    return found


def compare(before: list[str] | str, now: list[str] | str) -> str:
    """What differs between two results; empty if nothing does."""
    if isinstance(before, str) or isinstance(now, str):
        return "; ".join(f"{side} fails: {one}" for side, one in (("BASE", before), ("now", now)) if type(one) is str)
    if before == now:
        return ""
    lost, new = sorted({*before} - {*now}), sorted({*now} - {*before})
    if not (lost or new):
        return "the order differs"
    return f"{len(lost)} no longer selected, {len(new)} new, such as {(lost or new)[0]}"


def main() -> None:
    """Run all cases with both packages and print a line per case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", metavar="BASE", help="commit to compare with")
    parser.add_argument("--only", metavar="NAME", nargs="+", choices=CASES, default=[*CASES], help="these cases alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        archive = subprocess.run(["git", "-C", ROOT, "archive", arguments.base, "src"], check=True, capture_output=True)
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as package:
            package.extractall(work / "base", filter="data")
        write_sources(work)
        cases = {name: CASES[name] for name in arguments.only}
        sides = (
            (work / "base/src", work / "before", {name: case.before or case.command for name, case in cases.items()}),
            (ROOT / "src", work / "now", {name: case.command for name, case in cases.items()}),
        )
        for _, folder, _ in sides:
            folder.mkdir()
        with ThreadPoolExecutor() as pool:
            before, now = pool.map(lambda side: run_cases(side[0], work, *side[1:]), sides)
    differences = {name: compare(before[name], now[name]) for name in cases}
    for name, difference in differences.items():
        print(f"{name:<14}{difference or f'same ({len(now[name])})'}")
    sys.exit(any(differences.values()))


if __name__ == "__main__":
    main()
