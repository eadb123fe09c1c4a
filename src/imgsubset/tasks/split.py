"""Several disjoint subsets of a source, each matching the whole: training, validation and test sets.

The parts are found one after another in what is left. Of 10,000 CIFAR images two parts of 1,000 came out at losses of
0.021 and 0.022, and a lone selection of 1,000 at 0.022: exchanging members between parts would have nothing to gain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction

from imgsubset.errors import InputError, UsageError
from imgsubset.features.source import AnySource, Clock, or_on_cpu, read_source
from imgsubset.options import Embeddings, Options
from imgsubset.progress import Progress, silent
from imgsubset.tasks.quotas import largest_remainder
from imgsubset.tasks.select import Search, Selection

ANY = 10**30  # images: more than any source has, to check sizes before one is read


def part_sizes(parts: Mapping[str, int | str], usable: int) -> dict[str, int]:
    """How many of the usable images each part has: numbers as they are, percentages rounded by largest remainder.

    So parts of 100 % in all are all images. Raises UsageError for what makes no sense, InputError for too many.
    """
    if not parts:
        raise UsageError("a split needs parts, as in train=80% test=20%")
    exact: dict[str, Fraction] = {}
    percent = Fraction(0)
    for name, asked in parts.items():
        text = str(asked).strip()
        try:
            value = Fraction(text[:-1]) / 100 * usable if text.endswith("%") else Fraction(int(text))
        except ValueError:
            value = Fraction(0)
        if value <= 0 or value >= ANY * 2:
            raise UsageError(f"part '{name}={asked}' is neither a whole number of at least 1 nor a percentage above 0%")
        if not name or name.startswith(".") or any(c in name for c in "/\\\0"):
            raise UsageError(f"part '{name}' is no possible name of a folder")
        percent += Fraction(text[:-1]) if text.endswith("%") else 0
        exact[name] = value
    if percent > 100:
        raise UsageError(f"the parts take {float(percent):g} % of the source")
    total = math.floor(sum(exact.values()) + Fraction(1, 2))
    if total > usable:
        raise InputError(f"the parts take {total:,} images, but the source has only {usable:,} usable ones")
    sizes = dict(zip(exact, largest_remainder(list(exact.values()), total), strict=True))
    if empty := [name for name, size in sizes.items() if not size]:
        raise InputError(f"part '{empty[0]}={parts[empty[0]]}' of {usable:,} images is none")
    return sizes


def asked_for(name: str, parts: Mapping[str, int | str]) -> str:
    """What a part's manifest says was asked for."""
    return f"{name} of {' '.join(f'{part}={size}' for part, size in parts.items())}"


@or_on_cpu
def split(
    source: AnySource,
    parts: Mapping[str, int | str],
    options: Options = Options(),  # noqa: B008 (frozen)
    *,
    embeddings: Embeddings | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
) -> dict[str, Selection]:
    """Split a source into disjoint subsets, each as close to the whole as `select` makes one.

    parts  sizes by name, numbers or percentages; 100 % in all cover the source. With groups they are met as closely
           as whole groups allow

    The smallest part is searched first, each of the others in what is left, and where the parts cover all that may be
    chosen, the largest gets the rest. Options are as in `select`: with stratify every part keeps the classes' shares.

    Raises UsageError, InputError or, with options.strict, BadFilesError.
    """
    if options.has_target or options.keep or options.resume:
        raise UsageError("a split takes neither a target loss or size, nor images to keep, nor a file to resume from")
    part_sizes(parts, ANY)
    clock = Clock()
    read = read_source(source, options, embeddings=embeddings, clock=clock, progress=progress).standardised()
    with clock.stage("constraints"):
        from imgsubset.tasks.constraints import constraints

        allowed = constraints(read, options)
    _, most = allowed.bounds()
    if not most:
        raise InputError("no image of the source may be chosen: all of them are dropped")
    sizes = part_sizes(parts, most)
    covering = sum(sizes.values()) == most
    taken: set[int] = set()
    found: dict[str, Selection] = {}
    for place, name in enumerate(sorted(sizes, key=lambda name: sizes[name])):
        rest = allowed.rest(taken)
        if not len(rest):  # groups came larger than asked for
            raise InputError(f"no whole group is left for part '{name}={parts[name]}'")
        search = Search(read.images, allowed, options, clock, stop, _named(name, progress))
        if covering and place == len(sizes) - 1:
            result = search.given(rest)
        else:
            result = search.of_size(min(sizes[name], len(rest)), taken=taken)
        found[name] = search.selection(read, result, asked_for(name, parts), sizes[name], embeddings)
        taken.update(found[name].indices)
    return {name: found[name] for name in parts}


def _named(part: str, progress: Progress) -> Progress:
    def told(stage: str, done: int, total: int, note: str = "") -> None:
        progress(f"{part}: {stage}", done, total, note)

    return told
