"""What depth sensors do to geometry: hazards called safe and ground called a hazard, by artefact.

    python test/benchmark/depth_artefacts.py --root RENDERED --half odd

`labelled_scenes` says what RENDERED holds. Each artefact is a function of exact depth where a
stereo camera has any, with noise 0.002 z^2 unless it is about noise; gravity is known. Of hazards
of 0.2 m and more, nearer than 10 m, the shares are printed that geometry alone calls free and
unknown, and of such ground those that it calls a hazard and unknown. A hood is left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
import os
from pathlib import Path
import sys

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
# One thread; the libraries read these when they are loaded.
os.environ.update(dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'), '1'))

import cv2
from labelled_scenes import KINDS, ONTOLOGY, Images, rays_of, rendered
import numpy as np

from desertmind_seg.hazards.detection import HazardDetector
from desertmind_seg.hazards.records import FREE, UNKNOWN, HazardSettings
from desertmind_seg.model.arrays import Depth
from desertmind_seg.scores.hazards import SAFE, TARGET_RANGE_M, TARGET_SIZE_M, verdict_table


@dataclass(frozen=True)
class Shot:
    """Depth that is judged, and by what.

    Attributes:
        depth: (H, W) float32 metres, 0 missing.
        k: (3, 3).
        up: (3,).
        hazard: (H, W) bool, of the scene.
    """

    depth: Depth
    k: Images
    up: Images
    hazard: Images

    def noisy(self, per_m: float = 0.002, seed: int = 0) -> Shot:
        """Add k z^2, of which half the variance is blotches."""
        rng, (height, width) = np.random.default_rng(seed), self.depth.shape
        coarse = rng.standard_normal((height // 6 + 2, width // 6 + 2), np.float32)
        blotches = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        error = 0.7 * rng.standard_normal(self.depth.shape, np.float32)
        error += 0.7 * blotches / blotches.std()
        return replace(self, depth=self.depth + np.float32(per_m) * self.depth**2 * error)

    def disparity(self, baseline_m: float, steps: int) -> Shot:
        """Round the disparity to parts of a pixel, with 0.15 pixels of noise."""
        focal_baseline = self.k[0, 0] * baseline_m
        noisy = self.noisy(0.15 / focal_baseline).depth
        with np.errstate(divide='ignore'):
            rounded = np.round(steps * focal_baseline / noisy) / steps
            metres = np.where(noisy > 0, focal_baseline / np.maximum(rounded, 1e-3), 0)
        return replace(self, depth=np.where(metres < 20, metres, 0).astype(np.float32))

    def fattened(self, pixels: int) -> Shot:
        """Let what is near cover what is behind it, as a correlation window does."""
        shot = self.noisy()
        window = np.ones((pixels, pixels), np.uint8)
        nearest = cv2.erode(np.where(shot.depth > 0, shot.depth, 100), window)
        return replace(shot, depth=np.where(nearest < 0.95 * shot.depth, nearest, shot.depth))

    def smeared(self, sigma_px: float) -> Shot:
        """Blur inverse depth over edges, as neural stereo and strong spatial filters do."""
        inverse = 1 / np.where(self.depth > 0, self.noisy().depth, 20)
        return replace(self, depth=1 / cv2.GaussianBlur(inverse, (0, 0), sigma_px))

    def hazards_missing(self, filled: str = '') -> Shot:
        """Leave hazards out, as of dark rocks, and fill holes as librealsense's filter does."""
        depth = np.where(self.hazard, 0, self.noisy().depth)
        for column in range(1, depth.shape[1] if filled else 0):
            left = depth[:, column - 1]
            if filled == 'farthest':
                left = np.max([left, np.append(0, left[:-1]), np.append(left[1:], 0)], axis=0)
            depth[:, column] = np.where(depth[:, column] > 0, depth[:, column], left)
        return replace(self, depth=depth)

    def wrapped(self, range_m: float) -> Shot:
        """Begin again at 0 beyond the range of a time of flight camera."""
        shot = self.noisy()
        return replace(shot, depth=np.mod(shot.depth, np.float32(range_m)))

    def kept(self, rows: int, columns: int) -> Shot:
        """Keep every n-th pixel of every n-th row."""
        shot, depth = self.noisy(), np.zeros_like(self.depth)
        depth[::rows, ::columns] = shot.depth[::rows, ::columns]
        return replace(shot, depth=depth)

    def scaled(self, depth: float = 1.0, focal: float = 1.0) -> Shot:
        """Scale the depth, or the focal length."""
        shot = self.noisy()
        k = shot.k * np.array([[focal, 1, 1], [1, focal, 1], [1, 1, 1]])
        return replace(shot, depth=shot.depth * np.float32(depth), k=k)

    def tilted(self, degrees: float) -> Shot:
        """Turn what is taken for up."""
        turn, _ = cv2.Rodrigues(np.radians([degrees, 0, 0]))
        return replace(self.noisy(), up=turn @ self.up)

    def turned(self, degrees: float) -> Shot:
        """Turn the depth to the right, away from the image."""
        pixels = round(self.k[0, 0] * np.tan(np.radians(degrees)))
        depth = np.roll(self.noisy().depth, pixels, axis=1)
        depth[:, :pixels] = 0
        return replace(self, depth=depth)

    def with_hood(self, share: float) -> Shot:
        """Add a level hood 0.35 m below the camera to the lowest rows."""
        rays, depth = rays_of(self.k, self.depth.shape), self.noisy().depth
        drop = -(rays.x * self.up[0] + rays.y * self.up[1] + self.up[2])
        first = int(len(depth) * (1 - share))
        depth[first:] = 0.35 / np.maximum(drop[first:], 0.05)
        return replace(self, depth=depth)


ARTEFACTS: dict[str, tuple[Callable[[Shot], Shot], float]] = {
    'none': (Shot.noisy, 0.002),
    'three times the noise': (lambda shot: shot.noisy(0.006), 0.002),
    '... with `noise_per_m` 0.006': (lambda shot: shot.noisy(0.006), 0.006),
    'disparity in 1/8 pixel, 7.5 cm baseline': (lambda shot: shot.disparity(0.075, 8), 0.002),
    'disparity in whole pixels': (lambda shot: shot.disparity(0.075, 1), 0.002),
    '... with `noise_per_m` 0.008': (lambda shot: shot.disparity(0.075, 1), 0.008),
    'edges fattened by 7 pixels': (lambda shot: shot.fattened(15), 0.002),
    'smeared over edges, sigma 3 pixels': (lambda shot: shot.smeared(3), 0.002),
    'no depth on hazards': (Shot.hazards_missing, 0.002),
    '... holes filled from the left': (lambda shot: shot.hazards_missing('left'), 0.002),
    '... holes filled with the farthest': (lambda shot: shot.hazards_missing('farthest'), 0.002),
    'range begins again at 7.5 m': (lambda shot: shot.wrapped(7.5), 0.002),
    'every third pixel of every third row': (lambda shot: shot.kept(3, 3), 0.002),
    'every eighth row': (lambda shot: shot.kept(8, 1), 0.002),
    'depth 0.7 times too small': (lambda shot: shot.scaled(depth=0.7), 0.002),
    'focal length 1.5 times too large': (lambda shot: shot.scaled(focal=1.5), 0.002),
    'focal length 2 times too large': (lambda shot: shot.scaled(focal=2), 0.002),
    'up wrong by 10 degrees': (lambda shot: shot.tilted(10), 0.002),
    'depth turned by 2 degrees from the image': (lambda shot: shot.turned(2), 0.002),
    'a hood in a fifth of the picture': (lambda shot: shot.with_hood(0.2), 0.002),
}


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--root', type=Path, default=Path('../shared/data/rendered'))
    parser.add_argument('--half', choices=('even', 'odd', 'all'), default='odd')
    options = parser.parse_args()
    if not (options.root / 'meta').is_dir():
        parser.error(f'{str(options.root)!r} has no folder meta; expected a folder of scenes')
    cv2.setNumThreads(1)
    detectors = {
        per_m: HazardDetector(HazardSettings(noise_per_m=per_m)) for _, per_m in ARTEFACTS.values()
    }
    # Hazards: all, free, unknown; ground: all, hazard, unknown.
    counts = {name: np.zeros(6, np.int64) for name in ARTEFACTS}
    for frame in rendered(options.root, options.half, 0.0):
        depth = frame.depth_mm.astype(np.float32) / np.float32(1000)
        near = (depth > 0) & (depth < TARGET_RANGE_M)
        hazard = near & (frame.kind < len(KINDS)) & (frame.size_m >= TARGET_SIZE_M)
        ground = near & (cv2.LUT(frame.labels, verdict_table(ONTOLOGY)) == SAFE)
        plain = Shot(depth, frame.k, frame.up, frame.kind < len(KINDS))
        for name, (made, per_m) in ARTEFACTS.items():
            shot = made(plain)
            rays = rays_of(shot.k, depth.shape)
            kind = detectors[per_m].detect(shot.depth, rays, shot.up).kind
            of_scene = np.ones(depth.shape, bool)
            if 'hood' in name:
                of_scene = np.abs(shot.depth - depth) < 0.05 + 0.02 * depth**2
            unknown, free = kind == UNKNOWN, kind == FREE
            counts[name] += [
                np.count_nonzero(of_scene & each)
                for each in (
                    *(hazard, hazard & free, hazard & unknown),
                    *(ground, ground & ~free & ~unknown, ground & unknown),
                )
            ]
    for name, row in counts.items():
        shares = 100 * row[[1, 2, 4, 5]] / row[[0, 0, 3, 3]]
        print(f'| {name} |' + ''.join(f' {share:.1f} % |' for share in shares))
    return 0


if __name__ == '__main__':
    sys.exit(main())
