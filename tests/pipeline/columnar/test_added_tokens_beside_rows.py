"""Rows beside added tokens that take in white space, are none within a word, overlap, or compose with what follows."""

import json
import random
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from columnar_blocks import QWEN, assert_same, convert, make_tokenizers, plain_rows, with_sheets
from model_folders import load_once
from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from pipeline.chat.formatter import ChatFormatter
from pipeline.chat.template import ChatTemplate
from pipeline.config import ControlTokens, Tokenizer
from pipeline.encoders.load import load_tokenizer
from pipeline.tokenize import tokenize_documents

TOKENS: dict[str, dict[str, dict[str, bool]]] = {
    "plain": {},
    "rstrip": {"<|end|>": {"rstrip": True}, "<|s|>": {"rstrip": True}},
    "lstrip": {"<|end|>": {"lstrip": True}, "<|s|>": {"lstrip": True}},
    "single_word": {"<|end|>": {"single_word": True}, "<|s|>": {"single_word": True}},
    "normalized": {"<|end|>": {"normalized": True}, "<|s|>": {"normalized": True}},
    "overlaps": {"a<|": {}, "|>a": {}, "\n\n": {}, "\n\n\n": {}, ":<x>a": {}, "a</x>": {}, "<x>": {}},
}
TEMPLATES = (
    "{% for m in messages %}<|s|>{{ m.role }}:<x>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|s|>assistant:<x>{% endif %}",
    "{% for m in messages %}{{ m.role }}<|s|>{{ m.content }}\n\n<|end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant<|s|>{% endif %}",
)
WORDS = ("a", "b", " ", "\n", "x>", "\u0338", "e\u0301", "<|end|>", "\n\n")


def write_tokenizer(folder: Path, flags: dict[str, dict[str, bool]], *, nfc: bool) -> Path:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    library = Library(models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if nfc:
        library.normalizer = normalizers.NFC()
    special: dict[str, dict[str, bool]] = {"<|end|>": {}, "<|s|>": {}}
    for content, given in {**special, **flags}.items():
        library.add_tokens([AddedToken(content, special=content in special, **{"normalized": False, **given})])
    (folder / "tokenizer.json").write_text(library.to_str(), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}), "utf-8")
    return folder


def make_rows() -> list[dict[str, Any]]:
    """The first ones, from which sheets are made, have texts with nothing at their ends."""
    rng = random.Random(3)
    texts = ["q" * (n < 60) + "".join(rng.choices(WORDS, k=rng.randint(1, 3))) + "q" * (n < 60) for n in range(300)]
    pairs = zip(texts[::2], texts[1::2], strict=True)
    return [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for asked, said in pairs
    ]


@pytest.mark.parametrize("mode", ["literal", "reject", "parse"])
@pytest.mark.parametrize("nfc", [False, True])
@pytest.mark.parametrize("kind", TOKENS)
def test_tokens_beside_rows(kind: str, nfc: bool, mode: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tokenize.check_sample", lambda *_: None)
    loaded = load_tokenizer(Tokenizer(path=str(write_tokenizer(tmp_path, TOKENS[kind], nfc=nfc))))
    block = convert(make_rows())
    for text in TEMPLATES:
        formatter = ChatFormatter(
            ChatTemplate(text, {}, date(2024, 7, 26)),
            loaded.encoder,
            loaded.stop_ids,
            "<|end|>",
            control_tokens=ControlTokens(mode=mode),
        )
        fast, reference = make_tokenizers(formatter, control_tokens=mode)
        assert_same(tokenize_documents(block, fast), tokenize_documents(block, reference))
        assert kind != "plain" or with_sheets(formatter, block) > 100


@pytest.mark.parametrize("listed", ["messages | reverse", "[messages[-1]] + messages[:-1]"])
def test_turns_in_another_order_than_their_messages(listed: str) -> None:
    text = (
        f"{{% for m in {listed} %}}<|im_start|>{{{{ m.role }}}}\n{{{{ m.content }}}}<|im_end|>\n{{% endfor %}}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    loaded = load_once(*QWEN)
    formatter = ChatFormatter(
        ChatTemplate(text, {}, date(2024, 7, 26)), loaded.encoder, loaded.stop_ids, loaded.special_tokens["eos_token"]
    )
    block = convert(plain_rows(40, turns=2, words=2))
    fast, reference = make_tokenizers(formatter)
    assert_same(tokenize_documents(block, fast), tokenize_documents(block, reference))
