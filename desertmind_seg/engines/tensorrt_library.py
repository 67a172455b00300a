"""Which TensorRT is installed here, and which one is for which GPU."""

from dataclasses import dataclass
import functools
from importlib import import_module
from importlib.util import find_spec
import logging
from typing import Any, Literal

from desertmind_seg.engines.cuda import Cuda, Device
from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.model.installed import install_line

_LOGGER = logging.getLogger(__name__)
CURRENT = 'current'
Flavour = Literal['tensorrt_rtx', 'tensorrt']
# Where each may be found, the preferred one first: the wheels name both otherwise than NVIDIA's
# archive does. A GPU that RTX does not know, such as a Jetson's or an H200, gets the plain one.
_MODULES: tuple[tuple[Flavour, str], ...] = (
    ('tensorrt_rtx', 'tensorrt_rtx'),
    ('tensorrt_rtx', 'tensorrt_rtx_bindings'),
    ('tensorrt', 'tensorrt'),
    ('tensorrt', 'tensorrt_bindings'),
)


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
            "TensorRT is not installed. On a Jetson: JetPack's python3-libnvinfer. For a GPU of "
            f'the RTX class: {install_line("tensorrt")}. {"; ".join(reasons)}'.rstrip(),
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
