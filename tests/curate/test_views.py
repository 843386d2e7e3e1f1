"""Views: stored logits are the teacher's of the pixels that a trainer makes again, at any number of threads."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import curate.forwards
import curate.run
import shards.pack
from curate.choice import Choice
from curate.corpora import open_corpus
from curate.errors import CurateError
from curate.forecast import MAKE, REUSE, forecast
from curate.run import Curated, Sources
from curate.views import TeacherViews
from distill.models import build
from distill.models.teachers import load_classifier, save_classifier
from manifests.errors import OutputConflict
from shards.augment import crop_and_flip
from shards.codec import Encoded
from shards.index import ShardFolder
from shards.layout import Block, block_rows
from shards.read import read_shard
from shards.sources import LocalBlocks
from shards.stream import Stream
from shards.verify import verify
from tests.curate.make import SIZE, Toy, View, contents, encode, picture, pictures, write_folder

CHOICE = Choice(budget=12, holdout=0.25, seed=5)
VIEWS = 3


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 3 images, shards of 2 blocks."""
    torch.set_num_threads(1)
    monkeypatch.setattr(shards.pack, "block_rows", lambda size: 3)
    monkeypatch.setattr(shards.pack, "shard_rows", lambda size: 6)


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(corpora=[open_corpus(f"c={write_folder(tmp_path / 'in', pictures(20))}")])


def run(sources: Sources, root: Path, teacher: Any = None, **options: Any) -> Curated:
    choice = options.pop("choice", CHOICE)
    defaults: dict[str, Any] = {"views": VIEWS, "work": root / "work", "out": root / "out"}
    return curate.run.curate(sources, teacher or Toy(), choice, **{**defaults, **options})


def blocks_of(folder: ShardFolder) -> Iterator[Block]:
    for shard in folder.shards:
        yield from read_shard(folder.path, shard)


def check(folder: ShardFolder, teacher: Any, *, atol: float = 0) -> None:
    """Every stored logit is what the teacher says of the pixels that transfer-set.json describes."""
    facts = {name: folder.document["views"][name] for name in ("seed", "flip", "pad")}
    for block in blocks_of(folder):
        stored = block.logits_NVK
        assert stored is not None
        assert stored.shape == (len(block), folder.views, teacher.num_classes)
        for view in range(folder.views):
            pixels = crop_and_flip(torch.from_numpy(block.images_NCHW), block.keys, view=view, **facts)
            with torch.inference_mode():
                wanted = teacher(pixels).logits_BK.float().numpy()
            np.testing.assert_allclose(stored[:, view], wanted.astype(np.float16), rtol=0, atol=atol)


def test_stored_logits_are_those_of_the_pixels_that_a_trainer_makes(sources: Sources, tmp_path: Path) -> None:
    result = run(sources, tmp_path)
    assert result.folder.document["views"] == {"count": VIEWS, "seed": 5, "flip": True, "pad": 4}
    assert result.folder.views == VIEWS
    assert (result.forwards, len(result.folder.shards)) == (20 + 12 * VIEWS, 3)
    check(result.folder, Toy())
    assert verify(result.folder.path).problems == ()
    views = [logits[:, v] for v in range(VIEWS) if (logits := next(blocks_of(result.folder)).logits_NVK) is not None]
    assert len({view.tobytes() for view in views}) == VIEWS


def test_images_that_are_stored_encoded(tmp_path: Path) -> None:
    files = {f"{n}.png": encode(picture(n, height=66, width=66)) for n in range(8)}
    sources = Sources(corpora=[open_corpus(f"c={write_folder(tmp_path / 'in', files)}")])
    folder = run(sources, tmp_path, Toy(input_size=66)).folder
    assert all(isinstance(block.images, Encoded) for block in blocks_of(folder))
    check(folder, Toy())


def test_a_stream_hands_out_the_view_of_its_epoch(sources: Sources, tmp_path: Path) -> None:
    folder = run(sources, tmp_path).folder
    stream, facts = Stream(LocalBlocks(folder, "train"), batch_size=4, seed=1), folder.document["views"]
    for number in range(2 * (VIEWS + 1)):
        epoch = number // 2
        batch = next(stream)
        assert stream.epoch == epoch
        pixels = torch.from_numpy(batch.images_BCHW)
        augmented = crop_and_flip(
            pixels, batch.keys, seed=facts["seed"], view=epoch % VIEWS, flip=facts["flip"], pad=facts["pad"]
        )
        assert batch.logits_BK is not None
        assert np.array_equal(batch.logits_BK, Toy()(augmented).logits_BK.numpy().astype(np.float16))


def test_threads_and_place_change_no_byte(sources: Sources, tmp_path: Path) -> None:
    folders = [run(sources, tmp_path / str(threads), threads=threads).folder for threads in (1, 2, 3)]
    first, *others = (contents(folder.path) for folder in folders)
    assert all(other == first for other in others)


def test_every_batch_has_one_shape_and_one_thread(sources: Sources, tmp_path: Path) -> None:
    run(sources, tmp_path, views=0)
    teacher = Toy()
    run(sources, tmp_path, teacher, out=tmp_path / "with")
    assert teacher.batches == [(block_rows(SIZE), 3, SIZE, SIZE)] * (4 * VIEWS)  # 9 images and 3, in blocks of 3
    assert teacher.threads == {1}
    assert torch.get_num_threads() == 1


def test_a_rerun_asks_nothing_and_a_half_made_set_only_what_is_missing(sources: Sources, tmp_path: Path) -> None:
    first = run(sources, tmp_path)
    before, teacher = contents(first.folder.path), Toy()
    assert (run(sources, tmp_path, teacher).forwards, teacher.batches) == (0, [])
    (first.folder.path / "shards" / "train-000001.tar").unlink()
    (first.folder.path / "transfer-set.json").unlink()
    assert run(sources, tmp_path).forwards == first.folder.shards[1].rows * VIEWS
    assert contents(first.folder.path) == before


def test_the_same_images_without_views_are_the_set_they_were(sources: Sources, tmp_path: Path) -> None:
    plain = run(sources, tmp_path, views=0).folder
    with_views = run(sources, tmp_path, out=tmp_path / "with").folder
    assert (plain.views, plain.document.get("views"), plain.document["plan"].get("views")) == (0, None, None)
    assert plain.id != with_views.id
    for one, other in zip(blocks_of(plain), blocks_of(with_views), strict=True):
        assert np.array_equal(one.images_NCHW, other.images_NCHW)
        assert one.logits_NVK is None


def test_another_number_of_views_is_another_set(sources: Sources, tmp_path: Path) -> None:
    run(sources, tmp_path)
    teacher = Toy()
    with pytest.raises(OutputConflict, match=r"out was made differently: views\.count was 3, now 2"):
        run(sources, tmp_path, teacher, views=2)
    assert teacher.batches == []


def test_a_teacher_to_which_mirrored_images_are_strange_sees_none(sources: Sources, tmp_path: Path) -> None:
    folder = run(sources, tmp_path, Toy(flip=False)).folder
    assert folder.document["views"]["flip"] is False
    check(folder, Toy())


@pytest.mark.parametrize(("bad", "words"), [(7e4, "70000"), (-7e4, "-70000"), (float("nan"), "nan")])
def test_what_float16_cannot_hold_is_refused(sources: Sources, tmp_path: Path, bad: float, words: str) -> None:
    class Loud(Toy):
        def __call__(self, images_BCHW: torch.Tensor, /) -> View:
            view = super().__call__(images_BCHW)
            if scored:
                view.logits_BK[1, 2] = bad
            return view

    scored = False
    run(sources, tmp_path, views=0, out=tmp_path / "plain")
    scored = True
    with pytest.raises(
        CurateError, match=rf"logit for 'blue' in view 0 of image \w+ is {words}; expected a number tha"
    ):
        run(sources, tmp_path, Loud())
    assert not (tmp_path / "out" / "transfer-set.json").exists()
    assert not list((tmp_path / "out").rglob("*.part"))


def test_large_logits_that_float16_holds_are_kept(tmp_path: Path) -> None:
    class Large(Toy):
        def __call__(self, images_BCHW: torch.Tensor, /) -> View:
            view = super().__call__(images_BCHW)
            view.logits_BK[:, 0] = 65504.0
            return view

    sources = Sources(corpora=[open_corpus(f"c={write_folder(tmp_path / 'in', pictures(4))}")])
    for block in blocks_of(run(sources, tmp_path, Large()).folder):
        assert block.logits_NVK is not None
        assert (block.logits_NVK[..., 0] == 65504).all()


def test_a_number_of_views_that_is_none(sources: Sources, tmp_path: Path) -> None:
    with pytest.raises(CurateError, match="--views is -1; expected at least 1 view of each image, or no --views"):
        TeacherViews(teacher=Toy(), count=-1, seed=0, device=torch.device("cpu"))
    with pytest.raises(CurateError, match="--views is -1"):
        run(sources, tmp_path, views=-1)
    assert not (tmp_path / "work").exists()


def test_a_forecast_says_what_views_cost(sources: Sources, tmp_path: Path) -> None:
    def views_step(**options: Any) -> dict[str, Any]:
        steps = forecast(sources, Toy(), CHOICE, work=tmp_path / "work", out=tmp_path / "out", **options)
        (found,) = [step for step in steps if step["step"] == "views"]
        return found

    assert views_step(views=1000) | {"writes_MB": 0.1} == {
        "step": "views",
        "what": "teacher forwards, 1000 of each image",
        "state": MAKE,
        "images": 12_000,
        "reads_MB": None,
        "writes_MB": round(12_000 * 2 * 4 / 1e6, 1),
    }
    run(sources, tmp_path)
    assert views_step(views=VIEWS)["state"] == REUSE
    assert "views.count was 3, now 2" in views_step(views=2)["state"]


def test_a_grey_teacher_sees_the_luma_of_the_same_pixels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    card: dict[str, Any] = {"mean": (0.5,), "std": (0.25,), "classes": ("a", "b", "c"), "input_size": 32}
    save_classifier(tmp_path / "t", build("lenet5", 3), arch="lenet5", **card)
    teacher = load_classifier(tmp_path / "t")
    source = open_corpus("glyphs=builtin:glyphs?n=20")
    check(run(Sources(corpora=[source]), tmp_path, teacher).folder, teacher, atol=2e-3)


def test_real_images_and_a_real_teacher(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(curate.forwards, "block_rows", lambda size: 80)  # as many as there are: done sooner
    teacher = load_classifier(shared / "teachers" / "wrn40_2-cifar10.safetensors")
    source = open_corpus(f"imagenet={shared / 'data' / 'imagenet_originals'}")
    folder = run(Sources(corpora=[source]), tmp_path, teacher, views=4, choice=Choice(budget=40, holdout=0)).folder
    assert folder.rows() == 40
    check(folder, teacher, atol=1e-2)
