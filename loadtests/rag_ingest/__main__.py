"""Measure the ingest: `python -m loadtests.rag_ingest --help`. Needs a running `sparkstack embeddings`."""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from loadtests.gateway_overhead.facts import machine_facts
from loadtests.rag_ingest.measuring import FreeEmbedder, chunks_of, embed_alone, ingest
from services.kit.logs import configure_logs
from services.rag.embedder import HttpEmbedder
from services.rag.library import ChunkOptions
from services.rag.settings import RagSettings

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "loadtests" / "results"
PAGES_PER_S = 200.0
RATIO = 0.8


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, keep the figures; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "corpora" / "postgresql" / "documents")
    parser.add_argument("--files", type=int, default=0, help="of the folder; 0: all")
    parser.add_argument("--embedded-files", type=int, default=60, help="files of the run with embeddings")
    parser.add_argument("--workers", type=int, default=2, help="reading processes")
    parser.add_argument("--save", action="store_true", help="keep the figures in loadtests/results")
    options = parser.parse_args(arguments)
    configure_logs("loadtest", "ERROR")
    figures = asyncio.run(_measure(options))
    if options.save:
        path = RESULTS / f"rag-ingest-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        print(f"kept in {path.relative_to(ROOT)}")
    return 0 if figures["pages_per_s"] >= PAGES_PER_S and figures["ratio"] >= RATIO else 1


async def _measure(options: argparse.Namespace) -> dict[str, object]:
    files = sorted(path for path in options.folder.rglob("*") if path.is_file())
    files = files[: options.files or None]
    settings = RagSettings(ingest_workers=options.workers)
    print(f"{len(files)} files of {options.folder.name}")
    with tempfile.TemporaryDirectory(prefix="rag-ingest-") as folder:
        print("without embedding:")
        plain = await ingest(settings, Path(folder) / "plain", files, _show, FreeEmbedder())
        print(
            f"  {plain.documents} documents, {plain.failed} failed, {plain.chunks} chunks in {plain.seconds:.1f} s: "
            f"{plain.pages_per_s:.0f} pages/s (target {PAGES_PER_S:.0f})"
        )
        some = files[: options.embedded_files + 1]
        chunks = chunks_of(
            some[1:], ChunkOptions(settings.chunker, settings.chunk_tokens, settings.chunk_overlap_tokens)
        )
        embedder = HttpEmbedder(settings.embeddings_url, settings.embeddings_key, settings.embedding_model)
        await embedder.open()
        try:
            print(f"embedding alone, {len(chunks)} chunks, before and after the ingest:")
            before = await embed_alone(embedder, chunks, settings.ingest_batch)
            whole = await ingest(settings, Path(folder) / "whole", some, _show)
            after = await embed_alone(embedder, chunks, settings.ingest_batch)
        finally:
            await embedder.close()
    bound = statistics.mean((before, after))
    ratio = whole.chunks_per_s / bound
    print(
        f"  {before:.1f} and {after:.1f} chunks/s\n"
        f"whole ingest: {whole.chunks} chunks in {whole.seconds:.1f} s: {whole.chunks_per_s:.1f} chunks/s, "
        f"{whole.pages_per_s:.1f} pages/s, {ratio:.0%} of embedding alone (target {RATIO:.0%})"
    )
    return {
        "machine": machine_facts(),
        "workers": options.workers,
        "plain": asdict(plain),
        "pages_per_s": plain.pages_per_s,
        "embedding_alone_chunks_per_s": [before, after],
        "whole": asdict(whole),
        "ratio": ratio,
    }


def _show(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
