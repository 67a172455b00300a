"""The network of every recipe becomes TensorRT-RTX engines, for real and without a GPU.

Recipes that differ in data, loss, schedule or weights share a network: `_NETWORKS` has each once,
named after its first recipe, with random weights, a network size of 64x96 and, of encoders that
repeat the same layers more or less often, the smallest.
"""

from collections.abc import Iterator
import hashlib
from pathlib import Path
import re

import pytest
from tiny_bundle import tiny_metadata
import torch
import yaml

from desertmind_seg.engines.profiles import DYNAMIC
from desertmind_seg.engines.tensorrt_build import build_plan
from desertmind_seg.engines.tensorrt_library import TensorRt, installed_tensorrt
from desertmind_seg.engines.tensorrt_network import ParsedNetwork
from desertmind_seg.model.bundle import Bundle, read_bundle
from desertmind_seg.model.ontology import load_ontology
from training.bundles.exporting import to_onnx
from training.networks.network import SegmentationNetwork
from training.networks.vehicle_graph import VehicleGraph
from training.recipes.load import RECIPES, load_recipe
from training.recipes.schema import Recipe

_TARGETS = ('sm86', 'sm89')
# Encoder -> one with the same layers, fewer or narrower: tracing takes 8 s of CPU time less.
_SMALLEST = {
    'resnet101': 'resnet50',
    'tu-convnext_base': 'tu-convnext_tiny',
    'tu-tf_efficientnet_lite2': 'tu-tf_efficientnet_lite0',
}
_CAMERA = r'MinShape: \[1,64,64,3\], OptShape: \[1,720,1280,3\], MaxShape: \[1,2160,3840,3\]'
_DEPTH = r'MinShape: \[1,64,64\], OptShape: \[1,720,1280\], MaxShape: \[1,2160,3840\]'


def _small(name: str) -> Recipe:
    encoder = load_recipe(name).model.encoder
    return load_recipe(
        name,
        [
            f'model.encoder={_SMALLEST.get(encoder, encoder)}',
            'model.network_size_hw=[64, 96]',
            'model.encoder_weights=none',
            'model.initial_checkpoint=none',
        ],
    )


def _recipes() -> Iterator[Recipe]:
    for path in sorted(RECIPES.glob('*.yaml')):
        if 'members' not in yaml.safe_load(path.read_text()):
            yield _small(path.stem)


def _networks() -> dict[tuple[object, ...], Recipe]:
    """Group by what shapes the network; of RGB and RGB-D variants take RGB-D, which has more."""
    networks: dict[tuple[object, ...], Recipe] = {}
    for recipe in _recipes():
        model = recipe.model
        decoder = model.output_stride, model.decoder_channels, model.decoder_fusion
        key = model.architecture, model.encoder, *decoder
        takes_depth = model.depth is not None and model.depth.as_input
        if key not in networks or takes_depth:
            networks[key] = recipe
    return networks


_NETWORKS = _networks()


@pytest.fixture(scope='module')
def tensorrt() -> TensorRt:
    (rtx,) = (found for found in installed_tensorrt() if found.rtx)
    return rtx


def _write(recipe: Recipe, path: Path) -> Bundle:
    """Export as training.export does; parity check and write_bundle have tests of their own."""
    ontology = load_ontology(recipe.ontology)
    torch.manual_seed(0)
    network = SegmentationNetwork(recipe.model, ontology.num_classes).drop_depth_head()
    graph = VehicleGraph(network, ontology.costs, 1.0).eval()
    content = to_onnx(graph).SerializeToString()
    path.write_bytes(content)
    depth = network.depth_input
    metadata = tiny_metadata(
        ontology,
        modality=graph.modality,
        depth_range_m=None if depth is None else depth.range_m,
        network_size_hw=recipe.model.network_size_hw,
    )
    return Bundle(path, hashlib.sha256(content).hexdigest(), metadata)


def test_every_recipe_has_its_network_here() -> None:
    recipes = list(_recipes())
    assert len(recipes) >= 16
    assert 6 <= len(_NETWORKS) < len(recipes)
    assert {'deeplabv3', 'deeplabv3plus', 'fpn'} <= {str(key[0]) for key in _NETWORKS}


@pytest.mark.slow
@pytest.mark.parametrize(
    'recipe', _NETWORKS.values(), ids=lambda recipe: f'{recipe.model.architecture}-{recipe.name}'
)
def test_the_network_of_a_recipe_builds(
    recipe: Recipe, tensorrt: TensorRt, tmp_path: Path
) -> None:
    bundle = _write(recipe, tmp_path / 'network.onnx')
    parsed = ParsedNetwork(tensorrt, bundle)
    check_engines(tensorrt, bundle, parsed)


def test_the_shipped_model_builds(tensorrt: TensorRt) -> None:
    bundle = read_bundle(Path(__file__).resolve().parents[2] / 'models/ycor8_rgb.onnx')
    check_engines(tensorrt, bundle, ParsedNetwork(tensorrt, bundle))


def check_engines(tensorrt: TensorRt, bundle: Bundle, parsed: ParsedNetwork) -> None:
    """Check what can be seen without a driver: the parsed network and the builder's report."""
    depth = {'depth': 'FLOAT'} if bundle.metadata.modality == 'rgbd' else {}
    found = {name: tensor.dtype.name for name, tensor in parsed.inputs.items()}
    assert found == {'image': 'UINT8', **depth}
    for name in ('mask', 'confidence', 'cost'):
        assert parsed.outputs[name].dtype.name == 'UINT8'
        assert tuple(parsed.outputs[name].shape) == (1, -1, -1)

    # Strongly typed: what the graph calls float is float in every layer. Integers are the ids of
    # the arg-max and its casts, booleans the holes of depth.
    layers = parsed.layers()
    heavy = [dtype for _, kind, dtype in layers if kind in ('CONVOLUTION', 'MATRIX_MULTIPLY')]
    assert len(heavy) >= 30
    assert set(heavy) == {'FLOAT'}
    kinds = {dtype: {kind for _, kind, of in layers if of == dtype} for _, _, dtype in layers}
    assert set(kinds) <= {'FLOAT', 'INT32', 'INT64', 'UINT8', 'BOOL'}
    assert kinds['UINT8'] == {'CAST'}
    assert sum(dtype == 'UINT8' for _, _, dtype in layers) == 3

    plans = set()
    for target in _TARGETS:
        built = build_plan(tensorrt, parsed, target, (DYNAMIC,), lambda what, fraction: True)
        plans.add(built.plan)
        report = '\n'.join(built.report)
        assert re.search(rf'Name: image, IOMode: Input, DataType: UInt8, .*{_CAMERA}', report)
        assert bool(depth) == bool(
            re.search(rf'Name: depth, IOMode: Input, DataType: Float, .*{_DEPTH}', report)
        )
        assert report.count('IOMode: Output, DataType: UInt8') == 3
        assert 'Datatype: Half' not in report
        assert len(built.report) > 30
    assert len(plans) == len(_TARGETS)
