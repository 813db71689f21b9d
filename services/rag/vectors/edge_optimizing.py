"""The process that optimizes a copy of a collection: `python -m services.rag.vectors.edge_optimizing FOLDER PARENT`.

It has a low priority, and is killed when the service that started it ends: it holds the interpreter's lock while it
works, so that it could not notice by itself.
"""

import ctypes
import os
import signal
import sys

import qdrant_edge

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Merge segments, remove what was deleted, build graphs and quantized vectors; write all of it to disk."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder, parent = sys.argv[1], int(sys.argv[2])
    os.nice(10)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    shard = qdrant_edge.EdgeShard.load(folder)
    shard.optimize()
    shard.flush()
    shard.close()


if __name__ == "__main__":
    main()
