"""`packline preview`: the first rows of every source as they would be trained on."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.rule import Rule

from pipeline.build_plan import BuildPlan
from pipeline.preflight import first_rows, tokenize_rows
from pipeline.recipe import load_tools
from pipeline.show import ShownToken, colored, legend, shown_tokens
from pipeline.tokenize import TokenBlock
from schemas.rejects import Reject


@dataclass(frozen=True, slots=True)
class PreviewedDocument:
    source: str
    position: int
    piece: int
    tokens: list[ShownToken]


@dataclass(frozen=True, slots=True)
class Preview:
    documents: list[PreviewedDocument]
    rejects: list[tuple[str, Reject]]


def preview(plan: BuildPlan, rows: int) -> Preview:
    """The first `rows` rows of every source: the documents that they give, and the rejects."""
    found = Preview([], [])
    for setting in range(len(plan.recipe.config.sources)):
        for block in first_rows(plan, setting, rows):
            _add(found, plan, tokenize_rows(plan, block))
    return found


def _add(found: Preview, plan: BuildPlan, block: TokenBlock) -> None:
    encoder = load_tools(plan.recipe).tokenizer.encoder
    trained = plan.recipe.config.loss_policy.table()
    found.rejects.extend((plan.files[reject.source].url, reject) for reject in block.rejects)
    for index in range(len(block)):
        span = slice(block.offsets[index], block.offsets[index + 1])
        ids, channels = block.input_ids[span], block.channel[span]
        tokens = shown_tokens(ids.tolist(), channels.tolist(), trained[channels].tolist(), encoder)
        url = plan.files[int(block.sources[index])].url
        found.documents.append(PreviewedDocument(url, int(block.positions[index]), int(block.pieces[index]), tokens))


def print_json(shown: Preview) -> None:
    json.dump([asdict(document) for document in shown.documents], sys.stdout, ensure_ascii=False)
    print()


def print_rows(shown: Preview, console: Console) -> None:
    for document in shown.documents:
        trained = sum(token.trained for token in document.tokens)
        piece = f", piece {document.piece}" if document.piece else ""
        title = f"{document.source} at {document.position}{piece}: {len(document.tokens)} tokens, {trained} trained"
        console.print(Rule(title, align="left", style="bright_black"))
        console.print(colored(document.tokens), soft_wrap=True)
    print_rejects(shown.rejects, console)
    console.print(Rule(style="bright_black"))
    console.print(legend())


def print_rejects(rejects: Sequence[tuple[str, Reject]], console: Console) -> None:
    for url, reject in rejects:
        line = f"rejected: {url} at {reject.position}: {reject.reason}: {reject.detail}"
        console.print(line, style="red", markup=False, highlight=False)
