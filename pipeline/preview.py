"""`packline preview`: the first rows of every source as they would be trained on, under one loss policy or several."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from pipeline.build_plan import BuildPlan
from pipeline.convert import convert_rows
from pipeline.preflight import first_rows
from pipeline.recipe import Tools, load_tools, make_tools
from pipeline.show import ShownToken, colored, legend, shown_tokens
from pipeline.token_block import TokenBlock
from pipeline.tokenize import tokenize_documents
from schemas.policy import LossPolicy, name_of
from schemas.rejects import Reject


@dataclass(frozen=True, slots=True)
class PreviewedDocument:
    policy: str
    source: str
    position: int
    piece: int
    tokens: list[ShownToken]


@dataclass(frozen=True, slots=True)
class Preview:
    """What becomes of the rows under one policy."""

    policy: str
    documents: list[PreviewedDocument]
    rejects: list[tuple[str, Reject]]


def preview(plan: BuildPlan, rows: int, policies: Sequence[LossPolicy] = ()) -> list[Preview]:
    """The first `rows` rows of every source under each policy, the config's own where none is given."""
    return [_preview(plan, rows, policy) for policy in policies or [plan.recipe.config.loss_policy]]


def _preview(plan: BuildPlan, rows: int, policy: LossPolicy) -> Preview:
    config = plan.recipe.config.model_copy(update={"loss_policy": policy})
    tools = make_tools(replace(plan.recipe, config=config), load_tools(plan.recipe).tokenizer)
    found = Preview(name_of(policy), [], [])
    for setting in range(len(config.sources)):
        for block in first_rows(plan, setting, rows):
            documents = convert_rows(block, plan.converters, plan.setting_of_source)
            tokens = tokenize_documents(documents, tools.documents)
            found.documents.extend(_documents(tokens, plan, tools, policy))
            found.rejects.extend((plan.files[reject.source].url, reject) for reject in tokens.rejects)
    found.rejects.sort(key=lambda each: (each[1].source, each[1].position))
    return found


def _documents(block: TokenBlock, plan: BuildPlan, tools: Tools, policy: LossPolicy) -> Iterator[PreviewedDocument]:
    name, trained = name_of(policy), policy.table()
    for index in range(len(block)):
        ids, channels = block.input_ids[block.span(index)], block.channels_of(index)
        tokens = shown_tokens(ids.tolist(), channels.tolist(), trained[channels].tolist(), tools.tokenizer.encoder)
        url = plan.files[int(block.sources[index])].url
        yield PreviewedDocument(name, url, int(block.positions[index]), int(block.pieces[index]), tokens)


def print_json(shown: Sequence[Preview]) -> None:
    documents = [asdict(document) for each in shown for document in each.documents]
    json.dump(documents, sys.stdout, ensure_ascii=False)
    print()


def print_rows(shown: Sequence[Preview], console: Console) -> None:
    for each in shown:
        console.print(f"loss policy: {each.policy}", style="bold", markup=False, highlight=False)
        _print_preview(each, console)
    console.print(Rule(style="bright_black"))
    console.print(legend())


def _print_preview(shown: Preview, console: Console) -> None:
    for document in shown.documents:
        trained = sum(token.trained for token in document.tokens)
        piece = f", piece {document.piece}" if document.piece else ""
        title = f"{document.source} at {document.position}{piece}: {len(document.tokens)} tokens, {trained} trained"
        console.print(Rule(Text(title), align="left", style="bright_black"))
        console.print(colored(document.tokens), soft_wrap=True)
    print_rejects(shown.rejects, console)


def print_rejects(rejects: Sequence[tuple[str, Reject]], console: Console) -> None:
    for url, reject in rejects:
        line = f"rejected: {url} at {reject.position}: {reject.reason}: {reject.detail}"
        console.print(line, style="red", markup=False, highlight=False)
