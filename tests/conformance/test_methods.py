"""What every method must do: name all its state, learn, leave the teacher be, count truly, say what broke."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from distill import checkpoint
from distill.errors import DistillError, Diverged
from distill.methods import METHODS
from distill.methods.base import Method, Setup
from distill.models.student import fresh_student
from distill.models.teachers import Classifier, load_classifier
from distill.models.view import Precision
from distill.telemetry import Telemetry
from distill.train import LAST, Pace, state_of, train
from manifests.keys import content_key
from shards.device import RealBatch
from shards.index import ShardFolder
from shards.layout import KEY_DTYPE
from shards.sources import LocalBlocks
from shards.stream import Batch, Stream
from tests.distill import toys

pytestmark = pytest.mark.parametrize("name", METHODS)

BATCH, STEPS = 8, 6
CLASSES = len(toys.CLASSES)
CALM = {"batch_size": BATCH, "lr": 0.02}
GENTLE: dict[str, dict[str, Any]] = {
    "fitnet": {"hint": 0.1},  # the maps of a teacher that was never trained are large
    "kd3": {"threshold": 0.3},  # and it is not sure of much: of 40 images a batch or two are to be left
    "dfnd": {"schedule": "cosine"},  # a rate of a hundredth learns nothing in 20 steps
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.write_teacher(tmp_path_factory.mktemp("teacher") / "teacher.safetensors")


@pytest.fixture(scope="module")
def transfer_set(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    return toys.write_transfer_set(tmp_path_factory.mktemp("set"), weights)


@pytest.fixture
def build(name: str, weights: Path) -> Callable[..., Method]:
    """``build(seed=..., dtype=..., steps=..., init=..., device=..., **settings)``: as before its first step."""

    def make(
        *,
        seed: int = 0,
        dtype: Precision = "float32",
        steps: int = STEPS,
        init: int | None = None,
        device: torch.device = toys.CPU,
        **settings: Any,
    ) -> Method:
        kind = METHODS[name]
        student = fresh_student(
            "wrn16_1",
            CLASSES,
            mean=toys.MEAN,
            std=toys.STD,
            seed=seed if init is None else init,
            dtype=dtype,
            device=device,
        )
        teacher = None if kind.needs_labels else load_classifier(weights, dtype=dtype, device=device)
        setup = Setup(teacher=teacher, student=student, device=device, steps=steps, seed=seed, flip=True)
        torch.manual_seed(seed if init is None else init)
        given: dict[str, Any] = CALM | ({} if kind.needs_stream else toys.SHORT) | GENTLE.get(name, {})
        return kind(setup, replace(kind.config_class(), **(given | settings)))

    return make


def labels(batch: Batch) -> Tensor:
    """Some label for each image of the transfer set, which has none."""
    return torch.arange(len(batch.keys)) % CLASSES


def real(number: int, *, count: int = BATCH, blank: bool = False, device: torch.device = toys.CPU) -> RealBatch:
    """Batch ``number`` of a stream of its own: noise, the brighter the higher the label."""
    draw = np.random.default_rng(number)
    labels_B = draw.integers(0, CLASSES, count)
    pixels = draw.integers(0, 100, (count, 3, toys.SIZE, toys.SIZE)) + 50 * labels_B[:, None, None, None]
    images_BCHW = pixels.astype(np.uint8)
    keys = np.array([content_key(image) for image in images_BCHW], KEY_DTYPE)
    return RealBatch(
        images_BCHW=torch.from_numpy(np.zeros_like(images_BCHW) if blank else images_BCHW).to(device),
        keys=keys,
        labels_B=torch.from_numpy(labels_B).to(device),
        epoch=0,
    )


def run(method: Method, steps: Sequence[int], *, count: int = BATCH) -> list[dict[str, Tensor]]:
    """The terms of each of some steps."""
    wanted = method.config.batches_per_step
    method.setup.student.net.train()
    device = method.setup.device
    return [
        method.step([real(wanted * step + i, count=count, device=device) for i in range(wanted)], step)
        for step in steps
    ]


def bits(method: Method) -> dict[str, bytes]:
    """Every tensor of every part."""
    tensors: dict[str, Tensor] = {}
    for part_name, part in method.parts().items():
        checkpoint._flatten(part.state_dict(), part_name, tensors)
    return {key: tensor.numpy().tobytes() for key, tensor in tensors.items()}


def loss(method: Method, images_BCHW: Tensor | None = None) -> float:
    """How far the student, as it would be deployed, is from what it is taught, on real images or on those given."""
    batches = [real(number) for number in range(8)]
    if images_BCHW is None:
        images_BCHW = torch.cat([batch.images_BCHW for batch in batches])
    net = method.setup.student.net.eval()
    with torch.no_grad():
        student_BK = method.setup.student(images_BCHW)
        net.train()
        if method.setup.teacher is None:
            return F.cross_entropy(
                student_BK, torch.cat([b.labels_B for b in batches if b.labels_B is not None])
            ).item()
        teacher_BK = method.setup.teacher(images_BCHW).logits_BK
    return F.kl_div(student_BK.log_softmax(1), teacher_BK.softmax(1), reduction="batchmean").item()


# state


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parts_name_all_state(build: Callable[..., Method], dtype: Precision, tmp_path: Path) -> None:
    undisturbed = build(dtype=dtype)
    run(undisturbed, range(3))
    checkpoint.save(tmp_path / "half.safetensors", undisturbed.parts(), {"step": 3})
    terms = run(undisturbed, range(3, STEPS))

    resumed = build(dtype=dtype, init=99)  # other fresh weights in every network, and two steps of its own
    run(resumed, [40, 41])
    assert checkpoint.load(tmp_path / "half.safetensors", resumed.parts()) == {"step": 3}
    assert run(resumed, range(3, STEPS)) == terms
    assert bits(resumed) == bits(undisturbed)


def test_parts_of_a_fresh_method_take_an_old_state(build: Callable[..., Method], tmp_path: Path) -> None:
    """What a killed process leaves is loaded into a method that has not made a step."""
    old = build()
    run(old, range(2))
    checkpoint.save(tmp_path / "old.safetensors", old.parts(), {"step": 2})
    fresh = build(init=7)
    checkpoint.load(tmp_path / "old.safetensors", fresh.parts())
    assert bits(fresh) == bits(old)


def test_same_seed_same_bits_other_seed_other_bits(build: Callable[..., Method]) -> None:
    first, again, other = build(seed=1), build(seed=1), build(seed=2, init=1)  # of `other` only noise and crops differ
    terms = [run(method, range(2)) for method in (first, again, other)]
    assert terms[0] == terms[1] != terms[2]
    assert bits(first) == bits(again) != bits(other)


def test_the_global_random_state_is_neither_used_nor_moved(build: Callable[..., Method]) -> None:
    first, again = build(), build()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run(first, range(2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    run(again, range(2))
    assert bits(first) == bits(again)


# learning


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_toy_loss_falls(name: str, build: Callable[..., Method], dtype: Precision) -> None:
    method = build(dtype=dtype, steps=20)
    run(method, [19])  # at a rate near 0: BN statistics of its own instead of the fresh ones
    images_BCHW = None if method.needs_stream else method.samples(64)  # what it sees first, and should not forget
    before = loss(method, images_BCHW)
    terms = run(method, range(20))
    assert loss(method, images_BCHW) < 0.8 * before
    assert all(term.isfinite() and term.dtype == torch.float32 for step in terms for term in step.values())
    assert all(not term.requires_grad and term.ndim == 0 for step in terms for term in step.values())
    assert all(parameter.dtype == torch.float32 for parameter in method.setup.student.net.parameters())
    assert method.setup.student.net.training


def test_bfloat16_is_used_where_asked(build: Callable[..., Method]) -> None:
    assert run(build(), [0]) != run(build(dtype="bfloat16"), [0])


def test_the_learning_rate_ends_at_nothing(name: str, build: Callable[..., Method]) -> None:
    """Schedules are functions of step / steps: the last of many steps moves the weights hardly at all."""
    steps = 10_000
    # as published some end at a hundredth
    given = {"schedule": "cosine"} if hasattr(METHODS[name].config_class, "schedule") else {}
    moved = []
    for step in (steps // 4, steps - 1):
        method = build(steps=steps, **given)
        before = [parameter.detach().clone() for parameter in method.setup.student.net.parameters()]
        run(method, [step])
        pairs = zip(before, method.setup.student.net.parameters(), strict=True)
        moved.append(max((old - new).abs().max().item() for old, new in pairs))
    assert 0 < moved[1] < 1e-4 * moved[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_teacher_is_unchanged(build: Callable[..., Method], dtype: Precision) -> None:
    method = build(dtype=dtype)
    teacher = method.setup.teacher
    if teacher is None:
        assert method.config.queries(1) == 0
        return
    before = {key: tensor.clone() for key, tensor in teacher.net.state_dict().items()}
    run(method, range(3))
    assert all(torch.equal(tensor, before[key]) for key, tensor in teacher.net.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not any(module.training for module in teacher.net.modules())


def test_a_batch_of_one(build: Callable[..., Method]) -> None:
    method = build(batch_size=1)
    terms = run(method, range(2), count=1)
    assert all(term.isfinite() for step in terms for term in step.values())


# counts


def test_counts_are_true(
    build: Callable[..., Method], transfer_set: ShardFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the training: what the loop asks the teacher to judge by is not counted, as judging a student is not."""
    monkeypatch.setattr(Telemetry, "look", lambda telemetry, method: {"classes": [1]})
    method = build()
    config, stream = method.config, Stream(LocalBlocks(transfer_set, "train"), batch_size=BATCH)
    mine = {id(parameter) for parameter in method.setup.student.net.parameters()}
    seen = {"updates": 0, "queries": 0}

    def updated(opt: optimizer.Optimizer, *_: Any) -> None:
        seen["updates"] += any(id(p) in mine for group in opt.param_groups for p in group["params"])

    def asked(teacher: Classifier, arguments: tuple[Tensor]) -> None:
        seen["queries"] += len(arguments[0])

    hooks = [optimizer.register_optimizer_step_post_hook(updated)]
    if method.setup.teacher is not None:
        hooks.append(method.setup.teacher.register_forward_pre_hook(asked))
    try:
        done = train(method, stream, folder=tmp_path, labels=labels)
    finally:
        for hook in hooks:
            hook.remove()
    assert done.step == STEPS
    assert seen == {"updates": STEPS * config.updates_per_step, "queries": method.queries(STEPS)}
    assert stream.epoch * stream.batches_per_epoch + stream.batch == STEPS * config.batches_per_step


def test_what_a_config_says_of_a_step_agrees_with_itself(name: str) -> None:
    kind = METHODS[name]
    config = kind.config_class()
    assert config.phases["student"] == config.updates_per_step
    assert kind.needs_stream == (config.batches_per_step > 0) == (config.steps(7) == 7 * config.epochs)
    assert config.queries(0) == 0
    assert config.queries(3) - config.queries(2) == config.queries_per_step


def test_every_batch_that_a_step_consumes_matters(build: Callable[..., Method]) -> None:
    wanted = build().config.batches_per_step
    outcomes = set()
    for blanked in [None, *range(wanted)]:
        method = build()
        method.step([real(i, blank=i == blanked) for i in range(wanted)], 0)
        outcomes.add(bits(method)[f"student.{trained(method)}"])
    assert len(outcomes) == wanted + 1


class NoWaiting(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Refuses what reads a number back from the device, which on a GPU waits for all work before it."""

    WAITS = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "is_nonzero", "unique")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operator = str(func).split(".")[1]
        assert not operator.startswith(self.WAITS), f"{operator} waits for the device"
        return func(*args, **(kwargs or {}))


def test_a_step_waits_for_nothing(build: Callable[..., Method], monkeypatch: pytest.MonkeyPatch) -> None:
    method = build()
    for kind in (torch.optim.SGD, torch.optim.Adam):  # torch's own: Adam reads its step counter, which is on the CPU
        monkeypatch.setattr(kind, "step", lambda self: None)
    mode: Any = NoWaiting
    with mode():
        run(method, [0])
    with pytest.raises(AssertionError, match="_local_scalar_dense waits"), mode():
        torch.ones(()).item()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_waits_for_nothing_on_a_gpu(build: Callable[..., Method], dtype: Precision) -> None:
    method = build(dtype=dtype, device=torch.device("cuda"))
    run(method, [0])  # the first builds libraries' handles
    wanted = method.config.batches_per_step
    batches = [real(i, device=torch.device("cuda")) for i in range(wanted)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        method.step(batches, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# what goes wrong


def trained(method: Method) -> str:
    """The last weight of the student that is trained."""
    return [name for name, p in method.setup.student.net.named_parameters() if p.requires_grad and p.ndim > 1][-1]


def poison(method: Method) -> None:
    """One NaN in the student's weights."""
    with torch.no_grad():
        next(iter(method.setup.student.net.parameters())).view(-1)[0] = torch.nan


def test_a_loss_that_is_not_finite_stops_the_run(
    build: Callable[..., Method], transfer_set: ShardFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The term and the step are named, and the checkpoint on disk is from before."""
    method, stream = build(), Stream(LocalBlocks(transfer_set, "train"), batch_size=BATCH)
    step, bad = method.step, 5
    culprits: list[str] = []

    def poisoned(batches: Sequence[RealBatch], number: int) -> dict[str, Tensor]:
        if number + 1 == bad:
            poison(method)
        terms = step(batches, number)
        culprits.extend(name for name, term in terms.items() if not term.isfinite())
        return terms

    monkeypatch.setattr(method, "step", poisoned)
    now = iter(range(1000))
    monkeypatch.setattr("distill.train.time.monotonic", lambda: next(now))  # a second a look: saved after step 3
    with pytest.raises(Diverged) as caught:
        train(method, stream, folder=tmp_path, labels=labels, pace=Pace(log_every=20, judge_every=99, save_every_s=5))
    assert f"the loss term {culprits[0]!r} became nan at step {bad}; the last checkpoint is from before" in str(
        caught.value
    )
    fresh = build()
    assert checkpoint.load(tmp_path / LAST, state_of(fresh))["step"] == 3
    assert run(fresh, [3])[0][culprits[0]].isfinite()


def test_weights_that_are_not_finite_are_not_saved(
    build: Callable[..., Method], transfer_set: ShardFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finite loss whose update broke the weights."""
    method, stream = build(), Stream(LocalBlocks(transfer_set, "train"), batch_size=BATCH)
    step = method.step

    def poisoned(batches: Sequence[RealBatch], number: int) -> dict[str, Tensor]:
        terms = step(batches, number)
        if number + 1 == 3:
            poison(method)
        return terms

    monkeypatch.setattr(method, "step", poisoned)
    poisoned_name = re.escape(next(name for name, _ in method.setup.student.net.named_parameters()))
    with pytest.raises(
        Diverged,
        match=rf"^student\.{poisoned_name} is not finite after step 3; .*lower --lr, or a lower rate",
    ):
        train(method, stream, folder=tmp_path, labels=labels, pace=Pace(save_every_s=0))
    assert checkpoint.load(tmp_path / LAST, state_of(build()))["step"] == 2


def test_config_is_validated(name: str) -> None:
    kind = METHODS[name].config_class
    default = kind()
    for field in fields(kind):
        value = getattr(default, field.name)
        wrong: list[Any] = [-1, 0][: 2 - (field.metadata.get("least") == 0)] if field.type is int else [-0.5, np.nan]
        if isinstance(value, str | bool):
            wrong = [] if field.metadata.get("free") else ["nonsense"]  # names of modules: no config knows them
        for bad in wrong:
            with pytest.raises(DistillError, match=f"{field.name} is .*{bad}.*; expected"):
                replace(default, **{field.name: bad})
    with pytest.raises(DistillError, match="lr is inf; expected a number of at least 0"):
        replace(default, lr=np.inf)


def test_the_source_is_named(name: str) -> None:
    assert METHODS[name].source
    assert METHODS[name].__doc__
