"""A process that is the camera of the soak: images, depth, camera_info and /clock, some damaged.

    python test/soak/traffic.py --rate-hz 40 --damaged-share 0.01 --jump-every-sec 45

Publishes on the topics below until it is ended. Stamps are those of /clock, which runs with the
wall clock and jumps by 5 s, forward and back in turn.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
import random
import sys
import time
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'test/integration')]

import cv2
from node_process import SENSOR_QOS, depth_16uc1, rgb8, stamp_header
import numpy as np
import rclpy
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

IMAGE, DEPTH, INFO = '/soak/image', '/soak/depth/image', '/soak/camera_info'
COMPRESSED = f'{IMAGE}/compressed'
SIZE_HW = (480, 640)
CLOCK_HZ, JUMP_SEC = 100.0, 5.0
# What is changed in a raw image message, one after the other.
DAMAGES: tuple[dict[str, Any], ...] = (
    {'encoding': 'unheard_of'},
    {'encoding': ''},
    {'width': 0},
    {'width': 2**31},
    {'height': 10_000},
    {'step': 1},
    {'step': 2**32 - 1},
    {'encoding': '32FC1'},
    {'encoding': 'bayer_rggb16'},
)


def camera_info(stamp_ns: int) -> CameraInfo:
    """Build the intrinsics of an ideal camera."""
    height, width = SIZE_HW
    focal_px = 0.8 * width
    info = CameraInfo(header=stamp_header(stamp_ns), height=height, width=width)
    info.distortion_model = 'plumb_bob'
    info.d = [0.0] * 5
    info.k = [focal_px, 0.0, width / 2, 0.0, focal_px, height / 2, 0.0, 0.0, 1.0]
    info.r = np.eye(3).ravel().tolist()
    info.p = [focal_px, 0.0, width / 2, 0.0, 0.0, focal_px, height / 2, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


def compressed(rgb: np.ndarray[Any, Any], stamp_ns: int) -> CompressedImage:
    """Build a JPEG message."""
    content = cv2.imencode('.jpg', rgb[..., ::-1])[1].tobytes()
    message = CompressedImage(header=stamp_header(stamp_ns), format='rgb8; jpeg compressed bgr8')
    message.data.frombytes(content)
    return message


def damage_bytes(message: CompressedImage, dice: random.Random) -> None:
    """Change some bytes of the first 300, where a JPEG has its sizes and tables, or cut it."""
    if dice.random() < 0.3:
        del message.data[dice.randrange(len(message.data)) :]
        return
    for _ in range(dice.randrange(1, 8)):
        message.data[dice.randrange(min(300, len(message.data)))] = dice.randrange(256)


def main() -> None:
    """Publish until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rate-hz', type=float, required=True)
    parser.add_argument('--damaged-share', type=float, default=0.01)
    parser.add_argument('--jump-every-sec', type=float, default=45.0)
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    pixels = np.random.default_rng(options.seed)
    height, width = SIZE_HW
    frames = [
        cv2.GaussianBlur(pixels.integers(0, 256, (height, width, 3), np.uint8), (0, 0), 8)
        for _ in range(8)
    ]
    # A flat ground 1.2 m below the camera with a box on it, and nothing above the horizon.
    rows = np.arange(height, dtype=np.float32) - height / 2
    metres = np.where(rows > 12, 1.2 * 0.8 * width / np.maximum(rows, 1), 0).astype(np.float32)
    depth = np.repeat(metres[:, None], width, axis=1)
    depth[350:440, 280:360] = 3.0

    rclpy.init()
    node = rclpy.create_node('soak_camera')
    clock = node.create_publisher(Clock, '/clock', SENSOR_QOS)
    image = node.create_publisher(Image, IMAGE, SENSOR_QOS)
    jpeg = node.create_publisher(CompressedImage, COMPRESSED, SENSOR_QOS)
    depth_image = node.create_publisher(Image, DEPTH, SENSOR_QOS)
    info = node.create_publisher(CameraInfo, INFO, QoSProfile(depth=1))
    messages = [(rgb8(frame, 0), compressed(frame, 0), depth_16uc1(depth, 0)) for frame in frames]
    damages = itertools.cycle(DAMAGES)
    offset_sec, jump_sec = 0.0, JUMP_SEC
    begin_sec = next_clock = next_frame = time.monotonic()
    next_jump = begin_sec + options.jump_every_sec
    for number in itertools.count():
        while (now := time.monotonic()) < next_frame:
            if now >= next_clock:
                clock.publish(
                    Clock(clock=stamp_header(int(1e9 * (time.time() + offset_sec))).stamp)
                )
                next_clock = now + 1 / CLOCK_HZ
            time.sleep(min(next_frame, next_clock) - now if next_clock > now else 0.0)
        if now >= next_jump:
            offset_sec += jump_sec
            jump_sec = -jump_sec
            next_jump = now + options.jump_every_sec
        # A camera that fell behind goes on at its rate: it does not catch up.
        next_frame = max(next_frame + 1 / options.rate_hz, now)
        stamp_ns = int(1e9 * (time.time() + offset_sec))
        header = stamp_header(stamp_ns)
        raw, coded, distance = messages[number % len(messages)]
        damaged = dice.random() < options.damaged_share
        if image.get_subscription_count():
            raw.header = header
            changes = next(damages) if damaged else {}
            before = {name: getattr(raw, name) for name in changes}
            for name, value in changes.items():
                setattr(raw, name, value)
            image.publish(raw)
            for name, value in before.items():
                setattr(raw, name, value)
        if jpeg.get_subscription_count():
            if damaged:
                coded = compressed(frames[number % len(frames)], stamp_ns)
                damage_bytes(coded, dice)
            coded.header = header
            jpeg.publish(coded)
        if depth_image.get_subscription_count():
            distance.header = header
            depth_image.publish(distance)
        info.publish(camera_info(stamp_ns))


if __name__ == '__main__':
    main()
