"""The bundle: one ONNX file that holds network, pre- and post-processing, ontology and history."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from google.protobuf.message import DecodeError
import onnx
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from desertmind_seg.model.documents import DocumentError, parse_json
from desertmind_seg.model.errors import DesertmindError, did_you_mean
from desertmind_seg.model.files import (
    DEFAULT_BUNDLE,
    FileError,
    atomic_write,
    made_folder,
    read_file,
    share_path,
)
from desertmind_seg.model.graph import GraphError, check_graph_is_plain, graph_sha256
from desertmind_seg.model.ontology import Ontology, describe_validation_error

METADATA_KEY = 'desertmind_seg'
# The ONNX metadata's entry with `graph_sha256`, by which damage is noticed.
HASH_KEY = 'desertmind_seg.graph_sha256'
FORMAT_VERSION = 1

# Protobuf's own limit.
_MAX_BYTES = 2**31 - 1
# The shipped ones have 10,000; 255 classes with all their scores and raw codes 200,000.
MAX_METADATA_CHARS = 2**21

# Frame sizes for which every bundle must work, (height, width) in pixels.
MIN_SIZE_HW = (64, 64)
MAX_SIZE_HW = (2160, 3840)

IMAGE_INPUT = 'image'
DEPTH_INPUT = 'depth'
OUTPUTS: tuple[str, ...] = ('mask', 'confidence', 'cost')
# Of every class, at the network's size; for the temporal filter. A bundle may do without.
PROBABILITIES = 'probabilities'

_CHECKPOINT = (
    'a checkpoint or weights of torch. Export what training.train wrote: python -m '
    'training.export CHECKPOINT --out BUNDLE.onnx'
)
_WEB_PAGE = 'a web page, perhaps that about the file. Download the file itself'
_PLAN = 'a built TensorRT engine. Give the .onnx file of which it was built'
# What people give that is no file of torch or ONNX: where a magic number stands, and which.
Kinds = Mapping[tuple[int, bytes], str]
STAND_INS: Kinds = {
    (0, b'version https://git-lfs'): 'a pointer of Git LFS. Fetch the file itself: git lfs pull',
    (0, b'<!'): _WEB_PAGE,
    (0, b'<h'): _WEB_PAGE,
    (0, b'<H'): _WEB_PAGE,
    (0, b'\x89HDF\r\n\x1a\n'): 'an HDF5 file, such as Keras writes, which is not read here',
    (4, b'TFL3'): 'a TFLite model, which is not read here',
}
# After the eight bytes of its header's length, of which the upper ones are 0.
SAFETENSORS = (5, b'\0\0\0{"')
# What people give instead of a bundle, likewise.
_OTHER_FILES: Kinds = {
    **STAND_INS,
    SAFETENSORS: 'weights alone, in the safetensors format. A bundle also has the network and its '
    'classes: python -m training.export writes one',
    (0, b'PK\x03\x04'): _CHECKPOINT,
    (0, b'\x80\x02'): _CHECKPOINT,  # of torch before 1.6
    (0, b'vtrt'): _PLAN,  # of TensorRT-RTX
    (0, b'ptrt'): _PLAN,
    (0, b'ftrt'): _PLAN,
}


def kind_of_file(head: bytes, kinds: Kinds = STAND_INS) -> str | None:
    """Say by its first bytes what a file is, and what to do about it; None for none of `kinds`."""
    found = (said for (at, magic), said in kinds.items() if head.startswith(magic, at))
    return next(found, None)


class BundleError(DesertmindError):
    """A file is no valid bundle; the message says what is wrong with it and what to do."""


class BundleMetadata(BaseModel):
    """What a bundle knows about itself; travels as JSON in the ONNX metadata.

    Attributes:
        name: short name of the model, usually the file's stem.
        ontology: the class table, whole.
        ontology_sha256: `ontology.sha256` when the bundle was written.
        network_size_hw: (height, width) in pixels to which the graph resizes every frame.
        modality: 'rgb', or 'rgbd' when the graph also takes depth.
        depth_range_m: (nearest, farthest) depth in metres that the graph keeps; rgbd only.
        precision: number format of the weights.
        quantization: how an int8 graph was calibrated, and what stayed fp32 in it.
        temperature: divisor of the logits before the softmax, fitted for calibration.
        recipe: the resolved training recipe.
        datasets: one entry a data set: name, licence, frames.
        scores: mIoU and whatever else was measured, by name.
        parity: figures of the comparison with the torch model that the export passed.
        git_hash: commit of the training code.
        data_hash: hash of the training data.
        seed: seed of the training run.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra='forbid')

    format_version: Literal[1] = 1
    # One line, as it stands in logs and file names.
    name: Annotated[str, Field(pattern=r'^[^\x00-\x1f\x7f]{1,200}$')]
    ontology: Ontology
    ontology_sha256: str
    network_size_hw: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    modality: Literal['rgb', 'rgbd'] = 'rgb'
    depth_range_m: (
        tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0, allow_inf_nan=False)]]
        | None
    ) = None
    precision: Literal['fp32', 'fp16', 'int8'] = 'fp32'
    quantization: dict[str, Any] | None = None
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    recipe: dict[str, Any]
    datasets: list[dict[str, Any]]
    scores: dict[str, Any]
    parity: dict[str, Any]
    git_hash: str
    data_hash: str
    seed: int

    @model_validator(mode='after')
    def _check_consistency(self) -> 'BundleMetadata':
        if self.ontology_sha256 != self.ontology.sha256:
            raise ValueError(
                f'ontology_sha256 is {self.ontology_sha256} but the embedded ontology '
                f'{self.ontology.name!r} hashes to {self.ontology.sha256}: one of them was edited '
                'after the export. Export the bundle again; never edit its metadata'
            )
        if (self.modality == 'rgbd') != (self.depth_range_m is not None):
            raise ValueError(
                f'modality is {self.modality!r} and depth_range_m is {self.depth_range_m}; give '
                'depth_range_m for rgbd, and only for rgbd'
            )
        if self.depth_range_m is not None and self.depth_range_m[0] >= self.depth_range_m[1]:
            raise ValueError(
                f'depth_range_m is {self.depth_range_m}; the nearest depth must come first'
            )
        return self


@dataclass(frozen=True)
class Bundle:
    """A checked bundle file.

    Attributes:
        path: the ONNX file.
        sha256: hash of the whole file, 64 hexadecimal digits.
        metadata: what it says about itself.
        outputs: what its graph gives: OUTPUTS, and PROBABILITIES where it has them.
    """

    path: Path
    sha256: str
    metadata: BundleMetadata
    outputs: tuple[str, ...] = OUTPUTS


def read_bundle(path: str | Path) -> Bundle:
    """Read and check a bundle without building an engine for it.

    Raises:
        OSError: there is no such file, or it cannot be read.
        BundleError: the file is no regular one, is not ONNX, was not exported by this project, is
            damaged, its ontology does not match its hash, or its graph is not that of a bundle.
    """
    path = Path(path)
    try:
        content = read_file(path, _MAX_BYTES)
    except FileNotFoundError:
        raise FileNotFoundError(f'bundle {path} does not exist{_what_is_there(path)}') from None
    except FileError as err:
        raise BundleError(f'bundle {err}; give an .onnx file that training.export wrote') from err
    if not content:
        raise BundleError(f'{path} is no bundle: it is empty. Copy it again.')
    if is_what := kind_of_file(content, _OTHER_FILES):
        raise BundleError(f'{path} is no bundle: it is {is_what}')
    try:
        model = onnx.load_model_from_string(content)
        found = graph_sha256(content)
    except (DecodeError, GraphError) as err:
        raise BundleError(
            f'bundle {path} ({len(content)} bytes) is not a whole ONNX file: {err}. Copy it again.'
        ) from err
    promised = _prop(model, HASH_KEY)
    if promised not in (None, found):
        raise BundleError(
            f'bundle {path} is damaged, or was edited after the export: its graph and weights '
            f'hash to {found[:16]}..., not to the {promised[:16]!r} that it holds. Copy it again, '
            'or export it again with python -m training.export.'
        )
    metadata = _parse_metadata(model, path)
    outputs = _check_graph(model, metadata, path)
    try:
        check_graph_is_plain(model, path)
    except GraphError as err:
        raise BundleError(str(err)) from err
    if promised is None:
        raise BundleError(
            f'bundle {path} has no {HASH_KEY!r} entry among its ONNX metadata, so damage to it '
            'would not be noticed: an older version exported it. Export its checkpoint again with '
            f'python -m training.export, or use the desertmind_seg that wrote it, of commit '
            f'{metadata.git_hash[:12]}.'
        )
    return Bundle(path, hashlib.sha256(content).hexdigest(), metadata, outputs)


def _what_is_there(absent: Path) -> str:
    """Say what to give instead: the shipped bundle of that name, wherever it is installed."""
    anything = '; give the path of an .onnx file that training.export wrote'
    try:
        folder = share_path(DEFAULT_BUNDLE).parent
    except FileNotFoundError:
        return anything
    shipped = {path.stem: path for path in sorted(folder.glob('*.onnx'))}
    # Not `stem`: of ycor8_small.v2 it would be ycor8_small.
    name = absent.name.removesuffix('.onnx')
    if name in shipped:
        return f'; the shipped one is {shipped[name]}: give that path'
    if absent.parent not in (Path(), Path('models')):
        return anything
    return f'{did_you_mean(name, shipped)}{anything}; shipped in {folder} are ' + ', '.join(
        path.name for path in shipped.values()
    )


def write_bundle(model: onnx.ModelProto, metadata: BundleMetadata, path: str | Path) -> Bundle:
    """Check `model`, add `metadata` to it and write both as the bundle `path`.

    The file appears under its name only when it is complete and has been read back.

    Raises:
        BundleError: the graph is invalid or does not follow the contract of a bundle.
    """
    path = Path(path)
    stamped = onnx.ModelProto()
    stamped.CopyFrom(model)
    ours = (METADATA_KEY, HASH_KEY)
    kept = [entry for entry in stamped.metadata_props if entry.key not in ours]
    del stamped.metadata_props[:]
    stamped.metadata_props.extend(kept)
    stamped.metadata_props.add(key=METADATA_KEY, value=metadata.model_dump_json())
    try:
        check_graph_is_plain(stamped, path)
    except GraphError as err:
        raise BundleError(str(err)) from err
    try:
        onnx.checker.check_model(stamped)
    except onnx.checker.ValidationError as err:
        raise BundleError(f'{path}: the graph is not valid ONNX: {err}') from err
    with made_folder(path.parent), atomic_write(path) as temporary:
        temporary.write_bytes(with_hash(stamped.SerializeToString()))
        written = read_bundle(temporary)
    return replace(written, path=path)


def with_hash(content: bytes) -> bytes:
    """Return the content of an ONNX file with the hash of its graph as one more metadata entry."""
    entry = onnx.StringStringEntryProto(key=HASH_KEY, value=graph_sha256(content))
    # Two messages in a row are to protobuf one message with the fields of both.
    addition: bytes = onnx.ModelProto(metadata_props=[entry]).SerializeToString()
    return content + addition


def _prop(model: onnx.ModelProto, key: str) -> str | bytes | None:
    """Return a metadata entry; bytes where it is not UTF-8."""
    values = [entry.value for entry in model.metadata_props if entry.key == key]
    return values[-1] if values else None


def _parse_metadata(model: onnx.ModelProto, path: Path) -> BundleMetadata:
    text = _prop(model, METADATA_KEY)
    if text is None:
        keys = sorted({str(entry.key)[:60] for entry in model.metadata_props})[:20]
        raise BundleError(
            f'{path} has no {METADATA_KEY!r} entry among its ONNX metadata {keys}: it is an ONNX '
            'file of another program, of which python -m training.import_network makes a bundle; '
            'or a bundle that was cut short or has lost it. Copy that again, or export its '
            'checkpoint with python -m training.export.'
        )
    if len(text) > MAX_METADATA_CHARS:
        raise BundleError(
            f'{path}: its metadata has {len(text)} characters, expected at most '
            f'{MAX_METADATA_CHARS}. Export it again, with fewer scores.'
        )
    try:
        document = parse_json(text, f'{path}: its metadata')
    except DocumentError as err:
        raise BundleError(f'{err}. Export it again.') from err
    version = document.get('format_version') if isinstance(document, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(
            f'{path} has bundle format {version!r}, this version reads {FORMAT_VERSION}; export '
            'it again, or use the desertmind_seg that wrote it'
        )
    try:
        return BundleMetadata.model_validate_json(text)
    except ValidationError as err:
        raise BundleError(
            f'{path}: bad metadata: {describe_validation_error(err, document)}'
        ) from err


# Element type and shape of every tensor at the border of a graph; None is a dynamic size.
_Signature = tuple[int, tuple[int | None, ...]]
_UINT8 = int(onnx.TensorProto.UINT8)
_FLOAT = int(onnx.TensorProto.FLOAT)
_BORDER: dict[str, _Signature] = {
    IMAGE_INPUT: (_UINT8, (1, None, None, 3)),
    DEPTH_INPUT: (_FLOAT, (1, None, None)),
    **dict.fromkeys(OUTPUTS, (_UINT8, (1, None, None))),
}


def _check_graph(model: onnx.ModelProto, metadata: BundleMetadata, path: Path) -> tuple[str, ...]:
    """Check inputs and outputs; returns the names of the outputs."""
    size_hw, classes = metadata.network_size_hw, metadata.ontology.num_classes
    border = {**_BORDER, PROBABILITIES: (_UINT8, (1, classes, *size_hw))}
    outputs = OUTPUTS
    if PROBABILITIES in [value.name for value in model.graph.output]:
        outputs = (*OUTPUTS, PROBABILITIES)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    expected = (IMAGE_INPUT, DEPTH_INPUT) if metadata.modality == 'rgbd' else (IMAGE_INPUT,)
    for kind, values, names in (
        ('inputs', inputs, expected),
        ('outputs', list(model.graph.output), outputs),
    ):
        found = [str(value.name) for value in values]  # bytes where it is not UTF-8
        if sorted(found) != sorted(names):
            raise BundleError(
                f'{path}: the graph of this {metadata.modality} bundle has {kind} {found}, '
                f'expected {list(names)}; export it with python -m training.export'
            )
        for value in values:
            signature = _signature(value)
            if signature != border[value.name]:
                raise BundleError(
                    f'{path}: {kind[:-1]} {value.name!r} is {_show(signature)}, expected '
                    f'{_show(border[value.name])}; export it with python -m training.export'
                )
    return outputs


def _signature(value: onnx.ValueInfoProto) -> _Signature:
    tensor = value.type.tensor_type
    sizes = (dim.dim_value if dim.HasField('dim_value') else None for dim in tensor.shape.dim)
    return tensor.elem_type, tuple(sizes)


def _show(signature: _Signature) -> str:
    element, shape = signature
    sizes = ', '.join('dynamic' if size is None else str(size) for size in shape)
    known = element in onnx.TensorProto.DataType.values()
    name = onnx.TensorProto.DataType.Name(element).lower() if known else f'type {element}'
    return f'{name} ({sizes})'
