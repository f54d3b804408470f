"""The forms of text that fields of an input schema take: addresses, moments, colours.

Each form is one regular expression, which `values` matches and `json_schema` publishes. So
the expressions are written for both readers: no classes such as "digit" or "space", which Python
and ECMAScript read differently, and no anchors. None of them tries more than a few ways for a
character, and a text is measured before it is matched.
"""

import re
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Final


@dataclass(frozen=True)
class TextFormat:
    """A form of text: what it is called, an example, its expression, its lengths in characters."""

    title: str
    example: str
    pattern: str
    """Matches the whole text. Reads alike in Python and in ECMAScript with the flag u."""
    shortest: int
    longest: int

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    def fits(self, text: str) -> bool:
        """Tell whether a text has this form. Takes time in proportion to `longest` at most."""
        # The length first: the expression never sees a long text.
        return len(text) <= self.longest and self._expression.fullmatch(text) is not None


def _long_years() -> str:
    """Return an expression for the years of four digits that have an ISO week 53.

    Weeks repeat after 400 years, so the last two digits depend on the century modulo 4.
    """
    centuries = (
        "(?:[02468][048]|[13579][26])", "(?:[02468][159]|[13579][37])",
        "(?:[02468][26]|[13579][048])", "(?:[02468][37]|[13579][159])",
    )  # fmt: skip
    return "|".join(
        century
        + "(?:"
        + "|".join(f"{year:02}" for year in range(100) if _is_long(rest, year))
        + ")"
        for rest, century in enumerate(centuries)
    )


def _is_long(century: int, year: int) -> bool:
    # 2000 is a multiple of 400. The 28th of December lies in the last week of its year.
    return date(2000 + 100 * century + year, 12, 28).isocalendar().week == 53  # noqa: PLR2004 - ISO's


_YEAR = "(?!0000)[0-9]{4}"  # HTML, and Python's dates, begin with the year 1
_LEAP_YEAR = (
    "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?!00)(?:[02468][048]|[13579][26])00)"
)  # fmt: skip
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    f"|{_LEAP_YEAR}-02-29)"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,3})?)?"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_PORT = (
    "(?:[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
)  # fmt: skip
_NOT_IN_URL = r'\u0000-\u0020\u007f-\u00a0\u2028\u2029\ufeff<>"^`{|}\\'
_HOST_LABEL = rf"[^{_NOT_IN_URL}/?#@:\[\]%.]+"  # no name before it: "@" is in no label

DATE: Final = TextFormat("a date", "2026-12-31", _DATE, 10, 10)
DATETIME_LOCAL: Final = TextFormat(
    "a date and time without a zone", "2026-12-31T23:59", f"{_DATE}T{_TIME}", 16, 23
)
TIME: Final = TextFormat("a time", "23:59", _TIME, 5, 12)
MONTH: Final = TextFormat("a month", "2026-12", f"{_YEAR}-(?:0[1-9]|1[0-2])", 7, 7)
WEEK: Final = TextFormat(
    "an ISO week", "2026-W53",
    f"(?:{_YEAR}-W(?:0[1-9]|[1-4][0-9]|5[0-2])|(?!0000)(?:{_long_years()})-W53)", 8, 8,
)  # fmt: skip
COLOR: Final = TextFormat("a colour", "#1a73e8", "#[0-9A-Fa-f]{6}", 7, 7)
EMAIL: Final = TextFormat(
    "an email address", "ada@example.com",
    rf"[A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~\-]+@{_LABEL}(?:\.{_LABEL})+", 5, 254,
)  # fmt: skip
"""As HTML defines it, with a dot in the domain. Its longest is RFC 5321's."""
URL: Final = TextFormat(
    "a web address (http or https, no user name in it)", "https://example.com/a.pdf",
    rf"[Hh][Tt][Tt][Pp][Ss]?://(?:{_HOST_LABEL}(?:\.{_HOST_LABEL})*\.?"
    rf"|\[[0-9A-Fa-f:.]{{2,45}}\])(?::{_PORT})?(?:[/?#][^{_NOT_IN_URL}]*)?", 8, 8_192,
)  # fmt: skip
TEL: Final = TextFormat(
    "a telephone number", "+49 30 1234567",
    r"\+?(?:[ ()./\-]{0,3}[0-9]){3,20}[ ()./\-]{0,3}", 3, 84,
)  # fmt: skip

MOMENTS: Final = {
    "date": DATE, "datetime-local": DATETIME_LOCAL, "time": TIME, "month": MONTH, "week": WEEK,
}  # fmt: skip
"""The kinds whose texts stand for a moment: by time, they are in the order of `moment_order`."""


def moment_order(text: str) -> str:
    """Return a key by which two texts of the same kind of moment sort as their moments do."""
    head, _, fraction = text.partition(".")
    if head.count(":") == 1:
        head += ":00"
    return f"{head}.{fraction:0<3}"
