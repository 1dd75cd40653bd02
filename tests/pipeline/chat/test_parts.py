"""What each part of a generated region is, on templates that write turns in very different ways."""

from itertools import groupby

import pytest
from families import make_family
from template_cells import Cell, as_conversation, chat_of

from pipeline.chat.channels import character_channels
from schemas.channels import Part, Role, unpack_channel

Pieces = list[tuple[str, str]]


def parts_of_regions(family: str, kind: str, content: str = "plain") -> list[Pieces]:
    """Of each region, the stretches of one part."""
    formatter = make_family(family)
    conversation = as_conversation(chat_of(Cell(family, kind, content)))
    layout = formatter.lay_out(conversation)
    last = len(conversation.messages) - 1
    channels = character_channels(layout, conversation.messages, formatter.lexemes, last).tolist()
    regions = []
    for region in layout.regions:
        pieces = []
        for byte, places in groupby(range(region.start, region.end), key=channels.__getitem__):
            assert unpack_channel(byte).role == Role.ASSISTANT
            assert unpack_channel(byte).last_turn == (region.message == last)
            text = "".join(layout.text[place] for place in places)
            pieces.append((Part(unpack_channel(byte).part).name.lower(), text))
        regions.append(pieces)
    return regions


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Z\u00fc", "n": 3}}\n</tool_call>'
XML_CALL = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nZ\u00fc\n</parameter>\n<parameter=n>\n3\n</parameter>\n"
    "</function>\n</tool_call>"
)
EXPECTED: list[tuple[str, str, str, list[Pieces]]] = [
    ("qwen2_5", "single", "plain", [[("body", "Hello you"), ("end", "<|im_end|>")]]),
    ("qwen2_5", "ends in a call", "plain", [[("tool_call", CALL), ("end", "<|im_end|>")]]),
    ("qwen2_5", "single", "think", [[("body", "<think>\nx\n</think>\n\nyes"), ("end", "<|im_end|>")]]),
    (
        "qwen3",
        "reasoning and tools",
        "plain",
        [
            [
                ("reasoning", "<think>\nR1 Hello you\n</think>"),
                ("markup", "\n\n"),
                ("tool_call", CALL),
                ("end", "<|im_end|>"),
            ],
            [
                ("reasoning", "<think>\nR2\n</think>"),
                ("markup", "\n\n"),
                ("body", "Hello you"),
                ("end", "<|im_end|>"),
            ],
        ],
    ),
    (  # the template cuts the typed thought out of the content and puts it into tags of its own
        "qwen3",
        "single",
        "think",
        [[("reasoning", "<think>\nx\n</think>"), ("markup", "\n\n"), ("body", "yes"), ("end", "<|im_end|>")]],
    ),
    (  # an empty pair of tags is reasoning
        "qwen3",
        "single",
        "plain",
        [[("reasoning", "<think>\n\n</think>"), ("markup", "\n\n"), ("body", "Hello you"), ("end", "<|im_end|>")]],
    ),
    (  # the opening tag stands in the prompt
        "qwen3_8",
        "ends in a call",
        "plain",
        [[("reasoning", "\n</think>"), ("markup", "\n\n"), ("tool_call", XML_CALL), ("end", "<|im_end|>")]],
    ),
    (
        "gptoss",
        "reasoning",
        "plain",
        [
            [
                ("reasoning", "<|channel|>analysis<|message|>so Hello you<|end|>"),
                ("markup", "<|start|>assistant<|channel|>final<|message|>"),
                ("body", "Hello you"),
                ("end", "<|return|>"),
            ]
        ],
    ),
    (  # the called function's name in the header of its result is no part of the call
        "gptoss",
        "tools",
        "plain",
        [
            [
                (
                    "tool_call",
                    ' to=functions.weather<|channel|>commentary json<|message|>{"city": "Z\u00fc", "n": 3}',
                ),
                ("end", "<|call|>"),
            ],
            [("markup", "<|channel|>final<|message|>"), ("body", "done Hello you"), ("end", "<|return|>")],
        ],
    ),
    (
        "gemma4",
        "tools",
        "plain",
        [
            [
                ("tool_call", '<|tool_call>call:weather{city:<|"|>Z\u00fc<|"|>,n:3}<tool_call|>'),
                ("end", "<|tool_response>"),
            ],
            [("body", "done Hello you"), ("end", "<turn|>")],
        ],
    ),
    (  # a turn ends in the next role's token, and the last one is closed
        "glm4moe",
        "reasoning twice",
        "plain",
        [
            [("reasoning", "\n<think></think>"), ("markup", "\n"), ("body", "b"), ("end", "<|user|>")],
            [("reasoning", "\n<think>so</think>"), ("markup", "\n"), ("body", "Hello you"), ("end", "<|user|>")],
        ],
    ),
]


@pytest.mark.parametrize(("family", "kind", "content", "expected"), EXPECTED)
def test_parts_of_a_turn(family: str, kind: str, content: str, expected: list[Pieces]) -> None:
    assert parts_of_regions(family, kind, content) == expected
