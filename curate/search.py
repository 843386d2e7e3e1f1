"""Exact nearest neighbours: float32 bounds over all pairs, float64 where they leave a doubt.

The expanded square |b|^2 - 2 a.b is fast, and where points lie close together and far from the origin its error is
larger than the distance. So both sets are centred, and two more columns make every entry of the product a true lower
bound of |a - b|^2 - |a|^2, whatever the order of its sums (Higham, Accuracy and Stability of Numerical Algorithms,
2nd ed., eq. 3.5). A pair whose bound exceeds the distance to a neighbour that is known is out; the others are measured
in float64 from their differences. What comes out is therefore the same for any number of threads, any BLAS and any
order of work.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray
from threadpoolctl import threadpool_limits

Rows = NDArray[np.floating[Any]]
Numbers = NDArray[np.float64]
Index = NDArray[np.int64]
In = TypeVar("In")
Out = TypeVar("Out")

FIRST, CHUNK = 256, 2048  # rows of the base at a time: doubling up to CHUNK, so that a first look is cheap
TILE = 256  # queries at a time: TILE x CHUNK float32 (2 MB) stay in the cache until their minima are taken
TASK = 1 << 21  # pairs that a thread takes at once: some ms
MANY = 16  # candidates a query, from which on float64 products thin them out before they are measured
MEASURED = 1 << 19  # differences that a thread holds at once: 4 MB
SAMPLE = 4096  # rows of the base whose mean is the centre: any centre is right, one amid the base is sharp


class Found(NamedTuple):
    """Nearest neighbours of N queries."""

    square_N: Numbers
    """squared distances, times the square of `Search.scale`; infinity for none"""
    index_N: Index
    """rows of the base; the first of those that are equally near"""


class Search:
    """Queries (N, D) and the base (M, D) to search for their neighbours: finite floats, of one dtype.

    A context, which holds the threads and a float32 copy of both. Queries and base rows go by their numbers; the base
    is searched in chunks, in a drawn order, so that the first few are typical of all. Rows that occur again in the base
    are searched once, and a query that is in the base is told by ``twin_N``: `minima` and `resolve` are for the others.
    """

    def __init__(self, queries_ND: Rows, base_MD: Rows, *, threads: int | None = None) -> None:
        self._queries, self._base, self._workers = queries_ND, base_MD, threads or os.cpu_count() or 1
        peak = max(queries_ND.max(), -queries_ND.min(), base_MD.max(), -base_MD.min())
        self.scale = 2.0 ** int(np.clip(-np.frexp(peak)[1], -1000, 1000))
        """what distances are multiplied by, so that no square overflows: a power of two, which changes no digit"""

    def __enter__(self) -> Self:
        self._limits = threadpool_limits(limits=1, user_api="blas")  # the threads are ours, a product each
        self._pool = ThreadPoolExecutor(self._workers)
        try:
            self._prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._limits.restore_original_limits()

    def minima(self, queries: Index, chunks: range) -> NDArray[np.float32]:
        """Per query and chunk a lower bound of |a - b|^2 - |a|^2 over the chunk (queries, chunks)."""
        minima_NC = np.empty((len(queries), len(chunks)), np.float32)
        tall = max(1, min(len(queries), 4 * TILE))
        wide = max(1, TASK // (tall * CHUNK))
        tasks = [
            (slice(row, row + tall), range(at, min(at + wide, len(chunks))))
            for at in range(0, len(chunks), wide)
            for row in range(0, len(queries), tall)
        ]

        def work(task: tuple[slice, range]) -> None:
            rows, columns = task
            for column in columns:
                self._minimum(queries[rows], chunks[column], minima_NC[rows, column])

        self._map(work, tasks)
        return minima_NC

    def above(self, queries: Index, minima_NC: NDArray[np.float32], chunks: range) -> Numbers:
        """From `minima` over some chunks an upper bound of each query's squared distance to its neighbour."""
        square_N1, radius_C = self.square_N[queries, None], self._radius_C[chunks.start : chunks.stop]
        slack_NC = _slack(self._left_NK) * radius_C * (radius_C + np.sqrt(square_N1))
        above_NC = square_N1 + minima_NC + 2 * slack_NC + self._doubt(square_N1 + radius_C**2) + self._least
        return np.asarray(above_NC.min(axis=1))

    def resolve(self, queries: Index, minima_NC: NDArray[np.float32]) -> Found:
        """The neighbours themselves, from the minima over all chunks."""
        found = _none(len(queries))
        best_N = minima_NC.argmin(axis=1)
        self._visit(queries, best_N[:, None] == np.arange(self.chunks), found)
        rest_NC = minima_NC <= self._limit(queries, found.square_N, np.float32)[:, None]
        rest_NC[np.arange(len(queries)), best_N] = False
        self._visit(queries, rest_NC, found)
        return found

    def _map(self, work: Callable[[In], Out], tasks: Iterable[In]) -> list[Out]:
        return list(self._pool.map(work, tasks))

    # ------------------------------------------------------------------------------------------------- preparation

    def _prepare(self) -> None:
        queries, width = len(self._queries), self._queries.shape[1] + 2
        self.twin_N, distinct = self._twins()
        """of a query that is in the base its first row there; -1 for others"""
        self._order = distinct[np.random.default_rng(0).permutation(len(distinct))]
        sample = self._base[np.sort(self._order[:SAMPLE])]
        self._centre_D = np.multiply(sample, self.scale, dtype=np.float64).mean(axis=0)
        size = len(self._order)
        growing = [FIRST << n for n in range(size.bit_length()) if FIRST << n < min(size, CHUNK)]
        self.edges = [0, *growing, *range(CHUNK, size, CHUNK), size]
        """places in the order of search between which the chunks lie"""
        self.chunks = len(self.edges) - 1
        self._left_NK, self._right_MK = np.empty((queries, width), np.float32), np.empty((size, width), np.float32)
        self.square_N, self._radius_C = np.empty(queries), np.empty(self.chunks)
        """squared distances of the queries from the middle of the base"""
        self._map(self._prepare_queries, _pieces(queries))
        self._map(self._prepare_chunk, range(self.chunks))

    def _twins(self) -> tuple[Index, Index]:
        """Of each query the first row of the base that equals it, or -1; and the first of each kind of row there."""
        base_M, queries_N = self._hashes(self._base), self._hashes(self._queries)
        kinds, first, kind_M = np.unique(base_M, return_index=True, return_inverse=True)
        again = np.flatnonzero(first[kind_M] != np.arange(len(base_M)))
        again = again[self._equal(self._base, again, first[kind_M[again]])]
        kind_N = np.searchsorted(kinds, queries_N).clip(max=len(kinds) - 1)
        known = np.flatnonzero(kinds[kind_N] == queries_N)
        known = known[self._equal(self._queries, known, first[kind_N[known]])]
        twin_N = np.full(len(queries_N), -1)
        twin_N[known] = first[kind_N[known]]
        return twin_N, np.delete(np.arange(len(base_M)), again)

    def _hashes(self, rows_ND: Rows) -> NDArray[np.uint64]:
        """Equal rows have equal hashes: sums of their words, each times an odd number of its own, modulo 2^64."""
        width = rows_ND.shape[1] * rows_ND.itemsize // 4
        odd_W = np.random.default_rng(1).integers(0, 1 << 63, width, dtype=np.uint64) * 2 + 1

        def work(rows: slice) -> NDArray[np.uint64]:
            words_NW = (rows_ND[rows] + 0).view(np.uint32)  # -0.0 + 0 is 0.0: equal numbers have equal words
            return np.asarray(np.einsum("nw,w->n", words_NW.astype(np.uint64), odd_W))

        return np.concatenate(self._map(work, _pieces(len(rows_ND))))

    def _equal(self, rows_ND: Rows, rows: Index, base: Index) -> NDArray[np.bool_]:
        """Whether rows are those of the base: hashes alone may collide."""
        parts = self._map(lambda p: (rows_ND[rows[p]] == self._base[base[p]]).all(axis=1), _pieces(len(rows)))
        return np.concatenate([np.empty(0, np.bool_), *parts])

    def _prepare_queries(self, rows: slice) -> None:
        self.square_N[rows] = self._left(self._queries[rows], self._left_NK[rows])

    def _prepare_chunk(self, chunk: int) -> None:
        rows = slice(self.edges[chunk], self.edges[chunk + 1])
        square_M = self._right(self._base[self._order[rows]], self._right_MK[rows])
        self._radius_C[chunk] = np.sqrt(square_M.max())

    def _left(self, rows_ND: Rows, out_NK: Rows) -> Numbers:
        """Write -2a, 1, -|a|; return |a|^2."""
        centred_ND, square_N = self._centred(rows_ND)
        out_NK[:, :-2] = -2 * centred_ND
        out_NK[:, -2], out_NK[:, -1] = 1, -np.sqrt(square_N)
        return square_N

    def _right(self, rows_MD: Rows, out_MK: Rows) -> Numbers:
        """Write b, |b|^2 less its slack, |b| times the slack: with a left side a bound below |b|^2 - 2 a.b."""
        centred_MD, square_M = self._centred(rows_MD)
        slack = _slack(out_MK)
        out_MK[:, :-2] = centred_MD
        out_MK[:, -2], out_MK[:, -1] = (1 - slack) * square_M, slack * np.sqrt(square_M)
        return square_M

    def _centred(self, rows_ND: Rows) -> tuple[Numbers, Numbers]:
        centred_ND = np.multiply(rows_ND, self.scale, dtype=np.float64)
        centred_ND -= self._centre_D
        return centred_ND, np.einsum("nd,nd->n", centred_ND, centred_ND)

    # ------------------------------------------------------------------------------------------------------ search

    def _minimum(self, queries: Index, chunk: int, out_N: NDArray[np.float32]) -> None:
        right_MK = self._right_MK[self.edges[chunk] : self.edges[chunk + 1]]
        product = np.empty((min(TILE, len(queries)), len(right_MK)), np.float32)
        for start in range(0, len(queries), TILE):
            left_NK = self._left_NK[queries[start : start + TILE]]
            _product(left_NK, right_MK, out=product[: len(left_NK)])
            product[: len(left_NK)].min(axis=1, out=out_N[start : start + TILE])
        _check_numbers(out_N)

    def _visit(self, queries: Index, wanted_NC: NDArray[np.bool_], found: Found) -> None:
        """Better ``found`` by what the chunks wanted hold."""
        tasks = [
            (rows[piece], chunk)
            for chunk in range(self.chunks)
            for rows in [np.flatnonzero(wanted_NC[:, chunk])]
            for piece in _pieces(len(rows), TILE)
        ]
        visited = self._map(lambda task: self._look(queries[task[0]], task[1], found.square_N[task[0]]), tasks)
        for (rows, _), (square_N, index_N) in zip(tasks, visited, strict=True):
            nearer = (square_N < found.square_N[rows]) | (
                (square_N == found.square_N[rows]) & (index_N < found.index_N[rows])
            )
            found.square_N[rows[nearer]], found.index_N[rows[nearer]] = square_N[nearer], index_N[nearer]

    def _look(self, queries: Index, chunk: int, known_N: Numbers) -> Found:
        """The nearest in a chunk, of those that are no farther than what is known."""
        inside = slice(self.edges[chunk], self.edges[chunk + 1])
        members = self._order[inside]
        bounds = _product(self._left_NK[queries], self._right_MK[inside])
        candidates = self._within(queries, members, bounds, known_N)
        if np.count_nonzero(candidates) > MANY * len(queries):
            candidates &= self._within(queries, members, self._bounds64(queries, members), known_N)
        row, column = np.nonzero(candidates)
        square, index = self._measure(queries[row], members[column]), members[column]
        order = np.lexsort((index, square, row))
        row, first = np.unique(row[order], return_index=True)
        found = _none(len(queries))
        found.square_N[row], found.index_N[row] = square[order][first], index[order][first]
        return found

    def _within(self, queries: Index, members: Index, bounds_NM: Rows, known_N: Numbers) -> NDArray[np.bool_]:
        """Which pairs may be as near as what is known, or as the member that seems the nearest."""
        least_N = bounds_NM.argmin(axis=1)
        _check_numbers(bounds_NM[np.arange(len(bounds_NM)), least_N])  # the least of a row with NaN is NaN
        seems_N = members[least_N]
        known_N = np.minimum(known_N, self._measure(queries, seems_N))
        return np.asarray(bounds_NM <= self._limit(queries, known_N, bounds_NM.dtype)[:, None])

    def _bounds64(self, queries: Index, members: Index) -> Numbers:
        width = self._left_NK.shape[1]
        left_NK, right_MK = np.empty((len(queries), width)), np.empty((len(members), width))
        self._left(self._queries[queries], left_NK)
        self._right(self._base[members], right_MK)
        return np.asarray(_product(left_NK, right_MK), np.float64)

    def _limit(self, queries: Index, known_N: Numbers, dtype: DTypeLike) -> Rows:
        """What the bound of a pair as near as ``known_N`` cannot exceed, rounded up."""
        square_N = self.square_N[queries]
        limit_N = (known_N - square_N + self._doubt(square_N + known_N) + self._least).astype(dtype)
        return np.asarray(np.nextafter(limit_N, np.inf, dtype=dtype))

    def _doubt(self, squares: Numbers) -> Numbers:
        """What rounding in float64 may change in sums of D squares."""
        return np.asarray(8 * (self._left_NK.shape[1] + 8) * np.finfo(np.float64).eps * squares)

    @property
    def _least(self) -> float:
        """What underflow may cost a float32 product."""
        return float(8 * self._left_NK.shape[1] * np.finfo(np.float32).tiny)

    def _measure(self, queries: Index, members: Index) -> Numbers:
        """Squared distances of pairs, in float64 from their differences."""
        square_P = np.empty(len(queries))
        for pairs in _pieces(len(queries), max(1, MEASURED // self._base.shape[1])):
            difference = np.multiply(self._queries[queries[pairs]], self.scale, dtype=np.float64)
            difference -= np.multiply(self._base[members[pairs]], self.scale, dtype=np.float64)
            square_P[pairs] = np.square(difference, out=difference).sum(axis=1)
        return square_P


def _slack(columns: Rows) -> float:
    """Relative error of a product of two such rows: of its sums, and of the rounding of what it multiplies."""
    unit = float(np.finfo(columns.dtype).eps) / 2
    sums = columns.shape[1] * unit
    return float(2.5 * (sums / (1 - sums) + 3 * unit))


def _none(count: int) -> Found:
    return Found(np.full(count, np.inf), np.zeros(count, np.int64))


def _product(left_NK: Rows, right_MK: Rows, out: Rows | None = None) -> Rows:
    """Products of rows that are finite.

    The processor's flag for an invalid operation was once seen set after one, in a thread, though the same product of
    the same rows is a number ever since: so NumPy's warning is not asked, the numbers are (`_check_numbers`).
    """
    with np.errstate(invalid="ignore"):
        return np.matmul(left_NK, right_MK.T, out=out)


def _check_numbers(least_N: NDArray[np.floating[Any]]) -> None:
    """Products of finite rows are numbers: anything else would be a mistake of ours."""
    if np.isnan(least_N).any():
        raise AssertionError("a product of finite vectors is not a number")


def _pieces(count: int, step: int = CHUNK) -> list[slice]:
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]
