"""The config of a build: every key, its type, its default."""

import json
import re
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from schemas.policy import DEFAULT_POLICY, PolicyField
from schemas.settings import load_settings
from schemas.store import Folder

SourceFormat = Literal["auto", "jsonl", "json", "parquet", "arrow", "csv", "text"]
EngineSetting = Literal["auto", "fast", "reference"]
ToolArguments = Literal["auto", "object", "string"]
RoleTarget = Literal["system", "developer", "user", "assistant", "tool", "function_call"]

RESERVED_VARIABLES = ("messages", "tools", "documents", "add_generation_prompt")
"""Variables of a template that come from the row or from the build, and never from template_kwargs."""
DEFAULT_DAY = "2024-07-26"
"""What Llama 3's own templates show where nobody gives them a date."""

_SECONDS = {"": 1, "s": 1, "min": 60, "h": 3600}
_UNITS = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def _parse_bytes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
    if not match or match[2].upper() not in _UNITS:
        raise ValueError("expected a size like 32MiB, 500KB or 1048576")
    return int(min(float(match[1]), 2**63) * _UNITS[match[2].upper()])


def _check_variables(value: dict[str, Any]) -> dict[str, Any]:
    for name in value:
        if name in RESERVED_VARIABLES:
            raise ValueError(f"{name} is set by the rows and the build; give it in a column of the rows")
    return _check_json(value)


def _check_json(value: dict[str, Any]) -> dict[str, Any]:
    for name, given in value.items():
        try:
            json.dumps(given, allow_nan=False)
        except (TypeError, ValueError) as error:  # such as a date, which YAML makes of a bare 2024-07-26
            raise ValueError(f"{name}: {error}, and JSON has no such value; put it in quotes") from error
    return value


def _parse_day(value: Any) -> Any:
    """YAML reads a bare 2024-07-26 as a date."""
    if type(value) is date:
        return value.isoformat()
    if value is not None and not (isinstance(value, str) and _is_day(value)):
        raise ValueError("expected a day as YYYY-MM-DD, such as 2024-07-26")
    return value


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _parse_seconds(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([a-z]*)\s*", value)
    if not match or match[2] not in _SECONDS:
        raise ValueError("expected a time like 30s, 10min, 2h or 45")
    return float(match[1]) * _SECONDS[match[2]]


Seconds = Annotated[
    float, BeforeValidator(_parse_seconds, json_schema_input_type=float | str), Field(gt=0, allow_inf_nan=False)
]
ByteSize = Annotated[int, BeforeValidator(_parse_bytes, json_schema_input_type=int | str), Field(gt=0, lt=2**63)]


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OpenAI(Settings):
    """Message lists as OpenAI's API has them; or a prompt and a completion list, the prompt kept out of the loss."""

    type: Literal["openai"]
    column: str = "messages"
    tools_column: str | None = "tools"
    documents_column: str | None = "documents"
    template_kwargs_column: str | None = "chat_template_kwargs"
    prompt_column: str | None = None
    completion_column: str | None = None
    span_key: str | None = None
    roles: dict[str, RoleTarget] = {}
    system: str | None = None

    @model_validator(mode="after")
    def _both_or_neither(self) -> "OpenAI":
        if (self.prompt_column is None) != (self.completion_column is None):
            raise ValueError("prompt_column and completion_column go together: give both or neither")
        return self


class ShareGPT(Settings):
    """`from`/`value` lists. `roles` adds to the known names or changes them."""

    type: Literal["sharegpt"]
    column: str = "conversations"
    tools_column: str | None = "tools"
    documents_column: str | None = "documents"
    template_kwargs_column: str | None = "chat_template_kwargs"
    system_column: str | None = "system"
    span_key: str | None = None
    roles: dict[str, RoleTarget] = {}
    system: str | None = None


class Columns(Settings):
    """One turn from columns; each is a column's name, or a format string over columns such as "{title}: {text}"."""

    type: Literal["columns"]
    input: str
    output: str
    system: str | None = None


class Alpaca(Settings):
    """Stanford Alpaca's columns. The prompt is the instruction, then a blank line and the input where there is one."""

    type: Literal["alpaca"]
    instruction: str = "instruction"
    input: str = "input"
    output: str = "output"
    system: str | None = None


class Text(Settings):
    """A column as a plain document, ended by EOS. Sources of format `text` have the one column `text`."""

    type: Literal["text"]
    column: str = "text"


class Custom(Settings):
    """`module:function`, from a row (a dict) to a conversation, a text, or None to reject the row."""

    type: Literal["custom"]
    function: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    args: Annotated[dict[str, Any], AfterValidator(_check_json)] = {}


Transform = Annotated[OpenAI | ShareGPT | Columns | Alpaca | Text | Custom, Field(discriminator="type")]


class Source(Settings):
    path: str | list[str]
    format: SourceFormat = "auto"
    transform: Transform
    limit: Annotated[int, Field(gt=0)] | None = None
    text_unit: Literal["line", "file"] = "line"  # of format `text`: a document a line, or a document a file
    profile: str | None = None

    @property
    def paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else self.path


class SpecialToken(Settings):
    id: Annotated[int, Field(ge=0)]
    special: bool = True


class Tokenizer(Settings):
    """A Hugging Face folder, a tiktoken rank file, or a sentencepiece model.

    `package://name/path` reads a file out of an installed Python package.
    `preset`, or `pattern` with `special_tokens`, says what a bare rank file leaves open. `special_tokens` adds tokens
    to any tokenizer, or gives others another text; a string is the path of a JSON file. `vocab_size` is the model's.
    """

    path: str
    preset: str | None = None
    pattern: str | None = None
    special_tokens: str | dict[Annotated[str, Field(min_length=1)], SpecialToken] | None = None
    vocab_size: Annotated[int, Field(gt=0)] | None = None
    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None


Affixes = tuple[str, str]


class PromptTemplate(Settings):
    """The text before and after the content of each role, as torchtune's prompt templates have it."""

    system: Affixes = ("", "")
    developer: Affixes = ("", "")
    user: Affixes = ("", "")
    assistant: Affixes = ("", "")
    tool: Affixes = ("", "")


def _kind_of_template(value: Any) -> str:
    return "name" if isinstance(value, str) else "roles"


TemplateField = Annotated[
    Annotated[str, Tag("name")] | Annotated[PromptTemplate, Tag("roles")], Discriminator(_kind_of_template)
]
"""The name or the path of a chat template, or a prompt template."""


ControlMode = Literal["literal", "reject", "parse"]


class ControlTokens(Settings):
    """What becomes of a control token's text in a row: it stays text, the row is rejected, or it becomes the token, as
    transformers does it. `add` and `remove` change which added tokens are control tokens."""

    mode: ControlMode = "literal"
    add: list[str] = []
    remove: list[str] = []


def _expand_mode(value: Any) -> Any:
    return {"mode": value} if isinstance(value, str) else value


ControlTokensField = Annotated[
    ControlTokens,
    BeforeValidator(_expand_mode, json_schema_input_type=Literal["literal", "reject", "parse"] | ControlTokens),
]


TooLong = Literal["reject", "truncate_turns", "truncate", "split"]


class Watch(Settings):
    """When `packline watch` takes a new file, and when it makes a generation of those that it has."""

    interval: Seconds = 30.0
    marker: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] | None = None
    min_bytes: ByteSize | None = None
    max_wait: Seconds = 600.0


class BuildConfig(Settings):
    """What `packline build` makes, and how."""

    output: Annotated[str, Field(min_length=1)]
    output_profile: str | None = None
    seq_len: Annotated[int, Field(ge=8, le=2**24)]
    seed: int = 0
    sources: Annotated[list[Source], Field(min_length=1)]
    tokenizer: Tokenizer
    chat_template: TemplateField | None = None
    template_kwargs: Annotated[dict[str, Any], AfterValidator(_check_variables)] = {}
    tool_arguments: ToolArguments = "auto"
    clock: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$"), BeforeValidator(_parse_day)] | None = None
    reasoning_history: Literal["as_template", "split"] = "as_template"
    too_long: TooLong = "reject"
    control_tokens: ControlTokensField = ControlTokens()
    loss_policy: PolicyField = DEFAULT_POLICY
    loss_weights: bool = False
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    block_bytes: ByteSize = 16 * 2**20
    max_line_bytes: ByteSize = 64 * 2**20
    engine: EngineSetting = "auto"
    max_reject_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    min_terminated: Annotated[float, Field(ge=0, le=1)] = 0.99
    certify: Literal["transformers", "none"] | None = None  # null: transformers where it is installed
    allow_differences: bool = False
    watch: Watch = Watch()

    @property
    def output_folder(self) -> Folder:
        return Folder(self.output, self.output_profile)

    @property
    def day(self) -> str:
        """The date that templates see."""
        return self.clock or DEFAULT_DAY


def load_config(path: Path, overrides: list[str] | None = None) -> BuildConfig:
    return load_settings(BuildConfig, path, overrides or [])
