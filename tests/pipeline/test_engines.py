"""The choice of an engine, and what becomes of a build whose engine is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from building import data_files, small_rows, write_config, write_jsonl
from engines import TOKENIZERS, liar, missing
from model_folders import load_once, package_file
from rich.console import Console

from pipeline.cli import main
from pipeline.columnar import sample
from pipeline.config import load_config
from pipeline.encoders import engines
from pipeline.encoders.base import Encoder, EncodingFailed
from pipeline.encoders.batch import BatchEncoder, EncodedBatch, Strings
from pipeline.encoders.compare import compare_ids
from pipeline.encoders.engines import EngineChoice, choose_engine
from pipeline.launch import BuildResult, build
from schemas.errors import ConfigError, DatasetError

QWEN = TOKENIZERS["Qwen 2.5"]


def use(monkeypatch: pytest.MonkeyPatch, **fast: Any) -> None:
    monkeypatch.setattr(engines, "FAST_ENGINES", fast)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_exact_engine_is_chosen(name: str) -> None:
    """`fast` refuses what `auto` would only not use; both compare the same."""
    assert choose_engine("fast", TOKENIZERS[name]().encoder) == EngineChoice("gigatoken")


def test_an_exact_engine_is_chosen_unasked() -> None:
    assert choose_engine("auto", QWEN().encoder) == EngineChoice("gigatoken")


def test_the_reference_is_chosen_where_the_config_says_so() -> None:
    assert choose_engine("reference", QWEN().encoder).name == "tiktoken"
    assert choose_engine("reference", TOKENIZERS["Qwen 2.5 folder"]().encoder).name == "tokenizers"


def test_an_engine_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, liar=liar("\U0001f468\u200d\U0001f469"))
    choice = choose_engine("auto", QWEN().encoder)
    assert choice.name == "tiktoken"
    (warning,) = choice.warnings
    assert "liar differs from tiktoken on '" in warning
    assert "\U0001f468" in warning
    with pytest.raises(ConfigError, match="engine: fast: liar differs from tiktoken on '"):
        choose_engine("fast", QWEN().encoder)


def test_an_engine_that_is_missing_is_told_but_not_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, missing=missing)
    assert choose_engine("auto", QWEN().encoder) == EngineChoice("tiktoken", "it is not there")
    with pytest.raises(ConfigError, match=r"engine: fast: it is not there.*tiktoken"):
        choose_engine("fast", QWEN().encoder)


def test_the_second_engine_is_tried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, missing=missing, liar=liar("no text holds this"))
    assert choose_engine("auto", QWEN().encoder) == EngineChoice("liar")


def test_an_engine_that_fails_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        name = "failing"

        def __init__(self, encoder: Encoder) -> None:
            self.sizes = encoder.batch().sizes  # type: ignore[union-attr]

        def encode(self, texts: Strings) -> EncodedBatch:
            raise EncodingFailed("out of range")

    use(monkeypatch, failing=Failing)
    choice = choose_engine("auto", QWEN().encoder)
    assert choice.name == "tiktoken"
    assert choice.warnings == ("failing fails on texts that tiktoken encodes: out of range",)


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pipeline.encoders.gigatoken_engine", None)
    with pytest.raises(ConfigError, match=r"pip install 'packline\[fast\]'"):
        choose_engine("fast", QWEN().encoder)


def test_a_pattern_that_the_engine_does_not_know() -> None:
    ranks = str(package_file("dashscope", "resources/qwen.tiktoken"))
    loaded = load_once(ranks, pattern=r"\w+|\W", special_tokens={"<|end|>": {"id": 151643}}, eos_token="<|end|>")
    choice = choose_engine("auto", loaded.encoder)
    assert choice.name == "tiktoken"
    assert r"\\w+|\\W" in choice.reason
    assert not choice.warnings


def test_a_kind_of_tokenizer_without_a_fast_engine() -> None:
    choice = choose_engine("auto", load_once("package://mistral_common/data/tokenizer.model.v1").encoder)
    assert choice.name == "sentencepiece"
    assert "this kind of tokenizer" in choice.reason


def reference() -> BatchEncoder:
    return QWEN().encoder.batch()  # type: ignore[return-value]


def test_a_difference_is_shown_where_it_is() -> None:
    texts = Strings.of(["as it should be", "word " * 500 + "and here", "and here"])
    found = liar("here")(QWEN().encoder).encode(texts)
    difference = compare_ids(texts, [(0, 1), (2, 3), (4, 5)], found, reference())
    assert difference is not None
    assert (difference.source, difference.position) == (2, 3)
    assert difference.text.startswith("'")
    assert difference.text.endswith("word and here'")
    assert len(difference.text) <= 200
    assert 0 < len(difference.expected_ids) == len(difference.found_ids) <= 8
    assert difference.expected_ids[:-1] == difference.found_ids[:-1]
    assert difference.expected_ids[-1] != difference.found_ids[-1]
    assert compare_ids(texts, [(0, 0)] * 3, reference().encode(texts), reference()) is None


def test_an_id_too_few_is_a_difference() -> None:
    texts = Strings.of(["one two", "three"])
    whole = reference().encode(texts)
    found = EncodedBatch(whole.ids[1:], whole.offsets - [0, 1, 1])
    difference = compare_ids(texts, [(0, 7), (0, 8)], found, reference())
    assert difference is not None
    assert difference.position == 7


# Whole builds

WORD = "zebra"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows of which one has the word on which the stand-in is wrong."""
    odd = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": f"a {WORD}"}]}
    write_jsonl(tmp_path / "rows.jsonl", [*small_rows(40), odd, *small_rows(40, seed=1)])
    write_config(tmp_path, block_bytes="8KiB", certify="none")
    monkeypatch.setattr(sample, "CHECKED_ONE_IN", 1)  # all rows are of the sample
    monkeypatch.chdir(tmp_path)
    return tmp_path


def built(*overrides: str) -> tuple[BuildResult, str]:
    console = Console(record=True, width=1000)
    result = build(load_config(Path("config.yaml"), list(overrides)), workers=1, console=console)
    return result, console.export_text()


def test_a_build_whose_engine_is_wrong_ends_with_the_reference(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, liar=liar(WORD))
    result, told = built()
    assert "rows.jsonl at " in told
    assert WORD in told
    assert "Building again with engine: reference" in told
    assert result.manifest.tokenizer.engine == "tiktoken"
    assert set(result.manifest.tokenizer.libraries) == {"tiktoken"}
    states = (path for path in folder.glob("out/state/*") if path.is_dir())
    assert {path.name.rpartition("-")[2] for path in states} == {"liar", "tiktoken"}
    use(monkeypatch)
    built("output=reference")
    assert data_files(folder / "out") == data_files(folder / "reference")


def test_a_wrong_engine_is_found_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, liar=liar(WORD))
    with pytest.raises(DatasetError, match=f"rows.jsonl at .* liar .*{WORD}.*--set engine=reference"):
        built("engine=fast")
    assert not (folder / "out" / "manifest.json").exists()
    first = {path: path.stat().st_mtime_ns for path in folder.glob("out/state/*-liar/*.json")}
    with pytest.raises(DatasetError, match=WORD):
        built("engine=fast")
    (again,) = (path for path, mtime in first.items() if path.stat().st_mtime_ns != mtime)
    assert json.loads(again.read_bytes())["info"]["difference"]["text"].endswith(f"{WORD}'")


def test_an_engine_that_was_mended_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, gigatoken=liar(WORD))
    with pytest.raises(DatasetError):
        built("engine=fast")
    use(monkeypatch, gigatoken=liar("no row holds this"))
    assert built("engine=fast")[0].manifest.tokenizer.engine == "gigatoken"


def test_the_engine_is_the_only_difference(folder: Path) -> None:
    fast, _ = built()
    slow, _ = built("output=slow", "engine=reference")
    assert (fast.manifest.tokenizer.engine, slow.manifest.tokenizer.engine) == ("gigatoken", "tiktoken")
    assert set(fast.manifest.tokenizer.libraries) == {"gigatoken", "tiktoken"}
    same = {"engine": "", "libraries": {}}
    manifests = (
        result.manifest.model_copy(update={"tokenizer": result.manifest.tokenizer.model_copy(update=same)})
        for result in (fast, slow)
    )
    assert len({manifest.model_dump_json() for manifest in manifests}) == 1
    files = [data_files(folder / name) for name in ("out", "slow")]
    assert all(each.pop("manifest.json") for each in files)
    assert files[0] == files[1]
    assert files[0]
    again = build(load_config(folder / "config.yaml", ["engine=reference"]), workers=1)
    assert not again.built


def test_the_plan_says_which_engine(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "config.yaml"]) == 0
    assert "gigatoken" in capsys.readouterr().out
    assert main(["plan", "config.yaml", "--set", "engine=reference"]) == 0
    assert "tiktoken (engine: reference)" in capsys.readouterr().out
