"""The default handler: describes a job's text, in any language, as JSON."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from tollgate.domain.models import Job

FREQUENT_WORDS: Final = 5
WORD_CHARACTERS: Final = 50
EXCERPT_CHARACTERS: Final = 200
"""Longest part of a word, and of the text, in the result; the whole could exceed its limit."""

_UNSPACED: Final = frozenset({"CJK", "HIRAGANA", "KATAKANA"})
"""Scripts that put no spaces between words: each character is counted as a word."""
_SENTENCE: Final = re.compile(r"[^.!?…。！？।॥؟۔]+")  # noqa: RUF001 - many scripts
_INSIDE_A_WORD: Final = "'’-"  # noqa: RUF001 - both apostrophes


def describe(job: Job) -> str:
    """Return a description of the text in the job's input, as a JSON object.

    The text is every string in MIP-003's `input_data`, or in the input as a whole if it is JSON
    without that. Other input is the text itself. The same input gives the same result.

    Raises:
        ValueError: the job has no input.

    """
    if job.input is None:
        raise ValueError("the job has no input to describe")
    # JSON can name half of a surrogate pair, which UTF-8 cannot hold.
    text = "\n".join(_texts(job.input)).encode(errors="replace").decode()
    words = _words(text)
    scripts = Counter(_script(character) for character in text if character.isalpha())
    normalised = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    excerpt = normalised[:EXCERPT_CHARACTERS]
    ranked = sorted(Counter(words).items(), key=lambda entry: (-entry[1], entry[0]))
    description = {
        "characters": len(text),
        "words": len(words),
        "sentences": sum(1 for part in _SENTENCE.findall(text) if _words(part)),
        "most_frequent": [[word[:WORD_CHARACTERS], n] for word, n in ranked[:FREQUENT_WORDS]],
        "script": scripts.most_common(1)[0][0].lower() if scripts else None,
        "normalised": excerpt,
        "reversed": "".join(reversed(_graphemes(excerpt))),
    }
    return json.dumps(description, ensure_ascii=False)


def _texts(document: str) -> list[str]:
    """Return the strings of an input in their order; for one that is not JSON, all of it."""
    try:
        parsed = json.loads(document)
    except (ValueError, RecursionError):
        return [document]
    if isinstance(parsed, dict) and "input_data" in parsed:
        parsed = parsed["input_data"]
    return list(_strings(parsed))


def _strings(document: object) -> Iterator[str]:
    left = [document]
    while left:
        part = left.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            # MIP-003 writes input_data as an object, deployed services as pairs of key and value.
            is_pair = part.keys() == {"key", "value"}
            left.extend([part["value"]] if is_pair else reversed(part.values()))
        elif isinstance(part, list):
            left.extend(reversed(part))


def _words(text: str) -> list[str]:
    """Return the words, casefolded: runs of letters, the marks on them, and digits."""
    words: list[str] = []
    run: list[str] = []
    for character in unicodedata.normalize("NFKC", text).casefold():
        if unicodedata.category(character)[0] in "LNM":
            if _script(character) in _UNSPACED:
                words += ["".join(run), character]
                run = []
            else:
                run.append(character)
        elif not (run and character in _INSIDE_A_WORD):
            words.append("".join(run))
            run = []
        else:
            run.append(character)
    words.append("".join(run))
    return [word for word in (word.rstrip(_INSIDE_A_WORD) for word in words) if word]


@lru_cache(maxsize=4_096)
def _script(character: str) -> str:
    """Return the script of a letter, by the first word of its name in Unicode."""
    return unicodedata.name(character, "UNKNOWN").split()[0].split("-")[0]


def _graphemes(text: str) -> list[str]:
    """Return the characters with the marks that belong to them, which must not be separated."""
    graphemes: list[str] = []
    for character in text:
        if graphemes and unicodedata.category(character).startswith("M"):
            graphemes[-1] += character
        else:
            graphemes.append(character)
    return graphemes
