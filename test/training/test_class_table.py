"""The class table of a data folder: who reads it, and what other classes are refused or mapped."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import tiny_metadata, tiny_model, write_tiny_bundle
from tiny_farm import write_farm, write_table

from desertmind_seg.model.bundle import write_bundle
from desertmind_seg.model.ontology import CLASS_TABLE, Ontology
from training.audit import main as audit
from training.compare import main as compare
from training.data.class_table import class_table_of
from training.data.frames import DatasetError
from training.data.layouts import read_layout
from training.evaluate import main as evaluate


def test_a_folder_without_a_table_has_none(tmp_path: Path) -> None:
    assert class_table_of(tmp_path) is None
    assert class_table_of(tmp_path / 'nowhere') is None


def test_the_table_lies_beside_images_and_masks(tmp_path: Path) -> None:
    (tmp_path / CLASS_TABLE).touch()

    assert class_table_of(tmp_path) == tmp_path / 'classes.yaml'


def test_a_broken_link_is_no_missing_table(tmp_path: Path) -> None:
    (tmp_path / CLASS_TABLE).symlink_to(tmp_path / 'gone')

    assert class_table_of(tmp_path) == tmp_path / CLASS_TABLE


@pytest.fixture
def farm(tmp_path: Path) -> Path:
    write_farm(tmp_path / 'farm')
    return tmp_path / 'farm'


def _scored(bundle: Path, root: Path, *more: str) -> dict[str, Any]:
    """Evaluate; return metrics.json, or an empty one where that was refused."""
    out = root.parent / 'scores' / str(len(list((root.parent / 'scores').glob('*'))))
    options = ['--bundle', str(bundle), '--dataset', 'folder', '--root', str(root)]
    code = evaluate([*options, '--split', 'all', '--out', str(out), *more])
    assert code == (0 if (out / 'metrics.json').is_file() else 2)
    return json.loads((out / 'metrics.json').read_text()) if code == 0 else {}


def _bundle(tmp_path: Path, ontology: Ontology | None = None, name: str = 'tiny') -> Path:
    return write_tiny_bundle(tmp_path / f'{name}.onnx', ontology).path


def test_labels_of_other_classes_are_refused_with_the_way_out(
    farm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _scored(_bundle(farm.parent), farm) == {}

    (line,) = capsys.readouterr().err.splitlines()
    assert 'its labels are those of farm-4 (4 classes: track, traversable grass, hedge' in line
    assert 'tiny.onnx knows ycor-8 (8 classes: smooth trail, ' in line
    assert "--map 'track=smooth trail' ..." in line
    assert '--map groups' in line


def test_a_model_of_the_same_classes_is_scored_whatever_its_costs(farm: Path) -> None:
    own = write_table(farm.parent / 'own.yaml', ignore_raw=[0, 9])
    metrics = _scored(_bundle(farm.parent, own), farm)

    assert metrics['pixel_accuracy'] > 0.9
    assert metrics['ontology'] == 'farm-4'
    assert metrics['class_table']['classes'][0]['name'] == 'track'
    assert metrics['label_map'] is None


def test_a_map_makes_them_the_models(farm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ['--map', 'track=smooth trail,rough trail', 'hedge=ignore']
    metrics = _scored(_bundle(farm.parent), farm, *given)

    assert metrics['ontology'] == 'ycor-8-merged'
    assert metrics['pixel_accuracy'] > 0.9
    rows = {row['name']: row for row in metrics['classes']}
    assert rows['track']['pixels'] == rows['sky']['pixels'] == 4 * 12 * 64
    assert rows['high vegetation']['pixels'] == 0
    assert metrics['label_map']['ignored_pixels'] == {'hedge': 4 * 12 * 64}
    assert metrics['label_map']['classes']['hedge'] is None
    out = capsys.readouterr().out
    assert 'left out: 25.00% of the labelled pixels (hedge 3,072)' in out
    assert "the model's classes are scored together: smooth trail: track" in out


def test_groups_can_be_compared_between_models_of_different_classes(
    farm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write_table(farm.parent / 'own.yaml')
    for name, ontology in (('ycor', None), ('farm', own)):
        metrics = _scored(_bundle(farm.parent, ontology, name), farm, '--map', 'groups')
        assert metrics['false_safe_rate'] == pytest.approx(0.0, abs=0.1)
    runs = [str(farm.parent / 'scores' / number) for number in '01']
    capsys.readouterr()

    assert compare(runs) == 0

    said = capsys.readouterr()
    assert 'obstacle called traversable' in said.out
    assert 'Not compared' not in said.err


def test_runs_of_an_own_table_are_compared(farm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = write_table(farm.parent / 'own.yaml')
    for name in ('first', 'second'):
        _scored(_bundle(farm.parent, own, name), farm)
    runs = [farm.parent / 'scores' / number for number in '01']
    capsys.readouterr()

    assert compare([str(run) for run in runs]) == 0
    assert 'hedge' in capsys.readouterr().out

    for run in runs:  # as 0.1.0 wrote them
        document = json.loads((run / 'metrics.json').read_text())
        del document['class_table']
        (run / 'metrics.json').write_text(json.dumps(document))
    assert compare([str(run) for run in runs]) == 0
    assert 'holds their class table farm-4' in capsys.readouterr().err


def test_other_maps_of_the_labels_are_another_truth(
    farm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = _bundle(farm.parent)
    for track in ('smooth trail', 'rough trail'):
        _scored(bundle, farm, '--map', f'track={track}', 'hedge=obstacle')
    capsys.readouterr()

    assert compare([str(farm.parent / 'scores' / number) for number in '01']) == 0
    assert 'scored with different maps of the labels' in capsys.readouterr().err


def test_without_a_table_somebody_has_to_say_what_the_codes_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / 'farm'
    own = write_farm(root, carries_table=False)
    bundle = _bundle(tmp_path, own)

    assert _scored(bundle, root) == {}
    assert f'write its class table to {root}/classes.yaml, or name it' in capsys.readouterr().err

    write_table(tmp_path / 'own.yaml')
    assert _scored(bundle, root, '--ontology', str(tmp_path / 'own.yaml'))['pixel_accuracy'] > 0.9

    metadata = tiny_metadata(
        own, recipe={'data': {'train': [{'dataset': 'folder', 'root': str(root)}]}}
    )
    trained_on_it = write_bundle(tiny_model(own), metadata, tmp_path / 'trained.onnx').path
    assert _scored(trained_on_it, root)['pixel_accuracy'] > 0.9


def test_a_root_that_is_not_there_is_said_to_be_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = _bundle(tmp_path, write_farm(tmp_path / 'farm'))
    nowhere, dangling = tmp_path / 'nosuch', tmp_path / 'link'
    dangling.symlink_to(nowhere)

    for root, said in {nowhere: '', dangling: f', it is a link to {nowhere}'}.items():
        expected = f'{root}: there is no such folder{said}; give that of the folder frames'
        assert _scored(bundle, root) == {}
        assert expected in capsys.readouterr().err
        options = ['--dataset', 'folder', '--root', str(root), '--out', str(tmp_path / 'audit')]
        assert audit(options) == 2
        assert expected in capsys.readouterr().err
        assert audit([*options, '--ontology', 'ycor-8']) == 2
        assert expected in capsys.readouterr().err


def test_two_tables_that_contradict_each_other_are_refused(
    farm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _scored(_bundle(farm.parent), farm, '--ontology', 'ycor-8') == {}
    assert 'but --ontology is ycor-8' in capsys.readouterr().err


def test_a_table_of_other_codes_is_read_by_the_folders_own(farm: Path) -> None:
    """The model was trained on codes 0 to 3 of the same classes."""
    classes = [
        {**dict(entry), 'raw': (entry.id,)}
        for entry in write_table(farm.parent / 'x.yaml').classes
    ]
    codes_from_0 = Ontology.model_validate(
        {'name': 'farm', 'description': '', 'source': '', 'classes': tuple(classes)}
    )

    assert _scored(_bundle(farm.parent, codes_from_0), farm)['pixel_accuracy'] > 0.9


def test_training_on_other_classes_than_the_folders_is_refused(farm: Path) -> None:
    other = write_table(farm.parent / 'own.yaml')
    renamed = other.model_copy(
        update={
            'classes': (other.classes[0].model_copy(update={'name': 'road'}), *other.classes[1:])
        }
    )

    with pytest.raises(DatasetError, match=r'by its classes.yaml, not of .*: road, .*ontology='):
        read_layout('folder', str(farm), renamed_copy(renamed), 16)


def renamed_copy(table: Ontology) -> Ontology:
    """Build it anew: a copy keeps what was computed of the original."""
    return Ontology.model_validate(table.model_dump())


def test_an_audit_takes_the_folders_table(farm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ['--dataset', 'folder', '--root', str(farm), '--out', str(farm.parent / 'audit')]
    split = ['--block-frames', '1', '--val-every-groups', '4']

    assert audit([*options, *split]) == 0
    assert json.loads((farm.parent / 'audit/audit.json').read_text())['ontology']['name'] == (
        'farm-4'
    )

    (farm / CLASS_TABLE).unlink()
    capsys.readouterr()
    assert audit([*options, *split, '--force']) == 2
    assert 'nothing says what the values of its labels mean' in capsys.readouterr().err


def test_a_broken_table_is_named(farm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (farm / CLASS_TABLE).write_text('name: farm-4\n')
    assert _scored(_bundle(farm.parent), farm) == {}
    assert f'{farm}/classes.yaml: description: Field required' in capsys.readouterr().err
