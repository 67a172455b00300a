"""Weights of an ensemble on made-up members whose best weights are known by trying them all."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from made_up_members import PREDICTION, MadeUpNetwork, made_up_frames, write_made_up_store
import numpy as np
import pytest
import torch

from training.ensemble import main
from training.ensembles.ensemble_file import read_ensemble
from training.ensembles.fit_weights import fit_ensemble_weights, open_members, print_held_out
from training.ensembles.mixtures import PixelSample, fit_mixture_temperature, sample_pixels
from training.ensembles.store import EnsembleError, OutOfFoldStore
from training.ensembles.weights import (
    argmax_miou,
    cross_fitted,
    expected_miou,
    fit_slsqp,
    fit_softmax_surrogate,
)
from training.evaluation.metrics_file import read_metrics
from training.recipes.load import load_ensemble

# The careful one knows the first five classes; the loud one the last three, and is three times as
# sure of itself: with equal weights it is heard too much.
CAREFUL = MadeUpNetwork(1, (3.0, 3.0, 3.0, 3.0, 3.0, 1.5, 1.5, 1.5), sharpness=1.0)
LOUD = MadeUpNetwork(2, (1.0, 1.0, 1.0, 1.0, 1.0, 3.5, 3.5, 3.5), sharpness=3.0)
FRAMES = made_up_frames(24)

TWO = (
    *('name=two', 'ontology=ycor-8', 'base_size_hw=[64, 96]'),
    'members=[{recipe: careful, folds: 4}, {recipe: loud, folds: 4}]',
    *('evaluation.tta_scales=[1.0]', 'evaluation.tta_flip=false', 'evaluation.temperatures=[0.7]'),
)


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp('members')
    for name, network in (('careful', CAREFUL), ('loud', LOUD)):
        write_made_up_store(folder / name / 'out_of_fold_two', name, network, FRAMES)
    return [folder / 'careful', folder / 'loud']


@pytest.fixture(scope='module')
def sample(runs: list[Path]) -> PixelSample:
    return sample_pixels([OutOfFoldStore(run / 'out_of_fold_two') for run in runs], 0, 8000)


def _hand_made(
    probabilities: Sequence[Sequence[Sequence[float]]], labels: list[int]
) -> PixelSample:
    return PixelSample(
        probabilities=torch.tensor(probabilities),  # (P, M, C)
        labels=torch.tensor(labels),
        pixel_weights=torch.ones(len(labels)),
        folds=torch.zeros(len(labels), dtype=torch.int64),
    )


def test_both_objectives_by_hand() -> None:
    # Two pixels, two classes. The first member alone is right once, the second twice.
    sample = _hand_made([[[0.75, 0.25], [0.75, 0.25]], [[0.75, 0.25], [0.25, 0.75]]], [0, 1])
    assert argmax_miou(sample, np.array([1.0, 0.0])) == pytest.approx(0.25)
    assert argmax_miou(sample, np.array([0.0, 1.0])) == pytest.approx(1.0)
    # Expected intersections .75 and .25, unions 1 + .75 and 1 + .25.
    first = expected_miou(sample, torch.tensor([1.0, 0.0]), 1.0)
    assert float(first) == pytest.approx((0.75 / 1.75 + 0.25 / 1.25) / 2, abs=1e-4)
    # At sharpness 0.05 odds of 3 become 3^20: the arg-max.
    sharp = expected_miou(sample, torch.tensor([0.0, 1.0]), 0.05)
    assert float(sharp) == pytest.approx(1.0, abs=1e-4)


def test_a_pixel_counts_as_often_as_it_stands_for() -> None:
    sample = _hand_made([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 0.0]]], [0, 1, 1])
    heavy = replace(sample, pixel_weights=torch.tensor([1.0, 1.0, 3.0]))
    # Class 0: 1 of 1 + 3 predicted. Class 1: 1 of 4.
    assert argmax_miou(heavy, np.ones(1)) == pytest.approx(0.25)
    # Odds of 4 where three of four pixels are right, whose odds are 3.
    sure = replace(
        _hand_made([[[0.8, 0.2]], [[0.8, 0.2]]], [0, 1]), pixel_weights=torch.tensor([3.0, 1.0])
    )
    fitted = fit_mixture_temperature(sure, np.ones(1))
    assert fitted == pytest.approx(np.log(4) / np.log(3), rel=1e-3)


def test_the_surrogate_finds_what_trying_all_weights_finds(sample: PixelSample) -> None:
    tried = [
        argmax_miou(sample, np.array([first, 1.0 - first])) for first in np.linspace(0.0, 1.0, 101)
    ]
    weights = fit_softmax_surrogate(sample)
    assert argmax_miou(sample, weights) > max(tried) - 5e-4
    assert argmax_miou(sample, weights) > tried[50] + 0.005
    assert weights.sum() == pytest.approx(1.0)
    assert weights[0] > 0.58  # the loud one is turned down


def test_slsqp_stays_where_it_starts(sample: PixelSample) -> None:
    np.testing.assert_allclose(fit_slsqp(sample), [0.5, 0.5], atol=1e-6)


def test_weights_of_a_fold_do_not_see_the_fold(sample: PixelSample) -> None:
    seen = []

    def spy(part: PixelSample) -> np.ndarray:
        seen.append(set(part.folds.tolist()))
        return np.array([0.5, 0.5])

    assert cross_fitted(sample, 4, spy).shape == (4, 2)
    assert seen == [{1, 2, 3}, {0, 2, 3}, {0, 1, 3}, {0, 1, 2}]


def test_a_member_that_knows_nothing_does_no_harm(tmp_path: Path) -> None:
    blind = write_made_up_store(tmp_path / 'b', 'blind', MadeUpNetwork(3, (0.0,) * 8, 9.0), FRAMES)
    good = write_made_up_store(tmp_path / 'g', 'good', MadeUpNetwork(4, (3.0,) * 8, 1.0), FRAMES)
    sample = sample_pixels([OutOfFoldStore(good), OutOfFoldStore(blind)], 0, 8000)
    weights = fit_softmax_surrogate(sample)
    assert weights[1] < 0.2
    assert argmax_miou(sample, weights) >= argmax_miou(sample, np.array([1.0, 0.0]))
    assert argmax_miou(sample, weights) > argmax_miou(sample, np.array([0.5, 0.5])) + 0.03


def test_the_weights_beat_the_best_member_on_held_out_folds(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    recipe = load_ensemble('exp093_ensemble', TWO)
    ensemble = fit_ensemble_weights(recipe, runs, out, max_pixels=8000)
    assert read_ensemble(out / 'ensemble.json') == ensemble
    assert [member.recipe for member in ensemble.members] == ['careful', 'loud']
    assert sum(member.weight for member in ensemble.members) == pytest.approx(1.0)
    assert ensemble.best_single == 'careful'
    rows = {row.name: row for row in ensemble.held_out}
    assert list(rows) == ['careful', 'loud', 'equal weights', 'slsqp', 'softmax_surrogate']
    fitted = rows['softmax_surrogate']
    assert fitted.against_best_single.interval_95[0] > 0.02
    assert fitted.miou_all > rows['equal weights'].miou_all + 0.005
    assert ensemble.against_equal_weights.interval_95[0] > 0.0
    # SLSQP's weights are the equal ones: the same scores, and the table says that it did not move.
    assert rows['slsqp'].miou_all == rows['equal weights'].miou_all
    assert ensemble.prediction == PREDICTION
    assert [row.fitted for row in ensemble.temperatures].count(True) == 1
    metrics = read_metrics(out)
    assert metrics.miou_all == fitted.miou_all
    assert metrics.frames == len(FRAMES)
    assert metrics.split == 'out of fold'
    print_held_out(ensemble)
    printed = capsys.readouterr().out
    assert 'slsqp without fold 0: weights 0.500 0.500' in printed
    assert 'softmax_surrogate is better than careful: mIoU(all) +' in printed
    assert 'softmax_surrogate is better than equal weights: mIoU(all) +' in printed


def test_slsqp_can_be_chosen(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    # Without --oof the members' folders are those beside --out.
    out = runs[0].parent / 'two_slsqp'
    assert main(['exp093_ensemble', *TWO, '--out', str(out), 'method=slsqp']) == 0
    assert 'weights fitted on all folds: 0.500 careful, 0.500 loud' in capsys.readouterr().out
    ensemble = read_ensemble(out / 'ensemble.json')
    assert [member.weight for member in ensemble.members] == [0.5, 0.5]
    assert ensemble.method == 'slsqp'


def test_two_seeds_of_one_recipe_are_two_members(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_made_up_store(tmp_path / 'seed_2/out_of_fold_two', 'careful', LOUD, FRAMES)
    of_one = 'members=[{recipe: careful, folds: 4}, {recipe: careful, folds: 4}]'
    recipe = load_ensemble('exp093_ensemble', [*TWO, of_one, 'method=slsqp'])
    folders = [runs[0], tmp_path / 'seed_2']
    ensemble = fit_ensemble_weights(recipe, folders, tmp_path / 'out', max_pixels=8000)
    names = [row.name for row in ensemble.held_out]
    assert names == ['careful (careful)', 'careful (seed_2)', 'equal weights', 'slsqp']
    assert ensemble.best_single == 'careful (careful)'
    assert [member.recipe for member in ensemble.members] == ['careful', 'careful']
    print_held_out(ensemble)
    printed = capsys.readouterr().out
    assert 'on all folds: 0.500 careful (careful), 0.500 careful (seed_2)\n' in printed


def test_members_that_do_not_match_are_refused(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    careful, loud = runs

    def refused(folders: list[Path], *overrides: str) -> str:
        with pytest.raises(EnsembleError) as found:
            open_members(load_ensemble('exp093_ensemble', [*TWO, *overrides]), folders)
        return str(found.value)

    assert "1 folders for the 2 members of two; give one for each of ['c" in refused([careful])
    assert 'recipe careful instead of loud' in refused([careful, careful])
    assert 'ontology ycor-8 (' in refused([careful, loud], 'ontology=rugd-24')
    views = refused([careful, loud], 'evaluation.tta_flip=true')
    assert 'tta_flip=True' in views
    assert '--resume --ensemble two' in views
    assert 'folds 4 instead of 3' in refused([careful, loud], 'members.0.folds=3')
    older = [*FRAMES[:-1], replace(FRAMES[-1], seed=99)]
    for name, frames, shift in (
        ('fewer', FRAMES[:-1], 0),
        ('turned', FRAMES, 1),
        ('old', older, 0),
    ):
        write_made_up_store(tmp_path / name / 'out_of_fold_two', 'loud', LOUD, frames, shift)
        assert 'do not hold out the same frames' in refused([careful, tmp_path / name])
    out = tmp_path / 'out'
    folders = ['--oof', str(careful), str(tmp_path)]
    assert main(['exp093_ensemble', *TWO, *folders, '--out', str(out)]) == 2
    error = 'python -m training.ensemble: error: No out-of-fold store in'
    assert error in capsys.readouterr().err
    assert not out.exists()


def test_a_file_that_is_no_ensemble_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='No ensemble at'):
        read_ensemble(tmp_path / 'ensemble.json')
    (tmp_path / 'ensemble.json').write_text('{"name": "x"}')
    with pytest.raises(EnsembleError, match='errors for Ensemble'):
        read_ensemble(tmp_path / 'ensemble.json')
