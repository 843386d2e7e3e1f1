"""A classifier is one weights file: the network, the normaliser of its inputs and the names of its classes.

Outside a classifier images are uint8 or [0, 1]; `distill.models.view.normalise` is the one place where that ends.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from distill.errors import BadWeights, WrongArchitecture
from distill.models import ModelSpec, spec
from distill.models.card import Card
from distill.models.external import canonical, is_code
from distill.models.modelspec import plain
from distill.models.view import LUMA, Precision, Probe, TeacherView, Watch
from distill.models.weights import check_fits, plain_state, read_weights, serialise, weights_sha256
from distill.models.zoo import known_names
from manifests.commit import write_bytes


class Classifier(nn.Module):
    """A trained network that only looks: frozen, always in eval mode, fed with uint8 or [0, 1] images.

    Gradients reach float images (a generator learns through it) but never its weights or BN statistics.
    """

    mean_C: Tensor
    std_C: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        model: ModelSpec,
        card: Card,
        sha256: str,
        metadata: Mapping[str, str],
        dtype: Precision = "float32",
    ) -> None:
        super().__init__()
        self.net = net.requires_grad_(False).eval()
        if dtype == "bfloat16":
            self.net.to(memory_format=torch.channels_last)
        self._probe = Probe(self.net, head=model.head)
        self._modules_of_net = tuple(self.net.modules())  # walking the tree anew costs a percent of a small forward
        self.card = card
        self.name = stored_name(card.arch, sha256)
        self.arch = card.arch
        self.sha256 = sha256  # of the tensors, not of the file
        self.code = model.code
        self.num_classes = len(card.classes)
        self.input_size = card.input_size
        self.channels = len(card.mean)
        self.mean = card.mean
        self.std = card.std
        self.classes = card.classes
        self.feature_dim = model.feature_dim
        self.metadata = dict(metadata)
        self.resize = metadata.get("resize", "antialias")  # how images come to its input size: its evaluation's rule
        self.flip = metadata.get("flip", "true") == "true"  # whether a mirrored image is still of its class
        self.dtype: Precision = dtype
        self.register_buffer("mean_C", torch.tensor(card.mean), persistent=False)
        self.register_buffer("std_C", torch.tensor(card.std), persistent=False)

    def train(self, mode: bool = True) -> "Classifier":  # noqa: ARG002  # torch's signature; it stays in eval mode
        """Stay in eval mode, whatever a loop asks of the modules that it holds."""
        return super().train(False)

    def forward(self, images_BCHW: Tensor) -> TeacherView:
        """Logits and features of uint8 or [0, 1] images on the classifier's device, at any size its network takes.

        RGB images; a grey classifier takes their luma.
        """
        if any(module.training for module in self._modules_of_net):  # somebody reached past `train` above
            self.net.eval()
        return self._probe(images_BCHW, mean_C=self.mean_C, std_C=self.std_C, dtype=self.dtype)

    def watch(self, *, maps: Sequence[str] = (), batch_norm: bool = False) -> Watch:
        """Show in every view also the outputs of the modules named, and the moments of what enters each batch norm.

        Ends with the returned object's `remove`, or the `with` that holds it. Raises DistillError for a name that the
        network lacks.
        """
        return self._probe.watch(maps=maps, batch_norm=batch_norm)


def stored_name(arch: str, sha256: str) -> str:
    """What the teachers' store calls a network: fit for a file name, whatever the architecture is called."""
    return f"{plain(arch)}-{sha256[:12]}"


def load_classifier(
    path: Path | str, *, arch: str | None = None, dtype: Precision = "float32", device: torch.device | str = "cpu"
) -> Classifier:
    """Read a weights file as a classifier; `arch` is needed only if the metadata lacks it.

    Raises BadWeights, WrongArchitecture, UnknownModel or UnsupportedSize. Leaves torch's random state as it was.
    """
    tensors, metadata = read_weights(Path(path))
    return classifier_of(tensors, metadata, arch=arch, source=str(path), dtype=dtype, device=device)


def classifier_of(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    arch: str | None,
    source: str,
    dtype: Precision = "float32",
    device: torch.device | str = "cpu",
) -> Classifier:
    """A weights file's content as a classifier; errors as in `load_classifier`, which begin with its ``source``.

    `input_size` and `classes` may be absent from the metadata (then the architecture's size and "0", "1", ...); `mean`
    and `std` only where all published weights of the architecture share them, and there are as many classes.
    """
    model = spec(stated_arch(metadata, asked=arch, source=source))
    used = {name: tensor for name, tensor in tensors.items() if not name.startswith(model.auxiliary or ("\0",))}
    head = used.get(f"{model.head}.weight")
    outputs = head.shape[0] if head is not None and head.ndim == 2 else model.classes
    try:
        card = Card.from_metadata(
            {**(model.published if outputs == model.classes else {}), **metadata},
            arch=model.name,
            outputs=outputs,
            input_size=model.input_size,
        )
        if (flip := metadata.get("flip", "true")) not in ("true", "false"):
            raise BadWeights(f"flip is {flip!r}; expected true or false")
    except BadWeights as error:
        numbers = "R,G,B" if model.channels == len(LUMA) else "GREY"
        remedy = f"{shlex.quote(source)} --arch {model.name} --mean {numbers} --std {numbers}"
        how = "" if {"mean", "std"} <= metadata.keys() else f"\nSay what is right once: distill teachers add {remedy}"
        raise BadWeights(f"what is told of {source!r} cannot be used: {error}{how}") from None
    model.check_size(card.input_size)
    net = model.skeleton(len(card.classes))
    what = f"a {model.name}" + (f" with {len(card.classes)} classes" if head is not None else "")
    check_fits(used, net, what=what, source=source)
    if bad := [name for name, tensor in used.items() if not tensor.isfinite().all()]:
        raise BadWeights(f"{source!r} holds numbers that are not finite, in {bad[0]} and {len(bad) - 1} other tensors")
    if len(card.mean) != model.channels:
        raise BadWeights(f"{source!r}: a {model.name} wants mean and std of {model.channels} channels; got {card.mean}")
    net.load_state_dict(used, strict=False)  # all but BN's step counters is there, as checked above
    classifier = Classifier(net, model=model, card=card, sha256=weights_sha256(used), metadata=metadata, dtype=dtype)
    return classifier.to(device)


def save_classifier(
    path: Path | str,
    net: nn.Module,
    *,
    arch: str,
    mean: Sequence[float],
    std: Sequence[float],
    classes: Sequence[str],
    input_size: int,
    **extra_metadata: str,
) -> None:
    """Write a network atomically as a weights file that `load_classifier` reads; equal input gives equal bytes.

    Raises WrongArchitecture if `net` is not an `arch` with `len(classes)` classes, BadWeights if the normaliser is off.
    """
    card = Card(
        arch=canonical(arch),
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        classes=tuple(classes),
        input_size=input_size,
    )
    state = plain_state(net)
    what = f"a {arch} with {len(classes)} classes"
    check_fits(state, spec(arch).skeleton(len(classes)), what=what, source="the network to save")
    write_bytes(path, serialise(state, extra_metadata | card.to_metadata()))


def stated_arch(metadata: Mapping[str, str], *, asked: str | None, source: str) -> str:
    """The architecture that a file holds. Raises BadWeights, WrongArchitecture or UnknownModel.

    A file may not name code to be run: an architecture that is a Python file is taken only from who asks.
    """
    stated, asked = metadata.get("arch"), canonical(asked) if asked else None
    if stated is None and asked is None:
        raise BadWeights(
            f"{source!r} does not say its architecture ('arch' in its metadata); name one of {known_names()}.\n"
            f"Say it once: distill teachers add {shlex.quote(source)} --arch NAME"
        )
    if stated is not None and asked is not None and stated != asked:
        raise WrongArchitecture(f"{source!r} holds a {stated} by its metadata, not the {asked} asked for")
    if asked is None and is_code(stated or ""):
        raise BadWeights(
            f"the network in {source!r} is made by code, {stated}; a weights file may not have code run.\n"
            "If that file is yours, name it yourself where the architecture is asked for"
        )
    return spec(stated or asked or "").name
