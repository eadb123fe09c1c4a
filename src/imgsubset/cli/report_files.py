"""The files that --report, --plot and --csv name: checked before any work, written at the end."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from imgsubset.errors import UsageError
from imgsubset.report.subset_pages import parts_page
from imgsubset.report.write import check_plot, write_csv, write_page, write_plot, write_report
from imgsubset.results.comparison import Comparison
from imgsubset.results.records import Estimated, Export, Scored, Selection
from imgsubset.results.text import printable
from imgsubset.sources.images import Listing

REQUIRED_LIBRARIES = {"report": "jinja2", "plot": "matplotlib"}  # libraries


@dataclass(frozen=True)
class ReportFiles:
    """The files that are asked for; None: not that one.

    Raises UsageError for what cannot be made here.
    """

    report: Path | None = None
    plot: Path | None = None
    csv: Path | None = None

    def __post_init__(self) -> None:
        if self.plot is not None:
            check_plot(self.plot)
        for option, library in REQUIRED_LIBRARIES.items():
            if getattr(self, option) is not None and find_spec(library) is None:
                raise UsageError(f"--{option} needs {library}, which is not installed: pip install 'imgsubset[report]'")

    def __bool__(self) -> bool:
        return bool(self.files)

    @property
    def files(self) -> Mapping[str, Path]:
        """The files by option."""
        return {name: file for name, file in vars(self).items() if file is not None}

    def write(self, result: Selection | Scored | Comparison | Estimated, exported: Export | None = None) -> None:
        """Write them. Raises OutputError for what cannot be written."""
        if self.report is not None:
            write_report(result, self.report, exported, command_line())
        if not isinstance(result, (Comparison, Estimated)):
            if self.plot is not None:
                write_plot(result, self.plot)
            if self.csv is not None:
                write_csv(result, self.csv)

    def write_parts(
        self,
        title: str,
        records: Mapping[str, Mapping[str, Any] | None],
        parts: Mapping[str, Selection],
        failures: Mapping[str, str] | None = None,
    ) -> None:
        """Write the report of several subsets, see `parts_page`."""
        if self.report is not None:
            shown = {name: part.evidence for name, part in parts.items() if part.evidence is not None}
            write_page(parts_page(title, records, shown, failures or {}, command_line()), self.report)


def command_line() -> list[tuple[str, str]]:
    """How a result was made: the command, as it was typed."""
    words = [os.path.basename(sys.argv[0]), *sys.argv[1:]]  # noqa: PTH119
    return [("command", printable(shlex.join(words)))]


def check_writable(files: Mapping[str, Path]) -> None:
    """Refuse files, by option, that could not be written, before any work."""
    for option, file in files.items():
        if os.path.isdir(file) or not os.path.isdir(Path(os.path.realpath(file)).parent):  # noqa: PTH112 (never raises)
            raise UsageError(f"--{option} '{file}' is a folder, or lies in none")


def check_outside(files: Mapping[str, Path], listing: Listing) -> None:
    """Refuse files, by option, that could not be written, or would hurt the source, before any work."""
    files = {option: file for option, file in files.items() if str(file) != "-"}
    check_writable(files)
    for option, file in files.items():
        real = Path(os.path.realpath(file))
        inside = not listing.explicit and Path(os.path.realpath(listing.root)) in real.parents
        read = map(listing.locate, listing.paths) if listing.members is None else listing.members.containers
        if inside or any(real == Path(os.path.realpath(path)) for path in read):
            raise UsageError(f"--{option} '{file}' would change the source '{listing.name}'")
