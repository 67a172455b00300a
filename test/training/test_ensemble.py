"""Weights of an ensemble on made-up members whose best weights are known by trying them all."""

from collections.abc import Sequence
import json
from pathlib import Path

from made_up_members import (
    PREDICTION,
    YCOR8,
    MadeUpNetwork,
    header,
    made_up_frames,
    write_made_up_store,
)
import numpy as np
import pytest
import torch

from training.ensembles.fit_weights import (
    EnsembleError,
    argmax_miou,
    cross_fitted,
    expected_miou,
    fit_slsqp,
    fit_softmax_surrogate,
    main,
    read_ensemble,
)
from training.ensembles.store import (
    OutOfFoldStore,
    PixelSample,
    sample_pixels,
    write_fold,
)
from training.metrics_file import read_metrics

# The careful one knows the first five classes; the loud one the last three, and is three times as
# sure of itself: with equal weights it is heard too much.
CAREFUL = MadeUpNetwork(1, (3.0, 3.0, 3.0, 3.0, 3.0, 1.5, 1.5, 1.5), sharpness=1.0)
LOUD = MadeUpNetwork(2, (1.0, 1.0, 1.0, 1.0, 1.0, 3.5, 3.5, 3.5), sharpness=3.0)
FRAMES = made_up_frames(24)

RECIPE = """\
name: two
parent: none
seed: 0
ontology: ycor-8
members: [{recipe: careful, folds: 4}, {recipe: loud, folds: 4}]
base_size_hw: [64, 96]
store_scale: 0.5
store_dtype: uint8
method: softmax_surrogate
evaluation:
  {tta_scales: [1.0], tta_flip: false, temperatures: [0.7],
   refresh_batch_norm: false, calibrate_class_bias: false}
"""


@pytest.fixture(scope='module')
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp('members')
    return [
        write_made_up_store(folder / name / 'out_of_fold_two', name, network, FRAMES)
        for name, network in (('careful', CAREFUL), ('loud', LOUD))
    ]


@pytest.fixture(scope='module')
def sample(stores: list[Path]) -> PixelSample:
    return sample_pixels([OutOfFoldStore(folder) for folder in stores], 0, 8000)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / 'two.yaml'
    path.write_text(RECIPE)
    return path


def _hand_made(
    probabilities: Sequence[Sequence[Sequence[float]]], labels: list[int]
) -> PixelSample:
    members = torch.tensor(probabilities)  # (P, M, C)
    return PixelSample(
        corners=members[:, :, None].expand(-1, -1, 4, -1).half(),
        corner_weights=torch.full((len(labels), 4), 0.25),
        labels=torch.tensor(labels),
        pixel_weights=torch.ones(len(labels)),
        folds=torch.zeros(len(labels), dtype=torch.int64),
    )


def test_both_objectives_by_hand() -> None:
    # Two pixels, two classes. The first member alone is right once, the second twice.
    sample = _hand_made([[[0.75, 0.25], [0.75, 0.25]], [[0.75, 0.25], [0.25, 0.75]]], [0, 1])
    probabilities = sample.probabilities()
    assert argmax_miou(probabilities, sample, np.array([1.0, 0.0])) == pytest.approx(0.25)
    assert argmax_miou(probabilities, sample, np.array([0.0, 1.0])) == pytest.approx(1.0)
    # Expected intersections .75 and .25, unions 1 + .75 and 1 + .25.
    first = expected_miou(probabilities, sample, torch.tensor([1.0, 0.0]), 1.0)
    assert float(first) == pytest.approx((0.75 / 1.75 + 0.25 / 1.25) / 2, abs=1e-4)
    # At sharpness 0.05 odds of 3 become 3^20: the arg-max.
    sharp = expected_miou(probabilities, sample, torch.tensor([0.0, 1.0]), 0.05)
    assert float(sharp) == pytest.approx(1.0, abs=1e-4)


def test_a_pixel_counts_as_often_as_it_stands_for() -> None:
    sample = _hand_made([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 0.0]]], [0, 1, 1])
    heavy = PixelSample(
        sample.corners,
        sample.corner_weights,
        sample.labels,
        torch.tensor([1.0, 1.0, 3.0]),
        sample.folds,
    )
    # Class 0: 1 of 1 + 3 predicted. Class 1: 1 of 4.
    assert argmax_miou(heavy.probabilities(), heavy, np.ones(1)) == pytest.approx(0.25)


def test_the_surrogate_finds_what_trying_all_weights_finds(sample: PixelSample) -> None:
    probabilities = sample.probabilities()
    tried = [
        argmax_miou(probabilities, sample, np.array([first, 1.0 - first]))
        for first in np.linspace(0.0, 1.0, 101)
    ]
    fit = fit_softmax_surrogate(sample)
    assert fit.start_miou == pytest.approx(tried[50])
    assert fit.miou > max(tried) - 5e-4
    assert fit.miou > fit.start_miou + 0.005
    assert fit.weights.sum() == pytest.approx(1.0)
    assert fit.weights[0] > 0.58  # the loud one is turned down


def test_slsqp_stays_where_it_starts(sample: PixelSample) -> None:
    fit = fit_slsqp(sample)
    np.testing.assert_allclose(fit.weights, [0.5, 0.5], atol=1e-6)
    assert fit.miou == fit.start_miou
    assert fit.evaluations <= 4  # one point and its finite differences: it does not even search


def test_weights_of_a_fold_do_not_see_the_fold(sample: PixelSample) -> None:
    seen = []

    def spy(part: PixelSample) -> object:
        seen.append(set(part.folds.tolist()))
        return fit_slsqp(part)

    weights, _ = cross_fitted(sample, 4, spy)
    assert seen == [{1, 2, 3}, {0, 2, 3}, {0, 1, 3}, {0, 1, 2}]
    assert weights.shape == (4, 2)


def test_a_member_that_knows_nothing_does_no_harm(tmp_path: Path) -> None:
    blind = write_made_up_store(tmp_path / 'b', 'blind', MadeUpNetwork(3, (0.0,) * 8, 9.0), FRAMES)
    good = write_made_up_store(tmp_path / 'g', 'good', MadeUpNetwork(4, (3.0,) * 8, 1.0), FRAMES)
    sample = sample_pixels([OutOfFoldStore(good), OutOfFoldStore(blind)], 0, 8000)
    fit = fit_softmax_surrogate(sample)
    assert fit.weights[1] < 0.2
    assert fit.miou >= argmax_miou(sample.probabilities(), sample, np.array([1.0, 0.0]))
    assert fit.miou > fit.start_miou + 0.03


def test_the_command_beats_the_best_member_on_held_out_folds(
    stores: list[Path], recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    # In any order, as the folders of training.folds or as the stores themselves.
    folders = [str(stores[1].parent), str(stores[0])]
    arguments = [str(recipe), '--oof', *folders, '--out', str(out), '--pixels', '8000']
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    ensemble = read_ensemble(out / 'ensemble.json')
    assert [member.recipe for member in ensemble.members] == ['careful', 'loud']
    assert sum(member.weight for member in ensemble.members) == pytest.approx(1.0)
    held_out = ensemble.held_out
    rows = {row['name']: row for row in held_out['mixtures']}
    assert held_out['best_single'] == 'careful'
    fitted = rows['softmax_surrogate']
    assert fitted['against_best_single']['interval_95'][0] > 0.02
    assert 'excludes zero' in fitted['against_best_single']['sentence']
    assert fitted['miou_all'] > rows['equal weights']['miou_all'] + 0.005
    assert 'softmax_surrogate is better than equal weights' in held_out['fitted_against_equal']
    # SLSQP's weights are the equal ones: the same scores, and the table says that it did not move.
    assert rows['slsqp']['miou_all'] == rows['equal weights']['miou_all']
    assert 'slsqp              without fold 0: weights 0.500 0.500 (moved 0.000' in printed
    assert ensemble.prediction == PREDICTION
    assert [row['fitted'] for row in ensemble.temperatures].count(True) == 1
    metrics = read_metrics(out)
    assert metrics.miou_all == fitted['miou_all']
    assert metrics.frames == len(FRAMES)
    assert metrics.split == 'out of fold'


def test_slsqp_can_be_chosen(stores: list[Path], recipe: Path) -> None:
    # Without --oof the members' folders are those beside --out.
    out = stores[0].parents[1] / 'two_slsqp'
    arguments = ['--out', str(out), '--pixels', '2000', 'method=slsqp']
    assert main([str(recipe), *arguments]) == 0
    ensemble = read_ensemble(out / 'ensemble.json')
    assert [member.weight for member in ensemble.members] == [0.5, 0.5]
    assert ensemble.held_out['method'] == 'slsqp'


def _refused(
    recipe: Path, folders: list[Path], capsys: pytest.CaptureFixture[str], *overrides: str
) -> str:
    out = recipe.parent / 'refused'
    folders_given = [str(folder) for folder in folders]
    assert main([str(recipe), '--oof', *folders_given, '--out', str(out), *overrides]) == 1
    assert not out.exists()
    return capsys.readouterr().err


def test_members_that_do_not_match_are_refused(
    stores: list[Path], recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    careful, loud = stores
    assert "no store for ['loud']" in _refused(recipe, [careful], capsys)
    assert 'expected each of' in _refused(recipe, [careful, careful], capsys)
    assert 'for ontology rugd-24' in _refused(recipe, [careful, loud], capsys, 'ontology=rugd-24')
    views = _refused(recipe, [careful, loud], capsys, 'evaluation.tta_flip=true')
    assert 'tta_flip=True' in views
    assert '--ensemble two' in views
    assert 'wants 3 of careful' in _refused(recipe, [careful, loud], capsys, 'members.0.folds=3')
    fewer = write_made_up_store(tmp_path / 'fewer', 'loud', LOUD, FRAMES[:-1])
    assert 'are in one store only' in _refused(recipe, [careful, fewer], capsys)
    assert 'No out-of-fold store' in _refused(recipe, [careful, tmp_path], capsys)


def test_members_of_other_folds_are_refused(
    stores: list[Path], recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turned = tmp_path / 'turned'
    for fold in range(4):
        frames = [frame for frame in FRAMES if (frame.group_number + 1) % 4 == fold]
        write_fold(turned, header('loud', fold, 4), frames, YCOR8, LOUD)
    error = _refused(recipe, [stores[0], turned], capsys)
    assert 'must be held out by every member' in error


def test_an_older_state_of_the_data_is_refused(
    stores: list[Path], recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = write_made_up_store(tmp_path / 'old', 'loud', LOUD, FRAMES)
    index = json.loads((old / 'fold_2.json').read_text())
    index['frames'][0]['content_sha256'] = 'f' * 64
    (old / 'fold_2.json').write_text(json.dumps(index))
    error = _refused(recipe, [stores[0], old], capsys)
    assert f'frame {"folder/" + index["frames"][0]["name"]!r} is not the same image' in error


def test_a_file_that_is_no_ensemble_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='No ensemble at'):
        read_ensemble(tmp_path / 'ensemble.json')
    (tmp_path / 'ensemble.json').write_text('{"name": "x"}')
    with pytest.raises(EnsembleError, match='not an ensemble of'):
        read_ensemble(tmp_path / 'ensemble.json')
