"""The registry's tables. A change is a new entry at the end of MIGRATIONS; what stands there is never edited."""

MIGRATIONS = (
    """
    CREATE TABLE collections (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL UNIQUE,
        title TEXT NOT NULL,
        owner TEXT NOT NULL,
        visibility TEXT NOT NULL,
        embedding_model TEXT NOT NULL,
        dimensions INTEGER NOT NULL,
        chunker TEXT NOT NULL,
        chunk_tokens INTEGER NOT NULL,
        overlap_tokens INTEGER NOT NULL,
        quantization TEXT NOT NULL,
        preset TEXT NOT NULL,
        model TEXT NOT NULL,
        metadata TEXT NOT NULL,
        revision INTEGER NOT NULL DEFAULT 0,
        created INTEGER NOT NULL,
        last_active INTEGER NOT NULL,
        expires_days INTEGER NOT NULL DEFAULT 0,  -- 0: never
        state TEXT NOT NULL DEFAULT 'live'        -- live, expired, deleting
    );

    CREATE TABLE files (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        tenant TEXT NOT NULL,
        filename TEXT NOT NULL,
        purpose TEXT NOT NULL,
        hash TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        created INTEGER NOT NULL,
        expires INTEGER NOT NULL DEFAULT 0        -- 0: never
    );
    CREATE INDEX files_hash ON files (hash);

    CREATE TABLE documents (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        collection TEXT NOT NULL,
        id TEXT NOT NULL,
        tenant TEXT NOT NULL,
        key TEXT NOT NULL,           -- its identity beside collection and tenant: the name, or the id of its file
        name TEXT NOT NULL,
        file TEXT NOT NULL,          -- id of the file that it was made of; empty where it came by its name
        hash TEXT NOT NULL,          -- of its content
        bytes INTEGER NOT NULL,
        attributes TEXT NOT NULL,
        chunking TEXT NOT NULL,      -- its own way of being cut; empty: the collection's
        version TEXT NOT NULL,       -- that is wanted
        live_version TEXT NOT NULL DEFAULT '',  -- that is searchable; empty: none
        state TEXT NOT NULL,         -- queued, working, ready, failed, cancelling, cancelled, deleting
        generation INTEGER NOT NULL DEFAULT 0,  -- grows with each order; what was begun for an older one is void
        dirty INTEGER NOT NULL DEFAULT 0,       -- 1: points of other versions than the live one may be in the store
        chunks INTEGER NOT NULL DEFAULT 0,      -- of the live version
        tokens INTEGER NOT NULL DEFAULT 0,
        characters INTEGER NOT NULL DEFAULT 0,
        title TEXT NOT NULL DEFAULT '',
        media_type TEXT NOT NULL DEFAULT '',
        error_code TEXT NOT NULL DEFAULT '',
        error TEXT NOT NULL DEFAULT '',
        created INTEGER NOT NULL,
        updated INTEGER NOT NULL,
        UNIQUE (collection, tenant, key),
        UNIQUE (collection, id)
    );
    CREATE INDEX documents_state ON documents (state);
    CREATE INDEX documents_hash ON documents (hash);
    CREATE INDEX documents_id ON documents (id);

    CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        collection TEXT NOT NULL,
        tenant TEXT NOT NULL,
        kind TEXT NOT NULL,          -- upload, batch, recut
        open INTEGER NOT NULL,       -- 1: more files are announced
        cancelled INTEGER NOT NULL DEFAULT 0,
        deleted INTEGER NOT NULL DEFAULT 0,
        created REAL NOT NULL,
        finished REAL NOT NULL DEFAULT 0
    );

    CREATE TABLE job_items (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        job TEXT NOT NULL,
        collection TEXT NOT NULL,
        document TEXT NOT NULL,      -- empty where the file was refused at the door
        name TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        state TEXT NOT NULL,         -- in_progress, completed, unchanged, failed, cancelled
        chunks INTEGER NOT NULL DEFAULT 0,
        characters INTEGER NOT NULL DEFAULT 0,
        error_code TEXT NOT NULL DEFAULT '',
        error TEXT NOT NULL DEFAULT ''
    );
    CREATE INDEX job_items_job ON job_items (job, state);
    CREATE INDEX job_items_open ON job_items (collection, document) WHERE state = 'in_progress';
    """,
)
