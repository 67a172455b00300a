"""Raw images from one computer to another: two network namespaces with a cable between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
import json
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import time

from node_process import ROOT, NodeProcess
import pytest
from remote_camera import FRAMES

from desertmind_seg.messages.dds import PROFILE, image_transport_problems
from desertmind_seg.model.files import share_path

ENVIRONMENT = {
    'FASTDDS_DEFAULT_PROFILES_FILE': str(share_path(PROFILE)),
    'FASTRTPS_DEFAULT_PROFILES_FILE': None,
    # A developer's own settings would keep the two hosts apart.
    'ROS_AUTOMATIC_DISCOVERY_RANGE': None,
    'ROS_LOCALHOST_ONLY': None,
}
LINK_UP_SEC = 10.0


def why_not_here() -> str | None:
    """Say what this machine lacks; None if nothing."""
    if os.geteuid() != 0:
        return 'network namespaces need root'
    missing = [tool for tool in ('ip', 'unshare', 'nsenter') if shutil.which(tool) is None]
    if missing:
        return f'needs {", ".join(missing)}: apt install iproute2 util-linux'
    tried = subprocess.run(
        ['unshare', '--net', 'ip', 'link', 'add', 'name', 'va', 'type', 'veth'],
        capture_output=True,
        text=True,
    )
    if tried.returncode != 0:
        return f'no network namespaces here: {tried.stderr.strip()}'
    environ = {name: value for name, value in ENVIRONMENT.items() if value is not None}
    problems = image_transport_problems('rmw_fastrtps_cpp', environ)
    return next((problem for problem in problems if 'UDP buffers' in problem), None)


def ip(namespace: str, *arguments: str) -> str:
    """Run `ip` in a namespace."""
    command = ['nsenter', f'--net={namespace}', 'ip', *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def link_is_up(namespace: str) -> bool:
    return json.loads(ip(namespace, '-json', 'link', 'show', 'cable'))[0]['operstate'] == 'UP'


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two network namespaces that hear nobody but each other; they go with the test."""
    reason = why_not_here()
    if reason is not None:
        pytest.skip(reason)
    with ExitStack() as stack:
        # `cat` ends with its input, and so does the namespace, even when the tests are killed.
        holders = [
            stack.enter_context(
                subprocess.Popen(
                    ['unshare', '--net', 'sh', '-c', 'echo; exec cat'],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            for _ in range(2)
        ]
        for holder in holders:
            assert holder.stdout is not None
            holder.stdout.readline()  # the namespace is there
        one, other = (str(holder.pid) for holder in holders)
        namespaces = [f'/proc/{pid}/ns/net' for pid in (one, other)]
        end = ['peer', 'name', 'cable', 'netns', other]
        ip(namespaces[0], 'link', 'add', 'name', 'cable', 'type', 'veth', *end)
        for number, namespace in enumerate(namespaces, 1):
            ip(namespace, 'address', 'add', f'10.99.0.{number}/24', 'dev', 'cable')
            ip(namespace, 'link', 'set', 'lo', 'up')
            ip(namespace, 'link', 'set', 'cable', 'up')
        # A process that starts before its network is up hears multicast on localhost alone.
        deadline = time.monotonic() + LINK_UP_SEC
        while not all(link_is_up(namespace) for namespace in namespaces):
            assert time.monotonic() < deadline, 'the cable stays down'
        yield namespaces


def test_raw_images_arrive_from_another_host(hosts: list[str], tiny_bundle: Path) -> None:
    parameters = {'model.bundle': tiny_bundle, 'autostart': 'true', 'input.max_age_ms': 0}
    vehicle, camera = (['nsenter', f'--net={host}'] for host in hosts)
    with NodeProcess(parameters, environment=ENVIRONMENT, prefix=vehicle):
        environ = {**os.environ, **ENVIRONMENT, 'PYTHONPATH': str(ROOT)}
        done = subprocess.run(
            [*camera, sys.executable, str(Path(__file__).with_name('remote_camera.py'))],
            env={name: value for name, value in environ.items() if value is not None},
            stdout=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0
    counts = re.fullmatch(r'received (\d+) masks (\d+)\n', done.stdout)
    assert counts is not None, done.stdout
    # With the kernel's buffers of 208 kB, 60 to 65 of 100 arrive.
    assert FRAMES - 2 <= int(counts[1]) <= FRAMES
    assert 0 < int(counts[2]) <= int(counts[1])
