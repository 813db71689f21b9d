"""Fill a collection from many machines: `python -m loadtests.rag_at_scale --help`. Needs `ray[data]`."""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from loadtests.rag_at_scale.stages import Cut, Embed, Job, Write
from services.rag.library import ChunkOptions

# Shares of a core that Ray sets aside: readers wait for files, writers for the server. All three stages run at once, so
# they have to fit the smallest machine, of two cores.
_READER_CPUS, _WRITER_CPUS = 0.25, 0.1
_WRITTEN_AT_ONCE = 256


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and say what it did; return 1 where a file could not be read."""
    options = _parser().parse_args(arguments)
    # Ray tells its makers of each cluster unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    root = Path(__file__).parents[2]
    # On a cluster the workers get this repository's code from here; its packages they must have.
    code = {"working_dir": str(root), "excludes": [".git", ".venv*", ".state", "loadtests/results", "corpora"]}
    ray.init(
        address=options.ray or None,
        runtime_env=code if options.ray else {"env_vars": {"PYTHONPATH": str(root)}},
        include_dashboard=False,
        **({} if options.ray else {"_node_ip_address": "127.0.0.1"}),
        log_to_driver=options.verbose,
    )
    job = Job(
        folder=options.folder.rstrip("/"),
        collection=options.collection,
        qdrant=options.qdrant,
        qdrant_key=options.qdrant_key,
        model=options.model,
        tenant=options.tenant,
        options=ChunkOptions(options.chunker, options.tokens, options.overlap_tokens),
    )
    started = time.monotonic()
    files = ray.data.read_binary_files(options.folder, include_paths=True, num_cpus=_READER_CPUS)
    pool = ray.data.ActorPoolStrategy
    given = {"fn_constructor_args": (job,)}
    cut = files.flat_map(Cut, **given, compute=pool(size=options.readers), num_cpus=_READER_CPUS)
    embedded = cut.map_batches(
        Embed,
        **given,
        compute=pool(size=options.embedders),
        batch_size=options.batch,
        num_gpus=options.gpus_an_embedder or None,
    )
    written = embedded.map_batches(
        Write, **given, compute=pool(size=options.writers), batch_size=_WRITTEN_AT_ONCE, num_cpus=_WRITER_CPUS
    )
    points: Counter[str] = Counter()
    refused: list[str] = []
    for batch in written.iter_batches(batch_size=None):
        for document, problem in zip(batch["document"], batch["problem"], strict=True):
            if problem:
                refused.append(str(problem))
            else:
                points[str(document)] += 1
    seconds = time.monotonic() - started
    for problem in refused:
        print(f"refused: {problem}", file=sys.stderr)
    written_to = f"{points.total():,} points in {options.collection}"
    print(f"{len(points)} documents, {written_to}, {seconds:.1f} s, {len(refused)} refused")
    ray.shutdown()
    return 1 if refused else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.rag_at_scale", description=__doc__)
    parser.add_argument("folder", help="where the documents are: a folder that all machines see, or s3://, gs://")
    parser.add_argument("--collection", required=True, help="in Qdrant: the id of a collection of the service, vs_…")
    parser.add_argument("--qdrant", default="http://127.0.0.1:6333", help="address of the Qdrant server")
    parser.add_argument("--qdrant-key", default="")
    parser.add_argument("--ray", default="", help="address of a Ray cluster (empty: this machine alone)")
    parser.add_argument("--model", default="all-minilm-l6-v2", help="of services/embeddings/models.yaml")
    parser.add_argument("--tenant", default="default")
    parser.add_argument("--chunker", choices=["fixed", "sentence", "heading"], default="heading")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--overlap-tokens", type=int, default=40)
    parser.add_argument("--readers", type=int, default=1, help="processes that read and cut")
    parser.add_argument("--embedders", type=int, default=1, help="processes that hold the model")
    parser.add_argument("--gpus-an-embedder", type=float, default=0, help="for models by torch")
    parser.add_argument("--writers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64, help="texts that are embedded at once")
    parser.add_argument("--verbose", action="store_true", help="show the workers' own output")
    return parser


if __name__ == "__main__":
    sys.exit(main())
