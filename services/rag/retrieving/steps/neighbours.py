"""`neighbours`: what stands before and after a passage in its document, joined to it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from services.rag.documents import Passage
from services.rag.retrieving.state import State, Tools, fetch
from services.rag.retrieving.steps.step import Step
from services.rag.vectors.filters import Either, Filter, OneOf, eq, every

_LONGEST_OVERLAP = 2000
_Key = tuple[str, str]
_Payload = Mapping[str, Any]


class Neighbours(Step):
    """Read each passage with the chunks around it; passages that meet become one, at the better one's place."""

    step: Literal["neighbours"] = "neighbours"
    before: int = Field(1, ge=0, le=5, description="chunks before each")
    after: int = Field(1, ge=0, le=5, description="chunks after each")

    async def run(self, state: State, tools: Tools) -> str:
        """Fetch the chunks around the passages, in one request, and join them."""
        runs: list[tuple[Passage, _Key, set[int]]] = []
        for each in state.passages:
            key = (each.document_id, str(state.hits[each.id].payload["version"]))
            wanted = set(range(max(0, each.index - self.before), each.index + self.after + 1))
            for at, (first, other, there) in enumerate(runs):
                if other == key and wanted & there:
                    runs[at] = (first, other, there | wanted)
                    break
            else:
                runs.append((each, key, wanted))
        if not runs:
            return "nothing to join"
        chunks = await self._chunks(state, tools, runs)
        state.passages = [self._joined(state, first, key, there, chunks) for first, key, there in runs]
        return f"{len(chunks)} chunks in {len(runs)} passages"

    async def _chunks(
        self, state: State, tools: Tools, runs: list[tuple[Passage, _Key, set[int]]]
    ) -> dict[tuple[_Key, int], _Payload]:
        wanted: list[Filter] = []
        for _, (document_id, version), there in runs:
            own = every(eq("document_id", document_id), eq("version", version), OneOf("index", tuple(sorted(there))))
            assert own is not None
            wanted.append(own)
        bound = every(Either(tuple(wanted)), state.filter)
        assert bound is not None
        hits = await fetch(tools, state.collection.id, bound, sum(len(there) for _, _, there in runs))
        found = [hit.payload for hit in hits]
        return {((each["document_id"], str(each["version"])), each["index"]): each for each in found}

    def _joined(
        self, state: State, first: Passage, key: _Key, there: set[int], chunks: dict[tuple[_Key, int], _Payload]
    ) -> Passage:
        found = [chunks[key, index] for index in sorted(there) if (key, index) in chunks]
        if len(found) < 2:
            return first
        text, tokens = "", 0
        pages: list[tuple[int, int | None]] = []
        for chunk in found:
            added = without_overlap(text, chunk["text"])
            separator = "\n" if text and added == chunk["text"] else ""
            pages.append((len(text) + len(separator), chunk["page"]))
            text += separator + added
            tokens += chunk["tokens"]
        state.pages[first.id] = tuple(pages)
        return replace(first, text=text, tokens=tokens, index=found[0]["index"], page=found[0]["page"])


def without_overlap(before: str, text: str) -> str:
    """Return `text` without its beginning where `before` ends with the same: chunks repeat each other's ends."""
    for length in range(min(len(before), len(text), _LONGEST_OVERLAP), 0, -1):
        if before.endswith(text[:length]) and (length > 8 or length == len(text)):
            return text[length:]
    return text
