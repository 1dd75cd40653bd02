"""The date that a template shows is the config's, as a server shows it on that day, and it is said where it matters."""

import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from building import small_rows, write_config, write_jsonl
from families import FAMILIES, template_source, write_family_folder

from pipeline.build_plan import plan_build
from pipeline.chat.probe import try_out
from pipeline.chat.template import ChatTemplate
from pipeline.config import load_config
from pipeline.recipe import load_tools
from pipeline.serving import serving_files
from schemas.conversation import Conversation, Message
from schemas.errors import ConfigError
from schemas.manifest import load_manifest
from schemas.rejects import RejectRow
from schemas.store import Folder

DAYS = (date(2024, 7, 26), date(2031, 1, 2))
SHOWS_THE_DATE = {"gptoss", "llama3_2", "muse_glimmer"}
CHAT = (Message(role="user", content="Hi"), Message(role="assistant", content="Yes"))


def served(name: str, day: date, monkeypatch: pytest.MonkeyPatch, **variables: Any) -> str:
    """What transformers renders when its clock shows `day`."""
    from transformers.utils import chat_template_utils

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Clock":
            return cls(day.year, day.month, day.day)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    raw = [{"role": message.role, "content": message.content} for message in CHAT]
    given = {**FAMILIES[name].special_tokens, **variables}
    rendered, _ = chat_template_utils.render_jinja_template([raw], chat_template=template_source(name), **given)
    return str(rendered[0])


def rendered(name: str, day: date, **variables: Any) -> str:
    template = ChatTemplate(template_source(name), {**FAMILIES[name].special_tokens, **variables}, day)
    return template.render(Conversation(CHAT)).plain


def test_every_family_shows_the_day_that_a_server_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    differ = set()
    for name in FAMILIES:
        texts = {served(name, day, monkeypatch) for day in DAYS}
        assert {rendered(name, day) for day in DAYS} == texts, name
        differ |= {name} if len(texts) > 1 else set()
    assert differ == SHOWS_THE_DATE


def test_whether_a_template_asks_for_the_date_is_seen_in_the_probes() -> None:
    found, refused = set(), set()
    for name in FAMILIES:
        template = ChatTemplate(template_source(name), FAMILIES[name].special_tokens, DAYS[0])
        try:
            try_out(template)
        except ConfigError:
            refused.add(name)
        found |= {name} if template.asks_for_date else set()
    assert found == SHOWS_THE_DATE
    assert not refused


@pytest.mark.parametrize(
    "source",
    [
        "{{ strftime_now('%Y') if tools }}",
        "{{ strftime_now('%Y') if messages[0].role == 'system' }}",
        "{{ strftime_now('%Y') if messages[1].tool_calls }}",
    ],
)
def test_templates_that_ask_for_the_date_at_times_are_found(source: str) -> None:
    template = ChatTemplate("{{ messages }}" + source, {}, DAYS[0])
    try_out(template)
    assert template.asks_for_date


def test_the_default_day_is_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama 3.1 shows 26 Jul 2024 on every server that is given no `date_string`."""
    for name in ("llama3_1", "llama3_2"):
        given = {"date_string": "02 Jan 2031"}
        assert rendered(name, DAYS[0], **given) == served(name, DAYS[0], monkeypatch, **given)
    assert "Today Date: 26 Jul 2024" in rendered("llama3_1", DAYS[1])
    assert rendered("llama3_2", DAYS[1]) == rendered("llama3_2", DAYS[0], date_string="02 Jan 2031")
    assert rendered("llama3_1", DAYS[1]) != rendered("llama3_1", DAYS[1], date_string="02 Jan 2031")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("gptoss", "llama3_1"):
        write_family_folder(name, tmp_path / name)
    write_jsonl(tmp_path / "rows.jsonl", small_rows(5))
    return tmp_path


def plan(folder: Path, family: str, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Any:
    monkeypatch.chdir(folder)
    return plan_build(load_config(write_config(folder, tokenizer={"path": family}, **changes)))


def test_a_template_that_asks_without_a_clock_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (warning,) = plan(folder, "gptoss", monkeypatch).warnings
    assert "`clock: 2024-07-26`" in warning
    assert not plan(folder, "gptoss", monkeypatch, clock="2024-07-26").warnings
    assert not plan(folder, "llama3_1", monkeypatch).warnings


def test_the_day_is_part_of_the_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A given day is in `date_string` as well, the default is not."""
    days = (None, "2024-07-26", "2031-01-02")
    assert len({plan(folder, "gptoss", monkeypatch, clock=day).recipe.id for day in days}) == 3


def test_a_given_day_is_the_variable_of_llama(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(**changes: Any) -> str:
        made = plan(folder, "llama3_1", monkeypatch, **changes)
        formatter = load_tools(made.recipe).formatter
        assert formatter is not None
        return formatter.render(Conversation(CHAT)).plain

    assert "Today Date: 26 Jul 2024" in shown()
    assert "Today Date: 02 Jan 2031" in shown(clock="2031-01-02")
    assert "Today Date: 03 Mar 2033" in shown(clock="2031-01-02", template_kwargs={"date_string": "03 Mar 2033"})


def test_the_folder_for_serving_says_what_the_template_was_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def given(family: str, **changes: Any) -> Any:
        made = plan(folder, family, monkeypatch, **changes)
        files = serving_files(made.recipe, load_tools(made.recipe))
        assert files["chat_template.jinja"].decode() == template_source(family)
        return json.loads(files["packline.json"])

    assert given("gptoss", clock="2031-01-02") == {
        "clock": "2031-01-02",
        "template_kwargs": {"date_string": "02 Jan 2031"},
    }
    assert given("gptoss") == {"clock": "2024-07-26", "template_kwargs": {}}
    kwargs = {"date_string": "02 Jan 2031"}
    assert given("llama3_1", template_kwargs=kwargs) == {"clock": None, "template_kwargs": kwargs}


def test_a_template_that_renders_nothing_stops_the_plan(folder: Path, call_packline: Any) -> None:
    (folder / "mine.jinja").write_text("\n\n{{ raise_exception('not today') }}", "utf-8")
    write_config(folder, tokenizer={"path": "gptoss"}, chat_template="mine.jinja")
    done = call_packline("plan", "config.yaml", cwd=folder)
    assert done.returncode == 2
    assert "line 3: not today" in " ".join(done.stderr.split())


def test_a_build_shows_the_day_and_the_manifest_says_which(folder: Path, call_packline: Any) -> None:
    write_config(folder, tokenizer={"path": "gptoss"})
    done = call_packline("build", "config.yaml", "--workers", "1", "--set", "clock=2031-01-02", cwd=folder)
    assert done.returncode == 0, done.stderr
    manifest = load_manifest(Folder(str(folder / "out")))
    assert manifest.clock == manifest.config["clock"] == "2031-01-02"
    assert manifest.totals.rejects == 0
    shown = call_packline("preview", "config.yaml", "--set", "clock=2031-01-02", "--json", cwd=folder)
    first = json.loads(shown.stdout)[0]
    assert "Current date: 2031-01-02" in "".join(token["text"] for token in first["tokens"])


def test_a_row_that_is_refused_names_the_line(folder: Path) -> None:
    template = ChatTemplate("{{ messages }}\n{{ raise_exception('no') if messages[2] }}", {}, DAYS[0])
    with pytest.raises(RejectRow, match="template_error: line 2: no"):
        template.render(Conversation((*CHAT, *CHAT)))
