"""A classifier is one safetensors file: the network, the normaliser of its inputs and the names of its classes.

Outside a classifier images are uint8 or [0, 1]; `normalise` is the one place where that ends. The file's metadata (all
strings) are `arch`, `num_classes`, `input_size`, `mean`, `std` (of inputs in [0, 1]), `classes` (comma-separated, in
label order, quoted as in CSV where a name needs it) and what else its maker knew (`dataset`, `test_accuracy`, ...).
A classifier is known by the hash of its tensors, so that equal weights are one teacher whatever their file is called.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from distill.errors import BadWeights, WrongArchitecture
from distill.models import MODELS, Network, spec
from manifests.commit import write_bytes

Precision = Literal["float32", "bfloat16"]
CHANNELS = 3  # of every image that is stored or generated: RGB
_COUNTER = "num_batches_tracked"  # BN's step counter: no use after training, so neither saved, hashed nor asked for
_SHOWN = 3  # differences that a message names before it only counts


@dataclass(frozen=True, kw_only=True)
class TeacherView:
    """What a classifier thinks of a batch."""

    logits_BK: Tensor  # float32, before softmax
    features_BD: Tensor  # float32, the input of the last linear layer


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a weights file says of itself, checked."""

    arch: str  # a name in MODELS
    mean: tuple[float, ...]  # per channel, of inputs in [0, 1]
    std: tuple[float, ...]  # per channel, > 0
    classes: tuple[str, ...]  # names in label order
    input_size: int  # pixels a side that the network was trained on

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == CHANNELS:
            raise BadWeights(f"mean and std need {CHANNELS} numbers each; got {self.mean} and {self.std}")
        if not all(map(math.isfinite, self.mean + self.std)) or min(self.std) <= 0:
            raise BadWeights(f"mean and std must be finite and std above 0; got {self.mean} and {self.std}")
        if not self.classes or self.input_size < 1:
            raise BadWeights(f"need a class and an input size >= 1; got {len(self.classes)} and {self.input_size}")

    def to_metadata(self) -> dict[str, str]:
        """The strings that stand for this card in a file."""
        names = io.StringIO()
        csv.writer(names, lineterminator="").writerow(self.classes)
        return {
            "arch": self.arch,
            "num_classes": str(len(self.classes)),
            "input_size": str(self.input_size),
            "mean": ",".join(map(str, self.mean)),
            "std": ",".join(map(str, self.std)),
            "classes": names.getvalue(),
        }


def normalise(images_BCHW: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> Tensor:
    """(x - mean) / std per channel, in float32: the one normaliser, for real and synthetic images alike.

    `images_BCHW` is uint8 (0 to 255) or float in [0, 1]; gradients reach float images. `mean` and `std` (C numbers) are
    of inputs in [0, 1]; given as tensors on the images' device, nothing waits for that device.
    """
    mean_C11 = torch.as_tensor(mean, dtype=torch.float32, device=images_BCHW.device).view(-1, 1, 1)
    std_C11 = torch.as_tensor(std, dtype=torch.float32, device=images_BCHW.device).view(-1, 1, 1)
    unit_BCHW = images_BCHW.float() / 255 if images_BCHW.dtype == torch.uint8 else images_BCHW.float()
    return (unit_BCHW - mean_C11) / std_C11


def view(net: Network, images_BCHW: Tensor, *, mean_C: Tensor, std_C: Tensor, dtype: Precision) -> TeacherView:
    """Logits and features of uint8 or [0, 1] images: the one way a network, teacher or student, is asked.

    With "bfloat16" the backbone runs under autocast in channels-last; the last linear layer is always float32, because
    eight bits of logit would decide ties in the entropy. Nothing here waits for the device.
    """
    device_type, low = images_BCHW.device.type, dtype == "bfloat16"
    x_BCHW = normalise(images_BCHW, mean_C, std_C)
    if low:
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
    with torch.autocast(device_type, dtype=torch.bfloat16, enabled=low):
        features_BD = net.features(x_BCHW)
    with torch.autocast(device_type, enabled=False):
        features_BD = features_BD.float()
        return TeacherView(logits_BK=net.fc(features_BD), features_BD=features_BD)


class Classifier(nn.Module):
    """A trained network that only looks: frozen, always in eval mode, fed with uint8 or [0, 1] images.

    Gradients reach float images (a generator learns through it) but never its weights or BN statistics.
    """

    mean_C: Tensor
    std_C: Tensor

    def __init__(
        self, net: Network, *, card: Card, sha256: str, metadata: Mapping[str, str], dtype: Precision = "float32"
    ) -> None:
        super().__init__()
        self.net: Network = net.requires_grad_(False).eval()
        if dtype == "bfloat16":
            self.net.to(memory_format=torch.channels_last)
        self.name = f"{card.arch}-{sha256[:12]}"  # what the teacher store calls it
        self.arch = card.arch
        self.sha256 = sha256  # of the tensors, not of the file
        self.num_classes = len(card.classes)
        self.input_size = card.input_size
        self.channels = CHANNELS
        self.mean = card.mean
        self.std = card.std
        self.classes = card.classes
        self.feature_dim = spec(card.arch).feature_dim
        self.metadata = dict(metadata)
        self.flip = metadata.get("flip", "true") == "true"  # whether a mirrored image is still of its class
        self.dtype: Precision = dtype
        self.register_buffer("mean_C", torch.tensor(card.mean), persistent=False)
        self.register_buffer("std_C", torch.tensor(card.std), persistent=False)

    def train(self, mode: bool = True) -> "Classifier":  # noqa: ARG002  # torch's signature; it stays in eval mode
        """Stay in eval mode, whatever a loop asks of the modules that it holds."""
        return super().train(False)

    def forward(self, images_BCHW: Tensor) -> TeacherView:
        """Logits and features of uint8 or [0, 1] images on the classifier's device, at any size its network takes."""
        if any(module.training for module in self.net.modules()):  # somebody reached past `train` above
            self.net.eval()
        return view(self.net, images_BCHW, mean_C=self.mean_C, std_C=self.std_C, dtype=self.dtype)


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and little-endian bytes, in name order; BN's step counters are left out."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if not name.endswith(_COUNTER):
            tensor = tensors[name].detach().cpu().contiguous()
            header = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
            digest.update(json.dumps(header).encode() + b"\n")
            digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_classifier(
    path: Path | str, *, arch: str | None = None, dtype: Precision = "float32", device: torch.device | str = "cpu"
) -> Classifier:
    """Read a weights file as a classifier; `arch` is needed only if the metadata lacks it.

    `input_size` and `classes` may be absent too (then the architecture's size and "0", "1", ...); `mean` and `std` may
    not. Raises BadWeights, WrongArchitecture or UnknownModel. Leaves torch's random state as it was.
    """
    tensors, metadata = read_weights(Path(path))
    arch = stated_arch(Path(path), metadata, asked=arch)
    card = _card(Path(path), metadata, arch=arch, head=tensors.get("fc.weight"))
    _check_fits(tensors, arch=arch, num_classes=len(card.classes), source=str(path))
    with torch.device("meta"):  # no memory and no random numbers are spent on weights that are thrown away
        net = spec(arch).build(len(card.classes))
    state = {name: tensor.float() for name, tensor in tensors.items() if not name.endswith(_COUNTER)}
    net.load_state_dict(state, assign=True)
    classifier = Classifier(net, card=card, sha256=weights_sha256(tensors), metadata=metadata, dtype=dtype)
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
        arch=arch,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        classes=tuple(classes),
        input_size=input_size,
    )
    state = {
        name: tensor.detach().float().cpu().contiguous()
        for name, tensor in net.state_dict().items()
        if not name.endswith(_COUNTER)
    }
    _check_fits(state, arch=arch, num_classes=len(classes), source="the network to save")
    write_bytes(path, _serialise(state, extra_metadata | card.to_metadata()))


def _serialise(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file with its metadata in name order (the library's own order changes from run to run)."""
    header, data = _split(safetensors.torch.save(tensors, metadata))
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format asks that the data start at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data


def _split(blob: bytes) -> tuple[dict[str, Any], bytes]:
    """A whole safetensors file's header (8 bytes of its length, then JSON) and the data after it."""
    end = 8 + int.from_bytes(blob[:8], "little")
    return json.loads(blob[8:end]), blob[end:]


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A weights file's tensors and metadata. Raises BadWeights."""
    if not path.is_file():
        raise BadWeights(f"no weights file {str(path)!r}; expected a safetensors file")
    blob = path.read_bytes()  # not memory-mapped: weights must not change when somebody overwrites the file
    try:
        return safetensors.torch.load(blob), _split(blob)[0].get("__metadata__", {})
    except SafetensorError:
        pass
    if blob.startswith((b"PK\x03\x04", b"\x80")):  # torch.save's zip, or a bare pickle
        raise BadWeights(
            f"{str(path)!r} is a pickle; weights must be safetensors (a pickle can run code).\n"
            "Convert it: torch.load(FILE, weights_only=True), then distill.models.teachers.save_classifier(...)"
        )
    raise BadWeights(f"{str(path)!r} is not a whole safetensors file")


def stated_arch(path: Path, metadata: Mapping[str, str], *, asked: str | None) -> str:
    """The architecture that a file holds. Raises BadWeights, WrongArchitecture or UnknownModel."""
    stated = metadata.get("arch")
    if stated is None and asked is None:
        raise BadWeights(
            f"{str(path)!r} does not say its architecture ('arch' in its metadata); name one of {', '.join(MODELS)}"
        )
    if stated is not None and asked is not None and stated != asked:
        raise WrongArchitecture(f"{str(path)!r} holds a {stated} by its metadata, not the {asked} asked for")
    return spec(stated or asked or "").name


def _card(path: Path, metadata: Mapping[str, str], *, arch: str, head: Tensor | None) -> Card:
    """A file's metadata as a card. Raises BadWeights."""
    absent = [name for name in ("mean", "std") if name not in metadata]
    if absent:
        raise BadWeights(
            f"{str(path)!r} lacks {' and '.join(absent)} in its metadata: the normaliser travels with the weights;"
            " write the file with distill.models.teachers.save_classifier"
        )
    try:
        count = int(metadata.get("num_classes", head.shape[0] if head is not None and head.ndim == 2 else 1))
        names = next(csv.reader(io.StringIO(metadata["classes"], newline=""))) if "classes" in metadata else []
        card = Card(
            arch=arch,
            mean=tuple(map(float, metadata["mean"].split(","))),
            std=tuple(map(float, metadata["std"].split(","))),
            classes=tuple(names or map(str, range(count))),
            input_size=int(metadata.get("input_size", spec(arch).input_size)),
        )
    except (ValueError, BadWeights) as error:
        raise BadWeights(f"the metadata of {str(path)!r} cannot be used: {error}") from None
    if len(card.classes) != count:
        raise BadWeights(f"{str(path)!r} names {len(card.classes)} classes but says num_classes {count}")
    return card


def _check_fits(tensors: Mapping[str, Tensor], *, arch: str, num_classes: int, source: str) -> None:
    """Compare names and shapes with what `arch` wants. Raises WrongArchitecture, which names at most three."""
    with torch.device("meta"):
        wanted = spec(arch).build(num_classes).state_dict()
    want = {name: tuple(tensor.shape) for name, tensor in wanted.items() if not name.endswith(_COUNTER)}
    have = {name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.endswith(_COUNTER)}
    other = [f"{name} is {have[name]}, not {want[name]}" for name in want if have.get(name, want[name]) != want[name]]
    absent = [f"{name} is absent" for name in want if name not in have]
    unknown = [f"{name} is unknown" for name in have if name not in want]
    if other or absent or unknown:
        raise WrongArchitecture(
            f"{source} is not a {arch} with {num_classes} classes: {len(other)} tensors of another shape,"
            f" {len(absent)} absent, {len(unknown)} unknown,\n"
            f"such as: {'; '.join((other + absent + unknown)[:_SHOWN])}"
        )
