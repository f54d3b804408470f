"""Good and bad values of every kind of field, for a field without validations."""

from typing import Any

from tollgate.gateway.input_schema.fields import NUMBER_MAX, VALUES_MAX

DATA: dict[str, dict[str, Any]] = {
    "option": {"values": ["red", "green", "blue"]},
    "multiselect": {"values": ["red", "green", "blue"]},
    "radio": {"values": ["red", "green", "blue"]},
    "hidden": {"value": "secret"},
}
"""What a kind needs in its `data`."""

GOOD: dict[str, tuple[Any, ...]] = {
    "text": ("a", "ä" * 10_000, "\U0001f600", "two\nlines", " "),
    "string": ("a",),
    "textarea": ("two\nlines",),
    "search": ("a",),
    "password": ("p", "\x00"),
    "number": (0, -1, 1.5, -0.0, 1e-300, 5e-324, NUMBER_MAX, -NUMBER_MAX, float(2**53 - 1)),
    "range": (0, 1.5),
    "boolean": (True, False),
    "checkbox": (True, False),
    "email": (
        "ada@example.com", "a@b.c", "a.b+c@x-y.example", "o'neil@example.co.uk",
        "a" * 242 + "@example.com",
    ),
    "url": (
        "https://example.com", "http://a", "HTTPS://example.com:65535/a?b=c#d", "http://[::1]:80/",
        "https://münchen.example/ä", "https://example.com/a@b:c", "http://localhost:3000?x",
        "https://example.com./", "https://a/" + "x" * (8_192 - 10),
    ),
    "tel": ("112", "+49 30 1234567", "(555) 123-4567", "+1-234-567-8900", "0" * 20, "030/12.34"),
    "color": ("#1a73e8", "#FFFFFF"),
    "date": ("2024-02-29", "0001-01-01", "9999-12-31", "2000-02-29", "0004-02-29"),
    "datetime-local": (
        "2024-02-29T23:59", "2024-02-29T00:00:00", "2024-02-29T10:00:00.1",
        "2024-02-29T10:00:00.123",
    ),
    "time": ("00:00", "23:59", "23:59:59", "10:00:00.000"),
    "month": ("2024-02", "0001-01", "9999-12"),
    "week": ("2024-W52", "2020-W53", "2026-W53", "0001-W01", "9999-W52"),
    "option": ("red", ["red"], ["blue", "red"], 0, 2, [1], [0, 1, 2], 1.0, [0, "blue"]),
    "multiselect": ("red", ["red"], ["blue", "red"], [0, 1, 2], [1.0]),
    "radio": ("red", 0, 2, ["blue"], [0]),
    "file": ("https://a/b", ["https://a/b"], ["https://a/b", "https://a/b"]),
    "hidden": ("secret", None),
    "none": (None, ""),
}  # fmt: skip

HUGE = 10**5000
TEXTS = ("text", "string", "textarea", "search", "password")
NO_TEXT: tuple[Any, ...] = (None, "", 7, 1.5, True, [], ["a"], {}, "\ud800", HUGE, float("nan"))
BAD: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(TEXTS, NO_TEXT),
    "number": (
        None, "", "1", True, [], [1], {}, float("nan"), float("inf"), float("-inf"), 1e400, HUGE,
        -HUGE, NUMBER_MAX + 1, -NUMBER_MAX - 1, 1e300,
    ),
    "range": (None, "5", False, float("nan"), HUGE),
    "boolean": (None, "", 0, 1, "true", [], {}, [True]),
    "checkbox": (None, "on", 1),
    "email": (
        *NO_TEXT, "a", "a@b", "@b.c", "a@", "a@b.c\n", " a@b.c", "a@b..c", "a@-b.c", "a@b-.c",
        "a b@c.d", "ä@b.c", "a@b.c,d@e.f", "a" * 243 + "@example.com", "a@" + "b" * 64 + ".c",
    ),
    "url": (
        *NO_TEXT, "example.com", "ftp://a", "javascript:alert(1)", "http://", "http:///a",
        "https://a b", "https://a\n", "https://user:pw@host", "https://user@host",
        "https://a:65536", "https://a:x", "http://a..b", "http://.a", "//a", "https://a/\u2028",
        "https://a\\b", "data:text/plain,a", "https://a/" + "x" * (8_192 - 9), "http://[::1", "https://a/\ud800",
    ),
    "tel": (
        *NO_TEXT, "12", "call me", "+", "0" * 21, "+49 30 1234567\n", "1----2----3", "1+2",
        "\u0661\u0662\u0663",
    ),
    "color": (*NO_TEXT, "red", "#fff", "#12345g", "1a73e8", "#1a73e8\n", "#1a73e8ff"),
    "date": (
        *NO_TEXT, "2023-02-29", "1900-02-29", "2024-04-31", "2024-13-01", "2024-00-01",
        "2024-01-00", "2024-1-1", "0000-01-01", "24-01-01", "2024-02-29T00:00", "2024-02-29\n",
        "\u0662\u0660\u0662\u0664-01-01", "2024/01/01", "10000-01-01",
    ),
    "datetime-local": (
        *NO_TEXT, "2024-02-29", "2024-02-29 10:00", "2024-02-29T24:00", "2024-02-29T10:60",
        "2024-02-29T10:00Z", "2024-02-29T10:00+01:00", "2023-02-29T10:00", "2024-02-29T10:00:00.",
        "2024-02-29T10:00:00.1234",
    ),
    "time": (*NO_TEXT, "24:00", "9:00", "10:60", "10", "10:00:60", "10:00:00.1234", "10:00\n"),
    "month": (*NO_TEXT, "2024-13", "2024-00", "2024-1", "0000-01", "2024", "2024-02-01"),
    "week": (*NO_TEXT, "2024-W53", "2024-W00", "2024-W54", "2024W01", "2024-W1", "0000-W01"),
    "option": (
        None, "", [], "yellow", "Red", ["red", "red"], ["red", 0], 3, -1, 0.5, True, [True],
        [None], [[0]], {}, HUGE, float("nan"), float("inf"), "\ud800", ["red"] * (VALUES_MAX + 1),
    ),
    "multiselect": (None, "", [], ["yellow"], [0, 0], [3], {"red": True}),
    "radio": (None, "", [], "yellow", ["red", "green"], [0, 1], 3, -1, True),
    "file": (
        None, "", [], "a.pdf", "ftp://a/b", ["a.pdf"], [None], [["https://a/b"]], {}, 7, b"", "https://a/\ud800",
        ["https://a/b"] * (VALUES_MAX + 1), "\ud800",
    ),
    "hidden": ("", "Secret", 7, ["secret"], False),
    "none": ("text", 0, False, [], {}),
}  # fmt: skip
