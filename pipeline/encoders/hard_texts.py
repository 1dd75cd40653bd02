"""Texts on which encoders that are not quite the same part ways. The same ones every time."""

import random
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Literal

from pipeline.encoders.unassigned import assigned

TEXTS = 2500
"""Of random pieces; both engines together take some tenths of a second for them."""

_SPACES = " \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u2000\u2003\u2007\u200a\u2028\u2029\u202f\u205f\u3000"
_PIECES = (
    *_SPACES,
    *("  ", "   ", "\t\t", "\n\n", "\r\n", "\r\n\r\n", "\n\r", " \n", "\n ", "  \n\n  ", " \r\n\t"),
    *("\x00", "\x07", "\x1b[0m", "\x7f", "\ufeff", "\u200b", "\u200c", "\u200d", "\u2060", "\xad", "\ufffd", "\uffff"),
    *("'s", "'S", "'t", "'re", "'VE", "'m", "'ll", "'d", "\u2019s", "'\u017f", "n't", "''", "'", '"'),
    *("the", " the", "The", " THE", "word", "camelCaseName", "snake_case", "HTTPServer", "x", " x", "a1b2", "\u0130i"),
    *("0", "7", "42", "123", "1234", "1234567890", "3.14", "1,000", "0x1F", "1e-9", "\u0661\u0662", "\u0967", "\u2167"),
    *("\xbd", "\u2460", "\xb2", "\U0001d7d8", "\uff11"),
    *(
        "!",
        "?!",
        "...",
        "->",
        "=>",
        "!==",
        "//",
        "/*",
        "*/",
        "{",
        "}",
        "()",
        "[]",
        ";\n",
        "://",
        "%20",
        "\\n",
        "_",
        "__",
    ),
    *("def f(x):\n    return x\n", "<div class='a'>", '{"a": [1, null]}', "#include <stdio.h>\n", "SELECT * FROM t;"),
    *(
        "\xe9",
        "e\u0301",
        "\u0301",
        "\u0323\u0307",
        "\u212b",
        "\u1e9b\u0323",
        "\u0344",
        "\u0958",
        "\ufb01",
        "\xdf",
        "\u01c5",
    ),
    *(
        "\u4f60\u597d",
        "\u65e5\u672c\u8a9e\u30c6\u30ad\u30b9\u30c8",
        "\ud55c\uad6d\uc5b4",
        "\u1112\u1161\u11ab",
        "\u3002",
    ),
    *(
        "\u0645\u0631\u062d\u0628\u0627",
        "\u05e9\u05dc\u05d5\u05dd",
        "\u0939\u093f\u0928\u094d\u0926\u0940",
        "\u0e44\u0e17\u0e22",
    ),
    *(
        "\u041f\u0440\u0438\u0432\u0435\u0442",
        "\u0395\u03bb\u03bb\u03ac\u03c2",
        "\u1e00\u1e01",
        "\u0f40\u0f72",
        "\u1780\u17d2",
    ),
    *("\U0001f600", "\U0001f44d\U0001f3fd", "\U0001f468\u200d\U0001f469\u200d\U0001f466", "\u2764\ufe0f", "\U0001f1e9"),
    *(
        "\u2190",
        "\u2211",
        "\u20ac",
        "$",
        "\xa9",
        "\u2580",
        "\U0001d400",
        "\U00020000",
        "\U000e0041",
        "\U0010fffd",
        "\ue000",
    ),
)
_RUNS = (
    "a",
    "A",
    " ",
    "\n",
    "\r\n",
    "\t",
    "1",
    "!",
    "-",
    "ab",
    "Ab",
    "\xe9",
    "\u4e00",
    "\u0301",
    "\U0001f600",
    "'s",
    "= ",
)
_LENGTHS = (2, 3, 17, 256, 1500)  # tiktoken takes time of the square of a word's length


def hard_texts(added: Iterable[str], normal_form: Literal["NFC"] | None) -> Iterator[str]:
    """In the normal form. `added` are added tokens, which are plain text here."""
    for text in _texts(list(added)):
        yield unicodedata.normalize(normal_form, text) if normal_form else text


def _texts(added: list[str]) -> Iterator[str]:
    rng = random.Random(0)
    yield from ("", *_PIECES, *added)
    yield from (f"x {piece}{piece} y" for piece in _PIECES)
    yield from (f"{left}{run * length}{right}" for run in _RUNS for length in _LENGTHS for left, right in ("  ", "xy"))
    letters = [code for code in assigned().nonzero()[0].tolist() if not 0xD800 <= code < 0xE000]
    for _ in range(TEXTS):
        pieces = [rng.choice(_PIECES) for _ in range(rng.randint(1, 8))]
        pieces += [chr(rng.choice(letters)) for _ in range(rng.randint(0, 4))]
        pieces += rng.sample(added, min(len(added), rng.randint(0, 1)))
        rng.shuffle(pieces)
        yield "".join(pieces)
    for start in range(0, len(letters), 997):  # of every script
        yield " ".join(map(chr, letters[start : start + 16]))
