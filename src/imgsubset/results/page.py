"""What a report is made of: sections, and in them figures, tables, sheets of images, facts."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

from imgsubset.results.evidence import Thumbnail
from imgsubset.results.lines import printable


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what it shows; beside it a bar for a number in [0, 1]; and the number in full, with the name
    that the JSON record has for it."""

    text: str
    meter: float | None = None
    key: str = ""
    value: str = ""


def make_number_cell(value: float, key: str = "", text: str = "") -> Cell:
    """A number as a cell, rounded unless a text is given."""
    return Cell(text or f"{value:.3g}", key=key, value=repr(value))


@dataclass(frozen=True)
class Table:
    """Rows under a heading."""

    heading: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    caption: str = ""
    more: str = ""
    kind: str = "table"


@dataclass(frozen=True)
class Figure:
    """A drawing."""

    svg: str
    title: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Figures:
    """Drawings one under another, or in pairs, or a map."""

    figures: Sequence[Figure]
    layout: str = "single"
    kind: str = "figures"


@dataclass(frozen=True)
class Picture:
    """An image of a sheet."""

    path: str
    data: str
    note: str


@dataclass(frozen=True)
class ContactSheet:
    """Small pictures side by side."""

    title: str
    images: Sequence[Picture]
    text: str = ""
    kind: str = "sheet"


def make_contact_sheet(title: str, images: Sequence[Thumbnail], text: str = "") -> ContactSheet:
    """Small pictures as a sheet."""
    shown = [
        Picture(printable(image.path), base64.b64encode(image.jpeg).decode(), printable(image.note)) for image in images
    ]
    return ContactSheet(title, shown, text)


@dataclass(frozen=True)
class Facts:
    """Names with values."""

    rows: Sequence[tuple[str, str]]
    kind: str = "facts"


@dataclass(frozen=True)
class Notes:
    """What a user should know."""

    lines: Sequence[str]
    kind: str = "notes"


@dataclass(frozen=True)
class SourceText:
    """A text to be opened, such as a manifest; or where it lies, if it is too long for a page."""

    title: str
    text: str
    link: str = ""
    kind: str = "source"


Part = Table | Figures | ContactSheet | Facts | Notes | SourceText


@dataclass(frozen=True)
class Section:
    """A part of the page under a title; `key` says what the marks of its figures are, by the class of each."""

    title: str
    parts: Sequence[Part]
    text: Sequence[str] = ()
    key: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Page:
    """A report: its title, the verdict, what is to be said under it, and the sections."""

    title: str
    verdict: Sequence[str]
    sections: Sequence[Section]
    lead: Sequence[str] = field(default=())
