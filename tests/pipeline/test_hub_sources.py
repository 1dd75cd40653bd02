"""Files of a data set on the Hugging Face hub: found and told apart as its library tells of them, without a network."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Source
from pipeline.readers.files import SourceChanged, check_unchanged
from pipeline.readers.listing import list_files
from schemas.file_system import find_file_system

pytest.importorskip("huggingface_hub")


class StubApi:
    """One repository with one file."""

    blob = "1" * 40

    def repo_info(self, *_: Any, **__: Any) -> None:
        pass

    def list_repo_tree(self, repository: str, path: str, **_: Any) -> list[Any]:
        from huggingface_hub.hf_api import RepoFolder

        return [RepoFolder(path="data", oid="0" * 40)] if path == "" else self.get_paths_info()

    def get_paths_info(self, *_: Any, **__: Any) -> list[Any]:
        from huggingface_hub.hf_api import RepoFile

        return [RepoFile(path="data/a.jsonl", size=5, oid=self.blob)]


def test_a_file_is_known_by_its_blob(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pattern = "hf://datasets/me/rows/data/*.jsonl"
    api = StubApi()
    fs, _ = find_file_system(pattern)
    monkeypatch.setattr(fs, "_api", api)
    fs.invalidate_cache()
    (file,) = list_files(0, Source.model_validate({"path": pattern, "transform": {"type": "openai"}}))
    assert (file.url, file.size, file.etag) == ("hf://datasets/me/rows/data/a.jsonl", 5, "1" * 40)
    check_unchanged(file)
    api.blob = "2" * 40
    with pytest.raises(SourceChanged, match="etag 2222"):
        check_unchanged(file)
