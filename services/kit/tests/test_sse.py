import pytest

from services.kit.sse import EventSplitter, EventTooLarge, event_data, event_name

STREAM = b'data: {"a":"\xc3\xa9"}\n\n: ping\n\nevent: x\r\ndata: 1\r\ndata: 2\r\n\r\ndata: [DONE]\n\n'


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 1000])
def test_events_come_out_whole_and_byte_for_byte_however_the_stream_is_cut(size: int) -> None:
    splitter = EventSplitter()
    events = [event for at in range(0, len(STREAM), size) for event in splitter.feed(STREAM[at : at + size])]
    assert b"".join(events) == STREAM
    assert [event_data(event) for event in events] == [b'{"a":"\xc3\xa9"}', None, b"1\n2", b"[DONE]"]
    assert splitter.pending == b""


def test_an_unfinished_event_waits_for_its_rest() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: hel") == []
    assert splitter.pending == b"data: hel"
    assert splitter.feed(b"lo\n\nda") == [b"data: hello\n\n"]
    assert splitter.pending == b"da"


def test_an_event_without_an_end_is_refused_before_it_fills_the_memory() -> None:
    splitter = EventSplitter(max_event_bytes=100)
    with pytest.raises(EventTooLarge, match="100 bytes"):
        splitter.feed(b"x" * 101)


def test_the_name_of_an_event_is_read() -> None:
    assert event_name(b"event: error\ndata: x\n\n") == b"error"
    assert event_name(b"data: x\n\n") == b"message"


@pytest.mark.parametrize(
    ("event", "data"),
    [(b"data:x\n\n", b"x"), (b"data\n\n", b""), (b"database: x\n\n", None), (b"data:  x\n\n", b" x")],
)
def test_data_lines_are_read_as_the_standard_says(event: bytes, data: bytes | None) -> None:
    assert event_data(event) == data
