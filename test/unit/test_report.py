"""The report page, and putting the results of a run in place together."""

from html.parser import HTMLParser
from itertools import count
import json
import os
from pathlib import Path
import re
import subprocess
import sys
from typing import Any

from bad_disks import small_disk
import numpy as np
import pytest
from report_page import Page, figures, titles

from desertmind_seg.model.files import FileError, write_text
from desertmind_seg.model.ontology import Ontology, load_ontology
from desertmind_seg.reports.charts import (
    MOST_POINTS,
    BarChart,
    Chart,
    WhiskerBar,
    bars_section,
    charts_section,
    confusion_section,
    whiskers_section,
)
from desertmind_seg.reports.distributions import latency_section, reliability_section
from desertmind_seg.reports.glossary import TERMS, with_terms
from desertmind_seg.reports.output import output_folder, write_json
from desertmind_seg.reports.page import Fact, Section, write_report
from desertmind_seg.reports.pictures import frames_section, image_uri, video_section
from desertmind_seg.reports.provenance import environment
from desertmind_seg.reports.script import SCRIPT_FILE, ScriptError, _packed, write_script
from desertmind_seg.reports.tables import (
    Change,
    Group,
    classes_section,
    environment_section,
    groups_section,
    pairs_section,
    table_section,
    text_section,
)
from desertmind_seg.scores.confusion import ConfusionMatrix

VOID_ELEMENTS = {'meta', 'link', 'img', 'br', 'wbr', 'input'}
ROOT = Path(__file__).resolve().parents[2]


class Balance(HTMLParser):
    """Complains about elements that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID_ELEMENTS:
            assert self.open.pop() == tag


@pytest.fixture
def ontology() -> Ontology:
    return load_ontology('ycor-8')


@pytest.fixture
def segmentation(ontology: Ontology) -> dict[str, Any]:
    matrix = ConfusionMatrix(ontology)
    truth = np.repeat(np.array([0, 1, 2, 7], np.uint8), 25).reshape(10, 10)
    prediction = truth.copy()
    prediction[0, :5] = 255
    prediction[9, :] = 6
    matrix.add(truth, prediction)
    return matrix.metrics().model_dump()


def write(path: Path, sections: list[Section]) -> str:
    write_report(path, 'A <drive>', ['one & two'], [Fact('frames', '12', 'of 12')], sections)
    return path.read_text()


def test_page_is_whole_and_loads_nothing(
    tmp_path: Path, ontology: Ontology, segmentation: dict[str, Any]
) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    page = write(
        tmp_path / 'report.html',
        [
            frames_section('Worst', ('seen', '<said>'), [('a & b', (rgb, None))], ontology),
            groups_section('Node', [Group('<in>', '<bad>', False, '<slow>', {'<k>': '<v>'})]),
            charts_section('Curves', [Chart('x', 'y', {'a < b': ((0, 1), (2.0, 1.0))})], '<how>'),
            bars_section('Bands', [BarChart('<far>', 'n', {'<near>': 2.0, 'b': None})]),
            reliability_section(
                {'reliability': [{'confidence': 0.9, 'accuracy': 0.8, 'pixels': 10}]}
            ),
            table_section('Runs', [['run', 'score'], ['<one>', '0.5']]),
            text_section('Recipe', 'name: <x>'),
            video_section('Drive', 'overlay.webm'),
            classes_section(segmentation, ontology),
            confusion_section(segmentation, ontology),
            latency_section('Latency', [5.0, 7.0, 6.0], [0.0, 0.1, 0.2], [0.3]),
            pairs_section('Source', {'bag': '<path>'}),
            environment_section(environment()),
        ],
    )
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert {'table', 'img', 'video', 'input', 'button'} <= balance.seen
    assert 'A &lt;drive&gt;' in page
    assert 'one &amp; two' in page
    text = ' '.join(Page(tmp_path / 'report.html').text)
    for piece in ('<how>', '<said>', 'this frame has none', '<in> <bad> <slow> <k> <v>', '<path>'):
        assert piece in text
    assert '<td>&lt;one&gt;</td><td class="number" data-label="score">0.5</td>' in page
    assert 'alt="a &amp; b: seen"' in page
    assert 'name: &lt;x&gt;</pre>' in page
    drawn = figures(page)
    assert len(drawn) == 6
    assert drawn[0]['data'][0]['name'] == 'a &lt; b'
    assert titles(drawn[1])[0] == '&lt;far>'
    assert drawn[1]['data'][0]['x'] == ['&lt;near>', 'b']
    assert drawn[1]['data'][0]['y'] == [2.0, None]
    links = re.findall(r'\b(?:src|href)="([^"]*)"', page)
    assert links
    beside = {'overlay.webm', SCRIPT_FILE}
    assert all(link.startswith(('data:', '#')) or link in beside for link in links)
    assert (tmp_path / SCRIPT_FILE).stat().st_size < 2.1e6
    assert 'url(http' not in page


def test_a_page_without_charts_needs_no_script(tmp_path: Path) -> None:
    page = write(tmp_path / 'report.html', [text_section('Recipe', 'name: x')])
    assert SCRIPT_FILE not in page
    assert [entry.name for entry in tmp_path.iterdir()] == ['report.html']


def test_a_missing_plotly_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('plotly.__file__', str(tmp_path / 'plotly/__init__.py'))
    monkeypatch.setattr('desertmind_seg.reports.script._packed', _packed.__wrapped__)
    with pytest.raises(ScriptError, match=r'plotly.min.js.*pip install .* plotly'):
        write_script(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_masks_keep_their_colours_and_photographs_are_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    blocks = np.kron(noise[:4, :4], np.ones((16, 16, 1), np.uint8))
    assert image_uri(blocks).startswith('data:image/png')
    assert image_uri(noise).startswith('data:image/webp')
    assert len(image_uri(noise)) < noise.size


def test_terms_are_explained_where_they_stand(tmp_path: Path) -> None:
    assert with_terms('<x> mIoU(all)') == (
        '&lt;x&gt; <button type="button" class="term" popovertarget="term-miou">mIoU</button>(all)'
    )
    assert with_terms('flickering pixels') == 'flickering pixels'
    page = write(
        tmp_path / 'report.html', [table_section('T', [('class', 'False safe'), ('sky', '1 %')])]
    )
    assert '>False safe</button>' in page
    assert page.count('<div popover') == 1
    assert TERMS['false safe'].split(':')[0] in page
    assert 'thin and small' not in page


def test_the_glossary_has_the_same_words() -> None:
    glossary = ' '.join((ROOT / 'docs/glossary.md').read_text(encoding='utf-8').split())
    assert [term for term, meaning in TERMS.items() if meaning not in glossary] == []


def test_equal_results_give_equal_pages(
    tmp_path: Path, ontology: Ontology, segmentation: dict[str, Any]
) -> None:
    pages = [
        write(
            tmp_path / f'{number}.html',
            [
                confusion_section(segmentation, ontology),
                latency_section('Latency', [5.0, 7.0, 6.0], [0.0, 0.1, 0.2]),
            ],
        )
        for number in range(2)
    ]
    assert pages[0] == pages[1]


def rows_of(table: str) -> list[list[str]]:
    """Cells of the rows below the header, as they stand in the page."""
    rows = re.findall(r'<tr>(.*?)</tr>', table[table.index('<tbody>') :])
    return [re.findall(r'<td.*?>(.*?)</td>', row) for row in rows]


def test_class_table_shows_score_color_and_support(
    ontology: Ontology, segmentation: dict[str, Any]
) -> None:
    rows = rows_of(str(classes_section(segmentation, ontology).body))
    assert len(rows) == 8
    color = '#{:02x}{:02x}{:02x}'.format(*ontology.classes[0].color_rgb)
    assert color in rows[0][0]
    assert rows[0][0].endswith('smooth trail')
    assert rows[0][1:3] == ['0', '0.800']  # 20 of 25 pixels, none predicted wrongly
    assert 'width: 80.0%' in rows[0][3]
    assert rows[0][4:] == ['25', '25.0%']
    assert rows[3][2] == 'absent'  # puddle: neither labelled nor predicted
    assert rows[6][2] == '0.000'  # high vegetation: predicted, never labelled


def test_a_change_has_its_column_and_colour(
    ontology: Ontology, segmentation: dict[str, Any]
) -> None:
    changes = {'smooth trail': Change('+0.100', 'better'), 'sky': Change('-0.010')}
    rows = rows_of(str(classes_section(segmentation, ontology, changes=changes).body))
    assert rows[0][4] == '<span class="better">+0.100</span>'
    assert rows[1][4] == '<span class="">-</span>'
    assert rows[7][4] == '<span class="">-0.010</span>'
    assert 'change' not in str(classes_section(segmentation, ontology).body)


def test_columns_of_figures_are_set_to_the_right_and_none_is_empty() -> None:
    rows = [('name', 'IoU', 'why'), ('sky', '0.5', ''), ('mud', 'none', 'no pixel')]
    table = str(table_section('Classes', rows).body)
    assert '<td class="number" data-label="IoU">none</td>' in table
    assert '<td data-label="why">–</td>' in table
    assert 'tabindex' not in table
    assert 'tabindex="0"' in str(table_section('Many', [['a'] * 7, ['1'] * 7]).body)


def test_a_line_of_hours_is_as_small_as_its_extremes_allow() -> None:
    y = np.sin(np.arange(100_000) / 300.0)
    y[77_777], y[88_888] = 9.0, -9.0
    chart = Chart('x', 'y', {'drive': (range(len(y)), y.tolist())})
    (drawn,) = figures(str(charts_section('Curves', [chart]).body))
    (trace,) = drawn['data']
    assert len(trace['x']) == len(trace['y']) <= MOST_POINTS + 2
    assert (trace['x'][0], trace['x'][-1]) == (0, 99_999)
    assert trace['x'] == sorted(trace['x'])
    assert (trace['x'][trace['y'].index(9.0)], trace['x'][trace['y'].index(-9.0)]) == (
        77_777,
        88_888,
    )
    np.testing.assert_allclose(trace['y'], y[trace['x']], atol=1e-5)


def test_a_chart_shows_every_line_in_its_colour() -> None:
    lines = {f'line {number}': ((0, 1, 2), (0.0, 0.5, number)) for number in range(8)}
    chart = Chart('epoch', 'IoU', lines, {'line 3': '#0a5080'})
    drawn = figures(str(charts_section('Curves', [chart, chart]).body))
    assert len(drawn) == 2
    assert titles(drawn[0]) == ('epoch', 'IoU')
    assert [line['name'] for line in drawn[0]['data']] == list(lines)
    assert drawn[0]['data'][3]['line']['color'] == '#0a5080'
    assert drawn[0]['data'][7]['y'] == [0.0, 0.5, 7]
    # Names of variables that the page has.
    style = (ROOT / 'desertmind_seg/reports/page.css').read_text(encoding='utf-8')
    for line in (drawn[0]['data'][0], drawn[0]['data'][5]):
        assert f'{line["line"]["color"]}: #' in style


def test_what_json_has_not_is_a_gap() -> None:
    chart = Chart('x', 'y', {'a': ((0.0, 1.0, 2.0), (1 / 3, float('nan'), float('inf')))})
    (drawn,) = figures(str(charts_section('Curves', [chart]).body))
    assert drawn['data'][0]['y'] == [0.333333, None, None]


def test_the_last_cell_of_a_short_row_spans_the_rest() -> None:
    rows = [('case', 'p50', 'p99'), ('a', '1', '2'), ('b', 'not run: <why>')]
    assert (
        '<tr><td>a</td><td class="number" data-label="p50">1</td>'
        '<td class="number" data-label="p99">2</td></tr>'
        '<tr><td>b</td><td class="long" colspan="2">not run: &lt;why&gt;</td></tr>'
    ) in table_section('Cases', rows).body


def test_bars_have_their_labels_and_the_marks_that_there_are() -> None:
    with_mark, without = (
        figures(
            str(
                whiskers_section(
                    'Time',
                    [WhiskerBar('a < b', 3.0, 5.0, mark), WhiskerBar('c', 2.0, 2.0)],
                    'ms',
                    ('p50', 'p99', 'min'),
                ).body
            )
        )[0]
        for mark in (1.0, None)
    )
    for drawn in (with_mark, without):
        assert titles(drawn)[0] == 'ms'
        assert [each['text'] for each in drawn['layout']['annotations']] == ['a &lt; b', 'c']
    assert [trace['name'] for trace in with_mark['data']] == ['p50', 'p99', 'min']
    assert [trace['name'] for trace in without['data']] == ['p50', 'p99']


def test_confusion_names_every_class(ontology: Ontology, segmentation: dict[str, Any]) -> None:
    (figure,) = figures(str(confusion_section(segmentation, ontology).body))
    (cells,) = figure['data']
    assert cells['x'] == [*ontology.names, 'unlabeled']
    assert cells['y'] == list(ontology.names)
    sky = ontology.class_id('sky')
    assert cells['z'][sky][sky] == 60.0  # 15 of the 25 sky pixels are found
    assert cells['text'][sky][sky] == '60'
    assert cells['customdata'][sky][sky] == 15
    assert cells['z'][0][-1] == 20.0  # 5 of the 25 smooth trail pixels are missed
    assert cells['z'][3] == [None] * 9  # of no puddle


def test_large_ontology_has_no_figures_in_its_cells(tmp_path: Path) -> None:
    goose = load_ontology('goose-64')
    matrix = ConfusionMatrix(goose)
    labels = np.arange(goose.num_classes, dtype=np.uint8)[None]
    matrix.add(labels, labels)
    section = confusion_section(matrix.metrics().model_dump(), goose)
    (figure,) = figures(write(tmp_path / 'r.html', [section]))
    assert figure['data'][0]['y'][-1] == goose.names[-1]
    assert 'texttemplate' not in figure['data'][0]


def test_latency_shows_percentiles_and_drops() -> None:
    latencies_ms = list(np.linspace(10.0, 110.0, 101))
    section = latency_section('Latency', latencies_ms, list(range(101)), [3.0, 4.0])
    distribution, timeline = figures(str(section.body))
    names = [trace['name'] for trace in distribution['data']]
    assert names == ['masks', 'share at or below', 'p50 60 ms', 'p95 105 ms', 'p99 109 ms']
    assert sum(distribution['data'][0]['y']) == 101
    assert timeline['data'][1]['name'] == '2 frames without a mask'
    assert timeline['data'][1]['x'] == [3.0, 4.0]


def test_json_refuses_nan_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / 'metrics.json'
    write_json(path, {'miou': 0.5})
    with pytest.raises(ValueError, match='not JSON compliant'):
        write_json(path, {'miou': float('nan')})
    assert json.loads(path.read_text()) == {'miou': 0.5}
    assert list(tmp_path.iterdir()) == [path]


def test_environment_names_machine_and_versions() -> None:
    document = environment()
    json.dumps(document)
    assert document['machine']['cpu']
    assert document['machine']['memory_gib'] > 0.1
    assert {'python', 'numpy', 'rosbags'} <= set(document['versions'])
    git_hash = document['git_hash']
    assert git_hash is None or re.fullmatch(r'[0-9a-f]{40}(-dirty)?', git_hash)


def test_outputs_appear_together(tmp_path: Path) -> None:
    out = tmp_path / 'deep' / 'out'
    with output_folder(out, ('a.txt', 'masks'), replace=False) as new:
        (new / 'a.txt').write_text('a')
        (new / 'masks').mkdir()
        (new / 'masks' / 'm').write_text('m')
        assert not (out / 'a.txt').exists()
    assert sorted(entry.name for entry in out.iterdir()) == ['a.txt', 'masks']
    assert (out / 'masks' / 'm').read_text() == 'm'


def test_failure_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / 'a.txt').write_text('old')

    def fail() -> None:
        with output_folder(tmp_path, ('a.txt', 'b.txt'), replace=True) as new:
            (new / 'a.txt').write_text('new')
            raise KeyError('in the middle')

    with pytest.raises(KeyError):
        fail()
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [('a.txt', 'old')]


def test_a_refusal_leaves_no_folder(tmp_path: Path) -> None:
    def fail() -> None:
        with output_folder(tmp_path / 'deep' / 'out', ('a.txt',), replace=False) as new:
            (new / 'a.txt').write_text('a')
            raise KeyError('in the middle')

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_existing_outputs_need_replace(tmp_path: Path) -> None:
    (tmp_path / 'masks').mkdir()
    (tmp_path / 'masks' / 'old').write_text('old')
    (tmp_path / 'stale.txt').write_text('old')
    (tmp_path / 'notes.txt').write_text('mine')
    names = ('masks', 'stale.txt', 'a.txt')
    with (
        pytest.raises(FileExistsError, match=r'already holds masks, stale\.txt; choose another'),
        output_folder(tmp_path, names, replace=False),
    ):
        pass
    with output_folder(tmp_path, names, replace=True) as new:
        (new / 'masks').mkdir()
        (new / 'a.txt').write_text('a')
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ['a.txt', 'masks', 'notes.txt']
    assert list((tmp_path / 'masks').iterdir()) == []


def test_of_earlier_results_all_are_replaced_or_none(tmp_path: Path) -> None:
    """A folder that another user made, as a container's, cannot be moved; nor can a disk."""
    out = tmp_path / 'out'
    (out / 'masks').mkdir(parents=True)
    (out / 'a.txt').write_text('old')

    def replace() -> None:
        with output_folder(out, ('a.txt', 'masks', 'b.txt'), replace=True) as new:
            for name in ('a.txt', 'b.txt', SCRIPT_FILE):
                (new / name).write_text('new')

    with small_disk(out / 'masks'):
        said = (
            f'{out}/masks is of an earlier run and cannot be replaced: Device or resource busy; '
        )
        with pytest.raises(FileError, match=re.escape(said)):
            replace()
        assert sorted(entry.name for entry in out.iterdir()) == ['a.txt', 'masks']
        assert (out / 'a.txt').read_text() == 'old'
    (out / 'masks').rmdir()
    (out / 'masks').symlink_to('gone')
    replace()
    assert sorted(entry.name for entry in out.iterdir()) == ['a.txt', 'b.txt', SCRIPT_FILE]


_KILLED = """
import os, signal, sys
from pathlib import Path
from desertmind_seg.reports.output import output_folder

def write(out, text, names):
    with output_folder(out, ('a.txt', 'masks', 'gone.txt', 'b.txt'), replace=True) as new:
        (new / 'masks').mkdir()
        for name in (*names, 'masks/m'):
            (new / name).write_text(text)

rename = Path.rename
for left in range(8):
    out = Path(sys.argv[1], str(left))
    write(out, 'old', ('a.txt', 'gone.txt'))
    if os.fork():
        os.wait()
        continue
    def rename_or_end(self, target):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)
    Path.rename = rename_or_end
    write(out, 'new', ('a.txt', 'b.txt'))
    os._exit(0)
"""


def test_a_kill_among_the_moves_loses_no_result(tmp_path: Path) -> None:
    subprocess.run([sys.executable, '-c', _KILLED, tmp_path], check=True, cwd=ROOT)
    before = {('a.txt', 'old'), ('gone.txt', 'old'), ('m', 'old')}
    after = {('a.txt', 'new'), ('b.txt', 'new'), ('m', 'new')}
    for out in sorted(tmp_path.iterdir()):
        write_text(out / 'other.txt', 'of another command')  # it removes what is abandoned
        found = {(path.name, path.read_text()) for path in out.rglob('*') if path.is_file()}
        was_killed = any(entry.name.startswith('.partial-') for entry in out.iterdir())
        assert was_killed == (out.name < '7')
        assert found >= after | (before if was_killed else set())
        assert was_killed or not found & before


@pytest.mark.parametrize('name', [os.fsdecode(b'caf\xe9'), 'a\u2028b', 'a\nb'])
def test_results_of_any_name_are_moved(tmp_path: Path, name: str) -> None:
    for text in ('old', 'new'):
        with output_folder(tmp_path, (name,), replace=True) as new:
            (new / name).write_text(text)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, 'new')]


@pytest.mark.parametrize(('moved', 'left'), [(0, 'old'), (1, 'old'), (2, 'new'), (3, 'new')])
def test_ctrl_c_among_the_moves_loses_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int, left: str
) -> None:
    rename, calls = Path.rename, count()

    def interrupted(self: Path, target: Path) -> Path:
        if next(calls) == moved:
            raise KeyboardInterrupt
        return rename(self, target)

    def write(text: str) -> None:
        with output_folder(tmp_path, ('a.txt', 'b.txt'), replace=True) as new:
            for name in ('a.txt', 'b.txt'):
                (new / name).write_text(text)

    write('old')
    monkeypatch.setattr(Path, 'rename', interrupted)
    with pytest.raises(KeyboardInterrupt):
        write('new')
    assert [(path.name, path.read_text()) for path in sorted(tmp_path.iterdir())] == [
        ('a.txt', left),
        ('b.txt', left),
    ]


def test_results_of_a_run_that_was_faster_are_not_replaced(tmp_path: Path) -> None:
    def write(text: str) -> None:
        with output_folder(tmp_path, ('a.txt',), replace=False) as new:
            if text == 'first':
                write('second')
            (new / 'a.txt').write_text(text)

    with pytest.raises(FileExistsError, match=r'already holds a\.txt'):
        write('first')
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [
        ('a.txt', 'second')
    ]


def test_the_script_of_the_pages_is_no_result(tmp_path: Path) -> None:
    (tmp_path / SCRIPT_FILE).write_text('of another page')
    with output_folder(tmp_path, ('a.txt',), replace=False) as new:
        (new / 'a.txt').write_text('a')
        (new / SCRIPT_FILE).write_text('new')
    assert (tmp_path / SCRIPT_FILE).read_text() == 'new'
    with output_folder(tmp_path, ('b.txt',), replace=False) as new:
        (new / 'b.txt').write_text('b')
    assert (tmp_path / SCRIPT_FILE).read_text() == 'new'


def test_undeclared_output_is_refused(tmp_path: Path) -> None:
    def produce() -> None:
        with output_folder(tmp_path, ('a.txt',), replace=False) as new:
            (new / 'b.txt').write_text('b')

    with pytest.raises(ValueError, match=r"\['b.txt'\] are not among the declared results"):
        produce()
    assert list(tmp_path.iterdir()) == []


def test_a_topic_in_the_headline_breaks_at_its_slashes(tmp_path: Path) -> None:
    page = tmp_path / 'page.html'
    write_report(page, 'Page', [], [Fact('frames', '3', '2 s of /camera/<b>')], [])
    assert '<small>2 s of /<wbr>camera/<wbr>&lt;b&gt;</small>' in page.read_text(encoding='utf-8')
