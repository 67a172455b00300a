"""What every engine is to the code that runs one: the protocol, its error, its checks."""

from collections.abc import Callable, Mapping, Sequence
import hashlib
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from desertmind_seg.model.arrays import Depth, Rgb
from desertmind_seg.model.bundle import PROBABILITIES, Bundle
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.ontology import UNLABELED

# Says what is being done and how much of it, 0 to 1; returns whether to go on.
Progress = Callable[[str, float], bool]


class EngineError(DesertmindError):
    """An engine cannot be built or run here; the message has the fix.

    Attributes:
        clause: the reason in a few words, for a line that names several backends.
    """

    def __init__(self, message: str, clause: str = '') -> None:
        super().__init__(message)
        self.clause = clause or message


class EngineBuildError(EngineError):
    """An engine that could run here is not built: stopped, wrong sizes, or no room for it.

    That is for a person to decide, so no other backend takes its place.
    """


class Engine(Protocol):
    """One bundle, ready to run on one device. Calls must not overlap.

    Attributes:
        outputs: what `infer` can give: 'mask', 'confidence', 'cost' and, where bundle and backend
            have it, 'probabilities'.
        details: what else there is to know about it, by name, for diagnostics.
    """

    bundle: Bundle
    backend: str
    device: str
    outputs: tuple[str, ...]
    details: Mapping[str, str]

    def infer(
        self,
        rgb: Rgb,
        depth: Depth | None = None,
        outputs: Sequence[str] = ('mask', 'confidence'),
    ) -> dict[str, npt.NDArray[np.uint8]]:
        """Compute the asked outputs of one frame, and only those.

        Args:
            rgb: (H, W, 3) uint8.
            depth: (H, W) float32 metres, 0 or NaN where missing; for rgbd bundles only.
            outputs: any of `Engine.outputs`.

        Returns:
            One (H, W) uint8 array an output, but (C, h, w) at the network's size for the
            probabilities (255 is 1); the caller owns them. What they hold does not depend on which
            others were asked for.

        Raises:
            EngineError: unknown output, depth missing or superfluous, or the run failed.
        """
        ...

    def close(self) -> None:
        """Free the device; `infer` fails afterwards."""
        ...


def check_request(
    bundle: Bundle,
    depth: Depth | None,
    outputs: Sequence[str],
    given: Sequence[str],
) -> None:
    """Raise EngineError unless `outputs` are among `given` and `bundle` takes depth as it is."""
    unknown = [name for name in outputs if name not in given]
    if unknown or not outputs:
        raise EngineError(f'outputs {list(outputs)}: expected some of {list(given)}')
    if bundle.metadata.modality == 'rgbd' and depth is None:
        raise EngineError(
            f'bundle {bundle.metadata.name!r} takes RGB and depth, but no depth was given; pass '
            'depth, or use an rgb bundle'
        )
    if bundle.metadata.modality == 'rgb' and depth is not None:
        raise EngineError(
            f'bundle {bundle.metadata.name!r} takes RGB only, but depth was given; pass none, or '
            'use an rgbd bundle'
        )


def check_outputs(
    bundle: Bundle,
    size_hw: tuple[int, int],
    given: Mapping[str, npt.NDArray[Any]],
) -> None:
    """Raise EngineError unless what a graph gave is what a bundle promises.

    Where a network computes NaN, every probability becomes 0, and the mask the class 0: that is
    looked for in every frame, as half precision may overflow in a bright one only. It takes
    0.01 ms at 480x640, 0.1 ms at 2160x3840.

    Args:
        bundle: what was run.
        size_hw: of the frame.
        given: arrays by output, without the batch.
    """
    metadata = bundle.metadata
    classes = metadata.ontology.num_classes
    for name, array in given.items():
        expected = (classes, *metadata.network_size_hw) if name == PROBABILITIES else size_hw
        if array.shape != expected or array.dtype != np.uint8:
            raise EngineError(
                f'{bundle.path} gives a {name} of shape {array.shape} and type {array.dtype} for '
                f'a frame of {size_hw}, expected {expected} uint8; export it again'
            )
    mask, confidence = given.get('mask'), given.get('confidence')
    if mask is not None and mask.max() >= classes:
        unknown = np.setdiff1d(np.unique(mask), [*range(classes), UNLABELED])
        if unknown.size:
            raise EngineError(
                f'{bundle.path} gives the class {unknown[0]}, but its ontology '
                f'{metadata.ontology.name} has the classes 0 to {classes - 1}; export it again'
            )
    if confidence is None and PROBABILITIES in given:
        confidence = given[PROBABILITIES].max(axis=0)
    # The largest of C probabilities is at least 1 / C; 1 for rounding.
    if confidence is not None and confidence.min() < max(1, 255 // classes - 1):
        raise EngineError(
            f'{bundle.path} gives a confidence of {confidence.min()}/255 for the best of '
            f'{classes} classes, which is at least 1/{classes}: it computes NaN or infinity. Its '
            'weights are damaged, or overflow; export it again, fp16 as fp32'
        )


def read_unchanged(bundle: Bundle) -> bytes:
    """Return the content of the bundle's file.

    Raises:
        EngineError: the file changed after it was read as a bundle.
    """
    content = bundle.path.read_bytes()
    if hashlib.sha256(content).hexdigest() != bundle.sha256:
        raise EngineError(
            f'{bundle.path} changed after it was read as a bundle (SHA-256 was '
            f'{bundle.sha256}); read it again'
        )
    return content
