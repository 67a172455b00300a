"""A drive through a world: where the vehicle is, and what its camera and depth camera report."""

from __future__ import annotations

from collections.abc import Collection
import dataclasses
from functools import cache, cached_property
import math

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.model.ontology import UNLABELED, load_ontology
from training.scenery.parameters import (
    CLASS_NAMES,
    DRIVE_M,
    HAZARD_OF_MATERIAL,
    DriveParameters,
    FloatArray,
    HazardKind,
)
from training.scenery.world import World, make_world
from training.simulator.camera import Camera
from training.simulator.render import render

UInt8Array = npt.NDArray[np.uint8]
Float64Array = npt.NDArray[np.float64]

# Stamps start here (2024-01-01 00:00:00 UTC): a drive is a function of its seed, not of the clock.
START_NS = 1_704_067_200_000_000_000
_CAMERA_FORWARD_M = 0.5


@dataclasses.dataclass(frozen=True)
class SyntheticFrame:
    """One frame of a drive.

    Attributes:
        stamp_ns: nanoseconds since the epoch.
        rgb: uint8 (H, W, 3).
        depth_m: float32 (H, W), exact depth along the optical axis in metres; inf for the sky and
            the far ridges, never 0 or NaN.
        labels_desert_10: uint8 (H, W), class ids of ontology desert-10.
        labels_ycor_8: uint8 (H, W), class ids of ontology ycor-8.
        material: uint8 (H, W), `Material` values, from which both label images derive.
        height_m: float32 (H, W), metres above the local ground: the ground under what the pixel
            shows without hazards, where a ledge has raised it behind its face, and as high over a
            ditch as beside it (a ditch has negative heights); nan for the sky and the far ridges.
        hazard: uint8 (H, W), `HazardKind` values.
        hazard_size_cm: uint8 (H, W), height of the whole rock, log, ledge ... that the pixel
            shows, or depth of the ditch, at most 255; 0 where `hazard` is 0 and in puddles.
        camera: intrinsics and pose (odom from camera_color_optical_frame).
        odom_from_base: (4, 4) pose of base_link, which lies on the ground between the wheels.
    """

    stamp_ns: int
    rgb: UInt8Array
    depth_m: FloatArray
    labels_desert_10: UInt8Array
    labels_ycor_8: UInt8Array
    material: UInt8Array
    camera: Camera
    odom_from_base: Float64Array
    height_m: FloatArray
    hazard: UInt8Array
    hazard_size_cm: UInt8Array
    parameters: DriveParameters


@cache
def label_table(ontology_name: str) -> UInt8Array:
    """Table (256,) uint8 from `Material` to the ontology's id; 255 for values without a class."""
    ontology = load_ontology(ontology_name)
    table = np.full(256, UNLABELED, np.uint8)
    for material, name in CLASS_NAMES[ontology_name].items():
        table[int(material)] = ontology.class_id(name)
    return table


@cache
def _hazard_table() -> UInt8Array:
    """Table (256,) uint8 from `Material` to `HazardKind`."""
    table = np.zeros(256, np.uint8)
    for material, kind in HAZARD_OF_MATERIAL.items():
        table[int(material)] = kind
    return table


class SyntheticDrive:
    """A vehicle follows a trail through a procedural world; a camera 1.6 m above it looks ahead.

    Args:
        seed: decides the world, the light and the camera.
        size_hw: image height and width in pixels.
        rate_hz: frames a second; the vehicle covers speed / rate metres between frames.
        hazards: kinds of `HAZARDS` on and beside the trail, which the vehicle floats over. Such a
            drive goes over slopes, and has no other rocks and logs than these.
        desert: through a place of the desert set.

    Raises:
        ValueError: a size, rate or kind that cannot be drawn.
    """

    def __init__(
        self,
        seed: int,
        size_hw: tuple[int, int] = (480, 640),
        rate_hz: float = 10.0,
        hazards: Collection[str] = (),
        *,
        desert: bool = False,
    ) -> None:
        if not 16 <= min(size_hw) <= max(size_hw) <= 8192:
            raise ValueError(f'size_hw {size_hw!r}: expected sides of 16 to 8192 pixels')
        if not 0.0 < rate_hz <= 1e6:
            raise ValueError(f'rate_hz {rate_hz!r} must be above 0 and at most 1e6')
        self.parameters = DriveParameters.from_seed(seed, hazards, desert=desert)
        self.size_hw = size_hw
        self.rate_hz = rate_hz

    @cached_property
    def world(self) -> World:
        """The place of the drive, drawn when it is asked for first."""
        return make_world(self.parameters)

    @property
    def num_frames(self) -> int:
        """Frames until the end of the drive."""
        return self.parameters.num_frames(self.rate_hz)

    @property
    def k(self) -> Float64Array:
        """Camera matrix (3, 3): square pixels, centred, no distortion."""
        height, width = self.size_hw
        focal = width / 2.0 / math.tan(self.parameters.hfov_rad / 2.0)
        return np.array(
            [[focal, 0.0, (width - 1) / 2.0], [0.0, focal, (height - 1) / 2.0], [0.0, 0.0, 1.0]]
        )

    @property
    def base_from_camera(self) -> Float64Array:
        """Static pose (4, 4) of the camera's optical frame in base_link."""
        optical = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
        pose = np.eye(4)
        pose[:3, :3] = _rotation(1, self.parameters.camera_pitch_down_rad) @ optical
        pose[:3, 3] = (_CAMERA_FORWARD_M, 0.0, self.parameters.camera_height_m)
        return pose

    def odom_from_base(self, index: int) -> Float64Array:
        """Pose (4, 4) of base_link in frame `index`: heading by the trail, tilt by the ground."""
        trail, p = self.world.terrain.trail, self.parameters
        x = index * p.speed_m_per_s / self.rate_hz
        sway = 0.21 * x + 0.7 * p.seed
        y = float(trail.y(np.array([x], np.float32))[0]) + 0.15 * math.sin(sway)
        yaw = trail.heading(x) + 0.15 * 0.21 * math.cos(sway)
        c, s = math.cos(yaw), math.sin(yaw)
        wheels = [(1.0, 0.75), (1.0, -0.75), (-1.0, 0.75), (-1.0, -0.75)]
        wheel_x = np.array([[x + c * a - s * b for a, b in wheels]], np.float32)
        wheel_y = np.array([[y + s * a + c * b for a, b in wheels]], np.float32)
        terrain = self.world.terrain
        z = terrain.fine.sample(terrain.ride_height, wheel_x, wheel_y)[0].astype(float)
        if (relief := self.world.relief) is not None:
            z += relief.sample(relief.ride_m, wheel_x, wheel_y)[0]
        pitch_up = math.atan2((z[0] + z[1] - z[2] - z[3]) / 2.0, 2.0)
        roll = math.atan2((z[0] + z[2] - z[1] - z[3]) / 2.0, 1.5)
        pose = np.eye(4)
        pose[:3, :3] = _rotation(2, yaw) @ _rotation(1, -pitch_up) @ _rotation(0, roll)
        pose[:3, 3] = (x, y, float(z.mean()))
        return pose

    def frame(self, index: int) -> SyntheticFrame:
        """Render frame `index`, 0..num_frames - 1, independent of the frames before it.

        Raises:
            IndexError: the drive has no such frame.
        """
        if not 0 <= index < self.num_frames:
            raise IndexError(
                f'frame {index} of a drive with {self.num_frames} frames '
                f'({DRIVE_M:.0f} m at {self.parameters.speed_m_per_s:.2f} m/s and '
                f'{self.rate_hz:g} Hz); ask for fewer frames, a higher rate or another seed'
            )
        odom_from_base = self.odom_from_base(index)
        camera = Camera(self.size_hw, self.k, odom_from_base @ self.base_from_camera)
        buffers = render(self.world, camera)
        rng = np.random.default_rng([self.parameters.seed, 10, index])
        hazard = np.take(_hazard_table(), buffers.material)
        sized = (hazard != HazardKind.NONE) & (hazard != HazardKind.PUDDLE)
        size_cm = np.clip(np.round(buffers.size_m * 100.0), 0, 255) * sized
        return SyntheticFrame(
            stamp_ns=START_NS + round(index * 1e9 / self.rate_hz),
            rgb=_expose(self.parameters, buffers.radiance, rng),
            depth_m=buffers.depth_m,
            labels_desert_10=np.take(label_table('desert-10'), buffers.material),
            labels_ycor_8=np.take(label_table('ycor-8'), buffers.material),
            material=buffers.material,
            camera=camera,
            odom_from_base=odom_from_base,
            height_m=buffers.height_m,
            hazard=hazard,
            hazard_size_cm=size_cm.astype(np.uint8),
            parameters=self.parameters,
        )


def _rotation(axis: int, angle: float) -> Float64Array:
    """Rotation matrix (3, 3) about axis 0, 1 or 2 by radians."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = math.cos(angle)
    matrix[b, a] = math.sin(angle)
    matrix[a, b] = -matrix[b, a]
    return matrix


def _expose(
    p: DriveParameters, radiance: FloatArray, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Turn radiance into the picture a small camera gives: rgb uint8 (H, W, 3)."""
    height, width = radiance.shape[:2]
    lower = radiance[height * 2 // 5 :: 4, ::4]
    middle = float(np.exp(np.log(lower.mean(axis=2) + 1e-3).mean()))
    gain = 0.15 / max(middle, 1e-3) * 2.0**p.exposure_ev
    v, u = np.ogrid[-1.0 : 1.0 : height * 1j, -1.0 : 1.0 : width * 1j]
    vignette = (1.0 - p.vignette * 0.5 * (u * u + v * v) ** 1.5 * 0.7).astype(np.float32)
    light = radiance * (np.array(p.white_balance_rgb, np.float32) * np.float32(gain))
    light *= vignette[..., None]
    light = cv2.GaussianBlur(light, (0, 0), p.softness_px * max(1.0, width / 640))
    # Glare: bright sky spills a little.
    eighth = (max(8, width // 8), max(8, height // 8))
    small = cv2.resize(np.minimum(light, 3.0), eighth, interpolation=cv2.INTER_AREA)
    spill = cv2.resize(cv2.GaussianBlur(small, (0, 0), 5.0), (width, height))
    light = light * 0.95 + spill * 0.05
    sigma = np.float32(0.006 * p.noise)
    noise = rng.standard_normal(light.shape, np.float32)
    light += noise * (sigma * np.sqrt(np.maximum(light, 0.0) + np.float32(0.02)))
    light = np.maximum(light, 0.0) * np.float32(0.78)
    # Filmic curve (Narkowicz 2015, ACES fit), then display gamma.
    toned = light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)
    toned = np.power(np.clip(toned, 0.0, 1.0), np.float32(p.contrast / 2.2))
    grey = cv2.cvtColor(toned, cv2.COLOR_RGB2GRAY)[..., None]
    toned = grey + (toned - grey) * np.float32(p.saturation)
    return np.asarray(np.clip(toned * 255.0 + 0.5, 0, 255), np.uint8)
