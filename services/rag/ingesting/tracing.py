"""The ingest in traces: one for each document, from its claim to its end.

Batches hold chunks of several documents: the span of writing one stands in the trace of the first, with links to the
others'.
"""

from collections.abc import Sequence

from services.kit.tracing import NOTHING, Span, Tracer
from services.rag.documents import Chunk
from services.rag.ingesting.batching import Run


class IngestTracing:
    """Opens and ends the spans; does nothing where tracing is off."""

    def __init__(self, tracer: Tracer | None) -> None:
        self._tracer = tracer

    def begin(self, run: Run) -> None:
        """Begin a document's trace; who uploaded it has got an answer long ago."""
        if self._tracer is not None:
            about = {"rag.collection": run.collection.name, "rag.document": run.row.id}
            run.span = self._tracer.root_span("rag.ingest", about)

    def writing(self, batch: Sequence[tuple[Run, Chunk]], runs: Sequence[Run]) -> Span:
        """Begin the span of embedding and writing a batch; what is asked meanwhile hangs below it."""
        if self._tracer is None:
            return NOTHING
        owner = next((run for run in runs if run.span.recording), runs[0])
        about = {"rag.chunks": len(batch), "rag.documents": len(runs)}
        span = owner.span.child("rag.ingest.write", about)
        for run in runs:
            if run is not owner:
                span.link(run.span)
        return span

    def end(self, run: Run, *, stopped: bool = False) -> None:
        """End a document's trace with what has become of it."""
        span = run.span
        if span.recording:
            if run.failure is not None:
                span.record_error(run.failure[0])
            outcome = "failed" if run.failure else "superseded" if run.void else "stopped" if stopped else "ready"
            chunks = 0 if run.cut is None else len(run.cut.chunks)
            span.set({"rag.outcome": outcome, "rag.chunks": chunks})
        span.end()
