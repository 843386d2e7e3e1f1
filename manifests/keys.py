"""Content keys: what a sample is called everywhere, and the total order of everything.

A key is 32 hex digits, the first 128 bits of a SHA-256. It depends on the source's bytes alone, so the same image
has the same key in every store, on every machine.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEY_DIGITS = 32  # 128 bits: a collision among 10^9 samples has probability 10^-21


def content_key(data: bytes | NDArray[Any], occurrence: int = 0) -> str:
    """Key of encoded bytes, or of an array (its shape and raw bytes).

    ``occurrence`` counts byte-identical samples of one corpus in uri order: the n-th (n > 0) hashes bytes + n, so
    that keys stay unique.
    """
    digest = hashlib.sha256()
    if isinstance(data, np.ndarray):
        digest.update(repr(data.shape).encode())
        data = data.tobytes()
    digest.update(data)
    if occurrence:
        digest.update(occurrence.to_bytes(8, "little"))
    return digest.hexdigest()[:KEY_DIGITS]


def unreadable_key(corpus: str, uri: str) -> str:
    """Key of a sample whose bytes could not be read at all: where it should have been."""
    return hashlib.sha256(f"{corpus}\0{uri}".encode()).hexdigest()[:KEY_DIGITS]


def pixel_hash(image_CHW: NDArray[np.uint8]) -> str:
    """32 hex digits over the stored pixels; samples with equal pixels are duplicates."""
    return hashlib.sha256(repr(image_CHW.shape).encode() + image_CHW.tobytes()).hexdigest()[:KEY_DIGITS]


def address(*parts: str | int) -> int:
    """A 64-bit seed that is a pure function of what it is for, such as ``address(seed, "z", step)``.

    Randomness here is addressed, never drawn in order: a resumed or re-sharded run sees the same numbers.
    """
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:8], "little")


def key_numbers(keys: NDArray[np.bytes_]) -> NDArray[np.uint64]:
    """First 64 bits of each key (N,), as integers: a seed for what is addressed by key."""
    digits = b"".join(keys.tolist())
    return np.frombuffer(bytes.fromhex(digits.decode()), dtype=">u8").reshape(len(keys), 2)[:, 0].astype(np.uint64)


def draw(keys: NDArray[np.bytes_], *purpose: str | int) -> NDArray[np.uint64]:
    """64 random bits for each key (N,), addressed by (key, purpose): the same wherever and whenever asked for.

    SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014) over key + purpose.
    """
    x = key_numbers(keys) + np.uint64(address(*purpose))  # uint64 arithmetic wraps, as the mixer wants
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))
