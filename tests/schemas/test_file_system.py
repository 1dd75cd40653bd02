"""File systems of URLs: what is missing is said with what to type; profiles and secrets."""

import importlib
import os
import sys
import time
from pathlib import Path

import pytest

from schemas.errors import ConfigError
from schemas.file_system import find_file_system
from schemas.profiles import VARIABLE, storage_options
from schemas.urls import check_url, without_secrets


@pytest.mark.parametrize(
    ("url", "library", "extra"),
    [
        ("s3://bucket/a", "s3fs", "s3"),
        ("gs://bucket/a", "gcsfs", "gcs"),
        ("abfs://box/a", "adlfs", "azure"),
        ("hf://datasets/me/a", "huggingface_hub", "hf"),
    ],
)
def test_a_missing_library(url: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, object] = {}
    registry = importlib.import_module("fsspec.registry")
    monkeypatch.setattr(registry, "_registry", found)
    monkeypatch.setattr(registry, "registry", found)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=rf"pip install 'packline\[{extra}\]'"):
        find_file_system(url)


def test_an_unknown_scheme() -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        find_file_system("nowhere://bucket/a")


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "profiles.yaml"
    path.write_text("lab: {endpoint_url: 'http://127.0.0.1:1', key: K1, secret: SECRET}\nempty:\n")
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def test_a_profile_s_options(profiles: Path) -> None:
    assert storage_options(None) == {}
    assert storage_options("lab")["key"] == "K1"
    fs, path = find_file_system("s3://bucket/a", "lab")
    assert (fs.key, fs.secret, fs.endpoint_url, path) == ("K1", "SECRET", "http://127.0.0.1:1", "bucket/a")
    assert find_file_system("s3://bucket/a")[0].key is None


def test_new_keys_are_taken_up(profiles: Path) -> None:
    assert storage_options("lab")["key"] == "K1"
    profiles.write_text("lab: {key: K2}\n")
    os.utime(profiles, ns=(time.time_ns(), time.time_ns() + 10**9))
    assert storage_options("lab")["key"] == "K2"


@pytest.mark.parametrize("text", ["lab: {secret: SECRET", "[SECRET]", "lab: SECRET", ""])
def test_no_error_tells_a_secret(profiles: Path, text: str) -> None:
    profiles.write_text(text)
    with pytest.raises(ConfigError, match="profile 'lab'") as caught:
        storage_options("lab")
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["gone", "empty"])
def test_a_profile_that_is_not_there(profiles: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="it has lab, empty"):
        storage_options(name)


def test_no_profiles_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read.*PACKLINE_PROFILES"):
        storage_options("lab")


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:SECRET@bucket/a",
        "https://SECRET@host/a",
        "https://host/a?SECRET",
        "abfs://box/a.jsonl?sv=2024&sig=SECRET",
        "abfs://box@account.dfs.core.windows.net/a?sig=SECRET",
        "gs://bucket/a::b?sig=SECRET",
    ],
)
def test_urls_with_secrets_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"sources\.0\.path: ") as caught:
        check_url("sources.0.path", url)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/part?/day=1/*.jsonl",
        "abfs://box@account.dfs.core.windows.net/a",
        "/data/rows?.jsonl",
        "rows@home.jsonl",
        "hf://datasets/me/rows@main/a.jsonl",
    ],
)
def test_other_urls_are_taken(url: str) -> None:
    check_url("output", url)


def test_an_azure_container_is_no_user() -> None:
    url = "abfs://box@account.dfs.core.windows.net/a"
    assert without_secrets(f"{url}?sig=x") == url
    assert without_secrets(url.replace("box@", "box:secret@")) == "abfs://account.dfs.core.windows.net/a"
