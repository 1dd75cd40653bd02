"""The options after `--`, which are Beam's. Beam passes over those that it does not know; here each counts."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from apache_beam.options import pipeline_options
from apache_beam.options.pipeline_options import PipelineOptions

from schemas.errors import ConfigError

_OURS = {
    "--runner": "give --runner before the --",
    "--direct_num_workers": "give --workers before the --",
    "--streaming": "a build is a batch job",
}

AddOptions = Callable[[Any], None]


class _Parser(pipeline_options._BeamArgumentParser):  # type: ignore[misc]
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"after --: {message}")


class JobOptions(PipelineOptions):  # type: ignore[misc]
    """Options of a job service are known once it is asked for them, as the job is prepared; then the others are
    refused."""

    def get_all_options(self, *positional: Any, **named: Any) -> dict[str, Any]:
        add_options = named.get("add_extra_args_fn")
        if add_options is not None and not named.get("retain_unknown_options"):
            _refuse_unknown(self._flags, add_options)
        found: dict[str, Any] = super().get_all_options(*positional, **named)
        return found


def parse_options(flags: Sequence[str], *, has_job_service: bool) -> PipelineOptions:
    """Raises ConfigError for an option that is unknown, ill-formed, or ours. With a job service the unknown ones are
    refused when the job is prepared."""
    for flag in flags:
        name = flag.partition("=")[0]
        if name in _OURS:
            raise ConfigError(f"after --: {name}: {_OURS[name]}")
    if has_job_service:
        _parse(flags)
        return JobOptions(list(flags))
    _refuse_unknown(flags)
    return PipelineOptions(list(flags))


def _refuse_unknown(flags: Sequence[str], add_options: AddOptions | None = None) -> None:
    unknown, known = _parse(flags, add_options)
    if unknown:
        near = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"after --: the runner has no option {unknown[0]}{hint}")


def _parse(flags: Sequence[str], add_options: AddOptions | None = None) -> tuple[list[str], list[str]]:
    """The arguments that no option takes, and the names of all options."""
    parser = _Parser(allow_abbrev=False, add_help=False)
    for group in PipelineOptions.__subclasses__():
        group._add_argparse_args(parser)
    if add_options is not None:
        add_options(parser)
    unknown: list[str] = parser.parse_known_args(list(flags))[1]
    return unknown, [name for action in parser._actions for name in action.option_strings]
