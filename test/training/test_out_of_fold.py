"""The store of out-of-fold probabilities: exact where it can be, bounded where it rounds."""

import json
import os
from pathlib import Path
import tracemalloc

from made_up_members import (
    PREDICTION,
    YCOR8,
    MadeUpFrame,
    MadeUpNetwork,
    header,
    made_up_frames,
    write_made_up_store,
)
import numpy as np
import pytest
from scipy.special import softmax
import torch
from torch.nn import functional

from desertmind_seg.model.ontology import Ontology
from training.out_of_fold import (
    Mixture,
    OutOfFoldError,
    OutOfFoldStore,
    StoreDtype,
    decode,
    encode,
    fit_temperature,
    sample_pixels,
    score_mixtures,
    temperature_table,
    write_fold,
)

NETWORK = MadeUpNetwork(1, (2.0,) * 8, 2.0)
ALONE = Mixture(np.ones((4, 1)))


def _random_probabilities(sharpness: float, shape: tuple[int, ...] = (13, 60, 80)) -> np.ndarray:
    logits = sharpness * np.random.default_rng(0).standard_normal(shape)
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
    assert {row.name for row in store.frames} == set(frames)
    assert store.ontology == YCOR8
    assert (store.recipe, store.folds, store.prediction) == ('made_up', 4, PREDICTION)
    for row in store.frames:
        frame = frames[row.name]
        probabilities, labels = store.read(row)
        np.testing.assert_array_equal(labels, frame.read_labels(YCOR8))
        exact = functional.adaptive_avg_pool2d(
            torch.from_numpy(NETWORK(frame.read_rgb(), None)), (round(37 / 2), round(58 / 2))
        ).numpy()
        assert np.abs(probabilities - exact).max() < 0.008
        assert store.fold_of[row.key] == frame.group_number % 4
        assert row.group == frame.group


def test_scores_are_those_of_the_probabilities_resized_to_the_frame(store: OutOfFoldStore) -> None:
    scores = score_mixtures([store], {'one': ALONE})['one']
    hits, pixels, log_likelihood = 0, 0, 0.0
    for row in store.frames:
        small, labels = store.read(row)
        full = functional.interpolate(torch.from_numpy(small)[None], labels.shape, mode='bilinear')
        predicted = full[0].argmax(dim=0).numpy()
        labelled = labels != 255
        hits += int((predicted == labels)[labelled].sum())
        pixels += int(labelled.sum())
        rows, columns = np.nonzero(labelled)
        log_likelihood += float(np.log(full[0].numpy()[labels[labelled], rows, columns]).sum())
    assert scores.confusion.pixel_accuracy == pytest.approx(hits / pixels)
    assert scores.nll == pytest.approx(-log_likelihood / pixels, rel=1e-5)
    figures = scores.metrics()
    assert (figures.frames, figures.blocks) == (16, 8)
    assert len(figures.per_frame) == 16
    assert sum(counts.sum() for counts in scores.by_fold.values()) == pixels


def test_a_sample_interpolates_as_the_scores_do(store: OutOfFoldStore) -> None:
    sample = sample_pixels([store], 3, max_pixels=10**9)  # every labelled pixel
    scores = score_mixtures([store], {'one': ALONE})['one']
    assert len(sample.labels) == scores.confusion.counts.sum()
    of_truth = sample.probabilities()[:, 0].gather(1, sample.labels[:, None])
    assert float(-of_truth.log().mean()) == pytest.approx(scores.nll, abs=2e-4)  # float16 corners


def test_a_sample_is_small_unbiased_and_repeatable(store: OutOfFoldStore) -> None:
    sample = sample_pixels([store], 3, max_pixels=1280)
    assert 0 < len(sample.labels) <= 1280
    everything = score_mixtures([store], {'one': ALONE})['one'].confusion.truth_pixels
    standing_for = np.bincount(sample.labels, sample.pixel_weights, minlength=8)
    np.testing.assert_allclose(standing_for, everything, rtol=1e-5)
    again = sample_pixels([store], 3, max_pixels=1280)
    assert torch.equal(sample.corners, again.corners)
    other = sample_pixels([store], 4, max_pixels=1280)
    assert not torch.equal(sample.corners, other.corners)


class _DrawnFrame(MadeUpFrame):
    """Labels drawn from softmax(logits): a network with these logits is calibrated at T = 1."""

    def logits(self) -> np.ndarray:
        rng = np.random.default_rng([7, self.seed])
        return 2.0 * rng.standard_normal((8, *self.size_hw), np.float32)

    def read_labels(self, ontology: Ontology) -> np.ndarray:
        draws = np.random.default_rng([8, self.seed]).random(self.size_hw)
        labels = (softmax(self.logits(), axis=0).cumsum(axis=0) < draws).sum(axis=0)
        return labels.clip(max=7).astype(np.uint8)


@pytest.mark.parametrize('dtype', ['uint8', 'float16'])
@pytest.mark.parametrize('over_confident', [0.5, 1.0, 2.0])
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
        write_fold(tmp_path, header('drawn', fold, 2, prediction), held_out, YCOR8, predict)
    stores = [OutOfFoldStore(tmp_path)]
    temperature = fit_temperature(sample_pixels(stores, 0))
    assert temperature == pytest.approx(over_confident, rel=0.05)
    rows, scores = temperature_table(stores, np.ones(1), [0.25, 4.0], 0)
    fitted = next(row for row in rows if row['fitted'])
    assert fitted['temperature'] == temperature
    assert [row['temperature'] for row in rows] == sorted({0.25, 1.0, 4.0, temperature})
    assert fitted['nll'] == min(row['nll'] for row in rows)
    assert fitted['ece'] < 0.02
    assert max(row['ece'] for row in rows) > 0.1
    assert scores.nll == fitted['nll']
    # No pixel between stored ones: the order of the classes, and so the mIoU, is that of T = 1.
    assert {row['miou_all'] for row in rows} == {fitted['miou_all']}


def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    network = MadeUpNetwork(1, (2.0,) * 8, 2.0)
    frames = [
        MadeUpFrame(f'{seed}', 'folder', f'{seed}', seed, None, seed, size_hw=(120, 160))
        for seed in range(48)
    ]

    def peaks(count: int) -> tuple[int, int]:
        folder = tmp_path / str(count)
        tracemalloc.start()
        write_made_up_store(folder, 'made_up', network, frames[:count])
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        store = OutOfFoldStore(folder)
        score_mixtures([store], {'one': ALONE})
        sample_pixels([store], 0, max_pixels=2000)
        read = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return written, read

    peaks(8)  # imports and caches
    few, many = peaks(8), peaks(48)
    one_frame = 8 * 120 * 160 * 4
    assert many[0] < few[0] + one_frame // 2
    # Counts of each group and rows of the index do grow, by 2 kB a frame.
    assert many[1] < few[1] + one_frame // 2


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return write_made_up_store(tmp_path / 'out_of_fold', 'made_up', NETWORK, made_up_frames(8))


def test_a_missing_fold_is_named_with_its_command(copy: Path) -> None:
    (copy / 'fold_2.json').unlink()
    with pytest.raises(OutOfFoldError, match=r'folds 2 of 4 are missing; .*--folds 2 --resume'):
        OutOfFoldStore(copy)
    with pytest.raises(FileNotFoundError, match='No out-of-fold store'):
        OutOfFoldStore(copy.parent)


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('recipe', 'other', 'recipe of fold 0 is made_up, of fold 3 other'),
        ('folds', 5, 'folds of fold 0 is 4, of fold 3 5'),
        ('recipe', None, 'not an index of'),
    ],
)
def test_a_foreign_fold_is_refused(copy: Path, key: str, value: object, message: str) -> None:
    index = json.loads((copy / 'fold_3.json').read_text())
    (copy / 'fold_3.json').write_text(json.dumps({**index, key: value}))
    with pytest.raises(OutOfFoldError, match=message):
        OutOfFoldStore(copy)


def test_a_fold_of_another_class_table_is_refused(copy: Path) -> None:
    index = json.loads((copy / 'fold_3.json').read_text())
    index['ontology']['classes'][0]['name'] = 'highway'
    (copy / 'fold_3.json').write_text(json.dumps(index))
    with pytest.raises(OutOfFoldError, match='ontology of fold 0 is'):
        OutOfFoldStore(copy)


def test_a_frame_in_two_folds_is_refused(copy: Path) -> None:
    first, last = (json.loads((copy / f'fold_{fold}.json').read_text()) for fold in (0, 3))
    last['frames'].append(first['frames'][0])
    (copy / 'fold_3.json').write_text(json.dumps(last))
    with pytest.raises(OutOfFoldError, match="1 frames are in two folds, 'folder/drive/000'"):
        OutOfFoldStore(copy)


def test_probabilities_of_another_checkpoint_are_stale(copy: Path) -> None:
    checkpoint = copy.parent / 'fold_1' / 'checkpoint.pt'
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b'trained again')
    with pytest.raises(OutOfFoldError, match='fold 1 was predicted with another checkpoint'):
        OutOfFoldStore(copy)


def test_a_damaged_or_missing_frame_is_named(copy: Path) -> None:
    store = OutOfFoldStore(copy)
    first, second, third = store.frames[:3]
    path = copy / first.file
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(OutOfFoldError, match=f'{first.file}: not readable'):
        store.read(first)
    (copy / second.file).unlink()
    with pytest.raises(OutOfFoldError, match=r'not readable \(FileNotFoundError'):
        store.read(second)
    np.savez(copy / third.file, probabilities=np.zeros((3, 4, 5), np.uint8), labels=np.zeros(3))
    with pytest.raises(OutOfFoldError, match=r'holds uint8 \(3, 4, 5\)'):
        store.read(third)


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
        write_fold(copy, header('made_up', 1, 4), frames, YCOR8, NETWORK)
    assert not list(copy.glob('.*'))
    with pytest.raises(OutOfFoldError, match='folds 1 of 4 are missing'):
        OutOfFoldStore(copy)


def test_probabilities_of_another_size_are_refused(tmp_path: Path) -> None:
    def small(rgb: np.ndarray, depth: np.ndarray | None) -> np.ndarray:
        return NETWORK(rgb[::2, ::2], depth)

    with pytest.raises(OutOfFoldError, match=r'probabilities are \(8, 19, 29\), expected'):
        write_fold(tmp_path, header('made_up', 0, 4), made_up_frames(1), YCOR8, small)
    assert not list(tmp_path.glob('fold_*.json'))
