"""The bags of a fleet on disk: each once, and those that wait in their order."""

import pytest

from desertmind_seg.fleet.records import BagEntry, FleetError
from desertmind_seg.release.listing import DiskTables, Listing


def entries(count: int) -> list[BagEntry]:
    return [
        BagEntry(uri=f'/{index}.mcap', size=index, etag='x', tags={'n': str(index % 2)})
        for index in range(count)
    ]


def test_what_is_done_waits_no_longer() -> None:
    bags = entries(600)  # more than a page
    bags[3] = bags[3].model_copy(update={'labels_uri': '/labels.mcap', 'tags': {'Ort': 'Wüste'}})
    listing = Listing(iter(bags), 'fleet.csv')

    assert len(listing) == 600
    assert [*listing] == [*listing.waiting()] == bags
    assert listing[bags[3].bag_id] == bags[3]
    assert (listing.tag_names, listing.labels_apart) == ({'n', 'Ort'}, 1)
    assert bags[7].bag_id in listing
    assert 'other' not in listing
    seen = []
    for bag in listing.waiting():
        seen.append(bag)
        listing.done(bag.bag_id)
        if bag == bags[100]:
            listing.done(bags[500].bag_id)  # by somebody else
    assert seen == [*bags[:500], *bags[501:]]
    assert [*listing.waiting()] == []


def test_a_full_disk_is_told() -> None:
    tables = DiskTables('CREATE TABLE a (b TEXT); PRAGMA max_page_count = 4')
    with pytest.raises(FleetError, match=r'cannot be kept in .* is full; let TMPDIR be a folder'):
        tables.change('INSERT INTO a VALUES (?)', 'x' * 20_000)
