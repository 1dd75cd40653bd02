"""`tokenizer.special_tokens`: tokens that the config adds to a tokenizer, or gives another name."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from pipeline.config import SpecialToken
from pipeline.encoders.base import AddedToken
from schemas.errors import ConfigError
from schemas.urls import without_secrets

_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


@dataclass(frozen=True)
class GivenTokens:
    """`vocab_size` is that of the model, None where nobody says it; `source` says where, for messages."""

    tokens: tuple[AddedToken, ...] = ()
    vocab_size: int | None = None
    source: str = ""

    def merge(self, own: Sequence[AddedToken], ordinary: Collection[int]) -> tuple[AddedToken, ...]:
        """A tokenizer's own added tokens with these, by id. A token whose id has one already takes its place.
        `ordinary` are the ids of its vocabulary, its own added tokens' among them or not. Raises ConfigError."""
        by_id = {token.id: token for token in own}
        ids = {token.content: token.id for token in own}
        for token in self.tokens:
            self._check(token, token.id in ordinary and token.id not in by_id, ids.get(token.content, token.id))
        merged = by_id | {token.id: token for token in self.tokens}
        return tuple(merged[index] for index in sorted(merged))

    def _check(self, token: AddedToken, is_ordinary: bool, own_id: int) -> None:
        where = f"tokenizer.special_tokens: {token.content!r} has the id {token.id}"
        if is_ordinary:
            raise ConfigError(f"{where}, which is an ordinary entry of the vocabulary; give a reserved or a free id")
        if own_id != token.id:
            raise ConfigError(f"{where}, but the tokenizer has it as {own_id}; use that id, or another text")
        if self.vocab_size is not None and token.id >= self.vocab_size:
            raise ConfigError(
                f"{where}, but the model's vocabulary has {self.vocab_size} entries ({self.source}): use an id below "
                "that, such as a reserved token's, or resize the model's embeddings and set tokenizer.vocab_size"
            )

    def renamed(self, own: Sequence[AddedToken]) -> dict[str, str]:
        """The new name of each of a tokenizer's own tokens that loses its own."""
        names = {token.id: token.content for token in self.tokens}
        return {t.content: names[t.id] for t in own if names.get(t.id, t.content) != t.content}

    def warnings(self, own_size: int) -> tuple[str, ...]:
        """`own_size`: that of the tokenizer's vocabulary as it comes."""
        beyond = [token for token in self.tokens if token.id >= own_size]
        if self.vocab_size is not None or not beyond:
            return ()
        return (
            f"tokenizer.special_tokens: {beyond[0].content!r} has the id {beyond[0].id}, above the tokenizer's own "
            f"{own_size}, and the size of the model's vocabulary is not known here; set tokenizer.vocab_size to have "
            "it checked",
        )


class _Entry(BaseModel):
    content: Annotated[str, Field(min_length=1)]
    id: Annotated[int, Field(ge=0)]
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


class _AddedTokens(BaseModel):
    added_tokens: list[_Entry]


_Mapping = TypeAdapter(dict[str, SpecialToken])


def read_special_tokens(data: bytes, path: str) -> tuple[AddedToken, ...]:
    """A JSON file: `{"added_tokens": [{"content": ..., "id": ...}, ...]}`, as in a tokenizer.json and as torchtune
    reads it, or `{content: {"id": ..., "special": ...}}`. Raises ConfigError."""
    where = f"tokenizer.special_tokens: {without_secrets(path)}"
    try:
        document = json.loads(data)
        if isinstance(document, dict) and isinstance(document.get("added_tokens"), list):
            entries = _AddedTokens.model_validate(document).added_tokens
            return _each_once([AddedToken(**entry.model_dump()) for entry in entries])
        return as_added_tokens(_Mapping.validate_python(document))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} is no JSON: {error}") from error


def as_added_tokens(tokens: Mapping[str, SpecialToken]) -> tuple[AddedToken, ...]:
    """Raises ConfigError for two tokens with one id."""
    return _each_once([AddedToken(content, token.id, token.special) for content, token in tokens.items()])


def _each_once(tokens: Sequence[AddedToken]) -> tuple[AddedToken, ...]:
    seen: dict[int | str, AddedToken] = {}
    for token in tokens:
        for key in (token.id, token.content):
            first = seen.setdefault(key, token)
            if first is not token:
                raise ConfigError(
                    f"tokenizer.special_tokens: {first.content!r} has the id {first.id} and {token.content!r} has "
                    f"{token.id}: every token needs an id and a text of its own"
                )
    return tuple(tokens)


def replace_strings(value: Any, names: Mapping[str, str]) -> Any:
    """JSON with other strings and keys in the place of some."""
    if isinstance(value, dict):
        return {names.get(key, key): replace_strings(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [replace_strings(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def hugging_face_entry(token: AddedToken) -> dict[str, Any]:
    """An entry of added_tokens in a tokenizer.json, without its id."""
    return {"content": token.content, **{name: getattr(token, name) for name in _FLAGS}, "special": token.special}
