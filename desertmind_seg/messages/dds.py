"""Process settings under which camera images travel between processes whole and quickly.

With Fast DDS's defaults, best-effort images of 0.5 MB and more are lost between processes: at
30 Hz, 2 of 150 arrive at 640x480. The shipped profile (config/fastdds.xml) delivers 150 of 150,
and 100 of 100 at 10 Hz between two hosts. Sender and receiver both need it: the camera driver as
well as the node. docs/network.md is about what users see of it.
"""

from __future__ import annotations

from collections.abc import Mapping
import ctypes
import fcntl
from math import inf
import os
from pathlib import Path
import re
import shutil
import socket
import stat
from typing import Any
from xml.etree import ElementTree

from desertmind_seg.model.files import share_path

PROFILE = 'config/fastdds.xml'
# Fast DDS 3 reads the first name and warns about the second, which Fast DDS 2 reads.
PROFILE_VARIABLES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')
_FAST_DDS_2_DISTROS = ('humble', 'iron', 'jazzy')

_SHARED_MEMORY = Path('/dev/shm')
# Of Fast DDS 3 and 2. Each process takes its segment whole from /dev/shm; with its administration
# one of 67.1 MB takes 70.3.
_SEGMENT_NAME = re.compile('fast(dds|rtps)_[0-9a-f]{16}')
_WITH_ADMINISTRATION = 1.05

# What rmw takes for infinite, in nanoseconds.
_INFINITE_NS = 2**63 - 1

_LAST_DOMAIN = 232

# glibc's mallopt parameters and our values, see `keep_frame_memory`.
_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES = -1, 256 << 20
_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES = -3, 32 << 20
_M_ARENA_MAX, _ARENAS = -8, 1


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


def domain_problem(rmw_implementation: str, environ: Mapping[str, str]) -> str:
    """Say when ROS_DOMAIN_ID is so high that Fast DDS would end this process; '' otherwise.

    It does so with status 1 when the first node is created. What is no number, rclpy refuses.
    """
    domain = environ.get('ROS_DOMAIN_ID', '')
    fast_dds = rmw_implementation.startswith('rmw_fastrtps')
    if not (fast_dds and domain.isdecimal() and int(domain) > _LAST_DOMAIN):
        return ''
    return f'ROS_DOMAIN_ID is {domain}; expected 0 to {_LAST_DOMAIN}, for more DDS has no ports.'


def with_background_sending(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of the environment in which Fast DDS sends in a thread of its own.

    By default `publish` also delivers, and on a busy machine the reader that it wakes takes the
    processor from it: publishing mask and confidence at 1280x720 took 2.4 to 3.2 ms in the median,
    in the background 0.5 to 0.9, and both arrived 2 to 8 ms earlier (load 8 on 2 cores). A mode
    that is set is kept.
    """
    return {'RMW_FASTRTPS_PUBLICATION_MODE': 'ASYNCHRONOUS', **environ}


def image_transport_problems(rmw_implementation: str, environ: Mapping[str, str]) -> list[str]:
    """Say why large images will be lost in this process; call it once the first node is there.

    Args:
        rmw_implementation: such as 'rmw_fastrtps_cpp'; another middleware needs no profile.
        environ: the environment the process was started with.

    Returns:
        A sentence for each problem, with its remedy.
    """
    if not rmw_implementation.startswith('rmw_fastrtps'):
        return []
    fix = (
        f'export {_profile_variable(environ)}={share_path(PROFILE)} for this node and for the '
        'camera driver'
    )
    for name in PROFILE_VARIABLES:
        path = environ.get(name)
        if path:
            if not Path(path).is_file():
                return [f'{name} names {path!r}, which does not exist: {fix}.']
            try:
                profile = ElementTree.parse(path).getroot()
            except (OSError, ElementTree.ParseError) as err:
                return [f'{name} names {path!r}, which is no XML file ({err}): {fix}.']
            return [*_small_shared_memory(profile), *_small_udp_buffers(profile)]
    # The one built-in choice that also carries images (discovery takes 1.5 to 3.3 s with it).
    if environ.get('FASTDDS_BUILTIN_TRANSPORTS', '').startswith('LARGE_DATA'):
        return []
    return [
        'No Fast DDS profile is set: between processes, Fast DDS loses most best-effort images '
        f'above 0.5 MB. Use `ros2 launch desertmind_seg seg.launch.py`, which sets one, or {fix}.'
    ]


def discovery_limit(environ: Mapping[str, str]) -> str | None:
    """Say that the environment keeps this process from nodes of other computers, or return None.

    Worth saying where nobody is found; on one computer it is what people want.
    """
    only = environ.get('ROS_LOCALHOST_ONLY')
    reach = environ.get('ROS_AUTOMATIC_DISCOVERY_RANGE')
    if only == '1':
        return 'ROS_LOCALHOST_ONLY=1: nodes of other computers are not found.'
    if reach == 'OFF':
        return 'ROS_AUTOMATIC_DISCOVERY_RANGE=OFF: other nodes are not found, on no computer.'
    if reach == 'LOCALHOST' and not environ.get('ROS_STATIC_PEERS'):
        return f'ROS_AUTOMATIC_DISCOVERY_RANGE={reach}: nodes of other computers are not found.'
    return None


def _largest(profile: ElementTree.Element, name: str) -> int:
    """Return the largest value of a size in bytes, 0 where the profile has none."""
    sizes = [(element.text or '').strip() for element in profile.iterfind(f'.//{{*}}{name}')]
    return max((int(size) for size in sizes if size.isdecimal()), default=0)


def _small_shared_memory(profile: ElementTree.Element) -> list[str]:
    need = int(_largest(profile, 'segment_size') * _WITH_ADMINISTRATION)
    if not (need and _SHARED_MEMORY.is_dir()):
        return []
    usage = shutil.disk_usage(_SHARED_MEMORY)
    if usage.total >= 2 * need and (usage.free >= need or _has_segment()):
        return []
    return [
        f'{_SHARED_MEMORY} has {usage.total / 1e6:.0f} MB, of which {usage.free / 1e6:.0f} are '
        f'free, but camera driver and node take {need / 1e6:.0f} MB each for images. Without them '
        'Fast DDS falls back to UDP, which is slower and loses some of the largest images: start '
        'a container with --shm-size=512m or --ipc=host; what killed processes left goes with '
        '`fastdds shm clean`.'
    ]


def _has_segment() -> bool:
    """Whether Fast DDS has found room in shared memory for this process."""
    return _SEGMENT_NAME.search(Path('/proc/self/maps').read_text()) is not None


def _small_udp_buffers(profile: ElementTree.Element) -> list[str]:
    # Asked of a socket, not of /proc: most containers do not show the limit that they are under.
    settings, given = [], []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for name, option, limit in (
            ('receiveBufferSize', socket.SO_RCVBUF, 'net.core.rmem_max'),
            ('sendBufferSize', socket.SO_SNDBUF, 'net.core.wmem_max'),
        ):
            size = min(_largest(profile, name), 2**31 - 1)
            if size:
                udp.setsockopt(socket.SOL_SOCKET, option, size)
            # Linux doubles what it grants, for its own administration.
            granted = udp.getsockopt(socket.SOL_SOCKET, option) // 2
            if granted < size:
                settings.append(f'{limit}={size}')
                given.append(f'{limit} {granted}')
    if not settings:
        return []
    return [
        f'The UDP buffers are smaller than the Fast DDS profile asks for ({", ".join(given)}): '
        'raw images between two computers will be lost; on one computer nothing is. '
        f'On the host: sudo sysctl -w {" ".join(settings)}; for good, the same settings, a line '
        'each, in /etc/sysctl.d/60-desertmind_seg.conf.'
    ]


def remove_dead_segments(folder: Path = _SHARED_MEMORY) -> dict[str, int]:
    """Remove the shared memory that killed processes of this user left behind.

    By Fast DDS's own rule, that of `fastdds shm clean`: a process locks the file NAME_el before
    it makes the segment NAME, and the kernel frees the lock with the process, whoever's it is and
    in whichever container it ran. Readers that still map such a segment keep their memory.

    Args:
        folder: where Fast DDS keeps its segments; need not exist.

    Returns:
        Name -> bytes of each segment that was removed.
    """
    removed = {}
    for segment in folder.iterdir() if folder.is_dir() else ():
        if _SEGMENT_NAME.fullmatch(segment.name) is None:
            continue
        lock = segment.with_name(f'{segment.name}_el')
        try:
            found = segment.lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                continue
            held = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # it went meanwhile, or has no lock to ask
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            segment.unlink()
            lock.unlink(missing_ok=True)
        except OSError:  # its process lives, or another one was faster
            continue
        finally:
            os.close(held)
        removed[segment.name] = found.st_size
    return removed


def removed_text(removed: Mapping[str, int]) -> str:
    """Say what `remove_dead_segments` removed."""
    return (
        f'Removed {sum(removed.values()) / 1e6:.0f} MB of shared memory that killed processes had '
        f'left: {", ".join(removed)}.'
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
        One sentence for each policy that does not match; empty where messages pass.
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
    for policy in ('deadline', 'liveliness_lease_duration'):
        offered_ns, requested_ns = (
            _period_ns(getattr(qos, policy)) for qos in (offered, requested)
        )
        if requested_ns < offered_ns:
            sentences.append(
                f'{receiver} requests a {policy} of {requested_ns / 1e9:g} s on {topic}, which '
                f'{sender} does not offer: no message passes. Leave it out in the subscriber.'
            )
    # Profiles that say nothing, our own among them, have the system's default, which is automatic.
    if requested.liveliness.name == 'MANUAL_BY_TOPIC' and offered.liveliness.name in (
        'AUTOMATIC',
        'SYSTEM_DEFAULT',
    ):
        sentences.append(
            f'{receiver} requests the liveliness manual_by_topic on {topic}, which {sender} does '
            'not offer: no message passes. Leave it out in the subscriber.'
        )
    return ' '.join(sentences)


def _period_ns(duration: Any) -> float:
    """Return a period of a QoS; 0 stands for the default, which is infinite."""
    nanoseconds: int = duration.nanoseconds
    return nanoseconds if 0 < nanoseconds < _INFINITE_NS else inf


def keep_frame_memory() -> bool:
    """Ask the C allocator to keep the memory of freed images instead of returning it.

    Every image passes through several buffers of its size; by default glibc gives each back to
    the kernel and faults its pages in again. Measured on 2 cores, receiving rgb8: CPU per frame
    5.5 -> 1.7 ms at 1280x720, 45 -> 14 ms at 3840x2160. Blocks up to 32 MB (glibc's maximum,
    a 2160x3840 rgb8 frame has 25) come from the heap, which keeps up to 256 MB of free memory. All
    threads share one heap where this is called before a library starts one: with one for each
    (glibc's 8 a core), the memory of a node that is taken down and up again each minute grew from
    550 to 880 MB in 13 minutes.

    Returns:
        Whether the C library took the setting; one without mallopt (musl) keeps its own ways.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        and mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
        and mallopt(_M_ARENA_MAX, _ARENAS)
    )


def return_free_memory() -> None:
    """Give back to the kernel what `keep_frame_memory` keeps of freed blocks, where glibc can.

    For a node that is taken down: else the heap keeps the most that any life before has needed.
    Half an hour of lives of other outputs let the memory of the node grow from 621 to 645 MB.
    """
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
        trim(0)
