"""Sees to it that closed segments become a snapshot, without holding up the loop."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec
import structlog

from tollgate.broker.journal import compaction
from tollgate.broker.journal.file import FileJournal

LOOK_MS: Final = 1_000
"""How often to look whether there is something to do."""
RETRY_MS: Final = 60_000
"""How long to leave it after a failure."""

log = structlog.get_logger("tollgate.broker")


class Compactor:
    """Starts a process for closed segments, and deletes what its snapshot has replaced.

    Without a journal on disk there is nothing to do.
    """

    def __init__(self, journal: FileJournal | None, directory: Path) -> None:
        self._journal = journal
        self._directory = directory
        self._child: subprocess.Popen[bytes] | None = None
        self._look_at_ms = 0

    def step(self, now_ms: int) -> None:
        """Do what there is to do, which is never much."""
        if self._journal is None or now_ms < self._look_at_ms:
            return
        self._look_at_ms = now_ms + LOOK_MS
        try:
            self._go_on(self._journal, now_ms)
        except OSError as fault:  # no process to be had, or a file that cannot be deleted
            self._look_at_ms = now_ms + RETRY_MS
            log.error("compaction failed", reason=str(fault))  # noqa: TRY400 - the reason is all

    def close(self) -> None:
        """Stop the process, if there is one; what it has not finished does not count."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def _go_on(self, journal: FileJournal, now_ms: int) -> None:
        if self._child is not None:
            self._collect(self._child, now_ms)
        elif journal.closed_segments():
            self._child = subprocess.Popen(  # noqa: S603 - our own module, on our own directory
                [sys.executable, "-m", "tollgate.broker.compact", str(self._directory)],
                stdin=subprocess.PIPE,  # never written to: its end tells of ours
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )

    def _collect(self, child: subprocess.Popen[bytes], now_ms: int) -> None:
        if child.poll() is None:
            return
        output, complaint = child.communicate()
        self._child = None
        if child.returncode:
            self._look_at_ms = now_ms + RETRY_MS
            reason = complaint.decode(errors="replace").strip().splitlines()[-1:]
            log.error("compaction failed", exit_code=child.returncode, reason=reason)
            return
        names = msgspec.json.decode(output, type=list[str])
        compaction.apply(self._directory, names)
        log.info("compacted", deleted=names)
