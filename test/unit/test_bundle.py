"""Writing and reading bundles, and every way in which a file can fail to be one."""

from collections.abc import Callable
import hashlib
from itertools import pairwise
import json
import os
from pathlib import Path
import stat
from typing import Any

import onnx
from onnx import TensorProto, external_data_helper, helper
from pydantic import ValidationError
import pytest
from tiny_bundle import tiny_metadata, tiny_model, write_tiny_bundle

from desertmind_seg.model.bundle import (
    HASH_KEY,
    METADATA_KEY,
    Bundle,
    BundleError,
    BundleMetadata,
    read_bundle,
    with_hash,
    write_bundle,
)
from desertmind_seg.model.files import share_path
from desertmind_seg.model.graph import MAX_NODES, graph_sha256
from desertmind_seg.model.ontology import Ontology, load_ontology


@pytest.fixture(scope='module')
def ontology() -> Ontology:
    return load_ontology('ycor-8')


@pytest.fixture
def model(ontology: Ontology) -> onnx.ModelProto:
    return tiny_model(ontology)


def save_with_metadata(path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Write the tiny bundle to `path`, then edit its metadata behind its back."""
    write_tiny_bundle(path)
    model = onnx.load(path)
    (entry,) = (prop for prop in model.metadata_props if prop.key == METADATA_KEY)
    document = json.loads(entry.value)
    edit(document)
    entry.value = json.dumps(document)
    onnx.save(model, path)
    return path


def test_what_is_written_is_read_back(tmp_path: Path, ontology: Ontology) -> None:
    metadata = tiny_metadata(
        ontology,
        temperature=1.37,
        recipe={'optim': {'lr': 1e-4}, 'epochs': 3},
        datasets=[{'name': 'ycor', 'licence': 'research only', 'frames': 931}],
        scores={'miou_all': 0.61, 'classes': [{'name': 'sky', 'iou': None}]},
        parity={'max_logit_error': 1e-5},
        git_hash='0' * 40,
        seed=7,
    )
    path = tmp_path / 'models' / 'tiny.onnx'
    written = write_bundle(tiny_model(ontology, 1.37), metadata, path)
    assert written == read_bundle(path)
    assert written == Bundle(path, hashlib.sha256(path.read_bytes()).hexdigest(), metadata)
    assert written.metadata.ontology.sha256 == ontology.sha256
    onnx.checker.check_model(onnx.load(path))
    assert list(path.parent.iterdir()) == [path]


def test_rgbd_bundle(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / 'tiny.onnx', modality='rgbd')
    assert bundle.metadata.modality == 'rgbd'
    assert bundle.metadata.depth_range_m == (0.5, 20.0)


def test_probabilities_are_optional(tmp_path: Path, ontology: Ontology) -> None:
    outputs = ('mask', 'confidence', 'cost')
    assert write_tiny_bundle(tmp_path / 'old.onnx').outputs == outputs
    path = tmp_path / 'new.onnx'
    assert write_tiny_bundle(path, probabilities=True).outputs == (*outputs, 'probabilities')
    assert read_bundle(path).outputs == (*outputs, 'probabilities')
    model = tiny_model(ontology, probabilities=True)
    model.graph.output[3].type.tensor_type.shape.dim[1].dim_value = 9
    with pytest.raises(
        BundleError,
        match=r"output 'probabilities' is uint8 \(1, 9, 48, 64\), expected uint8 \(1, 8, 48, 64\)",
    ):
        write_bundle(model, tiny_metadata(ontology), path)


def test_writing_twice_gives_the_same_file(tmp_path: Path) -> None:
    first = write_tiny_bundle(tmp_path / 'a.onnx')
    assert write_tiny_bundle(tmp_path / 'b.onnx').sha256 == first.sha256


def test_other_onnx_metadata_are_kept_and_old_ours_replaced(
    tmp_path: Path, model: onnx.ModelProto, ontology: Ontology
) -> None:
    model.metadata_props.add(key='exporter', value='torch')
    model.metadata_props.add(key=METADATA_KEY, value='old')
    bundle = write_bundle(model, tiny_metadata(ontology), tmp_path / 'tiny.onnx')
    keys = [entry.key for entry in onnx.load(bundle.path).metadata_props]
    assert sorted(keys) == [METADATA_KEY, HASH_KEY, 'exporter']
    assert model.metadata_props[1].value == 'old'  # the caller's model is not touched


def test_file_mode_follows_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        path = write_tiny_bundle(tmp_path / 'tiny.onnx').path
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'absent\.onnx does not exist; give the path'):
        read_bundle(tmp_path / 'absent.onnx')
    with pytest.raises(
        BundleError, match=r'^bundle .* is a folder; expected a file; give an \.onnx'
    ):
        read_bundle(tmp_path)


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        # As the README's table names them, and as the examples of a checkout, run elsewhere.
        (
            'ycor8_small_int8',
            '; the shipped one is {models}/ycor8_small_int8.onnx: give that path',
        ),
        ('models/ycor8_rgb.onnx', '; the shipped one is {models}/ycor8_rgb.onnx: give that path'),
        ('ycor8-smal-int8', " (did you mean 'ycor8_small_int8'?); give the path of an .onnx file"),
        (
            'mine',
            '; give the path of an .onnx file that training.export wrote; shipped in {models}',
        ),
    ],
)
def test_shipped_bundle_without_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, said: str
) -> None:
    models = share_path('models')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as err:
        read_bundle(given)
    message = str(err.value)
    assert message.startswith(f'bundle {given} does not exist{said.format(models=models)}')
    assert 'shipped one is' in message or message.endswith(
        ', '.join(sorted(path.name for path in models.glob('*.onnx')))
    )
    # A file of that name is what was asked for.
    write_tiny_bundle(tmp_path / given)
    assert read_bundle(given).path == Path(given)


@pytest.mark.parametrize('share', [0.2, 0.5, 0.9, 0.999])
def test_truncated_file(tmp_path: Path, tiny_bundle: Path, share: float) -> None:
    content = tiny_bundle.read_bytes()
    path = tmp_path / 'cut.onnx'
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BundleError, match=r'cut\.onnx .*is not a whole ONNX file.*Copy it again'):
        read_bundle(path)


def test_cut_where_the_graph_ends(tmp_path: Path, tiny_bundle: Path) -> None:
    """Such a file parses: only what stands behind the graph is missing."""
    model = onnx.load(tiny_bundle)
    del model.metadata_props[:]
    path = tmp_path / 'cut.onnx'
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=r"has no 'desertmind_seg' entry .*python -m training"):
        read_bundle(path)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', r'no bundle: it is empty\. Copy it again'),
        (b'\x08\x08', r"no 'desertmind_seg' .* metadata \[\]: .* an ONNX file of another program"),
        (b'\x89PNG\r\n\x1a\n' + bytes(100), r'\(108 bytes\) is not a whole ONNX file'),
        (
            b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 15800432\n',
            r'foreign\.onnx is no bundle: it is a pointer of Git LFS\. Fetch .*: git lfs pull',
        ),
        (b'<!DOCTYPE html>\n<html>', 'it is a web page, .* Download the file itself'),
        (b'<html lang="en">', 'it is a web page, .* Download the file itself'),
        (
            b'PK\x03\x04' + bytes(60),
            r'weights of torch\. Export what training\.train wrote: python',
        ),
        (
            bytes([9] + [0] * 7) + b'{"weight"',
            r'weights alone, in the safetensors .*training\.export',
        ),
        (b'\x89HDF\r\n\x1a\n' + bytes(60), 'it is an HDF5 file, such as Keras writes'),
        (bytes(4) + b'TFL3' + bytes(60), 'it is a TFLite model, which is not read here'),
        (b'vtrt' + bytes(60), r'it is a built TensorRT engine\. Give the \.onnx file'),
    ],
)
def test_foreign_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / 'foreign.onnx'
    path.write_bytes(content)
    with pytest.raises(BundleError, match=message):
        read_bundle(path)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / 'pipe.onnx'
    os.mkfifo(path)
    for other, kind in ((path, 'a pipe'), (Path('/dev/zero'), 'a device')):
        with pytest.raises(BundleError, match=rf'bundle {other} is {kind}; expected a file; give'):
            read_bundle(other)


def test_metadata_that_are_not_json(tmp_path: Path, model: onnx.ModelProto) -> None:
    model.metadata_props.add(key=METADATA_KEY, value='{')
    onnx.save(model, tmp_path / 'tiny.onnx')
    with pytest.raises(BundleError, match='its metadata is not JSON'):
        read_bundle(tmp_path / 'tiny.onnx')


def _edit_cost(document: dict[str, Any]) -> None:
    document['ontology']['classes'][4]['cost'] = 0


def _swap_names(document: dict[str, Any]) -> None:
    classes = document['ontology']['classes']
    classes[0]['name'], classes[4]['name'] = classes[4]['name'], classes[0]['name']


@pytest.mark.parametrize('edit', [_edit_cost, _swap_names])
def test_edited_ontology(
    tmp_path: Path, ontology: Ontology, edit: Callable[[dict[str, Any]], None]
) -> None:
    path = save_with_metadata(tmp_path / 'tiny.onnx', edit)
    pattern = rf"ontology_sha256 is {ontology.sha256} but the embedded ontology 'ycor-8' hashes to"
    with pytest.raises(BundleError, match=pattern):
        read_bundle(path)


def test_edited_hash(tmp_path: Path) -> None:
    path = save_with_metadata(
        tmp_path / 'tiny.onnx', lambda document: document.update(ontology_sha256='0' * 64)
    )
    with pytest.raises(BundleError, match=f'ontology_sha256 is {"0" * 64} but'):
        read_bundle(path)


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (lambda d: d.update(format_version=2), 'has bundle format 2, this version reads 1'),
        (lambda d: d.pop('format_version'), 'has bundle format None, this version reads 1'),
        (lambda d: d.pop('seed'), 'bad metadata: seed: Field required'),
        (lambda d: d.update(precision='fp8'), "precision: .*'fp32', 'fp16' or 'int8', not 'fp8'"),
        (lambda d: d.update(temperature=0.0), 'temperature: .*greater than 0, not 0.0'),
        (lambda d: d.update(name='x' * 9999), r"name: .*, not 'x{199}\.\.\.$"),
        (lambda d: d.update(network_size_hw=[0, 64]), r'network_size_hw.0: .*equal to 1, not 0'),
        (
            lambda d: d['ontology']['classes'][3].update(id=4),
            r"class 'puddle' at position 3 has id 4",
        ),
        (
            lambda d: d['ontology']['classes'][3].update(cost=300),
            r"ontology.classes.3.cost \(class 'puddle'\): .*254, not 300",
        ),
        (lambda d: d.update(modality='rgbd'), "modality is 'rgbd' and depth_range_m is None"),
        (lambda d: d.update(mode='rgb'), 'mode: Extra inputs are not permitted'),
    ],
)
def test_bad_metadata(
    tmp_path: Path, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = save_with_metadata(tmp_path / 'tiny.onnx', edit)
    with pytest.raises(BundleError, match=message):
        read_bundle(path)


def test_a_bundle_without_a_hash_is_of_an_older_version(tiny_bundle: Path, tmp_path: Path) -> None:
    model, path = onnx.load(tiny_bundle), tmp_path / 'old.onnx'
    (metadata,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    del model.metadata_props[:]
    model.metadata_props.append(metadata)
    onnx.save(model, path)
    commit = read_bundle(tiny_bundle).metadata.git_hash
    with pytest.raises(BundleError, match=f'an older version exported it.* of commit {commit}'):
        read_bundle(path)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'depth_range_m': (1.0, 2.0)}, "modality is 'rgb' and depth_range_m is"),
        ({'modality': 'rgbd', 'depth_range_m': (9.0, 2.0)}, 'the nearest depth must come first'),
        ({'temperature': float('nan')}, 'finite number|greater than 0'),
        ({'name': ''}, 'should match pattern'),
        ({'name': 'a\n\x1b[31m'}, 'should match pattern'),
    ],
)
def test_metadata_that_contradict_themselves(
    ontology: Ontology, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        tiny_metadata(ontology, **changes)


def test_metadata_cannot_be_changed(ontology: Ontology) -> None:
    with pytest.raises(ValidationError, match='frozen'):
        tiny_metadata(ontology).seed = 1  # type: ignore[misc]


def _rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = 'rgb'
    model.graph.node[0].input[0] = 'rgb'


def _drop_cost(model: onnx.ModelProto) -> None:
    del model.graph.output[2]


def _float_image(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def _int64_mask(model: onnx.ModelProto) -> None:
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info('mask', TensorProto.INT64, [1, 'H', 'W'])
    )
    (cast,) = (node for node in model.graph.node if node.output[0] == 'mask')
    cast.attribute[0].i = TensorProto.INT64


def _static_size(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 480


def _planar_image(model: onnx.ModelProto) -> None:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[1].dim_value = 3
    dims[3].dim_param = 'W3'


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (_rename_input, r"has inputs \['rgb'\], expected \['image'\]"),
        (
            _drop_cost,
            r"has outputs \['mask', 'confidence'\], expected \['mask', 'confidence', 'co",
        ),
        (
            _float_image,
            r"input 'image' is float \(1, dynamic, dynamic, 3\), expected uint8 \(1, d",
        ),
        (_int64_mask, r"output 'mask' is int64 .*, expected uint8 \(1, dynamic, dynamic\)"),
        (_static_size, r"input 'image' is uint8 \(1, 480, dynamic, 3\), expected"),
        (_planar_image, r"input 'image' is uint8 \(1, 3, dynamic, dynamic\), expected"),
    ],
)
def test_graph_that_breaks_the_contract(
    tmp_path: Path,
    ontology: Ontology,
    model: onnx.ModelProto,
    damage: Callable[[onnx.ModelProto], None],
    message: str,
) -> None:
    damage(model)
    path = tmp_path / 'tiny.onnx'
    with pytest.raises(BundleError, match=f'{message}.*'):
        write_bundle(model, tiny_metadata(ontology), path)
    assert list(tmp_path.iterdir()) == []
    # The same graph is refused when something else wrote it.
    model.metadata_props.add(key=METADATA_KEY, value=tiny_metadata(ontology).model_dump_json())
    onnx.save(model, path)
    with pytest.raises(BundleError, match=message):
        read_bundle(path)


def test_rgbd_metadata_need_a_depth_input(tmp_path: Path, ontology: Ontology) -> None:
    metadata = tiny_metadata(ontology, modality='rgbd', depth_range_m=(0.5, 10.0))
    with pytest.raises(BundleError, match=r"\['image'\], expected \['image', 'depth'\]"):
        write_bundle(tiny_model(ontology), metadata, tmp_path / 'tiny.onnx')


def test_invalid_graph_leaves_the_old_bundle(
    tmp_path: Path, ontology: Ontology, model: onnx.ModelProto
) -> None:
    path = write_tiny_bundle(tmp_path / 'tiny.onnx').path
    before = path.read_bytes()
    model.graph.node[3].input[0] = 'nowhere'
    with pytest.raises(BundleError, match=r"tiny\.onnx: node .* takes 'nowhere', which no"):
        write_bundle(model, tiny_metadata(ontology), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_weights_outside_the_file(
    tmp_path: Path, ontology: Ontology, model: onnx.ModelProto
) -> None:
    external_data_helper.convert_model_to_external_data(model, size_threshold=0)
    onnx.save(model, tmp_path / 'split.onnx')
    split = onnx.load(tmp_path / 'split.onnx', load_external_data=False)
    with pytest.raises(BundleError, match=r'weights, .* lie outside the ONNX file'):
        write_bundle(split, tiny_metadata(ontology), tmp_path / 'tiny.onnx')
    assert not (tmp_path / 'tiny.onnx').exists()


def test_metadata_round_trip_through_json(ontology: Ontology) -> None:
    metadata = tiny_metadata(ontology, scores={'ratio': 0.1 + 0.2})
    assert BundleMetadata.model_validate_json(metadata.model_dump_json()) == metadata


def test_a_changed_byte_of_graph_or_weights_is_noticed(tmp_path: Path, tiny_bundle: Path) -> None:
    content, expected = bytearray(tiny_bundle.read_bytes()), read_bundle(tiny_bundle).metadata
    path = tmp_path / 'flipped.onnx'
    refused = damaged = 0
    positions = range(0, len(content), 7)
    for position in positions:
        content[position] ^= 1 << position % 8
        path.write_bytes(content)
        content[position] ^= 1 << position % 8
        try:
            found = read_bundle(path).metadata
        except BundleError as err:
            refused += 1
            damaged += 'is damaged, or was edited after the export: its graph and' in str(err)
        else:  # in the prose of the metadata
            assert graph_sha256(path.read_bytes()) == graph_sha256(content)
            assert found.ontology.sha256 == expected.ontology.sha256
    assert damaged > 0.2 * len(positions)
    assert refused > 0.5 * len(positions)


def test_the_hash_does_not_depend_on_metadata_or_their_place(
    tmp_path: Path, model: onnx.ModelProto
) -> None:
    content = model.SerializeToString()
    entry = onnx.ModelProto(
        metadata_props=[onnx.StringStringEntryProto(key='a', value='b' * 1000)]
    ).SerializeToString()
    assert graph_sha256(entry + content) == graph_sha256(content + entry) == graph_sha256(content)
    assert graph_sha256(content) == hashlib.sha256(content).hexdigest()
    model.ir_version += 1
    assert graph_sha256(model.SerializeToString()) != graph_sha256(content)


def test_a_bundle_without_its_hash_is_refused(
    tmp_path: Path, model: onnx.ModelProto, ontology: Ontology
) -> None:
    model.metadata_props.add(key=METADATA_KEY, value=tiny_metadata(ontology).model_dump_json())
    path = tmp_path / 'tiny.onnx'
    onnx.save(model, path)
    with pytest.raises(
        BundleError, match=r"has no 'desertmind_seg\.graph_sha256' entry .* Export"
    ):
        read_bundle(path)
    path.write_bytes(with_hash(path.read_bytes()))
    assert read_bundle(path).metadata == tiny_metadata(ontology)


def _loop(model: onnx.ModelProto) -> None:
    """Run 2^60 times, which ONNX Runtime does while it loads."""
    flag = helper.make_tensor_value_info('flag', TensorProto.BOOL, [])
    number = helper.make_tensor_value_info('number', TensorProto.INT64, [])
    same = helper.make_node('Identity', ['flag'], ['flag_out'])
    out = helper.make_tensor_value_info('flag_out', TensorProto.BOOL, [])
    body = helper.make_graph([same], 'body', [number, flag], [out])
    model.graph.initializer.append(helper.make_tensor('count', TensorProto.INT64, [], [2**60]))
    model.graph.node.append(helper.make_node('Loop', ['count', ''], [], body=body, name='forever'))


def _chain(model: onnx.ModelProto) -> None:
    names = ['image_float', *(f'chain{i}' for i in range(MAX_NODES))]
    for above, below in pairwise(names):
        model.graph.node.append(helper.make_node('Neg', [above], [below]))


def _foreign_operator(model: onnx.ModelProto) -> None:
    node = helper.make_node('Gelu', ['image_float'], ['gelu'], domain='com.microsoft', name='g')
    model.graph.node.append(node)
    model.opset_import.add(domain='com.microsoft', version=1)


def _function(model: onnx.ModelProto) -> None:
    node = helper.make_node('Neg', ['x'], ['y'])
    function = helper.make_function('mine', 'F', ['x'], ['y'], [node], model.opset_import)
    model.functions.append(function)
    model.opset_import.add(domain='mine', version=1)


def _weights_elsewhere(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField('raw_data')
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key='location', value='../../../etc/passwd')


def _constant_elsewhere(model: onnx.ModelProto) -> None:
    tensor = TensorProto(name='c', data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key='location', value='/dev/zero')
    model.graph.node.append(helper.make_node('Constant', [], ['c'], value=tensor))


def _sparse_weights(model: onnx.ModelProto) -> None:
    values = helper.make_tensor('sparse', TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor('at', TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, indices, [2**20, 2**18])
    )


def _cycle(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node('Add', ['logits', 'b'], ['b'], name='round'))


def _given_twice(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node('Neg', ['logits'], ['logits'], name='again'))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (_sparse_weights, 'its graph has sparse weights'),
        (_cycle, "node 'round', a Add, takes 'b', which no node before it gives"),
        (_given_twice, "node 'again', a Neg, gives 'logits', which is there already"),
        (_loop, "node 'forever' is a Loop, which loops or branches"),
        (_chain, rf'its graph has \d+ nodes, expected at most {MAX_NODES}'),
        (
            _foreign_operator,
            r"node 'g' is com\.microsoft\.Gelu; a bundle has the operators of ONNX",
        ),
        (_function, r"its graph defines functions, 'F' first"),
        (_weights_elsewhere, r"1 weights, 'unit' first, lie outside the ONNX file"),
        (_constant_elsewhere, r"1 weights, 'c' first, lie outside the ONNX file"),
    ],
)
def test_graphs_that_no_bundle_has(
    tmp_path: Path,
    ontology: Ontology,
    model: onnx.ModelProto,
    change: Callable[[onnx.ModelProto], None],
    message: str,
) -> None:
    change(model)
    path = tmp_path / 'odd.onnx'
    with pytest.raises(BundleError, match=message):
        write_bundle(model, tiny_metadata(ontology), path)
    model.metadata_props.add(key=METADATA_KEY, value=tiny_metadata(ontology).model_dump_json())
    path.write_bytes(with_hash(model.SerializeToString()))
    with pytest.raises(BundleError, match=message):
        read_bundle(path)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{"format_version":1,"recipe":' + '{"a":' * 5000 + '1' + '}' * 5001, 'nested deeper tha'),
        ('{"format_version":1,"recipe":' + '[' * 100 + ']' * 100 + '}', 'nested deeper than 40'),
        ('{"name":"a","format_version":1,"name":"b"}', "key 'name' is given twice"),
        ('{"format_version":1,"temperature":Infinity}', 'Infinity is not a finite number'),
        ('[]', 'has bundle format None'),
        ('"' + 'a' * 2**21 + '"', 'its metadata has 2097154 characters, expected at most 2097152'),
    ],
)
def test_odd_metadata(tmp_path: Path, model: onnx.ModelProto, text: str, message: str) -> None:
    model.metadata_props.add(key=METADATA_KEY, value=text)
    path = tmp_path / 'odd.onnx'
    path.write_bytes(with_hash(model.SerializeToString()))
    with pytest.raises(BundleError, match=message) as caught:
        read_bundle(path)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize('classes', [255, 256])
def test_the_largest_ontology(classes: int) -> None:
    entries = [
        {
            'id': i,
            'name': f'c{i}',
            'raw': [i],
            'color_rgb': [i, 0, 0],
            'group': 'obstacle',
            'cost': 9,
        }
        for i in range(classes)
    ]
    document = {'name': 'large', 'description': '', 'source': '', 'classes': entries}
    text = json.dumps(document)
    if classes == 255:
        assert Ontology.model_validate_json(text).num_classes == 255
    else:
        with pytest.raises(ValidationError, match=r'at most 255 items|less than or equal to 254'):
            Ontology.model_validate_json(text)
