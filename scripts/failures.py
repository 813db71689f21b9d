"""Turn what pip, uv or the operating system said into a sentence that says what to do."""

import errno


class SetupError(Exception):
    """An environment can't be made; the message says why and what to do."""


OFFLINE = (
    "OFFLINE=1 is set and not everything is on this machine yet (above). "
    "Run the same command once with a network and without OFFLINE=1."
)
NO_NETWORK = (
    "The package index can't be reached (above). Is there a network? Behind a proxy: "
    "export HTTPS_PROXY=http://HOST:PORT. With a mirror: `pip config set global.index-url URL`, which is "
    "heeded here too. Then run the same command again."
)
NOT_TRUSTED = (
    "The package index's certificate is not trusted here. Behind a company proxy, name its certificates: "
    "`pip config set global.cert /path/to/ca.pem`, or export SSL_CERT_FILE=/path/to/ca.pem."
)
OTHER_FILES = (
    "The package index has other files than the lock names (above), as a mirror has that repacks packages. "
    "Use one that doesn't, or make locks of your own with `make lock`."
)
NOT_THERE = (
    "The package index lacks a pinned version for this machine (above). With a mirror: wait until it has "
    "caught up, or name another with `pip config set global.index-url URL`."
)
DISK_FULL = "The disk is full. Free some space and run the same command again."
NOT_WRITABLE = (
    "A file can't be written (above). Was it made by another user, with sudo? Clone the project into a "
    "folder of yours and run this there."
)
OTHER = "The packages could not be installed; the installer's message is above."

# Looked for in this order in what was said, in lower case.
SIGNS = (
    (DISK_FULL, ("no space left", "disk quota")),
    (NOT_TRUSTED, ("certificate", "unknownissuer")),
    (OTHER_FILES, ("hash mismatch", "do not match the hashes", "hashes are required")),
    (
        NO_NETWORK,
        (
            "(from versions: none)",
            "client error",
            "connection refused",
            "connection reset",
            "dns error",
            "error sending request",
            "failed to fetch",
            "max retries",
            "name resolution",
            "network is unreachable",
            "no route to host",
            "timed out",
            "tunnel",
        ),
    ),
    (NOT_THERE, ("no solution found", "no usable wheels", "no matching distribution", "has no wheels")),
    (NOT_WRITABLE, ("permission denied", "read-only file system")),
)


def explain(said: str, *, offline: bool) -> str:
    """Return the sentence for what pip or uv said: the cause as far as it can be told, and what to do."""
    text = said.lower()
    if offline and not any(sign in text for sign in SIGNS[0][1]):
        return OFFLINE
    for sentence, signs in SIGNS:
        if any(sign in text for sign in signs):
            return sentence
    return OTHER


def explain_os_error(error: OSError) -> str:
    """Return the sentence for a file operation that failed."""
    what = f"{error.filename}: {error.strerror}." if error.filename else f"{error}."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{what} {DISK_FULL}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{what} {NOT_WRITABLE.replace(' (above)', '')}"
    return what
