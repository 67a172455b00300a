"""The class table of a data set's labels: what a folder carries, and what a layout is known for.

A folder carries it as DATA/classes.yaml, beside images/ and masks/. What a model is scored on has
to be labelled in its classes, or in others that a `LabelMap` turns into them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from desertmind_seg.model.files import expanded
from desertmind_seg.model.ontology import CLASS_TABLE, Ontology, load_ontology
from desertmind_seg.pipeline.label_map import LabelMap, mismatch, parse_label_map
from training.data.frames import DatasetError, DepthArray, LabelledFrame, UInt8Array
from training.recipes.schema import LAYOUT_TABLES


def class_table_of(root: Path) -> Path | None:
    """Return DATA/classes.yaml, None where there is none.

    A broken link or a folder of that name is returned too, so that who reads it says what is
    wrong with it.
    """
    path = expanded(root) / CLASS_TABLE
    return path if path.exists() or path.is_symlink() else None


def carried_table(root: str | Path) -> Ontology | None:
    """Read the table that a data folder carries, None where it carries none.

    Raises:
        OntologyError: it is no valid table.
    """
    path = class_table_of(Path(root))
    return None if path is None else load_ontology(path)


def labels_table(dataset: str, root: str | Path, given: Ontology | None = None) -> Ontology | None:
    """Return the class table of the labels at a root; None where nothing says it.

    Args:
        dataset: a DatasetName of the recipe.
        root: its folder.
        given: the one that a person named.

    Raises:
        DatasetError: the folder carries another one than the given.
    """
    carried = carried_table(root)
    if carried is None or given is None:
        published = LAYOUT_TABLES.get(dataset, ())
        known = load_ontology(published[0]) if len(published) == 1 else None
        return carried or given or known
    if not carried.reads_alike(given):
        raise DatasetError(
            f'{root}: its {CLASS_TABLE} is the class table {carried.shown()}, but --ontology is '
            f'{given.shown()}; leave --ontology out, or correct {class_table_of(Path(root))}'
        )
    return given


def check_there(dataset: str, root: str | Path) -> None:
    """Refuse a root that is no folder, where the layout wants one.

    Raises:
        DatasetError: it is not there, a link to what is not, or a file.
    """
    path = expanded(root)
    if dataset not in {'bag', 'synthetic', 'nyuv2_mat'} and not path.is_dir():
        link = f', it is a link to {path.readlink()}' if path.is_symlink() else ''
        raise DatasetError(
            f'{root}: there is no such folder{link}; give that of the {dataset} frames'
        )


def no_table(dataset: str, root: str | Path) -> DatasetError:
    """Return the error for labels of which nothing says what their values mean."""
    check_there(dataset, root)
    known = ' or '.join(LAYOUT_TABLES.get(dataset, ()))
    return DatasetError(
        f'{root}: nothing says what the values of its labels mean; '
        + (
            f'name {known}, or a table of your own, by --ontology'
            if known
            else f'write its class table to {Path(root) / CLASS_TABLE}, or name it by --ontology'
        )
    )


@dataclass(frozen=True)
class ModelClasses:
    """What a model knows, and what it was trained on.

    Attributes:
        path: of its file, for messages.
        ontology: its class table.
        recipe: as it stands in the file; that of a bundle may be of any age.
    """

    path: Path
    ontology: Ontology
    recipe: Mapping[str, Any]

    def labels_for(
        self,
        dataset: str,
        root: str | Path,
        given: Ontology | None = None,
        label_map: Sequence[str] = (),
    ) -> LabelMap | None:
        """Return how the labels at a root become the model's classes, None where they are these.

        Args:
            dataset: a DatasetName of the recipe.
            root: where the labels are.
            given: their class table, where a person named it.
            label_map: what a person gave with --map, as for `parse_label_map`.

        Raises:
            DatasetError: nothing says what the labels mean, or two tables do.
            LabelMapError: they are other classes than the model's, and nothing or something wrong
                says which of them these are.
        """
        table = labels_table(dataset, root, given)
        if given is None and carried_table(root) is None and self._was_meant_for(dataset, root):
            table = self.ontology
        if table is None:
            raise no_table(dataset, root)
        if label_map:
            return parse_label_map(label_map, table, self.ontology)
        if table.names != self.ontology.names:
            raise mismatch(str(root), table, self.ontology, str(self.path))
        if table.reads_alike(self.ontology):
            return None
        return parse_label_map(['*=ignore'], table, self.ontology)  # the same names

    def _was_meant_for(self, dataset: str, root: str | Path) -> bool:
        """Say whether the model's table is one for these labels.

        A layout has the codes of its publisher, whoever trained on it wrote a table for these; a
        bag says itself whose labels it has. A folder may hold any codes: only a recipe that names
        it knows.
        """
        if dataset == 'bag' or self.ontology.name in LAYOUT_TABLES.get(dataset, ()):
            return True
        data = self.recipe.get('data')
        sections = [
            section
            for part in ('train', 'val')
            for section in (data.get(part) if isinstance(data, Mapping) else None) or ()
            if isinstance(section, Mapping) and section.get('dataset') == dataset
        ]
        if dataset != 'folder':
            return bool(sections)
        places = [expanded(str(section.get('root'))).resolve() for section in sections]
        return expanded(root).resolve() in places


@dataclass(frozen=True)
class MappedFrame(LabelledFrame):
    """A frame whose labels are read by their own class table, then turned into another's classes.

    Attributes:
        frame: as its layout lists it.
        labels: the class table of its labels.
        table: what each id of `labels` becomes, 256 bytes.
    """

    frame: LabelledFrame
    labels: Ontology
    table: bytes

    @property
    def has_depth(self) -> bool:
        return self.frame.has_depth

    def read_rgb(self) -> UInt8Array:
        return self.frame.read_rgb()

    def read_labels(self, ontology: Ontology) -> UInt8Array:
        del ontology  # whose classes the table gives
        ids: UInt8Array = np.frombuffer(self.table, np.uint8)[self.frame.read_labels(self.labels)]
        return ids

    def read_depth(self) -> DepthArray:
        return self.frame.read_depth()

    def image_file(self) -> Path | None:
        return self.frame.image_file()

    def size(self) -> int | None:
        return self.frame.size()

    def content(self) -> bytes:
        return self.frame.content()

    def version(self) -> str:
        return f'{self.frame.version()} {self.labels.sha256} {self.table.hex()}'


def mapped(frame: LabelledFrame, label_map: LabelMap) -> MappedFrame:
    """Return the frame with the labels that are scored."""
    return MappedFrame(
        frame.name,
        frame.dataset,
        frame.group,
        frame.group_number,
        frame.official,
        frame=frame,
        labels=label_map.labels,
        table=label_map.truth_table.tobytes(),
    )


def ignored_pixels(
    frames: Sequence[LabelledFrame], label_map: LabelMap
) -> tuple[dict[str, int], int]:
    """Count what a map leaves out: pixels of each such class, and all labelled pixels.

    Args:
        frames: those of `mapped`.
        label_map: the map they were made with; where it leaves out nothing, none is read.
    """
    names = label_map.ignored
    if not names:
        return {}, 0
    counts = np.zeros(256, np.int64)
    for frame in frames:
        if isinstance(frame, MappedFrame):
            labels = frame.frame.read_labels(label_map.labels)
            counts += np.bincount(labels.ravel(), minlength=256)
    labelled = int(counts[: label_map.labels.num_classes].sum())
    return {name: int(counts[label_map.labels.class_id(name)]) for name in names}, labelled
