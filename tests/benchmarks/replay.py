"""How many renderings are replayed, and how much faster that is, family by family.

Rows: a JSON array of tool calls in ShareGPT's form where `--rows` names one, and made-up agents, each structure with
other contents eight times over. Run from the checkout: `python tests/benchmarks/replay.py [--rows FILE]`.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from agents import make_agent
from families import FAMILIES, make_family

from pipeline.chat.replay import template as replay
from pipeline.chat.replay.template import ReplayingTemplate
from pipeline.config import ShareGPT
from pipeline.convert.sharegpt import make_sharegpt
from schemas.conversation import Conversation
from schemas.rejects import RejectRow

TIMES = 8


def agents(count: int) -> Iterator[Conversation]:
    """Every structure with other questions and results."""
    for time_of_day in range(TIMES):
        for seed in range(count):
            conversation = make_agent(seed, most_turns=4)
            said = [
                replace(m, content=f"{m.content} {time_of_day}") if m.content and m.role != "assistant" else m
                for m in conversation.messages
            ]
            yield replace(conversation, messages=tuple(said))


def tool_calls(path: Path) -> list[Conversation]:
    convert = make_sharegpt(ShareGPT(type="sharegpt"), loss_weights=False)
    rows = map(convert, json.loads(path.read_text("utf-8")))
    return [row for row in rows if isinstance(row, Conversation)]


def requests(rows: Sequence[Conversation]) -> Iterator[tuple[Conversation, dict[str, bool]]]:
    """What a formatter asks for: each conversation, and the prompt of each of its answers."""
    for row in rows:
        yield row, {}
        for index, message in enumerate(row.messages):
            if message.role == "assistant":
                yield replace(row, messages=row.messages[:index]), {"add_generation_prompt": True}


def seconds(render: Callable[..., Any], asked: Sequence[Any]) -> float:
    began = time.perf_counter()
    for conversation, settings in asked:
        try:
            render(conversation, **settings)
        except RejectRow:
            continue
    return time.perf_counter() - began


def measure(name: str, rows: Sequence[Conversation]) -> str:
    """The share of the renderings replayed in one pass from nothing, and the times of the template's own renderings to
    those of that pass, and to those of a second pass over what was replayed in it."""
    template = make_family(name).template
    replaying = ReplayingTemplate(template)
    asked = list(requests(rows))
    slow = seconds(template.render, asked)
    first = seconds(replaying.render, asked)
    done = replaying.replayed + replaying.rendered
    share = replaying.replayed / max(done, 1)
    known = [request for request in asked if is_replayed(replaying, request)]
    ratio = seconds(template.render, known) / seconds(replaying.render, known) if known else 0.0
    return f"{share:6.1%} {slow / first:5.1f} {ratio:5.1f}"


def is_replayed(template: ReplayingTemplate, request: Any) -> bool:
    before = template.replayed
    seconds(template.render, [request])
    return template.replayed > before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    arguments = parser.parse_args()
    replay.FIRST_CHECKED = 0  # one pass here is a few hundred renderings
    sets = {"agents": list(agents(40))}
    if arguments.rows:
        sets["tool calls"] = tool_calls(arguments.rows)
    print(" " * 24, *(f"{name:>20}" for name in sets))
    for name in arguments.families:
        print(f"{name:<24}", *(f"{measure(name, rows):>20}" for rows in sets.values()), flush=True)


if __name__ == "__main__":
    main()
