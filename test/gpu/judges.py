"""What came of the parts of a run on a GPU: read off what they printed and wrote."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree


@dataclass(frozen=True)
class Finished:
    """A command that ended by itself.

    Attributes:
        status: its exit status.
        printed: on stdout and stderr together.
    """

    status: int
    printed: str

    @property
    def last_lines(self) -> list[str]:
        """The end of what it printed."""
        return self.printed.strip().splitlines()[-12:]


@dataclass(frozen=True)
class Outcome:
    """Whether a part was done.

    Attributes:
        status: ok, failed or skipped.
        reason: of a failure or a skip.
        details: what was measured, or printed last.
    """

    status: str
    reason: str = ''
    details: dict[str, Any] = field(default_factory=dict)


def by_status(finished: Finished) -> Outcome:
    """Judge by the exit status alone."""
    if finished.status == 0:
        return Outcome('ok')
    last = finished.last_lines
    reason = last[-1] if last else f'exit status {finished.status}'
    return Outcome('failed', reason, {'exit_status': finished.status, 'printed': last})


def judge_tests(finished: Finished, xml: Path) -> Outcome:
    """Judge by pytest's own record: skipped where no test was run."""
    if not xml.is_file():
        return by_status(Finished(finished.status or 1, finished.printed))
    cases = list(ElementTree.parse(xml).iter('testcase'))
    bad = [case for case in cases if {part.tag for part in case} & {'failure', 'error'}]
    skips = Counter(str(skip.get('message')) for case in cases for skip in case.iter('skipped'))
    passed = len(cases) - len(bad) - sum(skips.values())
    details: dict[str, Any] = {'passed': passed, 'failed': len(bad), 'skipped': dict(skips)}
    if bad or finished.status != 0:
        names = [str(case.get('name')) for case in bad]
        details |= {'failures': names, 'printed': finished.last_lines}
        return Outcome('failed', ', '.join(names) or finished.last_lines[-1], details)
    if not passed:
        return Outcome('skipped', '; '.join(skips), details)
    return Outcome('ok', '', details)


def judge_benchmark(finished: Finished, metrics: Path, *, dry_run: bool) -> Outcome:
    """Judge by the benchmark's metrics.json.

    That this bundle can run on no TensorRT, since its activations are uint8, is no failure; nor
    is, in a dry run, that the machine has no GPU.
    """
    if not metrics.is_file():
        failed = by_status(Finished(finished.status or 1, finished.printed))
        by_design = 'its int8 is not around 0' in failed.reason
        return Outcome('skipped', failed.reason) if dry_run or by_design else failed
    measured = json.loads(metrics.read_text())
    cases = [_case(case) for case in measured['cases']]
    details = {'cases': cases, 'limits': measured['limits']}
    if wrong := [case[key] for case in cases for key in ('failed', 'not_run') if case[key]]:
        return Outcome('failed', '; '.join(dict.fromkeys(wrong)), details)
    return Outcome('ok', '', details)


def _case(case: dict[str, Any]) -> dict[str, Any]:
    """Shorten a case of metrics.json."""
    latency, roofline = case['latency_ms'], case['roofline']
    return {
        'bundle': Path(case['bundle']['path']).name,
        'sha256': case['bundle']['sha256'],
        'backend': case['backend'],
        'size_hw': case['size_hw'],
        'device': case['device'],
        'engine': case['details'],
        'load_sec': case['load_sec'],
        'warm_up_sec': case['warm_up_sec'],
        'latency_ms': latency and {name: latency[name]['value'] for name in latency},
        'frames_per_sec': case['frames_per_sec'],
        'device_mib': case['memory_mib'] and case['memory_mib']['device'],
        'times_the_roofline': roofline and roofline['times_the_roofline'],
        'not_run': case['not_run'],
        'failed': case['failed'],
    }


def judge_step_rate(finished: Finished) -> Outcome:
    """Judge by the JSON in the last line of step_rate.py."""
    if finished.status != 0:
        return by_status(finished)
    return Outcome('ok', '', json.loads(finished.last_lines[-1]))
