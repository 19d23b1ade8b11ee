"""Bring files of a model into the cache: several at a time, large ones in ranges, each checked before it counts.

Decides the order of work: which file is opened when, who waits for whom, what is retried, and when to give up. Disk
layout, journals and HTTP are decided in :mod:`cache`, :mod:`partial` and :mod:`http`.
"""

from __future__ import annotations

import collections
import concurrent.futures
import shutil
from collections.abc import Sequence

from urllib3.exceptions import HTTPError

from trtbuild import diskspace
from trtbuild.console import log
from trtbuild.errors import FetchError
from trtbuild.fetch.cache import KEPT, MAKE_ROOM, BlobLock, RepoCache, unwritable
from trtbuild.fetch.http import Client
from trtbuild.fetch.hub import Resolved
from trtbuild.fetch.partial import Partial, Range, WrongContentError, is_leased, recoverable_bytes
from trtbuild.fetch.receive import Job, NoRangesError, Receiver, subject_of
from trtbuild.fetch.refusals import RangeRefusedError, RetryableError, StoppedError
from trtbuild.fetch.retry import Failures
from trtbuild.model.remote import RemoteFile

DISK_RESERVE_BYTES = 64 << 20
LOCK_POLL_S = 0.25
_LOOK_S = 1.0
LOCK_REPORT_S = 10.0
_WRONG_CONTENT_ATTEMPTS = 2


class Transfer:
    """One download of some files of one commit."""

    def __init__(self, client: Client, repo: RepoCache, resolved: Resolved, progress: log.Progress) -> None:
        self._client, self._repo, self._resolved, self._progress = client, repo, resolved, progress
        self._receiver = Receiver(client, repo, resolved, progress)
        self._queue: collections.deque[RemoteFile] = collections.deque()
        self._jobs: list[Job] = []
        self._wrong: collections.Counter[str] = collections.Counter()
        self._abandoned_bytes = 0
        self._waited_s = 0.0
        self._reported_s = 0.0

    def run(self, files: Sequence[RemoteFile]) -> None:
        """Download ``files`` (none of which may be in the snapshot yet).

        Raises:
            FetchError: The hub refuses, the network is gone for good, the content is wrong, or the disk is full.
        """
        try:
            self._run(files)
        except NoRangesError:
            log.get().info("no-ranges", f"{self._client.hub.host} does not serve parts of files; fetching whole files")
            self._receiver.takes_whole_files = True
            self._progress.advance(-self._abandoned_bytes)
            self._run([file for file in files if not self._repo.has(self._resolved.commit, file)])

    def _run(self, files: Sequence[RemoteFile]) -> None:
        self._queue = collections.deque(sorted(files, key=lambda file: file.size))
        self._client.stopped.clear()
        running: set[concurrent.futures.Future[None]] = set()
        with concurrent.futures.ThreadPoolExecutor(self._client.tuning.connections, "download") as pool:
            try:
                while True:
                    self._fill(pool, running)
                    if running:
                        # A short wait while files are held by others, whose locks are polled.
                        timeout_s = LOCK_POLL_S if self._queue else _LOOK_S
                        done, running = concurrent.futures.wait(running, timeout_s, concurrent.futures.FIRST_COMPLETED)
                        for future in done:
                            future.result()
                        self._client.end_slow()
                    elif self._queue:
                        self._wait_for_others()
                    else:
                        return
            except OSError as error:
                raise self._disk_error(error) from error
            finally:
                self._client.stop()
                concurrent.futures.wait(running)
                self._abandoned_bytes = sum(job.partial.done_bytes for job in self._jobs if not job.is_finished)
                for job in self._jobs:
                    job.partial.close()
                    job.lock.release()
                self._jobs.clear()
                self._client.stopped.clear()

    def _fill(self, pool: concurrent.futures.ThreadPoolExecutor, running: set[concurrent.futures.Future[None]]) -> None:
        """Give every free connection a range to fetch, opening files as needed."""
        untried = len(self._queue)
        while len(running) < self._client.tuning.connections:
            self._jobs = [job for job in self._jobs if not job.is_finished]
            job = next((job for job in self._jobs if job.todo), None)
            if job is not None:
                running.add(pool.submit(self._fetch_range, job, job.todo.popleft()))
                continue
            if untried <= 0 or not self._queue:
                return
            untried -= 1
            file = self._queue.popleft()
            if self._repo.has_blob(file):
                self._progress.resume_at(file.size)
                self._accept(file)
            elif (opened := self._open(file)) is not None:
                self._jobs.append(opened)
            else:
                self._queue.append(file)

    def _open(self, file: RemoteFile) -> Job | None:
        """Start on a file, or return None while another process is at it."""
        lock = BlobLock(self._repo.locks / f"{file.etag}.lock")
        if not lock.acquire():
            return None
        blob = self._repo.blob(file)
        try:
            if self._repo.has_blob(file) or is_leased(blob, now=lock.now(), is_lock_trusted=lock.is_trusted):
                lock.release()
                return None
            tuning = self._client.tuning
            range_bytes = max(1, file.size) if self._receiver.takes_whole_files else tuning.range_bytes
            partial = Partial(
                blob,
                file,
                range_bytes=range_bytes,
                sync_bytes=tuning.sync_bytes,
                journal_bytes=tuning.journal_bytes,
            )
        except BaseException:
            lock.release()
            raise
        if partial.done_bytes:
            self._progress.resume_at(partial.done_bytes)
            message = f"resuming {file.path} at {log.format_bytes(partial.done_bytes)}"
            log.get().info("download-resumed", message, file=file.path, done_bytes=partial.done_bytes)
        todo = collections.deque(index for index, part in enumerate(partial.ranges) if part.done < part.length)
        if not todo:  # an empty file, or one whose last byte arrived before the process died
            todo.append(0)
        return Job(file=file, lock=lock, partial=partial, todo=todo, left=len(todo))

    def _fetch_range(self, job: Job, index: int) -> None:
        """Fetch one range with retries; the thread that completes the file also checks and publishes it."""
        failures = Failures(self._client, subject_of(self._resolved, job.file))
        part = job.partial.ranges[index]
        has_restarted = False
        self._progress.note(job.file.path)
        while part.done < part.length:
            before = part.done
            try:
                self._receiver.receive(job, index)
            except (RetryableError, HTTPError) as error:
                if self._client.stopped.is_set():
                    raise StoppedError from error
                if part.done > before:
                    failures.reset()
                job.partial.touch()
                if isinstance(error, HTTPError):
                    error = self._client.explain(error, job.location or self._client.hub.endpoint)
                job.location = ""  # perhaps the address has expired: ask the hub again
                if isinstance(error, RangeRefusedError):
                    if has_restarted:
                        raise self._no_such_part(job.file, part, error) from error
                    has_restarted = True
                    self._progress.advance(-job.partial.restart(index))
                failures.add(error)
        job.partial.advance_hash()
        with job.guard:
            job.left -= 1
            is_last = job.left == 0
        if is_last:
            self._finish(job)

    def _no_such_part(self, file: RemoteFile, part: Range, error: RangeRefusedError) -> FetchError:
        self._repo.forget_tree(self._resolved.commit)
        return FetchError(
            f"{file.path} of {self._resolved.model_id}: the hub lists {file.size} bytes, and its server refuses bytes "
            f"{part.start} to {part.start + part.length - 1}, twice: {error}",
            hint="run the same command again to start from a new listing; a proxy or mirror may hold another version",
        )

    def _finish(self, job: Job) -> None:
        """Turn a complete download into a file of the snapshot, or start it over if its content is wrong.

        Raises:
            FetchError: The content was wrong again.
        """
        try:
            job.partial.publish()
        except WrongContentError as error:
            self._wrong[job.file.path] += 1
            if self._wrong[job.file.path] >= _WRONG_CONTENT_ATTEMPTS:
                self._repo.forget_tree(self._resolved.commit)
                raise FetchError(
                    f"{job.file.path} of {self._resolved.model_id} is not what the hub's record says: {error}; "
                    f"downloaded {self._wrong[job.file.path]} times, nothing was kept",
                    hint="a proxy or mirror may alter downloads: check HTTPS_PROXY and HF_ENDPOINT, then try again",
                ) from error
            log.get().warning("wrong-content", f"{job.file.path}: {error}; downloading it again")
            self._progress.advance(-job.file.size)
            self._queue.append(job.file)
        else:
            self._accept(job.file)
        finally:
            job.partial.close()
            job.lock.release()
            job.is_finished = True

    def _accept(self, file: RemoteFile) -> None:
        self._repo.link(self._resolved.commit, file)
        log.get().debug("file-complete", f"{file.path} is complete", file=file.path, bytes=file.size)

    def _wait_for_others(self) -> None:
        if self._waited_s >= self._reported_s + LOCK_REPORT_S or not self._waited_s:
            self._reported_s = self._waited_s
            names = ", ".join(sorted(file.path for file in self._queue)[:3])
            waited = f" ({log.format_duration(self._waited_s)} so far)" if self._waited_s else ""
            message = f"another process is downloading {names} of {self._resolved.model_id}; waiting for it{waited}"
            log.get().info("waiting-for-lock", message, waited_s=self._waited_s, lock=str(self._repo.locks))
        self._client.stopped.wait(LOCK_POLL_S)
        self._waited_s += LOCK_POLL_S

    def _disk_error(self, error: OSError) -> FetchError:
        lack = diskspace.reason(self._repo.root, error)
        if lack is not None:  # it was measured before the first byte
            return FetchError(f"{lack}: something else filled it during the download", hint=f"{MAKE_ROOM}; {KEPT}")
        return unwritable(self._repo.root, error)


def check_disk(repo: RepoCache, files: Sequence[RemoteFile]) -> None:
    """Refuse a download that does not fit, before its first byte.

    Raises:
        FetchError: With the arithmetic.
    """
    total = sum(file.size for file in files)
    there = sum(recoverable_bytes(repo.blob(file), file) for file in files)
    free = shutil.disk_usage(repo.blobs).free
    need = total - there + DISK_RESERVE_BYTES
    if need <= free:
        return
    show = log.format_bytes
    resumed = f" - {show(there)} downloaded before" if there else ""
    raise FetchError(
        f"{repo.model_id} does not fit: {show(total)} in {len(files)} files{resumed} + {show(DISK_RESERVE_BYTES)} "
        f"reserve = {show(need)}, but {show(free)} are free at {repo.root}; {show(need - free)} too little",
        hint=MAKE_ROOM,
    )
