"""From what is shipped to a model of one's own classes: one command, and what it decides alone."""

from itertools import pairwise
import logging
from pathlib import Path
import shutil
import signal
import sys
from typing import Any
import warnings

import cv2
import numpy as np
import pytest
from tiny_folder import write_table, write_tiny_folder
import torch

from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.ontology import load_ontology
from training.batches import split_choice
from training.batches.loaders import check_depth
from training.batches.samples import check_frames
from training.batches.split_choice import describe_split, with_decided_split
from training.bundles.transfer import find_stage, initialise, shared_pixels
from training.data.datasets import check_apart, class_pixels, list_frames
from training.data.frames import DatasetError, FileFrame
from training.data.layouts import read_layout
from training.data.listing import block_of
from training.ensembles.distillation import Teachers
from training.fit import rehearsal
from training.fit.rehearsal import Rehearsal, measured_precision
from training.fit.run import train
from training.fit.task import SegmentationTask
from training.networks.checkpoint import Checkpoint, CheckpointError
from training.networks.network import SegmentationNetwork
from training.recipes.load import load_recipe
from training.recipes.own_data import file_name
from training.recipes.schema import Recipe, RecipeError
from training.train import main

ROOT = Path(__file__).resolve().parents[2]
# Small enough for seconds.
_TINY = [
    'model.encoder=resnet18',
    'model.initial_checkpoint=none',
    'model.frozen_encoder=none',
    'model.network_size_hw=[32, 48]',
    'model.decoder_channels=16',
    'augment.crop_size_hw=[32, 32]',
    'optim.batch_size=2',
    'optim.steps=2',
    'optim.epochs=1',
    'data.num_workers=0',
]


def _numbered(count: int, step: int = 1) -> list[str]:
    return [f'{number * step:06d}' for number in range(count)]


@pytest.fixture(scope='module')
def farm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of two sizes in a folder whose name has a blank; three show a post."""
    names = _numbered(12)
    return write_tiny_folder(
        tmp_path_factory.mktemp('sets') / 'my farm',
        names,
        posts=[names[1], names[6], names[10]],
        sizes_hw=((64, 96), (60, 100)),
    )


def test_data_gives_frames_table_and_name(farm: Path, tmp_path: Path) -> None:
    recipe = load_recipe('finetune', [f'data={farm}'])
    assert (recipe.name, recipe.parent) == ('tiny-farm', 'finetune')
    assert recipe.ontology == str(farm / 'classes.yaml')
    train, val = recipe.data.train[0], recipe.data.val[0]
    assert (train.dataset, train.root, train.split) == ('folder', str(farm), 'train')
    assert (val.dataset, val.root, val.split) == ('folder', str(farm), 'val')
    # Whatever the order, what else is given wins.
    given = ['name=mine', f'data={farm}', 'ontology=ycor-8']
    assert load_recipe('finetune', given).name == 'mine'
    assert load_recipe('finetune', given).ontology == 'ycor-8'
    assert load_recipe('finetune', given[1:]).name == 'my-farm'  # of the folder
    published = load_recipe('ycor8_rgb_ycor_only', [f'data=ycor:{tmp_path}'])
    assert (published.name, published.ontology) == ('ycor', 'ycor-8')
    assert published.data.train[0].dataset == 'ycor'
    assert published.parent == 'ycor8_rgb_ycor_only'


def test_a_name_becomes_a_folder() -> None:
    assert file_name('My farm/2026 (north)') == 'My-farm-2026-north'
    assert file_name('..') == 'run'


def test_data_that_is_not_ready_names_the_import(farm: Path, tmp_path: Path) -> None:
    (tmp_path / 'export.zip').write_bytes(b'PK')
    (tmp_path / 'images').mkdir()
    without_table = write_tiny_folder(tmp_path / 'bare', ['0'])
    (without_table / 'classes.yaml').unlink()
    for data, expected in {
        tmp_path / 'none': 'there is no such folder',
        tmp_path / 'export.zip': 'is a file, expected a folder',
        tmp_path: 'has no masks/;',
        without_table: r'no class table at .*classes\.yaml',
    }.items():
        with pytest.raises(RecipeError, match=rf'{expected}.*python -m training\.import_labels'):
            load_recipe('finetune', [f'data={data}'])
    with pytest.raises(RecipeError, match='names no folder; is a variable of the shell not set'):
        load_recipe('finetune', ['data='])
    (without_table / 'classes.yaml').mkdir()
    with pytest.raises(DesertmindError, match=r'classes\.yaml'):
        load_recipe('finetune', [f'data={without_table}'])
    with pytest.raises(RecipeError, match='give one data set'):
        load_recipe('finetune', [f'data={farm}', 'data=elsewhere'])
    with pytest.raises(RecipeError, match=r"override 'data=\{train: 1\}'|data\.train"):
        load_recipe('finetune', ['data={train: 1}'])


def test_without_data_the_command_says_how_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(['finetune']) == 2
    assert 'python -m training.train finetune data=DATA' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def _decided(root: Path, names: list[str], posts: list[str]) -> tuple[Recipe, list[set[str]]]:
    """Return the decided recipe, and the names of the frames that train and that validate."""
    recipe = load_recipe('finetune', [f'data={write_tiny_folder(root, names, posts=posts)}'])
    ontology = load_ontology(recipe.ontology)
    recipe = with_decided_split(recipe, ontology)
    parts = [recipe.data.train[0], recipe.data.val[0]]
    return recipe, [{f.name for f in list_frames(p, recipe.data, ontology)} for p in parts]


@pytest.mark.parametrize('step', [1, 30, 10**9], ids=['all', 'every 30th', 'time stamps'])
def test_a_fifth_validates_in_blocks_with_every_class(tmp_path: Path, step: int) -> None:
    names = _numbered(40, step)
    recipe, (train, val) = _decided(tmp_path, names, posts=names[8:10] + names[30:31])
    assert train | val == set(names)
    assert 6 <= len(val) <= 10
    assert {names[8], names[9], names[30]} & val
    assert {names[8], names[9], names[30]} & train
    # Neighbours stay together: at most four pieces.
    sides = [name in val for name in names]
    assert sum(a != b for a, b in pairwise(sides)) <= 8
    assert recipe.data.split.by == 'folds'


def test_the_last_frame_of_a_class_trains(tmp_path: Path) -> None:
    names = _numbered(20)
    recipe, (train, val) = _decided(tmp_path, names, posts=[names[3]])
    assert names[3] in train
    assert 3 <= len(val) <= 5
    ontology = load_ontology(recipe.ontology)
    pixels = [
        class_pixels(list_frames(section, recipe.data, ontology), ontology)
        for section in (recipe.data.train[0], recipe.data.val[0])
    ]
    dealt, warned = describe_split(recipe, *pixels, ontology)
    assert dealt.startswith(f'{len(train)} frames train, {len(val)} validate (blocks of 2 ')
    assert 'no frame that validates shows post' in warned


def test_twice_the_frames_take_twice_the_work_whatever_class_is_rare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blocks_named(count: int) -> int:
        """Decide on frames of which one shows a post, so that all deals are tried."""
        frames = [
            FileFrame(name, 'folder', *block_of(k, 1), None, Path(name), Path(name))
            for k, name in enumerate(_numbered(count))
        ]
        pixels = np.ones((count, recipe_ontology.num_classes), np.int64)
        pixels[1:, -1] = 0
        named = 0

        def counted(number: int, size: int) -> tuple[str, int]:
            nonlocal named
            named += 1
            return block_of(number, size)

        monkeypatch.setattr(split_choice, '_frames', lambda *_: frames)
        monkeypatch.setattr(split_choice, 'class_pixels', lambda *_: pixels)
        monkeypatch.setattr(split_choice, 'block_of', counted)
        with_decided_split(recipe, recipe_ontology)
        return named

    recipe = load_recipe('finetune', [f'data={write_tiny_folder(tmp_path, _numbered(2))}'])
    recipe_ontology = load_ontology(recipe.ontology)
    assert blocks_named(128) < 2.5 * blocks_named(64)


def test_three_frames_are_split_and_one_is_refused(tmp_path: Path) -> None:
    _, (train, val) = _decided(tmp_path / 'three', _numbered(3), posts=[])
    assert (len(train), len(val)) == (2, 1)
    with pytest.raises(DatasetError, match=r'1 frame, but some have to train.*label at least 2'):
        _decided(tmp_path / 'one', _numbered(1), posts=[])
    with pytest.raises(DatasetError, match=r"'sky' is in 1 of 2 frames \(000001\); label more"):
        _refuse_two_with_a_class_each(tmp_path / 'two')


def _refuse_two_with_a_class_each(root: Path) -> None:
    """Whichever of the two is held out, the other lacks a class."""
    write_tiny_folder(root, _numbered(2), posts=['000001'])
    mask = str(root / 'masks/000000.png')
    codes = cv2.imread(mask, cv2.IMREAD_UNCHANGED)
    assert cv2.imwrite(mask, np.where(codes == 3, 5, codes).astype(np.uint8))
    write_table(root, ['track', 'greenery', 'sky', 'post', 'barn'])
    recipe = load_recipe('finetune', [f'data={root}'])
    with_decided_split(recipe, load_ontology(recipe.ontology))


def test_published_parts_and_sequences_are_kept(tmp_path: Path) -> None:
    parts = [f'train/{n}' for n in _numbered(4)] + [f'val/{n}' for n in _numbered(2)]
    recipe, (train, val) = _decided(tmp_path / 'parts', parts, posts=[])
    assert recipe.data.split.by == 'official'
    # As wide as of other sets, for the intervals: frame by frame they would be too narrow.
    assert recipe.data.split.block_frames == 16
    assert (train, val) == (set(parts[:4]), set(parts[4:]))
    drives = [f'drive_{d}/{n}' for d in range(3) for n in _numbered(3)]
    recipe, (train, val) = _decided(tmp_path / 'drives', drives, posts=[])
    pixels = np.ones((3, 4), np.int64)
    (dealt,) = describe_split(recipe, pixels, pixels, load_ontology(recipe.ontology))
    assert dealt == '3 frames train, 3 validate (whole sequences)'
    assert len({name.partition('/')[0] for name in val}) == 1
    assert len(train) == 6
    alone = [f'default/{n}' for n in _numbered(4)]  # as CVAT writes them
    _, (train, val) = _decided(tmp_path / 'alone', alone, posts=[])
    assert (len(train), len(val)) == (3, 1)


def test_bad_frames_are_told_before_a_run_begins(tmp_path: Path) -> None:
    root = write_tiny_folder(tmp_path / 'data', _numbered(8))
    for number in range(1, 6):
        (root / f'images/{number:06d}.png').write_bytes(b'')
    assert cv2.imwrite(str(root / 'images/000000.png'), np.zeros((60, 96, 3), np.uint8))
    recipe = load_recipe('finetune', [f'data={root}'])
    expected = r'000000: image is \(60, 96\).*000001\.png: cannot be read.*; and 3 more, which'
    with pytest.raises(DatasetError, match=expected):
        train(recipe, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_picture_in_both_parts_is_told_before_a_run_begins(tmp_path: Path) -> None:
    parts = [f'train/{n}' for n in _numbered(4)] + [f'val/{n}' for n in _numbered(2)]
    root = write_tiny_folder(tmp_path / 'data', parts)
    shutil.copy(root / 'images/train/000002.png', root / 'images/val/000001.png')
    recipe = load_recipe('finetune', [f'data={root}'])
    expected = r'1 of 2 pictures.*train/000002\.png trains and .*val/000001\.png validates'
    with pytest.raises(DatasetError, match=expected):
        train(recipe, tmp_path / 'out')
    # Also where one part is named twice, and of frames that are in no file of their own.
    given = [f'data={root}', 'data.val.0.split=train', 'data.split.by=official']
    with pytest.raises(DatasetError, match=r'4 of 4 pictures.*data\.val name different parts'):
        train(load_recipe('finetune', given), tmp_path / 'out')
    rendered = read_layout('synthetic', 'seeds:0:2?frames=1', load_ontology('ycor-8'), 1).frames
    check_apart(rendered[:1], rendered[1:])
    with pytest.raises(DatasetError, match='1 of 2 pictures'):
        check_apart(rendered[:1], rendered)
    assert not (tmp_path / 'out').exists()


def test_depth_that_is_not_read_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, said in {
        'finetune': '3 of 3 training frames have depth, which is not read: finetune_rgbd',
        'finetune_rgbd': '',
    }.items():
        recipe = load_recipe(name, [f'data={write_tiny_folder(tmp_path, "012", depth=True)}'])
        section = recipe.data.train[0].model_copy(update={'split': 'all'})
        split = recipe.data.split.model_copy(update={'by': 'groups'})
        data = recipe.data.model_copy(update={'split': split})
        check_depth(recipe, list_frames(section, data, load_ontology(recipe.ontology)))
        assert capsys.readouterr().out[: len(said) or None] == said
    without = write_tiny_folder(tmp_path / 'without', ['0', '1'])
    recipe = load_recipe('finetune_rgbd', [f'data={without}', 'data.split.by=groups'])
    section = recipe.data.train[0].model_copy(update={'split': 'all'})
    frames = list_frames(section, recipe.data, load_ontology(recipe.ontology))
    with pytest.raises(DatasetError, match='finetune in the place of finetune_rgbd needs none'):
        check_depth(recipe, frames)


def test_depth_that_cannot_be_millimetres_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_tiny_folder(tmp_path, '012', depth=True)
    ontology = load_ontology(root / 'classes.yaml')
    frames = read_layout('folder', str(root), ontology, 1).frames
    check_frames(frames, ontology, with_depth=True)
    assert not caplog.messages
    for path in (root / 'depth').iterdir():
        depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert cv2.imwrite(str(path), depth // 100)  # from 20 to 300: decimetres
    check_frames(frames, ontology, with_depth=True)
    assert '100.0% of the pixels with depth are nearer than 1 m' in caplog.text
    for path in (root / 'depth').iterdir():
        assert cv2.imwrite(str(path), np.zeros((64, 96), np.uint16))
    check_frames(frames, ontology, with_depth=False)
    with pytest.raises(DatasetError, match='of 3 frames all depth is 0'):
        check_frames(frames, ontology, with_depth=True)


def _initialised(
    root: Path, recipe_name: str, capsys: pytest.CaptureFixture[str], **model: Any
) -> tuple[SegmentationNetwork, SegmentationNetwork, str]:
    """Return a network before and after, and what was said."""
    recipe = load_recipe(recipe_name, [f'data={root}', 'data.split.by=groups'])
    recipe = recipe.model_copy(update={'model': recipe.model.model_copy(update=model)})
    ontology = load_ontology(recipe.ontology)
    section = recipe.data.train[0].model_copy(update={'split': 'all'})
    frames = list_frames(section, recipe.data, ontology)
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(SegmentationNetwork(recipe.model, ontology.num_classes))
    initialise(networks[1], recipe, ontology, frames)
    return networks[0], networks[1], capsys.readouterr().out


def test_a_rare_class_is_made_of_what_is_mostly_it() -> None:
    #                  grass  obstacle
    counts = np.array([[9000, 10], [63, 30]])  # of meadows, of fences

    meadow, fence = shared_pixels(counts)

    assert meadow[0] > 0.75
    assert fence[1] > 0.98
    assert shared_pixels(np.zeros((2, 3), np.int64)).sum() == 0


@pytest.mark.parametrize('name', ['finetune', 'finetune_rgbd'])
def test_a_shipped_model_starts_other_classes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_folder(tmp_path, _numbered(3), depth=True)
    write_table(tmp_path, ['track', 'greenery', 'sky', 'post', 'barn'])
    monkeypatch.chdir(tmp_path)  # where there is no models/
    before, after, said = _initialised(tmp_path, name, capsys)
    assert 'encoder and decoder are taken over from ycor-8' in said
    assert 'sky: the class of that name' in said
    assert 'barn: nothing, no asked frame shows it' in said
    assert '%, by the pixels that they share' in said
    then, now = (net.network.segmentation_head[0].weight.detach() for net in (before, after))
    moved = [not torch.equal(a, b) for a, b in zip(then, now, strict=True)]
    assert moved == [True, True, True, False, False]
    assert not torch.equal(
        *(net.network.decoder.context[0][1].weight.detach() for net in (before, after))
    )


def _from_checkpoint(
    folder: Path, root: Path, capsys: pytest.CaptureFixture[str], **model: Any
) -> tuple[SegmentationNetwork, str]:
    """Return a network that goes on from the checkpoint of `trained`, and what was said."""
    write_tiny_folder(root, _numbered(3))
    start: dict[str, Any] = {
        'initial_checkpoint': str(folder / 'checkpoint.pt'),
        'decoder_channels': 32,
        'network_size_hw': (64, 96),
        'frozen_encoder': 'none',
    }
    _, after, said = _initialised(root, 'finetune', capsys, **{**start, **model})
    return after, said


def test_a_checkpoint_starts_other_classes(
    trained: tuple[Checkpoint, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, folder = trained
    after, said = _from_checkpoint(folder, tmp_path, capsys, decoder_fusion=None)
    assert 'taken over from ycor-8' in said
    sky = checkpoint.parsed_ontology().class_id('sky')
    for part in ('weight', 'bias'):
        name = f'network.segmentation_head.0.{part}'
        assert torch.equal(after.state_dict()[name][2], checkpoint.state_dict[name][sky])
    for name, value in checkpoint.state_dict.items():
        if 'segmentation_head' not in name:
            assert torch.equal(value, after.state_dict()[name]), name


def test_a_decoder_that_concatenates_starts_one_that_sums(
    trained: tuple[Checkpoint, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, folder = trained
    after, said = _from_checkpoint(folder, tmp_path, capsys)
    assert 'of the power of the last convolution is not met' in said
    known, state = checkpoint.state_dict, after.state_dict()
    for name, value in known.items():
        if 'block2' not in name and 'segmentation_head' not in name:
            assert torch.equal(value, state[name]), name
    mix = known['network.decoder.block2.0.1.weight']
    assert torch.equal(mix[:, :32], state['network.decoder.context.0.1.weight'])
    assert torch.equal(mix[:, 32:], state['network.decoder.detail.0.1.weight'])


def test_a_narrower_decoder_starts_from_what_fits(
    trained: tuple[Checkpoint, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, folder = trained
    write_tiny_folder(tmp_path, _numbered(3))
    start: dict[str, Any] = {
        'initial_checkpoint': str(folder / 'checkpoint.pt'),
        'decoder_channels': 16,  # 32 there
        'decoder_fusion': None,  # as there
        'network_size_hw': (64, 96),
        'frozen_encoder': 'none',
    }
    with pytest.raises(
        CheckpointError, match=r'another network than .*initial_decoder: what_fits'
    ):
        _initialised(tmp_path, 'finetune', capsys, **start)
    before, after, said = _initialised(
        tmp_path, 'finetune', capsys, **start, initial_decoder='what_fits'
    )
    assert 'tensors are taken over' in said
    assert 'decoder.block2.0.1.weight [16, 64, 1, 1] starts anew: [32, 80, 1, 1]' in said
    own, state = before.state_dict(), after.state_dict()
    assert torch.equal(
        state['network.decoder.block1.0.weight'],
        checkpoint.state_dict['network.decoder.block1.0.weight'],
    )
    for name, value in state.items():
        if 'encoder' in name:
            assert torch.equal(value, checkpoint.state_dict[name]), name
        if 'block2' in name or 'segmentation_head' in name:
            assert torch.equal(value, own[name]), name
    # Of another encoder nothing fits, or by chance.
    with pytest.raises(CheckpointError, match='another network than'):
        _initialised(
            tmp_path, 'finetune', capsys, **start, encoder='resnet18', initial_decoder='what_fits'
        )


def test_shipped_models_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_stage('models/ycor8_rgb.onnx') == ROOT / 'models/ycor8_rgb.onnx'
    (tmp_path / 'models').mkdir()
    (tmp_path / 'models/ycor8_rgb.onnx').touch()  # one's own goes first
    assert find_stage('models/ycor8_rgb.onnx') == Path('models/ycor8_rgb.onnx')
    with pytest.raises(FileNotFoundError, match=r'initial_checkpoint models/none\.onnx: .*fp32'):
        find_stage('models/none.onnx')
    with pytest.raises(FileNotFoundError, match=r'distillation\.teachers models/none\.onnx: '):
        Teachers(['models/none.onnx'], 'cpu', load_ontology('ycor-8'))


@pytest.mark.parametrize(
    ('asked', 'bf16_sec', 'chosen', 'warned'),
    [
        ('measured', 0.5, 'bf16-mixed', ''),
        ('measured', 0.95, '32-true', ''),  # not worth it
        ('measured', 5.0, '32-true', ''),
        ('bf16-mixed', 1.2, 'bf16-mixed', ''),
        ('bf16-mixed', 5.0, 'bf16-mixed', r'bf16-mixed is 5\.0 times slower than 32-true'),
        ('32-true', 0.5, '32-true', ''),
    ],
)
def test_the_precision_is_measured_and_a_slow_one_is_told(
    asked: str,
    bf16_sec: float,
    chosen: str,
    warned: str,
    tiny_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def pass_sec(recipe: Recipe, *_: Any, **__: Any) -> float:
        return {'32-true': 1.0, 'bf16-mixed': bf16_sec}[recipe.optim.precision]

    monkeypatch.setattr(rehearsal, '_pass_sec', pass_sec)
    optim = tiny_recipe.optim.model_copy(update={'precision': asked})
    recipe, table = tiny_recipe.model_copy(update={'optim': optim}), load_ontology('ycor-8')
    with caplog.at_level(logging.WARNING):
        found = measured_precision(recipe, table, [], on_gpu=False, several=False, out=Path())
    assert found.optim.precision == chosen
    said = capsys.readouterr().out
    assert said.startswith(f'precision: {chosen} (') if asked == 'measured' else not said
    assert bool(caplog.records) == bool(warned)
    if warned:
        assert warned.replace('\\', '') in caplog.text
    # Processes that measured each for itself might not agree.
    together = measured_precision(recipe, table, [], on_gpu=False, several=True, out=Path())
    assert together.optim.precision == ('32-true' if asked == 'measured' else asked)


def test_the_forecast_adds_up(tiny_recipe: Recipe) -> None:
    said = Rehearsal(step_sec=2.0, frame_sec=0.5).describe(tiny_recipe, 300, 48, 10)
    # Twice once an epoch, temperature and scores; 12 frames for the biases; parity: 48; 20 s.
    assert said.startswith('about 11 minutes on this machine: 300 steps of 2 s, and 70 s for')


def test_one_command_leaves_a_bundle_and_says_what_is_next(
    farm: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    # The export takes most of the time; test/integration/test_own_data.py runs what it leaves.
    monkeypatch.setattr(
        'training.fit.closing.export', lambda _checkpoint, _frames, path: path.touch()
    )
    command = ['finetune', f'data={farm}', *_TINY]
    with warnings.catch_warnings(record=True) as said_of_itself:
        warnings.simplefilter('always')
        assert main(command) == 0
    assert [each for each in said_of_itself if 'LeafSpec' in str(each.message)] == []
    said, warned = capfd.readouterr()
    run = tmp_path / 'out/tiny-farm'
    assert {path.name for path in run.iterdir()} >= {
        *('checkpoint.pt', 'metrics.json', 'recipe.yaml', 'report.html', 'tiny-farm.onnx'),
    }
    assert not (run / 'last.ckpt').exists()
    begun, _, end = said.partition('next:\n')
    for text in ('frames train, ', 'taking a few steps', 'precision: ', 'about '):
        assert text in begun
    assert '--bundle out/tiny-farm/tiny-farm.onnx' in end
    assert f'bundle:={run / "tiny-farm.onnx"}' in end
    for noise in ('GPU available', 'Tip', 'litlogger', 'Warning'):
        assert noise not in said + warned
    decided = load_recipe(run / 'recipe.yaml')
    assert decided.name == 'tiny-farm'
    assert decided.optim.precision != 'measured'
    assert decided.data.split.by == 'folds'
    # The next run does not write over it; going on finds it done, and exports what is missing.
    assert main(command) == 2
    assert 'go on with --resume, or give another folder with --out' in capfd.readouterr().err
    (run / 'tiny-farm.onnx').unlink()
    assert main([*command, '--resume']) == 0
    assert (run / 'tiny-farm.onnx').is_file()
    monkeypatch.setattr('training.fit.resume.data_hash', lambda _: 'of more frames')
    assert main([*command, '--resume']) == 2
    assert 'is finished, and was trained on other frames than those' in capfd.readouterr().err


def test_ctrl_c_says_how_to_go_on_and_nothing_of_lightning(
    farm: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / 'run'

    def interrupt(*_: Any) -> None:
        if (out / 'recipe.yaml').is_file():  # not while the machine is measured
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(SegmentationTask, 'on_train_batch_start', interrupt, raising=False)
    for name in ('lightning', 'lightning.pytorch', 'lightning.fabric'):
        for handler in logging.getLogger(name).handlers:
            if type(handler) is logging.StreamHandler:  # it knows stderr as it was at the import
                monkeypatch.setattr(handler, 'stream', sys.stderr)
    monkeypatch.setattr('desertmind_seg.options._leave', lambda: sys.exit(130))
    with pytest.raises(SystemExit, match='130'):
        main(['finetune', f'data={farm}', *_TINY, '--out', str(out)])
    warned = capfd.readouterr().err
    assert f'{out} keeps what is done: --resume goes on from there\n' in warned
    assert warned.endswith('python -m training.train: stopped\n')
    assert 'KeyboardInterrupt' not in warned


def test_a_run_that_is_told_to_end_does_so_quietly(
    farm: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / 'out'

    def terminate(task: SegmentationTask, *_arguments: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        # What torch says where the signal went to the workers, too.
        raise RuntimeError('DataLoader worker (pid 1) is killed by signal: Terminated. ')

    monkeypatch.setattr(SegmentationTask, 'training_step', terminate)
    with pytest.raises(SystemExit) as ended:  # in the rehearsal
        main(['finetune', f'data={farm}', *_TINY, 'optim.precision=32-true', '--out', str(out)])
    assert ended.value.code == 143
    assert not out.exists()
    recipe = load_recipe('finetune', [f'data={farm}', *_TINY, 'optim.precision=32-true'])
    with pytest.raises(SystemExit) as ended:  # in the training
        train(recipe, out)
    assert ended.value.code == 143
    assert 'Error' not in capsys.readouterr().err


def test_a_run_that_is_refused_leaves_no_folder(
    farm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'deep' / 'run'
    assert main(['finetune_rgbd', f'data={farm}', *_TINY, '--out', str(out)]) == 2
    assert 'training frames has depth, but the recipe has model.depth' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / 'file').touch()
    assert main(['finetune', f'data={farm}', *_TINY, '--out', str(tmp_path / 'file')]) == 2
    assert 'file is a file, where results need the folder' in capsys.readouterr().err
