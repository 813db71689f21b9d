"""What is kept comes back: a whole stack's documents, after they were removed, with the stack running all the time."""

import pytest

from services.kit.files import read_json

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
QUESTION = "When is the pump cleaned?"


@pytest.fixture
def asked(stack, tmp_path):
    note = tmp_path / "pump.md"
    note.write_text("The pump is cleaned with vinegar every Tuesday.\n")
    stack.up()
    stack.run("rag", "ingest", str(note), "--collection", "notes")
    assert "vinegar" in stack.run("rag", "ask", "notes", QUESTION)
    return stack


def test_documents_come_back_from_a_backup(asked, tmp_path):
    before = asked.pids()
    said = asked.run("backup", "--to", str(tmp_path / "kept"), timeout_s=200)
    assert f"in {tmp_path / 'kept'}" in said
    assert asked.pids()["gateway"] == before["gateway"] or asked.environment["MODE"] == "embedded"
    assert {row["state"] for row in asked.status().values()} == {"ready"}, "it waits until they are back"
    parts = {part["name"] for part in read_json(tmp_path / "kept" / "manifest.json")["parts"]}
    assert {"rag", "internal.key", ".env"} <= parts
    asked.run("rag", "rm", "notes", "--yes")

    key = asked.key
    said = asked.run("restore", str(tmp_path / "kept"), "--yes", timeout_s=250)
    assert "restored" in said
    assert "ready after" in said, "what ran is started again"
    assert asked.key == key
    assert "vinegar" in asked.run("rag", "ask", "notes", QUESTION)
    assert list((asked.home.state / "backups").glob("before-restore-*"))
