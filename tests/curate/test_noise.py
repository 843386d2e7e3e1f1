"""Generated corpora, by the example of noise: what an option means, what an image depends on, what each family is."""

import hashlib
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from curate.corpora import Item, open_corpus
from curate.corpora import base as corpora_base
from curate.corpora import generated as generated_module
from curate.corpora import noise as noise_module
from curate.corpora.generated import Family
from curate.corpora.noise import CONTRASTS, FRACTIONS, SDS, NoiseCorpus
from curate.errors import UnknownCorpus
from curate.ingest import ingest

ROOT = Path(__file__).resolve().parents[2]


def items_of(option: str) -> list[Item]:
    corpus = open_corpus(option)
    return [item for part in corpus.parts() for item in corpus.read(part)]


def images_of(option: str) -> NDArray[np.uint8]:
    images = [item.data for item in items_of(option)]
    return np.stack([image for image in images if isinstance(image, np.ndarray)])


# ------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("option", "spec"),
    [
        ("noise:mix", "noise:mix?n=50000&seed=0&size=32"),
        ("noise:mix?size=64&n=007", "noise:mix?n=7&seed=0&size=64"),
        ("x=noise:uniform?seed=9223372036854775807", "noise:uniform?n=50000&seed=9223372036854775807&size=32"),
        ("synthetic:shapes?n=1000000000", "synthetic:shapes?n=1000000000&seed=0&size=32"),
    ],
)
def test_every_default_is_in_the_spec(option: str, spec: str) -> None:
    corpus = open_corpus(option)
    assert corpus.spec == spec
    assert (corpus.classes, corpus.builtin) == (None, False)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("noise:white", "noise: has no family 'white'; expected one of uniform, gaussian, smooth, channel, mix"),
        ("synthetic:noise", "synthetic: has no family 'noise'; expected one of shapes, aerial"),
        ("noise:mix?sd=1", r"noise: has no option 'sd' \(in mix\?sd=1\); expected one of n, seed, size"),
        ("noise:mix?n=5&n=6", "gives an option twice"),
        ("noise:mix?n=0", "noise:mix: n=0 is not a number of images from 1 to 1,000,000,000"),
        ("noise:mix?n=1000000001", "n=1000000001 is not a number of images from 1 to"),
        ("noise:mix?n=many", "n=many is not a number"),
        ("noise:mix?n=", "n= is not a number"),
        ("noise:mix?n=²", "n=² is not a number"),
        ("noise:mix?n=" + "9" * 30, "is not a number of images"),
        ("noise:mix?seed=-1", "noise:mix: seed=-1 is not a seed from 0 to 9,223,372,036,854,775,807"),
        ("noise:mix?size=7", "noise:mix: size=7 is not a side in px from 8 to 1,024"),
        ("noise:mix?size=1025", "size=1025 is not a side in px from 8 to 1,024"),
    ],
)
def test_bad_options(option: str, words: str) -> None:
    with pytest.raises(UnknownCorpus, match=words):
        open_corpus(option)


def test_identity_is_over_version_and_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("uniform", "mix", "mix?n=5", "mix?n=5&seed=1", "mix?n=5&size=16")
    seen = [open_corpus(f"noise:{option}").identity() for option in options]
    changed = Family(draw=NoiseCorpus.families["mix"].draw, version=NoiseCorpus.families["mix"].version + 1)
    monkeypatch.setattr(NoiseCorpus, "families", {**NoiseCorpus.families, "mix": changed})
    seen.append(open_corpus("noise:mix").identity())
    assert len(set(seen)) == len(options) + 1
    assert open_corpus("noise:uniform").identity() == seen[0]


# ------------------------------------------------------------------------------------- what an image depends on


@pytest.mark.parametrize("family", NoiseCorpus.families)
def test_an_image_depends_on_family_seed_index_and_size_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images_NHWC = images_of(f"noise:{family}?n=50&size=16")
    assert images_NHWC.shape == (50, 16, 16, 3)
    assert len({image.tobytes() for image in images_NHWC}) == 50
    assert np.array_equal(images_of(f"noise:{family}?n=20&size=16"), images_NHWC[:20])
    monkeypatch.setattr(corpora_base, "PART_SIZE", 7)
    corpus = open_corpus(f"noise:{family}?n=50&size=16")
    parts = corpus.parts()
    assert [part.count for part in parts] == [7] * 7 + [1]
    backwards = [[item.data for item in corpus.read(part)] for part in parts[::-1]]
    assert np.array_equal(
        np.stack([image for part in backwards[::-1] for image in part if image is not None]), images_NHWC
    )
    other = images_of(f"noise:{family}?n=50&size=16&seed=1")
    assert not {image.tobytes() for image in other} & {image.tobytes() for image in images_NHWC}


def test_families_share_no_image() -> None:
    images = [image.tobytes() for family in NoiseCorpus.families for image in images_of(f"noise:{family}?n=40")]
    assert len(set(images)) == 40 * len(NoiseCorpus.families)


def test_far_images_cost_what_near_ones_do() -> None:
    corpus = open_corpus("noise:uniform?n=400000000")
    tracemalloc.start()
    parts = corpus.parts()
    last = list(corpus.read(parts[-1]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert last[-1].uri == "uniform/399999999"
    assert sum(part.count for part in parts) == 400_000_000
    assert peak < 60e6  # a hundred thousand parts, and 4 k images


# A change means that the images changed: raise noise._VERSION with it. Philox's stream and integer sums are promised to
# be the same everywhere, so these are exact.
GOLDEN = {
    "uniform": "63c7f84f2a4da721",
    "gaussian": "362324826375b93e",
    "smooth": "6df3ceb7f8a0b961",
    "channel": "e03832c5e898c82d",
    "mix": "cac173a70c35a17e",
}


def sha256_of(family: str) -> str:
    return hashlib.sha256(images_of(f"noise:{family}?n=30&seed=3&size=24").tobytes()).hexdigest()


@pytest.mark.parametrize("family", NoiseCorpus.families)
def test_golden_images(family: str) -> None:
    assert sha256_of(family)[:16] == GOLDEN[family]


def test_another_process_draws_the_same() -> None:
    code = """
import hashlib
from curate.corpora import open_corpus
corpus = open_corpus("noise:mix?n=30&seed=3&size=24")
(part,) = corpus.parts()
print(hashlib.sha256(b"".join(item.data.tobytes() for item in corpus.read(part))).hexdigest())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == sha256_of("mix")


# --------------------------------------------------------------------------------------------- what the families are


def spectrum(images_NHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean power (H, W) over images and channels, without the means."""
    field = images_NHWC - images_NHWC.mean(axis=(1, 2), keepdims=True)
    power: NDArray[np.float64] = (np.abs(np.fft.fft2(field, axes=(1, 2))) ** 2).mean(axis=(0, 3))
    power /= power.sum()
    return power


def test_uniform_is_flat_and_white() -> None:
    images_NHWC = images_of("noise:uniform?n=200")
    counts = np.bincount(images_NHWC.ravel(), minlength=256)
    assert counts.min() > 0.9 * counts.mean()
    assert counts.max() < 1.1 * counts.mean()
    power = np.delete(spectrum(images_NHWC).ravel(), 0)
    assert power.max() < 1.25 * power.mean()
    red, green, blue = images_NHWC.reshape(-1, 3).T
    assert abs(np.corrcoef([red, green, blue]) - np.eye(3)).max() < 0.01


def test_gaussian_has_the_stated_moments() -> None:
    images_NHWC = images_of("noise:gaussian?n=160") / 255
    for turn, sd in enumerate(SDS[:3]):
        some = images_NHWC[turn :: len(SDS)]
        assert some.mean() == pytest.approx(0.5, abs=0.002)
        assert some.std() == pytest.approx(sd, rel=0.03)  # 0.2 loses a little to clipping
        assert np.quantile(some, 0.8413) == pytest.approx(0.5 + sd, rel=0.01)  # one sd above the mean
    wide = images_NHWC[3 :: len(SDS)]
    assert wide.mean() == pytest.approx(0.5, abs=0.003)
    assert (wide == 0).mean() == pytest.approx(0.106, abs=0.005)  # beyond 1.25 sd, clipped
    assert np.quantile(wide, 0.75) == pytest.approx(0.5 + 0.6745 * SDS[3], abs=0.005)


@pytest.mark.parametrize("size", [32, 50])
@pytest.mark.parametrize("place", range(len(FRACTIONS)))
def test_smooth_has_its_power_below_its_scale(place: int, size: int) -> None:
    images_NHWC = images_of(f"noise:smooth?n=400&size={size}")[place :: len(FRACTIONS)]
    weak_NHWC = images_NHWC[:: len(CONTRASTS)]  # not clipped, which would make harmonics
    power_HW, limit = spectrum(weak_NHWC), 1 / (size // FRACTIONS[place])
    high = np.abs(np.fft.fftfreq(size)) > limit
    assert power_HW[high].sum() + power_HW[:, high].sum() < 0.03
    low = np.abs(np.fft.fftfreq(size)) <= limit / 2 + 1e-9
    assert power_HW[np.ix_(low, low)].sum() > 0.6


def test_smooth_is_normalised_in_contrast_and_partly_grey() -> None:
    images_NHWC = images_of("noise:smooth?n=72")
    contrast_N = np.array([CONTRASTS[index // len(FRACTIONS) % len(CONTRASTS)] for index in range(72)])
    unclipped = contrast_N < 0.15
    means_NC, sds_NC = images_NHWC.mean(axis=(1, 2)) / 255, images_NHWC.std(axis=(1, 2)) / 255
    assert means_NC[unclipped] == pytest.approx(0.5, abs=0.002)
    assert sds_NC[unclipped] == pytest.approx(0.1, abs=0.002)
    assert (np.abs(sds_NC[contrast_N == 0.2] - 0.2) < 0.02).all()
    grey_N = (images_NHWC == images_NHWC[..., :1]).all(axis=(1, 2, 3))
    assert grey_N.tolist() == [index // 12 % 3 == 2 for index in range(72)]


def test_channels_differ_in_level_contrast_and_scale() -> None:
    images_NHWC = images_of("noise:channel?n=300") / 255
    means_NC, sds_NC = images_NHWC.mean(axis=(1, 2)), images_NHWC.std(axis=(1, 2))
    assert means_NC.std() > 0.2
    assert means_NC.mean() == pytest.approx(0.5, abs=0.03)
    assert sds_NC.min() < 0.07
    assert sds_NC.max() > 0.3
    assert abs(np.corrcoef(means_NC.T) - np.eye(3)).max() < 0.2
    step_y_NC = np.abs(np.diff(images_NHWC, axis=1)).mean(axis=(1, 2)) / sds_NC
    step_x_NC = np.abs(np.diff(images_NHWC, axis=2)).mean(axis=(1, 2)) / sds_NC
    ratio_NC = step_y_NC / step_x_NC
    assert (ratio_NC > 2).mean() > 0.2  # finer along y
    assert (ratio_NC < 0.5).mean() > 0.2
    white_NC = np.minimum(step_y_NC, step_x_NC) > 0.9  # neighbours of white noise are 1.13 sd apart
    assert 0.05 < white_NC.mean() < 0.16


def test_mix_is_all_families_in_turn() -> None:
    images_NHWC = images_of("noise:mix?n=96") / 255
    assert images_NHWC[0::4].std(axis=(1, 2, 3)) == pytest.approx(0.2887, abs=0.01)  # uniform: 1 / sqrt(12)
    sds_N = images_NHWC[1::4].std(axis=(1, 2, 3))  # Gaussian, the sds in turn
    assert [float(sd) for sd in sds_N[:3]] == pytest.approx(SDS[:3], rel=0.06)
    steps_N = np.abs(np.diff(images_NHWC[2::4], axis=1)).mean(axis=(1, 2, 3))
    assert steps_N[3::4].mean() < 0.3 * steps_N[0::4].mean()  # smooth: the scales in turn


def test_the_table_of_the_normal_distribution() -> None:
    quantiles = noise_module._quantiles()
    assert np.array_equal(quantiles, -quantiles[::-1])
    assert quantiles.std() == pytest.approx(1, abs=1e-4)
    assert (np.diff(quantiles) > 0).all()


def test_ingest_stores_noise_as_it_is(tmp_path: Path) -> None:
    corpus = open_corpus("noise:mix?n=12&size=16")
    done = ingest(corpus, size=16, work=tmp_path)
    assert done.decoded == 12
    assert done.store.document["builtin"] is False
    assert ingest(open_corpus("noise:mix?n=12&size=16"), size=16, work=tmp_path).decoded == 0
    assert generated_module.GeneratedCorpus.fits(tmp_path) is False
