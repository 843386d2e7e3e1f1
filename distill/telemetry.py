"""Is the generator still worth learning from? What the teacher sees in its images, and what the student forgot of them.

Data-free training fails in ways that no loss shows: a generator that makes one class only, or images of which the
teacher is not sure; a student that unlearns what the generator no longer makes (MAD's Figure 4). All of it is measured
when the student is judged, on images of one z in a batch of its own.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.losses.kl import kl_divergence
from distill.methods.base import Method

LOOKED_AT = 256
"""synthetic images a look"""
REMEMBERED = 32
"""of them that are kept to ask the student about later"""
LOOKS = 16
"""whose images are kept; older ones are replaced in turn"""


class Telemetry:
    """Looks at a method's synthetic images; its state is a part of the run, so that a resumed run says the same."""

    def __init__(self) -> None:
        self._looks = 0
        self._images_NCHW: Tensor | None = None
        """uint8, (LOOKS * REMEMBERED, C, H, W), those of the oldest look first until it is full"""

    def state_dict(self) -> dict[str, Any]:
        return {"looks": self._looks, "images": self._images_NCHW}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self._looks, self._images_NCHW = state_dict["looks"], state_dict["images"]

    @torch.no_grad()
    def look(self, method: Method) -> dict[str, Any]:
        """What there is to say now.

        `classes` counts the teacher's predictions, `effective_classes` is e to the entropy of its mean answer,
        `entropy` its mean own one (nats); `kl_now` and `kl_before` are KL(T || S) on the images of this look and of
        those before. A method adds what else it watches.
        """
        images_BCHW = method.samples(LOOKED_AT)
        if images_BCHW is None:
            raise AssertionError("a method without a generator has nothing to look at")
        setup, student = method.setup, method.deployed()
        teacher_BK = setup.the_teacher(images_BCHW).logits_BK
        log_p_BK = F.log_softmax(teacher_BK.float(), 1).clamp_min(-200.0)
        mean_K = log_p_BK.exp().mean(0)
        student.net.eval()
        found = {
            "classes": torch.bincount(teacher_BK.argmax(1), minlength=teacher_BK.shape[1]).tolist(),
            "entropy": float(-(log_p_BK.exp() * log_p_BK).sum(1).mean()),
            "effective_classes": math.exp(float(-torch.xlogy(mean_K, mean_K).sum())),
            "kl_now": float(kl_divergence(teacher_BK, student(images_BCHW))),
            "kl_before": self._forgotten(method),
            **{name: float(value) for name, value in method.watched().items()},
        }
        student.net.train()
        self._remember(images_BCHW)
        return found

    def _forgotten(self, method: Method) -> float | None:
        """KL(T || S) on what was kept, None before there is any."""
        if self._images_NCHW is None:
            return None
        images_BCHW = self._images_NCHW[: min(self._looks, LOOKS) * REMEMBERED].to(method.setup.device)
        teacher_BK = method.setup.the_teacher(images_BCHW).logits_BK
        return float(kl_divergence(teacher_BK, method.deployed()(images_BCHW)))

    def _remember(self, images_BCHW: Tensor) -> None:
        kept = (images_BCHW[:REMEMBERED] * 255).round().to(torch.uint8).cpu()
        if self._images_NCHW is None:
            self._images_NCHW = kept.new_zeros((LOOKS * REMEMBERED, *kept.shape[1:]))
        at = self._looks % LOOKS * REMEMBERED
        self._images_NCHW[at : at + len(kept)] = kept
        self._looks += 1
