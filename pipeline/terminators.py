"""The terminator audit: where the end of too many turns is not trained the build stops, as the model never would."""

from collections.abc import Mapping, Sequence

from pipeline.blocks import SourceFile
from pipeline.encoders.base import Encoder
from pipeline.failures import BudgetExceeded
from pipeline.recipe import Recipe, load_tools
from pipeline.turns import EXAMPLES, OpenTurn, TurnAudit
from schemas.channels import Part, Role, pack_channel
from schemas.manifest import TurnCounts, add_turns
from schemas.policy import LossPolicy
from schemas.urls import without_secrets


def check_terminated(audit: TurnAudit, files: Mapping[int, SourceFile], recipe: Recipe, extent: str) -> None:
    """Raises BudgetExceeded, with a table, where an entry of `sources` has too few turns with an end. `extent` is a
    sentence on what was looked at."""
    config = recipe.config
    counts = _counts_by_setting(audit, files)
    offenders = {
        setting: counts[setting] for setting in sorted(counts) if _share(counts[setting]) < config.min_terminated
    }
    if not offenders:
        return
    tools = load_tools(recipe)
    encoder = tools.tokenizer.encoder
    ends = ", ".join(_shown(token, encoder) for token in (tools.formatter.end_ids if tools.formatter else ()))
    names = {setting: ", ".join(map(without_secrets, config.sources[setting].paths)) for setting in offenders}
    opened = [turn for turn in audit.open_turns if files[turn.source].setting in offenders]
    lines = [
        f"too few turns end in a trained end token ({ends or 'there is none'}); min_terminated is "
        f"{config.min_terminated:.2%}. {extent}.",
        *_table(names, offenders),
        *(f"    {_describe(turn, files, encoder)}" for turn in opened[:EXAMPLES]),
        f"    {_advice(config.loss_policy)}; or lower the budget with --set min_terminated=...",
    ]
    raise BudgetExceeded("\n".join(lines))


def _counts_by_setting(audit: TurnAudit, files: Mapping[int, SourceFile]) -> dict[int, TurnCounts]:
    found: dict[int, list[TurnCounts]] = {}
    for source, counts in audit.counts.items():
        found.setdefault(files[int(source)].setting, []).append(counts)
    return {setting: add_turns(found[setting]) for setting in found}


def _share(counts: TurnCounts) -> float:
    return counts.terminated / counts.trained if counts.trained else 1.0


def _table(names: dict[int, str], offenders: dict[int, TurnCounts]) -> list[str]:
    width = max(map(len, ("source", *names.values())))
    head = f"    {'source':<{width}}  {'turns':>10}  {'terminated':>10}  {'fraction':>8}"
    rows = (
        f"    {names[setting]:<{width}}  {counts.trained:>10,}  {counts.terminated:>10,}  {_share(counts):>8.4f}"
        for setting, counts in offenders.items()
    )
    return [head, *rows]


def _describe(turn: OpenTurn, files: Mapping[int, SourceFile], encoder: Encoder) -> str:
    """The ids at the end of a turn, and the text of the last trained one: no more of the row than that."""
    path = without_secrets(files[turn.source].url)
    last = encoder.decode(turn.trained_ids[-1:])
    following = f"; not trained after it: {_listed(turn.following_ids)}" if turn.following_ids else ""
    return (
        f"{path} at {turn.position}, messages[{turn.message}]: what is trained ends in {_listed(turn.trained_ids)}, "
        f"the last is {last!r}{following}"
    )


def _listed(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


def _shown(token: int, encoder: Encoder) -> str:
    return f"{token} {encoder.decode([token])}"


def _advice(policy: LossPolicy) -> str:
    last = pack_channel(Role.ASSISTANT, Part.END, last_turn=True)
    if not policy.table()[last]:
        return "loss_policy leaves out the assistant's part `end`: add it"
    return (
        "see with `packline preview` what is trained; the chat template must write an end token after an answer, "
        "generation_config.json must name it"
    )
