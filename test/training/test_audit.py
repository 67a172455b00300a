"""An audit names every fault of a set, and passes a clean one."""

from collections import Counter
import json
from pathlib import Path
import re
from typing import Any

import cv2
from image_attacks import attacks
import numpy as np
import numpy.typing as npt
import pytest
from report_page import figures, titles

from desertmind_seg.model.ontology import load_ontology
from training.audit import main
from training.data.frames import FileFrame, UInt8Array
from training.inspection import near_duplicates
from training.inspection.near_duplicates import NearPairs, near_pairs, perceptual_hash

YCOR8 = load_ontology('ycor-8')
_HW = (48, 64)


def _write(path: Path, pixels: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def _picture(seed: int) -> npt.NDArray[np.uint8]:
    """Blotches, as unlike those of another seed as two photographs."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, _HW[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


def _write_set(root: Path, frames: int = 6) -> Path:
    """A clean set with depth; blocks of 2, of which every third validates: frames 4 and 5."""
    for number in range(frames):
        labels = np.full(_HW, 8, np.uint8)  # sky
        labels[16:] = 1 + number % 2  # smooth trail or traversable grass
        labels[40:] = 0
        depth = np.full(_HW, 2000 + 100 * number, np.uint16)
        depth[:12] = 0
        _write(root / f'images/{number}.png', _picture(number))
        _write(root / f'masks/{number}.png', labels)
        _write(root / f'depth/{number}.png', depth)
    return root


def _audit(root: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, audit.json and report.html."""
    out = root.parent / 'audit'
    base = ['--dataset', 'folder', '--root', str(root), '--ontology', 'ycor-8', '--out', str(out)]
    split = ['--by', 'groups', '--block-frames', '2', '--val-every-groups', '3', '--force']
    code = main([*base, *split, *more])
    if not (out / 'audit.json').is_file():
        return code, {}, ''
    document = json.loads((out / 'audit.json').read_text())
    return code, document, (out / 'report.html').read_text()


def test_a_clean_set_passes_with_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document, page = _audit(_write_set(tmp_path / 'set'))
    assert code == 0
    assert document['faults'] == []
    assert document['sides'] == {'train': 4, 'val': 2}
    assert document['groups'] == 3
    assert document['sizes'] == [{'height': 48, 'width': 64, 'frames': 6}]
    assert document['unlabelled_share'] == pytest.approx(8 / 48, abs=1e-5)
    classes = {row['name']: row for row in document['classes']}
    assert classes['sky']['pixels'] == 6 * 16 * 64
    assert classes['sky']['pixels_by_side'] == {'train': 4 * 16 * 64, 'val': 2 * 16 * 64}
    assert classes['sky']['share'] == pytest.approx(16 / 40)
    assert classes['smooth trail']['frames'] == 3
    assert classes['puddle']['pixels'] == 0
    prior = document['vertical_prior']['share_by_class']
    assert sum(prior['sky'][: 32 // 3]) == pytest.approx(15 / 16, abs=0.01)
    assert sum(prior['sky'][11:]) == 0
    assert sum(prior['smooth trail'][:10]) == 0
    assert document['depth']['missing_share'] == pytest.approx(12 / 48)
    assert document['depth']['frames'] == 6
    assert list(document['depth']['percentiles_m']) == ['1', '25', '50', '75', '99']
    assert 2.0 < document['depth']['percentiles_m']['50'] <= 2.5
    assert document['near_duplicates']['pairs'] == []
    assert any('no pixel in train: rough trail, puddle' in text for text in document['warnings'])
    for title in ('Classes', 'Where things are', 'Depth', 'Contact sheet', 'Environment'):
        assert f'<h2>{title}</h2>' in page
    assert page.count('<img src="data:image/') == 6 * 3
    assert {titles(each)[1] for each in figures(page)} == {
        'height in the image (0 top, 1 bottom)',
        'share of measured pixels',
    }
    assert '6 frames (4 train, 2 val) in 3 groups' in capsys.readouterr().out


def _break_unknown_code(root: Path) -> None:
    labels = np.ones(_HW, np.uint8)
    labels[0, :7], labels[1, :3] = 9, 77
    _write(root / 'masks/1.png', labels)


def _break_size(root: Path) -> None:
    _write(root / 'masks/1.png', np.ones((48, 63), np.uint8))


def _break_depth_size(root: Path) -> None:
    _write(root / 'depth/1.png', np.ones((24, 32), np.uint16))


def _break_pairing(root: Path) -> None:
    (root / 'masks/1.png').unlink()


def _break_labels(root: Path) -> None:
    _write(root / 'masks/1.png', np.zeros(_HW, np.uint8))


def _break_file(root: Path) -> None:
    (root / 'images/1.png').write_bytes(b'nothing')


def _break_depth_bits(root: Path) -> None:
    _write(root / 'depth/1.png', np.full(_HW, 255, np.uint8))


def _break_split(root: Path) -> None:
    (root / 'images/4.png').write_bytes((root / 'images/1.png').read_bytes())


@pytest.mark.parametrize(
    ('break_it', 'kind', 'text'),
    [
        (_break_unknown_code, 'unknown code', 'masks/1.png: 9 in 7 pixels is not in ycor-8'),
        (_break_size, 'size', '1: image 48x64, labels 48x63, depth 48x64 (height x width); they'),
        (_break_depth_size, 'size', 'labels 48x64, depth 24x32 (height'),
        (_break_pairing, 'unpaired', 'images/1.png has no mask; expected it at masks/1.png'),
        (_break_labels, 'no label', '1: none of its 3072 pixels has a label'),
        (_break_file, 'unreadable', 'images/1.png: cannot be read as an image'),
        (_break_depth_bits, 'unreadable', 'depth/1.png: 8 bits, which reach 0.255 m at 1000'),
        (_break_split, 'same picture on two sides', '1 (train) and 4 (val)'),
    ],
)
def test_each_fault_is_named_and_fails_the_audit(
    tmp_path: Path, break_it: Any, kind: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = _write_set(tmp_path / 'set')
    break_it(root)
    code, document, page = _audit(root)
    assert code == 1
    assert {fault['kind'] for fault in document['faults']} == {kind}
    assert text in document['faults'][0]['text']
    assert '<h2>Faults</h2>' in page
    assert f'fault: {kind}: ' in capsys.readouterr().out
    # All other frames are still looked at.
    assert document['readable_frames'] >= 5


def test_an_audit_lists_every_bad_file_and_goes_on(tmp_path: Path) -> None:
    root = _write_set(tmp_path / 'set')
    half = cv2.imencode('.jpg', _picture(9))[1].tobytes()[:-200]  # OpenCV makes the rest grey
    bad = {f'junk_{number}': content for number, content in enumerate([half, *attacks().values()])}
    for name, content in bad.items():
        _write(root / f'masks/{name}.png', np.full(_HW, 8, np.uint8))
        _write(root / f'depth/{name}.png', np.ones(_HW, np.uint16))
        (root / f'images/{name}.png').write_bytes(content)
    code, document, _ = _audit(root, '--val-every-groups', '99')
    assert code == 1
    assert sorted(re.findall(r'junk_\d+', str(document['faults']))) == sorted(bad)
    assert document['readable_frames'] == 6


def test_depth_that_cannot_be_millimetres_is_told(tmp_path: Path) -> None:
    root = _write_set(tmp_path / 'set')
    for number in range(6):
        _write(root / f'depth/{number}.png', np.full(_HW, 250, np.uint16))  # of 2.5 m
    code, document, _ = _audit(root)
    assert code == 0
    assert any('100.0% of the pixels with depth are nearer' in w for w in document['warnings'])
    for number in range(6):
        _write(root / f'depth/{number}.png', np.zeros(_HW, np.uint16))
    code, document, page = _audit(root)
    assert code == 1
    assert [fault['kind'] for fault in document['faults']] == ['no depth']
    assert document['depth']['missing_share'] == 1.0
    assert set(document['depth']['percentiles_m'].values()) == {None}
    assert '100.0% of the pixels have no depth' in page


def test_unknown_codes_are_counted_by_file(tmp_path: Path) -> None:
    root = _write_set(tmp_path / 'set')
    _break_unknown_code(root)
    faults = _audit(root)[1]['faults']
    file = f'{root}/masks/1.png'
    found = {(fault['file'], fault['code'], fault['pixels']) for fault in faults}
    assert found == {(file, '9', 7), (file, '77', 3)}


def test_frames_that_look_alike_across_the_split_are_shown(tmp_path: Path) -> None:
    root = _write_set(tmp_path / 'set')
    again = _picture(0)[:, ::1] // 2 + 60  # the same place in other light
    _write(root / 'images/5.png', again)
    _write(root / 'images/2.png', _picture(3))  # neighbours on one side are no matter
    code, document, page = _audit(root)
    assert code == 0
    (pair,) = document['near_duplicates']['pairs']
    assert (pair['first'], pair['first_side'], pair['second'], pair['second_side']) == (
        '0',
        'train',
        '5',
        'val',
    )
    assert pair['distance'] < 0.1
    assert any('1 pairs of frames across the split look alike' in w for w in document['warnings'])
    assert 'Alike on both sides of the split' in page


def test_hashes_are_equal_for_scaled_pictures_and_far_for_others() -> None:
    hashes = [perceptual_hash(_picture(seed)) for seed in range(20)]
    scaled = cv2.resize(_picture(0), (256, 192), interpolation=cv2.INTER_CUBIC)
    assert (hashes[0] != perceptual_hash(np.asarray(scaled, np.uint8))).mean() < 0.05
    assert hashes[0].shape == (255,)
    others = [(hashes[a] != hashes[b]).mean() for a in range(20) for b in range(a)]
    assert min(others) > 0.3
    sides = ['train', 'val'] * 10
    assert near_pairs(np.array(hashes), sides) == NearPairs(0, [])
    everything = near_pairs(np.array(hashes), sides, limit=1.0)
    assert everything.count == len(everything.nearest) == 100
    nearest = everything.nearest[0]
    assert nearest.distance == pytest.approx(
        (hashes[nearest.first] != hashes[nearest.second]).mean()
    )


def test_the_nearest_of_all_pairs_are_kept_and_all_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(near_duplicates, 'MOST_PAIRS', 7)
    monkeypatch.setattr(near_duplicates, '_ROWS', 4)
    hashes = np.random.default_rng(0).random((30, 255)) < 0.5
    hashes[20:] = hashes[:10]  # equal ones
    sides = ['train', 'val', 'test'] * 10
    found = near_pairs(hashes, sides, limit=0.46)
    expected = sorted(
        (float(np.float32((hashes[a] != hashes[b]).mean())), a, b)
        for b in range(30)
        for a in range(b)
        if sides[a] != sides[b] and (hashes[a] != hashes[b]).mean() <= 0.46
    )
    assert found.count == len(expected) > 30
    pairs = [(pair.distance, pair.first, pair.second) for pair in found.nearest]
    assert [pair[0] for pair in pairs] == [pair[0] for pair in expected[:7]]
    assert {*pairs} <= {*expected}


def test_a_camera_that_stands_still_is_read_once_a_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _write_set(tmp_path / 'set', frames=24)
    for number in range(24):
        _write(root / f'images/{number}.png', _picture(0))
    read: Counter[str] = Counter()
    read_rgb = FileFrame.read_rgb

    def counted(frame: FileFrame) -> UInt8Array:
        read[frame.name] += 1
        return read_rgb(frame)

    monkeypatch.setattr(FileFrame, 'read_rgb', counted)
    _, document, _ = _audit(root)
    # 16 train and 8 validate. The page shows frames once more, and eight pairs.
    assert document['near_duplicates']['count'] == 128
    assert [fault['text'] for fault in document['faults']] == [
        '0 (train) and 10 (val), and 22 more'
    ]
    assert read.total() == 24 + 24 + 2 * 8


def test_a_folder_is_dealt_as_finetune_deals_it(tmp_path: Path) -> None:
    root = _write_set(tmp_path / 'set', frames=10)
    code, document, _ = _audit(root, '--by', 'auto')
    assert (code, document['split']['by'], document['sides']) == (
        0,
        'folds',
        {'train': 8, 'val': 2},
    )


def test_a_folder_that_finetune_would_refuse_is_audited_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = _write_set(tmp_path / 'set')
    (root / 'masks/3.png').write_bytes(b'no picture')
    code, document, _ = _audit(root, '--by', 'auto')
    assert (code, document['split']['by']) == (1, 'groups')
    assert [fault['kind'] for fault in document['faults']] == ['finetune stops', 'unreadable']
    out = capsys.readouterr().out
    assert 'fault: finetune stops: ' in out
    assert 'masks/3.png: cannot be read' in out


def test_nothing_to_audit_is_an_error_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'set').mkdir()
    assert _audit(tmp_path / 'set')[0] == 2
    assert 'no folder frames, expected images/' in capsys.readouterr().err
    assert not (tmp_path / 'audit').exists()
    _write_set(tmp_path / 'set', frames=1)
    arguments = [
        '--dataset',
        'folder',
        '--root',
        str(tmp_path / 'set'),
        '--out',
        str(tmp_path / 'a'),
    ]
    assert main([*arguments, '--ontology', 'no-such']) == 2
    assert "no ontology 'no-such'" in capsys.readouterr().err
    assert main([*arguments, '--ontology', 'ycor-8']) == 1
    assert 'finetune stops: ' + str(tmp_path / 'set: 1 frame, but') in capsys.readouterr().out
    assert main([*arguments, '--ontology', 'ycor-8']) == 2
    assert 'already holds report.html, audit.json' in capsys.readouterr().err


@pytest.mark.parametrize('option', ['--folds', '--fold', '--block-frames', '--val-every-groups'])
def test_a_number_that_no_recipe_takes_is_refused(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ['--dataset', 'folder', '--root', '.', '--ontology', 'ycor-8', '--out', 'none']
    with pytest.raises(SystemExit, match='2'):
        main([*given, option, '5000000'])
    assert f"argument {option}: '5000000' is not a whole number from" in capsys.readouterr().err


def test_the_help_shows_how_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match='0'):
        main(['--help'])
    assert 'python -m training.audit --dataset folder --root DATA' in capsys.readouterr().out


@pytest.mark.data
def test_the_desert_fixture_is_clean(shared_data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / 'audit'
    root = shared_data_dir / 'desert'
    arguments = ['--dataset', 'desert', '--root', str(root), '--ontology', 'desert-10']
    assert main([*arguments, '--out', str(out)]) == 0
    document = json.loads((out / 'audit.json').read_text())
    shown = {row['name'] for row in document['classes'] if row['pixels']}
    assert shown == set(load_ontology('desert-10').names) - {'ground clutter', 'flowers', 'logs'}


def test_classes_that_hardly_validate_are_named(tmp_path: Path) -> None:
    _, document, _ = _audit(_write_set(tmp_path / 'set'))

    (few,) = [text for text in document['warnings'] if text.startswith('too few in val')]
    # Two frames: one of each trail, both with sky.
    assert 'smooth trail (1 frame, 1,536 px), traversable grass (1 frame, 1,536 px)' in few
    assert 'sky (2 frames, 2,048 px)' in few
    assert 'puddle' not in few  # of which there is no pixel at all: a warning of its own
    assert 'fewer than 5 frames or 5,000 pixels' in few
    rows = {row['name']: row for row in document['classes']}
    assert rows['sky']['frames_by_side'] == {'train': 4, 'val': 2}


def test_the_printed_table_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _audit(_write_set(tmp_path / 'set'))
    lines = capsys.readouterr().out.splitlines()

    assert ' '.join(lines[0].split()) == 'id class share train px frames val px frames'
    assert lines[8].split() == ['7', 'sky', '40.00%', '4.1k', '4', '2.05k', '2']
    assert len({len(line) for line in lines[1:9]}) == 1
    assert max(len(line) for line in lines[:9]) <= 80
