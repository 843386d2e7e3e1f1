import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from manifests.keys import KEY_DIGITS, address, content_key, draw, key_numbers, pixel_hash, unreadable_key


def keys_of(count: int) -> NDArray[np.bytes_]:
    return np.array([content_key(str(i).encode()).encode() for i in range(count)], dtype=f"S{KEY_DIGITS}")


def test_a_key_is_the_first_128_bits_of_sha256() -> None:
    assert content_key(b"abc") == "ba7816bf8f01cfea414140de5dae2223"  # FIPS 180-2, appendix B.1


def test_an_occurrence_is_hashed_after_the_bytes() -> None:
    keys = [content_key(b"same", n) for n in range(4)]
    assert len(set(keys)) == 4
    assert keys[0] == content_key(b"same")
    assert keys[2] == hashlib.sha256(b"same" + b"\x02" + bytes(7)).hexdigest()[:32]


def test_an_array_is_its_shape_and_its_bytes() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    assert content_key(image) == hashlib.sha256(b"(3, 2, 2)" + bytes(range(12))).hexdigest()[:32]
    assert content_key(image) != content_key(image.tobytes())
    assert content_key(image) != content_key(image.reshape(3, 4, 1))
    assert content_key(image, 1) != content_key(image)


def test_memory_order_does_not_matter() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    view = image.transpose(1, 0, 2)
    assert not view.flags["C_CONTIGUOUS"]
    assert content_key(view) == content_key(view.copy())
    assert pixel_hash(view) == pixel_hash(view.copy())


def test_an_unreadable_sample_is_keyed_by_where_it_should_have_been() -> None:
    assert len(unreadable_key("tiny", "a.jpg")) == 32
    assert (
        len({unreadable_key("tiny", "a.jpg"), unreadable_key("tiny", "b.jpg"), unreadable_key("scenes", "a.jpg")}) == 3
    )
    assert unreadable_key("ab", "c") != unreadable_key("a", "bc")


def test_equal_pixels_have_equal_hashes() -> None:
    image = np.zeros((3, 4, 4), np.uint8)
    other = image.copy()
    other[2, 3, 3] = 1
    assert pixel_hash(image) == pixel_hash(image.copy())
    assert pixel_hash(image) != pixel_hash(other)
    assert pixel_hash(image) != pixel_hash(image.reshape(3, 2, 8))


def test_addresses_never_change() -> None:
    """Every seed of every run comes from here: another value is another result for every user."""
    assert address(0, "z", 1) == int.from_bytes(hashlib.sha256(b"0\0z\0" + b"1").digest()[:8], "little")
    assert address(0, "z", 1) == 14404993274590904739
    assert address("pack", 7) == 2174641200601362698


def test_an_address_depends_on_every_part_and_their_order() -> None:
    assert len({address(0, "z", 1), address(0, "z", 2), address(1, "z", 0), address("z", 0, 1), address(0, "z")}) == 5
    assert all(0 <= address(i) < 2**64 for i in range(100))


def test_key_numbers_are_the_first_64_bits() -> None:
    keys = np.array([b"0" * 15 + b"1" + b"f" * 16, b"f" * 32])
    assert key_numbers(keys).tolist() == [1, 2**64 - 1]


def test_no_keys_draw_no_numbers() -> None:
    assert draw(np.array([], dtype="S32"), "x").shape == (0,)


def test_draw_is_splitmix64() -> None:
    """The published test vector: the first output of SplitMix64 seeded with 1234567 is 6457827717110365317."""
    golden_gamma = 0x9E3779B97F4A7C15
    number = (1234567 + golden_gamma - address("purpose")) % 2**64
    keys = np.array([f"{number:016x}{0:016x}".encode()])
    assert draw(keys, "purpose").tolist() == [6457827717110365317]


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(12)), st.integers(0, 11))
def test_draw_depends_on_key_and_purpose_alone(order: list[int], first: int) -> None:
    keys = keys_of(12)
    whole = draw(keys, "crop", 3)
    assert draw(keys[order], "crop", 3).tolist() == whole[order].tolist()
    assert draw(keys[first:], "crop", 3).tolist() == whole[first:].tolist()


@pytest.mark.parametrize("shift", [0, 16, 48, 60])
def test_drawn_bits_are_uniform(shift: int) -> None:
    nibble = (draw(keys_of(20_000), "holdout", 1) >> np.uint64(shift)) & np.uint64(15)
    counts = np.bincount(nibble.astype(np.int64), minlength=16)
    chi_square = float(((counts - 1250) ** 2 / 1250).sum())
    assert chi_square < 37.7  # 15 degrees of freedom, p = 0.001


def test_purposes_are_independent() -> None:
    keys = keys_of(20_000)
    first, second = (draw(keys, "crop", view).astype(np.float64) for view in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02  # 3 standard errors: 3 / sqrt(20,000)
    assert abs(np.corrcoef(first, key_numbers(keys).astype(np.float64))[0, 1]) < 0.02
