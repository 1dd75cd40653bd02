"""Identity: what makes two builds the same."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import BuildConfig, Source
from schemas.recipe import RECIPE_FIELDS, RECIPE_SOURCE_FIELDS, canonical_sha256, dataset_id

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def reordered(value: Any) -> Any:
    """The same value, the keys of every object the other way round."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(JSON)
def test_the_order_of_keys_does_not_matter(value: Any) -> None:
    assert canonical_sha256(value) == canonical_sha256(reordered(value))


@given(JSON)
def test_a_value_keeps_its_identity_through_json(value: Any) -> None:
    assert canonical_sha256(value) == canonical_sha256(json.loads(json.dumps(value)))


@given(JSON, JSON)
def test_other_values_have_another_identity(one: Any, other: Any) -> None:
    assert (canonical_sha256(one) == canonical_sha256(other)) == (
        json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    )


def test_the_canonical_form_is_pinned() -> None:
    text = rb'{"a":[1,2.5,null,true],"b":"\u00fc\n"}'
    assert canonical_sha256({"b": "\u00fc\n", "a": [1, 2.5, None, True]}) == hashlib.sha256(text).hexdigest()


def test_the_order_of_lists_and_of_sources_matters() -> None:
    assert canonical_sha256([1, 2]) != canonical_sha256([2, 1])
    one, other = {"path": "a", "size": 1}, {"path": "b", "size": 1}
    assert dataset_id("r", [one, other]) != dataset_id("r", [other, one])


@pytest.mark.parametrize("key", ["path", "size", "etag", "mtime"])
def test_a_data_set_is_a_recipe_and_the_identity_of_its_sources(key: str) -> None:
    source = {"path": "a", "size": 1, "etag": "x", "mtime": "1"}
    assert dataset_id("r", [source]) == dataset_id("r", [dict(source)])
    assert dataset_id("r", [source]) == dataset_id("r", iter([source]))
    assert dataset_id("r", [source]) != dataset_id("r", [{**source, key: "changed"}])
    assert dataset_id("r", [source]) != dataset_id("other", [source])


def test_every_key_of_the_config_is_either_in_the_recipe_or_named_as_left_out() -> None:
    left_out = {"output", "output_profile", "max_reject_fraction", "min_terminated", "certify", "allow_differences"}
    left_out |= {"engine", "sources", "tokenizer", "chat_template", "watch"}
    assert set(BuildConfig.model_fields) == set(RECIPE_FIELDS) | left_out
    assert set(Source.model_fields) == set(RECIPE_SOURCE_FIELDS) | {"path", "profile"}
