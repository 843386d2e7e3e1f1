"""hausdorff: the subset that comes near to every vector of a reference, the worst served first.

So h(reference, subset) falls fastest: each step serves the reference vector that is farthest from what is chosen.
"""

from curate.choice import Choice
from curate.cover import Cover, greedy_approach
from curate.select.base import Picked, Quota
from curate.select.greedy import Integers, Rows, pick_in_steps
from curate.select.order import refuse_foreign
from curate.select.pool import Pool
from manifests.progress import Advance


class Hausdorff:
    """Greedy approach to a reference in the teacher's feature space."""

    source = "the distance of Nayak, Mopuri and Chakraborty, WACV 2021, Tables 1, 2 and 5, brought down greedily"
    uses_vectors = True

    def check(self, choice: Choice) -> None:
        """Any options but those of other rules."""
        refuse_foreign(choice)

    def pick(self, pool: Pool, choice: Choice, quota: Quota) -> Picked:
        """In the order in which the distance falls; the last distance is in the facts."""
        reference, points = pool.reference, pool.points(choice.on)
        if reference is None:
            raise AssertionError("checked when it was chosen")

        def step(count: int, groups_N: Integers, room_G: Integers, before_CD: Rows, advance: Advance) -> Cover:
            return greedy_approach(
                reference.rows_ND,
                points.rows_ND,
                count,
                groups_N=groups_N,
                room_G=room_G,
                covered_by_MD=before_CD,
                threads=pool.threads,
                advance=advance,
            )

        return pick_in_steps(pool, points, quota, step, kept="nears reference", cut="not needed")


HAUSDORFF = Hausdorff()
