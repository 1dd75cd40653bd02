"""The configs under examples/train and examples/sums: valid, and each build makes what its training run reads."""

from pathlib import Path

import pytest

from pipeline.config import BuildConfig, load_config
from schemas.settings import load_settings
from train.config import ModelFolder, TrainConfig

EXAMPLES = Path(__file__).parents[1] / "examples"
FOLDER = EXAMPLES / "train"
MODELS = sorted(path.name.removesuffix(".build.yaml") for path in FOLDER.glob("*.build.yaml"))
SUMS = (EXAMPLES / "sums" / "build.yaml", EXAMPLES / "sums" / "train.yaml")
PAIRS = [*((FOLDER / f"{name}.build.yaml", FOLDER / f"{name}.yaml") for name in MODELS), SUMS]

each_pair = pytest.mark.parametrize(("build", "train"), PAIRS, ids=[*MODELS, "sums"])


def load(build: Path, train: Path) -> tuple[BuildConfig, TrainConfig]:
    return load_config(build), load_settings(TrainConfig, train, [])


def test_every_file_is_one_of_a_pair() -> None:
    assert {"qwen2.5-0.5b", "llama-3.2-1b", "llama-3.1-8b"} <= set(MODELS)
    assert {path for pair in PAIRS for path in pair if path.parent == FOLDER} == set(FOLDER.glob("*.yaml"))


@each_pair
def test_the_run_reads_what_the_build_makes(build: Path, train: Path) -> None:
    made, trained = load(build, train)
    assert [dataset.path for dataset in trained.datasets] == [made.output]
    assert not any(dataset.holdout for dataset in trained.datasets)
    assert not trained.output.is_relative_to(made.output)


@each_pair
def test_it_is_validated_on_what_the_build_holds_out(build: Path, train: Path) -> None:
    made, trained = load(build, train)
    validation = trained.validation.datasets if trained.validation else ()
    assert bool(validation) == (made.holdout > 0)
    assert all((dataset.path, dataset.holdout) == (made.output, True) for dataset in validation)


@each_pair
def test_model_and_tokenizer_belong_together(build: Path, train: Path) -> None:
    made, trained = load(build, train)
    if isinstance(trained.model, ModelFolder):
        assert trained.model.path == Path(made.tokenizer.path)
        assert trained.model.weights == "pretrained"
    else:
        assert trained.model.vocab_size is None


@each_pair
def test_the_schema_that_an_editor_is_told_of_is_there(build: Path, train: Path) -> None:
    for path, kind in ((build, "build"), (train, "train")):
        comment, _, schema = path.read_text("utf-8").partition("\n")[0].partition("=")
        assert comment == "# yaml-language-server: $schema"
        assert (path.parent / schema).resolve().name == f"{kind}.schema.json"
        assert (path.parent / schema).is_file()
