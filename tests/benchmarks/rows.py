"""Rows to measure with, as JSON lines: real text, never repeated, the same for one installation.

    python tests/benchmarks/rows.py code OUT.jsonl --megabytes 120

`code` are conversations about the Python source of the installed packages, `endless` are as many of them as one likes,
`agents` are tool-using ones over the same source (1 to 30 turns, tools, calls, reasoning: hardly two have the same
shape), `prose` are questions and answers made of the packages' documentation, `words` are identifiers of which none
comes twice, `texts` are plain documents.
"""

import argparse
import json
import random
import string
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Message = dict[str, Any]

TOOLS = {
    "read_file": {"path": "string", "first_line": "integer", "last_line": "integer"},
    "search": {"pattern": "string", "glob": "string", "case_sensitive": "boolean"},
    "edit_file": {"path": "string", "old": "string", "new": "string"},
    "run_tests": {"names": "array", "timeout": "number"},
}


class Source:
    """The text of the installed packages, given out stretch by stretch and never twice."""

    def __init__(self, pattern: str, rng: random.Random) -> None:
        files = sorted(Path(sysconfig.get_paths()["purelib"]).rglob(pattern))
        rng.shuffle(files)
        self._rng = rng
        self._files = iter(files)
        self.name, self._text, self.at = "", "", 0

    def take(self, typical: int) -> str:
        """A stretch of log-normal length around `typical` characters. Raises StopIteration when all is given out."""
        while self.at >= len(self._text):
            file = next(self._files)
            self.name, self._text, self.at = file.name, file.read_text("utf-8", errors="ignore"), 0
        begin = self.at
        self.at += int(typical * self._rng.lognormvariate(0, 0.9)) + 50
        return self._text[begin : self.at]


def code_chats(rng: random.Random) -> Iterator[Row]:
    source = Source("*.py", rng)
    while True:
        messages = [{"role": "system", "content": "You are a careful engineer."}] if rng.random() < 0.5 else []
        for _ in range(rng.choice((1, 1, 2, 3))):
            answer = source.take(550)
            messages += [
                {"role": "user", "content": f"Show {source.name} up to character {source.at}."},
                {"role": "assistant", "content": answer},
            ]
        yield {"messages": messages}


def prose_chats(rng: random.Random) -> Iterator[Row]:
    source = Source("*.[rtm][sxd]*", rng)
    while True:
        turns = [(source.take(200), source.take(700)) for _ in range(rng.choice((1, 1, 1, 2, 4)))]
        pairs = [[("user", question), ("assistant", answer)] for question, answer in turns]
        yield {"messages": [{"role": role, "content": text} for pair in pairs for role, text in pair]}


def agents(rng: random.Random) -> Iterator[Row]:
    source = Source("*.py", rng)
    while True:
        names = rng.sample(sorted(TOOLS), rng.randint(1, len(TOOLS)))
        messages = [{"role": "system", "content": "You mend programs. " + source.take(200)}]
        for _ in range(rng.choice((1, 1, 2, 3, rng.randint(1, 30)))):
            messages += agent_turn(rng, source, names)
        yield {"messages": messages, "tools": [describe_tool(name) for name in names]}


def agent_turn(rng: random.Random, source: Source, names: list[str]) -> Iterator[Message]:
    yield {"role": "user", "content": f"What does {source.name} do? " + source.take(60)}
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        calls = [make_call(rng, source, rng.choice(names)) for _ in range(rng.choice((1, 1, 1, 2)))]
        yield with_thought(
            rng, source, {"role": "assistant", "content": rng.choice(("", "I look.")), "tool_calls": calls}
        )
        for call in calls:
            yield {"role": "tool", "name": call["function"]["name"], "content": source.take(400)}
    yield with_thought(rng, source, {"role": "assistant", "content": source.take(250)})


def with_thought(rng: random.Random, source: Source, message: Message) -> Message:
    return message | ({"reasoning_content": source.take(150)} if rng.random() < 0.4 else {})


def make_call(rng: random.Random, source: Source, name: str) -> dict[str, Any]:
    values = {"string": source.name, "integer": rng.randrange(1000), "boolean": rng.random() < 0.5, "number": 1.5}
    arguments: dict[str, Any] = {}
    for key, kind in TOOLS[name].items():
        if rng.random() < 0.8:
            arguments[key] = source.take(60) if key in ("old", "new") else values.get(kind, [source.name])
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def describe_tool(name: str) -> dict[str, Any]:
    properties = {key: {"type": kind, "description": f"the {key} to use"} for key, kind in TOOLS[name].items()}
    parameters = {"type": "object", "properties": properties, "required": sorted(properties)[:1]}
    return {"type": "function", "function": {"name": name, "description": f"Do {name}.", "parameters": parameters}}


def words(rng: random.Random) -> Iterator[Row]:
    """Identifiers that never repeat: the worst that a cache of words can meet. Of letters alone, as patterns cut at
    digits."""
    while True:
        made = ("".join(rng.choices(string.ascii_lowercase, k=14)) for _ in range(60))
        yield {"messages": [{"role": "user", "content": " ".join(made)}, {"role": "assistant", "content": "ok"}]}


def endless_code(rng: random.Random) -> Iterator[Row]:
    """In every pass over the packages each letter is one further down the alphabet, so that words do not come back
    either."""
    letters = string.ascii_lowercase
    for turn in count():
        shift = str.maketrans(letters, letters[turn % 26 :] + letters[: turn % 26])
        with suppress(RuntimeError):  # the packages' text is used up
            for row in code_chats(rng):
                messages = [message | {"content": message["content"].translate(shift)} for message in row["messages"]]
                yield {"messages": messages}


def texts(rng: random.Random) -> Iterator[Row]:
    source = Source("*.py", rng)
    while True:
        yield {"text": source.take(2500)}


KINDS: dict[str, Callable[[random.Random], Iterator[Row]]] = {
    "code": code_chats,
    "endless": endless_code,
    "agents": agents,
    "prose": prose_chats,
    "words": words,
    "texts": texts,
}


def write_rows(kind: str, path: Path, megabytes: float, seed: int = 0) -> int:
    """At least so many megabytes, or what there is; the number of rows."""
    rows = size = 0
    with path.open("w", encoding="utf-8") as file:
        try:
            for row in KINDS[kind](random.Random(seed)):
                line = json.dumps(row, ensure_ascii=False) + "\n"
                file.write(line)
                rows, size = rows + 1, size + len(line)
                if size >= megabytes * 1e6:
                    break
        except (StopIteration, RuntimeError):  # the packages' text is used up
            pass
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("path", type=Path)
    parser.add_argument("--megabytes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = write_rows(arguments.kind, arguments.path, arguments.megabytes, arguments.seed)
    print(f"{rows:,} rows, {arguments.path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
