"""Loss policies: the table of 256 booleans against a predicate that is written out."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from schemas.channels import LEGAL, NO_LOSS, Part, Role, pack_channel
from schemas.errors import ConfigError
from schemas.policy import DEFAULT_POLICY, PRESETS, LossPolicy, PolicyField, Term, name_of, parse_policy

ROLES = ("none", "system", "user", "assistant", "tool", "text")
PARTS = ("template", "body", "reasoning", "tool_call", "end", "markup")
GENERATED = {"body", "reasoning", "tool_call", "end", "markup"}

TERMS = st.fixed_dictionaries(
    {},
    optional={
        "roles": st.none() | st.lists(st.sampled_from(ROLES), max_size=4),
        "parts": st.none() | st.lists(st.sampled_from(PARTS), max_size=4),
        "turns": st.sampled_from(["all", "last"]),
    },
)
HISTOGRAMS = st.dictionaries(st.sampled_from(np.flatnonzero(LEGAL).tolist()), st.integers(0, 2**40))


class Config(BaseModel):
    policy: PolicyField


def is_trained(byte: int, terms: list[dict[str, Any]]) -> bool:
    if byte >= 128 or not LEGAL[byte]:
        return False
    role, part, last = ROLES[byte % 8], PARTS[byte // 8 % 8], byte % 128 >= 64
    for term in terms:
        roles, parts = term.get("roles"), term.get("parts")
        if roles is not None and role not in roles:
            continue
        if parts is not None and part not in parts:
            continue
        if last or term.get("turns", "all") == "all":
            return True
    return False


@given(st.lists(TERMS, max_size=4))
def test_the_table_is_the_union_of_the_terms(terms: list[dict[str, Any]]) -> None:
    table = Config(policy=terms).policy.table()
    assert table.tolist() == [is_trained(byte, terms) for byte in range(256)]


@given(st.lists(TERMS, max_size=4))
def test_bit_7_always_wins(terms: list[dict[str, Any]]) -> None:
    assert not Config(policy=[*terms, {}]).policy.table()[NO_LOSS:].any()


@given(st.lists(TERMS, max_size=3), HISTOGRAMS)
def test_the_trained_tokens_are_those_of_the_trained_bytes(
    terms: list[dict[str, Any]], histogram: dict[int, int]
) -> None:
    expected = sum(count for byte, count in histogram.items() if is_trained(byte, terms))
    assert Config(policy=terms).policy.trained_tokens(histogram) == expected


def test_trained_tokens_of_one_histogram() -> None:
    answer = pack_channel(Role.ASSISTANT, Part.BODY)
    header = pack_channel(Role.ASSISTANT, Part.TEMPLATE)
    assert DEFAULT_POLICY.trained_tokens({answer: 5, header: 7, answer | NO_LOSS: 11, 0: 13}) == 5


def trained_channels(name: str) -> set[tuple[str, str, bool]]:
    table = PRESETS[name].table()
    return {
        (role.name.lower(), part.name.lower(), last)
        for role, part, last in itertools.product(Role, Part, (False, True))
        if table[pack_channel(role, part, last_turn=last)]
    }


TEXT = {("text", "body", False), ("text", "end", False)}


def test_presets() -> None:
    assistant = {("assistant", part, last) for part in GENERATED for last in (False, True)}
    everything = {
        (role, part, last)
        for role, part, last in itertools.product(ROLES, PARTS, (False, True))
        if not last or role == "assistant"
    }
    assert trained_channels("assistant") == assistant | TEXT
    assert trained_channels("all") == everything
    assert trained_channels("last_turn") == {channel for channel in assistant if channel[2]} | TEXT
    assert trained_channels("no_reasoning") == {channel for channel in assistant if channel[1] != "reasoning"} | TEXT
    assert trained_channels("text") == TEXT
    assert set(PRESETS) == {"assistant", "all", "last_turn", "no_reasoning", "text"}
    assert PRESETS["assistant"] == DEFAULT_POLICY


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_names_a_preset_or_spells_it_out(name: str) -> None:
    policy = PRESETS[name]
    spelled_out = policy.model_dump(mode="json")
    assert Config(policy=name).policy == policy
    assert Config(policy=spelled_out).policy == policy
    assert Config(policy=spelled_out["terms"]).policy == policy


def test_no_term_trains_nothing() -> None:
    assert not LossPolicy(terms=()).table().any()
    assert not LossPolicy(terms=(Term(roles=()),)).table().any()


@pytest.mark.parametrize("value", ["assistants", [{"role": ["user"]}], [{"roles": ["bot"]}], [{"turns": "first"}], 3])
def test_another_policy_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        Config(policy=value)


def test_a_policy_as_it_is_typed() -> None:
    assert parse_policy("last_turn") == PRESETS["last_turn"]
    typed = parse_policy("[{roles: [user], parts: [body]}, {turns: last}]")
    assert typed == LossPolicy(terms=(Term(roles=("user",), parts=("body",)), Term(turns="last")))
    assert parse_policy(name_of(typed)) == typed
    assert [name_of(policy) for policy in PRESETS.values()] == list(PRESETS)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("assistants", "the presets are assistant"),
        ("[{role: [user]}]", r"terms\.0\.role: Extra"),
        ("[{roles: [usr]}]", "'user'"),
        ("[{", "not valid YAML"),
        ("7", "LossPolicy"),
        ("", "LossPolicy"),
    ],
)
def test_what_is_no_policy(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        parse_policy(text)
    assert str(caught.value).startswith(f"--policy {text!r}: ")


@given(st.lists(TERMS, max_size=3))
def test_a_name_means_its_policy(terms: list[dict[str, Any]]) -> None:
    policy = Config(policy=terms).policy
    assert parse_policy(name_of(policy)).table().tolist() == policy.table().tolist()
