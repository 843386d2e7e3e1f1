"""Crop and flip, addressed by (seed, key, view): the same pixels wherever and whenever they are asked for."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from manifests.keys import draw

PAD = 4  # px on every side before the crop, the CIFAR convention (He et al. 2016, section 4.2)


def crop_and_flip(
    images_BCHW: torch.Tensor, keys: NDArray[np.bytes_], *, seed: int, view: int, flip: bool = True, pad: int = PAD
) -> torch.Tensor:
    """Random crop after zero padding by ``pad`` px, and a horizontal flip for half of the images.

    Works on the images' own device and dtype; only B small integers cross to it. ``view`` numbers the augmented
    versions of an image: a trainer passes the epoch. Digits and letters want ``flip=False``.
    """
    size = images_BCHW.shape[-1]
    bits = draw(keys, "crop_and_flip", seed, view)
    span = np.uint64(2 * pad + 1)
    rows = (bits % span).astype(np.int64)[:, None] + np.arange(size)
    columns = ((bits >> np.uint64(20)) % span).astype(np.int64)[:, None] + np.arange(size)
    if flip:
        mirrored = (bits >> np.uint64(40)) & np.uint64(1) == 1
        columns[mirrored] = columns[mirrored, ::-1]
    device = images_BCHW.device
    rows_BH, columns_BW = (_send(torch.from_numpy(indices), device) for indices in (rows, columns))
    batch = torch.arange(len(images_BCHW), device=device)
    channel = torch.arange(images_BCHW.shape[1], device=device)
    padded = F.pad(images_BCHW, (pad, pad, pad, pad))
    return padded[
        batch[:, None, None, None], channel[None, :, None, None], rows_BH[:, None, :, None], columns_BW[:, None, None]
    ]


def _send(indices: torch.Tensor, device: torch.device) -> torch.Tensor:
    """To the device without waiting for it: a copy from memory that is not pinned would."""
    return indices.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else indices
