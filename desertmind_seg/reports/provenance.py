"""Where a result comes from: the machine, the versions and the commit."""

from importlib import metadata
import os
from pathlib import Path
import platform
import shutil
import subprocess
from typing import Any

# Distributions whose versions decide what a mask looks like or how long it takes.
_DISTRIBUTIONS = (
    'numpy',
    'onnxruntime',
    'onnxruntime-gpu',
    'tensorrt-rtx-cu13-bindings',
    'tensorrt',
    'cuda-bindings',
    'opencv-python-headless',
    'opencv-python',
    'rosbags',
    'rclpy',
    'ros-fastdds',
    'torch',
    'torchvision',
    'segmentation-models-pytorch',
    'timm',
    'lightning',
)


def environment() -> dict[str, Any]:
    """Describe the machine, the versions and the commit that a result was made with."""
    versions = {'python': platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        'machine': {
            'cpu': _cpu_model(),
            'cpus': len(os.sched_getaffinity(0)),
            'memory_gib': round(
                os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30, 1
            ),
            'os': platform.platform(),
        },
        'versions': versions,
        'git_hash': _git_hash(),
    }


def _cpu_model() -> str:
    for line in Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines():
        if line.startswith('model name'):
            return line.partition(':')[2].strip()
    return platform.machine()


def _git_hash() -> str | None:
    """Return the checkout's commit, '-dirty' appended where files differ; None outside of one."""
    checkout = Path(__file__).resolve().parents[2]
    git = shutil.which('git')
    # Only our own checkout: an installed package may lie in a virtual environment of another's.
    if git is None or not (checkout / '.git').exists():
        return None
    described = subprocess.run(
        [
            git,
            '-C',
            str(checkout),
            'describe',
            '--always',
            '--dirty',
            '--abbrev=40',
            '--exclude=*',
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or None
