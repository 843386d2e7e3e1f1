"""What benchmarks/students.py makes: tiers, their transfer sets, and rows of method and set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

COVERAGE = (2, 4, 6, 8, 10)
"""classes of the training set that a transfer set is drawn from (Nayak et al. 2021, supplement, Table 1)"""
SCENES = "scenes=parquet:{data}/scenes/scenes.parquet"
TINY = "tiny-imagenet=wds:{data}/tiny_imagenet"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A transfer set: corpora in their order, and how `curate select` chooses of them."""

    label: str
    corpora: Sequence[str]
    """NAME=SPEC, with {data} where the data folder goes"""
    options: Sequence[object]


@dataclass(frozen=True, kw_only=True)
class Row:
    """Runs that differ in their seed alone."""

    name: str
    set: str
    method: str = "kd"
    settings: Mapping[str, object] = field(default_factory=dict)
    updates: int | None = None
    """of the student; None: as the tier"""


@dataclass(frozen=True, kw_only=True)
class Tier:
    """Rows that share a teacher, a student, the number of student updates and the number of seeds."""

    name: str
    teacher: str
    """architecture"""
    pretrain: Sequence[object]
    """options of `distill pretrain`; empty where the teacher is given"""
    student: str
    train: str
    test: str
    updates: int
    seeds: int
    views: int
    """of each image, whose logits the transfer set carries; 0: the teacher is asked at every update"""
    sets: Mapping[str, Chosen]
    rows: Sequence[Row]


def covering(corpus: str, classes: Sequence[str], *, budget: int) -> dict[str, Chosen]:
    """Sets of the training set's own images, of the first 2 to 10 classes, evenly."""
    sets = {}
    for count in COVERAGE:
        names = ", ".join(f"'{name}'" for name in classes[:count])
        turn = "row_number() OVER (PARTITION BY source_label ORDER BY md5(key))"
        rows = f"SELECT key, {turn} AS turn FROM samples WHERE source_label IN ({names})"
        sql = f"SELECT key FROM ({rows}) ORDER BY turn, key"
        options = ["--sql", sql, "--budget", budget]
        sets[f"classes-{count}"] = Chosen(label=f"{count} classes", corpora=[corpus], options=options)
    return sets


OUT = 6_000
"""images of each of MNIST's out-of-domain sets: as many as there are scenes"""
_FOUR = "noise-mix=noise:mix?n=125000&size=32"
_MNIST = "mnist=idx:{data}/mnist/train-images-idx3-ubyte.gz"
_SETS = {
    **covering(_MNIST, "0123456789", budget=10_000),
    "scenes": Chosen(label="scenes", corpora=[SCENES], options=["--mode", "random", "--budget", OUT]),
    "tiny": Chosen(label="Tiny ImageNet", corpora=[TINY], options=["--mode", "random", "--budget", OUT]),
    "scenes-tiny": Chosen(
        label="scenes, balanced from Tiny ImageNet",
        corpora=[SCENES, TINY],
        options=["--mode", "balanced", "--budget", OUT],
    ),
    "tiny-scenes": Chosen(
        label="Tiny ImageNet, balanced from scenes",
        corpora=[TINY, SCENES],
        options=["--mode", "balanced", "--budget", OUT],
    ),
    "noise": Chosen(
        label="uniform noise",
        corpora=[f"noise-uniform=noise:uniform?n={OUT}&size=32"],
        options=["--mode", "random", "--budget", OUT],
    ),
    "noise-mix": Chosen(label="noise of four families", corpora=[_FOUR], options=["--mode", "random", "--budget", OUT]),
    "noise-balanced": Chosen(
        label="noise of four families, balanced",
        corpora=[_FOUR],
        options=["--mode", "balanced", "--budget", OUT, "--base-limit", 125_000],
    ),
}
_IMAGES = 64
"""that the student sees in an update, whatever the method"""
_SLOW = {"batch_size": _IMAGES, "lr": 0.01}
"""at the published 0.1 LeNet, which has no batch norms, learns nothing from the images of its own domain"""
_HALF = {"batch_size": _IMAGES // 2}
"""for methods that show the student as many again of another source"""
_GAME = {"bn": 0, "generator_steps": 1, "student_steps": 10}
"""three adversarial ones: LeNet has no batch norms; a generator update for 10 of the student, for runs are short"""
MNIST = Tier(
    name="mnist",
    teacher="lenet5",
    pretrain=["--recipe", "digits"],
    student="lenet5_half",
    train=_MNIST,
    test="mnist-test=idx:{data}/mnist/t10k-images-idx3-ubyte.gz",
    updates=1_000,
    seeds=3,
    views=0,
    sets=_SETS,
    rows=[
        *(Row(name=f"kd-{name}", set=name, settings=_SLOW) for name in _SETS),
        Row(name="fitnet", set="tiny", method="fitnet", settings={**_SLOW, "hint": 1}),
        Row(name="dfnd", set="tiny", method="dfnd", settings=_SLOW),
        Row(name="kd3", set="tiny", method="kd3", settings={"batch_size": _IMAGES, "epochs": 30}),
        Row(name="abm", set="tiny", method="abm", settings={**_GAME, "batch_size": _IMAGES}),
        Row(name="dfkd-mem", set="tiny", method="dfkd-mem", settings={**_GAME, **_HALF}),
        Row(name="mad", set="tiny", method="mad", settings={**_GAME, **_HALF}),
        Row(name="mosaickd", set="tiny", method="mosaickd", settings={**_HALF, "networks": "paper"}),
    ],
)

_CIFAR = "cifar10=parquet:{data}/cifar10/train.parquet"
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_MANY = 10_000
"""images of each of CIFAR-10's sets"""
_BOTH = {
    mode: Chosen(
        label=f"{mode} of Tiny ImageNet and scenes",
        corpora=[TINY, SCENES],
        options=["--mode", mode, "--budget", _MANY],
    )
    for mode in ("entropy-topk", "balanced", "random")
}
_INSIDE = covering(_CIFAR, _CLASSES, budget=_MANY)
CIFAR10 = Tier(
    name="cifar10",
    teacher="wrn40_2",
    pretrain=[],
    student="wrn16_1",
    train=_CIFAR,
    test="cifar10-test=parquet:{data}/cifar10/test.parquet",
    updates=3_000,
    seeds=1,
    views=8,
    sets={**_BOTH, **_INSIDE},
    rows=[
        *(Row(name=f"kd-{name}", set=name) for name in ("classes-10", *_BOTH, *list(_INSIDE)[:-1])),
        # half an hour of one idle core or so: its mechanics, not its accuracy
        Row(name="mosaickd", set="entropy-topk", method="mosaickd", settings={"batch_size": 64}, updates=1_500),
    ],
)

TIERS = {tier.name: tier for tier in (MNIST, CIFAR10)}
