"""What the readers of models are fed: bundles and checkpoints, damaged, or whole and odd."""

from __future__ import annotations

from functools import cache
import io
import json
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from family import Family
from mutations import damaged
import numpy as np
import onnx
from strategies_documents import damaged_text, odd_tree, odd_value
from tiny_bundle import write_tiny_bundle

from desertmind_seg.engines.onnxruntime import OnnxRuntimeEngine
from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.model.bundle import HASH_KEY, METADATA_KEY, BundleError, read_bundle, with_hash
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.graph import GraphError
from desertmind_seg.pipeline.segmenter import Segmenter

_SIZES_HW = ((64, 64), (65, 97))


@cache
def _bundles() -> tuple[bytes, ...]:
    with TemporaryDirectory() as folder:
        path = Path(folder, 'tiny.onnx')
        contents = []
        for options in ({'probabilities': True}, {'modality': 'rgbd', 'depth_class': 2}):
            write_tiny_bundle(path, **options)
            contents.append(path.read_bytes())
    return tuple(contents)


def damaged_bundle(rng: Random) -> bytes:
    """Damage the bytes of a bundle anywhere."""
    content = rng.choice(_bundles())
    at = rng.randrange(len(content))
    return content[:at] + damaged(rng, [content[at : at + 200]]) + content[at + 200 :]


def odd_bundle(rng: Random) -> bytes:
    """Make a bundle whose hash is right and whose graph or metadata are not."""
    model = onnx.load_model_from_string(rng.choice(_bundles()))
    props = {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    metadata = props[METADATA_KEY]
    kind = rng.random()
    if kind < 0.2:
        metadata = json.dumps(odd_tree(rng, json.loads(metadata)))
    elif kind < 0.3:
        metadata = damaged_text(rng, metadata).encode('utf-8', 'replace').decode()
    else:
        for _ in range(rng.choice((1, 1, 2, 4))):
            _change_graph(rng, model)
    model.metadata_props.add(key=METADATA_KEY, value=metadata)
    content = model.SerializeToString()
    try:
        return with_hash(content)
    except GraphError:
        return content


def _change_graph(rng: Random, model: onnx.ModelProto) -> None:
    graph = model.graph
    node = rng.choice(graph.node) if graph.node else graph.node.add()
    kind = rng.randrange(12)
    if kind == 0:
        graph.node.remove(node)
    elif kind == 1:
        node.op_type = rng.choice(('Identity', 'Loop', 'If', 'Exp', 'NoOp', 'Sqrt', 'Transpose'))
    elif kind == 2 and node.input:
        names = [tensor.name for tensor in graph.initializer] + [
            name for other in graph.node for name in other.output
        ]
        node.input[rng.randrange(len(node.input))] = rng.choice((*names, '', 'none'))
    elif kind == 3 and node.output:
        node.output[0] = rng.choice(('mask', 'x', '', 'logits'))
    elif kind == 4 and node.attribute:
        attribute = rng.choice(node.attribute)
        attribute.i, attribute.f = rng.choice((-1, 0, 1, 3, 99, 2**40)), 1e30
        attribute.type = rng.choice((1, 2, 3, 4, 6, 7))
    elif kind == 5 and graph.initializer:
        _change_weights(rng, rng.choice(graph.initializer))
    elif kind == 6:
        value = rng.choice((*graph.input, *graph.output))
        tensor = value.type.tensor_type
        tensor.elem_type = rng.choice((1, 2, 3, 7, 11, 99))
        for dim in tensor.shape.dim:
            if rng.random() < 0.3:
                dim.dim_value = rng.choice((-1, 0, 1, 48, 2**40))
    elif kind == 7:
        graph.node.append(node)
    elif kind == 8:
        model.opset_import[0].version = rng.choice((-1, 0, 1, 7, 13, 21, 99, 2**40))
        model.ir_version = rng.choice((0, 3, 8, 10, 99))
    elif kind == 9:
        del graph.output[rng.randrange(len(graph.output))]
    elif kind == 10:
        node.domain = rng.choice(('', 'ai.onnx', 'com.microsoft', 'ai.onnx.ml'))
    else:
        rng.shuffle(nodes := list(graph.node))
        del graph.node[:]
        graph.node.extend(nodes)


def _change_weights(rng: Random, tensor: onnx.TensorProto) -> None:
    kind = rng.randrange(5)
    if kind == 0:
        tensor.data_type = rng.choice((0, 1, 2, 3, 6, 7, 8, 10, 11, 99))
    elif kind == 1 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice((-1, 0, 1, 2, 7, 2**40))
    elif kind == 2:
        tensor.raw_data = damaged(rng, [tensor.raw_data])
    elif kind == 3:
        count = len(tensor.raw_data) // 4
        values = rng.choice((float('nan'), float('inf'), -1e38, 0.0))
        tensor.raw_data = np.full(count, values, np.float32).tobytes()
    else:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key='location', value=rng.choice(('/etc/passwd', '../x', '')))


def _read_bundle(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, 'it.onnx')
        path.write_bytes(content)
        read_bundle(path)


def _read_damaged_bundle(content: bytes) -> None:
    _read_bundle(content)
    # What the metadata say of scores and history may change; the graph may not.
    promised = [
        entry.value
        for entry in onnx.load_model_from_string(content).metadata_props
        if entry.key == HASH_KEY
    ]
    assert promised


def _run_bundle(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, 'it.onnx')
        path.write_bytes(content)
        bundle = read_bundle(path)
        engine = OnnxRuntimeEngine(bundle, 'cpu', 1)
        segmenter = Segmenter(engine)
        for size_hw in _SIZES_HW:
            depth = np.ones(size_hw, np.float32) if bundle.metadata.modality == 'rgbd' else None
            result = segmenter.segment(np.zeros((*size_hw, 3), np.uint8), depth=depth)
            assert result.mask.shape == size_hw
        engine.close()


@cache
def _checkpoint() -> tuple[bytes, dict[str, Any]]:
    """Return the bytes of a small checkpoint, and what it holds."""
    import torch

    from desertmind_seg.model.ontology import load_ontology
    from training.networks.checkpoint import Checkpoint, save_checkpoint
    from training.recipes.load import load_recipe

    checkpoint = Checkpoint(
        state_dict={'weight': torch.zeros(3, 3), 'bias': torch.ones(3)},
        recipe=load_recipe('ycor8_rgb').model_dump(mode='json'),
        ontology=load_ontology('ycor-8').model_dump(mode='json'),
        temperature=1.0,
        data_hash='a',
        frames={'ycor': 3},
        git_hash='b',
        environment={},
        scores={},
    )
    with TemporaryDirectory() as folder:
        path = Path(folder, 'checkpoint.pt')
        save_checkpoint(checkpoint, path)
        return path.read_bytes(), vars(checkpoint)


def damaged_checkpoint(rng: Random) -> dict[str, Any]:
    """Damage the bytes of a checkpoint; half of them are sealed again."""
    content, _ = _checkpoint()
    at = rng.randrange(len(content))
    content = content[:at] + damaged(rng, [content[at : at + 200]]) + content[at + 200 :]
    return {'content': content, 'seal': rng.random() < 0.5}


def _read_checkpoint(value: dict[str, Any]) -> None:
    from training.networks.checkpoint import load_checkpoint

    with TemporaryDirectory() as folder:
        path = Path(folder, 'checkpoint.pt')
        path.write_bytes(_sealed(value['content']) if value['seal'] else value['content'])
        load_checkpoint(path)
        if not value['seal']:
            assert value['content'] == _checkpoint()[0], 'damage was not noticed'


def _sealed(content: bytes) -> bytes:
    import hashlib

    content = content[:-71]
    return content + f'sha256:{hashlib.sha256(content).hexdigest()}'.encode()


def odd_checkpoint(rng: Random) -> dict[str, Any]:
    """Make the fields of a checkpoint, some of them of another kind."""
    _, fields = _checkpoint()
    tree = {name: value for name, value in fields.items() if name != 'state_dict'}
    return (
        odd_tree(rng, tree)
        if rng.random() < 0.8
        else {**tree, rng.choice([*tree]): odd_value(rng)}
    )


def _read_odd_checkpoint(tree: Any) -> None:
    import torch

    from training.networks.checkpoint import load_checkpoint

    _, fields = _checkpoint()
    if isinstance(tree, dict):
        tree = {'state_dict': fields['state_dict'], **tree}
    stored = io.BytesIO()
    torch.save(tree, stored)
    content = stored.getvalue()[:-2] + (71).to_bytes(2, 'little') + bytes(71)
    with TemporaryDirectory() as folder:
        path = Path(folder, 'checkpoint.pt')
        path.write_bytes(_sealed(content))
        checkpoint = load_checkpoint(path)
    checkpoint.parsed_recipe()
    checkpoint.parsed_ontology()


def odd_record(rng: Random) -> bytes:
    """Make a fold_<k>.json, some of its fields of another kind."""
    _, fields = _checkpoint()
    prediction = {
        **{'network_size_hw': [48, 64], 'tta_scales': [1.0], 'tta_flip': False},
        **{'store_scale': 0.5, 'store_dtype': 'uint8'},
    }
    experiment = {
        **{'recipe': 'a', 'folds': 2, 'ontology': fields['ontology'], 'prediction': prediction}
    }
    tree = {
        **{'experiment': experiment, 'fold': 0, 'data_hash': 'a', 'checkpoint_sha256': 'b'},
        'frames': [{'name': 'a', 'dataset': 'ycor', 'group': 'g', 'file': 'f'}],
    }
    text = json.dumps(odd_tree(rng, tree), indent=1)
    if rng.random() < 0.3:
        text = damaged_text(rng, text)
    return text.encode('utf-8', 'replace')


def _read_record(content: bytes) -> None:
    from training.ensembles.store import FoldIndex

    with TemporaryDirectory() as folder:
        path = Path(folder, 'fold_0.json')
        path.write_bytes(content)
        FoldIndex.read(path)


def model_families() -> dict[str, Family]:
    """Return the families of readers of models by name."""
    return {
        'bundle': Family(damaged_bundle, _read_damaged_bundle, BundleError, 100),
        'odd bundle': Family(odd_bundle, _run_bundle, (BundleError, EngineError), 40, max_sec=5.0),
        'checkpoint': Family(damaged_checkpoint, _read_checkpoint, DesertmindError, 60),
        'odd checkpoint': Family(odd_checkpoint, _read_odd_checkpoint, DesertmindError, 40),
        'ensemble record': Family(odd_record, _read_record, DesertmindError, 40),
    }
