"""Golden vectors: conversations with the ids that a server of the data set must make of them.

They stand in a data set's `tokenizer/golden.json`. A server, an export or a test in any language replays them: no row
of anybody's data is in them.
"""

from typing import Any, Literal

from pydantic import Field, ValidationError

from schemas.errors import DatasetError
from schemas.manifest import Record, Sha256, TokenId, first_problem

GOLDEN = "golden.json"
COUNT = 16


class GoldenVector(Record):
    """`ids` = apply_chat_template(messages, tools); `prompt_ids` those of all messages but the last, with the
    generation prompt, None where the template refuses that. A control token typed in content is the token here, as
    servers parse it."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    ids: list[TokenId]
    prompt_ids: list[TokenId] | None


class Golden(Record):
    """`chat_template_sha256`, `clock` and `template_kwargs` are the build's: the vectors hold for these."""

    format: Literal["1"] = "1"
    chat_template_sha256: Sha256
    clock: str
    template_kwargs: dict[str, Any]
    vectors: list[GoldenVector] = Field(min_length=COUNT, max_length=COUNT)

    def encode(self) -> bytes:
        return (self.model_dump_json() + "\n").encode()


def decode_golden(data: bytes, where: str) -> Golden:
    """Raises DatasetError for what is no file of golden vectors."""
    try:
        return Golden.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise DatasetError(
            f"{where}: no golden vectors of format 1: {first_problem(error)}; copy the file from the data set's "
            "tokenizer/ folder once more"
        ) from error
