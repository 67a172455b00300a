"""Command: build TensorRT engines for a bundle. TensorRT-RTX needs no GPU for that."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
import functools
from importlib import import_module
from importlib.util import find_spec
import logging
from pathlib import Path
import signal
import sys
import time
from types import FrameType
from typing import Any, Literal

import onnx
from onnx import numpy_helper
from onnx.utils import Extractor
from tqdm import tqdm

from desertmind_seg.engines.cache import (
    CACHE_VARIABLE,
    BuiltEngine,
    EngineKey,
    Profile,
    Progress,
    StoredEngine,
    engine_folder,
    find_or_build,
    parse_shape,
)
from desertmind_seg.engines.cuda import Cuda, Device
from desertmind_seg.engines.protocol import EngineBuildError, EngineError, read_unchanged
from desertmind_seg.model.bundle import (
    DEPTH_INPUT,
    IMAGE_INPUT,
    OUTPUTS,
    PROBABILITIES,
    Bundle,
    BundleError,
    read_bundle,
)
from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path

_LOGGER = logging.getLogger(__name__)

CURRENT = 'current'

Flavour = Literal['tensorrt_rtx', 'tensorrt']
# Where each may be found, the preferred one first: PyPI's wheels name TensorRT-RTX otherwise than
# NVIDIA's archive does. A GPU that RTX does not know, such as a Jetson's, gets the plain one.
_MODULES: tuple[tuple[Flavour, str], ...] = (
    ('tensorrt_rtx', 'tensorrt_rtx'),
    ('tensorrt_rtx', 'tensorrt_rtx_bindings'),
    ('tensorrt', 'tensorrt'),
)

_EXAMPLES = f"""\
examples:
  for the GPU of this machine, any frame size
    python -m desertmind_seg.build_engine mine.onnx
  for the GPUs of the fleet, on a machine without any; the cameras send 640x480 and 1280x720
    python -m desertmind_seg.build_engine mine.onnx --target sm86,sm89 --shape 480x640,720x1280

Targets of TensorRT-RTX: sm75 (RTX 20), sm80, sm86 (RTX 30), sm89 (RTX 40), sm120 (RTX 50), sm121.
Plain TensorRT builds for the GPU of this machine only.

Engines lie in --cache-dir, else in ${CACHE_VARIABLE}, else in
$XDG_CACHE_HOME/desertmind_seg/engines. One that is there and fits is not built again.

exit status: 0 all engines are there, 1 one could not be built, 130 stopped by Ctrl-C
"""


@dataclass(frozen=True)
class BuildOptions:
    """How a TensorRT engine is built, and where it is kept.

    Attributes:
        shape: 'dynamic', or frame sizes such as '480x640,720x1280'.
        folder: of the engines; empty for the default.
        progress: told what the builder does; may stop it.
    """

    shape: str = 'dynamic'
    folder: str | Path = ''
    progress: Progress = field(default=lambda what, fraction: True)


@dataclass(frozen=True)
class TensorRt:
    """An installed TensorRT.

    Attributes:
        flavour: RTX or plain; they have the same API but for what `rtx` guards.
        module: its Python bindings.
        log: where it writes; one a process, since TensorRT keeps the first that it is given.
    """

    flavour: Flavour
    module: Any
    log: Any

    @property
    def rtx(self) -> bool:
        """Whether this is TensorRT-RTX."""
        return self.flavour == 'tensorrt_rtx'

    @property
    def version(self) -> str:
        """Such as '1.7.1.116'."""
        return str(self.module.__version__)

    @property
    def targets(self) -> tuple[str, ...]:
        """The GPUs it can build for without having one."""
        if not self.rtx:
            return ()
        names = self.module.ComputeCapability.__members__
        numbers = sorted(int(name[2:]) for name in names if name.startswith('SM'))
        return tuple(f'sm{number}' for number in numbers)

    def target_of(self, device: Device) -> str | None:
        """Name the target for a GPU; None if this TensorRT does not support it.

        Plain engines are tuned on one device, and wrong for another of the same architecture.
        """
        if not self.rtx:
            return f'{device.compute_capability}-{device.slug}'
        return device.compute_capability if device.compute_capability in self.targets else None

    def failed(self, what: str) -> EngineError:
        """Make the error for a call that failed, with what TensorRT logged about it."""
        reasons = '; '.join(dict.fromkeys(self.log.take_errors())) or 'it gave no reason'
        failure = f'{self.flavour} {self.version} could not {what}'
        return EngineError(f'{failure}: {reasons}', failure)


def installed_tensorrt() -> list[TensorRt]:
    """Return every TensorRT that can be imported, TensorRT-RTX first.

    Raises:
        EngineError: there is none.
    """
    found: dict[str, TensorRt] = {}
    reasons = []
    for flavour, name in _MODULES:
        if flavour in found or find_spec(name) is None:
            continue
        try:
            module = import_module(name)
        except (ImportError, OSError) as err:
            reasons.append(f'{name}: {err}')
            continue
        found[flavour] = TensorRt(flavour, module, _log_of(module))
    if not found:
        raise EngineError(
            "TensorRT is not installed: pip install 'desertmind_seg[tensorrt]' for GPUs of the "
            f"RTX class; on a Jetson JetPack's python3-libnvinfer. {'; '.join(reasons)}".rstrip(),
            'TensorRT is not installed',
        )
    return list(found.values())


def choose_tensorrt(target: str, device: Device | None) -> tuple[TensorRt, str]:
    """Return the TensorRT that builds for `target`, and the target's full name.

    Args:
        target: 'current', or a compute capability such as 'sm86'.
        device: the GPU of this machine; needed for 'current' and for plain TensorRT.

    Raises:
        EngineError: none that is installed can.
    """
    installed = installed_tensorrt()
    for tensorrt in installed:
        if target in tensorrt.targets:
            return tensorrt, target
        if device is not None and target in (CURRENT, device.compute_capability):
            name = tensorrt.target_of(device)
            if name is not None:
                return tensorrt, name
    known = [name for tensorrt in installed for name in tensorrt.targets]
    versions = ', '.join(f'{tensorrt.flavour} {tensorrt.version}' for tensorrt in installed)
    here = 'no GPU' if device is None else f'{device.name} ({device.compute_capability})'
    wanted = here if target == CURRENT else target
    raise EngineError(
        f'{versions} cannot build for target {wanted!r}; expected one of {", ".join(known)}'
        f'{"" if device is None else ", current"}, or install plain tensorrt on the machine with '
        'that GPU',
        f'{versions} does not support {wanted}',
    )


def choose_target(target: str) -> tuple[TensorRt, str]:
    """Return `choose_tensorrt` for a target, asking CUDA for the GPU only where it is needed.

    Raises:
        EngineError: nothing that is installed builds for it, or there is no GPU.
    """
    installed = installed_tensorrt()
    if any(target in tensorrt.targets for tensorrt in installed):
        return choose_tensorrt(target, None)
    # Plain TensorRT builds for a named target where it is the GPU of this machine.
    needs_device = target == CURRENT or not all(tensorrt.rtx for tensorrt in installed)
    return choose_tensorrt(target, Cuda().device() if needs_device else None)


def engine_key(
    tensorrt: TensorRt, bundle: Bundle, target: str, profiles: tuple[Profile, ...]
) -> EngineKey:
    """Return what the engine must have been built for."""
    return EngineKey(
        bundle_sha256=bundle.sha256,
        flavour=tensorrt.flavour,
        version=tensorrt.version,
        target=target,
        precision=bundle.metadata.precision,
        profiles=profiles,
    )


def stored_engine(
    bundle: Bundle, tensorrt: TensorRt, target: str, options: BuildOptions
) -> StoredEngine:
    """Return the engine from the cache; build it where it is missing or does not fit.

    Raises:
        EngineBuildError: bad shape, unwritable folder, or the build was stopped.
        EngineError: the build failed.
    """
    profiles = parse_shape(options.shape)
    key = engine_key(tensorrt, bundle, target, profiles)

    def build() -> BuiltEngine:
        _LOGGER.info(
            'Building the %s engine of %s for %s with %s %s ...',
            key.precision,
            bundle.metadata.name,
            target,
            tensorrt.flavour,
            tensorrt.version,
        )
        built = build_plan(
            tensorrt, ParsedNetwork(tensorrt, bundle), target, profiles, options.progress
        )
        _LOGGER.info('Built in %.1f s, %d bytes.', built.build_sec, len(built.plan))
        return built

    return find_or_build(bundle, key, engine_folder(options.folder), build, options.progress)


class ParsedNetwork:
    """A bundle's graph as a strongly typed TensorRT network.

    Strongly typed means: what the graph says is fp16, int8 or fp32 stays that, TensorRT chooses no
    other. TensorRT-RTX and TensorRT 11 know nothing else.

    Raises:
        EngineError: TensorRT cannot parse it, or its border is not that of a bundle.
    """

    def __init__(self, tensorrt: TensorRt, bundle: Bundle) -> None:
        module = tensorrt.module
        self.path = bundle.path
        tensorrt.log.take_errors()
        self.builder = module.Builder(tensorrt.log)
        typed = 1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.network = self.builder.create_network(typed)
        # Owns the weights until the engine is built.
        self._parser = module.OnnxParser(self.network, tensorrt.log)
        try:
            content = graph_for_tensorrt(read_unchanged(bundle))
        except ValueError as err:
            raise EngineError(
                f'{bundle.path}: {err}, for ONNX Runtime on the CPU; TensorRT takes int8 around 0 '
                'only. Use the fp16 bundle of this model, or backend onnxruntime-cpu.',
                'its activations are uint8',
            ) from err
        if not self._parser.parse(content):
            raise tensorrt.failed(f'parse {bundle.path}')
        inputs = (self.network.get_input(i) for i in range(self.network.num_inputs))
        outputs = (self.network.get_output(i) for i in range(self.network.num_outputs))
        self.inputs = {tensor.name: tensor for tensor in inputs}
        self.outputs = {tensor.name: tensor for tensor in outputs}
        rgbd = bundle.metadata.modality == 'rgbd'
        expected = {IMAGE_INPUT: 'UINT8', **({DEPTH_INPUT: 'FLOAT'} if rgbd else {})}
        expected |= dict.fromkeys(OUTPUTS, 'UINT8')
        found = {
            name: tensor.dtype.name for name, tensor in {**self.inputs, **self.outputs}.items()
        }
        if found != expected:
            raise EngineError(
                f'{bundle.path}: {tensorrt.flavour} reads the tensors {found}, expected '
                f'{expected}; export it again with python -m training.export'
            )

    def profile(self, profile: Profile) -> Any:
        """Return the optimization profile by which TensorRT knows the sizes of all inputs.

        Raises:
            ValueError: TensorRT refuses the sizes.
        """
        sizes = (profile.smallest, profile.typical, profile.largest)
        described = self.builder.create_optimization_profile()
        for name in self.inputs:
            described.set_shape(name, *(tensor_shape(name, size) for size in sizes))
        return described

    def layers(self) -> tuple[tuple[str, str, str], ...]:
        """Return name, kind and output type of each layer that computes on tensors, not sizes."""
        described = []
        for index in range(self.network.num_layers):
            layer = self.network.get_layer(index)
            outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
            if not all(output.is_shape_tensor for output in outputs):
                described.append((layer.name, layer.type.name, outputs[0].dtype.name))
        return tuple(described)


def graph_for_tensorrt(content: bytes) -> bytes:
    """Rewrite what ONNX Runtime and TensorRT want differently of a graph; the rest stays.

    The probabilities of all classes are cut off: engines give mask, confidence and cost.

    The biases of int8 convolutions are int32 constants for ONNX Runtime; TensorRT refuses these,
    and adds biases in float anyway, so they are dequantized here.

    Args:
        content: of an ONNX file.

    Returns:
        The content of an ONNX file that computes the same.

    Raises:
        ValueError: activations are uint8. TensorRT 1.7 reads them as int8 with only a warning,
            which cuts off their upper half.
    """
    model = onnx.load_model_from_string(content)
    if PROBABILITIES in [value.name for value in model.graph.output]:
        inputs = [value.name for value in model.graph.input]
        model = Extractor(model).extract_model(inputs, list(OUTPUTS))
        content = bytes(model.SerializeToString())
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == 'QuantizeLinear' and _quantizes_to(node, constants) != 'INT8':
            raise ValueError(f'{node.name or node.output[0]!r} quantizes activations to uint8')
        quantized = constants.get(node.input[0]) if node.input else None
        if (
            node.op_type == 'DequantizeLinear'
            and quantized is not None
            and quantized.data_type == onnx.TensorProto.INT32
        ):
            # One axis, or one scale for all: both broadcast. The zero point can only be 0.
            scale = numpy_helper.to_array(constants[node.input[1]])
            bias = numpy_helper.to_array(quantized).astype(scale.dtype) * scale
            graph.initializer.append(numpy_helper.from_array(bias, node.output[0]))
        else:
            kept.append(node)
    if len(kept) == len(graph.node):
        return content
    del graph.node[:]
    graph.node.extend(kept)
    return bytes(model.SerializeToString())


def _quantizes_to(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> str:
    """Return the type of a QuantizeLinear's output: of its zero point, named, or uint8."""
    types = onnx.TensorProto.DataType
    if len(node.input) > 2 and node.input[2] in constants:
        return str(types.Name(constants[node.input[2]].data_type))
    named = [attribute.i for attribute in node.attribute if attribute.name == 'output_dtype']
    return str(types.Name(named[0])) if named and named[0] else 'UINT8'


def build_plan(
    tensorrt: TensorRt,
    parsed: ParsedNetwork,
    target: str,
    profiles: tuple[Profile, ...],
    progress: Progress,
) -> BuiltEngine:
    """Build an engine in memory.

    Raises:
        EngineBuildError: `progress` said stop.
        EngineError: TensorRT cannot.
    """
    began = time.perf_counter()
    module = tensorrt.module
    config = parsed.builder.create_builder_config()
    for profile in profiles:
        if config.add_optimization_profile(parsed.profile(profile)) < 0:
            raise tensorrt.failed(f'take frames of {profile}')
    # fp32 bundles keep the parity they were exported with: TF32 has 10 bits of mantissa, as fp16.
    config.clear_flag(module.BuilderFlag.TF32)
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    if tensorrt.rtx:
        config.num_compute_capabilities = 1
        capability = getattr(module.ComputeCapability, target.upper())
        if not config.set_compute_capability(capability, 0):
            raise tensorrt.failed(f'build for {target}')
    monitor = _monitor_of(module)(progress)
    config.progress_monitor = monitor
    tensorrt.log.report = ()
    plan = parsed.builder.build_serialized_network(parsed.network, config)
    if monitor.stopped:
        raise EngineBuildError(f'stopped while building the engine of {parsed.path} for {target}')
    if plan is None:
        raise tensorrt.failed(f'build the engine of {parsed.path} for {target}')
    progress('Engine built', 1.0)
    return BuiltEngine(
        bytes(plan), time.perf_counter() - began, parsed.layers(), tensorrt.log.report
    )


def tensor_shape(name: str, size_hw: tuple[int, int]) -> tuple[int, ...]:
    """Return the shape of an input or output of a bundle for frames of `size_hw`."""
    return (1, *size_hw, 3) if name == IMAGE_INPUT else (1, *size_hw)


@functools.cache
def _log_of(module: Any) -> Any:
    """Return the log of a TensorRT module, whose base class is known only now."""
    severity = module.ILogger.Severity
    failures = (severity.INTERNAL_ERROR, severity.ERROR)

    class Log(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self._errors: list[str] = []
            self.report: tuple[str, ...] = ()

        def log(self, level: Any, message: str) -> None:
            if level in failures:
                self._errors.append(message.strip())
            elif level == severity.WARNING:
                _LOGGER.warning('%s: %s', module.__name__, message)
            # RTX and plain TensorRT head their list of layers differently.
            elif message.startswith(('Layers:', 'Engine Layer Information:')):
                self.report = tuple(message.strip().splitlines()[1:])

        def take_errors(self) -> list[str]:
            taken, self._errors = self._errors, []
            return taken

    return Log()


@functools.cache
def _monitor_of(module: Any) -> Any:
    """Return the class of a TensorRT module's progress monitors."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        """Turns nested phases into one fraction that never falls."""

        def __init__(self, progress: Progress) -> None:
            module.IProgressMonitor.__init__(self)
            self.stopped = False
            self._progress = progress
            self._fraction = 0.0
            self._open: dict[str, tuple[str | None, int, int]] = {}  # parent, steps, steps done

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._open[name] = (parent, steps, 0)
            self._tell(name)

        def phase_finish(self, name: str) -> None:
            self._open.pop(name, None)

        def step_complete(self, name: str, step: int) -> bool:
            if name in self._open:
                parent, steps, _ = self._open[name]
                self._open[name] = (parent, steps, step + 1)
            self._tell(name)
            return not self.stopped

        def _tell(self, name: str) -> None:
            fraction, level = 0.0, self._open.get(name)
            while level is not None:
                parent, steps, done = level
                fraction = min((done + fraction) / max(steps, 1), 1.0)
                level = self._open.get(parent) if parent is not None else None
            self._fraction = max(self._fraction, fraction)
            if not self._progress(name, self._fraction):
                self.stopped = True

    return Monitor


class _Bar:
    """A progress bar that Ctrl-C stops: raising through TensorRT's C++ would end the process."""

    def __init__(self, target: str) -> None:
        self._interrupted = False
        self._bar = tqdm(
            total=100,
            desc=target,
            disable=None,
            bar_format='{desc} {percentage:3.0f}%|{bar}| {elapsed}{postfix}',
        )
        self._previous = signal.signal(signal.SIGINT, self._interrupt)

    def __enter__(self) -> '_Bar':
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)
        self._bar.close()

    @property
    def interrupted(self) -> bool:
        return self._interrupted

    def progress(self, what: str, fraction: float) -> bool:
        self._bar.set_postfix_str(what, refresh=False)
        self._bar.update(round(100 * fraction) - self._bar.n)
        return not self._interrupted

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._interrupted = True


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m desertmind_seg.build_engine',
        description='Build the TensorRT engines of a bundle into the engine cache.',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'bundle',
        metavar='BUNDLE',
        type=Path,
        nargs='?',
        help=f'the model (default: {DEFAULT_BUNDLE})',
    )
    parser.add_argument(
        '--target',
        default=CURRENT,
        help='GPUs by compute capability, e.g. sm86,sm89 (default: current, the GPU of this '
        'machine)',
    )
    parser.add_argument(
        '--shape',
        default='dynamic',
        help='frame sizes, height x width, e.g. 480x640,720x1280; an engine for few sizes takes '
        'less GPU memory (default: dynamic, every size)',
    )
    parser.add_argument('--cache-dir', metavar='DIR', type=Path, help='where the engines lie')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = build_parser().parse_args(argv)
    try:
        bundle = read_bundle(args.bundle or share_path(DEFAULT_BUNDLE))
        # All targets are checked before the first is built.
        wanted = [choose_target(target.strip()) for target in args.target.split(',')]
        parse_shape(args.shape)
    except (BundleError, EngineError, OSError) as err:
        print(f'error: {err}', file=sys.stderr)
        return 1
    for tensorrt, target in wanted:
        with _Bar(target) as bar:
            options = BuildOptions(args.shape, args.cache_dir or '', bar.progress)
            try:
                stored = stored_engine(bundle, tensorrt, target, options)
            except (EngineError, OSError) as err:
                failure: Exception | None = err
            else:
                failure = None
        if failure is not None:
            print(f'error: {failure}', file=sys.stderr)
            return 130 if bar.interrupted else 1
        record = stored.record
        how = f'built in {record.build_sec:.1f} s' if stored.built_now else 'was there'
        print(f'{target}: {stored.path} ({len(stored.plan) / 1e6:.1f} MB, {how})')
    return 0


if __name__ == '__main__':
    sys.exit(main())
