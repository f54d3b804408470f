"""When a sync request reaches the disk: the fsync policies and how they are written."""

from __future__ import annotations

from typing import NamedTuple

_FORMS = "'always', 'interval:MILLISECONDS' (such as interval:250) or 'never'"


class FsyncPolicy(NamedTuple):
    """How long records may stay unsynced: `interval_ms` 0 is always, None is never.

    always: nothing acknowledged is lost by a power loss. interval:MS: a power loss takes back at
    most what was acknowledged in the last MS milliseconds, provided that `sync` is called that
    often. never: a power loss takes back what the kernel had not written out by itself, half a
    minute or more. A crash of the broker alone loses nothing under any of them.
    """

    interval_ms: int | None

    def is_due(self, elapsed_s: float) -> bool:
        """Say whether to sync now, `elapsed_s` seconds after the last one."""
        return self.interval_ms is not None and elapsed_s * 1000 >= self.interval_ms


def parse_fsync(text: str) -> FsyncPolicy:
    """Read a policy as it stands on the command line; ValueError says which forms there are."""
    if text == "always":
        return FsyncPolicy(0)
    if text == "never":
        return FsyncPolicy(None)
    form, _, number = text.partition(":")
    if form != "interval" or not (number.isascii() and number.isdecimal()) or int(number) == 0:
        msg = f"{text!r} is no fsync policy: it is {_FORMS}"
        raise ValueError(msg)
    return FsyncPolicy(int(number))
