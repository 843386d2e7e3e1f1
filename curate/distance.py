"""The Hausdorff family between two sets of vectors, exact: how far is the farthest row of one from the other set?

The directed distance is h(A, B) = max over a of min over b of |a - b|, Euclidean (Hausdorff, 1914; feature distances of
Nayak, Mopuri and Chakraborty, WACV 2021, supplement, Tables 1, 2 and 5). A maximum hangs on one row, so two companions
go beside it: the mean of the nearest distances (the modified Hausdorff distance; Dubuisson and Jain, ICPR 1994) and
their 95th percentile. Each is directed; the symmetric one is the larger of both directions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from curate.errors import DistanceError
from curate.search import Search
from manifests.progress import Advance, Progress, nothing, silent

BLOCK = 4096  # queries at a time: bounds for each chunk of the base are held for them
AT_ONCE = 1 << 16  # queries that compete at a time for the largest distance
PROBES = 32  # of those, the likeliest that are measured after each look: a sharper maximum drops more of the others

Rows = NDArray[np.floating[Any]]
Index = NDArray[np.int64]
Best = tuple[float, int, int]
"""squared distance, row of A times -1, row of B: of two the larger is the better, and the first among equally far"""


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Every query's nearest neighbour."""

    distance_N: NDArray[np.float64]
    index_N: Index
    """rows of the base; the first of those that are equally near"""


@dataclass(frozen=True, kw_only=True)
class Directed:
    """A directed Hausdorff distance and the pair that attains it, its witnesses."""

    distance: float
    a_index: int
    """the row of A that is farthest from B; the first of those that are equally far"""
    b_index: int
    """the row of B that is nearest to it"""


@dataclass(frozen=True, kw_only=True)
class OneWay:
    """What is known of the way from one set to the other."""

    directed: Directed
    nearest: Nearest | None
    """of every row; None where only the maximum was asked for"""

    @property
    def mean_of_min(self) -> float | None:
        """Mean over a of min over b of the distance."""
        return float(self.nearest.distance_N.mean()) if self.nearest else None

    @property
    def q95(self) -> float | None:
        """95th percentile over a of min over b of the distance, linear between ranks."""
        return float(np.quantile(self.nearest.distance_N, 0.95)) if self.nearest else None


@dataclass(frozen=True, kw_only=True)
class Distances:
    """Both directions between two sets."""

    a_to_b: OneWay
    b_to_a: OneWay

    @property
    def hausdorff(self) -> float:
        """The symmetric Hausdorff distance: the larger of the directed ones."""
        return max(self.a_to_b.directed.distance, self.b_to_a.directed.distance)

    @property
    def mean_of_min(self) -> float | None:
        """The modified Hausdorff distance: the larger of both directions."""
        return _larger(self.a_to_b.mean_of_min, self.b_to_a.mean_of_min)

    @property
    def q95(self) -> float | None:
        """The larger of both directions."""
        return _larger(self.a_to_b.q95, self.b_to_a.q95)


def nearest(
    queries_ND: ArrayLike, base_MD: ArrayLike, *, threads: int | None = None, advance: Advance = nothing
) -> Nearest:
    """The nearest row of the base to every query, by Euclidean distance.

    Equal to brute force in float64, for any data; ties go to the smallest index, and ``threads`` changes nothing.
    ``advance(n)`` is told of every n queries done. Raises `DistanceError` for what has no distance: other than numbers,
    NaN or infinities, rows of different lengths, no rows.
    """
    queries_ND, base_MD = _checked(queries_ND, base_MD, names=("the queries", "the base"))
    square_N = np.zeros(len(queries_ND))
    with Search(queries_ND, base_MD, threads=threads) as search:
        index_N = search.twin_N.copy()
        advance(int(np.count_nonzero(index_N >= 0)))
        rest = np.flatnonzero(index_N < 0)
        for start in range(0, len(rest), BLOCK):
            rows = rest[start : start + BLOCK]
            square_N[rows], index_N[rows] = search.resolve(rows, search.minima(rows, range(search.chunks)))
            advance(len(rows))
    return Nearest(distance_N=np.sqrt(square_N) / search.scale, index_N=index_N)


def directed(a_ND: ArrayLike, b_MD: ArrayLike, *, threads: int | None = None, advance: Advance = nothing) -> Directed:
    """h(A, B) = max over a of min over b of |a - b|, with its witnesses; far faster than all nearest distances.

    As exact as `nearest`, and with its errors. Rows of A look at growing shares of B. After each look the likeliest to
    be the farthest are measured, and every row drops out whose distance to B is certainly less than the largest so far.
    """
    a_ND, b_MD = _checked(a_ND, b_MD, names=("A", "B"))
    with Search(a_ND, b_MD, threads=threads) as search:
        alone = search.twin_N < 0
        advance(int(np.count_nonzero(~alone)))
        first = int(alone.argmin())
        best: Best = (-1.0, 0, 0) if alone[first] else (0.0, -first, int(search.twin_N[first]))
        by_distance = np.lexsort((np.arange(len(a_ND)), -search.square_N))  # the farther from B's middle, the likelier
        rest = by_distance[alone[by_distance]]
        for start in range(0, len(rest), AT_ONCE):
            best = _farthest(search, rest[start : start + AT_ONCE], best, advance)
    return Directed(distance=float(np.sqrt(best[0])) / search.scale, a_index=-best[1], b_index=best[2])


def hausdorff(
    a_ND: ArrayLike,
    b_MD: ArrayLike,
    *,
    robust: bool = True,
    threads: int | None = None,
    progress: Progress = silent,
) -> Distances:
    """Both directions; without ``robust`` only the maxima, which is the fast way. Errors as in `nearest`."""
    a_ND, b_MD = _checked(a_ND, b_MD, names=("A", "B"))
    ways = []
    for label, one, other in (("A to B", a_ND, b_MD), ("B to A", b_MD, a_ND)):
        with progress(label, len(one), unit="rows") as advance:
            if not robust:
                farthest = directed(one, other, threads=threads, advance=advance)
                ways.append(OneWay(directed=farthest, nearest=None))
                continue
            found = nearest(one, other, threads=threads, advance=advance)
            row = int(found.distance_N.argmax())
            farthest = Directed(distance=float(found.distance_N[row]), a_index=row, b_index=int(found.index_N[row]))
            ways.append(OneWay(directed=farthest, nearest=found))
    return Distances(a_to_b=ways[0], b_to_a=ways[1])


def _farthest(search: Search, rows: Index, best: Best, advance: Advance) -> Best:
    """The better of ``best`` and the farthest of some rows of A."""
    minima_NC = np.full((len(rows), search.chunks), np.inf, np.float32)
    above_N = np.full(len(rows), np.inf)  # upper bound of each row's squared distance to B
    alive = np.arange(len(rows))

    def measure(some: Index) -> Best:
        found = search.resolve(rows[some], minima_NC[some])
        return max([best, *zip(found.square_N.tolist(), (-rows[some]).tolist(), found.index_N.tolist(), strict=True)])

    for look in _looks(search):
        fresh_NC = search.minima(rows[alive], look)
        minima_NC[alive, look.start : look.stop] = fresh_NC
        above_N[alive] = np.minimum(above_N[alive], search.above(rows[alive], fresh_NC, look))
        count = min(PROBES, len(alive))
        likeliest = np.argpartition(-above_N[alive], count - 1)[:count]
        probes, rest = alive[likeliest], np.delete(alive, likeliest)
        minima_NC[probes, look.stop :] = search.minima(rows[probes], range(look.stop, search.chunks))
        best = measure(probes)
        left = rest[above_N[rest] >= best[0]]
        advance(len(alive) - len(left))
        if not len(left):
            return best
        alive = left
    advance(len(alive))
    return measure(alive)


def _looks(search: Search) -> Iterator[range]:
    """Runs of chunks, each about as long as all before it together."""
    start = 0
    for stop in range(1, search.chunks + 1):
        if stop == search.chunks or search.edges[stop] >= 2 * search.edges[start]:
            yield range(start, stop)
            start = stop


def _checked(one: ArrayLike, other: ArrayLike, *, names: tuple[str, str]) -> tuple[Rows, Rows]:
    """Both as finite floats of one dtype, or a `DistanceError`."""
    arrays = [np.asarray(one), np.asarray(other)]
    for name, array in zip(names, arrays, strict=True):
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            raise DistanceError(
                f"{name}: {array.dtype} of shape {array.shape}; expected numbers, a row for each sample (N, D)"
            )
        if not array.size:
            raise DistanceError(f"{name}: no vectors (shape {array.shape}); a distance needs at least one on each side")
    a_ND, b_MD = arrays
    if a_ND.shape[1] != b_MD.shape[1]:
        raise DistanceError(
            f"{names[0]}: rows of {a_ND.shape[1]:,} numbers, {names[1]}: of {b_MD.shape[1]:,}; "
            "expected vectors of one length, such as the features of one teacher"
        )
    for name, array in zip(names, arrays, strict=True):
        _check_finite(name, array)
    dtype = np.float32 if np.result_type(np.float32, a_ND, b_MD) == np.float32 else np.float64
    return np.ascontiguousarray(a_ND, dtype), np.ascontiguousarray(b_MD, dtype)


def _check_finite(name: str, rows_ND: Rows) -> None:
    if np.isfinite(rows_ND.max()) and np.isfinite(rows_ND.min()):  # a NaN is the maximum of whatever holds it
        return
    bad_N = np.asarray(~np.isfinite(rows_ND).all(axis=1))
    raise DistanceError(
        f"{name}: NaN or infinity in {np.count_nonzero(bad_N):,} of {len(bad_N):,} rows, "
        f"first in row {int(bad_N.argmax()):,}; leave those rows out, or make them again"
    )


def _larger(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else max(one, other)
