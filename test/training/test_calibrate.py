"""Biases and temperature find what was put in; averages and refusals are as documented."""

from dataclasses import replace
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from tiny_model import model_section
from tiny_rgbd import (
    tiny_rgbd_checkpoint,
    tiny_rgbd_recipe,
    widened_checkpoint,
    write_tiny_depth,
    write_tiny_nyuv2,
)
import torch

from desertmind_seg.model.ontology import UNLABELED, load_ontology
from training import evaluate
from training.bundles.weights import load_stage
from training.calibrate import main
from training.data.datasets import list_frames
from training.ensembles.averaging import average
from training.evaluation.calibration import (
    calibrate,
    fit_class_bias,
    fit_temperature,
    refresh_batch_norm,
    sampled_logits,
)
from training.networks.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from training.networks.network import SegmentationNetwork
from training.networks.vehicle_graph import VehicleGraph
from training.recipes.schema import RecipeError


def _drawn(logits: torch.Tensor) -> torch.Tensor:
    """Draw each pixel's label from the softmax of its logits."""
    return torch.distributions.Categorical(logits=logits).sample()


def test_the_temperature_is_found() -> None:
    torch.manual_seed(0)
    true = torch.randn(40_000, 4) * 2
    assert fit_temperature(true * 3, _drawn(true)) == pytest.approx(3.0, rel=0.03)
    assert fit_temperature(true / 2, _drawn(true)) == pytest.approx(0.5, rel=0.03)


def test_the_class_bias_is_found_whatever_the_temperature() -> None:
    torch.manual_seed(0)
    true = torch.randn(80_000, 3)
    skew = torch.tensor([1.5, -0.5, -1.0])  # mean 0
    found = fit_class_bias(2 * (true + skew), _drawn(true))
    # 2 * (true + skew) + bias is proportional to true where bias = -2 * skew.
    assert found.tolist() == pytest.approx((-2 * skew).tolist(), abs=0.08)


def test_a_class_that_never_occurs_keeps_a_finite_bias() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2_000, 3)
    found = fit_class_bias(logits, torch.randint(0, 2, (2_000,)))
    assert torch.isfinite(found).all()
    assert found[2] < found[:2].min()


def test_labels_between_the_sampled_pixels_are_calibrated_on() -> None:
    labels = np.full((40, 40), UNLABELED, np.uint8)
    labels[2, 3] = 1
    frame = SimpleNamespace(
        read_labels=lambda _: labels, read_rgb=lambda: None, measured_depth=lambda: None
    )
    shown = torch.arange(2 * 40 * 40.0).reshape(1, 2, 40, 40)
    graph = SimpleNamespace(tensors=lambda *given: given, logits=lambda *_: shown)
    logits, found = sampled_logits(cast(Any, [frame]), load_ontology('ycor-8'), cast(Any, graph))
    assert found.tolist() == [1]
    assert logits.tolist() == [shown[0, :, 2, 3].tolist()]


def test_calibration_makes_the_average_confidence_true(
    trained: tuple[Checkpoint, Path],
) -> None:
    checkpoint = trained[0]
    assert len(checkpoint.scores['class_bias']) == 8
    assert np.mean(checkpoint.scores['class_bias']) == pytest.approx(0.0, abs=1e-5)
    assert checkpoint.scores['ece'] < 0.2


def test_the_average_is_half_of_each(trained: tuple[Checkpoint, Path]) -> None:
    first = trained[0]
    shifted = {name: value + 2 for name, value in first.state_dict.items()}
    mean = average(first, replace(first, state_dict=shifted))
    for name, value in first.state_dict.items():
        assert torch.allclose(mean.state_dict[name].double(), value.double() + 1, atol=1e-6), name
        assert mean.state_dict[name].dtype == value.dtype


def test_a_soup_is_the_mean_of_all(trained: tuple[Checkpoint, Path]) -> None:
    first = trained[0]
    others = [
        replace(
            first,
            state_dict={name: value + step for name, value in first.state_dict.items()},
        )
        for step in (3, 6)
    ]
    mean = average(first, *others)
    for name, value in first.state_dict.items():
        assert torch.allclose(mean.state_dict[name].double(), value.double() + 3, atol=1e-5), name


def test_an_average_has_the_mean_of_what_was_added(trained: tuple[Checkpoint, Path]) -> None:
    biases = ({}, {'obstacle': 1.5}, {'obstacle': 1.5, 'puddle': 0.75})
    plain, *others = (
        replace(trained[0], scores={**trained[0].scores, 'added_bias': added}) for added in biases
    )
    assert average(plain, *others).scores['added_bias'] == {'obstacle': 1.0, 'puddle': 0.25}
    assert 'added_bias' not in average(trained[0], trained[0]).scores


def test_an_rgb_stage_has_no_say_in_the_filters_for_depth(
    trained: tuple[Checkpoint, Path],
) -> None:
    first = widened_checkpoint(trained[0])
    mean = average(first, trained[0]).state_dict['network.encoder.model.conv_stem.weight']
    assert torch.equal(mean[:, 3:], torch.ones_like(mean[:, 3:]))
    rgb = trained[0].state_dict['network.encoder.model.conv_stem.weight']
    torch.testing.assert_close(mean[:, :3], rgb)
    with pytest.raises(CheckpointError, match='different networks'):
        average(trained[0], first)


def test_the_recipe_switches_the_class_bias_off(trained: tuple[Checkpoint, Path]) -> None:
    first = trained[0]
    evaluation = {**first.recipe['evaluation'], 'calibrate_class_bias': False}
    plain = replace(first, recipe={**first.recipe, 'evaluation': evaluation})
    again = calibrate(plain, torch.device('cpu'))
    assert again.scores['class_bias'] is None
    for name, value in first.state_dict.items():
        assert torch.equal(again.state_dict[name], value), name
    # The weights hold the bias already, so that the temperature is what it was.
    assert again.temperature == pytest.approx(first.temperature, rel=1e-3)


def test_batch_norm_gets_the_statistics_of_the_frames(trained: tuple[Checkpoint, Path]) -> None:
    first = trained[0]
    recipe, ontology = first.parsed_recipe(), first.parsed_ontology()
    frames = list_frames(recipe.data.train[0], recipe.data, ontology)
    assert 2 <= len(frames) < 16  # one batch
    graph = VehicleGraph(first.network(), ontology.costs, 1.0)
    seen: dict[str, torch.Tensor] = {}
    layers = {name: m for name, m in graph.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(
            lambda _, given, name=name: seen.update({name: given[0].detach()})
        )
    refresh_batch_norm(frames, graph)
    assert len(seen) == len(layers) > 50
    for name, layer in layers.items():
        assert layer.running_mean is not None
        assert layer.running_var is not None
        mean, variance = seen[name].mean(dim=(0, 2, 3)), seen[name].var(dim=(0, 2, 3))
        torch.testing.assert_close(layer.running_mean, mean, rtol=1e-4, atol=1e-4, msg=name)
        torch.testing.assert_close(layer.running_var, variance, rtol=1e-4, atol=1e-4, msg=name)
    assert not any(module.training for module in graph.modules())
    assert all(layer.momentum is not None for layer in layers.values())
    for name, value in first.network().named_parameters():
        assert torch.equal(dict(graph.network.named_parameters())[name], value), name


def test_batch_norm_gets_the_mean_over_batches(
    trained: tuple[Checkpoint, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trained[0]
    recipe, ontology = first.parsed_recipe(), first.parsed_ontology()
    frames = list_frames(recipe.data.train[0], recipe.data, ontology)
    monkeypatch.setattr('training.evaluation.calibration._STATISTICS_BATCH', 2)
    graph = VehicleGraph(first.network(), ontology.costs, 1.0)
    stem = next(m for m in graph.modules() if isinstance(m, torch.nn.BatchNorm2d))
    means: list[torch.Tensor] = []
    stem.register_forward_pre_hook(lambda _, given: means.append(given[0].mean(dim=(0, 2, 3))))
    refresh_batch_norm(frames, graph)
    assert len(means) == len(frames) // 2 > 1
    assert stem.running_mean is not None
    torch.testing.assert_close(stem.running_mean, torch.stack(means).mean(dim=0))


def test_the_recipe_asks_for_statistics_of_the_training_frames(
    trained: tuple[Checkpoint, Path],
) -> None:
    first = trained[0]
    evaluation = {
        **first.recipe['evaluation'],
        'refresh_batch_norm': True,
        'calibrate_class_bias': False,
    }
    again = calibrate(
        replace(first, recipe={**first.recipe, 'evaluation': evaluation}), torch.device('cpu')
    )
    for name, value in first.state_dict.items():
        statistics = name.rpartition('.')[2] in {
            'running_mean',
            'running_var',
            'num_batches_tracked',
        }
        assert torch.equal(again.state_dict[name], value) != statistics, name


def test_statistics_of_one_frame_are_refused(trained: tuple[Checkpoint, Path]) -> None:
    first = trained[0]
    recipe, ontology = first.parsed_recipe(), first.parsed_ontology()
    frames = list_frames(recipe.data.train[0], recipe.data, ontology)[:1]
    graph = VehicleGraph(first.network(), ontology.costs, 1.0)
    with pytest.raises(RecipeError, match='at least 2 training frames, but there is 1'):
        refresh_batch_norm(frames, graph)


def test_a_network_without_batch_norm_is_left_alone() -> None:
    network = SegmentationNetwork(
        model_section('fpn', 'tu-convnext_atto', output_stride=32), num_classes=2
    )
    graph = VehicleGraph(network, np.zeros(2, np.uint8), 1.0)
    refresh_batch_norm([], graph)  # would need two frames


def test_a_bias_needs_training_frames_of_what_validates(
    trained: tuple[Checkpoint, Path],
) -> None:
    first = trained[0]
    train = [{**first.recipe['data']['train'][0], 'dataset': 'synthetic'}]
    data = {**first.recipe['data'], 'train': train}
    elsewhere = replace(first, recipe={**first.recipe, 'data': data})
    with pytest.raises(
        RecipeError, match=r"data.val is \['ycor'\] .*\['synthetic'\]; set them to"
    ):
        calibrate(elsewhere, torch.device('cpu'))


def test_rgbd_is_calibrated_with_its_depth(tmp_path: Path) -> None:
    recipe = tiny_rgbd_recipe(write_tiny_nyuv2(tmp_path / 'nyuv2', frames=1))
    checkpoint = tiny_rgbd_checkpoint(recipe)
    frame = list_frames(recipe.data.val[0], recipe.data, checkpoint.parsed_ontology())[0]
    graph = VehicleGraph(checkpoint.network(), np.zeros(13, np.uint8), 1.0)
    logits, labels = sampled_logits([frame], checkpoint.parsed_ontology(), graph)
    image, depth = torch.from_numpy(frame.read_rgb())[None], torch.from_numpy(frame.read_depth())
    with torch.inference_mode():
        expected = graph.logits(image, depth[None])[0, :, 4::8, 4::8].flatten(1).T
    assert torch.equal(logits, expected)  # all of the grid is labelled
    assert (
        labels.tolist()
        == frame.read_labels(checkpoint.parsed_ontology())[4::8, 4::8].ravel().tolist()
    )
    assert calibrate(checkpoint, torch.device('cpu')).temperature > 0


def test_strangers_are_not_averaged(trained: tuple[Checkpoint, Path]) -> None:
    first = trained[0]
    with pytest.raises(CheckpointError, match='different networks'):
        average(first, replace(first, state_dict={}))
    classes = [{**entry} for entry in first.ontology['classes']]
    classes[0]['cost'] = 200
    other = replace(first, ontology={**first.ontology, 'classes': classes})
    with pytest.raises(CheckpointError, match='different class tables'):
        average(first, other)


def test_checkpoints_are_averaged_without_the_frames_of_other_data_sets(
    trained: tuple[Checkpoint, Path], tmp_path: Path
) -> None:
    """Rendered frames may be gone; those that validate too are all that calibrating needs."""
    checkpoint = trained[0]
    gone = {'dataset': 'synthetic', 'root': str(tmp_path / 'gone'), 'split': 'all', 'repeat': 1}
    data = checkpoint.recipe['data']
    recipe = {**checkpoint.recipe, 'data': {**data, 'train': [*data['train'], gone]}}
    first, out = tmp_path / 'first.pt', tmp_path / 'mean.pt'
    save_checkpoint(replace(checkpoint, recipe=recipe), first)
    others = []
    for name, seed in (('other', 1), ('other', 2), ('third', 1)):
        others.append(tmp_path / f'{name}_{seed}.pt')
        other = {**checkpoint.recipe, 'name': name, 'seed': seed}
        save_checkpoint(replace(checkpoint, recipe=other), others[-1])
    assert main([str(first), '--average-with', *map(str, others), '--out', str(out)]) == 0
    named = load_checkpoint(out).scores['averaged_with']
    assert named == 'other seed=1, other seed=2, third'


def test_the_command_scores_what_it_writes(
    trained: tuple[Checkpoint, Path], tiny_ycor: Path, tmp_path: Path
) -> None:
    other = tmp_path / 'other.pt'
    save_checkpoint(trained[0], other)
    source, out = str(trained[1] / 'checkpoint.pt'), tmp_path / 'large'
    arguments = ['--average-with', str(other), '--network-size', '128x192', '--out', str(out)]
    assert main([source, *arguments]) == 0
    written = load_checkpoint(out)
    assert written.parsed_recipe().model.network_size_hw == (128, 192)
    assert written.scores['averaged_with'] == f'{trained[0].recipe["name"]} seed=0'
    assert written.temperature != trained[0].temperature  # it was fitted at the new size
    data = ['--dataset', 'ycor', '--root', str(tiny_ycor), '--out', str(tmp_path / 'scores')]
    assert evaluate.main(['--checkpoint', str(out), *data]) == 0
    again = json.loads((tmp_path / 'scores/metrics.json').read_text())
    assert again['confusion'] == written.scores['confusion']


def test_a_bundle_is_averaged_as_the_training_from_it_would_read_it(
    trained: tuple[Checkpoint, Path], exported: Path, tmp_path: Path
) -> None:
    first, run = trained
    source, out = str(run / 'checkpoint.pt'), tmp_path / 'mean.pt'
    recipe, ontology = first.parsed_recipe(), first.parsed_ontology()
    (section,) = recipe.data.train
    read = load_stage(exported, list_frames(section, recipe.data, ontology))
    assert main([source, '--average-with', str(exported), '--out', str(out)]) == 0
    written, filters = load_checkpoint(out), 'network.encoder.model.conv_stem.weight'
    mean, expected = written.state_dict, average(first, read).state_dict
    # What BatchNorm is depends on the frames, and is fitted anew by no calibration.
    for name in (filters, 'network.encoder.model.bn1.weight'):
        torch.testing.assert_close(mean[name], expected[name])
    assert (mean[filters] - first.state_dict[filters]).abs().max() > 0.01  # it folds BatchNorm
    assert written.scores['averaged_with'] == str(exported)


def test_an_added_bias_makes_a_class_win_more_often(
    trained: tuple[Checkpoint, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = str(trained[1] / 'checkpoint.pt'), tmp_path / 'careful.pt'
    bias = ['smooth trail=9', 'traversable grass=-9']
    assert main([source, '--add-bias', *bias, '--out', str(out)]) == 0
    found = load_checkpoint(out).scores
    assert found['added_bias'] == {'smooth trail': 9.0, 'traversable grass': -9.0}
    called, before = (
        np.array(scores['confusion']).sum(axis=0) for scores in (found, trained[0].scores)
    )
    assert called[0] > before[0]
    assert called[1] < before[1]
    # A bias that is fitted again does not undo it; one that is not holds it already.
    again = tmp_path / 'again.pt'
    for fitted in (True, False):
        careful = load_checkpoint(out)
        evaluation = {**careful.recipe['evaluation'], 'calibrate_class_bias': fitted}
        recipe = {**careful.recipe, 'evaluation': evaluation}
        save_checkpoint(replace(careful, recipe=recipe), again)
        assert main([str(again), '--out', str(again)]) == 0
        kept = load_checkpoint(again).scores
        assert kept['added_bias'] == found['added_bias']
        assert kept['confusion'] == found['confusion']
        assert 'and kept: smooth trail +9, traversable grass -9' in capsys.readouterr().out
    assert main([source, '--add-bias', 'rock=1', '--out', str(out)]) == 2
    assert 'no class rock in ycor-8; there are smooth trail' in capsys.readouterr().err
    for wrong in ('obstacle', 'obstacle=much', '=1', 'obstacle=nan', 'obstacle=11'):
        with pytest.raises(SystemExit):
            main([source, '--add-bias', wrong, '--out', str(out)])
        assert 'expected CLASS=B with B from -10 to 10' in capsys.readouterr().err


def test_a_wrong_network_size_is_refused(
    trained: tuple[Checkpoint, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = str(trained[1] / 'checkpoint.pt'), str(tmp_path / 'x.pt')
    with pytest.raises(SystemExit, match='2'):
        main([source, '--network-size', '384', '--out', out])
    assert "'384' is no size; expected height x width" in capsys.readouterr().err
    assert main([source, '--network-size', '100x192', '--out', out]) == 2
    assert 'multiples of output_stride' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_curve_of_depth_is_kept_for_the_card(
    trained: tuple[Checkpoint, Path],
    tiny_ycor: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, out = tmp_path / 'with_depth.pt', tmp_path / 'scored.pt'
    save_checkpoint(widened_checkpoint(trained[0]), source)
    root = write_tiny_depth(tmp_path / 'folder')
    curve = ['--depth-curve', 'folder', str(root)]
    assert main([str(source), *curve, '--out', str(out)]) == 0
    kept = load_checkpoint(out).scores['depth_curve']
    assert (kept['dataset'], kept['frames']) == ('folder', 2)
    assert [point['kept_share'] for point in kept['points']] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert '100% of the depth' in capsys.readouterr().out
    assert main([str(trained[1] / 'checkpoint.pt'), *curve, '--out', str(out)]) == 2
    assert 'takes no depth; leave --depth-curve out' in capsys.readouterr().err
    assert main([str(source), '--depth-curve', 'moon', str(root), '--out', str(out)]) == 2
    assert '--depth-curve moon' in capsys.readouterr().err
    own = ['--depth-curve', 'ycor', str(tiny_ycor)]
    assert main([str(source), *own, '--out', str(out)]) == 2
    assert 'was trained on 4 of these 6 frames, such as' in capsys.readouterr().err
