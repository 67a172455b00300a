"""Hypothesis strategies for files that are read: YAML, JSON, class tables and bundles."""

from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
from random import Random
import tempfile

from mutations import damaged
import numpy as np
from strategies_images import Family
from tiny_bundle import write_tiny_bundle

from desertmind_seg.engines.onnxruntime import OnnxRuntimeEngine
from desertmind_seg.model.bundle import read_bundle, with_hash
from desertmind_seg.model.documents import parse_json, parse_yaml
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.files import share_path
from desertmind_seg.model.ontology import load_ontology

_FOLDER = tempfile.TemporaryDirectory(prefix='desertmind_seg_fuzz_')  # until the process ends
_PIECES = (
    *('a: ', '- ', '{', '}', '[', ']', ', ', '\n', '\n  ', '\t', '"', "'", '#', '|\n', '>-\n'),
    *(
        '&a ',
        '*a',
        '<<: ',
        '<<: *a',
        '<<: [*a, *a]',
        '!!int ',
        '!!set ',
        '!!python/name:os ',
        '!x ',
    ),
    *('? ', '---\n', '...\n', '%YAML 1.1\n', '.inf', '.nan', '1e999', '-1', '0x_', '9' * 500),
    *('2026-01-01', '12:30:45', 'yes', 'null', '~', '\\ud800', '"\\ud800"', '\x00', '\xff', '𝄞'),
)


def document(rng: Random, contents: tuple[bytes, ...]) -> bytes:
    """Damage a good document, or put pieces together that mean something to YAML."""
    if rng.random() < 0.5:
        return damaged(rng, contents)
    text = ''.join(
        rng.choice(_PIECES) * rng.choice((1, 1, 1, 300)) for _ in range(rng.randint(1, 20))
    )
    return text.encode('utf-8', 'surrogatepass')


def stamped(rng: Random, contents: tuple[bytes, ...]) -> bytes:
    """Damage a bundle; half of the time its hash is made right again, as an attacker can."""
    content = damaged(rng, contents)
    try:
        return with_hash(content) if rng.random() < 0.5 else content
    except (DesertmindError, IndexError):  # no protobuf any more
        return content


def _from_file(
    folder: Path, name: str, read: Callable[[Path], object]
) -> Callable[[bytes], object]:
    def read_content(content: bytes) -> object:
        path = folder / name
        path.write_bytes(content)
        return read(path)

    return read_content


def _run_bundle(path: Path) -> None:
    engine = OnnxRuntimeEngine(read_bundle(path), 'cpu', 1)
    engine.infer(np.zeros((64, 96, 3), np.uint8))
    engine.close()


def document_families() -> dict[str, Family]:
    """Return the families of readers of files by name."""
    folder = Path(_FOLDER.name)
    table = share_path('config/ontologies/ycor-8.yaml').read_bytes()
    parameters = share_path('config/seg.yaml').read_bytes()
    results = json.dumps({'miou': 0.5, 'classes': [{'id': 0, 'iou': None}] * 5}, indent=1).encode()
    bundle = write_tiny_bundle(folder / 'good.onnx').path.read_bytes()
    return {
        'yaml': Family(
            lambda rng: document(rng, (table, parameters)),
            lambda c: parse_yaml(c, 'x'),
            DesertmindError,
        ),
        'json': Family(
            lambda rng: document(rng, (results,)), lambda c: parse_json(c, 'x'), DesertmindError
        ),
        'class table': Family(
            lambda rng: document(rng, (table,)),
            _from_file(folder, 'x.yaml', load_ontology),
            DesertmindError,
        ),
        'bundle': Family(
            lambda rng: stamped(rng, (bundle,)),
            _from_file(folder, 'x.onnx', _run_bundle),
            DesertmindError,
        ),
    }
