from __future__ import annotations

import io
import sys
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, check_no_weights, smooth, strict_json
from PIL import Image
from torch import Tensor

from imgsubset import compare
from imgsubset.decoding.decode import FID_RESOLUTION, decode_image, square_bytes
from imgsubset.errors import UsageError
from imgsubset.features.extractors import EXTRACTORS, find_extractor_spec, is_raw
from imgsubset.features.pretrained import INCEPTION_LAYERS, Inception
from imgsubset.statistics.generative_metrics import frechet_distance

fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
resampling = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")


def theirs(numbers: int, file: Path) -> Any:
    return fidelity.FeatureExtractorInceptionV3("inception", [str(numbers)], str(file))


def floats(path: Path) -> Tensor:
    """The pixels that the network is given, (1, 299, 299, 3)."""
    (pixels,) = decode_image(path, [FID_RESOLUTION]).pixels
    return torch.from_numpy(np.frombuffer(pixels, np.float32).reshape(1, 299, 299, 3).copy())


def as_theirs(path: Path) -> Tensor:
    """The bytes that torch-fidelity gives its network, (1, 3, H, W)."""
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None]


SHAPES = [(32, 32), (299, 299), (300, 298), (1, 7), (640, 41), (700, 900)]


@pytest.mark.slow
@pytest.mark.parametrize("band", [1 << 24, 5000])
@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_are_to_the_bit_those_of_torch_fidelity(
    shape: tuple[int, int], band: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgsubset.decoding.decode.BAND_PIXELS", band)
    for name in ("a.png", "a.jpg"):
        smooth(3, *shape).save(tmp_path / name)
        expected = resampling.interpolate_bilinear_2d_like_tensorflow1x(
            as_theirs(tmp_path / name).float(), size=(299, 299), align_corners=False
        )
        assert torch.equal(floats(tmp_path / name).permute(0, 3, 1, 2), expected)


def test_orientation_and_transparency_are_ignored_as_they_are_there(tmp_path: Path) -> None:
    picture = smooth(1, 40, 20)
    picture.save(tmp_path / "plain.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    seen = picture.copy()
    seen.putalpha(100)
    seen.save(tmp_path / "seen.png")
    for name in ("turned.png", "seen.png"):
        assert torch.equal(floats(tmp_path / name), floats(tmp_path / "plain.png"))


def test_pixels_of_16_bits_are_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 5), 40000, np.uint16)).save(tmp_path / "deep.png")
    assert floats(tmp_path / "deep.png").unique().tolist() == [round(40000 / 65535 * 255)]


def test_other_sizes_stand_beside_it_in_any_order(tmp_path: Path) -> None:
    smooth(1, 90, 70).save(tmp_path / "a.png")
    alone = {size: decode_image(tmp_path / "a.png", [size]).pixels[0] for size in (FID_RESOLUTION, 8, 64)}
    for sizes in ([FID_RESOLUTION, 8, 64], [8, FID_RESOLUTION, 64], [64, 8, FID_RESOLUTION]):
        found = decode_image(tmp_path / "a.png", sizes).pixels
        assert list(found) == [alone[size] for size in sizes]
        assert [len(pixels) for pixels in found] == [square_bytes(size) for size in sizes]


@pytest.mark.slow
@pytest.mark.parametrize("numbers", INCEPTION_LAYERS)
def test_a_vector_is_that_of_torch_fidelity(numbers: int, inception_file: Path, tmp_path: Path) -> None:
    smooth(3, 50, 70).save(tmp_path / "a.png")
    pixels = floats(tmp_path / "a.png")
    found = Inception(numbers, inception_file)(torch.cat([255 - pixels, pixels]))[1:]  # whatever stands beside it
    (expected,) = theirs(numbers, inception_file)(as_theirs(tmp_path / "a.png"))
    assert found.shape == (1, numbers, 1, 1)
    torch.testing.assert_close(found[:, :, 0, 0], expected, rtol=1e-4, atol=1e-6)


def test_the_table_knows_each_of_its_layers() -> None:
    for numbers in INCEPTION_LAYERS:
        kind = EXTRACTORS[f"inception{numbers}"]
        assert (kind.numbers, kind.size, kind.raw, kind.weights) == (numbers, FID_RESOLUTION, True, True)
    assert [name for name in EXTRACTORS if is_raw(name)] == [f"inception{numbers}" for numbers in INCEPTION_LAYERS]
    assert Inception.raw
    assert not is_raw("embeddings")
    with pytest.raises(UsageError, match="unknown extractor 'inception128'; did you mean"):
        find_extractor_spec("inception128")


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UsageError, match=r"^feature inception64 needs torch-fidelity: pip install 'imgsubset\[fid\]'$"):
        Inception(64)


@pytest.mark.parametrize("error", [urllib.error.URLError("no\nnetwork"), RuntimeError("x" * 900)])
def test_a_download_that_fails_says_what_to_do(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    with pytest.raises(
        UsageError, match=r"download https://\S+ elsewhere, and name that file by --weights-file"
    ) as caught:
        Inception(64)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


class Boom:
    """What would be run by a file that is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (3,)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot read weights_file '.*': No such file"),
        (b"<html>", "is no state_dict"),
        (Boom(), "is no state_dict"),
        ({"a": torch.zeros(3)}, "is not the state_dict of torch-fidelity's Inception network"),
        ([1], "is not the state_dict of torch-fidelity's Inception network"),
    ],
)
def test_what_holds_no_weights_of_the_network_is_refused(content: Any, complaint: str, tmp_path: Path) -> None:
    check_no_weights(lambda file: Inception(64, file), content, complaint, tmp_path / "weights.pth")


@pytest.mark.slow
def test_neither_the_network_nor_its_weights_disturb_the_global_generator(
    inception_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torch.load(io.BytesIO(inception_file.read_bytes()), weights_only=True)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *arguments, **named: state)
    before = torch.get_rng_state()
    downloaded = Inception(64)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(weight.requires_grad for weight in downloaded.parameters())
    for one, other in zip(downloaded.parameters(), Inception(64, inception_file).parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_a_comparison_has_the_fid_and_the_kid_of_torch_fidelity(inception_file: Path, tmp_path: Path) -> None:
    """Of pictures of many sizes, JPEGs that would be decoded smaller among them."""
    torch_fidelity = pytest.importorskip("torch_fidelity")
    shapes = [(40, 30), (700, 650), (299, 31), (64, 64), (90, 400)]
    for number, shape in enumerate(2 * shapes):
        folder = tmp_path / ("one" if number % 2 else "other")
        folder.mkdir(exist_ok=True)
        smooth(number, *shape).save(folder / f"{number}.{'png' if number % 3 else 'jpg'}")
    folders = tmp_path / "one", tmp_path / "other"
    found = compare(
        *folders, features="inception64", weights_file=str(inception_file), device="cpu", workers=0, cache=None
    )
    expected = torch_fidelity.calculate_metrics(
        input1=str(folders[0]), input2=str(folders[1]), fid=True, kid=True, kid_subsets=1, kid_subset_size=5,
        feature_layer_fid="64", feature_layer_kid="64", feature_extractor_weights_path=str(inception_file),
        cuda=False, cache=False, verbose=False, save_cpu_ram=True, batch_size=1,
    )  # fmt: skip
    frechet, (kid,) = found.divergences["frechet"], found.kid.values()
    assert frechet.value == pytest.approx(expected["frechet_inception_distance"], rel=1e-4)
    assert kid.value == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-3, abs=1e-6)
    assert frechet.p_value >= 1 / 201
    assert (frechet.p_value * 201) % 1 == pytest.approx(0, abs=1e-9)
    # The mean over all spaces, of one space, is its value.
    assert found.loss.ratio == pytest.approx(found.loss.value)


@pytest.mark.slow
def test_a_score_has_the_fid_from_the_whole_too(
    inception_file: Path, tmp_path: Path, imgsubset: Callable[..., Run]
) -> None:
    for number in range(5):
        smooth(number, 40, 30).save(tmp_path / f"{number}.png")
    (tmp_path / "some.txt").write_text("0.png\n3.png\n4.png\n")
    run = imgsubset("score", tmp_path, tmp_path / "some.txt", "--features", "inception64", "--workers", "0",
                    "--weights-file", inception_file, "--device", "cpu", "--json")  # fmt: skip
    fid = strict_json(run.out)["score"]["searched"]["blocks"][0]["divergences"]["fid"]
    network = theirs(64, inception_file)
    features = torch.cat([network(as_theirs(tmp_path / f"{number}.png"))[0] for number in range(5)]).double()
    assert fid["value"] == pytest.approx(frechet_distance(features, features[[0, 3, 4]]), rel=1e-4)
    assert fid["random_mean"] > 0 < fid["random_std"]
