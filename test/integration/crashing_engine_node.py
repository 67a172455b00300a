"""For tests only: the node with an engine that has a bug, which shows at the third frame."""

from collections.abc import Sequence
import sys

import numpy as np
import numpy.typing as npt

from desertmind_seg.engines.load import load_engine
from desertmind_seg.engines.protocol import Engine
from desertmind_seg.model.arrays import Depth, Rgb
from desertmind_seg.model.bundle import Bundle
from desertmind_seg.node.run import run_node


class CrashingEngine:
    """Divides by zero; no code expects that."""

    def __init__(self, engine: Engine) -> None:
        self.bundle = engine.bundle
        self.backend = engine.backend
        self.device = engine.device
        self.details = engine.details
        self._engine = engine
        self._percent_left = 100
        self._share = 1.0

    def infer(
        self,
        rgb: Rgb,
        depth: Depth | None = None,
        outputs: Sequence[str] = ('mask', 'confidence'),
    ) -> dict[str, npt.NDArray[np.uint8]]:
        self._percent_left -= 50
        self._share = 100 / (self._percent_left + 50)
        return self._engine.infer(rgb, depth, outputs)

    def close(self) -> None:
        self._engine.close()


def load_crashing_engine(bundle: Bundle, backend: str, num_threads: int, *_: object) -> Engine:
    return CrashingEngine(load_engine(bundle, backend, num_threads))


if __name__ == '__main__':
    sys.exit(run_node(load_engine=load_crashing_engine))
