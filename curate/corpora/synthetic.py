"""Procedural renders, as corpora: `synthetic:shapes?n=50000&seed=0&size=32`.

- `shapes`: solids of metal and rubber on a grey ground, in the spirit of CLEVR.
- `aerial`: landscapes of five climates and four seasons as a drone sees them, in the spirit of Mid-Air.

Both data sets are the synthetic transfer sets of "Effectiveness of arbitrary transfer sets for data-free knowledge
distillation" (supplement, Tables 6-9). The size changes the sharpness, not what is seen. The arithmetic is NumPy's in
float32: on another kind of processor a pixel may differ by a grey level.
"""

from collections.abc import Mapping
from typing import ClassVar

from curate.corpora.generated import Family, GeneratedCorpus
from curate.corpora.renders import aerial, shapes


class SyntheticCorpus(GeneratedCorpus):
    """Images of made-up scenes."""

    scheme = "synthetic"
    families: ClassVar[Mapping[str, Family]] = {
        "shapes": Family(draw=shapes.draw, version=1),
        "aerial": Family(draw=aerial.draw, version=1),
    }
