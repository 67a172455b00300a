"""What a bag has lost, at the door of every command that reads bags: said once, exit status 1."""

from pathlib import Path
import re

import numpy as np
import pytest
from test_bag_kinds import DAMAGED, TOPIC
from tiny_bag import DEPTH_TOPIC, IMAGE_TOPIC, DepthShot, TinyDrive, write_drive

from desertmind_seg import evaluate_bag, extract_frames, segment


@pytest.mark.parametrize('kind', [kind for kind, (*_, says) in DAMAGED.items() if says])
def test_what_a_bag_lost_makes_every_command_end_in_part(
    tmp_path: Path,
    tiny_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    bag, says = str(DAMAGED[kind][0](tmp_path)), DAMAGED[kind][2]
    for command, options in (
        (segment, ['--bundle', str(tiny_bundle)]),
        (extract_frames, ['--every', '2']),
        (evaluate_bag, ['--bundle', str(tiny_bundle)]),
    ):
        out = tmp_path / command.__name__
        assert command.main([bag, '--image', TOPIC, *options, '--out', str(out)]) == 1
        lines = [*capsys.readouterr().err.splitlines(), *caplog.messages]
        assert len([line for line in lines if re.search(says, line)]) == 1, lines
        caplog.clear()


def test_a_topic_that_may_be_in_what_is_lost(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = DAMAGED['missing split'][0](tmp_path)
    options = ['--image', '/other', '--bundle', str(tiny_bundle), '--out', str(tmp_path / 'out')]
    assert segment.main([str(bag), *options]) == 2
    assert re.search(r"has no topic '/other'.* Lost: a_1\.mcap is listed", capsys.readouterr().err)


def test_depth_that_does_not_decode_is_missing_of_frames_to_label(tmp_path: Path) -> None:
    full = np.full((66, 90), 900, np.uint16)
    torn = tuple(DepthShot(100.0 * i, full, changes={'height': 999}) for i in range(2))
    bag = write_drive(tmp_path / 'drive', TinyDrive(num_frames=2, depth=torn))
    options = ['--image', IMAGE_TOPIC, '--depth', DEPTH_TOPIC, '--every', '2']
    assert extract_frames.main([str(bag), *options, '--out', str(tmp_path / 'out')]) == 1
