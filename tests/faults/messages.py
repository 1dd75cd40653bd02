"""What an error message must say of each kind of fault."""

import re
from collections.abc import Set

_PLACE = re.compile(r"block \d+-\d+|unit \d+|publishing|shards/|state/|rejects/|tokenizer/|\bin/|manifest|\bout\b")

_KILLED = r"was killed"
_CAUSES = {
    "kill at a write": _KILLED,
    "kill a worker": _KILLED,
    "kill the process that forks workers": _KILLED,
    "kill the launching process": r"$.",  # it says nothing any more
    "another recipe": r"another data set|another recipe",
    "store: an error": r"Input/output error|internal error",
    "store: an error in reading": r"Input/output error|internal error",
    "store: stalls": r"[Tt]ime(d )?out",
    "store: 503 for a while": r"503|[Rr]educe your request rate",
    "store: 503 for ever": r"503|[Rr]educe your request rate",
    "store: an answer lost": r"[Cc]onnection|disconnected",
    "store: cuts what is written": r"\d+ bytes",
    "store: cuts what is read": r"cut short|\d+ bytes|[Cc]onnection|payload|EOF while parsing",
    "disk full": r"No space left|StorageFull|free drive",
    "a source changes": r"changed|damaged",
    "a source grows": r"changed|damaged",
    "a source disappears": r"is gone|No such file|matches nothing",
}


def explains(text: str, struck: Set[str]) -> bool:
    """Whether a message says where and what it was, of one of the faults that happened, and shows no traceback."""
    causes = [_CAUSES[kind] for kind in struck if kind in _CAUSES]
    return (
        text.count("packline: ") == 1
        and "Traceback" not in text
        and _PLACE.search(text) is not None
        and any(re.search(cause, text) for cause in causes)
    )
