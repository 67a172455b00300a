"""The report page, and putting the results of a run in place together."""

from html.parser import HTMLParser
import json
from pathlib import Path
import re
from typing import Any

import numpy as np
import pytest

from desertmind_seg.model.ontology import Ontology, load_ontology
from desertmind_seg.reports.charts import (
    BarChart,
    Chart,
    WhiskerBar,
    bars_section,
    charts_section,
    confusion_section,
    latency_section,
    reliability_section,
    whiskers_section,
)
from desertmind_seg.reports.output import output_folder, write_json
from desertmind_seg.reports.page import Fact, Section, write_report
from desertmind_seg.reports.provenance import environment
from desertmind_seg.reports.tables import (
    Change,
    classes_section,
    environment_section,
    frames_section,
    images_section,
    pairs_section,
    table_section,
    text_section,
    video_section,
)
from desertmind_seg.scores.confusion import ConfusionMatrix

VOID_ELEMENTS = {'meta', 'img', 'br', 'path', 'use', 'rect', 'image'}


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
            images_section('Frames', [('first <b>frame</b>', rgb)]),
            frames_section('Worst', ('seen', '<said>'), [('a & b', (rgb, rgb))], ontology),
            charts_section('Curves', [Chart('x', 'y', {'a < b': ((0, 1), (2.0, 1.0))})]),
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
    assert {'svg', 'table', 'img', 'video'} <= balance.seen
    assert 'A &lt;drive&gt;' in page
    assert 'one &amp; two' in page
    assert 'first &lt;b&gt;frame&lt;/b&gt;' in page
    assert {'&lt;far&gt;', '&lt;near&gt;'} <= set(re.findall(r'&lt;\w+&gt;', page))
    assert '&lt;path&gt;' in page
    assert 'a &amp; b: &lt;said&gt;' in page
    assert '<tr><td>&lt;one&gt;</td><td>0.5</td></tr>' in page
    assert '<pre>name: &lt;x&gt;</pre>' in page
    links = re.findall(r'\b(?:src|href)="([^"]*)"', page)
    assert links
    assert all(link.startswith(('data:', '#')) or link == 'overlay.webm' for link in links)
    assert '<script' not in page
    assert 'url(http' not in page


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


def test_class_table_shows_score_color_and_support(
    ontology: Ontology, segmentation: dict[str, Any]
) -> None:
    table = str(classes_section(segmentation, ontology).body)
    rows = re.findall(r'<tr><td>.*?</tr>', table, re.DOTALL)
    assert len(rows) == 8
    color = '#{:02x}{:02x}{:02x}'.format(*ontology.classes[0].color_rgb)
    assert color in rows[0]
    assert 'smooth trail' in rows[0]
    assert '0.800' in rows[0]  # 20 of 25 pixels, none predicted wrongly
    assert '25.0%' in rows[0]
    assert 'absent' in rows[3]  # puddle: neither labelled nor predicted
    assert '0.000' in rows[6]  # high vegetation: predicted, never labelled


def test_a_change_has_its_column_and_colour(
    ontology: Ontology, segmentation: dict[str, Any]
) -> None:
    changes = {'smooth trail': Change('+0.100', 'better'), 'sky': Change('-0.010')}
    table = str(classes_section(segmentation, ontology, changes=changes).body)
    rows = re.findall(r'<tr><td>.*?</tr>', table, re.DOTALL)
    assert '<td class="number better">+0.100</td>' in rows[0]
    assert '<td class="number "></td>' in rows[1]
    assert '<td class="number ">-0.010</td>' in rows[7]
    assert 'change' not in str(classes_section(segmentation, ontology).body)


def test_a_chart_shows_every_line_in_its_colour() -> None:
    lines = {f'line {number}': ((0, 1, 2), (0.0, 0.5, number)) for number in range(8)}
    chart = Chart('epoch', 'IoU', lines, {'line 3': '#0a5080'})
    drawn = str(charts_section('Curves', [chart, chart]).body)
    assert drawn.count('<svg') == 2
    for text in ('epoch', 'IoU', *lines):
        assert f'>{text}</text>' in drawn
    assert 'stroke: #0a5080' in drawn


def test_the_last_cell_of_a_short_row_spans_the_rest() -> None:
    rows = [('case', 'p50', 'p99'), ('a', '1', '2'), ('b', 'not run: <why>')]
    assert (
        '<tr><td>a</td><td>1</td><td>2</td></tr>'
        '<tr><td>b</td><td colspan="2">not run: &lt;why&gt;</td></tr>'
    ) in table_section('Cases', rows).body


def test_bars_have_their_labels_and_the_marks_that_there_are() -> None:
    with_mark, without = (
        str(
            whiskers_section(
                'Time',
                [WhiskerBar('a < b', 3.0, 5.0, mark), WhiskerBar('c', 2.0, 2.0)],
                'ms',
                ('p50', 'p99', 'min'),
            ).body
        )
        for mark in (1.0, None)
    )
    for drawn in (with_mark, without):
        for text in ('a &lt; b', 'c', 'ms', 'p50', 'p99'):
            assert f'>{text}</text>' in drawn
    assert '>min</text>' in with_mark
    assert '>min</text>' not in without


def test_confusion_names_every_class(ontology: Ontology, segmentation: dict[str, Any]) -> None:
    plot = str(confusion_section(segmentation, ontology).body)
    for name in (*ontology.names, 'unlabeled'):
        assert f'>{name}</text>' in plot
    assert '>60</text>' in plot  # 15 of the 25 sky pixels are found
    assert '>20</text>' in plot  # 5 of the 25 smooth trail pixels are missed


def test_large_ontology_fits(tmp_path: Path) -> None:
    goose = load_ontology('goose-64')
    matrix = ConfusionMatrix(goose)
    labels = np.arange(goose.num_classes, dtype=np.uint8)[None]
    matrix.add(labels, labels)
    page = write(tmp_path / 'r.html', [confusion_section(matrix.metrics().model_dump(), goose)])
    assert goose.names[-1] in page


def test_latency_shows_percentiles_and_drops() -> None:
    latencies_ms = list(np.linspace(10.0, 110.0, 101))
    section = latency_section('Latency', latencies_ms, list(range(101)), [3.0, 4.0])
    for text in ('p50 60 ms', 'p95 105 ms', 'p99 109 ms', '2 frames without a mask'):
        assert text in section.body


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


def test_undeclared_output_is_refused(tmp_path: Path) -> None:
    def produce() -> None:
        with output_folder(tmp_path, ('a.txt',), replace=False) as new:
            (new / 'b.txt').write_text('b')

    with pytest.raises(ValueError, match=r"\['b.txt'\] are not among the declared results"):
        produce()
    assert list(tmp_path.iterdir()) == []
