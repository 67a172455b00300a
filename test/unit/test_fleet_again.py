"""A fleet whose bags have their rows: what is said of them needs no Ray."""

from collections.abc import Callable
import json
from pathlib import Path
import shutil
from typing import Any

from bad_disks import BAD_DISKS, bad_disk
import pytest
from tiny_bag import IMAGE_TOPIC, LABEL_TOPIC, TinyDrive, write_drive
from tiny_bundle import write_tiny_bundle
import yaml
import zstandard

from desertmind_seg import evaluate_fleet as command
from desertmind_seg.fleet import tables
from desertmind_seg.fleet.host import BagHost
from desertmind_seg.fleet.index import index_chunk
from desertmind_seg.fleet.manifest import find_bags
from desertmind_seg.fleet.records import BagRow, Limits, Run, RunOptions
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.release.run import FleetRequest, prepared

pytestmark = pytest.mark.fleet('pyarrow')
OPTIONS = RunOptions(image=IMAGE_TOPIC, labels=LABEL_TOPIC, backend='onnxruntime-cpu')
Command = Callable[..., int]


def evaluated(source: str, bundle: Path, out: Path, options: RunOptions) -> tuple[Run, Any]:
    """Put the rows of all bags as the passes do, without Ray between them."""
    _, _, run = prepared(FleetRequest(source, options, bundle, None, str(out)))
    refused = index_chunk([*find_bags(source)], run, str(out), str(out / 'scratch'))
    rows = {Path(row.uri).name: row for row in refused}
    places = (str(out), str(out / 'scratch'))
    host = BagHost(run, bundle.read_bytes(), None, Limits(), *places)
    for entry in find_bags(source):
        if Path(entry.uri).name not in rows:
            rows[Path(entry.uri).name] = host.evaluate(entry)
    host.close()
    return run, rows


@pytest.fixture(scope='module')
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bags as people have them, and what is none of them good for."""
    folder = tmp_path_factory.mktemp('drives')
    packed = write_drive(folder / 'Wüste 50%', TinyDrive(num_frames=3))
    write_drive(folder / 'old #1.bag', TinyDrive(num_frames=3), 'ros1')
    write_drive(folder / 'empty', TinyDrive(num_frames=3, label_every=0))
    write_drive(folder / 'labels', TinyDrive(num_frames=3))
    content = next(packed.glob('*.mcap')).read_bytes()
    (folder / 'torn.mcap').write_bytes(content[: len(content) // 2])
    (folder / 'zero.mcap').write_bytes(b'')
    (folder / 'packed.mcap.zst').write_bytes(zstandard.ZstdCompressor().compress(content))
    write_drive(folder / 'no frame', TinyDrive(num_frames=0))
    lines = [
        ('Wüste 50%', '', 'site=quarry'),
        ('old #1.bag', '', 'site=forest'),
        ('empty', 'labels', 'site=forest'),
        ('torn.mcap', '', 'site=quarry'),
        ('zero.mcap', '', 'site=quarry'),
        ('packed.mcap.zst', '', 'site=forest'),
        ('no frame', '', 'site=forest'),
        ('missing.mcap', '', 'site=quarry'),
    ]
    text = ''.join(f'"{name}",{labels},{tags}\r\n' for name, labels, tags in lines)
    (folder / 'fleet.csv').write_text('\ufeffuri,labels_uri,tags\r\n' + text)
    (folder / 'unlabelled.csv').write_text('uri,labels_uri\nempty,\nold #1.bag,torn.mcap\n')
    return folder


@pytest.fixture(scope='module')
def fleet(
    drives: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Command, Path, dict[str, BagRow]]:
    """Return the command, its results, and the rows of it."""
    out = tmp_path_factory.mktemp('out')
    _, rows = evaluated(str(drives / 'fleet.csv'), tiny_bundle, out, OPTIONS)

    def run(*more: str) -> int:
        return command.main(
            [
                *(str(drives / 'fleet.csv'), '--image', IMAGE_TOPIC, '--labels', LABEL_TOPIC),
                *('--bundle', str(tiny_bundle), '--backend', 'onnxruntime-cpu'),
                *('--out', str(out), *more),
            ]
        )

    return run, out, rows


def test_every_bag_has_its_status(
    fleet: tuple[Command, Path, dict[str, BagRow]], capsys: pytest.CaptureFixture[str]
) -> None:
    run, out, rows = fleet
    assert {name: row.status for name, row in rows.items()} == {
        **dict.fromkeys(('Wüste 50%', 'old #1.bag', 'empty', 'packed.mcap.zst'), 'ok'),
        **{'torn.mcap': 'torn', 'zero.mcap': 'torn', 'missing.mcap': 'failed'},
        'no frame': 'no_topic',
    }
    assert rows['missing.mcap'].reason.endswith('missing.mcap does not exist on this machine')

    assert run('--by', 'site') == 1
    said = capsys.readouterr()
    assert 'all bags: 4 bags, 12 frames' in said.out
    assert '1 no_topic, 2 torn, 1 failed: not in the totals.' in said.err
    # Three of them are one drive, in three formats.
    assert '1 recordings are there more than once' in said.err
    (path,) = out.glob('runs/*/totals.json')
    document = json.loads(path.read_text())
    names = [part['name'] for part in document['slices']]
    assert names == ['all bags', 'site=forest', 'site=quarry']
    copies = [Path(uri).name for uri in document['copies'][0]]
    assert copies == ['Wüste 50%', 'old #1.bag', 'packed.mcap.zst']
    manifest = [*find_bags(str(path.with_name('manifest.parquet')))]
    assert {Path(entry.uri).name for entry in manifest} == rows.keys()


@pytest.mark.parametrize(
    ('more', 'said'),
    [
        (('--by', 'sight'), "has this tag (did you mean 'site'?); there are site"),
        (('--map', 'sky=heaven'), "the model has no class 'heaven'"),
        (('--map', 'groups'), 'each class of the labels has to be one of the model'),
        (('--ontology', 'desert-10'), '--ontology: its labels are those of desert-10'),
        (('--map', 'none.yaml'), 'there is no such file'),
    ],
)
def test_a_mistake_in_the_command_is_told_at_once(
    fleet: tuple[Command, Path, dict[str, BagRow]],
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    said: str,
) -> None:
    before = sorted(fleet[1].rglob('*'))
    assert fleet[0](*more) == 2
    assert said in capsys.readouterr().err
    assert sorted(fleet[1].rglob('*')) == before


@pytest.mark.parametrize('kind', BAD_DISKS)
def test_a_bad_disk_is_told(
    drives: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    wanted = ['--image', IMAGE_TOPIC, '--bundle', str(tiny_bundle)]
    with bad_disk(kind, tmp_path) as disk:
        out = ['--out', str(disk.out / 'results')]
        with disk.is_bad():
            assert command.main([str(drives / 'fleet.csv'), *wanted, *out]) == 2
        assert disk.error in capsys.readouterr().err
        assert disk.files() == []


def test_tags_need_a_manifest(
    drives: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ['--image', IMAGE_TOPIC, '--bundle', str(tiny_bundle), '--by', 'site']
    assert command.main([str(drives), *wanted, '--out', str(tmp_path / 'out')]) == 2
    assert 'tags stand in the column tags of a manifest' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='2'):
        command.main([str(drives), '--image', '/i', '--map', 'a=b', '--out', str(tmp_path)])
    assert '--ontology and --map need --labels' in capsys.readouterr().err


def test_labels_of_other_bags_are_looked_for_first(
    drives: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(drives / 'unlabelled.csv')
    _, rows = evaluated(source, tiny_bundle, tmp_path, OPTIONS)

    assert {name: row.status for name, row in rows.items()} == {
        'empty': 'no_topic',
        'old #1.bag': 'torn',
    }
    assert f'no label topic {LABEL_TOPIC!r}' in rows['empty'].reason
    assert 'torn.mcap' in rows['old #1.bag'].reason
    # Without --labels they are another run, whose rows are not there.
    _, rows = evaluated(source, tiny_bundle, tmp_path, OPTIONS.model_copy(update={'labels': None}))
    assert {row.status for row in rows.values()} == {'ok'}
    backend = ('--backend', 'onnxruntime-cpu', '--bundle', str(tiny_bundle))
    out = ('--out', str(tmp_path))
    assert command.main([source, '--image', IMAGE_TOPIC, *backend, *out]) == 0
    assert '1 bags have a labels_uri; without --labels TOPIC' in capsys.readouterr().err


def test_labels_of_other_classes_make_another_run(
    drives: Path, fleet: tuple[Command, Path, dict[str, BagRow]], tmp_path: Path
) -> None:
    document = TinyDrive().ontology.model_dump()
    document['classes'][3]['name'] = 'mud'  # the puddle of ycor-8
    own = Ontology.model_validate({**document, 'name': 'own-8'})
    bundle = write_tiny_bundle(tmp_path / 'own.onnx', own).path
    (tmp_path / 'map.yaml').write_text(yaml.safe_dump({'puddle': 'mud'}))
    asked = command.build_parser().parse_args(
        [
            *(str(drives), '--image', IMAGE_TOPIC, '--labels', LABEL_TOPIC, '--out', 'o'),
            *('--backend', 'onnxruntime-cpu', '--ontology', 'ycor-8'),
            *('--map', str(tmp_path / 'map.yaml')),
        ]
    )
    options = command.asked_of_bags(asked)
    assert options.label_map == ('puddle=mud',)
    source = str(drives / 'old #1.bag')
    run, rows = evaluated(source, bundle, tmp_path / 'out', options)

    assert run == Run.model_validate_json(run.model_dump_json())
    plain = fleet[2]['old #1.bag'].model
    mapped = rows['old #1.bag'].model
    assert plain is not None
    assert mapped is not None
    assert mapped.confusion == plain.confusion
    ignoring = options.model_copy(update={'label_map': ('puddle=ignore',)})
    other, rows = evaluated(source, bundle, tmp_path / 'out', ignoring)
    assert other.run_id != run.run_id
    model = rows['old #1.bag'].model
    assert model is not None
    assert sum(model.confusion) < sum(mapped.confusion)
    assert {*tables.done_bags(str(tmp_path / 'out'), run.run_id)} == {
        row.bag_id for row in rows.values()
    }


def test_a_comparison_with_a_run_that_cannot_be_read_whole_is_refused(
    fleet: tuple[Command, Path, dict[str, BagRow]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pq = pytest.importorskip('pyarrow.parquet')
    run, out, _ = fleet
    shutil.copytree(out, tmp_path / 'out')
    (ours,) = tmp_path.glob('out/bags/*')
    theirs = shutil.copytree(ours, ours.with_name('run_id=earlier'))
    criteria = tmp_path / 'criteria.yaml'
    criteria.write_text('criteria: [{metric: miou_all, not_worse_than: earlier, by: 0.1}]')
    arguments = ('--out', str(tmp_path / 'out'), '--criteria', str(criteria))
    assert run(*arguments) == 0

    path = next(theirs.iterdir())
    table = pq.read_table(path)
    path.write_bytes(b'')
    assert run(*arguments) == 2
    assert "1 of 8 results of run 'earlier', which" in capsys.readouterr().err
    pq.write_table(table.drop_columns(['status']), path)
    assert run(*arguments) == 2
    said = f'{path} was written by another version of desertmind_seg (1 of its values are not as'
    assert said in capsys.readouterr().err
