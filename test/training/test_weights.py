"""A training goes on from a bundle: its weights are read back, or refused."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_model import EXPORTED, Named, inputs, trace_once, traced
import torch

from desertmind_seg.model.bundle import BundleMetadata, read_bundle, write_bundle
from training.bundles.weights import load_stage, load_tensors, note_tensors
from training.data.datasets import list_frames
from training.data.frames import LabelledFrame
from training.ensembles.distillation import Teachers
from training.evaluation.predict import predict_with_graph
from training.fit.run import train
from training.networks.checkpoint import Checkpoint, CheckpointError
from training.networks.network import SegmentationNetwork
from training.networks.vehicle_graph import VehicleGraph
from training.recipes.load import parse_recipe
from training.recipes.schema import Recipe


@pytest.fixture(scope='module')
def bundle(
    trained: tuple[Checkpoint, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, onnx.ModelProto, BundleMetadata]:
    """The tiny network as a bundle."""
    checkpoint = trained[0]
    ontology = checkpoint.parsed_ontology()
    metadata = BundleMetadata(
        name='tiny',
        ontology=ontology,
        ontology_sha256=ontology.sha256,
        network_size_hw=(64, 96),
        temperature=checkpoint.temperature,
        recipe=checkpoint.recipe,
        datasets=[{'name': 'ycor', 'licence': 'none', 'frames': 4}],
        scores={},
        parity={},
        git_hash=checkpoint.git_hash,
        data_hash=checkpoint.data_hash,
        seed=0,
    )
    graph = VehicleGraph(checkpoint.network(), ontology.costs, checkpoint.temperature)
    model = trace_once(graph)
    path = tmp_path_factory.mktemp('bundle') / 'tiny.onnx'
    write_bundle(model, metadata, path)
    return path, model, metadata


@pytest.fixture
def frames(trained: tuple[Checkpoint, Path]) -> list[LabelledFrame]:
    recipe = trained[0].parsed_recipe()
    return list_frames(recipe.data.train[0], recipe.data, trained[0].parsed_ontology())


@pytest.mark.parametrize('named', EXPORTED, ids=lambda named: '-'.join(map(str, named[:2])))
def test_networks_are_read_back(named: Named) -> None:
    graph, model = traced(named)
    network = SegmentationNetwork(graph.network.section, 5)
    network.unused = torch.nn.Conv2d(1, 1, 1)  # as smp's EfficientNet has one
    load_tensors(network, model, Path('some.onnx'))
    feed = {name: torch.from_numpy(value) for name, value in inputs((65, 127)).items()}
    read_back = VehicleGraph(network, graph.costs.numpy().ravel(), graph.temperature)
    with torch.inference_mode():
        expected, found = graph.logits(**feed), read_back.logits(**feed)
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


def test_a_tensor_is_noted_where_the_graph_has_its_kind_of_numbers() -> None:
    exported = torch.nn.Module()
    exported.network = torch.nn.LayerNorm(2)
    exported.network.square = torch.nn.Parameter(torch.arange(4.0).view(2, 2))
    tensors = {
        'scale': np.ones((2, 1, 1), np.float32),
        'shift': np.zeros((2, 1, 1), np.float32),
        'places': np.zeros(1, np.int64),  # the bytes of 'shift'
        'turned': np.array([[0, 2], [1, 3]], np.float32),
    }
    stored = [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()]
    model = onnx.helper.make_model(onnx.helper.make_graph([], 'g', [], [], stored))
    note_tensors(model, exported)
    (entry,) = model.metadata_props
    expected = {'weight': 'scale', 'bias': 'shift', 'square': 'turned.T'}
    assert json.loads(entry.value) == expected


def test_other_graphs_are_refused() -> None:
    (named,) = (named for named in EXPORTED if 'convnext' in named[1])
    graph, noted = traced(named)
    network = SegmentationNetwork(graph.network.section, 5)
    model = onnx.ModelProto()
    model.CopyFrom(noted)
    del model.metadata_props[:]
    with pytest.raises(CheckpointError, match=r'some\.onnx: \d+ of the \d+ tensors of fpn with'):
        load_tensors(network, model, Path('some.onnx'))


def test_training_goes_on_as_the_bundle_is(
    bundle: tuple[Path, onnx.ModelProto, BundleMetadata],
    frames: list[LabelledFrame],
    tiny_recipe: Recipe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At a rate of next to nothing it stays what it is, though its statistics are the batches'."""
    model = tiny_recipe.model.model_copy(update={'initial_checkpoint': str(bundle[0])})
    optim = tiny_recipe.optim.model_copy(update={'lr': 1e-9, 'ema_decay': 0.0})
    evaluation = tiny_recipe.evaluation.model_copy(update={'calibrate_class_bias': False})
    changes = {'model': model, 'optim': optim, 'evaluation': evaluation}
    stage = train(tiny_recipe.model_copy(update=changes), tmp_path)
    assert 'weights read back; 100.000% of the pixels agree' in capsys.readouterr().out
    start = load_stage(bundle[0], frames)
    assert start.temperature == bundle[2].temperature
    assert start.frames == {'ycor': 4}
    for name, value in start.network().named_parameters():
        assert torch.allclose(value, stage.state_dict[name], atol=1e-6), name
    costs = start.parsed_ontology().costs
    predicts = [
        predict_with_graph(VehicleGraph(checkpoint.network(), costs, 1.0))
        for checkpoint in (start, stage)
    ]
    for frame in frames:
        before, after = (predict(frame.read_rgb(), None)[0] for predict in predicts)
        assert (before == after).mean() > 0.95


def test_a_bundle_teaches_as_its_checkpoint_does(
    trained: tuple[Checkpoint, Path],
    bundle: tuple[Path, onnx.ModelProto, BundleMetadata],
    frames: list[LabelledFrame],
) -> None:
    ontology = trained[0].parsed_ontology()
    image = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(0))
    soft, expected = (
        Teachers([source], 'cpu', ontology, frames).soft_labels({'image': image})
        for source in (bundle[0], trained[1])
    )
    torch.testing.assert_close(soft, expected, atol=1e-4, rtol=1e-3)


def test_what_cannot_be_read_back_is_refused(
    bundle: tuple[Path, onnx.ModelProto, BundleMetadata],
    frames: list[LabelledFrame],
    tmp_path: Path,
) -> None:
    _, original, metadata = bundle
    model = onnx.ModelProto()
    model.CopyFrom(original)

    def written(name: str, **changes: object) -> Path:
        write_bundle(model, metadata.model_copy(update=changes), tmp_path / name)
        return tmp_path / name

    rounded = written('int8.onnx', precision='int8', quantization={})
    with pytest.raises(
        CheckpointError, match=r'int8\.onnx: its weights are rounded to int8.*fp32'
    ):
        load_stage(rounded, frames)
    recipe = {**metadata.recipe, 'model': {**metadata.recipe['model'], 'decoder_channels': 64}}
    said = r'of the \d+ tensors of deeplabv3plus .*such as network\.decoder'
    with pytest.raises(CheckpointError, match=said):
        load_stage(written('other.onnx', recipe=recipe), frames)
    # The same tensors, put to another use.
    (decision,) = (node for node in model.graph.node if node.op_type == 'ArgMax')
    decision.op_type = 'ArgMin'
    with pytest.raises(CheckpointError, match=r'give \d\.\d+% of the pixels .*expected 99\.9%'):
        load_stage(written('edited.onnx'), frames)
    with pytest.raises(FileNotFoundError, match=r'none\.onnx does not exist'):
        load_stage(tmp_path / 'none.onnx', frames)


@pytest.mark.parametrize('name', ['ycor8_rgb', 'ycor8_rgbd'])
def test_the_shipped_models_can_be_trained_on(name: str) -> None:
    path = Path(__file__).resolve().parents[2] / f'models/{name}.onnx'
    metadata = read_bundle(path).metadata
    network = SegmentationNetwork(parse_recipe(metadata.recipe, name).model, 8)
    folded = load_tensors(network, onnx.load(path), path)
    assert len(folded) == 58
