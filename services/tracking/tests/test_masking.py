"""What of a text is masked before it is stored, and what stays."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.tracking.masking import is_card, is_iban, mask

WORDS = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Nd", "Cs"]), max_size=30)
SEPARATORS = st.sampled_from(["", " ", "-", ".", " - ", "\u00a0", "\n", "/"])


@st.composite
def cards(draw):
    body = draw(st.text("0123456789", min_size=12, max_size=18))
    return next(body + str(check) for check in range(10) if is_card(body + str(check)))


def grouped(number: str, separator: str) -> str:
    return separator.join(number[place : place + 4] for place in range(0, len(number), 4))


@given(before=WORDS, card=cards(), separator=SEPARATORS, after=WORDS)
@example(before="Visa:", card="4111111111111111", separator=" ", after="thanks")
def test_no_digit_of_a_card_survives(before, card, separator, after):
    masked = mask(f"{before} {grouped(card, separator)} {after}")

    assert not any(character in "0123456789" for character in masked)


@given(number=st.integers(0, 99), card=cards(), separator=st.sampled_from([" ", "-", ""]))
def test_a_card_beside_another_number_does_not_survive_either(number, card, separator):
    masked = mask(f"item {number} {grouped(card, separator)} total {number}")

    assert not any(group in masked.replace(f"total {number}", "") for group in (card, card[:8], card[-8:]))
    assert grouped(card, separator) not in masked


@given(st.text(max_size=300))
def test_masking_twice_changes_nothing_more_and_never_fails(text):
    once = mask(text)

    assert mask(once) == once


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to anna.b+x@mail.example.co.uk today", "write to [EMAIL] today"),
        ("mail: ünal@exämple.de", "mail: [EMAIL]"),
        ("IBAN DE89 3704 0044 0532 0130 00 please", "IBAN [IBAN] please"),
        ("gb82west12345698765432", "[IBAN]"),
        ("pay with 4111-1111-1111-1111 now", "pay with [CARD] now"),
        ("card ４１１１１１１１１１１１１１１１", "card [CARD]"),  # noqa: RUF001 - digits of another width
        ("from 192.168.10.44:8080", "from [IP]:8080"),
        ("at 2001:db8:85a3::8a2e:370:7334 there", "at [IP] there"),
        ("call +49 (0)30 1234567 or 030/1234567", "call [PHONE] or [PHONE]"),
        ("call 415-555-2671", "call [PHONE]"),
        ("ssn 078-05-1120", "ssn [ID]"),
        ("key sk-proj-abcdefghijklmnopqrstuv", "key [SECRET]"),
        ("Authorization: Bearer abcdef0123456789", "Authorization: Bearer [SECRET]"),
        ('{"password": "hunter22"}', '{"password": "[SECRET]"}'),
        ("postgres://me:secret@db/x", "postgres://[SECRET]@db/x"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "[SECRET]"),
        ("Hello, my name is Anna Bergström and I ask", "Hello, my name is [NAME] and I ask"),
        ("Dear Dr. Smith, the invoice", "Dear Dr. [NAME], the invoice"),
        ("Ich heiße Jürgen.", "Ich heiße [NAME]."),
    ],
)
def test_what_has_a_form_is_masked(text, masked):
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The meeting is on 2026-11-21 at 17:00:30.",
        "It costs 1,234,567.89 EUR or 0.123456789 BTC.",
        "version 1.2.3, chapter 4.5.6.7.8, room 12",
        "std::vector<int> a; fade::bad(1);",
        "The order 1234567890123 has no valid last digit.",
        "the capital of France is Paris",
        "def token(self): return self.token_count",
    ],
)
def test_what_only_looks_a_little_like_it_stays(text):
    assert mask(text) == text


def test_ibans_and_cards_are_told_by_their_check_digits():
    assert is_card("4111111111111111")
    assert not is_card("4111111111111112")
    assert is_iban("DE89370400440532013000")
    assert not is_iban("DE89370400440532013001")


@pytest.mark.parametrize(
    "piece", ["a", "1", "1 ", "a.", "-", "a@", "1:", "+0", "DE12", "eyJ", "Dear ", "://a:", "0 ", "A "]
)
def test_a_long_text_of_any_kind_takes_time_in_proportion_to_its_length(piece):
    text = piece * (30_000 // len(piece))
    started = time.process_time()

    mask(text)

    assert time.process_time() - started < 1.5
