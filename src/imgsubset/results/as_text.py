"""Results as text that is readable at a glance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgsubset.errors import shortened
from imgsubset.reading.listing import RejectedFile
from imgsubset.results.records import Comparison, Export, Placed, Result, Scored, Selection, Verification
from imgsubset.results.scores import Score

if TYPE_CHECKING:
    from imgsubset.features.cache import Kept

SHOWN = 10  # names, unless all are asked for
PLACED = {"copy": "copied to", "symlink": "linked from", "hardlink": "linked from"}


def placed_summary(placed: Placed, verbose: bool = False) -> str:
    """The summary of a selection that was to be written."""
    if placed.selection is not None:
        return summary(placed.selection, placed.export, verbose)
    from importlib.metadata import version  # 10 ms, which `--help` need not wait for

    where, n = printable(str(placed.destination)), len(placed.chosen)
    text = f"{where} already holds these {n:,} images, with loss {placed.loss:.3f}; nothing to do"
    if placed.version != version("imgsubset"):
        text += f" (written by imgsubset {printable(placed.version)}; --overwrite makes it anew)"
    return text


def summary(selection: Selection, exported: Export | None, verbose: bool = False) -> str:
    """The summary of a selection and of its export, if there was one."""
    n, total = len(selection.rows), len(selection.paths)
    where = f"{PLACED[exported.mode]} {printable(str(exported.destination))}" if exported else "nothing copied"
    seconds = selection.seconds | ({exported.mode: exported.seconds} if exported else {})
    lines = [f"{n:,} of {total:,} images of {printable(selection.source.name)}, {where}", ""]
    lines += [*_score(selection.score, n), *_notes(selection)]
    if exported and exported.labels:
        lacking = f"; {exported.unlabelled:,} images have none of their own" if exported.unlabelled else ""
        lines += [f"Labels: {exported.labels:,} file{'s' * (exported.labels > 1)} went along{lacking}."]
    if selection.copies:
        lines += [f"Note: {selection.copies:,} images of the source are exact copies of others."]
    lines += _shares(selection, verbose)
    from_cache = f" ({selection.cached:,} from the cache)" if selection.cached else ""
    lines += ["", f"{_times(seconds)}{from_cache}", *_files("skipped", selection.rejected, verbose)]
    lines += _files("passed over", selection.source.passed_over, verbose)
    return "\n".join([*lines, *(_names("hidden", selection.source.hidden, verbose) if verbose else ())])


def _shares(selection: Selection, verbose: bool) -> list[str]:
    """The classes, the largest first, with their shares of the source and of the subset."""
    if not selection.classes:
        return []
    n, total = len(selection.rows), len(selection.paths)
    rows = (
        f"{printable(name):<24}{everywhere:>9,}{everywhere / total:>9.1%}{here:>9,}{here / n:>9.1%}"
        for name, (everywhere, here) in sorted(selection.classes.items(), key=lambda item: -item[1][0])
    )
    heading = f"{'class':<24}{'source':>9}{'share':>9}{'subset':>9}{'share':>9}"
    more = "... and {:,} more classes; -v shows all"
    return ["", heading, *_first(rows, len(selection.classes), more, verbose, 2 * SHOWN)]


def scored_summary(scored: Scored, verbose: bool = False) -> str:
    """The summary of a subset that was scored."""
    n = len(scored.paths)
    lines = [
        f"{n:,} of {scored.total:,} images of {printable(scored.source.name)}: {printable(scored.subset)}",
        "",
        *_score(scored.score, n),
        f"Of 100 random subsets of this size, {scored.score.percentile:.3g} are closer.",
        *_notes(scored),
        "",
        _times(scored.seconds),
        *_files("not in the source, left out", scored.foreign, verbose),
        *_files("skipped", scored.rejected, verbose),
    ]
    return "\n".join(lines)


def _score(score: Score, n: int) -> list[str]:
    """Each divergence with its random mean and their ratio, the calibrated loss, and what it means for n images."""
    ratios, means = score.ratios(), score.random_mean
    return [
        f"{'':<12}{'subset':>12}{'random':>12}{'ratio':>9}",
        *(
            f"{name:<12}{value:>12.3g}{means[name]:>12.3g}{ratios[name]:>9.3f}"
            for name, value in score.divergences.items()
        ),
        f"{'loss':<12}{'':>12}{'':>12}{score.loss:>9.3f}   (1 = an average random subset)",
        "",
        verdict(score, n),
    ]


def verdict(score: Score, n: int) -> str:
    """What a score means, in a sentence or two."""
    these = f"These {n:,} images represent" if n > 1 else "This image represents"
    if score.effective_size is None or score.effective_range is None:
        names = " and ".join(one.name for one in score.searched)
        return (
            f"{these} the folder, in the {names} that they were matched in, like {score.searched_size:,.0f} random "
            "ones. No network that the search did not see has measured it; --held-out does."
        )
    low, high = score.effective_range
    return (
        f"{these} the look of the folder like about {score.effective_size:,.0f} random ones\n"
        f"({low:,.0f} to {high:,.0f} in {len(score.held_out)} networks that the search did not see)."
    )


def comparison_summary(comparison: Comparison, verbose: bool = False) -> str:
    """The summary of a comparison."""
    names = [printable(listing.name) for listing in (comparison.first, comparison.second)]
    outside = [name for name, one in comparison.divergences.items() if one.differs]
    lines = [
        f"{comparison.sizes[1]:,} images of {names[1]} against {comparison.sizes[0]:,} of {names[0]}",
        "",
        f"{'':<12}{'value':>12}{'floor':>12}{'floor 99%':>12}{'ratio':>9}{'p':>8}",
        *(
            f"{name:<12}{one.value:>12.3g}{one.floor_mean:>12.3g}{one.floor_limit:>12.3g}"
            f"{one.ratio:>9.2f}{one.p_value:>8.3f}"
            for name, one in {**comparison.divergences, "loss": comparison.loss}.items()
        ),
        "",
        "floor: what two random samples of these sizes from one distribution show; 99 of 100 are below floor 99%.",
        f"The two differ by more than chance in {', '.join(outside)}."
        if outside
        else "Nothing here tells the two from samples of one distribution.",
        *_notes(comparison),
        "",
        _times(comparison.seconds),
    ]
    for name, rejected in zip(names, comparison.rejected, strict=True):
        lines += _files(f"of {name} skipped", rejected, verbose)
    return "\n".join(lines)


def verification_summary(found: Verification, verbose: bool = False) -> str:
    """The summary of a verification."""
    if found.good:
        return f"{printable(str(found.folder))}: all {found.checked:,} files are what the manifest says"
    lines = _names("missing", found.missing, verbose) + _names("extra", found.extra, verbose)
    return "\n".join([*lines, *_files("changed", found.changed, verbose)])


def cache_summary(folder: Path, kept: Sequence[Kept]) -> str:
    """What a cache folder holds: a line for each recipe."""
    lines = [f"{printable(str(folder))}: {sum(one.bytes for one in kept):,} bytes"]
    if kept:
        lines.append(f"  {'last used':<18}{'images':>11}{'MB':>10}  {'folder':<18}what was measured")
    for one in kept:
        used = datetime.fromtimestamp(one.used).astimezone()
        lines.append(
            f"  {used:%Y-%m-%d %H:%M}  {one.images:>11,}{one.bytes / 1e6:>10,.1f}  {printable(one.path.name)[:16]:<18}"
            + (_recipe(one.recipe) if one.recipe else "not readable")
        )
    return "\n".join(lines)


def _recipe(recipe: Mapping[str, object]) -> str:
    """What tells most recipes apart."""
    known = [recipe[name] for name in ("extractor", "network", "role", "channels", "size", "device") if name in recipe]
    words = [",".join(map(str, one)) if isinstance(one, list) else str(one) for one in known]
    return printable(" ".join(words))


def batch_summary(records: Sequence[Mapping[str, Any]]) -> str:
    """One line a job, of their records: its name, what became of it, n and loss; then the errors."""
    width = max(8, *(len(printable(job["name"])) for job in records)) + 2
    lines = [f"{'job':<{width}}{'status':<10}{'n':>9}{'loss':>9}"]
    for job in records:
        found = job["result"]
        figures = f"{found['n']:>9,}{found['score']['loss']:>9.3f}" if found else ""
        lines.append(f"{printable(job['name']):<{width}}{job['status']:<10}{figures}".rstrip())
    return "\n".join(
        lines + [f"{printable(job['name'])}: {printable(job['error'])}" for job in records if job["error"]]
    )


def _notes(result: Result) -> list[str]:
    return [f"Note: {warning}." for warning in result.warnings]


def _times(seconds: Mapping[str, float]) -> str:
    return "time: " + ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())


def _names(what: str, paths: Sequence[str], verbose: bool) -> list[str]:
    lines = (f"{what}: {printable(path)}" for path in paths)
    return _first(lines, len(paths), f"... and {{:,}} more {what}; -v shows all", verbose)


def _files(what: str, files: Sequence[RejectedFile], verbose: bool) -> list[str]:
    """Files with reasons, under a heading."""
    if not files:
        return []
    lines = (f"  {printable(shortened(file.path, 300))}: {printable(file.reason)}" for file in files)
    heading = f"{what} {len(files):,} file{'s' if len(files) > 1 else ''}:"
    return [heading, *_first(lines, len(files), "  ... and {:,} more; -v shows all of them", verbose)]


def _first(lines: Iterable[str], count: int, more: str, verbose: bool, most: int = SHOWN) -> list[str]:
    """The first of `count` lines, all of them if verbose, and how many more there are."""
    shown = count if verbose else min(count, most)
    return [*islice(lines, shown), *([more.format(count - shown)] if shown < count else [])]


def printable(text: str) -> str:
    """Text without control characters or bytes that are no UTF-8: a terminal acts on them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
