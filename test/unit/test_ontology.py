"""Class tables: the shipped ones, validation, hashing, and decoding of raw labels."""

import json
from pathlib import Path
import re
import time
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
import pytest
import yaml

from desertmind_seg.model.ontology import (
    UNLABELED,
    Ontology,
    OntologyError,
    available_ontologies,
    load_ontology,
)

# Name: classes, SHA-256. A bundle carries this hash, so a change to a table is a deliberate act:
# it makes every bundle, checkpoint and bag of the old table foreign.
SHIPPED = {
    'desert-10': (10, '66aa44d8e993'),
    'goose-64': (63, '8ab38451f874'),
    'nyuv2-13': (13, '2f86261fa950'),
    'nyuv2-40': (40, '51d64804be55'),
    'rellis-20': (19, '34188a465def'),
    'rugd-24': (24, '3df2184fa1c5'),
    'ycor-8': (8, 'cbe997862495'),
}


def table(**changes: Any) -> dict[str, Any]:
    """Return the document of a valid table of three classes, with `changes`."""
    classes = [
        {'id': 0, 'name': 'trail', 'raw': [10, 11], 'color_rgb': [1, 2, 3]},
        {'id': 1, 'name': 'rock', 'raw': [600], 'color_rgb': [4, 5, 6]},
        {'id': 2, 'name': 'sky', 'raw': [65535], 'color_rgb': [7, 8, 9]},
    ]
    for entry, group, cost in zip(
        classes, ('traversable', 'obstacle', 'background'), (0, 254, 254), strict=True
    ):
        entry.update(group=group, cost=cost)
    document = {
        'name': 'test-3',
        'description': 'd',
        'source': 's',
        'classes': classes,
        'ignore_raw': [0],
    }
    return {**document, **changes}


def changed_class(position: int, **changes: Any) -> dict[str, Any]:
    document = table()
    document['classes'][position].update(changes)
    return document


def write(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / 'test-3.yaml'
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def ontology(tmp_path: Path) -> Ontology:
    return load_ontology(write(tmp_path, table()))


def test_all_seven_tables_are_shipped() -> None:
    assert available_ontologies() == tuple(SHIPPED)


@pytest.mark.parametrize('name', SHIPPED)
def test_shipped_table(name: str) -> None:
    ontology = load_ontology(name)
    num_classes, sha256 = SHIPPED[name]
    assert ontology.name == name
    assert ontology.num_classes == num_classes
    assert ontology.sha256.startswith(sha256)
    colors = {entry.color_rgb for entry in ontology.classes}
    assert len(colors) == num_classes
    assert (0, 0, 0) not in colors  # black is UNLABELED
    assert [entry.name for entry in ontology.classes if entry.group == 'traversable']
    assert all(entry.cost == 254 for entry in ontology.classes if entry.name == 'sky')


def test_desert_10_uses_the_publishers_names() -> None:
    ontology = load_ontology('desert-10')
    assert {entry.raw: entry.name for entry in ontology.classes} == {
        (100,): 'trees',
        (200,): 'lush bushes',
        (300,): 'dry grass',
        (500,): 'dry bushes',
        (550,): 'ground clutter',
        (600,): 'flowers',
        (700,): 'logs',
        (800,): 'rocks',
        (7100,): 'landscape',
        (10000,): 'sky',
    }
    assert ontology.ignore_raw == ()


def test_ycor_8_keeps_the_sets_order_after_unlabelled() -> None:
    ontology = load_ontology('ycor-8')
    assert [entry.raw for entry in ontology.classes] == [(code,) for code in range(1, 9)]
    assert ontology.names == (
        'smooth trail',
        'traversable grass',
        'rough trail',
        'puddle',
        'obstacle',
        'non-traversable low vegetation',
        'high vegetation',
        'sky',
    )


def test_nyuv2_13_groups_the_40_classes() -> None:
    thirteen, forty = load_ontology('nyuv2-13'), load_ontology('nyuv2-40')
    owner = {code: entry.name for entry in thirteen.classes for code in entry.raw}
    names = {forty.classes[code].name: group for code, group in owner.items()}
    assert len(names) == 39
    assert names['blinds'] == 'window'
    assert names['bookshelf'] == 'furniture'
    assert names['floor mat'] == 'floor'
    assert names['mirror'] == 'objects'
    assert names['sofa'] == 'sofa'
    assert names['desk'] == 'table'
    assert names['television'] == 'tv'
    assert names['otherfurniture'] == 'furniture'
    assert 'otherprop' not in names


def test_void_of_each_source_is_ignored() -> None:
    assert load_ontology('rellis-20').ignore_raw == (0,)
    assert load_ontology('goose-64').ignore_raw == (0,)
    assert load_ontology('rugd-24').ignore_raw == (0,)
    assert load_ontology('nyuv2-40').ignore_raw == (39,)


def test_hash_covers_meaning_but_not_prose() -> None:
    reference = Ontology.model_validate_json(json.dumps(table())).sha256
    prose = table(description='other words', source='another paper')
    reordered = changed_class(0, raw=[11, 10])
    for document in (prose, reordered):
        assert Ontology.model_validate_json(json.dumps(document)).sha256 == reference
    meanings = [
        changed_class(0, name='road'),
        changed_class(0, raw=[10]),
        changed_class(0, color_rgb=[1, 2, 4]),
        changed_class(0, cost=1),
        changed_class(0, group='obstacle'),
        table(ignore_raw=[]),
        table(name='test-4'),
    ]
    hashes = {Ontology.model_validate_json(json.dumps(document)).sha256 for document in meanings}
    assert len(hashes | {reference}) == len(meanings) + 1


def test_look_up_tables(ontology: Ontology) -> None:
    assert ontology.colors_rgb.shape == (256, 3)
    assert ontology.colors_rgb[1].tolist() == [4, 5, 6]
    assert ontology.colors_rgb[UNLABELED].tolist() == [0, 0, 0]
    assert ontology.costs.tolist() == [0, 254, 254]
    assert ontology.class_id('sky') == 2
    with pytest.raises(OntologyError, match=r"test-3 has no class 'mud'.*trail, rock, sky"):
        ontology.class_id('mud')


@pytest.mark.parametrize(
    ('document', 'message'),
    [
        (changed_class(1, id=2), "class 'rock' at position 1 has id 2; ids must be 0..2"),
        (changed_class(2, id=5), "class 'sky' at position 2 has id 5"),
        (changed_class(2, name='rock'), "classes 1 and 2 are both named 'rock'; rename one"),
        (changed_class(2, raw=[600]), "raw code 600 of class 'sky' already belongs to 'rock'"),
        (changed_class(2, raw=[3, 3]), "raw code 3 of class 'sky' already belongs to 'sky'"),
        (changed_class(2, raw=[0]), "raw code 0 of class 'sky' already belongs to 'ignore_raw'"),
        (table(ignore_raw=[4, 4]), r'ignore_raw \[4, 4\] repeats a code'),
        (
            changed_class(0, color_rgb=[1, 256, 3]),
            r"classes.0.color_rgb.1 \(class 'trail'\): .*less than or equal to 255, not 256",
        ),
        (
            changed_class(0, color_rgb=[1, 2]),
            r"classes.0.color_rgb.2 \(class 'trail'\): Field req",
        ),
        (changed_class(0, cost=255), r"classes.0.cost \(class 'trail'\): .*to 254, not 255"),
        (changed_class(0, cost=-1), r"classes.0.cost \(class 'trail'\): .*to 0, not -1"),
        (changed_class(0, cost='low'), r"classes.0.cost \(class 'trail'\): .*integer, not 'low'"),
        (changed_class(0, raw=[70000]), r"classes.0.raw.0 \(class 'trail'\): .*65535, not 70000"),
        (changed_class(0, name='Trail'), r"classes.0.name .*pattern.*, not 'Trail'"),
        (changed_class(0, group='road'), r"classes.0.group \(class 'trail'\): .*'traversable'"),
        (changed_class(0, colour=[1, 2, 3]), r"classes.0.colour \(class 'trail'\): Extra inputs"),
        (table(classes=[]), 'classes: .*at least 1 item'),
        ({'name': 'test-3'}, 'description: Field required; source: Field required'),
        ([1, 2], 'is a list; expected a mapping'),
        ({**table(), 'source': {'a'}}, "'set' is no kind of value that is read here"),
    ],
)
def test_invalid_table_names_class_and_value(tmp_path: Path, document: Any, message: str) -> None:
    path = write(tmp_path, document)
    with pytest.raises(OntologyError, match=f'^{re.escape(str(path))}:? .*{message}'):
        load_ontology(path)


def test_a_table_of_the_home_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A shell leaves ontology=~/mine.yaml to the program.
    monkeypatch.setenv('HOME', str(tmp_path))
    shipped = load_ontology('ycor-8')
    (tmp_path / 'mine.yaml').write_text(json.dumps(shipped.model_dump(mode='json')))
    assert load_ontology('~/mine.yaml') == shipped


def test_text_that_is_not_yaml(tmp_path: Path) -> None:
    path = tmp_path / 'broken.yaml'
    path.write_text('classes: [')
    with pytest.raises(OntologyError, match=r'broken\.yaml is not YAML'):
        load_ontology(path)


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('ycor-9', " (did you mean 'ycor-8'?)"),
        ('YCOR_8', " (did you mean 'ycor-8'?)"),
        ('../ontologies/ycor-8', " (did you mean 'ycor-8'?)"),
        ('', ''),
        ('nothing-like-it', ''),
        ('absent.yaml', ''),
        ('farm/absent.yml', ''),
    ],
)
def test_what_is_no_table_lists_the_shipped_ones(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = f'no ontology {name!r}{said}; shipped are desert-10, '
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        load_ontology(name)


def test_tables_cannot_be_changed(ontology: Ontology) -> None:
    with pytest.raises(ValidationError, match='frozen'):
        ontology.name = 'other'  # type: ignore[misc]
    with pytest.raises(ValueError, match='read-only'):
        ontology.colors_rgb[0] = 1


@pytest.mark.parametrize('dtype', [np.uint16, np.int32, np.uint32, np.int64, '>u2'])
def test_from_raw_equals_a_naive_loop(ontology: Ontology, dtype: npt.DTypeLike) -> None:
    rng = np.random.default_rng(3)
    raw = rng.choice([0, 10, 11, 600, 65535], (37, 53)).astype(dtype)
    meaning = {0: UNLABELED, 10: 0, 11: 0, 600: 1, 65535: 2}
    expected = [[meaning[int(code)] for code in row] for row in raw]
    ids = ontology.from_raw(raw, 'labels.png')
    assert ids.dtype == np.uint8
    assert ids.tolist() == expected


def test_from_raw_of_uint8() -> None:
    raw = np.array([[0, 1, 8], [4, 2, 0]], np.uint8)
    ids = load_ontology('ycor-8').from_raw(raw, 'labels.png')
    assert ids.tolist() == [[255, 0, 7], [3, 1, 255]]


@pytest.mark.parametrize(
    ('raw', 'codes'),
    [
        (np.array([[10, 12], [12, 9]], np.uint8), r'9 \(1 px\), 12 \(2 px\)'),
        (np.array([[10, 65534]], np.uint16), r'65534 \(1 px\)'),
        (np.array([[10, -1], [-1, 12]], np.int32), r'-1 \(2 px\), 12 \(1 px\)'),
        (np.array([[10, -1]], np.int8), r'-1 \(1 px\)'),
        (np.array([[10, 65536 + 10]], np.int64), r'65546 \(1 px\)'),
    ],
)
def test_unknown_code_is_an_error_with_its_count(
    ontology: Ontology, raw: npt.NDArray[np.integer[Any]], codes: str
) -> None:
    pattern = rf'^frame 7: raw codes that test-3 does not list: {codes}\. It lists 10, 11, 600'
    with pytest.raises(OntologyError, match=pattern):
        ontology.from_raw(raw, 'frame 7')


@pytest.mark.parametrize(
    'raw', [np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.float32), np.zeros(4, np.uint8)]
)
def test_labels_of_another_form_are_refused(ontology: Ontology, raw: npt.NDArray[Any]) -> None:
    with pytest.raises(OntologyError, match=r'labels have shape .*expected \(H, W\) integers'):
        ontology.from_raw(raw, 'labels.png')


def test_from_raw_takes_milliseconds() -> None:
    ontology = load_ontology('desert-10')
    codes = [code for entry in ontology.classes for code in entry.raw]
    raw = np.random.default_rng(0).choice(codes, (544, 1024)).astype(np.uint16)
    ontology.from_raw(raw, 'warm-up')
    durations_ms = []
    for _ in range(20):
        start = time.thread_time()  # not the wall clock: the machine may be busy
        ontology.from_raw(raw, 'frame')
        durations_ms.append((time.thread_time() - start) * 1e3)
    assert min(durations_ms) < 5.0


@pytest.mark.data
def test_ycor_labels_decode(shared_data_dir: Path) -> None:
    ontology = load_ontology('ycor-8')
    paths = sorted(shared_data_dir.glob('ycor/train/*/labels.png'))[::40]
    assert len(paths) > 20
    pixels = np.zeros(256, np.int64)
    for path in paths:
        # Palette files: the indices, not the colours that cv2.imread would make of them.
        raw = _palette_indices(path)
        pixels += np.bincount(ontology.from_raw(raw, str(path)).ravel(), minlength=256)
    shares = pixels / pixels.sum()
    # The set's README: high vegetation 36.2 %, sky 10.1 % of the pixels.
    assert shares[ontology.class_id('high vegetation')] == pytest.approx(0.362, abs=0.05)
    assert shares[ontology.class_id('sky')] == pytest.approx(0.101, abs=0.03)


def _palette_indices(path: Path) -> npt.NDArray[np.uint8]:
    from PIL import Image  # noqa: PLC0415

    with Image.open(path) as image:
        assert image.mode == 'P'
        return np.array(image)


@pytest.mark.data
def test_desert_labels_decode(shared_data_dir: Path) -> None:
    ontology = load_ontology('desert-10')
    paths = sorted(shared_data_dir.glob('desert/Segmentation/*.png'))
    assert len(paths) == 5
    seen: set[str] = set()
    for path in paths:
        raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert raw.dtype == np.uint16
        ids = ontology.from_raw(raw, str(path))
        seen |= {ontology.names[index] for index in np.unique(ids)}
        # The sky is on top of these frames; under another name table it would not be.
        assert ontology.names[np.bincount(ids[0]).argmax()] == 'sky'
    assert seen == {
        'trees', 'lush bushes', 'dry grass', 'dry bushes', 'rocks', 'landscape', 'sky'
    }  # fmt: skip


@pytest.mark.data
def test_nyuv2_labels_decode(shared_data_dir: Path) -> None:
    paths = sorted(shared_data_dir.glob('nyuv2/train/labels40/*.png'))[::40]
    assert len(paths) > 10
    thirteen, forty = load_ontology('nyuv2-13'), load_ontology('nyuv2-40')
    for path in paths:
        raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        fine = forty.from_raw(raw, str(path))
        coarse = thirteen.from_raw(raw, str(path))
        assert ((fine == UNLABELED) == (coarse == UNLABELED)).all()
        assert (coarse[fine == forty.class_id('bed')] == thirteen.class_id('bed')).all()
