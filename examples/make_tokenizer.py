"""Train the demo's tokenizer on the demo's rows: a byte-level BPE with the special tokens of ChatML.

python examples/make_tokenizer.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import zstandard
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = Path(__file__).parent
FOLDER = HERE / "tokenizer"
VOCABULARY = 4096
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ADDED = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
WORDS = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def texts() -> Iterator[str]:
    """Everything that the model will read: the rows, and the template's own words."""
    for name in ("chat.jsonl", "sharegpt.json", "arithmetic.csv", "notes.txt", "tokenizer/chat_template.jinja"):
        yield (HERE / name).read_text()
    yield zstandard.ZstdDecompressor().decompress((HERE / "tools.jsonl.zst").read_bytes()).decode()
    yield from (" ".join(filter(None, row.values())) for row in pq.read_table(HERE / "alpaca.parquet").to_pylist())


def train() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(WORDS, behavior="isolated")
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, in_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    size = VOCABULARY - len(SPECIAL) - len(ADDED)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in ADDED])
    return tokenizer


def write_json(name: str, value: dict[str, Any]) -> None:
    (FOLDER / name).write_text(json.dumps(value, indent=2) + "\n")


def main() -> None:
    tokenizer = train()
    end_of_text, _, end_of_turn = SPECIAL
    tokenizer.save(str(FOLDER / "tokenizer.json"))
    special = {"bos_token": None, "eos_token": end_of_turn, "pad_token": end_of_text}
    write_json("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special})
    ends = [tokenizer.token_to_id(token) for token in (end_of_turn, end_of_text)]
    write_json("generation_config.json", {"eos_token_id": ends})


if __name__ == "__main__":
    main()
