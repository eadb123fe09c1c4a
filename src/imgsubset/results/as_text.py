"""Results as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgsubset.errors import shorten
from imgsubset.results.comparison import Comparison, Distance, Overlap
from imgsubset.results.records import (
    Difference,
    Embedded,
    Estimate,
    Estimated,
    Export,
    Placed,
    Scored,
    Selection,
    Verification,
)
from imgsubset.results.text import (
    MAX_LINES,
    comparison_verdict,
    fid_lines,
    format_notes,
    format_paths,
    format_rejected_files,
    format_table,
    format_times,
    label_kids,
    limit_lines,
    metadata_lines,
    printable,
    score_lines,
)

if TYPE_CHECKING:
    from imgsubset.features.cache import CacheEntry

MORE_CLASSES = "... and {:,} more classes; -v shows all"
MIN_P_VALUE = 0.001  # no probability below this is told from it, see `Distance`
MODE_PHRASES = {"copy": "copied to", "symlink": "linked from", "hardlink": "linked from"}


def export_summary(placed: Placed, verbose: bool = False) -> str:
    """The summary of a selection that was to be written."""
    if placed.selection is not None:
        return selection_summary(placed.selection, placed.export, verbose)
    from importlib.metadata import version  # 10 ms, which `--help` need not wait for

    where, n = printable(str(placed.destination)), len(placed.chosen)
    these = f"these {n:,} images" if n > 1 else "this image"
    text = f"{where} already holds {these}, with loss {placed.loss:.3f}; nothing to do"
    if placed.version != version("imgsubset"):
        text += f" (written by imgsubset {printable(placed.version)}; --overwrite makes it anew)"
    return text


def selection_summary(selection: Selection, exported: Export | None, verbose: bool = False) -> str:
    """The summary of a selection and of its export, if there was one."""
    n, total = len(selection.rows), len(selection.paths)
    where = f"{MODE_PHRASES[exported.mode]} {printable(str(exported.destination))}" if exported else "nothing copied"
    seconds = selection.seconds | ({exported.mode: exported.seconds} if exported else {})
    lines = [
        f"{n:,} of {total:,} images of {printable(selection.source.name)}, {where}",
        *_interrupted_lines(selection),
        "",
    ]
    lines += [*score_lines(selection.score, n, verbose), *metadata_lines(selection.score, verbose)]
    lines += [*format_notes((*selection.warnings, *(exported.warnings if exported else ())))]
    lines += _labels([exported] if exported else [])
    lines += [
        *_duplicate_lines(selection),
        *_class_lines(selection, verbose),
        *_time_and_skipped_lines(selection, seconds, verbose),
    ]
    return "\n".join(lines)


def split_summary(placed: Mapping[str, Placed], verbose: bool = False) -> str:
    """The summary of a split: a line a part, and once what is to be said of all of them."""
    parts = {name: part.selection for name, part in placed.items() if part.selection is not None}
    exports = [part.export for part in placed.values() if part.export]
    first = next(iter(placed.values()))
    if len(parts) < len(placed):
        return f"{_split_destination(first)} already holds this split; nothing to do"
    some = next(iter(parts.values()))
    n, total = sum(len(part.indices) for part in parts.values()), len(some.paths)
    where = f"{MODE_PHRASES[exports[0].mode]} {_split_destination(first)}" if exports else "nothing copied"
    lines = [f"{n:,} of {total:,} images of {printable(some.source.name)} in {len(parts)} parts, {where}"]
    lines += [*_interrupted_lines(*parts.values()), "", *_parts_table(placed, parts), ""]
    lines += ["loss: 1 is an average random part of this size."]
    if any(part.score.effective_size is not None for part in parts.values()):
        lines += ["size: so many random images are as close, in networks the search did not see."]
    shared = [note for note in some.warnings if all(note in part.warnings for part in parts.values())]
    own = [f"{printable(name)}: {note}" for name, part in parts.items() for note in part.warnings if note not in shared]
    exported = dict.fromkeys(note for one in exports for note in one.warnings)
    lines += [
        *format_notes([*shared, *own, *exported]),
        *_labels(exports),
        *_duplicate_lines(some),
        *_classes_table(parts, verbose),
    ]
    seconds: dict[str, float] = {}
    for part in parts.values():  # each tells the time until it was found
        seconds |= part.seconds
    if exports:
        seconds |= {exports[0].mode: sum(one.seconds for one in exports)}
    return "\n".join([*lines, *_time_and_skipped_lines(some, seconds, verbose)])


def _labels(exports: Sequence[Export]) -> list[str]:
    """What labels went along with the images, if any did."""
    count, lacking = sum(one.labels for one in exports), sum(one.unlabelled for one in exports)
    shared = sorted({printable(path) for one in exports for path in one.shared})
    more = [f"{len(shared) - 2:,} more"] if len(shared) > 3 else []
    parts = [f"{count:,} label file{'s' * (count > 1)}"] * (count > 0) + shared[: 2 if more else 3] + more
    if not parts:
        return []
    listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)
    without = f"; {lacking:,} image{'s have' if lacking > 1 else ' has'} no label" if lacking else ""
    return [f"Labels: {listed} went along{without}."]


def _split_destination(part: Placed) -> str:
    """Where the parts of a split are."""
    return printable(str(part.destination.parent if part.destination else ""))


def _parts_table(placed: Mapping[str, Placed], parts: Mapping[str, Selection]) -> list[str]:
    """What the parts are, a row each."""
    columns = {"part": [printable(name) for name in parts]}
    columns["images"] = [f"{len(part.indices):,}" for part in parts.values()]
    columns["share"] = [f"{len(part.indices) / len(part.paths):.1%}" for part in parts.values()]
    if any(part.classes for part in parts.values()):
        columns["classes"] = [str(sum(here > 0 for _, here in part.classes.values())) for part in parts.values()]
    if any(part.export and part.export.labels for part in placed.values()):
        columns["labels"] = [f"{part.export.labels:,}" if part.export else "-" for part in placed.values()]
        columns["without"] = [f"{part.export.unlabelled:,}" if part.export else "-" for part in placed.values()]
    columns["loss"] = [f"{part.score.loss:.3f}" for part in parts.values()]
    sizes = [part.score.effective_size for part in parts.values()]
    if any(size is not None for size in sizes):
        columns["size"] = ["-" if size is None else f"{size:,.0f}" for size in sizes]
    return format_table(columns)


def _classes_table(parts: Mapping[str, Selection], verbose: bool) -> list[str]:
    """How many images of each class there are and each part has, the largest class first."""
    some = next(iter(parts.values()))
    names = sorted(some.classes, key=lambda name: -some.classes[name][0])
    if not names:
        return []
    columns = {"class": [printable(name) for name in names]}
    columns["source"] = [f"{some.classes[name][0]:,}" for name in names]
    columns |= {printable(part): [f"{of.classes[name][1]:,}" for name in names] for part, of in parts.items()}
    heading, *rows = format_table(columns)
    return ["", heading, *limit_lines(rows, len(rows), MORE_CLASSES, verbose, 2 * MAX_LINES)]


def _interrupted_lines(*selections: Selection) -> list[str]:
    if not any(one.interrupted for one in selections):
        return []
    return ["Interrupted: this is the best that was found by then. The same command again does the whole search."]


def _duplicate_lines(selection: Selection) -> list[str]:
    count = selection.copies
    copies = "images of the source are exact copies of others"
    if count == 1:
        copies = "image of the source is an exact copy of another"
    return [f"Note: {count:,} {copies}."] if count else []


def _time_and_skipped_lines(selection: Selection, seconds: Mapping[str, float], verbose: bool) -> list[str]:
    """How long it took, and what was left out."""
    from_cache = f"; {selection.cached:,} images from the cache" if selection.cached else ""
    lines = [
        "",
        f"{format_times(seconds, verbose)}{from_cache}",
        *format_rejected_files("skipped", selection.rejected, verbose),
    ]
    lines += format_rejected_files("passed over", selection.source.ignored_files, verbose)
    return [*lines, *(format_paths("hidden", selection.source.hidden, verbose) if verbose else ())]


def _class_lines(selection: Selection, verbose: bool) -> list[str]:
    """The classes, the largest first, with their shares of the source and of the subset."""
    if not selection.classes:
        return []
    n, total = len(selection.rows), len(selection.paths)
    rows = (
        f"{printable(name):<24}{everywhere:>9,}{everywhere / total:>9.1%}{here:>9,}{here / n:>9.1%}"
        for name, (everywhere, here) in sorted(selection.classes.items(), key=lambda item: -item[1][0])
    )
    heading = f"{'class':<24}{'source':>9}{'share':>9}{'subset':>9}{'share':>9}"
    return ["", heading, *limit_lines(rows, len(selection.classes), MORE_CLASSES, verbose, 2 * MAX_LINES)]


def score_summary(scored: Scored, verbose: bool = False) -> str:
    """The summary of a subset that was scored."""
    n = len(scored.paths)
    lines = [
        f"{n:,} of {scored.total:,} images of {printable(scored.source.name)}: {printable(scored.subset)}",
        "",
        *score_lines(scored.score, n, verbose),
        *metadata_lines(scored.score, verbose),
        "",
        f"Of 100 random subsets of this size, {scored.score.percentile:.3g} are closer.",
        *fid_lines(scored.score),
        *format_notes(scored.warnings),
        "",
        format_times(scored.seconds, verbose),
        *format_rejected_files("not in the source, left out", scored.foreign, verbose),
        *format_rejected_files("skipped", scored.rejected, verbose),
    ]
    return "\n".join(lines)


def comparison_summary(comparison: Comparison, verbose: bool = False) -> str:
    """The summary of a comparison."""
    names = [printable(listing.name) for listing in (comparison.first, comparison.second)]
    lines = [
        f"{comparison.sizes[1]:,} images of {names[1]} against {comparison.sizes[0]:,} of {names[0]}",
        "",
        comparison_verdict(comparison),
        "",
        *_measure_lines(
            "distance", "99% below", {**comparison.divergences, "loss": comparison.loss} | label_kids(comparison)
        ),
        "",
        *_measure_lines("overlap", "99% above", comparison.overlaps),
        "",
        "by chance: what two random samples of these sizes from one distribution show.",
        *format_notes(comparison.warnings),
        "",
        format_times(comparison.seconds, verbose),
    ]
    for name, rejected in zip(names, comparison.rejected, strict=True):
        lines += format_rejected_files(f"of {name} skipped", rejected, verbose)
    return "\n".join(lines)


def _measure_lines(what: str, limit: str, figures: Mapping[str, Distance | Overlap]) -> list[str]:
    """A table of what two folders are, each figure beside what chance shows."""
    heading = f"{'':<12}{what:>12}{'by chance':>12}{limit:>12}{'ratio':>9}{'p':>8}"
    return [heading] + [
        f"{name:<12}{one.value:>12.3g}{one.floor_mean:>12.3g}{one.floor_limit:>12.3g}"
        f"{'-' if name.startswith('kid') else format(one.ratio, '.2f'):>9}{_format_p_value(one.p_value):>8}"
        for name, one in figures.items()
    ]


def embed_summary(embedded: Embedded, verbose: bool = False) -> str:
    """The summary of a piece of a source that is in the cache."""
    index, of = embedded.shard
    which = f", piece {index:,} of {of:,}" if of > 1 else ""
    lines = [
        f"{embedded.images:,} of {len(embedded.source.paths):,} images of {printable(embedded.source.name)}{which}: "
        f"{embedded.decoded:,} decoded, {embedded.cached:,} in the cache before",
        *format_notes(embedded.warnings),
        "",
        format_times(embedded.seconds, verbose),
        *format_rejected_files("skipped", embedded.rejected, verbose),
    ]
    return "\n".join(lines)


def verification_summary(found: Verification, verbose: bool = False) -> str:
    """The summary of a verification."""
    if found.good:
        return f"{printable(str(found.folder))}: all {found.checked:,} files are what the manifest says"
    lines = format_paths("missing", found.missing, verbose) + format_paths("extra", found.extra, verbose)
    return "\n".join([*lines, *format_rejected_files("changed", found.changed, verbose)])


def cache_summary(folder: Path, kept: Sequence[CacheEntry]) -> str:
    """What a cache folder holds: a line for each recipe."""
    lines = [f"{printable(str(folder))}: {sum(one.bytes for one in kept):,} bytes"]
    if kept:
        lines.append(f"  {'last used':<18}{'images':>11}{'MB':>10}  {'folder':<18}what was measured")
    for one in kept:
        used = datetime.fromtimestamp(one.last_used).astimezone()
        lines.append(
            f"  {used:%Y-%m-%d %H:%M}  {one.images:>11,}{one.bytes / 1e6:>10,.1f}  {printable(one.path.name)[:16]:<18}"
            + (_format_recipe(one.recipe) if one.recipe else "not readable")
        )
    return "\n".join(lines)


def _format_recipe(recipe: Mapping[str, object]) -> str:
    """What tells most recipes apart."""
    known = [recipe[name] for name in ("extractor", "network", "role", "channels", "size", "device") if name in recipe]
    words = [",".join(map(str, one)) if isinstance(one, list) else str(one) for one in known]
    return printable(" ".join(words))


def batch_summary(records: Sequence[Mapping[str, Any]]) -> str:
    """One line a job, of their records: its name, what became of it, n, loss and size; then the errors."""
    width = max(8, *(len(printable(job["name"])) for job in records)) + 2
    lines = [f"{'job':<{width}}{'status':<12}{'n':>9}{'loss':>9}{'size':>9}"]
    for job in records:
        found = job["result"]
        size = found["score"]["effective_size"] if found else None
        figures = f"{found['n']:>9,}{found['score']['loss']:>9.3f}" if found else ""
        figures += "" if size is None else f"{size:>9,.0f}"
        lines.append(f"{printable(job['name']):<{width}}{job['status']:<12}{figures}".rstrip())
    return "\n".join(
        lines + [f"{printable(job['name'])}: {printable(job['error'])}" for job in records if job["error"]]
    )


def _format_p_value(value: float) -> str:
    return f"{value:.3f}" if value > MIN_P_VALUE else f"<={MIN_P_VALUE}"


MAX_DECIMALS = 12  # at most, behind the point


def estimate_summary(estimated: Estimated, verbose: bool = False) -> str:
    """A paragraph a result, and one a difference; those that are decided come first."""
    n, total = len(estimated.paths), estimated.total
    lines = [f"{n:,} of {total:,} images of {printable(estimated.source.name)}: {printable(estimated.subset)}", ""]
    lines += [_format_estimate(one, estimated) for one in estimated.estimates]
    differences = sorted(estimated.differences, key=lambda one: not one.decided)
    if differences:
        more = "... and {:,} more differences; -v shows all"
        lines += ["", *limit_lines(map(_format_difference, differences), len(differences), more, verbose)]
    if not estimated.chosen:
        lines += ["", "The intervals are right if the subset was drawn at random."]
    return "\n".join(
        [
            *lines,
            *format_notes(estimated.warnings),
            "",
            format_times(estimated.seconds, verbose),
            *format_rejected_files("not in the source, left out", estimated.foreign, verbose),
            *format_rejected_files("skipped", estimated.rejected, verbose),
        ]
    )


def _format_estimate(one: Estimate, estimated: Estimated) -> str:
    name, subset, value = (
        _format_name(one.name),
        _format_number(one.subset, one.error),
        _format_number(one.value, one.error),
    )
    whole = f"{value} estimated for the whole {_format_interval(one)}"
    return f"{name}: {subset} on the subset, {whole}, {_format_ess(one, estimated.total)}"


def _format_difference(one: Difference) -> str:
    value, higher = _format_number(one.value, one.error), one.first if one.value > 0 else one.second
    verdict = f"{_format_name(higher)} is higher" if one.decided else "not decided"
    names = f"{_format_name(one.first)} - {_format_name(one.second)}"
    return f"{names}: {value} estimated for the whole {_format_interval(one)}: {verdict}"


def _format_interval(one: Estimate) -> str:
    return f"({_format_number(one.low, one.error)} to {_format_number(one.high, one.error)}, 95 %)"


def _format_ess(one: Estimate, total: int) -> str:
    if one.equivalent is None:
        return "without an error that shows"
    if one.equivalent > total:
        return f"as exact as more than {total:,} random images"
    return f"as exact as {one.equivalent:,.0f} random images"


def _format_number(value: float, error: float) -> str:
    """With two digits of its error."""
    if not error > 0 or abs(value) >= 1e12:
        return f"{value:.6g}"
    behind = 1 - math.floor(math.log10(error))
    return f"{value:.6g}" if behind > MAX_DECIMALS else f"{value:,.{max(0, behind)}f}"


def _format_name(name: str) -> str:
    return printable(shorten(name, 60))
