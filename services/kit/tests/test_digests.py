import hashlib
import io

import pytest

from services.kit.digests import DEFAULT_MB_PER_S, DigestWriter, gentle_digest, rate

PIECE = 4 * 1024 * 1024


def test_a_file_is_read_whole_and_at_most_so_fast(tmp_path):
    path = tmp_path / "large"
    content = bytes(3 * PIECE)
    path.write_bytes(content)
    now, waits = [0.0], []

    def sleep(seconds):
        waits.append(seconds)
        now[0] += seconds

    digest = gentle_digest(path, 1.0, clock=lambda: now[0], sleep=sleep)
    assert digest == hashlib.sha256(content).hexdigest()
    assert now[0] == pytest.approx(3 * PIECE / 1e6), "a MB is 1,000,000 bytes"
    assert len(waits) == 3


def test_without_a_limit_nothing_waits(tmp_path):
    (tmp_path / "x").write_bytes(b"x" * PIECE)
    gentle_digest(tmp_path / "x", 0, sleep=lambda seconds: pytest.fail("waited"))


@pytest.mark.parametrize(("text", "found"), [("", DEFAULT_MB_PER_S), ("0", 0.0), ("12.5", 12.5)])
def test_the_rate_is_a_variables(text, found):
    assert rate({"SPARKSTACK_CHECKSUM_MB_PER_S": text}) == found


@pytest.mark.parametrize("text", ["-1", "fast", "nan"])
def test_a_rate_that_is_none_is_named(text):
    with pytest.raises(ValueError, match=f"SPARKSTACK_CHECKSUM_MB_PER_S={text}: it must be a number of MB"):
        rate({"SPARKSTACK_CHECKSUM_MB_PER_S": text})


def test_what_is_written_is_digested():
    file = io.BytesIO()
    writer = DigestWriter(file)
    assert writer.write(b"ab") == 2
    assert writer.write(memoryview(b"c")) == 1
    assert (writer.size_bytes, writer.sha256) == (3, hashlib.sha256(b"abc").hexdigest())
    assert file.getvalue() == b"abc"
