"""How large texts are, and how large a result can get: what is checked before anything is done."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final

from broker.limits import Limits
from broker.shown import ShownJob
from domain.commands import Command, Create, ProvideInput, Transition
from domain.exceptions import TooLargeError

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

RESULT_BYTES: Final = 1_024
"""More than any result takes without the texts in it: names, times, hash, ids, limits."""
_UTF8_BYTES_MAX: Final = 4


def text_bytes(text: str | None) -> int:
    """Return how many bytes of UTF-8 a text has."""
    return 0 if text is None else len(text.encode())


class TextLimits:
    """The limits of the texts in commands."""

    def __init__(self, limits: Limits) -> None:
        self._texts: dict[type[Command], Callable[[Command], tuple[str | None, ...]]] = {}
        self._limits: dict[type[Command], tuple[tuple[str, int], ...]] = {}
        for command, texts in _TEXTS.items():
            self._texts[command] = _texts_of([field for field, _ in texts])
            self._limits[command] = tuple((field, getattr(limits, limit)) for field, limit in texts)

    def check(self, command: Command) -> None:
        """Raise TooLargeError if a text of the command is over its limit."""
        texts_of = self._texts.get(type(command))
        if texts_of is None:
            return
        texts = texts_of(command)
        if not any(texts):  # most transitions say nothing
            return
        for text, (field, limit) in zip(texts, self._limits[type(command)], strict=True):
            if text is None or len(text) * _UTF8_BYTES_MAX <= limit:
                continue
            if text_bytes(text) > limit:
                raise TooLargeError(f"{field} holds more than {limit} bytes", limit=limit)


def _texts_of(fields: list[str]) -> Callable[[Any], tuple[str | None, ...]]:
    """Return what reads these fields at once; of a single one, attrgetter gives no tuple."""
    get: Callable[[Any], Any] = attrgetter(*fields)
    return get if len(fields) > 1 else lambda command: (get(command),)


def job_bytes_max(job: ShownJob) -> int:
    """Return a bound on what a job takes in a reply."""
    return RESULT_BYTES + sum(text_bytes(getattr(job, field)) for field in _JOB_TEXTS)


def command_bytes(command: Command) -> int:
    """Return what a command's texts add to a job."""
    return sum(text_bytes(getattr(command, field)) for field, _ in _TEXTS.get(type(command), ()))


def result_bytes_max(limits: Limits) -> int:
    """Return a bound on the result of any command about one job."""
    texts = len(_JOB_TEXTS) - 2
    return (
        RESULT_BYTES
        + texts * limits.text_bytes
        + limits.blockchain_identifier_bytes
        + limits.identifier_from_purchaser_bytes
    )
