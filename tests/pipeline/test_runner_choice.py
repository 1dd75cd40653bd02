"""Which runner, with which options: what cannot be meant is refused before anything is read."""

import contextlib
import logging
import signal
from typing import Any

import pytest

from pipeline.beam_log import kept_log
from pipeline.beam_options import JobOptions, parse_options
from pipeline.job import prepare_options, run_submitted
from pipeline.runner_choice import KNOWN, REFUSED, check_workers, choose_runner
from schemas.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ("FnApiRunner", "FnApiRunner"),
        ("flink", "FlinkRunner"),
        ("sparkrunner", "SparkRunner"),
        ("Dataflow", "DataflowRunner"),
        ("my.own.Runner", "my.own.Runner"),
    ],
)
def test_a_runner_is_found_by_its_name(given: str, chosen: str) -> None:
    assert choose_runner(given) == chosen


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("DaskRunner", "drops outputs"),
        ("apache_beam.runners.dask.dask_runner.DaskRunner", "drops outputs"),
        ("DirectRunner", "one of three runners"),
        ("direct", "use FnApiRunner"),
        ("InteractiveRunner", "notebook"),
        ("FlikRunner", "known are FnApiRunner, PortableRunner, FlinkRunner"),
    ],
)
def test_a_runner_that_would_lose_data_or_is_another_each_time_is_refused(given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        choose_runner(given)


def test_every_runner_that_beam_names_is_known_or_refused() -> None:
    from apache_beam.options.pipeline_options import StandardOptions

    assert {name.lower() for name in StandardOptions.KNOWN_RUNNER_NAMES} <= {*KNOWN, *REFUSED}


def test_workers_are_those_of_the_embedded_runner() -> None:
    check_workers("FnApiRunner", 4)
    check_workers("FlinkRunner", None)
    with pytest.raises(ConfigError, match="--parallelism=N"):
        check_workers("FlinkRunner", 4)
    with pytest.raises(ConfigError, match="its job service"):
        check_workers("PortableRunner", 1)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--runner=FlinkRunner", "before the --"),
        ("--direct_num_workers=3", "give --workers"),
        ("--streaming", "batch job"),
        ("--flink_mster=x", "has no option --flink_mster=x; did you mean --flink_master?"),
        ("word", "has no option word"),
        ("--parallelism=many", "invalid int value: 'many'"),
        ("--flink_version=1.2", "invalid choice"),
    ],
)
def test_options_that_beam_would_pass_over_are_refused(flag: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_options([flag], has_job_service=False)


def test_a_job_service_has_options_of_its_own() -> None:
    """As Flink's checkpointing_interval, which only its job server knows."""
    options = parse_options(["--checkpointing_interval=5", "--parallelism=3"], has_job_service=True)
    assert isinstance(options, JobOptions)
    found = options.get_all_options(add_extra_args_fn=lambda parser: parser.add_argument("--checkpointing_interval"))
    assert (found["checkpointing_interval"], found["parallelism"]) == ("5", 3)
    with pytest.raises(ConfigError, match="no option --checkpointing_interval=5"):
        options.get_all_options(add_extra_args_fn=lambda parser: None)


def test_the_job_server_is_out_of_the_terminals_reach() -> None:
    from apache_beam.options.pipeline_options import JobServerOptions

    options = parse_options(["--job_server_jvm_property=-Xmx1g"], has_job_service=True)
    prepare_options(options)
    server = options.view_as(JobServerOptions)
    command = [server.job_server_java_launcher, *server.job_server_jvm_properties]
    assert command[-2:] == ["java", "-Xmx1g"]


def test_no_file_goes_with_a_job() -> None:
    """Flink's job server would leave it on its own disk, where no worker finds it."""
    from apache_beam.options.pipeline_options import SetupOptions
    from apache_beam.transforms.environments import python_sdk_dependencies

    options = parse_options([], has_job_service=True)
    prepare_options(options)
    options.view_as(SetupOptions).sdk_location = "container"  # as Beam sets it
    assert list(python_sdk_dependencies(options)) == []


class Job:
    """A pipeline, its runner, its job server and its result."""

    def __init__(self, ending: BaseException | None) -> None:
        self.ending = ending
        self.events: list[str] = []
        self.runner = self

    def default_job_server(self, options: Any) -> Any:
        return self

    def run(self) -> Any:
        self.runner.default_job_server(None)
        signal.signal(signal.SIGINT, lambda *_: self.stop())
        self.events.append("run")
        return self

    def wait_until_finish(self) -> None:
        if self.ending is not None:
            raise self.ending

    def cancel(self) -> None:
        self.events.append("cancel")
        raise ConnectionError

    def stop(self) -> None:
        self.events.append("stop")


@pytest.mark.parametrize(
    ("ending", "events"),
    [
        (None, ["run", "stop"]),
        (RuntimeError(), ["run", "stop"]),
        (KeyboardInterrupt(), ["run", "cancel", "stop"]),
        (SystemExit(), ["run", "cancel", "stop"]),
    ],
)
def test_an_interrupt_cancels_the_job_and_then_stops_its_server(
    ending: BaseException | None, events: list[str]
) -> None:
    job, handler = Job(ending), signal.getsignal(signal.SIGINT)
    with contextlib.nullcontext() if ending is None else pytest.raises(type(ending)):
        run_submitted(job)
    assert job.events == events
    assert signal.getsignal(signal.SIGINT) == handler


def test_the_log_is_kept_back(capsys: pytest.CaptureFixture[str]) -> None:
    with kept_log(debug=False) as log:
        logging.getLogger("FlinkJarJobServer").info("starting")
        logging.getLogger("apache_beam.runners").info("not kept")
        for number in range(30):
            logging.getLogger().warning("line %d", number)
    assert len(log.lines) == 20
    assert log.lines[-1] == "line 29"
    assert capsys.readouterr().err == ""
