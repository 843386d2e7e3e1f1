"""balanced-entropy: balanced, and within a class the images on which the teacher is least sure."""

from curate.select.balanced import Balanced

BALANCED_ENTROPY = Balanced(
    by="entropy-topk",
    source="balance of Nayak, Mopuri and Chakraborty, WACV 2021, with MosaicKD's order (supplement, Algorithm 1)",
)
