"""Loss policies: which channels are trained, chosen when training starts, over the same shards."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from schemas.channels import LEGAL, NO_LOSS, Part, Role, unpack_channel
from schemas.errors import ConfigError
from schemas.yaml_text import load_yaml

RoleName = Literal["none", "system", "user", "assistant", "tool", "text"]
PartName = Literal["template", "body", "reasoning", "tool_call", "end", "markup"]


class Term(BaseModel):
    """Channels that match every given field; an absent field matches all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    roles: tuple[RoleName, ...] | None = None
    parts: tuple[PartName, ...] | None = None
    turns: Literal["all", "last"] = "all"

    def matches(self, byte: int) -> bool:
        role, part, last_turn, _ = unpack_channel(byte)
        return (
            (self.roles is None or role.name.lower() in self.roles)
            and (self.parts is None or part.name.lower() in self.parts)
            and (self.turns == "all" or last_turn)
        )


class LossPolicy(BaseModel):
    """A union of terms, minus the tokens that are never trained (bit 7)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    terms: tuple[Term, ...]

    def table(self) -> npt.NDArray[np.bool_]:
        """bool[256]: whether a token of this channel byte is trained."""
        trained = np.zeros(256, dtype=np.bool_)
        for byte in np.flatnonzero(LEGAL).tolist():
            trained[byte] = not byte & NO_LOSS and any(term.matches(byte) for term in self.terms)
        return trained

    def trained_tokens(self, histogram: Mapping[int, int]) -> int:
        """The trained tokens in a histogram {channel byte: tokens}."""
        table = self.table()
        return sum(count for byte, count in histogram.items() if table[byte])


_GENERATED: tuple[PartName, ...] = ("body", "reasoning", "tool_call", "end", "markup")
_TEXT = Term(roles=("text",), parts=("body", "end"))

PRESETS: dict[str, LossPolicy] = {
    # Exactly what the model itself must write, and plain text: the default.
    "assistant": LossPolicy(terms=(Term(roles=("assistant",), parts=_GENERATED), _TEXT)),
    "all": LossPolicy(terms=(Term(),)),
    "last_turn": LossPolicy(terms=(Term(roles=("assistant",), parts=_GENERATED, turns="last"), _TEXT)),
    "no_reasoning": LossPolicy(terms=(Term(roles=("assistant",), parts=("body", "tool_call", "end", "markup")), _TEXT)),
    "text": LossPolicy(terms=(_TEXT,)),
}


def _expand(value: Any) -> Any:
    if isinstance(value, str):
        if value not in PRESETS:
            raise ValueError(f"unknown loss policy {value!r}; the presets are {', '.join(PRESETS)}")
        return PRESETS[value]
    return {"terms": value} if isinstance(value, list | tuple) else value


PolicyField = Annotated[LossPolicy, BeforeValidator(_expand, json_schema_input_type=str | list[Term] | LossPolicy)]
"""A policy in a config: the name of a preset, or a list of terms."""

DEFAULT_POLICY = PRESETS["assistant"]


def parse_policy(text: str, key: str = "--policy") -> LossPolicy:
    """A policy as it is typed: the name of a preset, or YAML. Raises ConfigError, which names the key."""
    try:
        return _ADAPTER.validate_python(load_yaml(text))
    except ValueError as error:
        why = _describe(error) if isinstance(error, ValidationError) else "not valid YAML"
        example = "'[{roles: [assistant], parts: [body, end]}]'"
        raise ConfigError(f"{key} {text!r}: {why}; give a preset, or a list of terms such as {example}") from error


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return (f"{place}: " if place else "") + first["msg"].removeprefix("Value error, ")


def name_of(policy: LossPolicy) -> str:
    """The name of the preset that it is, else its terms as JSON."""
    found = (name for name, preset in PRESETS.items() if preset == policy)
    return next(found, json.dumps(policy.model_dump(exclude_defaults=True)["terms"]))


_ADAPTER: TypeAdapter[LossPolicy] = TypeAdapter(PolicyField)

assert set(RoleName.__args__) == {role.name.lower() for role in Role}  # type: ignore[attr-defined]
assert set(PartName.__args__) == {part.name.lower() for part in Part}  # type: ignore[attr-defined]
