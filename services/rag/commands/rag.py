"""`sparkstack rag`: put documents into collections, search them and ask them. Talks to the stack's one door."""

import importlib

import click

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


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in their own order."""
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a verb."""
        if cmd_name not in _VERBS:
            return None
        module, attribute = _VERBS[cmd_name][0].split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _VERBS.items()])


@click.command(cls=_LazyGroup)
@click.option("--url", default="", help="Where the stack's gateway is. [as `up` has started it]")
@click.pass_context
def rag(ctx: click.Context, url: str) -> None:
    """Put documents into collections, search them and ask them. Each collection is the model rag/NAME.

    \b
    sparkstack rag ingest docs/ --collection handbook
    sparkstack rag ask handbook "How is the pump cleaned?"
    """
    ctx.obj = url
