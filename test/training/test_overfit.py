"""A network learns two real frames by heart: data, loss, optimizer and scores fit together."""

from pathlib import Path

import pytest

from training.fit.run import train
from training.recipes.load import load_recipe

# Of two places; together five classes, each large in its frame, so that edges decide little.
_FRAMES = ('iid000000', 'iid000474')
# 60 steps reach 0.959; at 128x224 the logits, one for 17 pixels, are too coarse for 0.95.
_STEPS = 70


@pytest.mark.slow
@pytest.mark.data
def test_two_real_frames_are_learned_by_heart(
    shared_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Which refuses what is done here on purpose.
    monkeypatch.setattr('training.fit.run.check_apart', lambda _train, _val: None)
    for name in _FRAMES:
        link = tmp_path / 'ycor' / 'train' / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(shared_data_dir / 'ycor' / 'train' / name)
    source = f'{{dataset: ycor, root: {tmp_path / "ycor"}, split: all, repeat: %d}}'
    recipe = load_recipe(
        'ycor8_rgb_ycor_only',
        [
            f'data.train=[{source % _STEPS}]',
            f'data.val=[{source % 1}]',
            'data.rare_class_boost=0.0',
            'data.num_workers=0',
            'model.frozen_encoder=none',
            'model.network_size_hw=[192, 320]',
            'model.decoder_channels=64',
            'augment.crop=0.0',
            'augment.crop_size_hw=[192, 320]',
            'augment.flip=0.0',
            'augment.photometric=0.0',
            'augment.grayscale=0.0',
            'augment.blur=0.0',
            'loss.label_stride=1',
            'loss.label_smoothing=0.0',
            'loss.class_weights=none',
            'optim.epochs=1',
            'optim.batch_size=2',
            'optim.lr=2.0e-3',
            'optim.encoder_lr_factor=1.0',
            'optim.ema_decay=0.9',
            'optim.precision=32-true',
            'optim.val_every_epochs=1',
            'evaluation.calibrate_class_bias=false',
        ],
    )
    scores = train(recipe, tmp_path / 'run').scores
    assert scores['frames'] == len(_FRAMES)
    assert scores['steps'] == _STEPS
    assert scores['miou_present'] > 0.95
