"""Every page that a command writes, as a browser shows it: on a phone, a tablet and a screen."""

from collections.abc import Iterator
from pathlib import Path

from browser import Browser, browser, chromium
from every_page import every_page
from markupsafe import Markup
import pytest

from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.reports.charts import Chart, charts_section
from desertmind_seg.reports.page import Fact, Section, write_report
from desertmind_seg.reports.script import SCRIPT_FILE
from desertmind_seg.reports.tables import pairs_section, table_section
from training.data.datasets import list_frames
from training.recipes.schema import Recipe

pytestmark = pytest.mark.skipif(
    chromium() is None, reason='needs Chromium: apt-get install chromium'
)
YCOR8 = load_ontology('ycor-8')
CHECK = Path(__file__).with_name('page_check.js').read_text(encoding='utf-8')
WIDTHS = (360, 768, 1400)
DRAWN = 'window.chartsLoaded ? drawAll().then(() => true) : true'


@pytest.fixture(scope='module')
def pages(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    section = tiny_recipe.data.val[0].model_copy(update={'split': 'all'})
    frames = list_frames(section, tiny_recipe.data, YCOR8)
    return every_page(tmp_path_factory.mktemp('pages'), tiny_recipe, frames)


@pytest.fixture(scope='module')
def tab() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def faults(tab: Browser, page: Path) -> list[str]:
    """Look at a page in every width and scheme."""
    found: list[str] = []
    tab.see_as(WIDTHS[0], 'light')
    tab.open(page)
    for width in WIDTHS:
        for scheme in ('light', 'dark'):
            tab.see_as(width, scheme)
            tab.evaluate(DRAWN)
            found += [f'{width} px, {scheme}: {fault}' for fault in tab.evaluate(CHECK)]
    return found + tab.complaints


def test_every_page_fits_every_screen(tab: Browser, pages: dict[str, Path]) -> None:
    found = {command: faults(tab, page) for command, page in pages.items()}
    assert len(found) >= 9
    assert {command: wrong for command, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    ('body', 'expected'),
    [
        ('<div style="width: 900px">wide</div>', 'reaches beyond the window'),
        ('<table class="rows"><tbody><tr><td> </td></tr></tbody></table>', 'is empty'),
        (
            '<table style="table-layout: fixed; width: 40px"><tbody><tr>'
            '<td style="white-space: nowrap">hazard of all</td></tr></tbody></table>',
            'is clipped',
        ),
        (
            '<table><tbody><tr><th style="display: block; width: 30px; word-break: break-all">'
            'hazard</th></tr></tbody></table>',
            'breaks "hazard"',
        ),
        ('<figure class="chart"></figure>', 'is not drawn'),
        ('<table><tbody><tr><td style="color: #f0f0f0">pale</td></tr></tbody></table>', 'hardly'),
        ('<script>console.error("alas")</script>', 'alas'),
        ('<script>nothing.at.all()</script>', 'ReferenceError'),
        ('<img src="http://example.invalid/a.png" alt="">', 'loads http://example.invalid'),
    ],
)
def test_what_is_wrong_with_a_page_is_seen(
    tab: Browser, tmp_path: Path, body: str, expected: str
) -> None:
    sections = [Section('Wrong', Markup(body))]
    write_report(tmp_path / 'page.html', 'Page', [], [Fact('one', '1')], sections)
    assert expected in '\n'.join(faults(tab, tmp_path / 'page.html'))


def test_an_empty_chart_and_a_missing_script_are_seen(tab: Browser, tmp_path: Path) -> None:
    page = tmp_path / 'page.html'
    nothing = Chart('x', 'y', {'a': ([], [])})
    write_report(page, 'Page', [], [], [charts_section('Nothing', [nothing])])
    assert any('shows nothing' in fault for fault in faults(tab, page))
    (tmp_path / SCRIPT_FILE).unlink()
    found = '\n'.join(faults(tab, page))
    assert 'is not drawn' in found
    assert SCRIPT_FILE in found
    assert 'charts.js, which belongs beside this page, draws it' in tab.evaluate(
        'document.querySelector(".chart").innerText'
    )


def test_hostile_names_fit_and_stay_text(tab: Browser, tmp_path: Path) -> None:
    long = 'a_topic_of_a_driver_that_never_ends' * 4
    markup = '<b>bold</b> & "<script>document.title = 1</script>"'
    line = ([0.0, 1.0], [1.0, float('nan')])
    sections = [
        table_section(markup, [('name', 'what'), (markup, long), (long, markup)]),
        pairs_section(long, {long: long, markup: markup}, markup),
        charts_section('Curves', [Chart(markup, long, {markup: line, 'other': line})]),
    ]
    write_report(tmp_path / 'page.html', markup, [long], [Fact('many', long, long)], sections)
    found = faults(tab, tmp_path / 'page.html')
    assert [fault for fault in found if 'breaks "' not in fault] == []
    assert tab.evaluate('document.title') == markup
    shown = tab.evaluate(
        '[...document.querySelectorAll(".legendtext:first-of-type tspan, .legendtext")]'
        '.map((each) => each.textContent).join(" ")'
    )
    assert markup.replace(' ', '') in shown.replace(' ', '')


def test_pictures_open_by_key_and_slide_to_the_camera(
    tab: Browser, pages: dict[str, Path]
) -> None:
    tab.see_as(768, 'light')
    tab.open(pages['evaluate_bag, RGB-D'])
    captions = tab.evaluate(
        '[...document.querySelector(".strip").querySelectorAll("figcaption")]'
        '.map((each) => each.textContent)'
    )
    assert captions[0] == 'camera'
    assert captions[3:5] == ['labelled', 'wrong pixels in red']
    assert all('class mask of tiny' in each for each in captions[1:3])
    assert any(each.startswith('depth, near') for each in captions)
    tab.evaluate('document.querySelector(".slider input").focus()')
    for _ in range(5):
        tab.press('ArrowRight')
    clip = 'getComputedStyle(document.querySelectorAll(".strip img")[{}]).clipPath'
    assert tab.evaluate(clip.format(1)) == 'inset(0px 0px 0px 5%)'
    assert tab.evaluate(clip.format(0)) == 'none'
    under = 'document.querySelectorAll(".strip button")[1].style.backgroundImage.slice(0, 16)'
    assert tab.evaluate(under) == 'url("data:image/'

    tab.evaluate('document.querySelectorAll(".strip button")[1].focus()')
    tab.press('Enter')
    assert tab.evaluate('document.querySelector(".viewer").open')
    alt = 'document.querySelector(".viewer .over").alt'
    assert tab.evaluate(alt).endswith(captions[1])
    tab.press('ArrowRight')
    assert tab.evaluate(alt).endswith(captions[2])
    tab.evaluate('document.querySelector(".viewer .over").decode()')
    wide = 'document.querySelector(".viewer .pair").getBoundingClientRect().width'
    assert tab.evaluate(wide) > 700
    tab.press('Escape')
    assert not tab.evaluate('document.querySelector(".viewer").open')
    assert tab.complaints == []


def test_a_term_opens_what_it_means(tab: Browser, pages: dict[str, Path]) -> None:
    tab.see_as(360, 'light')
    tab.open(pages['training.evaluate'])
    for term, meaning in (
        ('boundary F1', 'thin and small things'),
        ('false safe', 'the dangerous error'),
    ):
        button = f'[...document.querySelectorAll(".term")].find((e) => e.textContent === "{term}")'
        tab.evaluate(f'{button}.focus()')
        tab.press('Enter')
        opened = 'document.querySelector(":popover-open")'
        assert meaning in tab.evaluate(f'{opened}.textContent')
        box = tab.evaluate(
            f'(({{left, right}}) => [left, right])({opened}.getBoundingClientRect())'
        )
        assert 0 <= box[0] < box[1] <= 360
        tab.press('Escape')
        assert tab.evaluate(opened) is None


def test_charts_say_their_figures_where_they_are_pointed_at(
    tab: Browser, pages: dict[str, Path]
) -> None:
    tab.see_as(1400, 'light')
    tab.open(pages['training.train'])
    tab.evaluate(DRAWN)
    x, y = tab.evaluate(
        '(() => { const plot = document.querySelector(".chart .nsewdrag");'
        'plot.scrollIntoView({block: "center"}); const box = plot.getBoundingClientRect();'
        'return [box.left + box.width / 2, box.top + box.height / 2]; })()'
    )
    tab.point_at(x, y)
    said = tab.evaluate(
        'new Promise((done) => { const look = () => {'
        'const text = document.querySelector(".chart .hoverlayer")?.textContent;'
        'text ? done(text) : requestAnimationFrame(look); }; look(); })'
    )
    assert 'training' in said or 'validation' in said


def test_the_video_plays(tab: Browser, pages: dict[str, Path]) -> None:
    tab.see_as(768, 'light')
    tab.open(pages['replay_bag'])
    played = tab.evaluate(
        '(async () => { const video = document.querySelector("video"); await video.play();'
        'await new Promise((done) => {'
        'video.ontimeupdate = () => video.currentTime > 0 && done(); });'
        'return [video.videoWidth, video.duration]; })()'
    )
    assert played[0] > 800
    assert played[1] == pytest.approx(1.0, abs=0.7)
