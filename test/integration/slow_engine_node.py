"""For tests only: the node with an engine that is made slow on purpose.

SLOW_ENGINE_MS in the environment is how long each frame takes in the engine. Each inference is
printed with the frame's number, which the sender wrote into its first pixel (`number_frame`), and
its begin and end on the monotonic clock, which all processes of a machine share.
"""

from collections.abc import Sequence
import os
import sys
import time

import numpy as np
import numpy.typing as npt

from desertmind_seg.engines.load import load_engine
from desertmind_seg.engines.protocol import Engine
from desertmind_seg.model.arrays import Depth, Rgb
from desertmind_seg.model.bundle import Bundle
from desertmind_seg.node.run import run_node


def number_frame(rgb: Rgb, number: int) -> None:
    """Write a number below 2^24 into the first pixel of a frame."""
    rgb[0, 0] = list(number.to_bytes(3, 'big'))


class SlowEngine:
    """Waits, without using the processor, until an inference has taken the given time."""

    def __init__(self, engine: Engine, inference_ms: float) -> None:
        self.bundle = engine.bundle
        self.backend = f'slow-{engine.backend}'
        self.device = engine.device
        self.details = engine.details
        self._engine = engine
        self._inference_ms = inference_ms

    def infer(
        self,
        rgb: Rgb,
        depth: Depth | None = None,
        outputs: Sequence[str] = ('mask', 'confidence'),
    ) -> dict[str, npt.NDArray[np.uint8]]:
        begin_sec = time.monotonic()
        arrays = self._engine.infer(rgb, depth, outputs)
        time.sleep(max(0.0, begin_sec + self._inference_ms / 1e3 - time.monotonic()))
        number = int.from_bytes(rgb[0, 0].tobytes(), 'big')
        end_sec = time.monotonic()
        sys.stdout.write(f'frame {number} was in the engine from {begin_sec} to {end_sec} s\n')
        return arrays

    def close(self) -> None:
        self._engine.close()


def load_slow_engine(bundle: Bundle, backend: str, num_threads: int, *_: object) -> Engine:
    engine = load_engine(bundle, backend, num_threads)
    return SlowEngine(engine, float(os.environ['SLOW_ENGINE_MS']))


if __name__ == '__main__':
    sys.exit(run_node(load_engine=load_slow_engine))
