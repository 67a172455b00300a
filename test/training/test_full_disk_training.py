"""Commands of training on disks that are full, read-only, or take no more of a file."""

from collections.abc import Iterator
from pathlib import Path

from bad_disks import BAD_DISKS, BadDisk, bad_disk
from made_up_members import MadeUpNetwork, made_up_frames, write_made_up_store
import pytest
import yaml

from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path
from training import (
    calibrate,
    compare,
    ensemble,
    export,
    folds,
    import_network,
    model_card,
    synthetic,
)
from training.recipes.schema import Recipe

_COMPARISONS = ('html', 'md', 'json')


@pytest.fixture(params=BAD_DISKS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BadDisk]:
    with bad_disk(request.param, tmp_path) as found:
        yield found


@pytest.fixture(scope='module')
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Recipe) -> Path:
    """A recipe of folds, two members out of fold, and their ensemble."""
    folder = tmp_path_factory.mktemp('inputs')
    tree = tiny_recipe.model_dump(mode='json')
    tree['data']['split'].update(by='folds', folds=2)
    (folder / 'recipe.yaml').write_text(yaml.safe_dump(tree))
    for seed, name in enumerate(('careful', 'loud')):
        store = folder / name / 'out_of_fold_two'
        write_made_up_store(store, name, MadeUpNetwork(seed, (2.0,) * 8, 1.0), made_up_frames(8))
    assert ensemble.main(_ensemble(folder, folder / 'two')) == 0
    return folder


def _ensemble(inputs: Path, out: Path) -> list[str]:
    return [
        *('exp093_ensemble', 'name=two', 'ontology=ycor-8', 'base_size_hw=[64, 96]'),
        'members=[{recipe: careful, folds: 4}, {recipe: loud, folds: 4}]',
        *('evaluation.tta_scales=[1.0]', 'evaluation.tta_flip=false'),
        *('--oof', str(inputs / 'careful'), str(inputs / 'loud'), '--out', str(out)),
    ]


def test_commands_end_in_one_line(
    disk: BadDisk, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = disk.out
    run = [str(inputs / 'two'), '--out']
    for main, arguments in (
        (folds.main, [str(inputs / 'recipe.yaml'), '--out', str(out / 'folds')]),
        (ensemble.main, _ensemble(inputs, out / 'two')),
        *((compare.main, [*run, str(out / f'two.{suffix}')]) for suffix in _COMPARISONS),
        (model_card.main, [str(share_path(DEFAULT_BUNDLE)), '--out', str(out / 'card.md')]),
        (synthetic.main, ['--bag', str(out / 'bag'), '--frames', '1', '--size', '32x48']),
    ):
        with disk.is_bad():
            assert main(arguments) == 2
        said = capsys.readouterr().err
        *_, last = said.splitlines()
        assert last.startswith(f'python -m {main.__module__}: error: ')
        assert disk.error in last
        assert str(out) in last
        assert 'Traceback' not in said
        assert not disk.files()


def test_a_place_that_cannot_be_written_to_is_told_before_the_work(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / 'other.pt'
    other.write_text('no checkpoint')
    out = other / 'out'
    seen_as = ['--ontology', 'ycor-8', '--normalisation', 'unit', '--frames', 'none']
    for main, arguments in (
        (import_network.main, [str(other), *seen_as, '--out', str(out / 'model.onnx')]),
        (calibrate.main, [str(other), '--out', str(out / 'calibrated.pt')]),
        (export.main, [str(other), '--out', str(out / 'model.onnx')]),
        (ensemble.main, [*_ensemble(inputs, out), '--oof', 'none', 'none']),
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert f'{other} is a file, where results need the folder {out}' in said
    for path in (other, tmp_path / 'new/new.pt'):
        assert calibrate.main([str(other), '--out', str(path)]) == 2
        assert f'{other}: cut short, damaged, or not written' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['other.pt']
    assert other.read_text() == 'no checkpoint'
