"""The floor plan: which folder may import which. docs/architecture.md shows it.

At the root of each half lie the commands. They parse, call and print; they may import every folder
of their half, and nobody imports them.
"""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Folder -> the folders of its half that it imports, inside functions included. In the order of
# the arrows: a folder imports only what stands above it, so that there is no circle.
ROOMS: dict[str, dict[str, str]] = {
    'desertmind_seg': {
        'model': '',
        'geometry': 'model',
        'decoding': 'model',
        'storage': 'model',
        'messages': 'decoding model storage',
        'sources': 'decoding messages model storage',
        'reports': 'model',
        'engines': 'model',
        'pipeline': 'engines model',
        'scores': 'model pipeline',
        'hazards': 'geometry model',
        'monitoring': 'messages model pipeline',
        'parameters': 'hazards messages model',
        'outputs': 'geometry hazards messages model parameters pipeline',
        'node': 'engines geometry hazards messages model monitoring outputs parameters pipeline',
        'timing': 'decoding engines model pipeline reports',
        'bag_geometry': 'geometry hazards messages model pipeline scores',
        'viewer': 'bag_geometry geometry hazards model',
        'segmenting': 'bag_geometry geometry messages model pipeline sources viewer',
        'evaluation': (
            'bag_geometry decoding hazards messages model monitoring pipeline reports scores '
            'viewer'
        ),
        'labelling': (
            'bag_geometry decoding messages model pipeline reports scores segmenting sources'
        ),
        'fleet': 'bag_geometry evaluation hazards messages model pipeline storage',
        'release': ('decoding evaluation fleet labelling messages model pipeline reports scores'),
        'replay': 'bag_geometry evaluation messages model pipeline reports',
    },
    'training': {
        'recipes': '',
        'scenery': '',
        'simulator': 'scenery',
        'data': 'recipes scenery simulator',
        'networks': 'recipes',
        'batches': 'data networks recipes',
        'inspection': 'data recipes',
        'label_exports': '',
        'label_masks': 'label_exports',
        'label_folders': 'label_exports label_masks',
        'evaluation': 'data networks recipes',
        'bundles': 'data evaluation networks recipes',
        'network_imports': 'bundles data evaluation networks',
        'ensembles': 'bundles data evaluation networks recipes',
        'fit': 'batches bundles data ensembles evaluation networks recipes',
        'reproduction': 'ensembles evaluation fit recipes',
    },
}
COMMANDS = {
    'desertmind_seg': {
        *(
            '__main__',
            'extract_frames',
            'segmentation_node',
            'segment',
            'build_engine',
            'benchmark',
        ),
        *('evaluate_bag', 'evaluate_fleet', 'play_bag', 'replay_bag', 'nav2_config'),
    },
    'training': {
        *('synthetic', 'audit', 'train', 'evaluate', 'compare', 'calibrate'),
        *('folds', 'ensemble', 'export', 'model_card', 'import_labels', 'reproduce'),
        'import_network',
    },
}
# Packages from outside -> the folders that may import them; '' is the root. Others are free.
ROS_ROOMS = {'messages', 'geometry', 'monitoring', 'parameters', 'outputs', 'node', 'replay'}
OUTSIDE = {
    'desertmind_seg': (
        ('torch torchvision lightning timm segmentation_models_pytorch torchmetrics', set()),
        ('training cv_bridge', set()),
        ('rclpy builtin_interfaces diagnostic_msgs lifecycle_msgs rcl_interfaces', ROS_ROOMS),
        ('bond bondpy grid_map_msgs nav_msgs rosgraph_msgs sensor_msgs std_msgs', ROS_ROOMS),
        ('tf2_ros vision_msgs', ROS_ROOMS),
        ('rosbags', {'messages', 'storage'}),
        ('zstandard', {'decoding', 'messages', 'storage'}),
        ('lz4 mcap', {'storage'}),
        ('onnx', {'model', 'engines', 'timing'}),
        ('onnxruntime tensorrt tensorrt_bindings cuda', {'engines'}),
        ('tensorrt_rtx tensorrt_rtx_bindings', {'engines'}),
        ('jinja2 plotly', {'reports'}),
        ('rerun', {'viewer'}),
    ),
    'training': (
        ('lightning', {'fit', 'networks'}),
        ('segmentation_models_pytorch', {'networks'}),
        ('onnx onnxscript onnxruntime', {'bundles', 'network_imports'}),
        ('h5py', {'data'}),
        ('datumaro', {'label_masks'}),
        ('defusedxml pycocotools', {'label_exports'}),
        ('rclpy', set()),
    ),
}


def imported_names(source: str, package: str) -> Iterator[str]:
    """Yield the dotted name of every import in `source`, wherever in the file it stands.

    `from a import b` yields both 'a' and 'a.b', because b may be a module. A relative import
    counts from `package`.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split('.')[: len(package.split('.')) - node.level + 1]
            module = '.'.join([*(above if node.level else []), *filter(None, [node.module])])
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


@cache
def names_in(path: Path) -> set[str]:
    """Return all that a module imports."""
    package = '.'.join(path.relative_to(ROOT).parent.parts)
    return set(imported_names(path.read_text(), package))


def rooms_of(half: str, names: set[str]) -> set[str]:
    """Keep the folders of `half` among imported names."""
    parts = (name.split('.') for name in names)
    return {part[1] for part in parts if part[0] == half and len(part) > 1} & set(ROOMS[half])


def modules(folder: Path) -> list[Path]:
    """List the Python files of one folder, without those below it."""
    return sorted(path for path in folder.glob('*.py') if path.name != '__init__.py')


FOLDERS = [(half, room) for half, rooms in ROOMS.items() for room in rooms]


@pytest.mark.parametrize('half', ROOMS)
def test_the_root_holds_the_commands_and_what_they_share(half: str) -> None:
    assert {path.stem for path in modules(ROOT / half)} - {'options'} == COMMANDS[half]


@pytest.mark.parametrize('half', ROOMS)
def test_the_table_names_every_folder(half: str) -> None:
    found = {path.parent.relative_to(ROOT / half) for path in (ROOT / half).rglob('*.py')}

    assert {str(path) for path in found} - {'.'} == set(ROOMS[half])


@pytest.mark.parametrize('half', ROOMS)
def test_arrows_go_one_way(half: str) -> None:
    above: set[str] = set()
    for room, imports in ROOMS[half].items():
        assert set(imports.split()) <= above, room
        above.add(room)


@pytest.mark.parametrize(('half', 'room'), FOLDERS)
def test_a_folder_imports_what_the_table_says(half: str, room: str) -> None:
    names = {name for path in modules(ROOT / half / room) for name in names_in(path)}

    assert rooms_of(half, names) - {room} == set(ROOMS[half][room].split())


def test_no_module_imports_itself_by_way_of_others() -> None:
    paths = {
        '.'.join(path.relative_to(ROOT).with_suffix('').parts): path
        for half in ROOMS
        for path in (ROOT / half).rglob('*.py')
    }
    graph = {module: names_in(path) & set(paths) for module, path in paths.items()}

    assert len(graph) > 100
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


@pytest.mark.parametrize(('half', 'room'), FOLDERS)
def test_a_folder_has_three_to_ten_files(half: str, room: str) -> None:
    assert 3 <= len(modules(ROOT / half / room)) <= 10


@pytest.mark.parametrize('half', ROOMS)
def test_nobody_imports_a_command(half: str) -> None:
    paths = [path for each in ROOMS for path in (ROOT / each).rglob('*.py')]
    paths += (ROOT / 'launch').glob('*.py')
    commands = {f'{half}.{command}' for command in COMMANDS[half]}

    assert len(paths) > 100
    assert {
        path: sorted(names_in(path) & commands) for path in paths if names_in(path) & commands
    } == {}


@pytest.mark.parametrize('half', ROOMS)
def test_packages_from_outside_stay_in_their_rooms(half: str) -> None:
    allowed = {package: rooms for names, rooms in OUTSIDE[half] for package in names.split()}
    misplaced = [
        (str(path.relative_to(ROOT)), name)
        for path in (ROOT / half).rglob('*.py')
        for name in sorted({name.split('.')[0] for name in names_in(path)} & set(allowed))
        if path.parent.name not in allowed[name]
    ]

    assert misplaced == []


def test_launch_files_import_neither_torch_nor_training() -> None:
    launch_files = sorted((ROOT / 'launch').glob('*.py'))

    assert launch_files
    for path in launch_files:
        assert not {name.split('.')[0] for name in names_in(path)} & {'torch', 'training'}, path


def test_hidden_imports_are_seen() -> None:
    source = (
        'def load():\n    import torch.nn\n    from . import load\n'
        '    from ..model import bundle\n'
        "    importlib.import_module('desertmind_seg.messages.dds')\n"
        '    from desertmind_seg import scores\n'
    )
    names = set(imported_names(source, 'desertmind_seg.engines'))
    hidden = {'torch.nn', 'desertmind_seg.engines.load', 'desertmind_seg.model.bundle'}

    assert hidden <= names
    assert rooms_of('desertmind_seg', names) == {'engines', 'model', 'messages', 'scores'}


def test_progress_fills_no_log() -> None:
    """A bar redraws itself ten times a second: `Progress` writes a line every 10 s instead."""
    modules = [*ROOT.glob('training/**/*.py')]
    assert modules
    assert not [path for path in modules if 'tqdm(' in path.read_text(encoding='utf-8')]
