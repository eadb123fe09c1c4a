from __future__ import annotations

import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import pytest
import torch
from conftest import Run, create, listing_of, smooth, strict_json
from sources import made_up_source

from imgsubset import Options, estimate, score, select, split
from imgsubset.errors import InputError, UsageError
from imgsubset.features.load import SourceFeatures
from imgsubset.files import Stamp
from imgsubset.sources.listing import RejectedFile
from imgsubset.statistics.moments import Block
from imgsubset.tasks.constraints import SelectionConstraints, resolve_constraints

CPU = torch.device("cpu")
FAST = {"candidates": 16, "chains": 1, "steps": 8, "size": 16, "channels": (8,), "device": "cpu", "workers": 0}
ARGUMENTS = "--candidates 16 --chains 1 --steps 8 --size 16 --channels 8 --device cpu --workers 0".split()


def made(
    classes: Sequence[int],
    groups: Sequence[int] | None = None,
    keep: Sequence[int] = (),
    barred: Sequence[int] = (),
    equal: bool = False,
) -> SelectionConstraints:
    names = tuple(f"class{number}" for number in range(max(classes) + 1)) if any(classes) else ()
    return SelectionConstraints(
        CPU,
        tuple(classes),
        names,
        equal,
        None if groups is None else tuple(groups),
        frozenset(keep),
        frozenset(barred),
        0,
    )


def source_of(
    paths: Sequence[str], rejected: Sequence[RejectedFile] = (), root: Path = Path("source")
) -> SourceFeatures:
    """A source of made-up moments; none of its files is there."""
    listed = sorted([*paths, *(file.path for file in rejected)])
    listing = listing_of(root, listed)
    images = made_up_source(len(paths), 3)
    stamps = tuple(Stamp(1, 1) for _ in paths)
    return SourceFeatures(listing, (Block("made up", images),), tuple(sorted(paths)), stamps, tuple(rejected), "cpu", 0)


def drawn(allowed: SelectionConstraints, n: int, taken: Sequence[int] = ()) -> list[list[int]]:
    choices = allowed.choices(n, taken)
    rows = choices.draw(100, torch.Generator().manual_seed(0)).tolist()
    assert all(len(set(subset)) == len(subset) == choices.n for subset in rows)
    return rows


# Classes


def test_every_class_has_its_share_of_what_is_drawn() -> None:
    classes = [0] * 60 + [1] * 30 + [2] * 9 + [3]
    for n, expected in [(10, [5, 3, 1, 1]), (20, [11, 6, 2, 1]), (3, [2, 1, 0, 0]), (100, [60, 30, 9, 1])]:
        for subset in drawn(made(classes), n):
            assert [Counter(classes[row] for row in subset)[k] for k in range(4)] == expected


def test_equal_classes_are_capped_by_their_sizes() -> None:
    classes = [0] * 60 + [1] * 30 + [2] * 9 + [3]
    for n, expected in [(4, [1, 1, 1, 1]), (10, [3, 3, 3, 1]), (31, [11, 10, 9, 1]), (70, [30, 30, 9, 1])]:
        for subset in drawn(made(classes, equal=True), n):
            counts = [Counter(classes[row] for row in subset)[k] for k in range(4)]
            assert counts == expected or (n in (10, 31) and sorted(counts) == sorted(expected))


def test_the_dropped_count_for_the_shares_of_their_class() -> None:
    classes = [0] * 50 + [1] * 50
    barred = range(45)
    for subset in drawn(made(classes, barred=barred), 10):
        assert Counter(classes[row] for row in subset) == {0: 5, 1: 5}
        assert not set(subset) & set(barred)
    # Of what a class cannot give, the others make up.
    for subset in drawn(made(classes, barred=barred), 20):
        assert Counter(classes[row] for row in subset) == {0: 5, 1: 15}


def test_what_a_class_cannot_give_is_made_up_equally_where_classes_are_equal() -> None:
    classes = [0] * 1000 + [1] * 100 + [2] * 50
    for subset in drawn(made(classes, barred=range(1101, 1150), equal=True), 61):
        assert Counter(classes[row] for row in subset) == {0: 30, 1: 30, 2: 1}


def test_kept_images_are_part_of_their_class() -> None:
    classes = [0] * 50 + [1] * 50
    for subset in drawn(made(classes, keep=[3, 4, 60], barred=[5]), 10):
        assert {3, 4, 60} < set(subset)
        assert Counter(classes[row] for row in subset) == {0: 5, 1: 5}


@pytest.mark.parametrize(
    ("keep", "n", "why"),
    [
        ([0, 1, 2], 2, "3 images must be kept, which is more than n = 2"),
        ([0, 1, 2], 4, "3 images of class 'class0' must be kept, but its share of n = 4 is 2"),
    ],
)
def test_more_kept_than_there_is_place_for(keep: list[int], n: int, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        made([0] * 5 + [1] * 5, keep=keep).choices(n)


def test_more_asked_for_than_may_be_chosen() -> None:
    with pytest.raises(InputError, match="n = 9 images are asked for, but only 8 of the source may be chosen"):
        made([0] * 10, barred=[1, 2]).choices(9)
    with pytest.raises(InputError, match="only 5 of the source may be chosen"):
        made([0] * 10, barred=[1, 2]).choices(6, taken=range(5))
    with pytest.raises(InputError, match="only 5 of the source may be chosen"):
        made([0] * 10, [row // 5 for row in range(10)], barred=[7]).choices(6)


# Groups


def generated(seed: int) -> tuple[list[int], list[list[int]]]:
    """Groups of 1 to 50 rows, in any order."""
    dice = random.Random(seed)
    owner = [group for group in range(dice.randint(4, 40)) for _ in range(dice.randint(1, 50))]
    dice.shuffle(owner)
    members: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(owner):
        members[group].append(row)
    return owner, list(members.values())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_no_group_is_cut_whatever_is_kept_and_dropped(seed: int) -> None:
    owner, members = generated(seed)
    dice = random.Random(seed + 100)
    kept, barred = dice.sample(range(len(members)), 2)
    keep, drop = dice.choice(members[kept]), dice.choice(members[barred])
    allowed = made([0] * len(owner), owner, [keep], [drop])
    free = [len(rows) for place, rows in enumerate(members) if place not in (kept, barred)]
    sums = {len(members[kept])}
    for size in free:
        sums |= {one + size for one in sums}
    least, most = allowed.bounds()
    assert (least, most) == (min(sums), max(sums))
    n = dice.randint(least, most)
    for subset in drawn(allowed, n):
        chosen = set(subset)
        assert all(chosen.issuperset(rows) or chosen.isdisjoint(rows) for rows in members)
        assert chosen.issuperset(members[kept])
        assert chosen.isdisjoint(members[barred])
        assert abs(len(chosen) - n) == min(abs(one - n) for one in sums)
    taken = members[kept]
    rest = made([0] * len(owner), owner, (), [drop]).rest(taken).tolist()
    assert rest == sorted({*range(len(owner))} - {*members[kept], *members[barred]})


def test_groups_and_classes() -> None:
    owner, members = generated(3)
    classes = [0] * len(owner)
    for place, rows in enumerate(members):
        for row in rows:
            classes[row] = place % 3
    n = len(owner) // 2
    quota = {k: Counter(classes)[k] / 2 for k in range(3)}
    for subset in drawn(made(classes, owner), n):
        chosen = set(subset)
        assert all(chosen.issuperset(rows) or chosen.isdisjoint(rows) for rows in members)
        for k, count in Counter(classes[row] for row in subset).items():
            sums = {0}
            for place, rows in enumerate(members):
                sums |= {one + len(rows) for one in sums} if place % 3 == k else set()
            assert abs(count - quota[k]) <= min(abs(one - quota[k]) for one in sums) + 1


def test_a_group_that_spans_classes_counts_for_the_one_that_most_of_it_has() -> None:
    classes = [0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1]
    groups = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    for subset in drawn(made(classes, groups), 6):
        assert {groups[row] for row in subset} in [{a, b} for a, b in product((0, 2), (1, 3))]


@pytest.mark.parametrize("n", [1, 2, 4, 7, 12])
def test_groups_far_larger_than_n_still_give_one(n: int) -> None:
    allowed = made([0] * 100, [row // 25 for row in range(100)])
    assert {len(subset) for subset in drawn(allowed, n)} == {25}


def test_a_group_of_which_one_is_kept_and_one_is_dropped_is_a_contradiction() -> None:
    source = source_of(["a/1.png", "a/2.png", "b/1.png", "b/2.png"])
    with pytest.raises(UsageError, match=r"'a/[12]\.png'"):
        resolve_constraints(source, Options(group_by="parent", keep=("a/1.png",), drop=("a/2.png",))).choices(2)


# Kept and dropped paths

ODD = ["a b.png", " a.png", "naïve 猫.png", "{x}.png", "a\nb.png", "-a.png", "[a].png", "\udcff\udce9.png", "~.png"]


@pytest.mark.parametrize("name", ODD)
def test_names_may_hold_anything(name: str) -> None:
    source = source_of([f"x/{name}", "y.png", "z.png"])
    allowed = resolve_constraints(source, Options(keep=(f"x/{name}",), drop=("z.png",)))
    assert {source.paths[row] for row in allowed.keep} == {f"x/{name}"}
    assert {source.paths[row] for row in allowed.excluded} == {"z.png"}


def test_paths_start_from_the_source_or_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(create(tmp_path / "here" / "x").parent)
    for root in (tmp_path / "source", Path("../source"), Path("../here/../source/.")):
        source = source_of(["a/1.png", "a/2.png", "b.png", "here.png"], root=root)
        for path in ("a/1.png", "./a//1.png", "a/../a/1.png", "../source/a/1.png", str(tmp_path / "source/a/1.png")):
            assert resolve_constraints(source, Options(keep=(path,))).keep == {0}, path
            assert resolve_constraints(source, Options(drop=(path,))).excluded == {0}, path


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        (Options(keep=("gone.png",)), r"'gone\.png' is to be kept, but it is not among the images"),
        (Options(keep=("a.png", "bad.png")), r"'bad\.png' is to be kept, but cut off"),
        (Options(keep=("a.png",), drop=("./a.png",)), r"'a\.png' is both to be kept and to be dropped"),
        (Options(keep=("",)), "'' is to be kept, but"),
        (Options(keep=("a\0.png",)), "is to be kept, but"),
    ],
)
def test_contradictions_name_the_image(options: Options, culprit: str) -> None:
    source = source_of(["a.png", "b.png"], [RejectedFile("bad.png", "cut off")])
    with pytest.raises(UsageError, match=culprit):
        resolve_constraints(source, options)


def test_what_is_dropped_need_not_be_there_but_is_told() -> None:
    source = source_of(["a.png", "b.png"], [RejectedFile("bad.png", "cut off")])
    allowed = resolve_constraints(source, Options(drop=("bad.png", "b.png")))
    assert (allowed.excluded, allowed.notes) == ({1}, ())
    allowed = resolve_constraints(source, Options(drop=("gone.png", "bad.png", "b.png", "x/../bb.png")))
    assert allowed.excluded == {1}
    assert allowed.notes == ("--drop names 2 paths not among the images of the source, or excluded: 'gone.png'",)


@pytest.mark.slow
def test_many_kept_and_dropped_images_take_little_time() -> None:
    source = source_of([f"{number:06d}.png" for number in range(100_000)])
    start = time.perf_counter()
    allowed = resolve_constraints(source, Options(keep=source.paths[:50_000], drop=source.paths[50_000:99_900]))
    assert allowed.bounds() == (50_000, 50_100)
    assert time.perf_counter() - start < 60  # minutes, if each were looked up among all


# Through the program and from Python


def listed(folder: Path, name: str, *paths: str) -> Path:
    return create(folder / name, "".join(f"{path}\n" for path in paths).encode(errors="surrogateescape"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 tiny pictures: 40 in a, 20 in b, 10 in c; five of each ten belong together; one cannot be decoded."""
    root = tmp_path_factory.mktemp("mixed")
    for number in range(70):
        folder = "a" if number < 40 else "b" if number < 60 else "c"
        (root / folder).mkdir(exist_ok=True)
        smooth(number, 12, 12).save(root / folder / f"p{number // 5}_{number:02d}.png")
    create(root / "a" / "bad.png", b"\x89PNG\r\n\x1a\n")
    return root


def record(imgsubset: Callable[..., Run], *arguments: object) -> dict[str, object]:
    run = imgsubset(*arguments, "--json", *ARGUMENTS)
    assert run.code == 0, run
    found = strict_json(run.out)
    assert isinstance(found, dict)
    return found


def paths_of(found: dict[str, object]) -> list[str]:
    return [file["path"] for file in found["files"]]  # type: ignore[attr-defined]


@pytest.mark.slow
def test_shares_are_in_the_summary_and_in_the_manifest(
    imgsubset: Callable[..., Run], mixed: Path, tmp_path: Path
) -> None:
    run = imgsubset("select", mixed, tmp_path / "out", "-n", 14, "--stratify", *ARGUMENTS)
    assert run.code == 0, run
    table = [line.split() for line in run.out.splitlines()]
    for row in (["a", "40", "57.1%", "8", "57.1%"], ["b", "20", "28.6%", "4", "28.6%"], ["c", "10", "14.3%", "2"]):
        assert row in [line[: len(row)] for line in table]
    expected = {"a": (40, 8), "b": (20, 4), "c": (10, 2)}
    classes = strict_json((tmp_path / "out/manifest.json").read_bytes())["classes"]
    assert classes == {name: {"source": there, "subset": here} for name, (there, here) in expected.items()}
    assert select(mixed, 14, Options(stratify=True, **FAST)).classes == expected


@pytest.mark.slow
def test_equal_classes_through_the_program(imgsubset: Callable[..., Run], mixed: Path) -> None:
    arguments = ("select", mixed, "--mode", "none", "--stratify", "--stratify-as=equal", "-n")
    for n, counts in [(9, [3, 3, 3]), (40, [15, 15, 10])]:
        found = record(imgsubset, *arguments, n)
        assert sorted(Counter(path[0] for path in paths_of(found)).values(), reverse=True) == counts


@pytest.mark.slow
def test_classes_of_a_file(imgsubset: Callable[..., Run], mixed: Path, tmp_path: Path) -> None:
    names = sorted(path.relative_to(mixed).as_posix() for path in mixed.rglob("*.png"))
    label = {name: "even" if place % 3 else "odd, though" for place, name in enumerate(names)}
    lines = [f'{name},"{label[name]}"' for name in names] + ["elsewhere.png,odd"]
    labels = create(tmp_path / "labels.csv", ("\ufeffpath,label\r\n" + "\r\n".join(lines)).encode())
    arguments = ("select", mixed, "--mode", "none", "-n", 9, "--labels", labels)
    found = record(imgsubset, *arguments, "--stratify")
    assert Counter(label[path] for path in paths_of(found)) == {"even": 6, "odd, though": 3}
    run = imgsubset(*arguments, *ARGUMENTS)
    assert run.code == 2
    assert "labels" in run.err
    create(labels, b"path,label\na/p0_00.png,x\n")
    run = imgsubset(*arguments, "--stratify", *ARGUMENTS)
    assert (run.code, run.out) == (3, "")
    assert "'a/p0_01.png'" in run.err


@pytest.mark.slow
def test_the_loss_is_in_units_of_plain_random_subsets(
    imgsubset: Callable[..., Run], mixed: Path, tmp_path: Path
) -> None:
    drop = listed(tmp_path, "drop.txt", *(f"a/p0_0{number}.png" for number in range(5)))
    keep = listed(tmp_path, "keep.txt", "c/p12_60.png", "c/p12_61.png")
    more = ("--stratify", "--drop", drop, "--keep", keep, "--dedupe")
    found = record(imgsubset, "select", mixed, tmp_path / "out", "-n", 14, *more)
    assert {"c/p12_60.png", "c/p12_61.png"} < set(paths_of(found))
    assert not [path for path in paths_of(found) if path.startswith("a/p0_")]
    again = score(mixed, tmp_path / "out")
    assert again.score.loss == pytest.approx(found["score"]["loss"], rel=1e-9)  # type: ignore[index]
    assert again.score.random_mean == {
        name: one["random_mean"]
        for name, one in found["score"]["divergences"].items()  # type: ignore[index]
    }


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["parent", r"(p\d+)_"])
def test_groups_through_the_program(imgsubset: Callable[..., Run], mixed: Path, rule: str) -> None:
    sizes = {"a": 40, "b": 20, "c": 10} if rule == "parent" else {f"p{number}": 5 for number in range(14)}

    def group(path: str) -> str:
        return path[0] if rule == "parent" else path[2:].split("_")[0]

    for n in (3, 18, 33, 69):
        found = record(imgsubset, "select", mixed, "--mode", "none", "-n", n, "--group-by", rule)
        counts = Counter(map(group, paths_of(found)))
        assert all(sizes[name] == count for name, count in counts.items())
        possible = {10, 20, 30, 40, 50, 60, 70} if rule == "parent" else set(range(5, 71, 5))
        assert abs(found["n"] - n) == min(abs(one - n) for one in possible)  # type: ignore[operator]
        assert any("whole groups" in warning for warning in found["warnings"])  # type: ignore[attr-defined]


@pytest.mark.slow
def test_groups_and_classes_and_kept_and_dropped_images(
    imgsubset: Callable[..., Run], mixed: Path, tmp_path: Path
) -> None:
    keep, drop = listed(tmp_path, "keep", "b/p9_47.png"), listed(tmp_path, "drop", "a/p1_07.png", "b/p8_40.png")
    more = ("--keep", keep, "--drop", drop, "--stratify", "--group-by", r"(p\d+)_")
    chosen = paths_of(record(imgsubset, "select", mixed, "--mode", "none", "-n", 35, *more))
    groups = Counter(path[2:].split("_")[0] for path in chosen)
    assert set(groups.values()) == {5}
    assert "p9" in groups
    assert not {"p1", "p8"} & set(groups)
    assert Counter(path[0] for path in chosen) == {"a": 20, "b": 10, "c": 5}


@pytest.mark.parametrize(
    ("keep", "more", "culprits"),
    [
        (["a/gone.png"], [], ["'a/gone.png'"]),
        (["a/bad.png"], [], ["'a/bad.png'"]),
        (["a/p0_00.png"], ["--exclude", "p0_*"], ["'a/p0_00.png'", "excluded"]),
        (["a/p0_00.png"], ["--include", "/b/"], ["'a/p0_00.png'", "excluded"]),
        (["a/p0_00.png", "b/p8_40.png"], ["--drop", "b/p8_40.png"], ["'b/p8_40.png'"]),
        ([f"a/p0_0{number}.png" for number in range(4)], ["-n", 3], ["4 images must be kept", "n = 3"]),
        (["c/p12_60.png", "c/p12_61.png", "c/p12_62.png"], ["--stratify"], ["class 'c'", "n = 14", "is 2"]),
        (["a/p0_00.png"], ["--group-by", "parent"], ["40 images must be kept", "n = 14"]),
    ],
)
def test_contradictions_are_usage_errors(
    imgsubset: Callable[..., Run], mixed: Path, tmp_path: Path, keep: list[str], more: list[object], culprits: list[str]
) -> None:
    words = [listed(tmp_path, "drop", str(one)) if str(one).startswith("b/p") else one for one in more]
    keep_file = listed(tmp_path, "keep", *keep)
    run = imgsubset("select", mixed, tmp_path / "out", "-n", 14, "--keep", keep_file, *words, *ARGUMENTS)
    assert (run.code, run.out) == (2, ""), run
    assert all(culprit in run.err for culprit in culprits), run.err
    assert run.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_rule_for_groups_that_makes_no_sense(imgsubset: Callable[..., Run], mixed: Path, tmp_path: Path) -> None:
    run = imgsubset("select", mixed, tmp_path / "out", "-n", 14, "--group-by", "(p", *ARGUMENTS)
    assert (run.code, run.out) == (2, "")
    assert "'(p'" in run.err


@pytest.mark.parametrize("option", ["--keep", "--drop"])
def test_a_file_of_paths_that_cannot_be_read(imgsubset: Callable[..., Run], mixed: Path, option: str) -> None:
    run = imgsubset("select", mixed, "-n", 3, "--mode", "none", option, mixed / "gone.txt", *ARGUMENTS)
    assert (run.code, run.out) == (3, "")
    assert "gone.txt" in run.err


@pytest.mark.slow
def test_the_dropped_belong_to_the_source_and_the_excluded_do_not(
    imgsubset: Callable[..., Run], mixed: Path, tmp_path: Path
) -> None:
    names = [path.name for path in sorted((mixed / "a").iterdir())][:30]
    drop = listed(tmp_path, "drop", *(f"a/{name}" for name in names if name != "bad.png"))
    dropped = record(imgsubset, "select", mixed, "--mode", "none", "-n", 6, "--drop", drop)
    plain = record(imgsubset, "select", mixed, "--mode", "none", "-n", 6)
    excluded = record(
        imgsubset, "select", mixed, "--mode", "none", "-n", 6, *(f"--exclude=/a/{name}" for name in names)
    )

    def unit(found: dict[str, object]) -> list[float]:
        return [one["random_mean"] for one in found["score"]["divergences"].values()]  # type: ignore[index]

    assert unit(dropped) == unit(plain)
    assert unit(excluded) != unit(plain)
    assert dropped["counts"]["usable"] == plain["counts"]["usable"] == 70  # type: ignore[index]
    assert excluded["counts"]["usable"] < 70  # type: ignore[index]
    for found in (dropped, excluded):
        assert not {f"a/{name}" for name in names} & set(paths_of(found))
    assert score(mixed, [mixed / path for path in paths_of(dropped)], Options(**FAST)).score.loss == pytest.approx(
        dropped["score"]["loss"],  # type: ignore[index]
        rel=1e-9,
    )


@pytest.mark.slow
def test_as_many_as_may_be_chosen_and_one_more(imgsubset: Callable[..., Run], mixed: Path, tmp_path: Path) -> None:
    drop = listed(tmp_path, "drop", "a/p0_00.png", "b/p8_40.png")
    found = record(imgsubset, "select", mixed, "--mode", "none", "-n", 68, "--drop", drop)
    assert not {"a/p0_00.png", "b/p8_40.png"} & set(paths_of(found))
    run = imgsubset("select", mixed, "--mode", "none", "-n", 69, "--drop", drop, *ARGUMENTS)
    assert (run.code, run.out) == (3, "")
    assert "only 68 of the source may be chosen" in run.err


def test_keep_and_drop_from_the_current_folder(
    imgsubset: Callable[..., Run], mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mixed.parent)
    keep = listed(tmp_path, "keep", f"{mixed.name}/a/p0_00.png", "b/p8_40.png", str(mixed / "c/p12_60.png"))
    found = record(imgsubset, "select", mixed.name, "--mode", "none", "-n", 3, "--keep", keep)
    assert paths_of(found) == ["a/p0_00.png", "b/p8_40.png", "c/p12_60.png"]


# The smallest subset that is good enough


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"group_by": r"(p\d+)_"},
        {"group_by": "parent"},
        {"stratify": True, "keep": tuple(f"c/p12_6{number}.png" for number in range(5))},
        {"keep": ("a/p0_00.png", "a/p0_01.png"), "drop": ("b/p8_40.png",)},
        {"dedupe": True, "stratify": True, "stratify_as": "equal"},
    ],
    ids=str,
)
def test_the_smallest_n_within_constraints(mixed: Path, options: dict[str, object]) -> None:
    found = select(mixed, "auto", Options(target_size=30, **options, **FAST | {"candidates": 16, "steps": 10}))  # type: ignore[arg-type]
    assert found.score.effective_size >= 30
    assert set(options.get("keep", ())) <= set(found.chosen)  # type: ignore[call-overload]
    assert not set(options.get("drop", ())) & set(found.chosen)  # type: ignore[call-overload]
    if "group_by" in options:
        assert len(found.indices) % 5 == 0


def test_nothing_that_may_be_chosen(mixed: Path) -> None:
    drop = tuple(path.relative_to(mixed).as_posix() for path in mixed.rglob("*.png"))
    for n, target in [(3, None), ("auto", 5.0)]:
        with pytest.raises(InputError):
            select(mixed, n, Options(target_size=target, drop=drop, **FAST))
    with pytest.raises(InputError):
        split(mixed, {"a": "50%"}, Options(drop=drop, **FAST))


# Classes


def test_classes_by_the_last_folder_and_by_an_expression() -> None:
    source = source_of(["t/x/1.png", "t/x/2.png", "t/y/1.png", "v/y/2.png"])
    assert resolve_constraints(source, Options(stratify=True, stratify_by="parent")).names == ("t/x", "t/y", "v/y")
    found = resolve_constraints(source, Options(stratify=True, stratify_by=r"/(\d)\."))
    assert (found.names, found.classes, found.notes) == (("1", "2"), (0, 1, 0, 1), ())


@pytest.mark.parametrize(
    ("paths", "hint"),
    [
        (
            ["t/x/1.png", "t/y/2.png"],
            "'t', so that --stratify does nothing: give other classes by --stratify-by parent (finds 2) or --labels",
        ),
        (["1.png", "2.png"], "'.', so that --stratify does nothing: give other classes by --stratify-by REGEX or"),
    ],
)
def test_one_class_is_refused(paths: list[str], hint: str) -> None:
    with pytest.raises(UsageError, match=f"^all images are of one class, {re.escape(hint)}"):
        resolve_constraints(source_of(paths), Options(stratify=True))


@pytest.mark.slow
def test_one_label_is_refused_before_any_image_is_decoded(
    imgsubset: Callable[..., Run], mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"{path.relative_to(mixed).as_posix()},x" for path in mixed.rglob("*.png")]
    labels = create(tmp_path / "labels.csv", "\n".join(["path,label", *rows]).encode())
    words = ("--stratify", "--labels", labels)
    run = imgsubset("select", mixed, tmp_path / "out", "-n", 9, *words, *ARGUMENTS)
    message = "all images are of one class, 'x', so that --stratify does nothing: leave out --stratify, or give other"
    assert (run.code, run.out, run.err) == (2, "", f"imgsubset: error: {message} classes by --labels FILE\n")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("imgsubset.tasks.select.load_features", pytest.fail)
    with pytest.raises(UsageError, match=message):
        select(mixed, 9, stratify=True, labels=dict(row.split(",") for row in rows))
    with pytest.raises(UsageError, match=message):
        split(mixed, {"a": 9}, stratify=True, labels=str(labels))
    chosen = [mixed / row.partition(",")[0] for row in rows[:9]]
    with pytest.raises(UsageError, match=message):
        estimate(mixed, chosen, {"x": [1.0] * 9}, stratify=True, labels=str(labels), **FAST)


@pytest.mark.slow
def test_a_manifest_says_what_is_kept_and_dropped(imgsubset: Callable[..., Run], mixed: Path, tmp_path: Path) -> None:
    assert imgsubset("select", mixed, tmp_path / "ten", "-n", 10, *ARGUMENTS).code == 0
    manifest = tmp_path / "ten/manifest.json"
    ten = {file["path"] for file in strict_json(manifest.read_bytes())["files"]}
    grown = paths_of(record(imgsubset, "select", mixed, "--mode", "none", "-n", 30, "--keep", manifest))
    assert len(grown) == 30
    assert ten < set(grown)
    others = paths_of(record(imgsubset, "select", mixed, "--mode", "none", "-n", 30, "--drop", manifest))
    assert not ten & set(others)
    run = imgsubset(
        "select", mixed, "--mode", "none", "-n", 5, "--keep", create(tmp_path / "x.json", b"{}"), *ARGUMENTS
    )
    assert (run.code, run.out) == (3, "")
    assert "x.json' is not one of imgsubset's" in run.err


@pytest.mark.slow
def test_a_line_of_millions_of_characters_is_cut_in_messages(
    imgsubset: Callable[..., Run], mixed: Path, tmp_path: Path
) -> None:
    line = b"x" * 2_000_000
    keep = create(tmp_path / "keep", line)
    run = imgsubset("select", mixed, "--mode", "none", "-n", 5, "--keep", keep, *ARGUMENTS)
    assert run.code == 2
    assert "characters ...]" in run.err
    assert len(run.err) < 1_100
    paths = b"".join(b"%b\n" % bytes(path) for path in sorted(mixed.rglob("*.png")))
    run = imgsubset("select", create(tmp_path / "list", paths + line), "--mode", "none", "-n", 5, *ARGUMENTS)
    assert run.code == 0, run
    assert "characters ...]" in run.out
    assert len(run.out) < 5000
