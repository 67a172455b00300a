"""What hazards from depth cost at three sizes, on one core; prints JSON.

    python test/benchmark/hazard_cost.py
    python test/benchmark/hazard_cost.py --rounds 100

The frames are of a simulated drive with hazards, through its depth camera; all sizes take turns.
Beside each stands its floor: the bytes that have to be read (depth) and written (height, kind and
certainty), over the bandwidth of a copy. The limit is 10 ms of CPU time in the median at 640x480,
exit status 1 above it. A busy machine takes the core away for milliseconds at a time, which is in
the wall time and hardly in the CPU time.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
import sys
import time
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
# One core is what is promised; the libraries read these when they are loaded.
os.environ.update(dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'), '1'))

import cv2
import numpy as np
import numpy.typing as npt
from spread import summary

from desertmind_seg.geometry.camera_model import Rays
from desertmind_seg.hazards.detection import HazardDetector
from desertmind_seg.reports.provenance import environment
from desertmind_seg.timing.limits import CpuCopy
from training.scenery.parameters import HAZARDS
from training.simulator.depth_sensor import sensor_depth_mm
from training.simulator.drive import SyntheticDrive

SIZES_HW = (240, 320), (480, 640), (720, 1280)
LIMIT_HW, LIMIT_MS = (480, 640), 10.0
SEED, RATE_HZ, FRAMES = 7300, 0.25, 4
READ_BYTES, WRITTEN_BYTES = 4, 4 + 1 + 1

Frame = tuple[npt.NDArray[np.float32], Rays, npt.NDArray[np.float64]]


def frames(size_hw: tuple[int, int]) -> list[Frame]:
    """Return depth in metres, rays and up of a drive's first frames."""
    drive = SyntheticDrive(SEED, size_hw, RATE_HZ, HAZARDS)
    found = []
    for index in range(min(FRAMES, drive.num_frames)):
        frame = drive.frame(index)
        depth_mm = sensor_depth_mm(frame, np.random.default_rng([SEED, index]))
        k = frame.camera.k
        x = (np.arange(size_hw[1])[None] - k[0, 2]) / k[0, 0]
        y = (np.arange(size_hw[0])[:, None] - k[1, 2]) / k[1, 1]
        rays = Rays(x.astype(np.float32), y.astype(np.float32))
        up = frame.camera.rotation[2].astype(np.float64)
        depth = depth_mm.astype(np.float32) * np.float32(1e-3)
        found.append((depth, rays, up))
    return found


def main() -> int:
    """Run the benchmark; returns 1 when the median is above the limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rounds', type=int, default=40, help='over all frames (default: 40)')
    options = parser.parse_args()
    cv2.setNumThreads(1)
    load_before = os.getloadavg()
    scenes = {size_hw: frames(size_hw) for size_hw in SIZES_HW}
    detectors = {size_hw: HazardDetector() for size_hw in SIZES_HW}
    cpu_ms: dict[tuple[int, int], list[float]] = {size_hw: [] for size_hw in SIZES_HW}
    wall_ms: dict[tuple[int, int], list[float]] = {size_hw: [] for size_hw in SIZES_HW}
    copy = CpuCopy(1)
    bandwidths = [copy()]
    for number in range(options.rounds + 1):
        for size_hw, scene in scenes.items():
            for depth, rays, up in scene:
                begin_cpu, begin = time.thread_time(), time.perf_counter()
                found = detectors[size_hw].detect(depth, rays, up)
                ends = time.thread_time(), time.perf_counter()
                assert not found.problem, found.problem
                if number:  # the first round warms up
                    cpu_ms[size_hw].append(1e3 * (ends[0] - begin_cpu))
                    wall_ms[size_hw].append(1e3 * (ends[1] - begin))
    bandwidths.append(copy())
    bytes_per_sec = max(bandwidths)
    result: dict[str, Any] = {
        'rounds': options.rounds,
        'limit_ms': LIMIT_MS,
        'copy_gb_per_sec': bytes_per_sec / 1e9,
        'sizes': {},
    }
    for size_hw, scene in scenes.items():
        pixels = size_hw[0] * size_hw[1]
        result['sizes'][f'{size_hw[1]}x{size_hw[0]}'] = {
            'frames': len(scene),
            'floor_ms': 1e3 * (READ_BYTES + WRITTEN_BYTES) * pixels / bytes_per_sec,
            'cpu': summary(cpu_ms[size_hw]),
            'wall': summary(wall_ms[size_hw]),
        }
    within = float(np.median(cpu_ms[LIMIT_HW])) <= LIMIT_MS
    result['within_limit'] = within
    result['load_before'], result['load_after'] = load_before, os.getloadavg()
    result['environment'] = environment()
    print(json.dumps(result, indent=2))
    return 0 if within else 1


if __name__ == '__main__':
    sys.exit(main())
