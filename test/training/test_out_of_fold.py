"""The store of out-of-fold probabilities: exact where it can be, bounded where it rounds."""

from collections.abc import Callable
import json
import os
from pathlib import Path
import weakref

from made_up_members import (
    PREDICTION,
    YCOR8,
    MadeUpFrame,
    MadeUpNetwork,
    made_up_frames,
    write_made_up_fold,
    write_made_up_store,
)
import numpy as np
import pytest
from scipy.special import softmax
import torch
from torch.nn import functional

from desertmind_seg.model.ontology import Ontology
from training.ensembles.mixtures import (
    fit_mixture_temperature,
    sample_pixels,
    score_mixtures,
    temperature_table,
)
from training.ensembles.store import (
    EnsembleError,
    Experiment,
    OutOfFoldStore,
    StoreDtype,
    decode,
    encode,
)

NETWORK = MadeUpNetwork(1, (2.0,) * 8, 2.0)
ALONE = np.ones((4, 1))


def _random_probabilities(sharpness: float) -> np.ndarray:
    logits = sharpness * np.random.default_rng(0).standard_normal((13, 60, 80))
    return softmax(logits, axis=0).astype(np.float32)


@pytest.mark.parametrize('sharpness', [0.1, 1.0, 4.0, 12.0])
def test_what_is_read_is_what_was_written_within_the_rounding(sharpness: float) -> None:
    exact = _random_probabilities(sharpness)
    as_uint8, as_float16 = encode(exact, 'uint8'), encode(exact, 'float16')
    assert (as_uint8.dtype, as_float16.dtype) == (np.uint8, np.float16)
    # Rounding of sqrt(p) by 1/510 moves p by at most 2 sqrt(p) / 510 + 1/510^2.
    squared = np.square(as_uint8.astype(np.float64) / 255.0)
    assert (np.abs(squared - exact) <= 2 * np.sqrt(exact) / 510 + 510.0**-2 + 1e-7).all()
    # To sum to 1 again moves it a little more.
    assert np.abs(decode(as_uint8) - exact).max() < 0.008
    assert np.abs(decode(as_float16) - exact).max() < 6e-4
    for stored in (as_uint8, as_float16):
        read = decode(stored)
        assert read.dtype == np.float32
        assert read.min() > 0.0
        np.testing.assert_allclose(read.sum(axis=0), 1.0, atol=1e-5)


def test_a_likelihood_survives_the_rounding_where_plain_8_bits_lose_it() -> None:
    exact = _random_probabilities(4.0).astype(np.float64)
    # Truth drawn from the probabilities themselves: some are improbable, as in life.
    draws = np.random.default_rng(1).random(exact.shape[1:])
    truth = (exact.cumsum(axis=0) < draws).sum(axis=0).clip(max=12)[None]

    def nll(probabilities: np.ndarray) -> float:
        return float(-np.log(np.take_along_axis(probabilities, truth, axis=0)).mean())

    plain = np.maximum(np.rint(exact * 255.0), 0.25)
    plain /= plain.sum(axis=0)
    error = abs(nll(decode(encode(exact.astype(np.float32), 'uint8'))) - nll(exact))
    assert error < 1e-3
    assert error < abs(nll(plain) - nll(exact)) / 5
    assert abs(nll(decode(encode(exact.astype(np.float32), 'float16'))) - nll(exact)) < 1e-4


@pytest.fixture(scope='module')
def store(tmp_path_factory: pytest.TempPathFactory) -> OutOfFoldStore:
    folder = tmp_path_factory.mktemp('run') / 'out_of_fold'
    return OutOfFoldStore(write_made_up_store(folder, 'made_up', NETWORK, made_up_frames(16)))


def test_a_store_holds_every_frame_at_half_scale(store: OutOfFoldStore) -> None:
    frames = {frame.name: frame for frame in made_up_frames(16)}
    assert {row.name for _, row in store.frames} == set(frames)
    wanted = Experiment(recipe='made_up', folds=4, ontology=YCOR8, prediction=PREDICTION)
    assert store.experiment == wanted
    for fold, row in store.frames:
        frame = frames[row.name]
        probabilities, labels = store.read(fold, row)
        np.testing.assert_array_equal(labels, frame.read_labels(YCOR8))
        exact = functional.adaptive_avg_pool2d(
            torch.from_numpy(NETWORK(frame.read_rgb(), None)), (round(37 / 2), round(58 / 2))
        ).numpy()
        assert np.abs(probabilities - exact).max() < 0.008
        assert fold == frame.group_number % 4
        assert row.group == frame.group


def test_scores_are_those_of_the_probabilities_resized_to_the_frame(store: OutOfFoldStore) -> None:
    scores = score_mixtures([store], {'one': ALONE})['one']
    hits, pixels, log_likelihood = 0, 0, 0.0
    for fold, row in store.frames:
        small, labels = store.read(fold, row)
        full = functional.interpolate(torch.from_numpy(small)[None], labels.shape, mode='bilinear')
        predicted = full[0].argmax(dim=0).numpy()
        labelled = labels != 255
        hits += int((predicted == labels)[labelled].sum())
        pixels += int(labelled.sum())
        rows, columns = np.nonzero(labelled)
        log_likelihood += float(np.log(full[0].numpy()[labels[labelled], rows, columns]).sum())
    assert scores.confusion.pixel_accuracy == pytest.approx(hits / pixels)
    assert scores.summary()['nll'] == pytest.approx(-log_likelihood / pixels, rel=1e-5)
    figures = scores.metrics()
    assert (figures.frames, figures.blocks) == (16, 8)
    assert len(figures.per_frame) == 16


def test_a_frame_is_scored_by_the_weights_of_its_own_fold(
    store: OutOfFoldStore, tmp_path: Path
) -> None:
    chance = MadeUpNetwork(9, (0.0,) * 8, 1.0)
    folder = write_made_up_store(tmp_path / 'out_of_fold', 'other', chance, made_up_frames(16))
    first, second = np.eye(2)
    mixtures = {
        'first': np.stack([first] * 4),
        'second': np.stack([second] * 4),
        'mixed': np.stack([first, first, second, first]),
    }
    scores = score_mixtures([store, OutOfFoldStore(folder)], mixtures)
    of_first, of_second, mixed = (scores[name].metrics().per_frame for name in mixtures)
    assert all(one != other for one, other in zip(of_first, of_second, strict=True))
    for (fold, _), one, other, found in zip(store.frames, of_first, of_second, mixed, strict=True):
        assert found == (other if fold == 2 else one)


def test_a_sample_interpolates_as_the_scores_do(store: OutOfFoldStore) -> None:
    sample = sample_pixels([store], 3, max_pixels=10**9)  # every labelled pixel
    scores = score_mixtures([store], {'one': ALONE})['one']
    assert len(sample.labels) == scores.confusion.counts.sum()
    of_truth = sample.probabilities[:, 0].gather(1, sample.labels[:, None])
    assert float(-of_truth.log().mean()) == pytest.approx(scores.summary()['nll'], rel=1e-5)


def test_a_sample_is_small_unbiased_and_repeatable(store: OutOfFoldStore) -> None:
    sample = sample_pixels([store], 3, max_pixels=1280)
    assert 0 < len(sample.labels) <= 1280
    everything = score_mixtures([store], {'one': ALONE})['one'].confusion.truth_pixels
    standing_for = np.bincount(sample.labels, sample.pixel_weights, minlength=8)
    np.testing.assert_allclose(standing_for, everything, rtol=1e-5)
    again = sample_pixels([store], 3, max_pixels=1280)
    assert torch.equal(sample.probabilities, again.probabilities)
    other = sample_pixels([store], 4, max_pixels=1280)
    assert not torch.equal(sample.probabilities, other.probabilities)


class _DrawnFrame(MadeUpFrame):
    """Labels drawn from softmax(logits): a network with these logits is calibrated at T = 1."""

    def logits(self) -> np.ndarray:
        rng = np.random.default_rng([7, self.seed])
        return 2.0 * rng.standard_normal((8, *self.size_hw), np.float32)

    def read_labels(self, ontology: Ontology) -> np.ndarray:
        draws = np.random.default_rng([8, self.seed]).random(self.size_hw)
        labels = (softmax(self.logits(), axis=0).cumsum(axis=0) < draws).sum(axis=0)
        return labels.clip(max=7).astype(np.uint8)


@pytest.mark.parametrize(
    ('dtype', 'over_confident'), [('uint8', 0.5), ('float16', 1.0), ('uint8', 2.0)]
)
def test_the_fitted_temperature_is_the_one_that_was_put_in(
    tmp_path: Path, dtype: StoreDtype, over_confident: float
) -> None:
    frames = [
        _DrawnFrame(f'{seed}', 'folder', f'{seed}', seed, None, seed) for seed in range(1, 9)
    ]
    by_seed = {frame.seed: frame for frame in frames}

    def predict(rgb: np.ndarray, depth: np.ndarray | None) -> np.ndarray:
        return softmax(over_confident * by_seed[int(rgb[0, 0, 1])].logits(), axis=0)

    prediction = PREDICTION.model_copy(update={'store_scale': 1.0, 'store_dtype': dtype})
    for fold in range(2):
        held_out = [frame for frame in frames if frame.seed % 2 == fold]
        write_made_up_fold(tmp_path, 'drawn', predict, fold, 2, held_out, prediction)
    stores = [OutOfFoldStore(tmp_path)]
    sample = sample_pixels(stores, 0)
    temperature = fit_mixture_temperature(sample, np.ones(1))
    assert temperature == pytest.approx(over_confident, rel=0.05)
    rows, scores = temperature_table(stores, sample, np.ones(1), [0.25, 4.0])
    fitted = next(row for row in rows if row.fitted)
    assert fitted.temperature == temperature
    assert [row.temperature for row in rows] == sorted({0.25, 1.0, 4.0, temperature})
    assert fitted.nll == min(row.nll for row in rows) == scores.summary()['nll']
    assert fitted.ece < 0.02
    assert max(row.ece for row in rows) > 0.1
    assert {row.miou_all for row in rows} == {fitted.miou_all}


def test_one_frame_is_in_memory_at_a_time(
    store: OutOfFoldStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[object]] = []
    alive = []

    def watched(make: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            found = make(*args, **options)
            made.append(weakref.ref(found))
            alive.append(sum(reference() is not None for reference in made))
            return found

        return call

    write_made_up_store(tmp_path, 'made_up', watched(NETWORK), made_up_frames(16))
    monkeypatch.setattr(functional, 'interpolate', watched(functional.interpolate))
    score_mixtures([store], {'one': ALONE})
    sample_pixels([store], 0, max_pixels=2000)
    assert len(alive) == 48
    assert max(alive) <= 2  # one, and the one before until its name is given again


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return write_made_up_store(tmp_path / 'out_of_fold', 'made_up', NETWORK, made_up_frames(8))


def test_a_missing_fold_is_named_with_its_command(copy: Path) -> None:
    (copy / 'fold_2.json').unlink()
    with pytest.raises(EnsembleError, match=r'folds 2 of 4 are missing; .*--resume --folds 2'):
        OutOfFoldStore(copy)
    with pytest.raises(FileNotFoundError, match='No out-of-fold store'):
        OutOfFoldStore(copy.parent)


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('"recipe": "made_up"', '"recipe": "other"', 'fold 3 has recipe other instead of made_up'),
        ('"folds": 4', '"folds": 5', 'fold 3 has folds 5 instead of 4'),
        ('"smooth trail"', '"highway"', r'fold 3 has ontology ycor-8 \(.*\) instead of ycor-8 \('),
        ('"recipe": "made_up"', '"recipe": null', 'recipe\n'),
    ],
)
def test_a_foreign_fold_is_refused(copy: Path, old: str, new: str, message: str) -> None:
    index = (copy / 'fold_3.json').read_text()
    assert old in index
    (copy / 'fold_3.json').write_text(index.replace(old, new))
    with pytest.raises(EnsembleError, match=message):
        OutOfFoldStore(copy)


def test_a_frame_in_two_folds_is_refused(copy: Path) -> None:
    first, last = (json.loads((copy / f'fold_{fold}.json').read_text()) for fold in (0, 3))
    last['frames'].append(first['frames'][0])
    (copy / 'fold_3.json').write_text(json.dumps(last))
    with pytest.raises(EnsembleError, match="1 frames are in two folds, 'folder-drive%2F000"):
        OutOfFoldStore(copy)


def test_probabilities_of_another_checkpoint_are_stale(copy: Path) -> None:
    checkpoint = copy.parent / 'fold_1' / 'checkpoint.pt'
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b'trained again')
    with pytest.raises(EnsembleError, match='fold 1 was predicted with another checkpoint'):
        OutOfFoldStore(copy)


def test_a_damaged_or_missing_frame_is_named(copy: Path) -> None:
    store = OutOfFoldStore(copy)
    first, second = (row for _, row in store.frames[:2])
    path = copy / first.file
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(EnsembleError, match=f'{first.file}: not readable'):
        store.read(0, first)
    (copy / second.file).unlink()
    with pytest.raises(EnsembleError, match=r'not readable \(FileNotFoundError'):
        store.read(0, second)


def test_a_full_disk_leaves_a_store_that_says_what_is_missing(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [frame for frame in made_up_frames(8) if frame.group_number % 4 == 1]
    real, calls = np.savez_compressed, []

    def no_space(file: Path, **arrays: np.ndarray) -> None:
        calls.append(file)
        if len(calls) == 2:
            Path(file).write_bytes(b'half')
            raise OSError(28, os.strerror(28))
        real(file, **arrays)

    monkeypatch.setattr(np, 'savez_compressed', no_space)
    with pytest.raises(OSError, match='No space left'):
        write_made_up_fold(copy, 'made_up', NETWORK, 1, 4, frames)
    assert not list(copy.glob('.*'))
    with pytest.raises(EnsembleError, match='folds 1 of 4 are missing'):
        OutOfFoldStore(copy)
