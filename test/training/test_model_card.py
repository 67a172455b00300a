"""A model card holds the bundle's own figures."""

from dataclasses import replace
from pathlib import Path

import pytest

from desertmind_seg.model.bundle import Bundle, read_bundle
from desertmind_seg.model.files import DEFAULT_BUNDLE
from training.bundles.card import model_card
from training.model_card import main
from training.networks.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / 'models').glob('*.onnx'))


def test_the_card_quotes_scores_and_history(
    trained: tuple[Checkpoint, Path], exported: Path, tmp_path: Path
) -> None:
    assert main([str(exported), '--out', str(tmp_path / 'tiny.md')]) == 0
    card = (tmp_path / 'tiny.md').read_text()
    scores = trained[0].scores
    assert f'**{scores["miou_all"]:.4f}**' in card
    for row in scores['classes']:
        iou = '-' if row['iou'] is None else f'{row["iou"]:.4f}'
        assert f'| {row["id"]} | {row["name"]} | {iou} | {row["pixels"]} |' in card
    assert 'research only' in card
    assert f'temperature {trained[0].temperature:.3f}' in card
    assert trained[0].data_hash[:16] in card
    assert '1 in 3 groups of frames validates' in card
    assert '| ycor (validation) | 2 |' in card
    assert 'class biases fitted on training frames' in card
    # Other facts, other sentences.
    bundle = read_bundle(exported)
    recipe = {
        **bundle.metadata.recipe,
        'optim': {**bundle.metadata.recipe['optim'], 'keep': 'best'},
        'data': {
            **bundle.metadata.recipe['data'],
            'split': {**bundle.metadata.recipe['data']['split'], 'by': 'folds'},
        },
    }
    changes = {
        'class_bias': None,
        'averaged_with': 'one, two seed=7, models/start.onnx',
        'best_epoch': 7,
    }
    metadata = bundle.metadata.model_copy(
        update={
            'recipe': recipe,
            'scores': {**bundle.metadata.scores, **changes, 'miou_all_interval_95': None},
            'modality': 'rgbd',
            'depth_range_m': (0.5, 10.0),
            'parity': {**bundle.metadata.parity, 'depth': 'of 2 frames their own, of 0 made up'},
        }
    )
    card = model_card(replace(bundle, metadata=metadata))
    assert 'The kept epoch (7) had the best mIoU' in card
    assert "one, two seed=7, models/start.onnx's" in card
    others = 'out/one/checkpoint.pt out/two_seed_7/checkpoint.pt models/start.onnx'
    assert f'--average-with {others} \\' in card
    assert 'train models/' not in card
    assert 'python -m training.train one --out out/one\n' in card
    assert 'python -m training.train two --out out/two_seed_7 seed=7\n' in card
    assert 'Fold 0 of 5 validates' in card
    assert 'class biases' not in card
    assert 'no interval' in card
    assert 'depth in metres too, registered to the image: 0.5 to 10.0 m' in card
    assert 'Depth: of 2 frames their own' in card
    assert 'The scores by share of valid depth were not measured.' in card
    assert 'Depth' not in model_card(bundle)
    careful = {**bundle.metadata.scores, 'added_bias': {'obstacle': 1.5, 'high vegetation': -0.5}}
    card = model_card(
        replace(bundle, metadata=bundle.metadata.model_copy(update={'scores': careful}))
    )
    assert '+1.5 for obstacle, -0.5 for high vegetation; softmax' in ' '.join(card.split())
    assert "--add-bias 'obstacle=1.5' 'high vegetation=-0.5' \\" in card
    assert '/careful.pt --out models/tiny.onnx' in card


def _card_with_curve(bundle: Bundle, **changes: object) -> str:
    points = [
        {
            'kept_share': share,
            'valid_share': share / 2,
            'miou_all': 0.5 + share / 10,
            'miou_all_interval_95': [0.4, 0.7],
            'pixel_accuracy': 0.9,
            'false_safe_rate': 0.05,
            'against_none': share / 10,
            'against_none_interval_95': [share / 20, share / 5],
        }
        for share in (0.0, 1.0)
    ]
    curve = {
        'dataset': 'synthetic',
        'root': 'out/unseen',
        'frames': 12,
        'blocks': 3,
        'data_hash': '',
        'points': points,
        **changes,
    }
    metadata = bundle.metadata.model_copy(
        update={
            'modality': 'rgbd',
            'depth_range_m': (0.5, 40.0),
            'scores': {**bundle.metadata.scores, 'depth_curve': curve},
        }
    )
    return model_card(replace(bundle, metadata=metadata))


def test_the_card_shows_the_curve_of_depth() -> None:
    bundle = read_bundle(ROOT / DEFAULT_BUNDLE)
    card = _card_with_curve(bundle)
    assert '12 synthetic frames that the network was not trained on, 3 drives or blocks' in card
    assert '| 0 % | 0.0 % | 0.5000 | +0.0000 | 0.0500 |' in card
    assert '| 100 % | 50.0 % | 0.6000 | +0.1000 [+0.0500, +0.2000] | 0.0500 |' in card
    assert 'No real off-road depth with labels was at hand' in card
    assert '--depth-curve synthetic out/unseen --out out/ycor8_base_scenes/averaged.pt' in card
    assert 'No real off-road depth' not in _card_with_curve(bundle, dataset='nyuv2')


def test_the_card_says_the_size_that_a_recipe_does_not() -> None:
    bundle = read_bundle(ROOT / DEFAULT_BUNDLE)
    shipped = model_card(bundle)
    assert '--network-size' not in shipped
    assert 'is made by the commands at the head of recipes/ycor8_base_unsmoothed.yaml.' in shipped
    section = {
        **bundle.metadata.recipe['model'],
        'network_size_hw': [384, 640],
        'initial_checkpoint': 'models/other.onnx',
    }
    recipe = {**bundle.metadata.recipe, 'model': section}
    metadata = bundle.metadata.model_copy(update={'recipe': recipe, 'network_size_hw': (384, 640)})
    card = model_card(replace(bundle, metadata=metadata))
    assert '    --network-size 384x640 --out out/ycor8_base_scenes/averaged.pt' in card
    assert '# models/other.onnx is shipped.' in card
    # Also where nothing else was calibrated anew.
    scores = {**metadata.scores, 'averaged_with': None, 'added_bias': {}}
    alone = metadata.model_copy(update={'scores': scores})
    card = model_card(replace(bundle, metadata=alone))
    assert '    --network-size 384x640 --out out/ycor8_base_scenes/resized.pt' in card
    assert 'training.export out/ycor8_base_scenes/resized.pt' in ' '.join(card.split())


def test_the_command_names_a_missing_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / 'none.onnx'), '--out', str(tmp_path / 'card.md')]) == 2
    assert 'none.onnx' in capsys.readouterr().err
    assert not (tmp_path / 'card.md').exists()


def test_every_shipped_bundle_is_small_and_has_its_card() -> None:
    assert len(SHIPPED) > 0
    for path in SHIPPED:
        assert path.stat().st_size <= 25e6
        assert path.with_suffix('.md').read_text() == model_card(read_bundle(path))
