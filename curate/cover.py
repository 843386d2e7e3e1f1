"""Greedy covering: what to take so that the farthest of the points watched comes near fastest.

Both rules are one loop. Every watched point has an answer, the candidate that would serve it best; each step takes the
answer of the point that is served worst. Many steps are done at once and are still those of the plain loop: distances
only fall, so while the worst of a pool of badly served points is worse than anything outside of it was, it is the worst
of all, and only the pool needs to learn of each new centre at once. All others learn of the whole batch in one matrix
product, exact on the grid (`curate.grid`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.distance import nearest
from curate.errors import CurateError
from curate.grid import Gaps, Integers, place
from manifests.progress import Advance, nothing

Indices = NDArray[np.int64]
Answers = Callable[[Indices], tuple[Indices, NDArray[np.float64]]]
"""rows -> the best candidate of a group with room for each, and its squared distance (inf: there is none)"""

# The pool is four times what the last one gave, within these bounds; at the upper one its table of distances is 32 MB.
_SMALLEST, _LARGEST = 64, 2048


@dataclass(frozen=True, kw_only=True)
class Cover:
    """Candidates in the order in which they were taken."""

    chosen: Indices
    radius: NDArray[np.float64]
    """after each step: how far the farthest of the watched points is from what is chosen"""


def greedy_cover(
    points_ND: NDArray[Any],
    count: int,
    *,
    groups_N: NDArray[np.integer[Any]] | None = None,
    room_G: NDArray[np.integer[Any]] | None = None,
    covered_by_MD: NDArray[Any] | None = None,
    threads: int | None = None,
    advance: Advance = nothing,
) -> Cover:
    """Greedy k-center: each step takes the point farthest from what is chosen; ties: the smallest index.

    Gonzalez 1985 (at most twice the best possible radius); Sener & Savarese 2018, Algorithm 1. ``covered_by_MD``
    counts as chosen already; without it the first point is the one farthest from the mean of all. At most
    ``room_G[g]`` points of group g are taken; the others still want to be covered. When all that may be taken is
    covered at distance 0, the rest goes by index, until ``count`` or until nothing may be taken. Distances are those
    on the grid of `curate.grid.place`, the last radius (which a report prints) that of the points as given.
    """
    room = _Room(len(points_ND), count, groups_N, room_G)
    start_MD = points_ND[:0] if covered_by_MD is None else covered_by_MD
    if not room.left:
        return Cover(chosen=np.empty(0, np.int64), radius=np.empty(0))
    (points_NE, start_ME), step = place(points_ND, start_MD)
    gaps = Gaps(points_NE, threads=threads)
    gaps.serve(start_ME)
    search = _Search(gaps, points_NE, lambda rows: (rows, np.where(room.open_N()[rows], 0.0, np.inf)), room)
    search.run(advance)
    search.finish(np.arange(len(points_ND)), advance)
    left = np.setdiff1d(gaps.worst(), search.chosen)  # what is chosen is at distance 0
    served_KD = np.concatenate([start_MD, points_ND[search.chosen]])
    exact = nearest(points_ND[left], served_KD, threads=threads).distance_N.max() if len(left) else 0.0
    return search.cover(step, exact)


def greedy_approach(
    reference_MD: NDArray[Any],
    points_ND: NDArray[Any],
    count: int,
    *,
    groups_N: NDArray[np.integer[Any]] | None = None,
    room_G: NDArray[np.integer[Any]] | None = None,
    covered_by_MD: NDArray[Any] | None = None,
    threads: int | None = None,
    advance: Advance = nothing,
) -> Cover:
    """The points that bring h(reference, chosen) = max over r of min over s of ||r - s|| down fastest, step by step.

    Each step takes the point nearest to the reference point that is farthest from what is chosen (ties: the smallest
    index); the first serves the reference point farthest from the reference's mean. A reference point whose nearest
    candidate is taken is at its floor and asks for nothing more. When all are, h can fall no further, and the rest
    goes to the points nearest to the reference, by distance, then index. With ``room_G`` (`greedy_cover`) the nearest
    is sought among groups with room; ``covered_by_MD`` counts as chosen already. ``radius`` is h(reference, chosen)
    after each step. Raises `CurateError` for an
    empty reference.
    """
    if not len(reference_MD):
        raise CurateError("the reference holds no features; expected at least one row")
    room = _Room(len(points_ND), count, groups_N, room_G)
    if not room.left:
        return Cover(chosen=np.empty(0, np.int64), radius=np.empty(0))
    start_MD = points_ND[:0] if covered_by_MD is None else covered_by_MD
    (reference_ME, points_NE, start_ME), step = place(reference_MD, points_ND, start_MD)

    def best_open(rows: Indices) -> tuple[Indices, NDArray[np.float64]]:
        open_ = np.flatnonzero(room.open_N())
        if not len(open_) or not len(rows):
            return np.zeros(len(rows), np.int64), np.full(len(rows), np.inf)
        answer = open_[nearest(reference_MD[rows], points_ND[open_], threads=threads).index_N]
        apart_RE = reference_ME[rows] - points_NE[answer]  # the last coordinates, both 1, cancel
        return answer, np.einsum("re,re->r", apart_RE, apart_RE)

    gaps = Gaps(reference_ME, threads=threads)
    gaps.serve(start_ME)
    search = _Search(gaps, points_NE, best_open, room)
    search.run(advance)
    if room.left:
        rest = np.flatnonzero(room.open_N() & ~room.taken_N)
        far = nearest(points_ND[rest], reference_MD, threads=threads).distance_N
        search.finish(rest[np.argsort(far, kind="stable")], advance)
    serving_KD = np.concatenate([start_MD, points_ND[search.chosen]])
    exact = nearest(reference_MD[gaps.worst()], serving_KD, threads=threads).distance_N.max()
    return search.cover(step, exact)


class _Room:
    """How many candidates may still be taken, in all and of each group."""

    def __init__(
        self,
        size: int,
        count: int,
        groups_N: NDArray[np.integer[Any]] | None,
        room_G: NDArray[np.integer[Any]] | None,
    ) -> None:
        if (groups_N is None) != (room_G is None):
            raise ValueError("groups_N and room_G go together")
        self.groups_N = np.zeros(size, np.int64) if groups_N is None else groups_N.astype(np.int64)
        self._left_G = np.array([size]) if room_G is None else room_G.astype(np.int64)
        self.taken_N = np.zeros(size, bool)
        fits_G = np.minimum(self._left_G, np.bincount(self.groups_N, minlength=len(self._left_G)))
        self.left = max(0, min(count, int(fits_G.clip(min=0).sum())))

    def open_N(self) -> NDArray[np.bool_]:  # noqa: N802  # shape letters
        """Of a group with room, taken or not."""
        return self._left_G[self.groups_N] > 0

    def take(self, index: int) -> bool:
        """Take one; is its group full now?"""
        self.taken_N[index] = True
        self.left -= 1
        self._left_G[self.groups_N[index]] -= 1
        return bool(self._left_G[self.groups_N[index]] == 0)

    def take_first(self, order: Indices) -> Indices:
        """Take the rest in that order, as far as there is room."""
        order = order[~self.taken_N[order]]
        groups = self.groups_N[order]
        by_group = np.argsort(groups, kind="stable")
        nth = np.empty(len(order), np.int64)  # of its group
        nth[by_group] = np.arange(len(order)) - np.searchsorted(groups[by_group], groups[by_group])
        return order[nth < self._left_G[groups]][: self.left]


class _Search:
    """The greedy loop; see the module."""

    def __init__(self, gaps: Gaps, candidates_NE: Integers, answers: Answers, room: _Room) -> None:
        self._gaps, self._candidates_NE, self._answers, self._room = gaps, candidates_NE, answers, room
        # Then a centre taken at gap g is g or more from every other: what lies within g / 2 of one stays with that one.
        self._serves_itself = gaps.watched_NE is candidates_NE
        # A watched point is at its floor when its answer, or a candidate as near, is taken.
        self._answer_W, self._floor_W = answers(np.arange(len(gaps.gap_N)))
        self._chosen: list[int] = []
        self._square: list[float] = []

    @property
    def chosen(self) -> Indices:
        """Candidates so far."""
        return np.array(self._chosen, np.int64)

    def run(self, advance: Advance) -> None:
        """Take answers until there is no room, or every watched point is at its floor."""
        # Before the first centre all gaps are infinite: then the distance to the mean decides, for one step alone.
        worth_W, size = self._gaps.gap_N, _SMALLEST
        if np.isinf(worth_W).any():
            worth_W, size = self._gaps.square_N, 1
        while self._room.left and (wanted_W := self._gaps.gap_N > self._floor_W).any():
            before = len(self._chosen)
            full, least = self._batch(worth_W, wanted_W, size)
            taken = self._chosen[before:]
            self._gaps.serve(self._candidates_NE[taken], beyond=least / 4 if self._serves_itself else 0.0)
            worth_W = self._gaps.gap_N
            self._square[-1] = worth_W.max()
            if full:
                self._answer_anew()
            advance(len(taken))
            size = min(max(4 * len(taken), _SMALLEST), _LARGEST)

    def _batch(self, worth_W: Integers, wanted_W: NDArray[np.bool_], size: int) -> tuple[bool, float]:
        """Steps that the worst served points decide among themselves, until one fills a group: whether one did so.

        And the squared gap of the point whose answer was taken last, the smallest of the batch.
        """
        asking, next_asking = _largest(np.where(wanted_W, worth_W, -1.0), size)
        worst, next_worst = _largest(worth_W, size)  # these decide the radius, also where they may ask for nothing
        rows_P = np.union1d(asking, worst)
        apart_PP = self._gaps.between(rows_P, self._candidates_NE[self._answer_W[rows_P]])
        gap_P, floor_P, wanted_P = worth_W[rows_P], self._floor_W[rows_P], wanted_W[rows_P]
        full, least, top = False, -1.0, np.inf
        while self._room.left and not full and top >= next_worst[0]:
            value_P = np.where(wanted_P, gap_P, -1.0)
            at = int(value_P.argmax())
            if value_P[at] < 0 or (least >= 0 and (value_P[at], -rows_P[at]) < next_asking):
                break
            least = float(value_P[at])
            answer = int(self._answer_W[rows_P[at]])
            full = self._room.take(answer)
            gap_P = np.minimum(gap_P, apart_PP[at])
            wanted_P &= gap_P > floor_P
            top = gap_P.max()
            self._chosen.append(answer)
            self._square.append(top)
        return full, least

    def _answer_anew(self) -> None:
        """For those whose answer can no longer be taken."""
        rows = np.flatnonzero((self._gaps.gap_N > self._floor_W) & ~self._room.open_N()[self._answer_W])
        self._answer_W[rows], self._floor_W[rows] = self._answers(rows)

    def finish(self, order: Indices, advance: Advance) -> None:
        """Take the rest in that order."""
        rest = self._room.take_first(order)
        self._chosen += rest.tolist()
        self._square += [float(self._gaps.gap_N.max())] * len(rest)
        advance(len(rest))

    def cover(self, step: float, exact: float) -> Cover:
        """The result, with the last radius replaced by its ``exact`` value."""
        radius = np.sqrt(self._square) * step
        # Equal to the last on the grid is equal; what was larger there stays at least as large.
        radius = np.where(radius == radius[-1], exact, np.maximum(radius, exact))
        return Cover(chosen=self.chosen, radius=radius)


def _largest(value_N: Integers, size: int) -> tuple[Indices, tuple[float, int]]:
    """The first ``size`` by (largest value, smallest index), and (value, -index) of the next one."""
    if size >= len(value_N):
        return np.arange(len(value_N)), (-2.0, 0)
    level = np.partition(value_N, len(value_N) - size - 1)[len(value_N) - size - 1]
    above, at = np.flatnonzero(value_N > level), np.flatnonzero(value_N == level)
    inside = size - len(above)
    return np.concatenate([above, at[:inside]]), (float(level), -int(at[inside]))
