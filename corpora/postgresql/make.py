"""Make the corpus from Debian's package: `python corpora/postgresql/make.py postgresql-doc-15_15.20-0+deb12u1_all.deb`.

Needs `dpkg-deb` and lxml. The same package gives the same files, byte for byte; `apt-get download postgresql-doc-15`
fetches it. Another version of the package gives another corpus, of which the judgements here are no longer true.
"""

# A script by itself, which prints and calls dpkg-deb.
# ruff: noqa: T201, S603, S607

import argparse
import fnmatch
import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lxml import html

PACKAGE = "postgresql-doc-15"
VERSION = "15.20-0+deb12u1"
SHA256 = "4c44bf2c599f208b3f46454a6cf7a72e25ec46ff74d37b59dd31ad76b00eebb7"
HERE = Path(__file__).parent

# One subject: running a server and using its SQL. Left out: what extends the server in C, the catalogues, release
# notes, and pages that only list others.
CHAPTERS = """
tutorial-* ddl-* dml-* queries-* indexes-* mvcc-* transaction-iso explicit-locking applevel-consistency
locking-indexes using-explain planner-stats explicit-joins populate non-durability how-parallel-query-works
parallel-plans parallel-safety when-can-parallel-query-be-used creating-cluster server-start server-shutdown
kernel-resources upgrading encryption-options preventing-server-spoofing ssl-tcp gssapi-enc ssh-tunnels postgres-user
config-setting runtime-config-autovacuum runtime-config-client runtime-config-connection runtime-config-error-handling
runtime-config-file-locations runtime-config-locks runtime-config-logging runtime-config-query
runtime-config-replication runtime-config-resource runtime-config-statistics runtime-config-wal auth-*
client-authentication* database-roles role-* predefined-roles perm-functions manage-ag-* locale collation multibyte
routine-* maintenance logfile-maintenance backup-dump backup-file continuous-archiving warm-standby* hot-standby
high-availability different-replication-solutions monitoring-ps monitoring-locks progress-reporting disk-usage
diskusage disk-full wal-* checksums logical-replication-* jit-* datatype-* arrays rowtypes rangetypes domains limits
storage-hot storage-toast storage-vm storage-fsm storage-file-layout btree-intro btree-behavior gin-intro
gin-implementation gin-tips gist-intro brin-intro hash-intro textsearch-* trigger-definition trigger-datachanges
event-trigger-definition rules-views rules-materializedviews sql-syntax-* xfunc-volatility xfunc-overload
typeconv-overview typeconv-union-case plpgsql-overview plpgsql-structure plpgsql-cursors plpgsql-transactions
plpgsql-errors-and-messages plpgsql-development-tips plpgsql-porting plpgsql-trigger libpq-pgpass libpq-pgservice
libpq-envars libpq-pipeline-mode libpq-ldap libpq-notify connect-estab app-createdb app-createuser app-dropdb
app-dropuser app-initdb app-pg-ctl app-pg-dumpall app-pg-isready app-pgbasebackup app-pgchecksums app-pgcontroldata
app-pgdump app-pgreceivewal app-pgrestore app-pgrewind app-pgresetwal app-pgverifybackup app-reindexdb app-vacuumdb
app-clusterdb pgupgrade pgarchivecleanup pgtestfsync pgtesttiming pgwaldump pgstatstatements pgtrgm pgbuffercache
pgprewarm pgstattuple pgrowlocks auto-explain auth-delay passwordcheck citext hstore fuzzystrmatch tablefunc unaccent
uuid-ossp file-fdw postgres-fdw bloom btree-gin btree-gist amcheck pgvisibility pgfreespacemap tcn oid2name vacuumlo
intarray ltree sslinfo pgcrypto sql-altertable sql-alterdatabase sql-alterdefaultprivileges sql-alterindex
sql-alterrole sql-altersystem sql-altersequence sql-altertype sql-altersubscription sql-altertablespace sql-analyze
sql-begin sql-call sql-checkpoint sql-cluster sql-comment sql-commit sql-copy sql-createdatabase sql-createdomain
sql-createextension sql-createfunction sql-createindex sql-creatematerializedview sql-createpolicy sql-createprocedure
sql-createpublication sql-createrole sql-createrule sql-createschema sql-createsequence sql-createstatistics
sql-createsubscription sql-createtable sql-createtableas sql-createtablespace sql-createtrigger sql-createtype
sql-createuser sql-createview sql-createeventtrigger sql-createcollation sql-createforeigntable sql-deallocate
sql-declare sql-delete sql-discard sql-do sql-dropdatabase sql-drop-owned sql-dropindex sql-droprole sql-dropschema
sql-droptable sql-execute sql-explain sql-fetch sql-grant sql-insert sql-listen sql-load sql-lock sql-merge sql-move
sql-notify sql-prepare sql-prepare-transaction sql-reassign-owned sql-refreshmaterializedview sql-reindex sql-reset
sql-revoke sql-rollback sql-rollback-to sql-savepoint sql-select sql-selectinto sql-set sql-set-constraints
sql-set-role sql-set-transaction sql-show sql-truncate sql-unlisten sql-update sql-vacuum sql-values
functions-comparison functions-logical functions-conditional functions-matching functions-subquery
functions-comparisons functions-sequence functions-srf functions-uuid functions-window functions-enum functions-range
functions-trigger functions-statistics functions-event-triggers
"""
# The longest pages would be half of the bytes; these of them are what people ask about most.
WHOLE = """
runtime-config-wal runtime-config-resource runtime-config-query runtime-config-connection runtime-config-replication
routine-vacuuming continuous-archiving warm-standby hot-standby using-explain transaction-iso explicit-locking
ddl-constraints ddl-partitioning sql-createindex auth-pg-hba-conf app-pgdump queries-with
"""
_SHORTEST, _LONGEST = 700, 13_000
_DROPPED = "navheader navfooter toc indexterm refentry-toc footnotes list-of-tables variablelist-toc"
_BOXES = ("note", "tip", "caution", "warning", "important")
_NUMBER = re.compile(r"^(?:Chapter\s+|Appendix\s+)?(?:[A-Z]\.)?\d*(?:\.\d+)*\.?[\s\u00a0]+(?=\S)")
_SPACES = re.compile(r"[ \t\r\n\u00a0]+")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write documents/ from the package; return 1 where it is another package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help="the .deb file")
    package = parser.parse_args(arguments).package
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    if digest != SHA256:
        print(f"{package} has the digest {digest}, not that of {PACKAGE} {VERSION}: {SHA256}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["dpkg-deb", "-x", str(package), folder], check=True)
        written = write_documents(Path(folder) / f"usr/share/doc/{PACKAGE}/html", HERE / "documents")
    size = sum(path.stat().st_size for path in written)
    print(f"{len(written)} documents, {size:,} bytes")
    return 0


def write_documents(pages: Path, target: Path) -> list[Path]:
    """Write the chosen pages as Markdown, in place of what `target` held; return the files."""
    target.mkdir(exist_ok=True)
    for stale in target.glob("*.md"):
        stale.unlink()
    written = []
    for page in sorted(pages.glob("*.html")):
        if not any(fnmatch.fnmatchcase(page.stem, pattern) for pattern in CHAPTERS.split()):
            continue
        text = markdown(page.read_bytes())
        if page.stem in WHOLE.split() or _SHORTEST <= len(text) <= _LONGEST:
            path = target / f"{page.stem}.md"
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written


def markdown(page: bytes) -> str:
    """Return a page's text as Markdown, without navigation, links and section numbers."""
    # The pages are XHTML with a declaration, which lxml's HTML parser takes only as bytes.
    body = html.fromstring(page).find("body")
    for name in _DROPPED.split():
        for element in body.find_class(name):
            if element.tag != "a" or not (element.text or "").strip():
                element.drop_tree()
    for element in body.xpath(".//sup[a/@class='footnote']"):
        element.drop_tree()
    blocks = [block.rstrip() for block in _blocks(body, "") if block.strip()]
    return "\n\n".join(blocks) + "\n"


def _blocks(element: html.HtmlElement, indent: str) -> Iterator[str]:
    """Yield the blocks below an element, in reading order."""
    for child in element:
        if not isinstance(child.tag, str):
            continue
        yield from _block(child, indent)


def _block(child: html.HtmlElement, indent: str) -> Iterator[str]:
    if child.tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
        yield _heading(child, indent)
    elif child.tag == "p":
        yield from _paragraph(child, indent)
    elif child.tag == "pre":
        lines = child.text_content().strip("\n").splitlines()
        yield "\n".join([f"{indent}```", *(f"{indent}{line.rstrip()}" for line in lines), f"{indent}```"])
    elif child.tag in ("ul", "ol"):
        yield from _list(child, indent)
    elif child.tag == "dl":
        yield from _definitions(child, indent)
    elif child.tag == "table":
        yield _table(child, indent)
    elif "".join(child.xpath("text()")).strip():
        yield from _paragraph(child, indent)
    else:
        yield from _blocks(child, indent)


def _heading(child: html.HtmlElement, indent: str) -> str:
    title = _NUMBER.sub("", _line(child))
    box = (child.getparent().get("class") or "") in _BOXES
    if indent or box or child.tag in ("h5", "h6"):
        return f"{indent}**{title}**"
    first = not child.getroottree().xpath("boolean(//h1)") and child.tag == "h2" and _is_title(child)
    return f"# {title}" if first else f"{'#' * max(2, int(child.tag[1]) - (0 if _refentry(child) else 1))} {title}"


def _is_title(child: html.HtmlElement) -> bool:
    """Say whether a heading is the page's own: its first."""
    return child.getroottree().xpath("(//h2)[1]")[0] is child


def _refentry(child: html.HtmlElement) -> bool:
    return bool(child.getroottree().xpath("boolean(//div[@class='refentry'])"))


def _paragraph(child: html.HtmlElement, indent: str) -> Iterator[str]:
    """Yield a paragraph, and the blocks that DocBook nests in it."""
    nested = {"pre", "ul", "ol", "dl", "table", "p"}
    held: list[str] = [child.text or ""]
    for part in child:
        if isinstance(part.tag, str) and (part.tag in nested or (part.tag == "div")):
            yield indent + _squeeze("".join(held))
            held = []
            yield from _block(part, indent)
        elif isinstance(part.tag, str):
            held.append(_inline(part))
        held.append(part.tail or "")
    yield indent + _squeeze("".join(held))


def _list(child: html.HtmlElement, indent: str) -> Iterator[str]:
    for number, item in enumerate(child.findall("li"), 1):
        mark = f"{number}." if child.tag == "ol" else "-"
        blocks = [block for block in _paragraph(item, "") if block.strip()]
        lines = "\n\n".join(blocks).splitlines()
        pad = " " * (len(mark) + 1)
        yield "\n".join(
            f"{indent}{mark if not at else pad[:-1]} {line}".rstrip() for at, line in enumerate(lines or [""])
        )


def _definitions(child: html.HtmlElement, indent: str) -> Iterator[str]:
    for part in child:
        if part.tag == "dt":
            yield f"{indent}- **{_line(part)}**"
        elif part.tag == "dd":
            yield from _blocks(part, f"{indent}  ")


def _table(child: html.HtmlElement, indent: str) -> str:
    rows = [[_line(cell).replace("|", "\\|") for cell in row.xpath("./td|./th")] for row in child.xpath(".//tr")]
    rows = [row for row in rows if any(row)]
    if not rows:
        return ""
    width = max(len(row) for row in rows)
    lines = [f"| {' | '.join(row + [''] * (width - len(row)))} |" for row in rows]
    return "\n".join(indent + line for line in [lines[0], f"|{' --- |' * width}", *lines[1:]])


def _inline(element: html.HtmlElement) -> str:
    """Return an element's text; what is code stands in backticks, as far as backticks can hold it."""
    text = element.text_content()
    if element.tag == "code" and "`" not in text and text.strip():
        return f"`{_squeeze(text)}`"
    return "".join([element.text or "", *(_inline(part) + (part.tail or "") for part in element)])


def _line(element: html.HtmlElement) -> str:
    return _squeeze(_inline(element)) if element.tag != "h2" else _squeeze(element.text_content())


def _squeeze(text: str) -> str:
    return _SPACES.sub(" ", text).strip()


if __name__ == "__main__":
    sys.exit(main())
