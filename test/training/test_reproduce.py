"""The reference experiments: their order, what is skipped, and what the table says of them."""

from collections.abc import Callable, Sequence
from functools import partial
import json
from pathlib import Path
import re
from typing import Any

import numpy as np
import pytest
from report_page import Page
import yaml

from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.options import ALL_DONE, DONE_IN_PART, NOTHING_WRITTEN, STOPPED
from desertmind_seg.scores.split_scores import SplitScores
from training.evaluation.metrics_file import Metrics, write_metrics
from training.fit.run import train
from training.networks.checkpoint import CheckpointError
from training.recipes.load import load_ensemble, load_recipe
from training.recipes.schema import Recipe, RecipeError
from training.reproduce import build_parser, main
from training.reproduction import experiments
from training.reproduction import plan as planning
from training.reproduction.experiments import EXPERIMENTS
from training.reproduction.plan import Experiment, Step, plan
from training.reproduction.reported import Reported, ReportedError, read_reported
from training.reproduction.results import Result, collect
from training.reproduction.run import run_experiments
from training.reproduction.table import class_rows, experiment_rows, write_tables

NYU = load_ontology('nyuv2-13')
ENVIRONMENT = {
    'machine': {'cpu': 'abacus', 'cpus': 2, 'memory_gib': 3.0, 'os': 'none'},
    'versions': {'python': '3.11', 'torch': '2.11'},
    'git_hash': '0123456789abcdef',
}


def write_run(
    folder: Path, recipe: dict[str, Any], right: int, odd: int = 0, **facts: Any
) -> None:
    """Leave a run that is right in so many of 100 pixels of each class; one block is `odd` off."""
    scores = SplitScores(NYU)
    truth = np.repeat(np.arange(13, dtype=np.uint8), 100).reshape(13, 100)
    for number in range(8):
        mask = truth.copy()
        mask[:, right + (odd if number % 2 else -odd) :] = 255
        scores.add(f'{number}', f'b{number}', truth, mask, np.full_like(mask, 200))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'checkpoint.pt').touch()
    metrics = Metrics(
        **dict(scores.metrics()),
        recipe=recipe,
        ontology=NYU.name,
        ontology_sha256=NYU.sha256,
        class_table=NYU,
        dataset='nyuv2',
        split='val',
        split_rule='blocks',
        data_hash='a' * 64,
        environment=ENVIRONMENT,
        **facts,
    )
    write_metrics(folder / 'metrics.json', metrics)


def leave(out: Path, name: str, right: int, odd: int = 0) -> None:
    """Leave a finished experiment of training.train or training.folds."""
    recipe = load_recipe(name).model_dump(mode='json')
    of_training = {'training_sec': 90.0, 'best_epoch': 2, 'steps': 40}
    folds = EXPERIMENTS[name] == 'folds'
    write_run(out / name, recipe, right, odd, **({} if folds else of_training))
    (out / name / 'recipe.yaml').write_text(yaml.safe_dump(recipe))
    if folds:
        (out / name / 'out_of_fold').mkdir()
        for fold in (0, 1):
            write_run(out / name / f'fold_{fold}', recipe, right, **of_training)
            (out / name / 'out_of_fold' / f'fold_{fold}.json').touch()


def results_of(out: Path, *names: str) -> dict[str, Result]:
    planned = plan(names, out, None)
    return {result.name: result for result in collect(planned, read_reported(), {})}


def test_every_experiment_was_reported_and_changes_what_its_recipe_does() -> None:
    reported = read_reported()
    assert {f'{name}_small' for name in reported} == set(EXPERIMENTS)
    for name, figures in reported.items():
        if name == 'exp093_ensemble':
            assert load_ensemble(name).parent == figures.against
            continue
        recipe = load_recipe(name)
        assert recipe.parent == (figures.against or 'none')
        classes = {*figures.class_iou, *figures.raised}
        assert classes <= set(load_ontology(recipe.ontology).names)
    raised = reported['exp093_4'].raised
    assert [NYU.names.index(name) for name in raised] == [1, 9, 10]
    assert len(reported['exp062'].class_iou) == 13
    assert reported['exp062'].change(reported['exp060']) == pytest.approx(0.0109)
    assert reported['exp093_ensemble'].change(reported['exp093_5']) == pytest.approx(0.00311)


def test_the_order_lets_each_have_what_it_needs() -> None:
    before: set[str] = set()
    for name, kind in EXPERIMENTS.items():
        needed = set()
        if kind == 'ensemble':
            needed = {member.recipe for member in load_ensemble(name).members}
        assert needed <= before
        before.add(name)


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('a: {val: 2.0}', r'a: val: Input should be less than or equal to 1, not 2\.0'),
        ('a: {vall: 0.2}', 'a: vall: Extra inputs are not permitted'),
        ('a: {pixel_accuracy: 0.2}', 'a: .*expected an mIoU, one of val, out_of_fold, hidden'),
        ('a: {val: 0.2, against: b}', "a: against 'b', of which the file has no val"),
        ('b: {hidden_test: 0.1}\na: {val: 0.2, against: b}', "against 'b', of which .* no val"),
    ],
)
def test_wrong_reported_figures_are_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / 'reported.yaml'
    path.write_text(text)
    with pytest.raises(ReportedError, match=expected):
        read_reported(path)


@pytest.mark.parametrize(
    ('of_061', 'of_062', 'expected'),
    [
        ((70, 0), (90, 0), ('yes', 'yes')),  # reported: worse and better than exp060
        ((90, 0), (70, 0), ('no', 'no')),
        ((80, 5), (80, 0), ('cannot be told', 'cannot be told')),
    ],
)
def test_a_conclusion_holds_by_an_interval_without_zero(
    tmp_path: Path,
    of_061: tuple[int, int],
    of_062: tuple[int, int],
    expected: tuple[str, str],
) -> None:
    leave(tmp_path, 'exp060_small', 80)
    leave(tmp_path, 'exp061_small', *of_061)
    leave(tmp_path, 'exp062_small', *of_062)
    found = results_of(tmp_path, 'exp060_small', 'exp061_small', 'exp062_small')
    assert found['exp060_small'].miou.holds == '-'
    assert (found['exp061_small'].miou.holds, found['exp062_small'].miou.holds) == expected


def test_the_table_has_both_figures_and_both_changes(tmp_path: Path) -> None:
    leave(tmp_path, 'exp060_small', 80)
    leave(tmp_path, 'exp061_small', 70)
    found = results_of(tmp_path, 'exp060_small', 'exp061_small', 'exp062_small')
    rows = experiment_rows(list(found.values()))
    assert rows[1:] == [
        ['exp060_small', '0.6228 (validation)', '0.8000', '0.8000 to 0.8000', *['-'] * 6],
        [
            *('exp061_small', '0.6204 (validation)', '0.7000', '0.7000 to 0.7000'),
            *('exp060_small', '-0.0024', '-0.1000', '-0.1000 to -0.1000', 'yes'),
            '7 no, 6 yes',
        ],
        [
            *('exp062_small', '0.6337 (validation)', 'not run', '-'),
            *('exp060_small', '+0.0109', '-', '-', '-', '-'),
        ],
    ]
    classes = {row[0]: row[1:] for row in class_rows(found['exp061_small'])}
    # The bed's rose by 0.009 there, the chair's fell by 0.018; here each fell by 0.1.
    change = ['-0.1000', '-0.1000 to -0.1000']
    assert classes['bed'] == ['0.7160', '0.7000', '+0.0090', *change, 'no']
    assert classes['chair'] == ['0.6020', '0.7000', '-0.0180', *change, 'yes']


def test_classes_that_were_to_be_raised_have_a_verdict_without_a_figure(tmp_path: Path) -> None:
    leave(tmp_path, 'exp093_2_small', 60)
    leave(tmp_path, 'exp093_4_small', 70)
    found = results_of(tmp_path, 'exp093_2_small', 'exp093_4_small')['exp093_4_small']
    assert found.training_sec == 180.0  # of both folds
    assert [row[0] for row in class_rows(found)[1:]] == ['books', 'table', 'tv']
    change = ['up', '+0.1000', '+0.1000 to +0.1000', 'yes']
    assert class_rows(found)[1] == ['books', '-', '0.7000', *change]


def test_an_ensemble_is_compared_with_its_parent_in_the_same_views(tmp_path: Path) -> None:
    name = 'exp093_ensemble_small'
    write_run(tmp_path / name, load_ensemble(name).model_dump(mode='json'), 70)
    (tmp_path / name / 'ensemble.json').touch()
    for member in ('exp093_5_small', 'exp093_4_small'):
        leave(tmp_path, member, 40)
        store = tmp_path / member / f'out_of_fold_{name}'
        write_run(store, load_recipe(member).model_dump(mode='json'), 60)
        for fold in (0, 1):
            (store / f'fold_{fold}.json').touch()
    found = results_of(tmp_path, name)[name]
    assert found.miou.reported_change == pytest.approx(0.00311)
    assert found.miou.change is not None
    assert found.miou.change.difference == pytest.approx(0.1)
    assert found.miou.holds == 'yes'


def test_without_its_parent_nothing_is_said_of_the_change(tmp_path: Path) -> None:
    leave(tmp_path, 'exp061_small', 70)
    found = results_of(tmp_path, 'exp061_small')['exp061_small']
    assert found.miou.holds == '-'
    assert found.why_not == 'exp060_small was not run'
    page = write_tables(tmp_path, [found])
    assert 'exp060_small was not run' in Page(page).text
    said = 'exp061_small was not compared: exp060_small was not run.'
    assert said in (tmp_path / 'reproduction.md').read_text()


def test_other_frames_than_the_parents_are_not_compared(tmp_path: Path) -> None:
    leave(tmp_path, 'exp060_small', 80)
    leave(tmp_path, 'exp061_small', 70)
    path = tmp_path / 'exp061_small' / 'metrics.json'
    path.write_text(path.read_text().replace('a' * 64, 'b' * 64))
    found = results_of(tmp_path, 'exp060_small', 'exp061_small')['exp061_small']
    assert found.miou.holds == '-'
    assert 'their difference means nothing' in found.why_not


class Steps:
    """Experiments whose steps only note that they ran."""

    def __init__(self, tmp_path: Path) -> None:
        self.done: list[str] = []
        self.seconds = 0.0
        self._folder = tmp_path

    def experiment(
        self, name: str, count: int = 1, run: Callable[[], None] = lambda: None
    ) -> Experiment:
        def step(number: int) -> Step:
            key = f'{name} {number}'

            def note() -> None:
                self.seconds += 10.0
                run()
                self.done.append(key)

            return Step(f'part {number}', lambda: key in self.done, note)

        recipe = load_recipe('exp060_small')
        return Experiment(name, recipe, self._folder / name, [step(n) for n in range(count)])

    def run(self, listed: Sequence[Experiment], budget_sec: float | None) -> Any:
        return run_experiments(listed, budget_sec, lambda: None, lambda: self.seconds)


def test_a_budget_begins_nothing_later_and_the_next_one_goes_on(tmp_path: Path) -> None:
    steps = Steps(tmp_path)
    listed = [steps.experiment('a'), steps.experiment('b', 3), steps.experiment('c')]
    outcome = steps.run(listed, 25.0)
    assert steps.done == ['a 0', 'b 0', 'b 1']
    assert outcome.left == ['b', 'c']
    assert steps.run(listed, None).left == []
    assert steps.done == ['a 0', 'b 0', 'b 1', 'b 2', 'c 0']
    assert steps.run(listed, 1e-9).left == []  # what is done needs no time


def test_one_that_fails_takes_no_other_along(tmp_path: Path) -> None:
    def fail() -> None:
        raise RecipeError('no such place')

    steps = Steps(tmp_path)
    outcome = steps.run([steps.experiment('a', 2, fail), steps.experiment('b')], None)
    assert outcome.failed == {'a': 'no such place'}
    assert steps.done == ['b 0']


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (
            ['--only', 'exp06_small'],
            r"'exp06_small' is none of the .*did you mean 'exp06\d_small'",
        ),
        (['--seed', '-1'], "argument --seed: '-1' is not a whole number from 0 to 4294967295"),
        (['--budget', '0'], 'argument --budget: 0 is not from 0.001 to 1000000'),
    ],
)
def test_a_wrong_argument_is_refused(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main([*arguments, '--out', str(tmp_path / 'out')])
    except SystemExit as err:
        status = err.code
    assert status == NOTHING_WRITTEN
    assert re.search(expected, capsys.readouterr().err)
    assert not (tmp_path / 'out').exists()


def test_a_missing_recipe_is_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(EXPERIMENTS, 'exp099_small', 'train')
    given = ['--only', 'exp060_small', 'exp099_small', '--out', str(tmp_path / 'out')]
    assert main(given) == NOTHING_WRITTEN
    assert "exp099_small.yaml'" in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('name', 'left'),
    [
        ('exp061_small', 'exp061_small'),
        ('exp093_4_small', 'exp093_4_small'),
        ('exp093_ensemble_small', 'exp093_ensemble_small'),
        ('exp093_ensemble_small', 'exp093_5_small'),  # a member's folds
    ],
)
def test_results_of_another_recipe_are_refused_before_anything_runs(
    name: str, left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, 'train', lambda *_, **__: pytest.fail('trains'))
    if EXPERIMENTS[left] == 'ensemble':
        write_run(tmp_path / left, load_ensemble(left).model_dump(mode='json'), 50)
    else:
        leave(tmp_path, left, 50)
    with pytest.raises(CheckpointError, match='with another recipe: seed was 0, is 7'):
        plan(['exp060_small', name], tmp_path, 7)


def test_a_stage_goes_on_from_its_parents_run_in_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXPERIMENTS, 'desert_phase2_1', 'train')
    recipe = plan(['desert_phase2_1'], tmp_path, 3)[0].recipe
    assert isinstance(recipe, Recipe)
    start = tmp_path / 'desert_phase1' / 'checkpoint.pt'
    assert recipe.model.initial_checkpoint == str(start)
    assert recipe.seed == 3


def test_says_how_the_desert_is_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(['--only', 'desert_phase1_small', '--out', 'out']) == DONE_IN_PART
    command = experiments.RENDER_DESERT
    assert f'no set at out/desert yet; render it: {command}\n' in capsys.readouterr().err
    assert command in ' '.join(build_parser().format_help().replace('\\', '').split())


@pytest.fixture
def tiny(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two experiments, exp060_small and exp061_small, that take four steps each."""
    optim = tiny_recipe.optim.model_copy(update={'epochs': 1})
    loss = tiny_recipe.loss.model_copy(update={'soft_iou': 0.5})
    first = tiny_recipe.model_copy(
        update={'name': 'exp060_small', 'parent': 'exp060', 'optim': optim}
    )
    changes = {'name': 'exp061_small', 'parent': 'exp060_small', 'loss': loss}
    recipes = {recipe.name: recipe for recipe in (first, first.model_copy(update=changes))}

    def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        return recipes.get(str(path)) or load_recipe(path, overrides)

    for module in (planning, experiments):
        monkeypatch.setattr(module, 'load_recipe', load)
        monkeypatch.setattr(module, 'EXPERIMENTS', dict.fromkeys(recipes, 'train'))


def test_ctrl_c_leaves_what_was_done_and_the_same_command_goes_on(
    tiny: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / 'out'

    def stopped(recipe: Recipe, folder: Path, **options: Any) -> None:
        if recipe.name == 'exp061_small':
            raise KeyboardInterrupt
        train(recipe, folder, **options)

    monkeypatch.setattr(planning, 'train', stopped)
    assert main(['--out', str(out)]) == STOPPED
    found = json.loads((out / 'reproduction.json').read_text())['experiments']
    assert [(each['name'], each['why_not']) for each in found] == [
        ('exp060_small', ''),
        ('exp061_small', 'not run'),
    ]
    left = (out / 'exp060_small' / 'checkpoint.pt').stat().st_mtime_ns

    def fails(*_: Any, **__: Any) -> None:
        raise RecipeError('no such place')

    monkeypatch.setattr(planning, 'train', fails)
    assert main(['--out', str(out)]) == DONE_IN_PART
    captured = capsys.readouterr()
    assert 'failed: exp061_small: no such place' in captured.err
    assert f'go on: python -m training.reproduce --out {out}' in captured.out

    monkeypatch.setattr(planning, 'train', train)
    assert main(['--out', str(out)]) == ALL_DONE
    assert (out / 'exp060_small' / 'checkpoint.pt').stat().st_mtime_ns == left
    second = json.loads((out / 'reproduction.json').read_text())['experiments'][1]
    assert second['run']['recipe']['loss']['soft_iou'] == 0.5
    assert second['run']['environment']['versions']['torch']
    assert second['comparisons'][0]['change']['score'] == 'miou_all'
    text = Page(out / 'reproduction.html').text
    assert 'exp061_small' in text
    assert '2 of 2 were run' in text
    assert (out / 'reproduction.md').read_text().count('| exp061_small |') == 2


def test_a_spent_budget_says_what_is_left_and_how_to_go_on(
    tiny: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seconds = iter(range(0, 10**6, 3600))
    hours = partial(run_experiments, clock=lambda: next(seconds))
    monkeypatch.setattr('training.reproduction.run.run_experiments', hours)
    given = ['--only', 'exp061_small', '--seed', '7', '--budget', '1', '--out', str(tmp_path)]
    assert main(given) == DONE_IN_PART
    out = capsys.readouterr().out
    assert '1 minutes are spent; left: exp061_small' in out
    go_on = f'python -m training.reproduce --only exp061_small --seed 7 --out {tmp_path}'
    assert f'go on: {go_on}' in out


def test_a_figure_of_nothing_reported_is_refused(tmp_path: Path) -> None:
    planned = plan(['exp060_small'], tmp_path, None)
    with pytest.raises(ReportedError, match='no figures were reported of exp060; there are a'):
        collect(planned, {'a': Reported(val=0.5)}, {})
