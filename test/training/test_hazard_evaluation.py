"""evaluate_bag on a rendered drive: gravity by /tf, true kinds, sizes and heights."""

import json
from pathlib import Path

import pytest

from desertmind_seg.bag_geometry.truth import HEIGHT_TOPIC, KIND_TOPIC, SIZE_TOPIC
from desertmind_seg.evaluate_bag import main
from training.simulator.writers import (
    DEPTH_TOPIC,
    IMAGE_TOPIC,
    LABEL_TOPICS,
    DriveSpec,
    write_bag,
)


def test_rendered_hazards_are_scored_by_kind_size_and_height(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    kinds = ('rock', 'log', 'stump', 'ledge', 'ditch')
    bag = write_bag(DriveSpec(11, (96, 128), 2.0, 2, kinds), tmp_path / 'hazards')
    out = tmp_path / 'out'
    arguments = [str(bag), '--image', IMAGE_TOPIC, '--depth', DEPTH_TOPIC]
    arguments += ['--labels', list(LABEL_TOPICS)[1], '--bundle', str(tiny_bundle)]
    assert main([*arguments, '--out', str(out)]) == 0
    hazards = json.loads((out / 'metrics.json').read_text())['hazards']

    assert hazards['problem'] == ''
    assert hazards['gravity'] == (
        "z of frame 'odom' in /tf, by which the camera looks down by 12 degrees and is tilted by "
        '6 to its right (medians)'
    )
    assert (hazards['frames'], hazards['frames_up_from_data'], hazards['problems']) == (2, 0, [])
    assert hazards['truth'] == [HEIGHT_TOPIC, KIND_TOPIC, SIZE_TOPIC]
    near = hazards['height_errors'][1]
    assert near['name'] == '0-5 m'
    assert near['pixels'] > 1000
    assert near['rms_m'] < 0.3
    rows = {(row['by'], row['name']): row for row in hazards['scores']['false_safe']}
    found = {name for by, name in rows if by == 'kind'}
    assert found & set(kinds)
    assert found <= {*kinds, 'puddle', 'vegetation', 'structure'}
    assert any(by == 'target' for by, _ in rows)
    # Every pixel of a kind is labelled unsafe: the kinds are all of them.
    by_kind = sum(row['pixels'] for (by, _), row in rows.items() if by == 'kind')
    assert by_kind == pytest.approx(rows['all', 'all']['pixels'], rel=0.01)
