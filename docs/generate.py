"""Write the files that come from tables in the code, and one API page for each folder of it.

    python docs/generate.py        # `make docs` does it first

Needs the runtime, not torch.
"""

from collections.abc import Callable, Mapping
import inspect
import json
from pathlib import Path
import sys
import textwrap
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # training is not installed

from desertmind_seg.evaluation.results import EvaluationMetrics
from desertmind_seg.parameters.spec import ParameterSpec
from desertmind_seg.parameters.table import PARAMETERS
from desertmind_seg.replay.results import ReplayMetrics
from desertmind_seg.timing.results import BenchmarkMetrics
from training.evaluation.metrics_file import Metrics

PACKAGE = ROOT / 'desertmind_seg'
API = ROOT / 'docs' / 'api'

_CONFIG_HEAD = """\
# Every parameter of the node at its default. Copy it, keep the lines you change, and pass it:
#   ros2 launch desertmind_seg seg.launch.py params_file:=/path/to/my.yaml
# The key /** fits the node under any name and namespace.
# Written from the table in the code by `python docs/generate.py`.
/**:
  ros__parameters:"""

_PAGE_HEAD = """\
# Parameters

<!-- Written from the table in the code by `python docs/generate.py`. -->

Of each parameter of the node: its default, what is allowed, and when it may be set. **at start**:
read-only afterwards. **unconfigured**: the node reads it when it is configured. **any time**: from
the next frame on. [config/seg.yaml](../config/seg.yaml) holds all of them at their
defaults: start from a copy."""


def _literal(value: bool | int | float | str) -> str:
    """Write a default as YAML."""
    return str(value).lower() if isinstance(value, bool) else str(value) or "''"


def _by_group() -> dict[str, list[ParameterSpec]]:
    """Sort the table by what stands before the dot of the name; '' for names without one."""
    groups: dict[str, list[ParameterSpec]] = {}
    for spec in PARAMETERS:
        groups.setdefault(spec.name.rpartition('.')[0], []).append(spec)
    return groups


def config_yaml() -> str:
    """Return config/seg.yaml: every parameter at its default, below what it means."""
    lines = [_CONFIG_HEAD]
    for group, specs in _by_group().items():
        indent = '      ' if group else '    '
        if group:
            lines.append(f'    {group}:')
        for spec in specs:
            limits = f' Allowed: {spec.constraints} {spec.unit}'.rstrip() + '.'
            text = spec.description + (limits if spec.constraints else '')
            lines += [f'{indent}# {line}' for line in textwrap.wrap(text, 97 - len(indent))]
            # A whole copy of the file must not undo the autostart of seg.launch.py.
            mark = '# ' if spec.name == 'autostart' else ''
            lines.append(f'{indent}{mark}{spec.name.rpartition(".")[2]}: {_literal(spec.default)}')
    return '\n'.join(lines) + '\n'


def parameters_page() -> str:
    """Return docs/parameters.md: lists by group, because a phone cannot show so wide a table."""
    lines = [_PAGE_HEAD]
    for group, specs in _by_group().items():
        lines += [f'\n## {group or "The process"}\n']
        for spec in specs:
            unit = f' {spec.unit}' if spec.unit else ''
            limits = f'; {spec.constraints}{unit}' if spec.constraints else ''
            item = (
                f'- `{spec.name}`: `{_literal(spec.default)}`{unit}{limits}; {spec.settable}. '
                f'{spec.description}'
            )
            lines += textwrap.wrap(item, 99, subsequent_indent='  ', break_on_hyphens=False)
    return '\n'.join(lines) + '\n'


# Commands -> the model of the metrics.json that they write.
METRICS: dict[str, type[BaseModel]] = {
    'evaluate_bag': EvaluationMetrics,
    'replay_bag': ReplayMetrics,
    'benchmark': BenchmarkMetrics,
    'training.train, training.evaluate and training.folds': Metrics,
}


def metrics_page() -> str:
    """Return the page of every key of every metrics.json, each record once."""
    blocks = [
        '# metrics.json',
        'Written from the models in the code by `python docs/generate.py`. Scores and shares are '
        'fractions of 1; what is not known or not defined is null.',
    ]
    written: set[type[BaseModel]] = set()
    for commands, model in METRICS.items():
        blocks.append(f'## {commands}')
        waiting = [model]
        while waiting:
            record = waiting.pop(0)
            if record in written:
                continue
            written.add(record)
            title = [] if record is model else [f'### {record.__name__}']
            keys = []
            for name, field in record.model_fields.items():
                waiting += records_in(field.annotation)
                text = f': {field.description}' if field.description else ''
                line = f'- `{field.alias or name}`, {type_name(field.annotation)}{text}'
                keys.append(line.replace('null: null:', 'null:'))
            blocks += [*title, inspect.cleandoc(record.__doc__ or ''), '\n'.join(keys)]
    return '\n\n'.join(blocks) + '\n'


def records_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the records that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [record for part in get_args(annotation) for record in records_in(part)]


def type_name(annotation: Any) -> str:
    """Say what JSON holds for a type."""
    parts = get_args(annotation)
    if annotation in JSON_TYPES:
        return JSON_TYPES[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f'[{annotation.__name__}](#{annotation.__name__.lower()})'
    origin = get_origin(annotation)
    if origin is Annotated:
        return type_name(parts[0])
    if origin is Literal:
        return ' or '.join(f'`{json.dumps(part)}`' for part in parts)
    if origin is list:
        return f'list of {type_name(parts[0])}'
    if origin is tuple:
        count = '' if Ellipsis in parts else f'{len(parts)} times '
        return f'list of {count}{type_name(parts[0])}'
    if origin is dict or origin is Mapping:
        return f'object of {type_name(parts[1])}'
    return ' or '.join(type_name(part) for part in parts)  # of a union


JSON_TYPES = {
    str: 'text',
    int: 'whole number',
    float: 'number',
    bool: 'true or false',
    type(None): 'null',
    Any: 'anything',
}

# Path below the root -> what returns its text. These files are committed, so that they can be read
# without a build; test/integration/test_docs.py compares them.
WRITERS: dict[str, Callable[[], str]] = {
    'config/seg.yaml': config_yaml,
    'docs/parameters.md': parameters_page,
    'docs/metrics.md': metrics_page,
}


def api_page(folder: Path) -> str:
    """Return the page of the modules that lie in `folder`, as reStructuredText for autodoc."""
    package = '.'.join(folder.relative_to(ROOT).parts)
    title = 'Commands' if folder == PACKAGE else folder.name
    blocks = [f'{title}\n{"=" * len(title)}', f'.. automodule:: {package}']
    for path in sorted(folder.glob('*.py')):
        if path.stem != '__init__':
            blocks += [
                f'{path.stem}\n{"-" * len(path.stem)}',
                f'.. automodule:: {package}.{path.stem}\n   :members:\n   :show-inheritance:',
            ]
    return '\n\n'.join(blocks) + '\n'


def api_pages() -> dict[Path, str]:
    """Return the text of each API page; not committed, as every change of the code changes it."""
    folders = {path.parent for path in PACKAGE.rglob('*.py')}
    return {
        API / f'{"_".join(folder.relative_to(ROOT).parts)}.rst': api_page(folder)
        for folder in folders
    }


def main() -> None:
    """Write all of them; remove API pages of folders that are gone."""
    for path, text in WRITERS.items():
        (ROOT / path).write_text(text(), encoding='utf-8')
    API.mkdir(exist_ok=True)
    pages = api_pages()
    for old in set(API.glob('*.rst')) - set(pages):
        old.unlink()
    for page, text in pages.items():
        page.write_text(text, encoding='utf-8')


if __name__ == '__main__':
    main()
