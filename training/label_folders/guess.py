"""What crossing a class costs, guessed from its name against the class tables that are shipped.

Careful: a name of which a part is not understood never becomes traversable.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
import re
import unicodedata

from desertmind_seg.model.ontology import LETHAL_COST, Group, available_ontologies, load_ontology

# Off-road sets first, where two tables say the same.
_FIRST = ('rellis-20', 'rugd-24', 'ycor-8', 'goose-64', 'desert-10')
# What people call it -> the name in a shipped table.
_SYNONYMS = {
    **dict.fromkeys(('trail', 'path', 'track', 'dirt road', 'dirt trail'), 'rough trail'),
    **dict.fromkeys(('road', 'street', 'pavement', 'tarmac', 'paved road'), 'asphalt'),
    **dict.fromkeys(('ground', 'terrain', 'earth'), 'dirt'),
    **dict.fromkeys(('traversable', 'drivable', 'driveable', 'free space', 'freespace'), 'dirt'),
    **dict.fromkeys(('vegetation', 'tall vegetation', 'canopy'), 'high vegetation'),
    **dict.fromkeys(('low vegetation', 'plant', 'shrub', 'scrub', 'cactus'), 'bush'),
    **dict.fromkeys(('stone', 'boulder', 'rock face'), 'rock'),
    **dict.fromkeys(('trunk', 'stump', 'tree stump', 'fallen tree'), 'log'),
    **dict.fromkeys(
        ('people', 'human', 'pedestrian', 'man', 'woman', 'child', 'worker'), 'person'
    ),
    **dict.fromkeys(('river', 'lake', 'pond', 'creek', 'stream', 'swamp'), 'water'),
    **dict.fromkeys(('ditch', 'hole', 'cliff', 'drop', 'crater', 'hazard', 'danger'), 'obstacle'),
    **dict.fromkeys(('cloud', 'clouds'), 'sky'),
    **dict.fromkeys(('gate', 'railing'), 'fence'),
    **dict.fromkeys(('post', 'pylon'), 'pole'),
    **dict.fromkeys(('house', 'barn', 'shed', 'hut', 'structure'), 'building'),
    **dict.fromkeys(('cow', 'sheep', 'horse', 'dog', 'deer', 'camel'), 'animal'),
    **dict.fromkeys(('bike', 'cyclist'), 'bicycle'),
    **dict.fromkeys(('lawn', 'meadow', 'low grass'), 'grass'),
    **dict.fromkeys(('tall grass',), 'high grass'),
    **dict.fromkeys(('pebble', 'pebbles'), 'gravel'),
    **dict.fromkeys(('field', 'crop', 'wheat', 'corn'), 'crops'),
}
# Words beside the thing that make nothing of it harder to cross.
_HARMLESS = {
    *('dry', 'green', 'brown', 'yellow', 'red', 'grey', 'gray', 'light', 'dark', 'short', 'low'),
    *('small', 'sparse', 'sandy', 'main', 'paved', 'flat', 'left', 'right', 'far', 'area'),
    *('region', 'surface', 'the', 'and', 'other'),
}
_NEGATING = {'non', 'not', 'no', 'un', 'untraversable', 'impassable', 'blocked', 'unsafe'}


@dataclass(frozen=True)
class Guess:
    """What crossing a class means.

    Attributes:
        group: as in `OntologyClass`.
        cost: 0 (free) to 254 (lethal).
        origin: where it comes from, in a few words.
        color: of the shipped class; None where only a word of the name was understood.
    """

    group: Group
    cost: int
    origin: str
    color: tuple[int, int, int] | None = None


def guess_of(name: str) -> Guess:
    """Guess what crossing a class costs.

    Args:
        name: as the export has it, or as `OntologyClass.name`.
    """
    words = _words(name)
    # Signs may be a 'no', and letters that are not read here a word for it.
    if strange := re.sub(r"""[\w\s/.,:;()'"&+#-]""", '', without_accents(name), flags=re.ASCII):
        return _careful(f'{strange[:5]!r} may mean anything')
    if guess := _known().get(words):
        return guess
    heads = [words[i:] for i in range(1, len(words)) if words[i:] in _known()]
    if not heads:
        return _careful('unknown')
    head, rest = _known()[heads[0]], words[: len(words) - len(heads[0])]
    others = [_known()[(word,)] for word in rest if (word,) in _known()]
    worst = max([head, *others], key=lambda guess: guess.cost)
    unknown = [word for word in rest if (word,) not in _known() and word not in _HARMLESS]
    if worst.group == 'traversable' and unknown:
        negates = set(rest) & _NEGATING
        return _careful(f'{"not" if negates else "perhaps not"} {" ".join(heads[0])}')
    return Guess(worst.group, worst.cost, f'by a word, {worst.origin}')


def _careful(reason: str) -> Guess:
    return Guess('obstacle', LETHAL_COST, f'{reason}: the careful choice')


def without_accents(name: str) -> str:
    """Take accents from a name, and capitals."""
    parted = unicodedata.normalize('NFKD', name.casefold())
    return ''.join(letter for letter in parted if not unicodedata.combining(letter))


def _stem(word: str) -> str:
    """Take the plural from a word."""
    if len(word) > 3 and word.endswith(('shes', 'ches', 'xes')):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith('s') and not word.endswith('ss') else word


def _words(name: str) -> tuple[str, ...]:
    return tuple(_stem(word) for word in re.findall(r'[a-z0-9]+', without_accents(name)))


@cache
def _known() -> dict[tuple[str, ...], Guess]:
    """What each name means, by its words without plurals; of several tables the highest cost."""
    known: dict[tuple[str, ...], Guess] = {}
    for name, guess in _shipped():
        words = _words(name)
        if words not in known or guess.cost > known[words].cost:
            known[words] = guess
    for name, meaning in _SYNONYMS.items():
        known.setdefault(_words(name), known[_words(meaning)])
    return known


def _shipped() -> Iterator[tuple[str, Guess]]:
    others = [name for name in available_ontologies() if name not in _FIRST]
    for table in (*_FIRST, *others):
        for entry in load_ontology(table).classes:
            origin = f"as {table}'s {entry.name}"
            yield entry.name, Guess(entry.group, entry.cost, origin, entry.color_rgb)
