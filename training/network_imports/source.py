"""A network of another program: what its ONNX file takes and gives, and a plain graph of it."""

from collections.abc import Iterable
from dataclasses import dataclass
import hashlib
from math import log
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, inliner, version_converter
import onnxruntime

from desertmind_seg.engines.onnxruntime import add_exactly, onnxruntime_failures
from desertmind_seg.model.bundle import METADATA_KEY
from desertmind_seg.model.errors import DesertmindError, did_you_mean, first_line
from desertmind_seg.model.files import FileError, read_file, temporary_folder
from desertmind_seg.model.graph import GraphError, check_graph_is_plain
from training.bundles.exporting import OPSET
from training.bundles.precision import Precision

_MAX_BYTES = 2**31 - 1
_STANDARD = ('', 'ai.onnx')
_INPUT_TYPES: dict[int, npt.DTypeLike] = {
    int(TensorProto.FLOAT): np.float32,
    int(TensorProto.FLOAT16): np.float16,
    int(TensorProto.UINT8): np.uint8,
}
_FLOATS = (np.dtype(np.float32), np.dtype(np.float16))


class NetworkError(DesertmindError):
    """An ONNX file holds no network that can become a bundle; the message says why."""


@dataclass(frozen=True)
class ForeignNetwork:
    """A network of another program.

    Attributes:
        path: of its file.
        sha256: of the file, 64 hexadecimal digits.
        model: the network for one frame of `size_hw`, plain and of operator set `opset`.
        opset: OPSET, or that of the file if it is newer.
        precision: of its numbers.
        session: the network as it stands in the file.
        size_hw: height and width that it is fed.
        input: its name.
        input_type: of its elements.
        input_channels_last: whether it takes (1, h, w, 3) instead of (1, 3, h, w).
        output: the name of its scores by class.
        output_shape: of these.
        output_type: of their elements.
        classes_last: whether they are (1, h', w', C) instead of (1, C, h', w'). Of two classes C
            may be 1: the score of the second.
    """

    path: Path
    sha256: str
    model: onnx.ModelProto
    opset: int
    precision: Precision
    session: Any
    size_hw: tuple[int, int]
    input: str
    input_type: npt.DTypeLike
    input_channels_last: bool
    output: str
    output_shape: tuple[int, ...]
    output_type: npt.DTypeLike
    classes_last: bool

    def scores(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run the network as it stands in the file.

        Args:
            image: of its shape and type, normalised as it wants.

        Returns:
            What it gives: `output_shape`.
        """
        (found,) = self.session.run([self.output], {self.input: image})
        return np.asarray(found)


def read_network(
    path: Path, num_classes: int, size_hw: tuple[int, int] | None, output: str | None
) -> ForeignNetwork:
    """Read a network that segments RGB images.

    Args:
        path: the ONNX file; weights in files beside it are read, too.
        num_classes: how many scores a pixel must have.
        size_hw: height and width to feed it; None for those in the file.
        output: name of the scores; None for the only ones of `num_classes` classes.

    Raises:
        OSError: the file cannot be read.
        NetworkError: it is no such network, or uses what no bundle has.
    """
    content = _content(path)
    model = _parsed(content, path)
    given = _only_input(model, path)
    channels_last, fixed_hw = _layout(given, path)
    size_hw = _size(fixed_hw, size_hw, path)
    fixed = _for_one_frame(model, given.name, size_hw, channels_last=channels_last)
    plain, session = _plain(fixed, path)
    element = _INPUT_TYPES[int(given.type.tensor_type.elem_type)]
    height, width = size_hw
    shape = (1, height, width, 3) if channels_last else (1, 3, height, width)
    blank = {given.name: np.zeros(shape, element)}
    try:
        results = session.run(None, blank)
    except onnxruntime_failures() as err:
        raise NetworkError(
            f'{path} cannot be run on a frame of {height}x{width} (height x width): '
            f'{first_line(err)}. Give a size that it takes: --network-size'
        ) from err
    found = dict(zip([each.name for each in session.get_outputs()], results, strict=True))
    name = _scores_of(found, num_classes, output, path)
    (again,) = session.run([name], blank)
    if not np.allclose(found[name], again, rtol=1e-3, atol=1e-3, equal_nan=True):
        raise NetworkError(
            f'{path} gives other scores when the same image comes again: it draws random numbers, '
            'as dropout does in training. Export it for inference, after model.eval()'
        )
    return ForeignNetwork(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        model=plain,
        opset=_opset(plain),
        precision=_precision(plain),
        session=session,
        size_hw=size_hw,
        input=given.name,
        input_type=element,
        input_channels_last=channels_last,
        output=name,
        output_shape=found[name].shape,
        output_type=found[name].dtype,
        classes_last=_classes_last(found[name].shape, num_classes, size_hw, like=channels_last),
    )


def _content(path: Path) -> bytes:
    try:
        return read_file(path, _MAX_BYTES)
    except FileError as err:
        raise NetworkError(f'network {err}; give an .onnx file') from err


def _parsed(content: bytes, path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(content)
        onnx.load_external_data_for_model(model, str(path.parent))
    except (DecodeError, UnicodeDecodeError) as err:
        raise NetworkError(
            f'{path} ({len(content)} bytes) is no whole ONNX file: {first_line(err)}. Export the '
            'network to ONNX first, as torch.onnx.export, tf2onnx and paddle2onnx do'
        ) from err
    except (OSError, onnx.checker.ValidationError, ValueError) as err:
        raise NetworkError(
            f'{path} keeps weights in files beside it, which cannot be read: '
            f'{first_line(err).rstrip(".")}. Copy them into its folder'
        ) from err
    if not model.graph.node:
        raise NetworkError(f'{path} is no ONNX file, or holds no network; export it to ONNX first')
    if any(entry.key == METADATA_KEY for entry in model.metadata_props):
        raise NetworkError(f'{path} is a bundle already; give it as --bundle or bundle:=')
    return model


def _only_input(model: onnx.ModelProto, path: Path) -> onnx.ValueInfoProto:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs: list[onnx.ValueInfoProto] = [
        value for value in model.graph.input if value.name not in weights
    ]
    if len(inputs) != 1:
        raise NetworkError(
            f'{path} has {len(inputs)} inputs, {[value.name for value in inputs]}; expected one, '
            'RGB images. Networks that take depth or anything else come from training.export'
        )
    return inputs[0]


def _layout(value: onnx.ValueInfoProto, path: Path) -> tuple[bool, tuple[int | None, int | None]]:
    """Return whether channels come last, and height and width as far as they are fixed."""
    tensor = value.type.tensor_type
    # Any size is 0, or -1, which Paddle's and scripts write.
    sizes = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]
    known = tensor.elem_type in _INPUT_TYPES
    if known and len(sizes) == 4 and sizes[0] in (None, 1):
        if sizes[1] in (3, None) and (sizes[1] == 3 or sizes[3] != 3):
            return False, (sizes[2], sizes[3])
        if sizes[3] == 3:
            return True, (sizes[1], sizes[2])
    shown = ', '.join('?' if size is None else str(size) for size in sizes)
    kind = TensorProto.DataType.Name(tensor.elem_type).lower()
    raise NetworkError(
        f'{path}: input {value.name!r} is {kind} ({shown}); expected one RGB image a time, float, '
        'float16 or uint8 of (1, 3, height, width) or (1, height, width, 3). Export it again so'
    )


def _size(
    fixed: tuple[int | None, int | None], wanted: tuple[int, int] | None, path: Path
) -> tuple[int, int]:
    if wanted is None:
        if fixed[0] is None or fixed[1] is None:
            raise NetworkError(
                f'{path} takes images of any size; say which it was trained for: '
                '--network-size HEIGHTxWIDTH'
            )
        return fixed[0], fixed[1]
    if any(size not in (None, want) for size, want in zip(fixed, wanted, strict=True)):
        shown = 'x'.join('?' if size is None else str(size) for size in fixed)
        raise NetworkError(
            f'{path} takes images of {shown} (height x width) alone, not {wanted[0]}x{wanted[1]}; '
            'leave out --network-size, or export it for that size or for any'
        )
    return wanted


def _for_one_frame(
    model: onnx.ModelProto, name: str, size_hw: tuple[int, int], *, channels_last: bool
) -> onnx.ModelProto:
    """Return the model with the size of its input fixed, and what follows from it left out."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    sizes = (1, *size_hw, 3) if channels_last else (1, 3, *size_hw)
    (value,) = (value for value in fixed.graph.input if value.name == name)
    for dim, size in zip(value.type.tensor_type.shape.dim, sizes, strict=True):
        dim.dim_value = size
    del fixed.graph.value_info[:]
    for result in fixed.graph.output:
        result.type.tensor_type.ClearField('shape')
    return fixed


def _plain(model: onnx.ModelProto, path: Path) -> tuple[onnx.ModelProto, Any]:
    """Return the graph without what its fixed size makes constant, and a session of the model."""
    options = onnxruntime.SessionOptions()
    add_exactly(options)
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=['CPUExecutionProvider']
        )
        plain = _without_constants(_of_opset(inliner.inline_local_functions(model), path))
    except onnxruntime_failures() as err:
        raise NetworkError(
            f'{path} cannot be loaded by ONNX Runtime {onnxruntime.__version__}: '
            f'{first_line(err)}. Check the file by itself, or give a size that it takes, such as '
            'a multiple of 32: --network-size'
        ) from err
    try:
        check_graph_is_plain(plain, path)
    except GraphError as err:
        raise NetworkError(str(err)) from err
    return plain, session


def _opset(model: onnx.ModelProto) -> int:
    versions = [int(each.version) for each in model.opset_import if each.domain in _STANDARD]
    return max(versions, default=0)


def _of_opset(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    if _opset(model) >= OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except (RuntimeError, version_converter.ConvertError) as err:
        raise NetworkError(
            f'{path} is of operator set {_opset(model)}, which cannot be converted to {OPSET}, '
            f'that of bundles: {first_line(err)}. Export it with that operator set'
        ) from err


def _without_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold what does not depend on the image, such as shapes."""
    options = onnxruntime.SessionOptions()
    # Nothing beyond it: that has operators of ONNX Runtime's own.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with temporary_folder() as folder:
        folded = folder / 'folded.onnx'
        options.optimized_model_filepath = str(folded)
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=['CPUExecutionProvider']
        )
        return onnx.load(folded)


def _precision(model: onnx.ModelProto) -> Precision:
    if any(node.op_type.endswith('QuantizeLinear') for node in model.graph.node):  # Dynamic~, too
        return 'int8'
    half = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return 'fp16' if half else 'fp32'


def _scores_of(
    found: dict[str, npt.NDArray[Any]], num_classes: int, wanted: str | None, path: Path
) -> str:
    """Return the name of the scores by class."""
    listed = ', '.join(f'{name} {each.dtype} {each.shape}' for name, each in found.items())
    if wanted is not None and wanted not in found:
        raise NetworkError(
            f'{path} has no output {wanted!r}{did_you_mean(wanted, found)}, but {listed}'
        )
    named = {name: each for name, each in found.items() if wanted in (None, name)}
    channels = _channels(num_classes)
    fitting = [
        name
        for name, each in named.items()
        if each.dtype in _FLOATS and each.ndim == 4 and channels & {each.shape[1], each.shape[3]}
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise NetworkError(
            f'{path} has several outputs that may be the scores: {", ".join(fitting)}. Choose by '
            '--output NAME; an auxiliary one, which is for training, is not the one'
        )
    raise NetworkError(
        f'{path} gives {listed}; expected scores of the {num_classes} classes of --ontology for '
        f'each pixel, as float (1, {num_classes}, h, w) or (1, h, w, {num_classes}). '
        + _what_instead(named.values())
    )


def _channels(num_classes: int) -> set[int]:
    return {2, 1} if num_classes == 2 else {num_classes}


def _classes_last(
    shape: tuple[int, ...], num_classes: int, size_hw: tuple[int, int], *, like: bool
) -> bool:
    """Tell (1, h, w, C) from (1, C, h, w), also where h or w is C.

    Then that is right whose h and w are to each other as those of the image; of a square one, that
    of the network's input, `like`.
    """
    channels = _channels(num_classes)
    if not (shape[1] in channels and shape[3] in channels):
        return shape[1] not in channels
    first, last = (
        abs(log(height / size_hw[0]) - log(width / size_hw[1]))
        for height, width in (shape[2:], shape[1:3])
    )
    return like if first == last else last < first


def _what_instead(found: Iterable[npt.NDArray[Any]]) -> str:
    for each in found:
        if np.issubdtype(each.dtype, np.integer):
            return (
                'Class numbers alone say nothing of confidence and cost: export the network '
                'without its arg-max'
            )
        if each.ndim == 4 and each.dtype in _FLOATS:
            return (
                'Make a class table of its classes, in their order, those too that training '
                'ignored; or choose another by --output'
            )
    return 'Export it so'
