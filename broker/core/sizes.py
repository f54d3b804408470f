"""How large texts are, and how large a result can get: what is checked before anything is done."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final

from tollgate.broker.core.limits import Limits
from tollgate.broker.repository.job import StoredJob
from tollgate.domain.commands import Command, Create, ProvideInput, Transition
from tollgate.domain.exceptions import TooLargeError

_TEXTS: Final[dict[type[Command], tuple[tuple[str, str], ...]]] = {
    Create: (
        ("input", "text_bytes"),
        ("identifier_from_purchaser", "identifier_from_purchaser_bytes"),
        ("blockchain_identifier", "blockchain_identifier_bytes"),
    ),
    Transition: (
        ("result", "text_bytes"),
        ("error", "text_bytes"),
        ("input_schema", "text_bytes"),
    ),
    ProvideInput: (("input", "text_bytes"),),
}
_JOB_TEXTS: Final = (
    "input", "result", "error", "input_schema", "provided_input",
    "blockchain_identifier", "identifier_from_purchaser",
)  # fmt: skip
_texts_of: Callable[[StoredJob], tuple[str | None, ...]] = attrgetter(*_JOB_TEXTS)

GRANTS_MAX: Final = 1_000
"""How many leases one claim can be granted: TG/1's bound on its `limit`."""
RESULT_BYTES: Final = 1_024
"""More than any result takes without the texts in it: names, times, hash, ids, limits."""
_UTF8_BYTES_MAX: Final = 4


def text_bytes(text: str | None) -> int:
    """Return how many bytes of UTF-8 a text has."""
    if text is None:
        return 0
    return len(text) if text.isascii() else len(text.encode())


Check = tuple[Callable[[Any], str | None], str, int]
"""What reads a text off a command, its name, and how many bytes it may have."""
Checks = dict[type[Command], list[Check]]


def text_checks(limits: Limits, below_bytes: int | None = None) -> Checks:
    """Return the limits of the texts of each kind of command; only those below so many bytes."""
    checks: Checks = {}
    for kind, texts in _TEXTS.items():
        for field, name in texts:
            limit = getattr(limits, name)
            if below_bytes is None or limit < below_bytes:
                checks.setdefault(kind, []).append((attrgetter(field), field, limit))
    return checks


def check_texts(command: Command, checks: list[Check]) -> None:
    """Raise TooLargeError if a text of the command is over its limit."""
    for text_of, field, limit in checks:
        text = text_of(command)
        if text is None or len(text) * _UTF8_BYTES_MAX <= limit:
            continue
        if text_bytes(text) > limit:
            raise TooLargeError(f"{field} holds more than {limit} bytes", limit=limit)


def job_text_bytes(job: StoredJob) -> int:
    """Return how many bytes the texts of a job have."""
    return sum([text_bytes(text) for text in _texts_of(job) if text is not None])


def job_bytes_max(job: StoredJob) -> int:
    """Return a bound on what a job takes in a reply."""
    return RESULT_BYTES + job_text_bytes(job)


def command_bytes(command: Command) -> int:
    """Return what a command's texts add to a job."""
    return sum(text_bytes(getattr(command, field)) for field, _ in _TEXTS.get(type(command), ()))


def result_bytes_with(text_bytes_max: int) -> int:
    """Return a bound on the result of a command about a job with no longer text than that."""
    return RESULT_BYTES + len(_JOB_TEXTS) * text_bytes_max


def result_bytes_max(limits: Limits) -> int:
    """Return a bound on the result of any command about one job."""
    texts = len(_JOB_TEXTS) - 2
    return (
        RESULT_BYTES
        + texts * limits.text_bytes
        + limits.blockchain_identifier_bytes
        + limits.identifier_from_purchaser_bytes
    )
