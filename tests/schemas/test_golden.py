"""The file of golden vectors is checked by the house of schemas alone, for whoever copies it."""

import json
from typing import Any

import pytest

from schemas.errors import DatasetError
from schemas.golden import COUNT, Golden, decode_golden

VECTOR = {"messages": [{"role": "user", "content": "\u00fc"}], "tools": None, "ids": [1, 2], "prompt_ids": [1]}
FILE: dict[str, Any] = {
    "format": "1",
    "chat_template_sha256": "a" * 64,
    "clock": "2024-07-26",
    "template_kwargs": {"enable_thinking": False},
    "vectors": [VECTOR] * COUNT,
}


def test_a_file_comes_back_as_it_was() -> None:
    golden = decode_golden(json.dumps(FILE).encode(), "golden.json")
    assert json.loads(golden.encode()) == FILE
    assert decode_golden(golden.encode(), "golden.json") == golden == Golden.model_validate(FILE)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"format": "2"}, "format"),
        ({"vectors": [VECTOR] * 15}, "vectors"),
        ({"vectors": [{**VECTOR, "ids": [-1]}] * COUNT}, "vectors.0.ids.0"),
        ({"more": 1}, "more"),
        ({"chat_template_sha256": "b"}, "chat_template_sha256"),
    ],
)
def test_another_file_is_refused(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(DatasetError, match=rf"golden\.json: no golden vectors of format 1: {place}:"):
        decode_golden(json.dumps({**FILE, **changes}).encode(), "golden.json")
    with pytest.raises(DatasetError, match=r"golden\.json"):
        decode_golden(b"{", "golden.json")
