"""Who may import whom in training/; test/unit/test_import_boundaries.py says it of the runtime."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TRAINING = Path(__file__).resolve().parents[2] / 'training'

# Module -> the modules of training/ that it imports, inside functions included.
ALLOWED: dict[str, set[str]] = {
    '__init__': set(),
    # The synthetic drive knows nothing of training.
    'synthetic_sprites': set(),
    'synthetic_world': {'synthetic_sprites'},
    'synthetic_render': {'synthetic_sprites', 'synthetic_world'},
    'synthetic': {'synthetic_render', 'synthetic_world'},
    # Data.
    'recipe': set(),
    'frames': {'synthetic', 'synthetic_render', 'synthetic_sprites', 'synthetic_world'},
    'layouts': {'frames'},
    'frame_cache': {'frames'},
    'augment': {'recipe'},
    'datasets': {'recipe', 'frames', 'layouts', 'frame_cache', 'augment'},
    'sampling': set(),
    # Networks.
    'encoder_weights': {'recipe'},
    'model': {'recipe', 'encoder_weights'},
    'depth_holes': set(),
    'losses': {'recipe'},
    'schedule': {'recipe', 'model'},
    'checkpoint': {'recipe', 'model'},
    # Scores.
    'scores': set(),
    'metrics_file': set(),
    'tta': {'model'},
    'evaluation_report': {'metrics_file'},
    'evaluate': {
        *('recipe', 'datasets', 'model', 'checkpoint', 'scores', 'metrics_file', 'tta'),
        *('depth_holes', 'evaluation_report'),
    },
    'run_report': {'recipe', 'datasets', 'evaluate', 'metrics_file'},
    'compare': {'metrics_file'},
    'calibrate': {'recipe', 'datasets', 'model', 'checkpoint', 'evaluate'},
    # Ensembles.
    'out_of_fold': {'datasets', 'scores', 'tta'},
    'ensemble': {'recipe', 'checkpoint', 'metrics_file', 'out_of_fold'},
    'distillation': {'model', 'checkpoint', 'ensemble'},
    # Training, and what follows it.
    'task': {
        *('recipe', 'augment', 'depth_holes', 'model', 'losses', 'schedule', 'distillation'),
    },
    'train': {
        *('recipe', 'augment', 'datasets', 'sampling', 'model', 'losses', 'task'),
        *('checkpoint', 'calibrate', 'evaluate', 'metrics_file', 'run_report', 'distillation'),
    },
    'folds': {
        *('recipe', 'datasets', 'model', 'encoder_weights', 'checkpoint', 'calibrate', 'tta'),
        *('train', 'task', 'evaluate', 'metrics_file'),
        *('out_of_fold', 'ensemble', 'distillation'),
    },
    'audit': {'recipe', 'frames', 'layouts', 'datasets', 'checkpoint'},
    # Bundles.
    'half_precision': set(),
    'quantization': {'datasets', 'half_precision'},
    'parity': {'datasets', 'evaluate'},
    'export': {
        *('recipe', 'datasets', 'model', 'checkpoint', 'evaluate', 'metrics_file'),
        *('half_precision', 'quantization', 'parity'),
    },
    'model_card': {'evaluate'},
}

# Heavy or special packages -> the modules that may import them. Others are free.
OUTSIDE: tuple[tuple[str, frozenset[str]], ...] = (
    ('lightning', frozenset({'train', 'task', 'checkpoint'})),
    ('segmentation_models_pytorch', frozenset({'model', 'losses', 'encoder_weights'})),
    ('onnx onnxscript', frozenset({'export', 'half_precision', 'quantization'})),
    ('onnxruntime', frozenset({'quantization'})),
    ('h5py', frozenset({'frames', 'layouts'})),
    ('rclpy', frozenset()),
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
            module = f'training.{node.module or ""}'.rstrip('.') if node.level else node.module
            assert module is not None
            yield module
            yield from (f'{module}.{alias.name}' for alias in node.names)


def ours(names: Iterator[str]) -> set[str]:
    """Keep the modules of training/ among `names`, without the package's name."""
    parts = (name.split('.') for name in names)
    return {part[1] for part in parts if part[0] == 'training' and part[1:2]} & set(ALLOWED)


def test_table_names_every_module() -> None:
    assert {path.stem for path in TRAINING.rglob('*.py')} == set(ALLOWED)


@pytest.mark.parametrize('module', sorted(ALLOWED))
def test_module_imports_what_the_table_says(module: str) -> None:
    source = (TRAINING / f'{module}.py').read_text()

    outside = {name.split('.')[0] for name in imported_names(source)}
    misplaced = {name for name in outside & set(ALLOWED_IN) if module not in ALLOWED_IN[name]}

    assert ours(imported_names(source)) == ALLOWED[module]
    assert not misplaced, f'not allowed in {module}'


def test_table_has_no_circle() -> None:
    done: set[str] = {'__init__'}
    while ready := {module for module in set(ALLOWED) - done if ALLOWED[module] <= done}:
        done |= ready

    assert done == set(ALLOWED)


def test_hidden_imports_are_seen() -> None:
    source = (
        'def load():\n    import h5py.x\n    from . import model\n    from .task import T\n'
        '    from training import recipe\n    import training.tta\n'
    )

    assert 'h5py.x' in set(imported_names(source))
    assert ours(imported_names(source)) == {'model', 'task', 'recipe', 'tta'}
