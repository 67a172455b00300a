"""What the package says of itself: package.xml, setup.py, constraints.txt and the documents."""

import ast
from importlib.metadata import PathDistribution
from pathlib import Path
import re
import subprocess
import sys
from xml.etree import ElementTree

from catkin_pkg.package import parse_package
from packaging.requirements import Requirement
import pytest

import desertmind_seg

ROOT = Path(__file__).resolve().parents[2]

# Import name -> name on PyPI, where the two differ.
PYPI_NAMES = {
    'cv2': 'opencv-python-headless',
    'google': 'protobuf',
    'PIL': 'pillow',
    'yaml': 'pyyaml',
}
# Imported by what not every machine runs, when it does -> the extra with it.
OF_EXTRAS = {
    **{'cuda': 'tensorrt', 'rerun': 'viewer'},
    **dict.fromkeys(('obstore', 'pyarrow', 'ray'), 'fleet'),
}
# Types of services that the node offers; rclpy imports them.
OFFERED = {'lifecycle_msgs'}
# Import name -> ROS package, where the two differ.
ROS_NAMES = {'tf2_ros': 'tf2_ros_py'}
# PyPI's ROS 2 lacks these; the runtime works without.
ONLY_APT_HAS = {'launch', 'launch_ros', 'tf2_ros_py', 'vision_msgs'}


def normalized(requirement: str) -> str:
    """Reduce a requirement to the package's name: 'Ros_rclpy[fastrtps]>=1' to 'ros-rclpy'."""
    name = re.match(r'[\w.-]+', requirement)
    assert name, requirement
    return re.sub(r'[-_.]+', '-', name[0]).lower()


def required(distribution: PathDistribution, extra: str | None = None) -> set[str]:
    """List what the package requires, for itself or for one of its extras."""
    marker = f'extra == "{extra}"'
    return {
        normalized(line)
        for line in distribution.requires or ()
        if (marker in line if extra else 'extra ==' not in line)
    }


def pins(file: str) -> dict[str, set[str]]:
    """Read requirements/FILE.txt: the package's name -> 'name==version', one for each Python."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / f'requirements/{file}.txt').read_text().splitlines():
        if '==' in line and not line.startswith('#'):
            pin = re.match(r'[^ ]+', line)
            assert pin
            found.setdefault(normalized(line), set()).add(pin[0])
    return found


@pytest.fixture(scope='module')
def distribution(tmp_path_factory: pytest.TempPathFactory) -> PathDistribution:
    """Read the metadata that setup.py gives."""
    folder = tmp_path_factory.mktemp('metadata')
    command = [sys.executable, 'setup.py', '--quiet', 'egg_info', '--egg-base', str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    return PathDistribution(folder / 'desertmind_seg.egg-info')


@pytest.fixture(scope='module')
def package_xml() -> ElementTree.Element:
    return ElementTree.parse(ROOT / 'package.xml').getroot()


@pytest.fixture(scope='module')
def imported() -> set[str]:
    """Names of the packages that runtime and launch files import, less Python's and our own."""
    files = [*(ROOT / 'desertmind_seg').rglob('*.py'), *(ROOT / 'launch').glob('*.py')]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text()))]
    names = {
        *(alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names),
        *(node.module or '' for node in nodes if isinstance(node, ast.ImportFrom)),
    }
    packages = {name.split('.')[0] for name in names}
    return packages - sys.stdlib_module_names - {'desertmind_seg', ''}


@pytest.fixture(scope='module')
def readme() -> str:
    return (ROOT / 'README.md').read_text()


def test_one_version_everywhere(
    distribution: PathDistribution, package_xml: ElementTree.Element
) -> None:
    version = package_xml.findtext('version')

    assert distribution.version == desertmind_seg.__version__ == version
    assert f'\n{version} (' in (ROOT / 'CHANGELOG.rst').read_text()


def test_package_xml_is_valid() -> None:
    warnings: list[str] = []

    package = parse_package(str(ROOT), warnings=warnings)

    assert not warnings
    assert package.package_format == 3
    assert package.get_build_type() == 'ament_python'


def test_package_xml_names_what_is_imported(
    package_xml: ElementTree.Element, imported: set[str]
) -> None:
    depends = {element.text or '' for element in package_xml.iter('exec_depend')}
    ros_packages = {name for name in depends if not name.startswith('python3-')}

    assert ros_packages == OFFERED | {
        ROS_NAMES.get(name, name)
        for name in imported
        if name.endswith(('_msgs', '_interfaces'))
        or name in {'rclpy', 'launch', 'launch_ros', *ROS_NAMES}
    }


def test_requirements_are_what_is_imported(
    distribution: PathDistribution, package_xml: ElementTree.Element, imported: set[str]
) -> None:
    ros_packages = {element.text for element in package_xml.iter('exec_depend')}
    ours = imported - ros_packages - set(ROS_NAMES) - set(OF_EXTRAS)
    pypi_names = {PYPI_NAMES.get(name, name) for name in ours}

    assert required(distribution) == pypi_names
    assert required(distribution, 'tensorrt') == {
        *('cuda-bindings', 'tensorrt-rtx-cu13-bindings', 'tensorrt-rtx-cu13-libs')
    }
    assert required(distribution, 'fleet') == {'obstore', 'pyarrow', 'ray'}
    assert imported >= set(OF_EXTRAS)


@pytest.mark.parametrize(
    ('name', 'fails', 'works'),
    [
        *(('mcap', '0.0.1', '1.0.0'), ('onnx', '1.17.0', '1.18.0')),
        *(('pydantic', '2.5.3', '2.6.0'), ('torch', '2.9.1', '2.10.0')),
    ],
)
def test_versions_that_were_seen_to_fail_are_not_taken(
    distribution: PathDistribution, name: str, fails: str, works: str
) -> None:
    needed = [Requirement(line) for line in distribution.requires or ()]
    (versions,) = (line.specifier for line in needed if line.name == name)

    assert fails not in versions
    assert works in versions


def test_ros_extra_holds_what_package_xml_names(
    distribution: PathDistribution, package_xml: ElementTree.Element
) -> None:
    names = {element.text or '' for element in package_xml.iter('exec_depend')}
    ros_packages = {name for name in names - ONLY_APT_HAS if not name.startswith('python3-')}

    assert {normalized(f'ros-{name}') for name in ros_packages} <= required(distribution, 'ros')


def test_the_readme_brings_every_requirement_to_a_vehicle(
    distribution: PathDistribution, readme: str
) -> None:
    line = 'pip install --require-hashes -r src/desertmind_seg/requirements/runtime.txt\n'

    assert line in readme
    assert required(distribution) <= pins('runtime').keys()
    assert not any(name.startswith('ros-') for name in pins('runtime'))


@pytest.mark.parametrize(
    ('file', 'extras'),
    [('ros', {'ros'}), ('docs', {'docs'}), ('test', {'train', 'dev', 'tensorrt'})],
)
def test_make_brings_every_requirement_of_its_extras(
    distribution: PathDistribution, file: str, extras: set[str]
) -> None:
    needed = set[str]().union(*(required(distribution, extra) for extra in extras))

    assert needed <= pins(file).keys() | pins('runtime').keys()


@pytest.mark.parametrize('file', ['runtime', 'ros', 'docs', 'test'])
def test_hashes_are_of_the_versions_in_the_constraints(file: str) -> None:
    constraints: dict[str, set[str]] = {}
    for line in (ROOT / 'constraints.txt').read_text().splitlines():
        if not line.startswith('#'):
            constraints.setdefault(normalized(line), set()).add(line.partition(' ;')[0])
    text = (ROOT / f'requirements/{file}.txt').read_text()

    for name, versions in pins(file).items():
        assert versions <= constraints[name]
    # pip refuses the whole file where one line has no hash.
    hashed = re.findall(r'^\w.*\\\n +--hash=sha256:[0-9a-f]{64}\b', text, re.MULTILINE)
    assert len(hashed) == len(re.findall(r'^\w', text, re.MULTILINE))


def test_runtime_requires_no_torch(distribution: PathDistribution) -> None:
    torch = {'torch', 'torchvision', 'lightning', 'timm', 'segmentation-models-pytorch'}

    assert not required(distribution) & torch
    assert torch <= required(distribution, 'train')


def test_pip_installs_one_program_and_every_command_has_its_main(
    distribution: PathDistribution,
) -> None:
    scripts = [entry for entry in distribution.entry_points if entry.group == 'console_scripts']
    commands = {path.stem: path for path in (ROOT / 'desertmind_seg').glob('*.py')}

    # colcon makes one of each file: test_install.py.
    assert [script.value for script in scripts] == ['desertmind_seg.__main__:main']
    for name in commands.keys() - {'__init__', 'options'}:
        tree = ast.parse(commands[name].read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert functions >= {'main', 'build_parser'}
