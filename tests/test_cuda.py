"""The same code on a GPU; skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import noise
from PIL import Image
from sources import goal_of, made_up_source, noised_loss, random_rows, searched

from imgsubset import Options, Weights, compare, export, score, select, split
from imgsubset.search.choices import Choices, Stratum, summed_by_owner
from imgsubset.search.exchange import Exchanges
from imgsubset.search.quadratic import quadratic_form
from imgsubset.search.ranking import herding_order
from imgsubset.statistics.divergences import frechet
from imgsubset.statistics.moments import ImageMoments, compute_all_moments, compute_subset_moments
from imgsubset.statistics.objective import Objective
from imgsubset.statistics.permutation import run_two_sample_test

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
ON_GPU = Options(candidates=64, steps=50, device="cuda")
ROOM = 512 << 20  # bytes that a small GPU has beside what is held already


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gpu")
    for number in range(200):
        path = root / f"class{number % 4}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noise(number, 20, 20)).save(path)
    return root


@pytest.fixture
def little_memory() -> Iterator[None]:
    """A GPU that is nearly full."""
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + ROOM) / whole)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Whatever waits for the GPU raises."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def rounded() -> Iterator[None]:
    """A caller that multiplies in TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


def on_gpu(images: ImageMoments) -> ImageMoments:
    return ImageMoments(images.table.cuda(), images.positions)


def goals(channels: int = 64, n: int = 100, total: int = 2000) -> tuple[Objective, Objective]:
    """The same objective on the CPU and on the GPU."""
    images = made_up_source(total, channels)
    return goal_of(images, n), goal_of(on_gpu(images), n)


# Commands


def test_a_selection_on_a_gpu_is_as_close_as_on_the_cpu(folder: Path) -> None:
    here, there = (select(folder, 20, Options(candidates=256, device=device)) for device in ("cpu", "cuda"))
    assert there.device == torch.cuda.get_device_name()
    assert there.score.searched_loss == pytest.approx(here.score.searched_loss, rel=0.3)  # other random numbers
    for one, other in zip(here.score.searched, there.score.searched, strict=True):
        for name, mean in one.random_mean.items():
            assert other.random_mean[name] == pytest.approx(mean, rel=0.15)


@pytest.mark.parametrize("words", [{}, {"stratify": "share"}, {"group_by": r"(\d\d?)\.png"}, {"dedupe": True}], ids=str)
def test_the_same_seed_chooses_the_same_images_on_a_gpu(folder: Path, words: dict[str, object]) -> None:
    first, again = (select(folder, 20, ON_GPU, **words) for _ in range(2))
    assert first.ranked == again.ranked
    assert first.score.searched_loss == again.score.searched_loss
    assert select(folder, 20, ON_GPU, seed=1, **words).chosen != first.chosen


def test_chains_are_as_many_on_every_device(folder: Path) -> None:
    assert select(folder, 20, ON_GPU).options.chains == select(folder, 20, ON_GPU, device="cpu").options.chains


def test_a_split_on_a_gpu_is_disjoint_and_repeats(folder: Path) -> None:
    parts = {"train": "50%", "val": 30, "test": 30}
    first, again = (split(folder, parts, ON_GPU) for _ in range(2))
    chosen = [path for part in first.values() for path in part.chosen]
    assert len(chosen) == len(set(chosen)) == 160
    assert {name: part.chosen for name, part in first.items()} == {name: part.chosen for name, part in again.items()}


def test_a_selection_of_a_gpu_is_scored_alike_on_both(folder: Path, tmp_path: Path) -> None:
    selection = select(folder, 20, ON_GPU)
    export(selection, tmp_path / "out")
    there = score(folder, tmp_path / "out", device="cuda")
    here = score(folder, tmp_path / "out", device="cpu")
    assert there.score.searched_loss == pytest.approx(selection.score.searched_loss, rel=1e-6)
    # Calibrated by other random subsets.
    assert here.score.searched_loss == pytest.approx(there.score.searched_loss, rel=0.15)
    for one, other in zip(here.score.searched, there.score.searched, strict=True):
        for name, value in one.divergences.items():
            assert other.divergences[name] == pytest.approx(value, rel=1e-2)


def test_a_comparison_is_the_same_on_both(folder: Path) -> None:
    here, there = (compare(folder / "class0", folder / "class1", device=device) for device in ("cpu", "cuda"))
    for name, one in here.divergences.items():
        assert there.divergences[name].value == pytest.approx(one.value, rel=1e-2)
        assert there.divergences[name].floor_mean == pytest.approx(one.floor_mean, rel=0.1)


@pytest.mark.usefixtures("rounded")
def test_a_caller_s_rounding_does_not_change_the_subset(folder: Path) -> None:
    rounded = select(folder, 20, ON_GPU)
    torch.set_float32_matmul_precision("highest")
    assert select(folder, 20, ON_GPU).ranked == rounded.ranked


# Little memory


def test_little_memory_gives_the_same_subset(folder: Path, request: pytest.FixtureRequest) -> None:
    expected = select(folder, 20, ON_GPU)
    request.getfixturevalue("little_memory")
    found = select(folder, 20, ON_GPU)
    assert found.device == expected.device
    assert found.ranked == expected.ranked


def test_a_search_takes_little_memory_beside_the_images() -> None:
    images = on_gpu(made_up_source(100_000, 64))
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    goal = goal_of(images, 10_000)
    found = searched(goal, candidates=512, steps=20)
    herding_order(quadratic_form(goal), found.rows[0])
    assert torch.cuda.max_memory_allocated() - held < ROOM


# Its parts


@pytest.mark.parametrize("n", [1, 40, 64, 65, 500])
def test_losses_are_those_of_the_cpu(n: int) -> None:
    here, there = goals(n=n)
    rows = random_rows(3 * here.batch + 5, n, here.total)  # the last batch is a small one
    own, other = (goal.divergences(which) for goal, which in ((here, rows), (there, rows.cuda())))
    torch.testing.assert_close(other.cpu(), own, rtol=5e-3, atol=1e-7)


def test_the_last_batch_of_draws_may_be_small() -> None:
    _, goal = goals(channels=8)
    found = searched(goal, candidates=8 * (2 * goal.batch + 1), steps=0)
    assert found.trace[-1].work == 8 * (2 * goal.batch + 1)
    again = searched(goal, candidates=8 * (2 * goal.batch + 1), steps=0)
    assert torch.equal(found.rows, again.rows)


@pytest.mark.parametrize("n", [20, 200])
def test_noise_is_distributed_as_on_the_cpu(n: int) -> None:
    images, losses = made_up_source(500, 48), []
    for place in (images, on_gpu(images)):
        goal = goal_of(place, n)
        losses.append(noised_loss(goal, random_rows(1, n, 500).to(goal.device).expand(400, -1), 1.0, 1))
    here, there = losses
    assert float(there.mean()) == pytest.approx(float(here.mean()), rel=0.15)


@pytest.mark.parametrize("channels", [8, 32, 33, 128])
def test_eigenvalues_are_those_of_the_cpu(channels: int) -> None:
    images = made_up_source(1000, channels)
    rows = random_rows(40, 300, 1000)
    here, there = (
        frechet(compute_subset_moments(place, which), compute_all_moments(place))
        for place, which in ((images, rows), (on_gpu(images), rows.cuda()))
    )
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-6)


def test_groups_are_summed_in_their_order_and_as_on_the_cpu() -> None:
    sizes = torch.randint(1, 30, (200,), generator=torch.Generator().manual_seed(1))
    z = torch.randn(int(sizes.sum()), 300, generator=torch.Generator().manual_seed(2))
    owner = torch.repeat_interleave(sizes)
    here = summed_by_owner(z, owner, sizes)
    there = [summed_by_owner(z.cuda(), owner.cuda(), sizes.cuda()) for _ in range(5)]
    torch.testing.assert_close(there[0].cpu(), here, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(one, there[0]) for one in there)


def grouped(total: int) -> Choices:
    """Groups of one to five rows in two classes."""
    rows = np.random.default_rng(1).permutation(total)
    strata, first = [], 0
    for group in (0, 1):
        for size in (1, 2, 5):
            strata.append(Stratum(group, torch.tensor(rows[first : first + 20 * size].reshape(20, size)).cuda()))
            first += 20 * size
    return Choices(total, strata[0].rows.new_empty(0), strata, {0: 40, 1: 30})


@pytest.mark.parametrize("kind", ["rows", "groups"])
@pytest.mark.usefixtures("no_waiting")
def test_a_sweep_does_not_wait_for_the_gpu(kind: str) -> None:
    _, goal = goals(channels=16, n=70, total=500)
    choices = grouped(500) if kind == "groups" else Choices.free(500, 70, goal.device)
    rows = choices.draw(1, torch.Generator("cuda").manual_seed(0))
    chains = Exchanges(quadratic_form(goal), rows, 50, 0, choices)
    chains.sweep(1e-3)  # what is set up once may wait
    torch.cuda.set_sync_debug_mode("error")
    for _ in range(3):
        chains.sweep(1e-3)


def test_the_bookkeeping_of_groups_stays_exact() -> None:
    _, goal = goals(channels=16, n=70, total=500)
    choices = grouped(500)
    rows = choices.draw(1, torch.Generator("cuda").manual_seed(0))
    form = quadratic_form(goal)
    chains = Exchanges(form, rows, 50, 0, choices)
    chains.step(0.5)
    torch.testing.assert_close(chains.residual, form.residual(choices.rows(chains.members)), rtol=0, atol=1e-5)


def test_a_floor_is_that_of_the_cpu_but_for_its_deals() -> None:
    first, second = made_up_source(60, 12, seed=1), made_up_source(40, 12, seed=2)
    [here] = run_two_sample_test([first], [second], 1, 400)
    [there] = run_two_sample_test([on_gpu(first)], [on_gpu(second)], 1, 400)
    torch.testing.assert_close(there.values.cpu(), here.values, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(there.floor.mean(0).cpu(), here.floor.mean(0), rtol=0.2, atol=0)


def test_weights_of_one_divergence_are_searched_too() -> None:
    images = on_gpu(made_up_source(500, 8))
    for name in ("kl", "frechet"):
        found = searched(goal_of(images, 40, Weights.parse(f"{name}=1")), candidates=64, steps=50)
        assert float(found.losses[0]) < 0.3
