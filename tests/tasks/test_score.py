from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import create, smooth, strict_json
from scipy import stats
from sources import goal_of, made_up_source, random_rows
from torch import Tensor

from imgsubset import Options, Selection, Weights, export, score, select
from imgsubset.divergence_weights import DIVERGENCE_NAMES
from imgsubset.errors import BadFilesError, InputError, UsageError
from imgsubset.results.as_json import describe_score_result
from imgsubset.statistics.objective import N_BASELINE_SUBSETS, Objective, draw_random_subsets, effective_sample_size
from imgsubset.statistics.rng import make_generator
from imgsubset.tasks.existing_subset import has_manifest
from imgsubset.tasks.score import compute_score

TOTAL, N = 40, 8
OPTIONS = Options(workers=0, candidates=16, steps=4, device="cpu", channels=(4, 6), size=16)
OTHERS: dict[str, dict[str, Any]] = {
    "seed": {"feature_seed": 5},
    "size": {"size": 24},
    "channels": {"channels": (5, 3)},
    "kernel": {"kernel_size": 5},
    "weights": {"weights": Weights(kl=0.0, frechet=3.0, js=0.1)},
    "all": {
        "feature_seed": 2**62,
        "size": 20,
        "channels": (3,),
        "kernel_size": 1,
        "weights": Weights.parse("hellinger=1"),
    },
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scored") / "source"
    for number in range(TOTAL):
        path = create(root / f"class{number % 3}" / f"{number:02d}.png")
        smooth(number, 16, 16).save(path)
    return root


@pytest.fixture(scope="module")
def selection(source: Path) -> Selection:
    return select(source, N, OPTIONS)


@pytest.fixture
def out(selection: Selection, tmp_path: Path) -> Path:
    export(selection, tmp_path / "out", ranked=True)
    return tmp_path / "out"


def check_equal(found: Any, selection: Selection) -> None:
    assert found.paths == selection.chosen
    mine, theirs = found.score, selection.score
    assert mine.searched_loss == pytest.approx(theirs.searched_loss, rel=1e-6, abs=1e-9)
    assert mine.effective_range == pytest.approx(theirs.effective_range)
    for one, other in zip(mine.searched + mine.held_out, theirs.searched + theirs.held_out, strict=True):
        got, wanted = dataclasses.asdict(one), dataclasses.asdict(other)
        columns = zip(got.pop("columns"), wanted.pop("columns"), strict=True)
        for plain, asked in [(got, wanted), *columns]:
            for name, value in asked.items():
                expected = value if name == "name" else pytest.approx(value, rel=1e-6, abs=1e-9)
                assert plain[name] == expected, (one.name, name)


def listed(selection: Selection, path: Path) -> Path:
    path.write_text("".join(f"{selection.source.root / name}\n" for name in selection.ranked))
    return path


SUBSETS: dict[str, Callable[[Selection, Path], Any]] = {
    "folder": lambda _, out: out,
    "folder by name": lambda _, out: str(out),
    "manifest": lambda _, out: out / "manifest.json",
    "ranked.txt": lambda _, out: out / "ranked.txt",
    "list": lambda selection, out: listed(selection, out.parent / "list.txt"),
    "paths": lambda selection, out: [selection.source.root / name for name in selection.chosen],
    "paths from the source": lambda selection, out: iter(selection.ranked),
}


@pytest.mark.slow
@pytest.mark.parametrize("subset", SUBSETS.values(), ids=SUBSETS)
def test_a_selection_has_the_score_that_was_reported(
    source: Path, selection: Selection, out: Path, subset: Callable[[Selection, Path], Any]
) -> None:
    found = score(source, subset(selection, out), OPTIONS)
    check_equal(found, selection)
    assert (found.total, found.foreign, found.rejected, found.warnings) == (TOTAL, (), (), ())
    assert found.options == dataclasses.replace(OPTIONS, match={"image": 0.25}) == selection.options
    assert (found.device, found.source.name) == ("cpu", str(source))


@pytest.mark.slow
def test_the_manifest_holds_the_score_that_is_found(source: Path, out: Path) -> None:
    found = score(source, out)
    recorded = json.loads((out / "manifest.json").read_bytes())["score"]
    described = strict_json(json.dumps(describe_score_result(found)))
    assert described["score"]["loss"] == pytest.approx(recorded["loss"], abs=1e-6)
    assert described["score"]["percentile"] == recorded["percentile"]
    assert described["score"]["divergences"].keys() == recorded["divergences"].keys()
    assert described["counts"] == {"usable": TOTAL, "rejected": 0, "foreign": 0}
    assert (described["n"], described["subset"]) == (N, str(out))
    assert [file["path"] for file in described["files"]] == list(found.paths)


@pytest.mark.slow
@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_the_options_of_a_manifest_are_the_defaults(source: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    options = dataclasses.replace(OPTIONS, **change)
    selection = select(source, N, options)
    export(selection, tmp_path / "out")
    deciding = ("feature_seed", "size", "channels", "kernel_size", "weights")
    same = {field: getattr(options, field) for field in deciding}
    for name in ("", "manifest.json"):
        found = score(source, tmp_path / "out" / name)
        check_equal(found, selection)
        assert has_manifest(tmp_path / "out" / name)
        assert found.options == Options(**same, match={"image": 0.25})
    other = score(source, tmp_path / "out", OPTIONS).score
    assert other.searched_loss != pytest.approx(found.score.searched_loss, rel=1e-6)


def test_where_there_is_no_manifest_there_are_no_recorded_options(out: Path) -> None:
    for path in (out / "ranked.txt", out / "gone", out / "class0", out.parent, [out]):
        assert not has_manifest(path)
    (out / "manifest.json").unlink()
    assert not has_manifest(out)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"{", b'{"name": "my site"}', b"[]"])
def test_a_manifest_that_cannot_be_read_is_told_of(source: Path, out: Path, content: bytes) -> None:
    assert not [note for note in score(source, out, OPTIONS).warnings if "manifest" in note]
    create(out / "manifest.json", content)
    (note,) = (note for note in score(source, out, OPTIONS).warnings if "manifest" in note)
    assert note.startswith(f"manifest '{out / 'manifest.json'}' is not ")
    assert note.endswith("; the options in it are not used")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_manifest_from_a_machine_with_a_gpu_is_scored_here(source: Path, selection: Selection, out: Path) -> None:
    alter(out, device="cuda")
    assert score(source, out).score.loss == pytest.approx(selection.score.loss, rel=1e-4)


@pytest.mark.slow
def test_a_manifest_decides_where_nothing_is_written(source: Path, out: Path, tmp_path: Path) -> None:
    alter(out, cache=str(tmp_path / "elsewhere"))
    score(source, out)
    assert not (tmp_path / "elsewhere").exists()


def alter(folder: Path, **options: object) -> None:
    record = json.loads((folder / "manifest.json").read_bytes())
    record["options"].update(options)
    (folder / "manifest.json").write_text(json.dumps(record))


@pytest.mark.slow
def test_a_manifest_of_embeddings_is_not_scored_by_the_network_unawares(source: Path, tmp_path: Path) -> None:
    from imgsubset.inputs import Embeddings

    paths = sorted(str(path.relative_to(source)) for path in source.rglob("*.png"))
    embeddings = Embeddings(np.random.default_rng(1).normal(size=(TOTAL, 5)), paths)
    selection = select(source, N, OPTIONS_OF_EMBEDDINGS, embeddings=embeddings)
    export(selection, tmp_path / "out")
    check_equal(score(source, tmp_path / "out", embeddings=embeddings), selection)
    try:
        found = score(source, tmp_path / "out")
    except (UsageError, InputError):
        return
    assert found.score.loss == pytest.approx(selection.score.loss, rel=1e-6) or found.warnings


OPTIONS_OF_EMBEDDINGS = Options(workers=0, candidates=16, steps=4, device="cpu")


def test_a_manifest_of_another_program_does_not_keep_a_folder_from_being_scored(
    source: Path, selection: Selection, out: Path
) -> None:
    (out / "manifest.json").write_text('{"name": "An app", "icons": []}')
    check_equal(score(source, out, OPTIONS), selection)


def test_the_network_has_its_way_with_an_extractor_of_the_callers(source: Path) -> None:
    def extractor(pixels: Tensor) -> Tensor:
        return pixels.permute(0, 3, 1, 2).float()

    selection = select(source, N, OPTIONS, extractor=extractor)
    check_equal(score(source, selection.chosen, OPTIONS, extractor=extractor), selection)


def test_the_order_and_the_names_change_the_score_by_rounding_alone(
    source: Path, selection: Selection, tmp_path: Path
) -> None:
    for number, name in enumerate(reversed(selection.ranked)):
        shutil.copy(source / name, create(tmp_path / "flat" / f"{number}.png"))
    check_equal(score(source, tmp_path / "flat", OPTIONS), selection)


# The figures


def test_ratios_are_the_divergences_in_units_of_random_subsets(selection: Selection) -> None:
    result = selection.score
    assert tuple(result.divergences) == tuple(result.random_mean) == tuple(result.random_std) == DIVERGENCE_NAMES
    expected = {name: result.divergences[name] / result.random_mean[name] for name in DIVERGENCE_NAMES}
    assert result.ratios() == pytest.approx(expected)
    assert result.searched[-1].divergences.keys() == {"wasserstein", "frechet"}  # of what is known of the images
    for one in result.searched + result.held_out:
        assert np.mean(list(one.ratios().values())) == pytest.approx(one.loss, rel=1e-9)
        still = dataclasses.replace(one, random_mean=dict.fromkeys(DIVERGENCE_NAMES, 0.0))
        assert still.ratios() == dict.fromkeys(one.divergences, 0.0)
    assert result.searched_loss == pytest.approx(sum(one.weight * one.loss for one in result.searched), rel=1e-9)
    assert result.loss == sorted(one.loss for one in result.held_out)[1]
    assert [one.name for one in result.held_out] == ["held-out 16,32,64", "held-out 32,64,128", "held-out 16,32,32,48"]


@pytest.fixture(scope="module")
def objective() -> Objective:
    return goal_of(made_up_source(300, 6), 20, Weights())


def baseline_losses(objective: Objective) -> np.ndarray:
    """Losses of the random subsets of the baseline, drawn and mixed once more."""
    batches = range(N_BASELINE_SUBSETS // objective.batch)
    generators = [make_generator(objective.device, "baseline", number) for number in batches]
    rows = torch.cat([draw_random_subsets(objective.total, objective.n, objective.batch, one) for one in generators])
    values = objective.divergences(rows)[:, 0].numpy()
    shares = np.array([0.2] * 5)
    losses: np.ndarray = (values / values.mean(0) * shares).sum(1)
    return losses


def test_the_percentile_is_the_share_of_random_subsets_that_are_closer(objective: Objective) -> None:
    losses = baseline_losses(objective)
    assert len(losses) == N_BASELINE_SUBSETS
    for rows in random_rows(20, 20, 300, seed=3):
        result = compute_score(objective, (objective,), rows[None]).held_out[0]
        assert result.percentile == pytest.approx(100 * np.mean(losses < result.loss), abs=1e-6)
        assert result.effective_size == pytest.approx(effective_sample_size(result.loss, 20, 300))
        expected = objective.divergences(rows[None], torch.float64)[0, 0].tolist()
        assert list(result.divergences.values()) == pytest.approx(expected)


def test_the_share_below_counts_strictly(objective: Objective) -> None:
    assert objective.baseline_cdf(0.0) == 0
    assert objective.baseline_cdf(1e9) == 1
    losses = np.sort(baseline_losses(objective))
    middle = (losses[100] + losses[101]) / 2
    assert objective.baseline_cdf(float(middle)) == 101 / N_BASELINE_SUBSETS


def test_the_percentile_of_a_random_subset_is_uniform(objective: Objective) -> None:
    losses = [float(objective.loss(random_rows(1, 20, 300, seed=seed), torch.float64)) for seed in range(40)]
    shares = [objective.baseline_cdf(loss) for loss in losses]
    assert stats.kstest(shares, "uniform").pvalue > 0.01


@pytest.mark.slow
def test_random_subsets_of_a_folder_have_percentiles_all_over(source: Path) -> None:
    rng = np.random.default_rng(1)
    paths = np.array(sorted(str(path.relative_to(source)) for path in source.rglob("*.png")))
    found = [score(source, list(rng.permutation(paths)[:N]), OPTIONS).score for _ in range(8)]
    percentiles = [one.percentile for one in found]
    assert min(percentiles) < 50 < max(percentiles)
    assert all(0 <= percentile <= 100 for percentile in percentiles)
    assert np.corrcoef(stats.rankdata(percentiles), stats.rankdata([one.loss for one in found]))[0, 1] > 0.99


def test_what_was_searched_is_closer_than_random_subsets_there(selection: Selection) -> None:
    score = selection.score
    assert all(one.percentile < 10 for one in score.searched)
    assert score.searched_loss < 0.9
    assert score.searched_size > N


def test_a_lopsided_subset_has_percentile_100(tmp_path: Path) -> None:
    for number in range(30):
        smooth(number, 16, 16).point(lambda value, k=number: value // (8 if k < 5 else 1)).save(  # type: ignore[misc]
            create(tmp_path / "source" / f"{number:02d}.png")
        )
    found = score(tmp_path / "source", [f"{number:02d}.png" for number in range(5)], OPTIONS)
    assert found.score.percentile == 100
    assert found.score.loss > 2
    assert found.score.effective_size < 5


def test_all_images_have_loss_0(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "copy")
    for subset in (source, tmp_path / "copy"):
        found = score(source, subset, OPTIONS)
        assert len(found.paths) == TOTAL
        assert found.score.loss == pytest.approx(0, abs=1e-9)
        assert found.score.percentile == 0
        assert found.score.effective_size == pytest.approx(TOTAL)
        assert set(found.score.ratios().values()) == {0.0}


@pytest.mark.parametrize("count", [1, 2, TOTAL - 1])
def test_any_number_of_images_is_scored(source: Path, count: int) -> None:
    paths = sorted(str(path.relative_to(source)) for path in source.rglob("*.png"))[:count]
    found = score(source, paths, OPTIONS)
    assert found.paths == tuple(paths)
    assert np.isfinite(list(found.score.divergences.values())).all()
    assert found.score.loss > 0
    assert 0 <= found.score.percentile <= 100


# What is not in the source


@pytest.mark.slow
def test_foreign_files_are_named_and_left_out_only_when_asked(source: Path, selection: Selection, out: Path) -> None:
    smooth(99, 16, 16).save(out / "new.png")
    with pytest.raises(InputError, match=r"1 file of subset '.*out' is not in source.*'new\.png': not in the source"):
        score(source, out)
    create(out / "broken.png", b"no picture")
    with pytest.raises(InputError, match=r"2 files of subset '.*out' are not in source.*--skip-foreign"):
        score(source, out)
    found = score(source, out, skip_foreign=True)
    check_equal(found, selection)
    assert [file.path for file in found.foreign] == ["broken.png", "new.png"]


def test_a_subset_of_other_images_is_refused(source: Path, tmp_path: Path) -> None:
    smooth(99, 16, 16).save(create(tmp_path / "subset" / "new.png"))
    (tmp_path / "empty").mkdir()
    for skip in (False, True):
        for name in ("subset", "empty"):
            with pytest.raises(InputError, match=rf"no image of subset '.*{name}' is in source '.*source'"):
                score(source, tmp_path / name, OPTIONS, skip_foreign=skip)
    with pytest.raises(InputError, match="no image of subset 'list of paths'"):
        score(source, [], OPTIONS)
    with pytest.raises(InputError, match="cannot read source"):
        score(source, tmp_path / "gone", OPTIONS)


def test_an_image_as_a_subset_is_refused(source: Path) -> None:
    with pytest.raises(InputError, match="is one file"):
        score(source, source / "class0" / "00.png", OPTIONS)


@pytest.mark.parametrize("name", ["broken.json", "other.json"])
def test_a_broken_manifest_as_a_subset_is_an_input_error(source: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "broken.json").write_bytes(b"{")
    (tmp_path / "other.json").write_bytes(b'{"format": 99}')
    for options in (None, OPTIONS):
        with pytest.raises(InputError, match="manifest"):
            score(source, tmp_path / name, options)


def test_files_of_the_source_that_are_not_usable_are_named(source: Path, selection: Selection, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "source")
    create(tmp_path / "source" / "broken.png", b"no picture")
    found = score(tmp_path / "source", selection.chosen, OPTIONS)
    check_equal(found, selection)
    assert [file.path for file in found.rejected] == ["broken.png"]
    assert found.total == TOTAL
    with pytest.raises(BadFilesError, match=r"1 file of source .* cannot be used: 'broken\.png'"):
        score(tmp_path / "source", selection.chosen, dataclasses.replace(OPTIONS, strict=True))


def test_a_source_without_images_is_an_input_error(selection: Selection, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images in source"):
        score(tmp_path / "empty", selection.chosen, OPTIONS)


def test_images_that_are_all_the_same_are_scored_with_a_warning(tmp_path: Path) -> None:
    for name in ("1", "2", "3"):
        smooth(1, 16, 16).save(create(tmp_path / "same" / f"{name}.png"))
    found = score(tmp_path / "same", ["1.png"], OPTIONS)
    assert found.paths == ("1.png",)
    assert found.score.loss == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_the_cache_and_the_processes_change_nothing(source: Path, selection: Selection, tmp_path: Path) -> None:
    for change in ({"cache": str(tmp_path / "cache")}, {"cache": str(tmp_path / "cache")}, {"workers": 2}):
        found = score(source, selection.chosen, dataclasses.replace(OPTIONS, **change))
        assert found.score == score(source, selection.chosen, OPTIONS).score
