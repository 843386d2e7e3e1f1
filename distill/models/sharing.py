"""A student that ends in its teacher's last layer: the layer as the teacher has it, moved by no optimiser."""

import copy

import torch

from distill.models import projected, spec
from distill.models.maps import feature_map
from distill.models.student import Student
from distill.models.teachers import Classifier


def sharing_student(own: Student, teacher: Classifier) -> Student:
    """A copy of a student's backbone, a fresh projector from torch's global generator, and the teacher's classifier.

    Its network is a `projected:ARCH:WIDTH` (see projected.py), whose `classifier` takes no gradients.
    """
    inner, head = spec(own.arch), teacher.net.get_submodule(spec(teacher.arch).head)
    net = projected.Projected(
        copy.deepcopy(own.net),
        head=inner.head,
        feature_map=feature_map(own.net, head=inner.head, size=inner.input_size, channels=inner.channels),
        width=teacher.feature_dim,
        num_classes=teacher.num_classes,
    ).to(teacher.mean_C.device)
    with torch.no_grad():
        for name, parameter in net.classifier.named_parameters():
            shared = getattr(head, name)
            parameter.copy_(torch.zeros_like(parameter) if shared is None else shared)  # a layer may have no bias
    net.classifier.requires_grad_(False)
    arch = projected.name_of(own.arch, width=teacher.feature_dim)
    student = Student(net, arch=arch, head="classifier", mean=own.mean, std=own.std, dtype=own.dtype)
    return student.to(teacher.mean_C.device)
