"""kcenter: the subset that covers all candidates best: each step takes the one farthest from what is chosen.

So h(corpus, subset) falls fastest. With a reference, its vectors count as chosen already: what it covers is not wanted.
"""

import numpy as np

from curate.choice import Choice
from curate.cover import Cover, greedy_cover
from curate.select.base import Picked, Quota
from curate.select.greedy import Integers, Rows, pick_in_steps
from curate.select.order import refuse_foreign
from curate.select.pool import Pool
from manifests.progress import Advance


class KCenter:
    """Greedy coverage in the teacher's feature space."""

    source = "Gonzalez, 1985; as a selection of training data: Sener and Savarese, ICLR 2018, Algorithm 1"
    uses_vectors = True

    def check(self, choice: Choice) -> None:
        """Any options but those of other rules."""
        refuse_foreign(choice)

    def pick(self, pool: Pool, choice: Choice, quota: Quota) -> Picked:
        """In the order of greedy coverage; the last radius is in the facts."""
        points = pool.points(choice.on)
        start_MD = pool.reference.rows_ND if pool.reference else points.rows_ND[:0]

        def step(count: int, groups_N: Integers, room_G: Integers, before_CD: Rows, advance: Advance) -> Cover:
            covered_MD = np.concatenate([start_MD, before_CD])
            return greedy_cover(
                points.rows_ND,
                count,
                groups_N=groups_N,
                room_G=room_G,
                covered_by_MD=covered_MD,
                threads=pool.threads,
                advance=advance,
            )

        return pick_in_steps(pool, points, quota, step, kept="covers", cut="covered")


KCENTER = KCenter()
