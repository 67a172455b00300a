"""The class table of a data folder."""

from pathlib import Path

from training.data.class_table import CLASS_TABLE, class_table_of


def test_a_folder_without_a_table_has_none(tmp_path: Path) -> None:
    assert class_table_of(tmp_path) is None
    assert class_table_of(tmp_path / 'nowhere') is None


def test_the_table_lies_beside_images_and_masks(tmp_path: Path) -> None:
    (tmp_path / CLASS_TABLE).touch()

    assert class_table_of(tmp_path) == tmp_path / 'classes.yaml'


def test_a_broken_link_is_no_missing_table(tmp_path: Path) -> None:
    (tmp_path / CLASS_TABLE).symlink_to(tmp_path / 'gone')

    assert class_table_of(tmp_path) == tmp_path / CLASS_TABLE
