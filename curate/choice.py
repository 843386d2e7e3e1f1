"""What a person asks of a selection: the rule, its budget, the filters before it. Validated before any work is done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from curate.errors import CurateError, UnknownMode

_MOST = 10**12  # images: more than there are, and sums of them stay integers everywhere
VECTORS = ("features", "logits")
EXCLUDE_WITHIN = 0.1
"""on CIFAR-10 this finds 96 % of copies of JPEG quality 90, and takes 0.03 % of other images for copies"""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What to select; validated on construction (`CurateError`)."""

    mode: str = "entropy-topk"
    """a rule of SELECTORS"""
    budget: int = 50_000
    """images at most; the in-domain training size of CIFAR, as in MosaicKD"""
    seed: int = 0
    """of draws: random's, the base limit's, the holdout's, the packing order's"""
    holdout: float = 0.05
    """fraction of the selected images kept for choosing a checkpoint"""
    where: str | None = None
    """SQL condition on the columns of `scores` (and corpus, nn_dist): other rows are no candidates"""
    sql: str | None = None
    """of mode sql: a SELECT whose first column is keys"""
    by: str = "random"
    """of balanced: the order within a class, a rule that is an order"""
    base_limit: int | None = None
    """of balanced: images of the first corpus that are looked at, a seeded draw; default: the budget"""
    caps: Mapping[str, int] = field(default_factory=dict)
    """corpus -> images of it at most"""
    floors: Mapping[str, int] = field(default_factory=dict)
    """corpus -> images of it at least, while it has them"""
    near_duplicates: float | None = None
    """drop an image whose vector lies this near to an earlier one's, as a fraction of the vectors' spread"""
    exclude_within: float | None = None
    """drop an image whose vector lies this near to an excluded one's, as a fraction of the excluded vectors' spread;
    default: EXCLUDE_WITHIN; 0: equal pixels only"""
    on: str = "features"
    """the vectors that distances are between: features or logits"""

    def __post_init__(self) -> None:
        from curate.select import SELECTORS  # here: rules are told what was chosen

        _expect(self.budget >= 1, "--budget", self.budget, "at least 1 image")
        _expect(0 <= self.holdout < 1, "--holdout", self.holdout, "a fraction from 0 to below 1")
        limit = self.base_limit
        _expect(limit is None or limit >= 1, "--base-limit", limit, "at least 1 image")
        _expect(self.on in VECTORS, "--on", self.on, f"one of {', '.join(VECTORS)}")
        near = self.near_duplicates
        _expect(near is None or 0 <= near < 1, "--near-duplicates", near, "a fraction from 0 to below 1")
        within = self.exclude_within
        _expect(within is None or 0 <= within < 1, "--exclude-within", within, "a fraction from 0 to below 1")
        for option, limits in (("--cap", self.caps), ("--floor", self.floors)):
            for name, limit in limits.items():
                _expect(limit >= 0, f"{option} {name}", limit, "a number of images, 0 or more")
        for name in self.caps.keys() & self.floors.keys():
            limit = self.caps[name]
            _expect(
                self.floors[name] <= limit, f"--floor {name}", self.floors[name], f"no more than its --cap, {limit}"
            )
        counts = (self.budget, self.base_limit or 0, *self.caps.values(), *self.floors.values())
        _expect(max(counts) <= _MOST, "the largest number of images", max(counts), f"at most {_MOST:,}")
        assured = sum(self.floors.values())
        _expect(assured <= self.budget, "the sum of all --floor", assured, f"no more than --budget, {self.budget}")
        if self.mode not in SELECTORS:
            raise UnknownMode(f"unknown mode {self.mode!r}; known: {', '.join(SELECTORS)}")
        SELECTORS[self.mode].check(self)

    @property
    def exclusion(self) -> float:
        """The fraction that `exclude_within` means."""
        return EXCLUDE_WITHIN if self.exclude_within is None else self.exclude_within

    def check_sides(self, corpora: Sequence[str], *, reference: bool, excluded: bool) -> None:
        """Refuse options that mean nothing with these corpora, without a reference or without an excluded set."""
        from curate.select import SELECTORS

        for option, limits in (("--cap", self.caps), ("--floor", self.floors)):
            for name in limits:
                _expect(name in corpora, option, name, f"a corpus among {', '.join(corpora)}")
        within, near = self.exclude_within, self.near_duplicates is not None
        _expect(reference or self.mode != "hausdorff", "--mode", self.mode, "--reference SPEC beside it")
        _expect(excluded or within is None, "--exclude-within", within, "--exclude SPEC beside it")
        used = SELECTORS[self.mode].uses_vectors or near or reference or (excluded and self.exclusion > 0)
        _expect(used or self.on == VECTORS[0], "--on", self.on, "a rule or a filter that measures distances")


def _expect(holds: bool, option: str, value: object, expected: str) -> None:
    if not holds:
        raise CurateError(f"{option} is {value}; expected {expected}")
