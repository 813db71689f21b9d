"""`sparkstack rag`: put documents into collections, search them and ask them. Talks to the stack's one door."""

import click

from services.kit.verbs import LazyGroup

# verb → where it is, and what the list of verbs says of it. `sparkstack rag --help` imports none of them.
_VERBS = {
    "ingest": ("services.rag.commands.ingest:ingest", "put files and folders into a collection"),
    "ask": ("services.rag.commands.asking:ask", "ask a collection; the answer cites its documents"),
    "search": ("services.rag.commands.asking:search", "show the passages that a question finds"),
    "collections": ("services.rag.commands.looking:collections", "list the collections"),
    "show": ("services.rag.commands.looking:show", "show a collection and its documents"),
    "jobs": ("services.rag.commands.looking:jobs", "list what was ingested, and how far it is"),
    "rm": ("services.rag.commands.looking:rm", "remove a document, or a whole collection"),
    "eval": ("services.rag.commands.evaluate:evaluate", "measure a collection on questions with judgements"),
    "serve": ("services.rag.commands.serve:serve", "run the RAG service in the foreground (`up` does)"),
}


@click.group(cls=LazyGroup, verbs=_VERBS)
@click.option("--url", default="", help="Where the stack's gateway is. [as `up` has started it]")
@click.pass_context
def rag(ctx: click.Context, url: str) -> None:
    """Put documents into collections, search them and ask them. Each collection is the model rag/NAME.

    \b
    sparkstack rag ingest docs/ --collection handbook
    sparkstack rag ask handbook "How is the pump cleaned?"
    """
    ctx.obj = url
