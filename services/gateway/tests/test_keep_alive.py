import pytest

from services.gateway.ollama.keep_alive import read_keep_alive
from services.kit.errors import InvalidRequest


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        (0, 0),
        ("0", 0),
        ("0s", 0),
        (-1, -1),
        ("-1", -1),
        ("-5m", -1),
        (300, 300),
        (1.5, 1.5),
        ("300", 300),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("500ms", 0.5),
        ("24h", 86400),
    ],
)
def test_it_is_seconds_or_a_duration(value: float | str | None, seconds: float | None) -> None:
    assert read_keep_alive(value) == seconds


@pytest.mark.parametrize("value", ["soon", "5 m", "5x", "m", "--5m", "5m!", "1e3s"])
def test_anything_else_is_refused_in_words(value: str) -> None:
    with pytest.raises(InvalidRequest, match=r"keep_alive: .* 5m, 1h30m"):
        read_keep_alive(value)
