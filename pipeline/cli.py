"""The command line. Beam and the tokenizers load only in the commands that run them."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from pipeline.arguments import age, generation, positive
from pipeline.exit_codes import BUILT, EXIT_CODES, FAILED, INTERRUPTED, explain
from pipeline.runner_choice import EMBEDDED, choose_runner
from pipeline.worker_pool import collect_rarely, started_pool
from schemas import __version__
from schemas.errors import ConfigError


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="packline",
        description="Turn raw chat and text rows into packed, loss-masked token shards.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"packline {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and Beam's log")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_build(commands)
    _add_watch(commands)
    _add_config_command(commands, "plan", _plan, "list files, blocks and what is built already; write nothing")
    _add_preview(commands)
    _add_inspect(commands)
    _add_verify(commands)
    _add_certify(commands)
    _add_clean(commands)
    for command in commands.choices.values():
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_config_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], summary: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=summary)
    _add_config(command)
    command.set_defaults(run=run)
    return command


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", type=Path, metavar="CONFIG", help="a YAML file")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="override a key, as a.b.0=1"
    )


def _add_dataset(command: argparse.ArgumentParser) -> None:
    command.add_argument("dataset", metavar="DATASET", help="the folder of a data set, or its URL")
    command.add_argument("--profile", metavar="NAME", help="options of its store, from the profiles file")
    command.add_argument(
        "--generation", type=generation, default="latest", metavar="N", help="as it was at this one (default: latest)"
    )


def _add_build(commands: Commands) -> None:
    command = _add_config_command(commands, "build", _build, "build a data set; options after -- go to Beam")
    _add_runner(command)
    command.add_argument(
        "--check", action="store_true", help="compare what is there by its sha256, and build again what differs"
    )


def _add_watch(commands: Commands) -> None:
    summary = "build a data set that grows: what appears under the sources goes into further generations"
    command = _add_config_command(commands, "watch", _watch, summary)
    command.add_argument("--once", action="store_true", help="take the files that are complete by now, and end")
    _add_runner(command)


def _add_runner(command: argparse.ArgumentParser) -> None:
    command.add_argument("--runner", default=EMBEDDED, help="a Beam runner (default: %(default)s)")
    command.add_argument("--workers", type=positive, help="processes; default: as many as cores, at most the units")


def _add_preview(commands: Commands) -> None:
    command = _add_config_command(commands, "preview", _preview, "show how the first rows are rendered and trained")
    command.add_argument("-n", type=positive, default=3, metavar="ROWS", help="rows of each source (default: 3)")
    command.add_argument(
        "--policy",
        action="append",
        default=[],
        dest="policies",
        help="show what this loss policy would train, a preset or YAML terms; may be given several times",
    )
    command.add_argument("--json", action="store_true", help="tokens as JSON")


def _add_inspect(commands: Commands) -> None:
    summary = "show what a data set holds"
    command = commands.add_parser("inspect", help=summary, description=summary)
    _add_dataset(command)
    command.add_argument("--pack", type=int, metavar="N", help="decode pack N, with its documents' borders")
    command.add_argument("--holdout", action="store_true", help="count and decode the holdout's packs; needs --pack")
    command.set_defaults(run=_inspect)


def _add_verify(commands: Commands) -> None:
    summary = "check a data set against its manifest"
    command = commands.add_parser("verify", help=summary, description=summary)
    _add_dataset(command)
    command.add_argument("--deep", action="store_true", help="read every token: hashes, ids, channels, totals")
    command.set_defaults(run=_verify)


def _add_certify(commands: Commands) -> None:
    summary = "compare every row of a data set with what transformers makes of it"
    command = commands.add_parser("certify", help=summary, description=summary)
    _add_dataset(command)
    _add_config(command)
    command.add_argument("-n", type=positive, metavar="ROWS", help="rows of each source (default: all)")
    command.set_defaults(run=_certify)


def _add_clean(commands: Commands) -> None:
    summary = "list, and with --delete remove, what builds have left behind that nothing needs"
    command = commands.add_parser("clean", help=summary, description=summary)
    command.add_argument("output", metavar="OUTPUT", help="the output folder of builds")
    command.add_argument(
        "--older-than",
        type=age,
        default="24h",
        metavar="AGE",
        help="such as 90m, 24h or 7d, an hour at least; what is younger stays (default: %(default)s)",
    )
    command.add_argument("--delete", action="store_true", help="remove it; it is listed alone otherwise")
    command.add_argument("--profile", metavar="NAME", help="options of its store, from the profiles file")
    command.set_defaults(run=_clean)


def _build(args: argparse.Namespace) -> int:
    runner = choose_runner(args.runner)
    with started_pool(runner, args.workers, debug=args.debug) as pool:  # it loads while this process does
        from pipeline.config import load_config
        from pipeline.console import make_console
        from pipeline.launch import build
        from pipeline.report import print_summary

        result = build(
            load_config(args.config, args.overrides),
            runner=runner,
            workers=args.workers,
            beam_args=args.beam_args,
            console=make_console(stderr=True),
            debug=args.debug,
            check=args.check,
            pool=pool,
        )
    print_summary(result, make_console())
    return BUILT


def _watch(args: argparse.Namespace) -> int:
    from pipeline.config import load_config
    from pipeline.console import make_console
    from pipeline.watch.loop import watch
    from pipeline.watch.stop import stop_on_signals

    with stop_on_signals() as stop:
        watch(
            load_config(args.config, args.overrides),
            once=args.once,
            runner=args.runner,
            workers=args.workers,
            beam_args=args.beam_args,
            console=make_console(stderr=True),
            debug=args.debug,
            stop=stop,
        )
    return BUILT


def _plan(args: argparse.Namespace) -> int:
    from pipeline.build_plan import plan_build, with_engine
    from pipeline.config import load_config
    from pipeline.console import make_console
    from pipeline.report import print_plan

    config = load_config(args.config, args.overrides)
    print_plan(*with_engine(plan_build(config), config.engine), make_console())
    return BUILT


def _preview(args: argparse.Namespace) -> int:
    from pipeline.build_plan import plan_build
    from pipeline.config import load_config
    from pipeline.console import make_console
    from pipeline.preview import preview, print_json, print_rows
    from schemas.policy import parse_policy

    policies = [parse_policy(text) for text in args.policies]
    rows = preview(plan_build(load_config(args.config, args.overrides)), args.n, policies)
    if args.json:
        print_json(rows)
    else:
        print_rows(rows, make_console())
    return BUILT


def _inspect(args: argparse.Namespace) -> int:
    from pipeline.console import make_console
    from pipeline.inspect import print_dataset, print_pack

    if args.pack is not None:
        print_pack(
            args.dataset,
            args.pack,
            make_console(),
            args.profile,
            holdout=args.holdout,
            generation=args.generation,
        )
    elif args.holdout:
        raise ConfigError("--holdout shows a pack of the holdout; say which one with --pack N")
    else:
        print_dataset(args.dataset, make_console(), args.profile, generation=args.generation)
    return BUILT


def _verify(args: argparse.Namespace) -> int:
    from pipeline.verify import verify

    problems = 0
    for problem in verify(args.dataset, args.profile, deep=args.deep, generation=args.generation):
        problems += 1
        print(problem)
    if problems:
        advice = "remove the damaged files and build with --check, or watch, again, which keeps what is whole"
        print(f"{problems} problems: the data set is damaged; {advice}", file=sys.stderr)
        return FAILED
    print("ok" if args.deep else "ok (sizes and footers; --deep reads every token)")
    return BUILT


def _certify(args: argparse.Namespace) -> int:
    from pipeline.certify.dataset import certify_dataset
    from pipeline.certify.report import print_report
    from pipeline.config import load_config
    from pipeline.console import make_console

    config = load_config(args.config, args.overrides)
    report = certify_dataset(args.dataset, config, args.n, args.profile, generation=args.generation)
    print_report(report, make_console())
    return BUILT if report.is_clean else FAILED


def _clean(args: argparse.Namespace) -> int:
    from pipeline.clean_report import clean
    from pipeline.console import make_console
    from schemas.store import dataset_folder

    clean(dataset_folder(args.output, args.profile), args.older_than, make_console(), delete=args.delete)
    return BUILT


def run() -> None:
    """The console script: main(), and no waiting for what is left behind: Beam's threads, all the modules."""
    collect_rarely()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is stopped
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    own, beam_args = _split_beam_args(given)
    args = make_parser().parse_args(own)
    args.beam_args = beam_args
    sys.path.append(os.getcwd())  # behind all others: for `custom` modules, never in the place of ours
    try:
        code: int = args.run(args)
    except KeyboardInterrupt:
        print("interrupted; start again to go on from the finished blocks", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if args.debug:
            raise
        return explain(error)
    return code


def _split_beam_args(given: list[str]) -> tuple[list[str], list[str]]:
    """The arguments before and after the first `--`."""
    at = given.index("--") if "--" in given else len(given)
    return given[:at], given[at + 1 :]
