"""A model from the hub into the shared cache: plan first, then fetch, check and link.

A plan says what is missing before the first byte is asked for, so that a person can be asked and a full disk is found
in time. A fetch that is interrupted, even killed, leaves what it has; the next one goes on from there.
"""

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from services.engines.files.checksums import Interrupted, Throttle, Verified, hash_file, label
from services.engines.files.download_plan import DownloadPlan, OnProgress, Progress, PullOptions, check_room, free_bytes
from services.engines.files.fetching import Fetching
from services.engines.files.hub import Hub, PullError, Unreachable, is_offline
from services.engines.files.hub_cache import COMMIT, HubFile, matching
from services.engines.files.store import ModelStore
from services.engines.recipes import HubSource, Recipe


class HubDownload:
    """The download of one model.

    Args:
        stop: set by somebody who wants it to end; what has come is kept.
    """

    def __init__(
        self,
        store: ModelStore,
        recipe: Recipe,
        options: PullOptions,
        *,
        on_progress: OnProgress,
        stop: threading.Event,
        variables: Mapping[str, str] = os.environ,
    ) -> None:
        assert isinstance(recipe.source, HubSource)
        self._store = store
        self._recipe = recipe
        self._source = recipe.source
        self._options = options
        self._tell = on_progress
        self._stop = stop
        self._variables = variables
        self._hub = Hub(store.hub_cache, variables)
        self._cached = store.repository(recipe.source)
        self._verified = Verified(store.verified)
        self._throttle = Throttle(options.checksum_mb_per_s)

    def plan(self) -> DownloadPlan | None:
        """Return what is to be done; None when the model is here and nobody asks for another revision.

        Raises:
            Interrupted: `stop` was set.
            PullError: the hub can't be asked or refuses, or there is no room.
        """
        options = self._options
        if not (options.upgrade or options.revision or options.verify) and self._store.is_present(self._recipe):
            return None
        self._tell(Progress("pulling manifest"))
        revision, commit = self._revision_and_commit()
        files = self._files(revision, commit)
        wanted = tuple(matching(files, self._source.files))
        if not wanted:
            patterns = ", ".join(self._source.files)
            raise PullError(
                f"{self._source.repository} at {commit[:12]} has no file like {patterns}; correct source.files in the "
                f"recipe of {self._recipe.id}",
                "not_found",
            )
        contents = {file.digest: file for file in wanted if not self._is_here(commit, file)}
        plan = self._with_room(revision, commit, wanted, tuple(contents.values()))
        if plan.missing and self._source.gated:
            self._online()
            self._patiently(lambda: self._hub.check_access(self._source.repository))
        return plan

    def run(self, plan: DownloadPlan) -> None:
        """Fetch what is missing, check it, and let engines find it.

        Raises:
            Interrupted: `stop` was set; what has come is kept.
            PullError: it can't be had, or is damaged.
        """
        with self._alone():
            self._store.pins.begin(self._recipe.id, self._source, plan.revision, plan.commit, plan.files)
            if plan.missing:
                self._online()
                Fetching(
                    self._hub,
                    self._cached,
                    plan,
                    self._options,
                    verified=self._verified,
                    throttle=self._throttle,
                    on_progress=self._tell,
                    stop=self._stop,
                ).run()
            if not all(self._cached.has(plan.commit, file) for file in plan.files):
                self._online()
                self._patiently(lambda: self._hub.link(self._source.repository, plan.commit, plan.files))
            if self._options.verify:
                self._verify(plan)
            self._name_revision(plan)
            self._store.pins.finish(self._recipe.id, self._source, plan.revision, plan.commit)

    # --- the plan ---------------------------------------------------------------------------------------------------

    def _revision_and_commit(self) -> tuple[str, str]:
        """Return the revision that is asked for and its commit: of an unfinished pull, the pin, or the hub's answer."""
        pins, source, options = self._store.pins, self._source, self._options
        begun = pins.begun(self._recipe.id, source)
        pinned = pins.commit(self._recipe.id, source)
        revision = options.revision or (begun.revision if begun else pins.revision(self._recipe.id, source))
        if options.upgrade and not options.revision:
            revision = source.revision
        if not options.upgrade:
            if begun is not None and begun.revision == revision:
                return revision, begun.commit
            if pinned is not None and pins.revision(self._recipe.id, source) == revision:
                return revision, pinned
        if COMMIT.fullmatch(revision):
            return revision, revision
        held = self._cached.commit_of(revision)
        if held is not None and not options.upgrade and self._cached.is_whole(held, source.files):
            return revision, held
        self._online()
        return revision, self._patiently(lambda: self._hub.commit(source.repository, revision))

    def _files(self, revision: str, commit: str) -> list[HubFile]:
        listed = self._cached.files(commit)
        if listed is not None:
            return listed
        begun = self._store.pins.begun(self._recipe.id, self._source)
        if begun is not None and (begun.revision, begun.commit) == (revision, commit):
            return list(begun.files)
        self._online()
        found: list[HubFile] = self._patiently(lambda: self._hub.files(self._source.repository, commit))
        return found

    def _is_here(self, commit: str, file: HubFile) -> bool:
        blob = self._cached.blob(file.digest)
        whole = blob.is_file() and blob.stat().st_size == file.size_bytes
        return whole or self._cached.has(commit, file)

    def _with_room(
        self, revision: str, commit: str, files: tuple[HubFile, ...], missing: tuple[HubFile, ...]
    ) -> DownloadPlan:
        partials = [self._cached.partial(file.digest) for file in missing]
        have = sum(path.stat().st_size for path in partials if path.is_file())
        needed = max(0, sum(file.size_bytes for file in missing) - have)
        plan = DownloadPlan(
            revision, commit, files, missing, needed, self._store.hub_cache, free_bytes(self._store.hub_cache)
        )
        check_room(self._recipe.id, needed, plan.folder, plan.free_bytes, "HF_HOME")
        return plan

    def _online(self) -> None:
        variable = is_offline(self._variables)
        if variable:
            raise PullError(
                f"{self._recipe.id} is not whole here, and {variable} forbids the network; unset it and run "
                f"`sparkstack pull {self._recipe.id}`",
                "offline",
            )

    def _patiently(self, question: Callable[[], Any]) -> Any:
        """Ask the hub a short question, at most three times."""
        wait_s = self._options.patience.first_wait_s
        for left in (2, 1, 0):
            try:
                return question()
            except Unreachable as error:
                wait_s = wait_s if error.retry_after_s is None else error.retry_after_s
                if not left or wait_s > self._options.patience.total_s:
                    raise
                self._tell(Progress(f"{error}; trying again in {wait_s:.0f} s"))
                if self._stop.wait(wait_s):
                    raise Interrupted from None
                wait_s *= 2
        raise AssertionError("unreachable")

    # --- after the bytes --------------------------------------------------------------------------------------------

    def _verify(self, plan: DownloadPlan) -> None:
        """Read every file again and compare its digest."""
        wrong = []
        done = 0
        for file in plan.files:
            path = self._cached.snapshot(plan.commit) / file.path

            def told(count: int, file: HubFile = file, done: int = done) -> None:
                step = f"verifying sha256 digest of {file.path}"
                self._tell(Progress(step, label(file.digest), file.size_bytes, count, plan.total_bytes, done + count))

            if hash_file(path, file.digest, self._throttle, stop=self._stop, on_bytes=told) == file.digest:
                self._verified.add(self._cached.blob(file.digest), file.digest)
            else:
                wrong.append(file)
            done += file.size_bytes
        for file in wrong:
            self._verified.forget(self._cached.blob(file.digest))
            (self._cached.snapshot(plan.commit) / file.path).unlink(missing_ok=True)
            self._cached.blob(file.digest).unlink(missing_ok=True)
        if wrong:
            names = ", ".join(file.path for file in wrong)
            raise PullError(
                f"{names} of {self._recipe.id} was damaged and is deleted; get it anew with "
                f"`sparkstack pull {self._recipe.id}`",
                "damaged",
            )

    def _name_revision(self, plan: DownloadPlan) -> None:
        """Note which commit a branch had, where tools look that are given the branch's name and no network."""
        if COMMIT.fullmatch(plan.revision):
            return
        ref = self._cached.folder / "refs" / plan.revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        unfinished = ref.with_name(f"{ref.name}.{os.getpid()}.new")
        unfinished.write_text(plan.commit, encoding="utf-8")
        unfinished.replace(ref)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the repository's lock: two processes must not append to one file."""
        lock = self._cached.lock
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as file:
            told = False
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not told:
                        self._tell(Progress(f"waiting: another process pulls from {self._source.repository}"))
                        told = True
                    if self._stop.wait(0.2):
                        raise Interrupted from None
            yield
