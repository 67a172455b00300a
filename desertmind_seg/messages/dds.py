"""Process settings under which camera images travel between processes whole and quickly.

With Fast DDS's defaults, best-effort images of 0.5 MB and more are lost between processes: at
30 Hz, 2 of 150 arrive at 640x480. The shipped profile (config/fastdds.xml) delivers 150 of 150.
Sender and receiver both need it: the camera driver as well as the node.
"""

from __future__ import annotations

from collections.abc import Mapping
import ctypes
from pathlib import Path
import shutil
from typing import Any

from desertmind_seg.model.files import share_path

PROFILE = 'config/fastdds.xml'
# Fast DDS 3 reads the first name and warns about the second, which Fast DDS 2 reads.
PROFILE_VARIABLES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')
_FAST_DDS_2_DISTROS = ('humble', 'iron', 'jazzy')

# Each process takes its segment (67 MB with its administration) whole from /dev/shm.
_SHARED_MEMORY = '/dev/shm'
_SEGMENT_BYTES = 70_255_136

# glibc's mallopt parameters and our values, see `keep_frame_memory`.
_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES = -1, 256 << 20
_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES = -3, 32 << 20


def with_image_profile(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of the environment that names the shipped profile, unless it names another.

    For the environment of a process to start; Fast DDS reads it when the first node is created.
    """
    environment = dict(environ)
    if not any(environment.get(name) for name in PROFILE_VARIABLES):
        environment[_profile_variable(environ)] = str(share_path(PROFILE))
    return environment


def _profile_variable(environ: Mapping[str, str]) -> str:
    """Return the name that this release reads; PyPI's ROS 2 (Kilted) sets no ROS_DISTRO."""
    return PROFILE_VARIABLES[environ.get('ROS_DISTRO') in _FAST_DDS_2_DISTROS]


def with_background_sending(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of the environment in which Fast DDS sends in a thread of its own.

    By default `publish` also delivers, and on a busy machine the reader that it wakes takes the
    processor from it: publishing mask and confidence at 1280x720 took 2.4 to 3.2 ms in the median,
    in the background 0.5 to 0.9, and both arrived 2 to 8 ms earlier (load 8 on 2 cores). A mode
    that is set is kept.
    """
    return {'RMW_FASTRTPS_PUBLICATION_MODE': 'ASYNCHRONOUS', **environ}


def missing_image_profile(rmw_implementation: str, environ: Mapping[str, str]) -> str | None:
    """Say that large images will be lost in this process, or return None.

    Args:
        rmw_implementation: such as 'rmw_fastrtps_cpp'; another middleware needs no profile.
        environ: the environment the process was started with.
    """
    if not rmw_implementation.startswith('rmw_fastrtps'):
        return None
    fix = (
        f'export {_profile_variable(environ)}={share_path(PROFILE)} for this node and for the '
        'camera driver'
    )
    for name in PROFILE_VARIABLES:
        path = environ.get(name)
        if path:
            if Path(path).is_file():
                return _small_shared_memory()
            return f'{name} names {path!r}, which does not exist: {fix}.'
    # The one built-in choice that also carries images (discovery takes 1.5 to 3.3 s with it).
    if environ.get('FASTDDS_BUILTIN_TRANSPORTS', '').startswith('LARGE_DATA'):
        return None
    return (
        'No Fast DDS profile is set: between processes, Fast DDS loses most best-effort images '
        f'above 0.5 MB. Use `ros2 launch desertmind_seg seg.launch.py`, which sets one, or {fix}.'
    )


def _small_shared_memory() -> str | None:
    size = shutil.disk_usage(_SHARED_MEMORY).total
    if size >= 2 * _SEGMENT_BYTES:
        return None
    return (
        f'{_SHARED_MEMORY} has {size / 1e6:.0f} MB, but camera driver and node take '
        f'{_SEGMENT_BYTES / 1e6:.0f} MB each for images. Without them Fast DDS falls back to UDP '
        'and loses images: start the container with --shm-size=512m or --ipc=host.'
    )


def qos_conflicts(topic: str, sender: str, offered: Any, receiver: str, requested: Any) -> str:
    """Say why a publisher and a subscriber of a topic do not talk to each other.

    Args:
        topic: full name.
        sender: name of the publisher's node.
        offered: its rclpy QoSProfile.
        receiver: name of the subscriber's node.
        requested: its rclpy QoSProfile.

    Returns:
        One sentence for each of reliability and durability that does not match; empty if both do.
    """
    sentences = []
    for policy, offer, request in (
        ('reliability', 'BEST_EFFORT', 'RELIABLE'),
        ('durability', 'VOLATILE', 'TRANSIENT_LOCAL'),
    ):
        if getattr(offered, policy).name == offer and getattr(requested, policy).name == request:
            weak, strong = offer.lower(), request.lower()
            sentences.append(
                f'{receiver} requests {policy} {strong} on {topic}, but {sender} offers {weak}: '
                f'no message passes. Set the {policy} of the subscriber to {weak} or that of the '
                f'publisher to {strong} (for this node: -p '
                f'qos_overrides.{topic}.{{subscription|publisher}}.{policy}:=...).'
            )
    return ' '.join(sentences)


def keep_frame_memory() -> bool:
    """Ask the C allocator to keep the memory of freed images instead of returning it.

    Every image passes through several buffers of its size; by default glibc gives each back to
    the kernel and faults its pages in again. Measured on 2 cores, receiving rgb8: CPU per frame
    5.5 -> 1.7 ms at 1280x720, 45 -> 14 ms at 3840x2160. Blocks up to 32 MB (glibc's maximum,
    a 2160x3840 rgb8 frame has 25) come from the heap, which keeps up to 256 MB of free memory.

    Returns:
        Whether the C library took the setting; one without mallopt (musl) keeps its own ways.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        and mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
    )
