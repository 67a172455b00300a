"""CUDA's runtime, every call of it checked, and the GPU that it finds."""

from dataclasses import dataclass
import re
from typing import Any

from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.model.installed import install_line


@dataclass(frozen=True)
class Device:
    """The GPU that CUDA counts as its first; CUDA_VISIBLE_DEVICES says which that is.

    Attributes:
        name: such as 'NVIDIA RTX A2000'.
        compute_capability: such as 'sm86'.
    """

    name: str
    compute_capability: str

    @property
    def slug(self) -> str:
        """The name in characters that file names may have."""
        return re.sub(r'[^a-z0-9]+', '-', self.name.lower()).strip('-')


class Cuda:
    """Calls functions of the CUDA runtime by name and turns their error codes into exceptions.

    Raises:
        EngineError: cuda-bindings is not installed.
    """

    def __init__(self) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as err:
            raise EngineError(
                f'TensorRT needs cuda-bindings ({err}). {install_line("cuda")}',
                'cuda-bindings is not installed',
            ) from err

        self.runtime: Any = runtime

    def call(self, function: str, *arguments: Any) -> Any:
        """Call `function`; returns its only result, a tuple of several, or None.

        Raises:
            EngineError: CUDA returned an error code; the message has its name.
        """
        code, *results = getattr(self.runtime, function)(*arguments)
        if code != self.runtime.cudaError_t.cudaSuccess:
            _, text = self.runtime.cudaGetErrorString(code)
            raise EngineError(f'{function} failed: {code.name} ({text.decode()})')
        return None if not results else results[0] if len(results) == 1 else tuple(results)

    def device(self) -> Device:
        """Return the GPU.

        Raises:
            EngineError: there is no driver, or no GPU.
        """
        attribute = self.runtime.cudaDeviceAttr
        try:
            self.call('cudaGetDeviceCount')
            major, minor = (
                self.call('cudaDeviceGetAttribute', wanted, 0)
                for wanted in (
                    attribute.cudaDevAttrComputeCapabilityMajor,
                    attribute.cudaDevAttrComputeCapabilityMinor,
                )
            )
            name = self.call('cudaGetDeviceProperties', 0).name
        except EngineError as err:
            version = self.call('cudaDriverGetVersion')
            driver = f'supports CUDA {version // 1000}.{version % 1000 // 10}'
            raise EngineError(
                f'no NVIDIA GPU can be used: {err}; the NVIDIA driver '
                f'{driver if version else "is missing"}. Install it (nvidia-smi then shows the '
                'GPU), for a container the NVIDIA container toolkit, or choose another backend; '
                'to build for the GPU of another machine, build_engine --target sm86.',
                'no NVIDIA GPU that works' if version else 'no NVIDIA driver',
            ) from err
        return Device(name.decode().rstrip('\0'), f'sm{major}{minor}')
