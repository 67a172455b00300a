"""The rules that conftest.py adds to every test session, tried on sessions of their own."""

import os
from pathlib import Path
import re
import subprocess
import sys

TEST = Path(__file__).resolve().parents[1]


def run_session(
    folder: Path, content: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run one test module in a new pytest session under test/conftest.py."""
    (folder / 'test_inner.py').write_text(content)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith('PYTEST')}
    inherited.pop('FASTDDS_DEFAULT_PROFILES_FILE', None)
    inherited['PYTEST_DISABLE_PLUGIN_AUTOLOAD'] = '1'  # whose imports are a third of the time
    paths = os.pathsep.join((str(TEST), str(TEST.parent)))
    return subprocess.run(
        [
            *(sys.executable, '-m', 'pytest', '-p', 'conftest', '-p', 'no:cacheprovider'),
            *('-rs', '-s', '-o', 'markers=data: d', str(folder / 'test_inner.py')),
        ],
        cwd=folder,
        env={**inherited, 'PYTHONPATH': paths, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_skip_needs_a_reason(tmp_path: Path) -> None:
    done = run_session(
        tmp_path,
        'import pytest\n'
        "def test_empty(): pytest.skip('')\n"
        'def test_none(): pytest.skip()\n'
        '@pytest.mark.skip\ndef test_marked(): pass\n'
        "def test_reason(): pytest.skip('needs a camera')\n"
        "def test_xfail(): pytest.xfail('known')\n",
    )
    # A skip by a marker happens in the set-up, so that its refusal is an error.
    assert '2 failed, 1 skipped, 1 xfailed, 1 error' in done.stdout
    assert done.stdout.count('skipped without a reason; give one') >= 3


def test_skip_of_a_module_needs_a_reason(tmp_path: Path) -> None:
    done = run_session(tmp_path, "import pytest\npytest.skip('', allow_module_level=True)\n")
    assert 'skipped without a reason; give one' in done.stdout
    assert done.returncode != 0


def test_data_tests_are_skipped_with_the_folder_that_is_missing(tmp_path: Path) -> None:
    done = run_session(
        tmp_path,
        'import conftest, pathlib, pytest\n'
        "conftest.SHARED_DATA = pathlib.Path('/nowhere')\n"
        '@pytest.mark.data\ndef test_inner(): raise AssertionError\n',
    )
    assert 'needs the real recordings in /nowhere' in done.stdout
    assert '1 skipped' in done.stdout


def test_each_session_has_its_own_dds_domain_and_the_profile(tmp_path: Path) -> None:
    body = (
        'import os\n\ndef test_inner():\n'
        "    print('DOMAIN', os.environ['ROS_DOMAIN_ID'])\n"
        "    print('PROFILE', os.environ['FASTDDS_DEFAULT_PROFILES_FILE'])\n"
    )
    done = run_session(tmp_path, body)
    (domain,) = re.findall(r'DOMAIN (\d+)', done.stdout)
    # This session holds its own while the inner one runs.
    assert 1 <= int(domain) <= 100
    assert domain != os.environ['ROS_DOMAIN_ID']
    assert f'PROFILE {TEST.parent}/config/fastdds.xml' in done.stdout
    mine = run_session(tmp_path, body, FASTDDS_DEFAULT_PROFILES_FILE='/mine.xml')
    assert 'PROFILE /mine.xml' in mine.stdout
