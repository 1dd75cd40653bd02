"""Golden vectors: transformers gives their ids, for every family of templates."""

import json
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES, template_folder, write_family_folder

from pipeline.build_plan import BuildPlan, plan_build
from pipeline.config import BuildConfig
from pipeline.golden import make_golden
from pipeline.recipe import load_tools
from pipeline.serving import tokenizer_folder, write_tokenizer_folder
from schemas.golden import COUNT, Golden, decode_golden
from schemas.store import Folder

pytestmark = pytest.mark.skipif(template_folder() is None, reason="trl is not installed")


def plan_of(folder: Path, tokenizer: Path, **changes: Any) -> BuildPlan:
    (folder / "rows.jsonl").write_text('{"messages": []}\n')
    sources = [{"path": str(folder / "rows.jsonl"), "transform": {"type": "openai"}}]
    values = {"output": str(folder / "out"), "seq_len": 64, "sources": sources, "tokenizer": {"path": str(tokenizer)}}
    return plan_build(BuildConfig.model_validate({**values, "clock": "2003-04-05", **changes}))


def golden_of(plan: BuildPlan) -> Golden | None:
    formatter = load_tools(plan.recipe).formatter
    assert formatter is not None
    return make_golden(plan.recipe, formatter)


@pytest.fixture
def other_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers reads the day of the golden files."""
    from datetime import datetime

    from transformers.utils import chat_template_utils

    class Pinned(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Pinned":
            return cls(2003, 4, 5)

    monkeypatch.setattr(chat_template_utils, "datetime", Pinned)


@pytest.mark.usefixtures("other_clock")
def test_transformers_gives_the_ids_of_every_family(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    ids = prompts = tools = 0
    refused = []
    for name in FAMILIES:
        folder = write_family_folder(name, tmp_path / name)
        golden = golden_of(plan_of(tmp_path, folder))
        if golden is None:
            refused.append(name)
            continue
        served = AutoTokenizer.from_pretrained(folder)
        assert len(golden.vectors) == COUNT == 16
        for vector in golden.vectors:
            given = {"tools": vector.tools, **golden.template_kwargs}
            found = served.apply_chat_template(vector.messages, **given)["input_ids"]
            assert found == vector.ids, (name, vector.messages)
            ids += 1
            tools += vector.tools is not None
            if vector.prompt_ids is not None:
                prompt = served.apply_chat_template(vector.messages[:-1], add_generation_prompt=True, **given)
                found = prompt["input_ids"]
                assert found == vector.prompt_ids, (name, vector.messages)
                prompts += 1
    assert ids == 16 * (len(FAMILIES) - len(refused)) > 600
    assert not refused
    assert prompts > 0.9 * ids
    assert tools > 0.2 * ids


def test_a_strict_template_gets_simpler_conversations(tmp_path: Path) -> None:
    folder = write_family_folder("qwen3", tmp_path / "model")
    template = tmp_path / "strict.jinja"
    strict = "{% if tools or messages|length > 2 %}{{ raise_exception('no') }}{% endif %}"
    template.write_text(strict + "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}")
    golden = golden_of(plan_of(tmp_path, folder, chat_template=str(template)))
    assert golden is not None
    assert {len(vector.messages) for vector in golden.vectors} == {2}
    contents = [tuple(message["content"] for message in vector.messages) for vector in golden.vectors]
    assert len(set(contents)) >= 14
    template.write_text("{% if messages[-1].content != 'Answer' %}{{ raise_exception('no') }}{% endif %}{{ messages }}")
    assert golden_of(plan_of(tmp_path, folder, chat_template=str(template))) is None


def test_they_stand_in_the_tokenizer_folder_and_hold_no_row(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, write_family_folder("qwen3", tmp_path / "model"), template_kwargs={"a": 1})
    for _ in range(2):
        write_tokenizer_folder(tokenizer_folder(plan.recipe, load_tools(plan.recipe)), Folder(str(tmp_path / "out")))
        data = (tmp_path / "out" / "tokenizer" / "golden.json").read_bytes()
        golden = decode_golden(data, "golden.json")
        assert golden == golden_of(plan)
    assert (golden.clock, golden.template_kwargs) == ("2003-04-05", {"date_string": "05 Apr 2003", "a": 1})
    assert json.loads(data)["vectors"][0]["messages"][0] == {"role": "user", "content": "Hello."}
