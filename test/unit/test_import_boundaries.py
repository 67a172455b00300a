"""Who may import whom. The tables are the architecture; ruff's TID251 says the same of torch."""

import ast
from collections.abc import Iterator
from pathlib import Path
import re

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = ROOT / 'desertmind_seg'

# Module of the runtime -> the modules of the runtime it imports, inside functions included.
ALLOWED: dict[str, set[str]] = {
    '__init__': set(),
    'share': set(),
    'ontology': {'share'},
    'bundle': {'ontology', 'share'},
    'engine_protocol': {'bundle'},
    'cuda_device': {'engine_protocol'},
    'engine_cache': {'engine_protocol', 'bundle', 'share'},
    'build_engine': {'engine_cache', 'engine_protocol', 'cuda_device', 'bundle', 'share'},
    'tensorrt_engine': {
        *('build_engine', 'engine_cache', 'engine_protocol', 'cuda_device', 'bundle', 'share'),
    },
    'engine': {'engine_protocol', 'build_engine', 'tensorrt_engine', 'bundle'},
    'segmenter': {'engine', 'bundle', 'ontology', 'temporal'},
    'flow': set(),
    'temporal': {'flow'},
    'rendering': {'ontology'},
    'metrics': {'ontology'},
    'bootstrap': {'metrics', 'ontology'},
    'telemetry': set(),
    'messages': {'ontology'},
    'depth_messages': {'messages'},
    'camera_model': set(),
    'points': {'camera_model'},
    'frame_transforms': set(),
    'costmap': {'camera_model', 'frame_transforms'},
    'nav2_config': {'costmap', 'bundle', 'ontology'},
    'parameters': set(),
    'frame_slot': set(),
    'pairing': {'frame_slot'},
    'health': {'telemetry'},
    'dds': {'share'},
    'bags': {'messages'},
    'provenance': set(),
    'report': {'ontology', 'share'},
    'segment': {'segmenter', 'engine', 'bundle', 'rendering', 'share'},
    'depth_input': {'pairing', 'depth_messages', 'messages', 'frame_slot', 'health'},
    'connections': {'dds'},
    'node_outputs': {'messages', 'rendering', 'segmenter', 'ontology'},
    'planner_outputs': {
        *('camera_model', 'points', 'costmap', 'frame_transforms', 'node_outputs', 'parameters'),
        *('messages', 'segmenter'),
    },
    'segmenter_loading': {
        *('build_engine', 'engine', 'engine_cache', 'bundle', 'parameters', 'segmenter'),
        *('share', 'temporal'),
    },
    'segmentation_node': {
        *('parameters', 'messages', 'frame_slot', 'segmenter', 'engine', 'bundle', 'health'),
        *('dds', 'pairing', 'depth_messages', 'depth_input', 'connections', 'node_outputs'),
        *('planner_outputs', 'segmenter_loading'),
    },
    'bag_depth': {
        *('bags', 'depth_messages', 'messages', 'metrics', 'ontology', 'pairing', 'report'),
    },
    'flicker': {'bootstrap', 'flow', 'report'},
    'bag_comparison': {'bootstrap', 'flicker', 'ontology', 'report'},
    'evaluate_bag': {
        *('bag_comparison', 'bootstrap', 'flicker', 'bag_depth', 'pairing', 'bags', 'messages'),
        *('segmenter', 'engine', 'bundle', 'ontology', 'rendering', 'metrics', 'telemetry'),
        *('temporal', 'provenance', 'report', 'share'),
    },
    'graph_cost': {'engine_protocol', 'bundle'},
    'machine_limits': {'graph_cost', 'engine', 'build_engine', 'cuda_device', 'bundle'},
    'timed_engine': {'engine', 'bundle'},
    'benchmark': {
        *('timed_engine', 'machine_limits', 'graph_cost', 'engine', 'engine_cache', 'bundle'),
        *('segment', 'segmenter', 'provenance', 'report'),
    },
    'play_bag': {'bags', 'dds'},
    # What the node sent is scored and shown by the code that does so for evaluate_bag.
    'replay_bag': {
        *('bags', 'play_bag', 'evaluate_bag', 'messages', 'bundle', 'ontology'),
        *('rendering', 'report', 'dds', 'share'),
    },
}

# Packages from outside -> the modules of the runtime that may import them. Others are free.
ROS_MODULES = frozenset(
    {
        *('messages', 'camera_model', 'points', 'costmap', 'frame_transforms', 'parameters'),
        *('connections', 'node_outputs', 'planner_outputs', 'segmentation_node'),
        *('play_bag', 'replay_bag'),
    }
)
OUTSIDE: tuple[tuple[str, frozenset[str]], ...] = (
    ('torch torchvision lightning timm segmentation_models_pytorch torchmetrics', frozenset()),
    ('training cv_bridge', frozenset()),
    ('rclpy builtin_interfaces diagnostic_msgs lifecycle_msgs rcl_interfaces', ROS_MODULES),
    ('nav_msgs rosgraph_msgs sensor_msgs std_msgs tf2_ros vision_msgs', ROS_MODULES),
    ('rosbags', frozenset({'bags'})),
    ('onnx', frozenset({'bundle', 'engine', 'build_engine', 'graph_cost', 'machine_limits'})),
    ('onnxruntime', frozenset({'engine'})),
    ('tensorrt tensorrt_rtx tensorrt_rtx_bindings', frozenset({'build_engine'})),
    ('cuda', frozenset({'cuda_device'})),
    ('jinja2 matplotlib', frozenset({'report'})),
)
ALLOWED_IN = {package: modules for packages, modules in OUTSIDE for package in packages.split()}


def imported_names(source: str) -> Iterator[str]:
    """Yield the dotted name of every import in `source`, wherever in the file it stands.

    `from a import b` yields both 'a' and 'a.b', because b may be a module.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = (
                f'desertmind_seg.{node.module or ""}'.rstrip('.') if node.level else node.module
            )
            assert module is not None
            yield module
            yield from (f'{module}.{alias.name}' for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func)
            in ('import_module', 'importlib.import_module', '__import__')
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value)


def ours(names: Iterator[str]) -> set[str]:
    """Keep the modules of the runtime among `names`, without the package's name."""
    parts = (name.split('.') for name in names)
    return {part[1] for part in parts if part[0] == 'desertmind_seg' and part[1:2]} & set(ALLOWED)


def test_table_names_every_module() -> None:
    assert {path.stem for path in RUNTIME.rglob('*.py')} == set(ALLOWED)


def test_page_says_what_every_module_is_for() -> None:
    page = (RUNTIME / 'README.md').read_text()
    rows = [line.split('|')[1] for line in page.splitlines() if line.startswith('| `')]
    named = [name for row in rows for name in re.findall(r'`(\w+)\.py`', row)]
    assert sorted(named) == sorted(set(ALLOWED) - {'__init__'})


@pytest.mark.parametrize('module', sorted(ALLOWED))
def test_module_imports_what_the_table_says(module: str) -> None:
    source = (RUNTIME / f'{module}.py').read_text()

    outside = {name.split('.')[0] for name in imported_names(source)}
    misplaced = {name for name in outside & set(ALLOWED_IN) if module not in ALLOWED_IN[name]}

    assert ours(imported_names(source)) == ALLOWED[module]
    assert not misplaced, f'not allowed in {module}'


def test_table_has_no_circle() -> None:
    done: set[str] = {'__init__'}
    while ready := {module for module in set(ALLOWED) - done if ALLOWED[module] <= done}:
        done |= ready

    assert done == set(ALLOWED)


def test_launch_files_import_neither_torch_nor_training() -> None:
    launch_files = sorted((ROOT / 'launch').glob('*.py'))

    assert launch_files
    for path in launch_files:
        outside = {name.split('.')[0] for name in imported_names(path.read_text())}
        assert not outside & {'torch', 'training'}, path


def test_hidden_imports_are_seen() -> None:
    source = (
        'def load():\n    import torch.nn\n    from . import engine\n    from .bags import Bag\n'
        "    importlib.import_module('desertmind_seg.dds')\n    from desertmind_seg import share\n"
    )

    assert {'torch.nn', 'desertmind_seg.engine', 'desertmind_seg.dds'} <= set(
        imported_names(source)
    )
    assert ours(imported_names(source)) == {'engine', 'bags', 'dds', 'share'}
