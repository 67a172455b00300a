"""Terms of the pages, explained where they stand; docs/glossary.md has the same words."""

import re

from markupsafe import Markup, escape

# As a page has it -> what it means.
TERMS = {
    'boundary F1': 'F1 score of the class boundaries of the mask against those of the labels, '
    "within 0.75 % of the image's diagonal. It sees thin and small things that the mIoU hardly "
    'does.',
    'calibration error': 'The mean distance between confidence and the share that is right, in 15 '
    'bins.',
    'false alarms': 'Pixels that are labelled traversable, and that geometry calls a hazard.',
    'false safe': 'The share of the pixels of obstacles and non-traversable classes that the mask '
    'calls traversable: the dangerous error. With geometry: that the mask calls traversable and '
    'in which the depth shows no hazard.',
    'false stop': 'The share of the pixels of traversable classes that the mask calls an obstacle '
    'or non-traversable: the vehicle stops for nothing.',
    'flicker': 'The share of pixels whose class changes from one frame to the next, counted where '
    'optical flow knows the pixel again.',
    'IoU': 'Intersection over union: of the pixels that mask or labels give to a class, the share '
    'that both do. 1 is perfect.',
    'mIoU': 'Mean over the classes of the intersection over union of mask and labels, from one '
    'confusion matrix over all frames.',
    'p50': 'Half of them take at most so long: the median.',
    'p95': '95 of 100 take at most so long.',
    'p99': '99 of 100 take at most so long.',
    'pixel accuracy': 'The share of the labelled pixels whose class is right.',
    'roofline': 'The shortest time that a frame could take on this machine: its operations over '
    'the fastest matrix product, or its bytes over the fastest copy, whichever takes longer.',
    '95 %': '95 % interval, by bootstrap over blocks of frames. A difference is called real when '
    'its interval does not contain 0.',
}
_BY_KEY = {term.casefold(): term for term in TERMS}
_ANY = re.compile(
    r'(?<!\w)(?:' + '|'.join(sorted(map(re.escape, TERMS), key=len, reverse=True)) + r')(?!\w)',
    re.IGNORECASE,
)
_BUTTON = Markup('<button type="button" class="term" popovertarget="{}">{}</button>')
_EXPLANATION = Markup('<div popover class="meaning" id="{}"><b>{}</b> {}</div>')


def with_terms(text: str) -> Markup:
    """Escape `text`; the first term in it becomes a button that shows what it means."""
    found = _ANY.search(text)
    if isinstance(text, Markup) or found is None:
        return escape(text)
    button = _BUTTON.format(_name(_BY_KEY[found[0].casefold()]), found[0])
    return escape(text[: found.start()]) + button + escape(text[found.end() :])


def explanations(page: str) -> Markup:
    """Return what the buttons of a page show."""
    return Markup('').join(
        _EXPLANATION.format(_name(term), term, meaning)
        for term, meaning in TERMS.items()
        if f'popovertarget="{_name(term)}"' in page
    )


def _name(term: str) -> str:
    return 'term-' + re.sub(r'\W+', '-', term.casefold()).strip('-')
