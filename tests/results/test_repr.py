"""What a notebook shows of a result fits on a screen, however many images there are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import selection_of

from imgsubset import Comparison, Distance, Export, Options, Placed, Scored, Verification
from imgsubset.results.as_json import describe_selection
from imgsubset.sources.listing import Listing, RejectedFile

MANY = tuple(RejectedFile(f"{number}.png", "cut off") for number in range(1000))
NAMES = tuple(file.path for file in MANY)


@pytest.fixture
def results(folder: Path) -> dict[str, object]:
    small = selection_of(folder, ["6.bmp", "a/1.jpg"])
    source = replace(small.source, name="photos", rejected=MANY, ignored_files=MANY, order=NAMES, hidden=NAMES)
    selection = replace(small, source=source, rejected=MANY, classes=dict.fromkeys(NAMES, (1, 0)), interrupted=True)
    export = Export(Path("out"), "copy", dict.fromkeys(NAMES, "0"), dict.fromkeys(NAMES, "0"), 1.0)
    distance = Distance(0.5, 0.25, 0.4, 0.001)
    common = {"warnings": NAMES, "options": Options(), "device": "cpu", "seconds": {}, "size": 64, "rejected": MANY}
    two = {"first": source, "second": replace(source, name="others"), "sizes": (1000, 20)}
    two |= {"loss": distance, "overlaps": {}}
    scored = {"source": source, "subset": "out", "paths": NAMES, "total": 5000, "score": small.score, "foreign": MANY}
    return {
        "selection": selection,
        "export": export,
        "placed": Placed(describe_selection(selection), Path("out"), selection, export),
        "done": Placed(describe_selection(small), Path("out"), None, None),
        "scored": Scored(**common | scored),  # type: ignore[arg-type]
        "comparison": Comparison(**common | two | {"divergences": {"kl": distance}, "rejected": (MANY, MANY)}),  # type: ignore[arg-type]
        "good": Verification(Path("out"), 1000, (), (), ()),
        "bad": Verification(Path("out"), 1000, NAMES, MANY, NAMES),
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("selection", "Selection(2 of 8 images of 'photos', loss 1, like 2 random ones, interrupted)"),
        ("export", "Export(1,000 images and 1,000 other files, mode 'copy', in 'out')"),
        ("placed", "Placed(2 images in 'out', loss 1)"),
        ("done", "Placed(2 images in 'out', loss 1, done before)"),
        ("scored", "Scored(1,000 of 5,000 images of 'photos', loss 1, like 2 random ones)"),
        ("comparison", "Comparison(20 images of 'others' against 1,000 images of 'photos', loss 0.5, p 0.001)"),
        ("good", "Verification(1,000 files of 'out': all good)"),
        ("bad", "Verification(1,000 files of 'out': 1,000 missing, 1,000 changed, 1,000 extra)"),
    ],
)
def test_a_result_shows_what_it_is_in_a_line(results: dict[str, object], name: str, text: str) -> None:
    assert repr(results[name]) == text


def test_a_listing_and_options_show_what_is_not_as_usual(results: dict[str, object]) -> None:
    source: Listing = results["selection"].source  # type: ignore[attr-defined]
    assert len(repr(source)) < 500
    assert repr(Options()) == "Options()"
    assert repr(Options(steps=5, weights={"kl": 1}, keep=["a.png"])).startswith(
        "Options(weights=Weights(kl=1.0, js=0.0"
    )
    assert repr(Options(steps=5, seed=1)) == "Options(seed=1, steps=5)"
