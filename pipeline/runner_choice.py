"""Which Beam runner a build may use: by name, before Beam is loaded."""

from schemas.errors import ConfigError

EMBEDDED = "FnApiRunner"
"""Beam's own, in this process and in worker processes of ours."""

KNOWN = {
    name.lower(): name
    for name in (EMBEDDED, "PortableRunner", "FlinkRunner", "SparkRunner", "DataflowRunner", "PrismRunner")
}
_WORKERS = {
    "FlinkRunner": "-- --parallelism=N, and --sdk_worker_parallelism=N for the processes of a task manager",
    "SparkRunner": "Spark's own settings of executors and cores",
    "DataflowRunner": "-- --num_workers=N, or --max_num_workers=N",
}
REFUSED = {
    "daskrunner": "it drops outputs (those of finish_bundle and of side branches), so a build would lose data",
    "directrunner": "it is one of three runners, by what the machine has and may download",
    "switchingdirectrunner": "it is one of three runners, by what the machine has and may download",
    "bundlebaseddirectrunner": "Beam keeps it for streaming tests, and it is many times slower",
    "interactiverunner": "it keeps every intermediate result for a notebook: here, all tokens",
    "testdirectrunner": "it is for Beam's own tests",
    "testdataflowrunner": "it is for Beam's own tests",
    "kafkastreamsrunner": "it is an experiment that no Beam release contains",
}


def choose_runner(name: str) -> str:
    """The runner's name as Beam spells it; a dotted name, of a class of the user's, as it is.

    Raises ConfigError for a runner that is unknown, or is known to be wrong for a build.
    """
    short = name.rpartition(".")[2].lower()
    short = short if short.endswith("runner") else f"{short}runner"
    if short in REFUSED:
        raise ConfigError(f"--runner {name}: {REFUSED[short]}; use {EMBEDDED} (the default), or one of a cluster")
    if "." in name:
        return name
    if short not in KNOWN:
        raise ConfigError(f"--runner {name}: there is no such runner; known are {', '.join(KNOWN.values())}")
    return KNOWN[short]


def check_workers(runner: str, workers: int | None) -> None:
    """Raises ConfigError where a number of processes is asked of a runner that starts none of ours."""
    if workers is not None and runner != EMBEDDED:
        where = _WORKERS.get(runner, "the options of its job service, after --")
        raise ConfigError(f"--workers is for the runner {EMBEDDED} alone; {runner} takes it from {where}")
