"""Exports of many pictures: what an import holds in memory, and how often it looks at each."""

import base64
import json
from pathlib import Path
import tracemalloc
from typing import Any

import pytest

from training.label_exports import coco, labelme
from training.label_exports.records import Export, ExportFrame
from training.label_exports.shapes import painter
from training.label_exports.source import ExportFile, open_export
from training.label_folders import pictures


def test_pictures_within_labelme_files_are_read_when_they_are_wanted(tmp_path: Path) -> None:
    content = b'\x89PNG' + bytes(100_000)
    for number in range(20):
        document = {'shapes': [], 'imageData': base64.b64encode(content).decode()}
        (tmp_path / f'{number}.json').write_text(json.dumps(document))
    with open_export(tmp_path) as files:
        tracemalloc.start()
        try:
            frames = labelme.read(files).frames
            assert tracemalloc.get_traced_memory()[0] < 100_000
        finally:
            tracemalloc.stop()
        assert [frame.image and frame.image.read() for frame in frames] == [content] * 20


def test_annotations_of_coco_are_let_go_of_as_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document: dict[str, Any] = {
        'images': [{'id': 1, 'file_name': '1.jpg'}],
        'categories': [{'id': 1, 'name': 'rock'}],
        'annotations': [
            {'id': k, 'image_id': 1, 'category_id': 1, 'segmentation': [[0, 0, 5, 0, 5, 5]]}
            for k in range(3)
        ],
    }
    (tmp_path / 'a.json').write_text('{}')
    monkeypatch.setattr(ExportFile, 'json', lambda _: document)
    with open_export(tmp_path) as files:
        export = coco.read(files)
    assert not export.faults
    assert document['annotations'] == [None] * 3


def test_of_many_pictures_of_one_name_each_is_looked_for_in_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number in range(30):
        (tmp_path / f'iid{number}').mkdir()
        (tmp_path / f'iid{number}/rgb.jpg').touch()
    compared = 0
    ends_alike = pictures._ends_alike

    def counted(have: Any, want: Any) -> bool:
        nonlocal compared
        compared += 1
        return ends_alike(have, want)

    monkeypatch.setattr(pictures, '_ends_alike', counted)
    names = [f'Set/IID{number}/rgb.png' for number in range(30)]
    export = Export(frames=[ExportFrame(name, None, painter([])) for name in names])
    with open_export(tmp_path) as files:
        found = pictures.find_pictures(export, [files], keep_unlabelled=True)
    assert not found.faults
    assert not found.missing
    assert len(found.frames) == 30
    assert compared == 30
