"""The plain student, for programs that know nothing of us: safetensors with its card, or ONNX from pixels to logits."""

import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from distill.errors import DistillError
from distill.models.teachers import Classifier
from distill.models.view import normalise
from manifests.commit import atomic_file

FORMATS = (".safetensors", ".onnx")


class _Pixels(nn.Module):
    """uint8 images in, logits out: the normaliser is part of it."""

    mean_C: Tensor
    std_C: Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.net = classifier.net
        self.register_buffer("mean_C", torch.tensor(classifier.mean))
        self.register_buffer("std_C", torch.tensor(classifier.std))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """logits_BK."""
        logits_BK: Tensor = self.net(normalise(images_BCHW, self.mean_C, self.std_C))
        return logits_BK


def export(classifier: Classifier, source: Path, out: Path) -> Path:
    """Write ``classifier``, which lies in ``source``, to ``out``; its ending says how. Nothing is overwritten.

    Raises `DistillError` for another ending, a file that is there, or a missing package.
    """
    if out.suffix not in FORMATS:
        raise DistillError(f"--out {out} ends in {out.suffix or 'nothing'}; expected {' or '.join(FORMATS)}")
    if out.exists():
        raise DistillError(f"{out} exists; choose another name")
    with atomic_file(out) as file:
        file.write(source.read_bytes() if out.suffix == ".safetensors" else _onnx(classifier))
    return out


def _onnx(classifier: Classifier) -> bytes:
    missing = [package for package in ("onnx", "onnxscript") if find_spec(package) is None]  # torch's exporter has both
    if missing:
        raise DistillError(f"ONNX needs {' and '.join(missing)}: pip install 'transferset[onnx]'")
    size = classifier.input_size
    images = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            _Pixels(classifier).eval().cpu(),
            (images,),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise AssertionError("torch exported nothing")
    data: bytes = program.model_proto.SerializeToString()
    return data
