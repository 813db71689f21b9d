"""The model hub, by its own library, imported when the first question is asked.

The library does the metadata, the addresses, the keys and the layout of the cache. It does not resume a download that
another process began (huggingface_hub 2.4 names its unfinished files anew each time and deletes them), so that the
bytes themselves are fetched by `transfer.py`.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from services.engines.files.hub_cache import HubFile

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_CONNECT_TIMEOUT_S = 10.0
_DEFAULT_ENDPOINT = "https://huggingface.co"
# Seen by the library when it is imported: no usage reports, no question about the calling program, no bars of its own.
_QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


class PullError(Exception):
    """A model can't be had or deleted; the message says why and what to do.

    Args:
        code: `offline`, `gated`, `not_found`, `no_space`, `unreachable`, `damaged`, `refused` or `failed`.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Unreachable(PullError):
    """The hub does not answer, or not well; trying again later may help.

    Args:
        retry_after_s: what the hub itself asks for.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, "unreachable")
        self.retry_after_s = retry_after_s


def is_offline(variables: Mapping[str, str]) -> str:
    """Return the variable that forbids the network, such as `OFFLINE=1`; empty where none does."""
    for name in ("OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        value = variables.get(name, "")
        if value.lower() in ("1", "true", "yes", "on"):
            return f"{name}={value}"
    return ""


class Hub:
    """One hub.

    Args:
        cache: the folder of its cache.
        variables: HF_ENDPOINT names the hub, HF_TOKEN the key for gated models.
    """

    def __init__(self, cache: Path, variables: Mapping[str, str] = os.environ) -> None:
        self._cache = cache
        self.endpoint = (variables.get("HF_ENDPOINT") or _DEFAULT_ENDPOINT).rstrip("/")
        self._token = variables.get("HF_TOKEN") or None

    def commit(self, repository: str, revision: str) -> str:
        """Return the commit that a branch or tag has now.

        Raises:
            PullError: it can't be had.
        """
        info = self._asked(repository, lambda: self._api().model_info(repository, revision=revision))
        return str(info.sha)

    def files(self, repository: str, commit: str) -> list[HubFile]:
        """Return all files of a commit.

        Raises:
            PullError: they can't be had, or are not named by digests.
        """

        def ask() -> list[Any]:
            return list(self._api().list_repo_tree(repository, recursive=True, revision=commit))

        found = []
        for item in self._asked(repository, ask):
            lfs = getattr(item, "lfs", None)
            digest = lfs.sha256 if lfs else getattr(item, "blob_id", None)
            if digest is None:  # a folder
                continue
            if not _DIGEST.fullmatch(digest):
                raise PullError(f"{self.endpoint} names {item.path} by {digest!r}, which is no digest", "damaged")
            found.append(HubFile(item.path, lfs.size if lfs else item.size, digest))
        return found

    def check_access(self, repository: str) -> None:
        """Check that a gated repository may be downloaded.

        Raises:
            PullError: it may not; with where to accept the licence and which variable to set.
        """
        self._asked(repository, lambda: self._api().auth_check(repository))

    def stream(
        self, repository: str, commit: str, path: str, start: int, read_timeout_s: float
    ) -> AbstractContextManager["httpx2.Response"]:
        """Return the answer to a request for a file's bytes from `start` on; its status is not looked at yet.

        The address is the hub's own each time: the signed one to which it leads lapses while a large file is fetched.
        """
        library = _library()
        import httpx2

        headers = {**library.utils.build_hf_headers(token=self._token), "accept-encoding": "identity"}
        if start:
            headers["range"] = f"bytes={start}-"
        url = library.hf_hub_url(repository, path, revision=commit, endpoint=self.endpoint)
        timeout = httpx2.Timeout(read_timeout_s, connect=_CONNECT_TIMEOUT_S)
        answer: AbstractContextManager[httpx2.Response] = library.get_session().stream(
            "GET", url, headers=headers, timeout=timeout, follow_redirects=True
        )
        return answer

    def check_status(self, repository: str, answer: "httpx2.Response") -> None:
        """Check an answer of `stream`.

        Raises:
            PullError: it is a refusal.
        """
        self._asked(repository, lambda: _library().utils.hf_raise_for_status(answer))

    def fetch_by_library(self, repository: str, commit: str, path: str, on_bytes: Callable[[int], None]) -> None:
        """Fetch one file into the cache by the library itself, which can't go on from where it was interrupted.

        Raises:
            PullError: it can't be had.
        """

        def fetch() -> None:
            _library().hf_hub_download(
                repository,
                path,
                revision=commit,
                cache_dir=self._cache,
                endpoint=self.endpoint,
                token=self._token,
                tqdm_class=_reporting_bar(on_bytes),
            )

        self._asked(repository, fetch)

    def link(self, repository: str, commit: str, files: Iterable[HubFile]) -> None:
        """Make the snapshot of a commit from contents that are in the cache, by the library itself.

        Raises:
            PullError: the hub doesn't answer.
        """
        paths = [file.path for file in files]
        self._asked(
            repository,
            lambda: _library().snapshot_download(
                repository,
                revision=commit,
                cache_dir=self._cache,
                endpoint=self.endpoint,
                token=self._token,
                allow_patterns=[_literal(path) for path in paths],
                max_workers=4,
            ),
        )

    def _api(self) -> Any:
        return _library().HfApi(endpoint=self.endpoint, token=self._token)

    def _asked(self, repository: str, question: Callable[[], T]) -> T:
        """Return the answer to a question to the library, its errors as sentences."""
        _library()
        import httpx2
        from huggingface_hub import errors

        try:
            return question()
        except errors.GatedRepoError as error:
            raise self._gated(repository, error) from None
        except errors.RevisionNotFoundError:
            raise PullError(f"{self.endpoint}/{repository} has no such revision", "not_found") from None
        except errors.HfHubHTTPError as error:
            raise self._refused(repository, error) from None
        except (httpx2.HTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
            why = str(error.__cause__ or error) or type(error).__name__
            raise Unreachable(f"{self.endpoint} can't be reached: {why}") from None
        except OSError as error:
            raise PullError(f"{self._cache} can't be written: {error.strerror or error}", "failed") from None

    def _gated(self, repository: str, error: Any) -> PullError:
        page = f"{self.endpoint}/{repository}"
        if error.response.status_code == 401 or not self._has_token():
            return PullError(
                f"{repository} is gated: accept its licence at {page}, make a read token at "
                f"{self.endpoint}/settings/tokens, and set it: HF_TOKEN=hf_… (in .env or before the command)",
                "gated",
            )
        return PullError(
            f"{repository} is gated, and the account of your HF_TOKEN has no access: accept its licence at {page}, "
            "and wait until its owner grants it where that is needed",
            "gated",
        )

    def _refused(self, repository: str, error: Any) -> PullError:
        status = error.response.status_code
        if status == 429 or status >= 500 or status == 408:
            wait = error.response.headers.get("retry-after", "")
            asked = float(wait) if wait.isdecimal() else None
            return Unreachable(f"{self.endpoint} answers {status} for {repository}", asked)
        page = f"{self.endpoint}/{repository}"
        if status in (401, 403):
            if self._has_token():
                why = "refuses your HF_TOKEN (it is wrong, has lapsed, or may not read this)"
                return PullError(f"{self.endpoint} {why} for {repository}; make a new one and look at {page}", "gated")
            why = "does not exist, or is private or gated; if it is yours to see, set HF_TOKEN=hf_…"
            return PullError(f"{page} {why}", "gated")
        if status == 404:
            what = error.response.url.path
            return PullError(f"{self.endpoint} has no {what.lstrip('/')}; look at {page}", "not_found")
        return PullError(f"{self.endpoint} answers {status} for {repository}: {error.server_message or ''}", "failed")

    def _has_token(self) -> bool:
        return bool(self._token or _library().get_token())


def _library() -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import huggingface_hub
    import huggingface_hub.utils

    return huggingface_hub


def _literal(path: str) -> str:
    """Return a pattern that matches one path."""
    return re.sub(r"([*?[])", r"[\1]", path)


def _reporting_bar(on_bytes: Callable[[int], None]) -> type:
    """Return what the library takes for a progress bar: it is told of bytes."""

    class ReportingBar:
        def __init__(self, *_args: Any, initial: int = 0, **_options: Any) -> None:
            self.update(initial)

        def __enter__(self) -> "ReportingBar":
            return self

        def __exit__(self, *_error: object) -> None:
            """Nothing is drawn, nothing is left."""

        def update(self, count: float | None = 1) -> None:
            if count:
                on_bytes(int(count))

        def update_transfer(self, count: float | None = 1) -> None:
            """Bytes on the network; those on disk are counted."""

        def close(self) -> None:
            """Nothing is drawn."""

        def set_postfix_str(self, *_text: Any, **_options: Any) -> None:
            """Nothing is drawn."""

        set_transfer_postfix_str = set_postfix_str

    return ReportingBar
