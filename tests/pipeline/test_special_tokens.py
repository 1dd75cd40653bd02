"""`tokenizer.special_tokens`: tokens added and renamed, in every kind of tokenizer, and in what a server is given."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from building import LLAMA, QWEN, write_config, write_jsonl
from families import write_family_folder

from pipeline.config import Tokenizer
from pipeline.encoders.load import load_tokenizer
from pipeline.encoders.loaded import LoadedTokenizer
from pipeline.encoders.sentence_model import PieceType, change_pieces, piece_types
from pipeline.encoders.special_tokens import read_special_tokens
from schemas.errors import ConfigError

MISTRAL = "package://mistral_common/data"
SENTENCES = {"path": f"{MISTRAL}/mistral_instruct_tokenizer_240323.model.v3"}
TEKKEN = {"path": f"{MISTRAL}/tekken_240911.json"}


def entry(content: str, index: int, **flags: bool) -> dict[str, Any]:
    return {"content": content, "id": index, **flags}


def write_tokens(folder: Path, *entries: dict[str, Any]) -> str:
    path = folder / "my_tokens.json"
    path.write_text(json.dumps({"added_tokens": entries}))
    return str(path)


def load(settings: dict[str, Any], special_tokens: Any, **more: Any) -> LoadedTokenizer:
    return load_tokenizer(Tokenizer(**settings, special_tokens=special_tokens, **more))


def ids(tokenizer: LoadedTokenizer) -> dict[str, int]:
    return {token.content: token.id for token in tokenizer.encoder.added_tokens}


@pytest.fixture
def family(tmp_path: Path) -> Path:
    return write_family_folder("qwen3", tmp_path / "model")


def test_both_forms_of_the_file_are_read() -> None:
    listed = {"added_tokens": [entry("<a>", 7), entry("<b>", 8, special=False, rstrip=True)], "version": "1.0"}
    named = {"<a>": {"id": 7}, "<b>": {"id": 8, "special": False}}
    made = read_special_tokens(json.dumps(listed).encode(), "f.json")
    assert [(token.content, token.id, token.special, token.rstrip) for token in made] == [
        ("<a>", 7, True, False),
        ("<b>", 8, False, True),
    ]
    assert [token.id for token in read_special_tokens(json.dumps(named).encode(), "f.json")] == [7, 8]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "f.json is no JSON"),
        ("[1]", "f.json"),
        ('{"added_tokens": [{"id": 3}]}', r"added_tokens\.0\.content"),
        ('{"<a>": {"id": -1}}', r"<a>\.id"),
        ('{"<a>": {"id": 1, "strip": true}}', r"<a>\.strip"),
        ('{"<a>": {"id": 3}, "<b>": {"id": 3}}', "'<a>' has the id 3 and '<b>' has 3"),
        (
            '{"added_tokens": [{"content": "<a>", "id": 3}, {"content": "<a>", "id": 4}]}',
            "has the id 3 and '<a>' has 4",
        ),
    ],
)
def test_a_file_that_says_something_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_special_tokens(text.encode(), "f.json")


def test_a_rank_file_gets_chatml_in_reserved_places(tmp_path: Path) -> None:
    """What torchtune's special_tokens_path is for."""
    path = write_tokens(tmp_path, entry("<|im_start|>", 128011), entry("<|im_end|>", 128012))
    tokenizer = load(LLAMA, path, eos_token="<|im_end|>")
    found = ids(tokenizer)
    assert (found["<|im_start|>"], found["<|im_end|>"], len(found)) == (128011, 128012, 256)
    assert "<|reserved_special_token_3|>" not in found
    assert tokenizer.encoder.vocab_size == 128256
    assert tokenizer.token_id("eos_token") == 128012
    assert tokenizer.encoder.encode("<|im_start|>", None).ids.tolist() == [128011]
    assert tokenizer.warnings == ()
    assert tokenizer.files["special_tokens.json"] == Path(path).read_bytes()


def test_a_mapping_in_the_config_does_the_same(tmp_path: Path) -> None:
    by_file = load(LLAMA, write_tokens(tmp_path, entry("<|im_start|>", 128011)))
    by_mapping = load(LLAMA, {"<|im_start|>": {"id": 128011}})
    assert by_file.encoder.added_tokens == by_mapping.encoder.added_tokens


def test_a_renamed_end_token_still_ends_turns() -> None:
    tokenizer = load(LLAMA, {"<|done|>": {"id": 128009}})
    assert tokenizer.special_tokens["eos_token"] == "<|done|>"
    assert 128009 in tokenizer.stop_ids


def test_a_folder_gets_tokens_and_a_server_sees_them(family: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    own = load({"path": str(family)}, None)
    reserved, size = ids(own)["<|image_pad|>"], own.encoder.vocab_size
    settings = json.loads((family / "tokenizer_config.json").read_text())
    settings["additional_special_tokens"] = ["<|image_pad|>"]
    (family / "tokenizer_config.json").write_text(json.dumps(settings))
    given = [entry("<|mine|>", reserved), entry("<note>", size, special=False, rstrip=True)]
    tokenizer = load({"path": str(family)}, write_tokens(tmp_path, *given))
    exported = tmp_path / "exported"
    exported.mkdir()
    for name, data in tokenizer.files.items():
        (exported / name).write_bytes(data)
    served = AutoTokenizer.from_pretrained(str(exported))
    for text in ("a<|mine|>b", "<note>  x", "<|image_pad|>", "<|im_start|><|mine|><note>"):
        expected = served(text, add_special_tokens=False).input_ids
        assert tokenizer.encoder.encode(text, None).ids.tolist() == expected
    assert tokenizer.encoder.encode("<|mine|><note> ", None).ids.tolist() == [reserved, size]
    assert tokenizer.encoder.vocab_size == len(served) == size + 1
    again = load({"path": str(exported)}, str(exported / "special_tokens.json"))
    assert again.encoder.added_tokens == tokenizer.encoder.added_tokens


def test_a_token_that_is_in_the_vocabulary_itself_is_renamed_there(tmp_path: Path) -> None:
    from synthetic_tokenizers import make_json

    (tmp_path / "tokenizer.json").write_text(make_json("Unigram with controls as pieces"))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    tokenizer = load({"path": str(tmp_path)}, {"<mine>": {"id": 1}})
    assert tokenizer.encoder.encode("<mine><s>", None).ids.tolist()[0] == 1
    assert 1 not in tokenizer.encoder.encode("x<s>", None).ids.tolist()


def test_a_tekken_file_gets_names(tmp_path: Path) -> None:
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    tokenizer = load(TEKKEN, {"[MINE]": {"id": 100}})
    assert tokenizer.encoder.encode("[MINE]", None).ids.tolist() == [100]
    path = tmp_path / "tekken.json"
    path.write_bytes(tokenizer.files["tekken_240911.json"])
    assert Tekkenizer.from_file(path).get_special_token("[MINE]") == 100
    again = load({"path": str(path)}, {"[MINE]": {"id": 100}})
    assert again.encoder.added_tokens == tokenizer.encoder.added_tokens
    for bad in ({"id": 140000}, {"id": 101, "special": False}):
        with pytest.raises(ConfigError, match="control tokens alone, with ids below 1000"):
            load(TEKKEN, {"[MINE]": bad})


def test_a_sentencepiece_model_gets_pieces() -> None:
    from sentencepiece import SentencePieceProcessor

    given = {"[MINE]": {"id": 20}, "<more>": {"id": 32768}, "<tool>": {"id": 32769, "special": False}}
    tokenizer = load(SENTENCES, given)
    assert tokenizer.encoder.vocab_size == 32770
    assert tokenizer.encoder.encode("[MINE]<more><tool>", None).ids.tolist() == [20, 32768, 32769]
    typed = tokenizer.encoder.encode("[MINE]<more><tool>", []).ids.tolist()
    assert {20, 32768}.isdisjoint(typed)
    assert typed[-1] == 32769
    processor = SentencePieceProcessor(model_proto=tokenizer.files["mistral_instruct_tokenizer_240323.model.v3"])
    assert [processor.id_to_piece(index) for index in (20, 32768, 32769)] == list(given)
    with pytest.raises(ConfigError, match=r"\[32770\] leave gaps"):
        load(SENTENCES, {"<more>": {"id": 32770}})


def test_changing_pieces_changes_nothing_else() -> None:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(  # type: ignore[attr-defined]
        sentence_iterator=iter(["a b c d e f g h i j k l m n o p"] * 20),
        model_writer=model,
        vocab_size=24,
        user_defined_symbols=["<u>"],
        control_symbols=["<c>"],
        minloglevel=2,
        hard_vocab_limit=False,
    )
    source = model.getvalue()
    types = piece_types(source)
    assert types[:5] == [PieceType.UNKNOWN, *[PieceType.CONTROL] * 3, PieceType.USER_DEFINED]
    assert set(types[5:]) == {PieceType.NORMAL}
    assert change_pieces(source, {}) == source
    changed = change_pieces(source, {4: ("<u>", PieceType.CONTROL)})
    assert piece_types(changed) == [*types[:4], PieceType.CONTROL, *types[5:]]
    one, other = (sentencepiece.SentencePieceProcessor(model_proto=proto) for proto in (source, changed))
    assert [one.id_to_piece(i) for i in range(len(types))] == [other.id_to_piece(i) for i in range(len(types))]
    assert [one.get_score(i) for i in range(len(types))] == [other.get_score(i) for i in range(len(types))]
    assert one.encode("a b <u> c") != other.encode("a b <u> c")
    assert one.encode("a b c") == other.encode("a b c")


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        (LLAMA, {"<a>": {"id": 100}}, "id 100, which is an ordinary entry"),
        (LLAMA, {"<|eot_id|>": {"id": 128100}}, "the tokenizer has it as 128009"),
        (
            LLAMA | {"vocab_size": 128256},
            {"<a>": {"id": 128256}},
            "128256, but the model's vocabulary has 128256 entries",
        ),
        (QWEN | {"vocab_size": 1000}, None, "vocab_size: 1000, but the tokenizer has ids up to 151664"),
        (TEKKEN, {"<a>": {"id": 5000}}, "ordinary entry"),
        (SENTENCES, {"<a>": {"id": 5000}}, "ordinary entry"),
        (SENTENCES, {"</s>": {"id": 30}}, "the tokenizer has it as 2"),
        (LLAMA, "gone.json", "gone.json does not exist"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(settings, given)


def test_a_folder_has_its_size_in_config_json(family: Path) -> None:
    settings = {"path": str(family)}
    size = load(settings, None).encoder.vocab_size
    given = {"<mine>": {"id": size}}
    assert [f"above the tokenizer's own {size}" in text for text in load(settings, given).warnings] == [True]
    assert load(settings, {"<|mine|>": {"id": size - 1}}).warnings == ()
    for model in ({"vocab_size": size}, {"text_config": {"vocab_size": size}}):
        (family / "config.json").write_text(json.dumps(model))
        with pytest.raises(ConfigError, match=rf"has {size} entries \(.*config.json\)"):
            load(settings, given)
    assert load(settings, given, vocab_size=size + 1).encoder.vocab_size == size + 1
    (family / "config.json").write_text(json.dumps({"vocab_size": size + 64}))
    assert load(settings, given).warnings == ()


def test_a_gap_in_a_folder_is_refused(family: Path) -> None:
    size = load({"path": str(family)}, None).encoder.vocab_size
    with pytest.raises(ConfigError, match=rf"'<mine>' has the id {size + 5}, but tokenizers gives it {size}"):
        load({"path": str(family)}, {"<mine>": {"id": size + 5}})


def test_a_build_says_and_exports_it(family: Path, tmp_path: Path, call_packline: Any) -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "x<note>y"}]}] * 3
    write_jsonl(tmp_path / "rows.jsonl", rows)
    size = load({"path": str(family)}, None).encoder.vocab_size
    path = write_tokens(tmp_path, entry("<note>", size, special=False))
    tokenizer = {"path": str(family), "special_tokens": path}
    write_config(tmp_path, tokenizer=tokenizer)
    run = call_packline("build", "config.yaml", "--workers", "1", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "set tokenizer.vocab_size" in run.stderr.replace("\n", " ")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["vocab_size"] == size + 1
    added = json.loads((tmp_path / "out/tokenizer/tokenizer.json").read_text())["added_tokens"]
    assert added[-1]["content"] == "<note>"
    Path(path).unlink()  # the data set has its own copy
    shown = call_packline("inspect", "out", "--pack", "0", cwd=tmp_path)
    assert "<note>" in shown.stdout, shown.stderr
    write_tokens(tmp_path, entry("<note>", size, special=True))
    again = call_packline("build", "config.yaml", "--workers", "1", cwd=tmp_path)
    assert again.returncode != 0  # the bytes of the file are part of the recipe
    assert "recipe" in again.stderr
