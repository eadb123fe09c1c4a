"""The blocks of --match: tables, objects, image statistics and difficulty."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from posixpath import basename

import numpy as np

from imgsubset.annotations.classes import resolve_classes
from imgsubset.annotations.columns import Column, align_columns
from imgsubset.annotations.objects import read_object_columns
from imgsubset.annotations.tables import read_table
from imgsubset.errors import InputError, UsageError
from imgsubset.features.difficulty import compute_difficulty, encode_classes, small_class_warning
from imgsubset.features.feature_spaces import VIEWS
from imgsubset.features.handcrafted import IMAGE_STATISTICS
from imgsubset.features.load import SourceFeatures
from imgsubset.features.metadata_encoding import MetadataChannels, encode_columns
from imgsubset.options import IMAGE_STATS_WEIGHT, Options

ColumnsAndNotes = tuple[Sequence[Column], Sequence[str]]  # columns, and notes
MAX_BLOCK_CHANNELS = 192  # channels of a block at most: the time that covariances take grows as their cube


def add_match_blocks(source: SourceFeatures, options: Options, n: int | None) -> SourceFeatures:
    """A source, not standardised, with a block for each term of `match`; weights are shared as the options have it.

    n  images in the subset, if it is known

    Raises UsageError and InputError for what is missing, cannot be read or makes no sense.
    """
    match = {term: weight for term, weight in options.match if weight}
    names = _block_names(match)
    wanted = _parse_match_columns(
        {name: names[name] for name in match if name not in BUILT_IN_TERMS}, options.match_columns
    )
    notes, terms, tables = list[str](), dict[str, MetadataChannels](), list[dict[str, object]]()
    for term, weight in match.items():
        if term in BUILT_IN_TERMS:
            columns, more = BUILT_IN_TERMS[term](source, options)
        else:
            table = read_table(term, "match")
            columns, more = align_columns(table, source.listing, source.paths, wanted.get(term, ()))
            used = [column.name for column in columns]
            where = os.path.abspath(term)  # noqa: PTH100 (resolve would follow links)
            tables.append({"name": term, "path": where, "sha256": table.sha256, "columns": used})
        made, rare = encode_columns(columns, n)
        if (term, weight) == ("image", IMAGE_STATS_WEIGHT):  # the default: no word of what does not vary
            terms |= {term: replace(made, asked=False)} if made.names else {}
            continue
        if not made.names:
            raise InputError(f"nothing in match '{term}' varies over the images: {(*rare, 'no column is left')[0]}")
        notes += [*more, *rare]
        terms[term] = made
    if not terms:
        return source
    features = sum(weight for _, weight in options.features)
    total = features + sum(match[term] for term in terms)
    blocks = [replace(block, weight=block.weight * features / total) for block in source.blocks]
    device, found = blocks[0].images.table.device, dict[str, MetadataChannels]()
    for term, made in terms.items():
        parts = _split_channels(names[term], made)
        if len(parts) > 1:
            notes.append(f"match '{term}' is of {len(made.names):,} columns, matched as {len(parts)} blocks")
        for name, part in parts:
            found[name] = part
            blocks.append(part.block(name, match[term] / total * len(part.names) / len(made.names), device))
    return replace(
        source, blocks=tuple(blocks), known=found, tables=tuple(tables), warnings=source.warnings + tuple(notes)
    )


def _split_channels(name: str, made: MetadataChannels) -> list[tuple[str, MetadataChannels]]:
    """Channels as blocks of at most TOGETHER of them, by name; what varies together is matched within each."""
    count = -(-len(made.names) // MAX_BLOCK_CHANNELS)
    if count == 1:
        return [(name, made)]
    edges = [round(part * len(made.names) / count) for part in range(count + 1)]
    parts = [MetadataChannels(made.names[a:b], made.values[:, a:b]) for a, b in pairwise(edges)]
    return [(f"{name} ({place} of {count})", part) for place, part in enumerate(parts, 1)]


def _block_names(match: dict[str, float]) -> dict[str, str]:
    """What each term is called: of tables the name of the file, if there is no other of this name."""
    short = [basename(term) for term in match]
    return {term: name if short.count(name) == 1 else term for term, name in zip(match, short, strict=True)}


def _parse_match_columns(tables: Mapping[str, str], specified: Sequence[str]) -> dict[str, list[str]]:
    """The columns of each table that are asked for, of words such as 'a,b' and 'FILE.csv:a,b'.

    tables  what each is called
    """
    first = next(iter(tables), "")
    wanted: dict[str, list[str]] = {}
    for words in specified:
        starts = ((file, f"{name}:") for file, short in tables.items() for name in (file, short))
        file, start = next((pair for pair in starts if words.startswith(pair[1])), (None, ""))
        listed = words[len(start) :]
        if file is None and len(tables) > 1:
            raise UsageError(f"match_columns '{words}': of which table? as in '{tables[first]}:{words}'")
        (names,) = csv.reader([listed], skipinitialspace=True) if listed.strip() else [[]]
        if not all(name.strip() for name in names) or not names:
            raise UsageError(f"match_columns '{words}' names no column")
        wanted.setdefault(file or first, []).extend(name.strip() for name in names)
    for file, names in wanted.items():
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UsageError(f"match_columns name '{twice}' of '{file}' twice")
    return wanted


def _make_image_stat_columns(source: SourceFeatures, options: Options) -> ColumnsAndNotes:
    numbers = source.seen["image"].mean.double().cpu().numpy()
    return [Column(name, np.ascontiguousarray(numbers[:, place])) for place, name in enumerate(IMAGE_STATISTICS)], ()


def _make_object_columns(source: SourceFeatures, options: Options) -> ColumnsAndNotes:
    return read_object_columns(source.listing, source.paths, options)


def _make_difficulty_columns(source: SourceFeatures, options: Options) -> ColumnsAndNotes:
    names = resolve_classes(source.listing, source.paths, options)
    if len(set(names)) < 2:
        raise InputError("match 'hardness' needs at least two classes; the images of the source are all of one")
    labels = encode_classes(names)
    views = [source.seen[part].mean.cpu() for part, _, _ in VIEWS["hardness"]]
    numbers = compute_difficulty(views, labels)
    note = small_class_warning(labels)
    columns = [Column(f"hardness {place}", numbers[:, place].numpy().copy()) for place in range(numbers.shape[1])]
    return columns, (note,) if note else ()


BUILT_IN_TERMS: dict[str, Callable[[SourceFeatures, Options], ColumnsAndNotes]] = {
    "image": _make_image_stat_columns,
    "hardness": _make_difficulty_columns,
    "objects": _make_object_columns,
}
"""What makes the columns of each term that is no table."""
