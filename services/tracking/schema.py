"""The tables. A change is a new entry at the end of MIGRATIONS; what stands there is never edited."""

import sqlite3

MIGRATIONS = (
    """
    CREATE TABLE requests (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL,              -- not unique: a caller may name its own, and inner requests carry the outer's
        at REAL NOT NULL,
        key TEXT NOT NULL,
        user TEXT NOT NULL,            -- a keyed digest of whom the client named; empty: nobody
        model TEXT NOT NULL,
        operation TEXT NOT NULL,
        backend TEXT NOT NULL,
        engine TEXT NOT NULL,
        trace_id TEXT NOT NULL,
        stream INTEGER NOT NULL,
        status INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        error TEXT NOT NULL,
        finish_reason TEXT NOT NULL,
        seconds REAL NOT NULL,
        held_s REAL NOT NULL,
        first_token_s REAL,
        prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        usage_source TEXT NOT NULL,
        billed INTEGER NOT NULL,
        hops INTEGER NOT NULL,
        tool_calls INTEGER NOT NULL,
        tools_offered INTEGER NOT NULL,
        format_asked INTEGER NOT NULL,
        sampled INTEGER NOT NULL,
        features TEXT NOT NULL DEFAULT '{}',
        UNIQUE (id, at)                -- a batch that is sent again adds nothing
    );
    CREATE INDEX requests_at ON requests (at);
    CREATE INDEX requests_trace ON requests (trace_id) WHERE trace_id != '';
    CREATE INDEX requests_user ON requests (user) WHERE user != '';
    CREATE INDEX requests_key ON requests (key);
    CREATE INDEX requests_sampled ON requests (seq) WHERE sampled = 1;

    CREATE TABLE texts (
        seq INTEGER PRIMARY KEY REFERENCES requests (seq) ON DELETE CASCADE,
        at REAL NOT NULL,
        prompt TEXT NOT NULL,          -- masked
        answer TEXT NOT NULL           -- masked
    );
    CREATE INDEX texts_at ON texts (at);

    CREATE TABLE vectors (
        seq INTEGER PRIMARY KEY REFERENCES requests (seq) ON DELETE CASCADE,
        prompt BLOB NOT NULL,          -- float32, little-endian; empty: none
        answer BLOB NOT NULL
    );

    CREATE TABLE costs (
        day TEXT NOT NULL,             -- of UTC
        key TEXT NOT NULL,
        model TEXT NOT NULL,
        requests INTEGER NOT NULL DEFAULT 0,   -- that came from outside
        inner_requests INTEGER NOT NULL DEFAULT 0,
        failed INTEGER NOT NULL DEFAULT 0,
        prompt_tokens INTEGER NOT NULL DEFAULT 0,
        completion_tokens INTEGER NOT NULL DEFAULT 0,
        estimated INTEGER NOT NULL DEFAULT 0,  -- billed requests whose tokens are an estimate
        seconds REAL NOT NULL DEFAULT 0,
        joules REAL NOT NULL DEFAULT 0,
        PRIMARY KEY (day, key, model)
    ) WITHOUT ROWID;

    CREATE TABLE feedback (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        subject TEXT NOT NULL,         -- `request:ID`, `trace:ID` or `import:ID`
        request_id TEXT NOT NULL,
        trace_id TEXT NOT NULL,
        caller TEXT NOT NULL,
        user TEXT NOT NULL,            -- of the request that it is about; empty: not known
        model TEXT NOT NULL,
        score REAL NOT NULL,           -- -1 to 1
        comment TEXT NOT NULL,         -- masked
        labels TEXT NOT NULL,          -- a JSON list
        source TEXT NOT NULL,
        at REAL NOT NULL,
        UNIQUE (subject, caller)
    );
    CREATE INDEX feedback_at ON feedback (at);
    CREATE INDEX feedback_request ON feedback (request_id) WHERE request_id != '';
    CREATE INDEX feedback_trace ON feedback (trace_id) WHERE trace_id != '';
    CREATE INDEX feedback_early ON feedback (seq) WHERE model = '' AND source = 'api';

    CREATE TABLE forgotten (           -- what is still on its way about them is not stored either
        kind TEXT NOT NULL,            -- user, key, or records: a key's, whose sums stay its own
        name TEXT NOT NULL,            -- of a user the digest
        at REAL NOT NULL,
        PRIMARY KEY (kind, name)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE drift_references (
        name TEXT PRIMARY KEY,
        made_at REAL NOT NULL,
        note TEXT NOT NULL,
        size INTEGER NOT NULL,         -- when it was made; members go with their requests
        spans TEXT NOT NULL,           -- a JSON list: from which seq to which its windows reach
        promoted_at REAL               -- the latest one is in use
    ) WITHOUT ROWID;
    CREATE TABLE drift_members (
        reference TEXT NOT NULL REFERENCES drift_references (name) ON DELETE CASCADE,
        seq INTEGER NOT NULL REFERENCES requests (seq) ON DELETE CASCADE,
        PRIMARY KEY (reference, seq)
    ) WITHOUT ROWID;
    CREATE INDEX drift_members_seq ON drift_members (seq);
    CREATE TABLE drift_windows (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        first_seq INTEGER NOT NULL,
        last_seq INTEGER NOT NULL,
        first_at REAL NOT NULL,
        last_at REAL NOT NULL,
        size INTEGER NOT NULL,
        reference TEXT NOT NULL,       -- empty: there was none
        alarm INTEGER NOT NULL,
        findings TEXT NOT NULL         -- a JSON list, a signal each
    );
    """,
)


class TooNew(Exception):
    """The file was written by a later version of this service; the message says what to do."""


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring the tables to this version.

    Raises:
        TooNew
        sqlite3.Error: the disk, or a lock; nothing is changed.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise TooNew(
            f"{path} has version {version} of the tables, this service knows {len(MIGRATIONS)}: run the sparkstack "
            "that wrote it, or name another state folder (SPARKSTACK_STATE)"
        )
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        try:
            # executescript commits what is open: the script itself is the transaction.
            connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
