import numpy as np

from m3jax.data.records import content_hash


def test_content_hash_is_the_same_everywhere_and_makes_two_words():
    # Fixed: run folders and held-out queries rest on it.
    assert content_hash("what is slerp?").hex() == "e2d86c0d7e9b047b"
    assert np.frombuffer(content_hash("né"), np.uint32).shape == (2,)
    assert content_hash("a") != content_hash("a ")


def test_content_hash_as_a_number():
    digest = content_hash("salt")
    assert int(np.frombuffer(digest, "<u8")[0]) == int.from_bytes(digest, "little")
