"""Fields of an input schema: the kinds there are, and what each takes.

The kinds are the 22 of MIP-003's attachment 01, with the `string` of MIP-003's own examples and the
`multiselect` that is met in public schemas. What a kind keeps is what public callers take: the npm
package masumi-schema-validator-component (1.2.0) and the package masumi of sokosumi. Where one of
them refuses a schema for something that changes nothing, that is left out, so that both take it:

- the format of `tel`, which one spells `tel-pattern`, the other `tel_pattern`;
- `nonempty` where the kind has a form of its own, and `number` on a number;
- `optional` with the value false, which one of them reads as true.
"""

import difflib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from tollgate.gateway.input_schema.formats import COLOR, EMAIL, MOMENTS, TEL, URL, TextFormat

Number: TypeAlias = int | float
Family: TypeAlias = Literal[
    "text", "number", "flag", "moment", "choice", "file", "hidden", "none"
]  # fmt: skip

VALUES_MAX: Final = 1_000
"""Most values that one field offers, and most files that one takes."""
TEXT_MAX: Final = 10_000
"""Most characters of any text in a schema."""
NUMBER_MAX: Final = 2**53 - 1
"""Largest whole number that every JSON reader keeps, and that RFC 8785 hashes."""
DISPLAY_MAX: Final = 60
"""Most characters of a value that a message repeats."""
_NUMERAL: Final = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:[eE][+-]?[0-9]{1,3})?")


class Kind(NamedTuple):
    """What a kind of field is and takes."""

    family: Family
    data: tuple[str, ...] = ()
    """Keys of `data` that are kept, in the order in which they are served."""
    validations: tuple[str, ...] = ("optional",)
    formats: tuple[str, ...] = ()
    """Formats that both kinds of public callers take, and that are served."""
    formats_not_served: tuple[str, ...] = ()
    """Formats that are read too."""
    form: TextFormat | None = None
    """The form that every text of this kind has."""
    needs_data: bool = False
    """Public callers refuse a field of this kind that has no `data`, be it empty."""


_LABELS = ("placeholder", "description", "default")
_LIMITS = ("min", "max", "optional")
_LIMITS_AND_FORMAT = (*_LIMITS, "format")
_TEXT = Kind("text", _LABELS, _LIMITS_AND_FORMAT, ("nonempty", "url", "email"))
_LINES = Kind("text", _LABELS, _LIMITS_AND_FORMAT, ("nonempty",))
_FLAG = Kind("flag", ("description", "default"))
_CHOICE = Kind("choice", ("values", "description"), _LIMITS, needs_data=True)

KINDS: Final[Mapping[str, Kind]] = {
    "text": _TEXT,
    "string": _TEXT,
    "textarea": _LINES,
    "search": _LINES,
    "password": Kind("text", ("placeholder", "description"), _LIMITS_AND_FORMAT, (), ("nonempty",)),
    "email": Kind("text", _LABELS, _LIMITS_AND_FORMAT, ("email",), ("nonempty",), EMAIL),
    "url": Kind("text", _LABELS, _LIMITS_AND_FORMAT, ("url",), ("nonempty",), URL),
    "tel": Kind(
        "text", _LABELS, _LIMITS_AND_FORMAT, (), ("tel-pattern", "tel_pattern", "nonempty"), TEL
    ),
    "color": Kind("text", ("description", "default"), form=COLOR),
    "number": Kind("number", _LABELS, _LIMITS_AND_FORMAT, ("integer",), ("number",)),
    "range": Kind(
        "number", ("min", "max", "step", "description", "default"), _LIMITS, needs_data=True
    ),
    "boolean": _FLAG,
    "checkbox": _FLAG._replace(needs_data=True),
    **{
        kind: Kind("moment", ("description", "default"), _LIMITS, form=form)
        for kind, form in MOMENTS.items()
    },
    "option": _CHOICE,
    "multiselect": _CHOICE,
    "radio": _CHOICE._replace(data=("values", "default", "description")),
    "file": Kind("file", ("description", "outputFormat"), (*_LIMITS, "accept"), needs_data=True),
    "hidden": Kind("hidden", ("value",), needs_data=True),
    "none": Kind("none", ("description",)),
}


class Validation(NamedTuple):
    """One validation, as it is served: the value is always a text."""

    validation: str
    value: str


@dataclass(frozen=True)
class Field:
    """One field of an input schema. `field_reader.read_field` makes it."""

    id: str
    type: str
    name: str
    data: Mapping[str, Any] = field(default_factory=dict)
    """The known keys alone."""
    validations: tuple[Validation, ...] = ()
    """What is served. `least`, `most` and `formats` say what is checked."""
    is_optional: bool = False
    least: Number | str | None = None
    """The greatest of all `min`: of a length, an amount, a number, or a moment."""
    most: Number | str | None = None
    """The least of all `max`."""
    formats: frozenset[str] = frozenset()

    @property
    def kind(self) -> Kind:
        """What the field's kind takes."""
        return KINDS[self.type]

    @property
    def values(self) -> tuple[str, ...]:
        """What a choice offers, in order."""
        return tuple(self.data.get("values", ()))

    @property
    def forms(self) -> tuple[TextFormat, ...]:
        """The forms that a text must have."""
        asked = {"email": EMAIL, "url": URL}
        own = [self.kind.form] if self.kind.form else []
        return (*own, *(asked[name] for name in sorted(self.formats & set(asked))))

    @property
    def step(self) -> Fraction | None:
        """The distance of two values of a range."""
        return exact(self.data["step"]) if "step" in self.data else None

    @property
    def step_base(self) -> Fraction:
        """The value of a range from which steps are counted, as HTML counts them."""
        base = self.data.get("min", self.least)
        return Fraction(0) if base is None else exact(base)

    def next_fitting(self, low: Fraction) -> Fraction:
        """Return the smallest number from `low` on that the field's step or format takes."""
        step, base = self.step, self.step_base
        if "integer" in self.formats:
            step, base = Fraction(1), Fraction(0)
        return low if step is None else base + math.ceil((low - base) / step) * step

    @property
    def fewest(self) -> int:
        """Fewest characters, chosen values or files that the validations ask for."""
        low = self.least if isinstance(self.least, int) else 1
        return max(low, 1) if "nonempty" in self.formats else low

    @property
    def shortest(self) -> int:
        """The same, if the forms of the text are counted in."""
        return max([self.fewest, *(form.shortest for form in self.forms)])

    @property
    def longest(self) -> int | None:
        """Most characters, chosen values or files; None without a limit."""
        most = [self.most] if isinstance(self.most, int) else []
        if self.kind.family == "choice":
            most.append(1 if self.type == "radio" else len(self.values))
        if self.kind.family == "file":
            most.append(VALUES_MAX)
        return min([*most, *(form.longest for form in self.forms)], default=None)

    def served(self) -> dict[str, Any]:
        """Return the field as callers see it."""
        shown: dict[str, Any] = {"id": self.id, "type": self.type, "name": self.name}
        if self.data or self.kind.needs_data:
            shown["data"] = dict(self.data)
        if self.validations:
            shown["validations"] = [one._asdict() for one in self.validations]
        return shown


def exact(number: Number | str) -> Fraction:
    """Return the number that a JSON number stands for, as it is written in decimals."""
    return Fraction(repr(number) if isinstance(number, float) else number)


def number_of(told: object) -> Number | None:
    """Return a number that is told as a JSON number or as a text, None if it is none.

    Whole ones are int, so that `min` of a length may be told as 3, 3.0 or "3".
    """
    if isinstance(told, str):
        if not _NUMERAL.fullmatch(told):
            return None
        told = float(told) if not told.lstrip("-").isdigit() else int(told)
    if isinstance(told, bool) or not isinstance(told, int | float):
        return None
    if isinstance(told, float) and told.is_integer():  # neither NaN nor infinite
        told = int(told)
    return told if abs(told) <= NUMBER_MAX else None  # NaN is not below it either


def suggest(word: object, known: Collection[str]) -> str:
    """Return "; did you mean 'x'?" for the known word that is most alike, or nothing."""
    if not isinstance(word, str) or len(word) > 100:  # noqa: PLR2004 - no word is longer
        return ""
    near = difflib.get_close_matches(word.lower(), known, 1)
    return f"; did you mean '{near[0]}'?" if near else ""


def display(value: object) -> str:  # noqa: PLR0911 - one for each kind of JSON value
    """Return a value for a message: short, and printable whatever it is."""
    match value:
        case str():
            cut = value if len(value) <= DISPLAY_MAX else value[:DISPLAY_MAX] + "..."
            return "'" + "".join(each if each.isprintable() else "?" for each in cut) + "'"
        case bool():
            return "true" if value else "false"
        case int() if abs(value) > NUMBER_MAX:
            return "so large a number"  # its digits may be too many to print
        case int() | float():
            return repr(value)
        case list() | tuple():
            return "a list"
        case None:
            return "null"
        case _:
            return "an object"


def is_text(value: object) -> bool:
    """Tell whether a value is a text of real characters: no half of a surrogate pair."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
