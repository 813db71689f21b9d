"""A caller's name crosses services only as one of them signed it, and for an hour."""

import pytest

from services.kit.on_behalf import GOOD_FOR_S, sign, verify

KEY = "sk-internal"
NOW_S = 1_790_000_000.0


@pytest.mark.parametrize("caller", ["key-1a2b", "127.0.0.1", "default", "Zoë · team/ä.b", ""])
def test_what_is_signed_is_read_back_with_the_same_key(caller: str) -> None:
    assert verify(sign(caller, KEY), KEY) == caller


def test_the_value_can_stand_in_a_header() -> None:
    text = sign("Zoë\r\nx: 1", KEY)
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text


def test_another_key_does_not_open_it() -> None:
    assert verify(sign("ann", KEY), "sk-other") is None


def test_no_part_can_be_changed() -> None:
    text = sign("ann", KEY, now_s=NOW_S)
    assert verify(text, KEY, now_s=NOW_S) == "ann"
    for place, character in enumerate(text):
        changed = text[:place] + ("A" if character != "A" else "B") + text[place + 1 :]
        assert verify(changed, KEY, now_s=NOW_S) is None, f"{changed} was taken for {text}"


def test_it_is_good_for_an_hour_and_no_longer() -> None:
    text = sign("ann", KEY, now_s=NOW_S)
    assert verify(text, KEY, now_s=NOW_S + GOOD_FOR_S) == "ann"
    assert verify(text, KEY, now_s=NOW_S + GOOD_FOR_S + 1) is None


def test_a_clock_that_is_a_little_ahead_is_forgiven_and_a_name_from_the_future_is_not() -> None:
    text = sign("ann", KEY, now_s=NOW_S)
    assert verify(text, KEY, now_s=NOW_S - 30) == "ann"
    assert verify(text, KEY, now_s=NOW_S - 300) is None


@pytest.mark.parametrize("text", ["", ".", "...", "ann", "1.2.3.4", "ä.b.c.d", "1." + "9" * 5000, "x" * 100_000])
def test_anything_else_is_nobody(text: str) -> None:
    assert verify(text, KEY) is None


def test_an_empty_key_signs_and_opens_nothing() -> None:
    with pytest.raises(ValueError, match="without a key"):
        sign("ann", "")
    assert verify(sign("ann", KEY), "") is None
