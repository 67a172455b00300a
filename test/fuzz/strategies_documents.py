"""What the readers of text are fed: YAML and JSON, class tables, recipes, metrics; damaged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
import json
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from family import Family
import yaml

from desertmind_seg.model.documents import (
    DocumentError,
    parse_json,
    parse_yaml,
    read_json,
    read_yaml,
)
from desertmind_seg.model.files import FileError, share_path
from desertmind_seg.model.ontology import OntologyError, load_ontology
from desertmind_seg.storage.qos import load_yaml, recorded_qos
from training.evaluation.metrics_file import MetricsFileError, read_metrics
from training.recipes.load import RECIPES, load_ensemble, load_recipe
from training.recipes.schema import RecipeError

# What stands for itself, for something else than it seems, or for nothing.
_SCALARS = (
    *('', '~', 'null', 'true', 'no', '0', '-1', '007', '0x1F', '1_000', '1e3', '1e999', '.inf'),
    *('.nan', '-.inf', '12:30', '2026-01-31', '2026-13-41', '=', '<<', '!!binary aGk=', '0b1'),
    *('!!python/object:os.system x', '!!set {a, b}', '!!timestamp x', '&a', '*a', '&a *a', '! x'),
    *("'", '"', '"\\x"', '"\\ud800"', '[', '{', '}', ']', '[,]', '{a: 1, a: 2}', '? [1]', '- -'),
    *(
        '%YAML 9.9',
        '---',
        '...',
        '|',
        '>+9',
        '@x',
        '`',
        'a: b: c',
        '# x',
        '\t',
        '\r',
        '\0',
        '\u2028',
    ),
    *('\ufeff', '\ud800', 'ü', '9' * 25, '9' * 5000, '0.' + '1' * 400, '[' * 50, '{' * 50),
    *('<<: *a', '<<: [*a, *a]', '[*a, *a, *a, *a]', 'x' * 3000, '1e-999', '-0', '0o17', '١٢'),
)
_JSON_SCALARS = (
    *('NaN', 'Infinity', '-Infinity', '1e999', '"\\ud800"', '"\\u0000"', '9' * 25, '9' * 5000),
    *('{"a": 1, "a": 2}', '[' * 50, '{"a":' * 50, '"\t"', '-', '1.', '.1', 'tru', "'a'", '\ufeff'),
    *('{"a": {"b": 1, "b": 2}}', '[1, 2', '{"a" 1}', '{1: 2}', '"\\', '\\', '[]]', '"[{" : 1'),
)
# Values of every kind that YAML and JSON have, at the ends of what fields take.
_VALUES = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        255,
        256,
        65536,
        2**31,
        2**53 + 1,
        2**63,
        2**64 - 1,
        -(2**63),
    ),
    *(0.0, -0.0, 0.5, 1.5, 1e-300, 1e300, -1.5, '', ' ', 'none', 'x', 'x' * 5000, '\n', '\0', '١'),
    *('../../etc/passwd', '/dev/zero', '{}', 'ycor-8', 'mask', [], {}, [None], [[]], {'': None}),
    *(list(range(300)), {'a': {'b': {'c': 1}}}, [1, 'a', None], {'classes': []}, 'é' * 50),
)


def odd_value(rng: Random) -> Any:
    """Make a value of any kind."""
    return deepcopy(rng.choice(_VALUES))


def odd_tree(rng: Random, tree: Any) -> Any:
    """Return a copy of nested mappings and lists with some of their values changed."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = [*_places(tree)]
        if not places:
            return odd_value(rng)
        node, key = rng.choice(places)
        kind = rng.random()
        if kind < 0.6:
            node[key] = odd_value(rng)
        elif kind < 0.75:
            del node[key]
        elif kind < 0.85:
            other, place = rng.choice(places)
            # A copy of what stands elsewhere; gone where it was within what is deleted.
            with suppress(KeyError, IndexError):
                node[key] = json.loads(json.dumps(other[place]))
        elif isinstance(node, dict):
            node[rng.choice(('', 'x', str(key).upper(), f'{key} '))] = node.pop(key)
        else:
            node.insert(key, node[key])
    return tree


def _places(tree: Any) -> Any:
    for key, value in list(
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    ):
        yield tree, key
        yield from _places(value)


def damaged_text(rng: Random, text: str, scalars: tuple[str, ...] = _SCALARS) -> str:
    """Change lines, words and characters of a text in a few places."""
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        lines = text.split('\n')
        at = rng.randrange(len(lines))
        kind = rng.randrange(8)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif kind == 2:
            lines[at] = rng.choice(('  ', '\t', '- ', '    ')) + lines[at]
        elif kind == 3:
            lines[at] = lines[at].lstrip()
        elif kind == 4:
            head, colon, _ = lines[at].partition(rng.choice((':', '=', ' ')))
            lines[at] = f'{head}{colon} {rng.choice(scalars)}'
        elif kind == 5:
            lines.insert(at, rng.choice(scalars))
        elif kind == 6:
            words = lines[at].split(' ')
            words[rng.randrange(len(words))] = rng.choice(scalars)
            lines[at] = ' '.join(words)
        else:
            place = rng.randrange(len(lines[at]) + 1)
            lines[at] = (
                lines[at][:place] + chr(rng.choice((*range(128), 0xE9))) + lines[at][place:]
            )
        text = '\n'.join(lines)
    return text[: rng.randrange(len(text) + 1)] if rng.random() < 0.05 else text


def _grown(rng: Random, scalars: tuple[str, ...], depth: int = 0) -> str:
    """Grow a document in flow style."""
    kind = rng.random()
    if depth > 5 or kind < 0.4:
        return rng.choice(scalars)
    parts = [_grown(rng, scalars, depth + 1) for _ in range(rng.randint(0, 3))]
    if kind < 0.7:
        return f'[{", ".join(parts)}]'
    keys = [rng.choice(('"a"', '"b"', '"c"', '"é"', '"\\u0061"')) for _ in parts]
    return f'{{{", ".join(f"{key}: {part}" for key, part in zip(keys, parts, strict=True))}}}'


def _shipped(pattern: str) -> tuple[str, ...]:
    files = sorted(share_path('config').parent.glob(pattern))
    return tuple(file.read_text() for file in files)


_YAML = (*_shipped('config/*.yaml'), *_shipped('config/ontologies/*.yaml'))
_ONTOLOGIES = tuple(yaml.safe_load(text) for text in _shipped('config/ontologies/*.yaml'))
_RECIPES = {file.stem: file.read_text() for file in sorted(RECIPES.glob('*.yaml'))}
_ENSEMBLES = {name: text for name, text in _RECIPES.items() if '\nmembers:' in text}
_JSON = tuple(json.dumps(tree, indent=1) for tree in _ONTOLOGIES)


def _content(text: str, rng: Random) -> bytes:
    return text.encode(
        'utf-16' if rng.random() < 0.02 else 'utf-8',
        'replace' if rng.random() < 0.9 else 'surrogatepass',
    )


def yaml_content(rng: Random) -> bytes:
    """Make YAML, of a file that is shipped or grown."""
    text = _grown(rng, _SCALARS) if rng.random() < 0.5 else damaged_text(rng, rng.choice(_YAML))
    return _content(text, rng)


def json_content(rng: Random) -> bytes:
    """Make JSON, grown or of a class table."""
    scalars = (*_JSON_SCALARS, 'null', '1', '"x"', 'true', '[]', '{}', '1e5', '-0.0')
    text = (
        _grown(rng, scalars)
        if rng.random() < 0.6
        else damaged_text(rng, rng.choice(_JSON), _JSON_SCALARS)
    )
    return _content(text, rng)


def _parsed(parse: Callable[[bytes, str], Any]) -> Callable[[bytes], None]:
    def read(content: bytes) -> None:
        document = parse(content, 'it')
        # Text keys, finite numbers, and nothing that JSON has not.
        json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
        assert _has_text_keys(document)

    return read


def _has_text_keys(document: Any) -> bool:
    if isinstance(document, dict):
        return all(isinstance(key, str) and _has_text_keys(document[key]) for key in document)
    return not isinstance(document, list) or all(map(_has_text_keys, document))


def _from_file(name: str, read: Callable[[Path], Any]) -> Callable[[bytes], None]:
    def write_and_read(content: bytes) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.write_bytes(content)
            read(path)

    return write_and_read


def _odd_document(rng: Random, trees: tuple[Any, ...], texts: tuple[str, ...]) -> bytes:
    if texts and rng.random() < 0.3:
        return _content(damaged_text(rng, rng.choice(texts)), rng)
    tree = odd_tree(rng, rng.choice(trees))
    text = json.dumps(tree) if rng.random() < 0.5 else yaml.safe_dump(tree, allow_unicode=True)
    return _content(text, rng)


def _recorded_qos(content: bytes) -> None:
    with suppress(UnicodeDecodeError):
        text = content.decode('utf-8-sig')
        recorded_qos(text)
        recorded_qos(load_yaml(text))


_SIMPLE = {
    name: load_recipe(name).model_dump(mode='json') for name in ('ycor8_rgb', 'nyuv2_rgbd_aux')
}
_KEYS = (
    *('optim.epochs', 'data.train.0.root', 'data.train', 'model.depth.gain', 'seed', 'name'),
    *('loss.class_weights', 'data.train.1.x', 'data.train.-1', '.', '', 'x.y', 'optim', 'parent'),
    *(
        'augment.crop_size_hw.0',
        'model.encoder.0',
        'evaluation.tta_scales.0',
        'distillation.weight',
    ),
)


def odd_overrides(rng: Random) -> list[str]:
    """Make overrides of a recipe."""
    return [
        f'{rng.choice(_KEYS)}{rng.choice(("=", "=", "=", "", " = ", "=="))}'
        f'{rng.choice(_SCALARS) if rng.random() < 0.7 else rng.choice(("2", "none", "[64, 96]"))}'
        for _ in range(rng.randint(1, 3))
    ]


def _override(overrides: list[str]) -> None:
    recipe = load_recipe('ycor8_rgb', overrides)
    json.dumps(recipe.model_dump(mode='json'), allow_nan=False)


def _metrics() -> dict[str, Any]:
    """Return a metrics.json of one class and one frame."""
    count = {'frames': 1, 'confusion': [[9, 1]]}
    interval = [0.8, 1.0]
    return {
        **dict.fromkeys(('miou_all', 'miou_present', 'pixel_accuracy', 'ece', 'boundary_f1'), 0.9),
        **dict.fromkeys(('false_safe_rate', 'false_stop_rate'), None),
        **{f'{name}_interval_95': interval for name in ('miou_all', 'miou_present')},
        **{f'{name}_interval_95': interval for name in ('pixel_accuracy', 'false_safe_rate')},
        'false_stop_rate_interval_95': None,
        'classes': [{'id': 0, 'name': 'sky', 'iou': 0.9, 'pixels': 10}],
        'confusion': [[9, 1]],
        'boundary_f1_classes': [0.5],
        'reliability': [{'confidence': 0.9, 'accuracy': 0.8, 'pixels': 10}],
        'frames': 1,
        'blocks': 1,
        'per_block': [{'block': 'a', **count}],
        'per_frame': [{'name': 'a', 'miou_present': 0.9, 'pixel_accuracy': 0.9}],
        'recipe': {},
        **dict.fromkeys(('ontology', 'ontology_sha256', 'dataset', 'split', 'data_hash'), 'a'),
        'split_rule': 'all',
        'environment': {
            'machine': {'cpu': 'some', 'cpus': 2, 'memory_gib': 8.0, 'os': 'Linux'},
            'versions': {'python': '3.11'},
            'git_hash': None,
        },
    }


def document_families() -> dict[str, Family]:
    """Return the families of readers of text by name."""
    recipes = tuple(text for name, text in _RECIPES.items() if name not in _ENSEMBLES)
    file_errors = (DocumentError, FileError)
    return {
        'yaml': Family(yaml_content, _parsed(parse_yaml), DocumentError, 100),
        'json': Family(json_content, _parsed(parse_json), DocumentError),
        'yaml file': Family(yaml_content, _from_file('a.yaml', read_yaml), file_errors, 40),
        'json file': Family(json_content, _from_file('a.json', read_json), file_errors, 40),
        'recorded qos': Family(yaml_content, _recorded_qos, (ValueError,), 100),
        'ontology': Family(
            lambda rng: _odd_document(rng, _ONTOLOGIES, _shipped('config/ontologies/*.yaml')),
            _from_file('a.yaml', load_ontology),
            (OntologyError, FileError),
            25,
        ),
        'recipe': Family(
            lambda rng: _odd_document(rng, tuple(_SIMPLE.values()), recipes),
            _from_file('a.yaml', load_recipe),
            RecipeError,
            30,
        ),
        'ensemble recipe': Family(
            lambda rng: _odd_document(
                rng,
                tuple(yaml.safe_load(text) for text in _ENSEMBLES.values()),
                tuple(_ENSEMBLES.values()),
            ),
            _from_file('a.yaml', load_ensemble),
            RecipeError,
            30,
        ),
        'override': Family(odd_overrides, _override, RecipeError, 20),
        'metrics file': Family(
            lambda rng: _odd_document(rng, (_metrics(),), ()),
            _from_file('metrics.json', read_metrics),
            (MetricsFileError, FileError),
            50,
        ),
    }
