"""abm: adversarial belief matching, the student against a generator of what it does not know yet.

Micaelli and Storkey 2019, Zero-shot Knowledge Transfer via Adversarial Belief Matching (ZSKT), as Do et al. 2022,
Momentum Adversarial Distillation, write it (Eq. 1-3) and train it as their baseline (Table 2: 92.38 on CIFAR-10, 62.59
on CIFAR-100): with their generator, regularisation and settings (Eq. 10 and 11 without the EMA generator). ZSKT's own
attention transfer is not part of that.
"""

from distill.methods.adversarial import Adversarial
from distill.methods.adversarial_config import AdversarialConfig, published


class ABM(Adversarial):
    """The student learns from the generator alone."""

    config_class = AdversarialConfig
    source = "Micaelli and Storkey 2019, as in MAD (Do et al. 2022), Eq. 1-3, 10, 11, Tables 5-7"
    recipes = published(AdversarialConfig)
