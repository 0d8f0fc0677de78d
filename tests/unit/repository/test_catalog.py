"""What there is to serve, now: named models and repositories under one roof."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.core.errors import SetupError
from forebay.repository.catalog import Catalog


def put(repository: Path, name: str, *versions: int) -> None:
    for version in versions:
        folder = repository / name / str(version)
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"x")


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two repositories and a file."""
    one, two, file = tmp_path / "one", tmp_path / "two", tmp_path / "net.onnx"
    put(one, "a", 1, 2)
    put(two, "b", 1)
    file.write_bytes(b"x")
    return one, two, file


def test_named_models_come_first(places: tuple[Path, Path, Path]) -> None:
    one, two, file = places
    catalog = Catalog.open([str(one), str(two), str(file)], None)
    assert catalog.first == ["net", "a", "b"]
    assert [catalog.is_named(name) for name in catalog.first] == [True, False, False]
    sources, wrong = catalog.sources()
    assert {source.name: source.version for source in sources} == {"net": "1", "a": "2", "b": "1"}
    assert wrong == []


def test_what_cannot_be_served_does_not_hide_the_rest(places: tuple[Path, Path, Path]) -> None:
    one, _, _ = places
    (one / "empty").mkdir()
    (one / "hollow" / "1").mkdir(parents=True)
    sources, wrong = Catalog.open([str(one)], None).sources()
    assert [source.name for source in sources] == ["a"]
    assert [error.message.partition(":")[0] for error in wrong] == ["model empty", "model hollow"]


def test_the_folder_of_one_model_is_no_repository(places: tuple[Path, Path, Path]) -> None:
    one, _, _ = places
    mend = f"holds version 1, 2.*not a repository; serve the folder above it, {one}, or .* --name a"
    with pytest.raises(SetupError, match=mend):
        Catalog.open([str(one / "a")], None)
    with pytest.raises(SetupError, match=r"is no repository: .* but model.onnx; serve the files by their names"):
        Catalog.open([str(one / "a" / "1")], None)


def test_a_repository_may_be_empty_or_have_models_with_a_number_for_a_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("models to come")
    assert Catalog.open([str(tmp_path)], None).first == []
    put(tmp_path, "7", 1)
    assert Catalog.open([str(tmp_path)], None).first == ["7"]
    (tmp_path / "8").mkdir()
    assert Catalog.open([str(tmp_path)], None).first == ["7", "8"]


def test_a_name_belongs_to_one_model(places: tuple[Path, Path, Path]) -> None:
    one, two, file = places
    put(two, "a", 1)
    with pytest.raises(SetupError, match="two models are called 'a'"):
        Catalog.open([str(one), str(two)], None)
    put(two, "net", 1)
    with pytest.raises(SetupError, match="two models are called 'net'"):
        Catalog.open([str(file), str(two)], None)


def test_what_appears_later_is_found_and_never_hides_what_was_there(places: tuple[Path, Path, Path]) -> None:
    one, two, file = places
    catalog = Catalog.open([str(one), str(two), str(file)], None)
    put(two, "new", 1)
    put(two, "a", 7)
    put(two, "net", 7)
    assert list(catalog.all()["new"].versions) == [1]
    for name, versions in (("a", [1, 2]), ("net", [1])):
        found = catalog.find(name)
        assert found is not None
        assert list(found.versions) == versions
        assert list(catalog.all()[name].versions) == versions
    assert set(catalog.stamps()) == {"a", "b", "new"}
    assert catalog.find("gone") is None


@pytest.mark.parametrize("name", ["..", ".", "../two/b", "a/1", "/etc", "", "a\0"])
def test_a_name_never_becomes_a_path(places: tuple[Path, Path, Path], name: str) -> None:
    assert Catalog.open([str(places[0])], None).find(name) is None


def test_a_repository_that_cannot_be_read_has_not_lost_its_models(places: tuple[Path, Path, Path]) -> None:
    one, two, _ = places
    catalog = Catalog.open([str(one), str(two)], None)
    two.rename(two.with_name("elsewhere"))
    with pytest.raises(SetupError, match="cannot be read"):
        catalog.stamps()
    assert set(catalog.all()) == {"a"}


def test_a_named_model_is_what_its_files_are_now(places: tuple[Path, Path, Path]) -> None:
    file = places[2]
    found = Catalog.open([str(file)], "x").find("x")
    assert found is not None
    assert found.files(1) == [file]
    file.with_suffix(".toml").write_text("threads = 2")
    assert found.files(1) == [file, file.with_suffix(".toml")]
    file.unlink()
    with pytest.raises(SetupError, match="there is no file"):
        found.source(1)
