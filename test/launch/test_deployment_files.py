"""What lies around the node on a vehicle names what there is: layouts, boot, image."""

from __future__ import annotations

import json
from pathlib import Path
import re
import shutil
import subprocess
from typing import Any

from fake_launch import run_launch_file
import pytest
import yaml

from desertmind_seg.outputs.images import ENCODINGS

ROOT = Path(__file__).resolve().parents[2]
TOPICS = {
    f'/segmentation/{name}'
    for name in (
        *(*ENCODINGS, 'cost', 'height', 'hazard', 'hazard_mask'),
        *('points', 'costmap', 'ground_points', 'nonground_points'),
    )
}
UNIT = ROOT / 'config/systemd/desertmind_seg.service'


def load_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding='utf-8'))


@pytest.fixture(scope='module')
def foxglove() -> dict[str, Any]:
    layout: dict[str, Any] = json.loads((ROOT / 'config/foxglove.json').read_text())
    return layout


@pytest.fixture(scope='module')
def node_sources() -> str:
    return '\n'.join(path.read_text() for path in (ROOT / 'desertmind_seg').rglob('*.py'))


def test_rviz_layout_shows_topics_of_the_node() -> None:
    displays = load_yaml('config/seg.rviz')['Visualization Manager']['Displays']
    topics = [display['Topic']['Value'] for display in displays]
    assert len(topics) >= 3
    assert set(topics) <= TOPICS


def test_rviz_is_told_to_show_its_docks() -> None:
    # VisualizationFrame::loadWindowGeometry (ros2/rviz, Humble to Rolling) hides the side with the
    # images where an uninitialised bool says so, unless the file sets it.
    geometry = load_yaml('config/seg.rviz')['Window Geometry']
    assert geometry == {'Hide Left Dock': False, 'Hide Right Dock': False}


def panels(tree: Any) -> list[str]:
    """List the panels of a tree of splits."""
    return [tree] if isinstance(tree, str) else [*panels(tree['first']), *panels(tree['second'])]


def test_foxglove_layout_places_every_panel_once(foxglove: dict[str, Any]) -> None:
    placed = panels(foxglove['layout'])
    assert sorted(placed) == sorted(foxglove['configById'])
    kinds = {panel.split('!')[0] for panel in placed}
    assert kinds == {'Image', '3D', 'DiagnosticSummary', 'Plot'}


def test_foxglove_layout_shows_topics_of_the_node(
    foxglove: dict[str, Any], node_sources: str
) -> None:
    for panel, config in foxglove['configById'].items():
        kind = panel.split('!')[0]
        if kind == 'Image':
            assert config['imageMode']['imageTopic'] in TOPICS
        elif kind == '3D':
            assert set(config['topics']) <= TOPICS
            assert all(topic['visible'] for topic in config['topics'].values())
        elif kind == 'DiagnosticSummary':
            assert config['topicToRender'] == '/diagnostics'
        for path in config.get('paths', ()):
            assert path['enabled']
            shown = re.fullmatch(
                r'/diagnostics\.status\[:\]\{name=="segmentation: (\w+)"\}'
                r'\.values\[:\]\{key=="(\w+?)(?:_p50|_p99)?"\}\.value',
                path['value'],
            )
            assert shown, path['value']
            assert all(f"'{name}'" in node_sources for name in shown.groups())


def test_aggregator_expects_what_the_node_says(node_sources: str) -> None:
    (analyzer,) = (
        value
        for value in load_yaml('config/diagnostic_aggregator.yaml')['analyzers'][
            'ros__parameters'
        ].values()
        if isinstance(value, dict)
    )
    assert analyzer['type'] == 'diagnostic_aggregator/GenericAnalyzer'
    assert isinstance(analyzer['timeout'], float)  # an int is another type to ROS
    (part,) = analyzer['contains']
    for name in analyzer['expected']:
        assert part in name
        assert f"'{name.removeprefix('segmentation: ')}'" in node_sources


@pytest.fixture
def unit() -> dict[str, list[str]]:
    """Sections of the unit, joined; a key that comes often has all its values."""
    values: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and line[0] not in '#[':
            key, _, value = line.partition('=')
            values.setdefault(key, []).append(value)
    return values


def test_unit_starts_a_launch_file_that_there_is(
    unit: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = dict(line.split('=', 1) for line in unit['Environment'])
    (command,) = unit['ExecStart']
    used = set(re.findall(r'\$\$(\w+)', command))
    assert used <= set(environment)
    launch_file = ROOT / 'launch' / environment['LAUNCH_FILE']
    declared, _ = run_launch_file(launch_file, monkeypatch)
    given = {argument.split(':=')[0] for argument in environment['ARGUMENTS'].split()}
    assert given <= {argument.name for argument in declared}
    # `ros2 launch` leaves its nodes behind on anything else.
    assert unit['KillSignal'] == ['SIGINT']


def test_unit_is_accepted_by_systemd() -> None:
    analyze = shutil.which('systemd-analyze')
    if analyze is None:
        pytest.skip('needs systemd-analyze')
    checked = subprocess.run(
        [analyze, 'verify', '--man=no', UNIT], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, '')


def test_image_gets_what_the_package_is_built_from() -> None:
    ignore = (ROOT / 'docker/Dockerfile.dockerignore').read_text().splitlines()
    sent = {line[1:] for line in ignore if line.startswith('!')}
    assert '*' in ignore
    assert {
        *('desertmind_seg', 'launch', 'config', 'models', 'resource', 'docker'),
        *('package.xml', 'setup.py', 'setup.cfg', 'LICENSE', 'requirements'),
    } <= sent


def test_image_scripts_are_there_and_parse() -> None:
    scripts = re.findall(r'docker/\w+\.sh', (ROOT / 'docker/Dockerfile').read_text())
    assert scripts
    for script in scripts:
        subprocess.run(['bash', '-n', ROOT / script], check=True)
    named = ' '.join((ROOT / script).read_text() for script in scripts)
    assert (ROOT / 'config/fastdds.xml').is_file()
    assert 'config/fastdds.xml' in named
