import pytest

from services.kit.keys import derive, first_key


def test_a_derived_key_is_always_the_same_and_another_for_each_purpose_and_key() -> None:
    found = {derive("one", "a"), derive("one", "b"), derive("two", "a"), derive("one", "a")}
    assert len(found) == 3
    assert all(len(key) == 64 for key in found)
    with pytest.raises(ValueError, match="empty"):
        derive("", "a")


@pytest.mark.parametrize(
    ("keys", "first"),
    [
        ("k", "k"),
        ("bob=k, two", "k"),
        (" , k1,k2", "k1"),
        ("", ""),
        ("=k", "=k"),
        ("base64==", "="),
        ("k=", "k="),
        (",,", ""),
    ],
)
def test_of_several_keys_the_first_is_shown_without_its_name(keys: str, first: str) -> None:
    assert first_key(keys) == first
