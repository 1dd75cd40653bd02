"""Publishing and cleaning on real servers: moto refuses a second file of a name, JuiceFS' gateway does not."""

from datetime import UTC, datetime, timedelta

import pytest
from publishing import Built, make_two_builds, publish_together, watched
from servers import Store

from pipeline.clean import find_orphans, remove_orphans, store_time
from pipeline.exclusive import refuses_second
from pipeline.in_use import STARTED
from pipeline.launch import check_writable
from pipeline.uploads import unfinished_uploads
from schemas.errors import DatasetError
from schemas.file_system import find_file_system
from schemas.manifest import MANIFEST, Manifest, decode_manifest, named_files
from schemas.store import Folder

pytestmark = pytest.mark.slow


@pytest.fixture(params=["moto", "juicefs"])
def s3_store(request: pytest.FixtureRequest) -> Store:
    store: Store = request.getfixturevalue(f"{request.param}_store")
    return store


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, Built]:
    return make_two_builds(tmp_path_factory.mktemp("builds"))


def test_the_probe_tells_the_servers_apart(s3_store: Store) -> None:
    folder = s3_store.new_folder()
    is_careful = s3_store.profile == "moto"
    assert refuses_second(folder) == is_careful
    assert len(check_writable(folder)) == (not is_careful)
    assert not folder.files("")


def test_two_builds_at_once(builds: tuple[Built, Built], s3_store: Store) -> None:
    """Of one config both succeed, of two recipes one does, and a reader never finds half a data set."""
    for together in ((0, 0), (0, 1)):
        output = s3_store.new_folder()
        ready = [builds[number].ready_in(output) for number in together]
        with watched(output) as problems:
            outcomes = publish_together(*ready)
        published = decode_manifest(output.read(MANIFEST), MANIFEST)
        assert [outcome for outcome in outcomes if isinstance(outcome, Manifest)] == [published] * (2 - together[1])
        assert all("another data set" in str(each) for each in outcomes if isinstance(each, DatasetError))
        assert not problems


def test_cleaning_leaves_the_data_set_and_aborts_stale_uploads(builds: tuple[Built, Built], s3_store: Store) -> None:
    output = s3_store.new_folder()
    builds[1].ready_in(output)  # and never published
    manifest = builds[0].ready_in(output).publish()
    fs, path = find_file_system(output.url, output.profile)
    bucket, key, _ = fs.split_path(path)
    for folder in (key, f"{key}-other"):
        fs.call_s3("create_multipart_upload", Bucket=bucket, Key=f"{folder}/shards/a.arrow")
    now = store_time(output)
    assert abs(now - datetime.now(UTC)) < timedelta(seconds=60)
    age = timedelta(hours=24)
    assert not find_orphans(output, age, now).orphans
    later = find_orphans(output, age, now + age * 2)
    assert len(later.uploads) == 1
    remove_orphans(output, later)
    left = {file.name for file in output.files("") if not file.name.startswith("tokenizer/")}
    assert left == {MANIFEST, STARTED, *(file.name for file in named_files(manifest))}
    assert not unfinished_uploads(output, ["shards"])
    assert unfinished_uploads(Folder(f"{output.url}-other", output.profile), ["shards"])
