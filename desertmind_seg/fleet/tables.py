"""Rows of bags as Parquet: one file a bag and run, with its frames nested in its only row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
import io
from itertools import chain, islice
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from desertmind_seg.fleet import store
from desertmind_seg.fleet.records import BagRow, FleetError

# Columns that only the page of a bag needs.
_BULK = ('metrics', 'sheet', 'versions', 'log_tail')
# Rows of a manifest.
_AT_ONCE = 512


def results_folder(out: str, run_id: str) -> str:
    """Return where the files of a run lie; DuckDB and Arrow read run_id from the name."""
    return store.join(out, 'bags', f'run_id={run_id}')


def put_row(out: str, row: BagRow) -> None:
    """Write the file of a bag, whole or not at all.

    Raises:
        OSError, FleetError: it cannot be written.
    """
    store.put(store.join(results_folder(out, row.run_id), f'{row.bag_id}.parquet'), encoded(row))


def done_bags(out: str, run_id: str) -> Iterator[str]:
    """Yield the ids of the bags that a run has results of, in no order."""
    for name in store.names_in(results_folder(out, run_id)):
        if name.endswith('.parquet'):
            yield name.removesuffix('.parquet')


def read_row(out: str, run_id: str, bag_id: str, *, bulk: bool = False) -> BagRow | None:
    """Read the results of a bag, without its pictures unless asked for; None if it is torn.

    Raises:
        OSError, FleetError: it is not there, the store cannot be reached, or another version of
            this package wrote it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    uri = store.join(results_folder(out, run_id), f'{bag_id}.parquet')
    content = store.read(uri)
    wanted = [name for name in BagRow.model_fields if bulk or name not in _BULK]
    try:
        # A file that a power cut left without its content has no footer.
        file = pq.ParquetFile(io.BytesIO(content))
        (values,) = file.read(wanted, use_threads=False).to_pylist()
    except (pa.ArrowException, ValueError):
        return None
    values['tags'], values['versions'] = dict(values['tags']), dict(values.get('versions') or ())
    try:
        return BagRow.model_validate(values)
    except ValidationError as err:
        raise FleetError(
            f'{uri} was written by another version of desertmind_seg ({err.error_count()} of its '
            'values are not as here): read it with that one, or evaluate into another folder'
        ) from err


def encoded(row: BagRow) -> bytes:
    """Return a row as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    table = pa.Table.from_pylist([row.model_dump()], schema=_schema())
    pq.write_table(table, sink, compression='zstd')
    return sink.getvalue()


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows of text and whole numbers, at least one, of which few are held.

    Raises:
        OSError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = iter(rows)
    schema = pa.Table.from_pylist([dict(first := next(rows))]).schema
    with pq.ParquetWriter(path, schema, compression='zstd') as writer:
        rows = chain([first], rows)
        while some := [dict(row) for row in islice(rows, _AT_ONCE)]:
            writer.write_table(pa.Table.from_pylist(some, schema=schema))


def read_rows(path: Path, source: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of any Parquet file, of which few are held.

    Raises:
        FleetError: it is none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_AT_ONCE):
                yield from batch.to_pylist()
    except (pa.ArrowException, ValueError) as err:
        raise FleetError(f'{source} is no Parquet file: {err}') from err


@cache
def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(_fields(BagRow))


def _fields(record: type[BaseModel]) -> list[Any]:
    import pyarrow as pa

    return [pa.field(name, _type(field.annotation)) for name, field in record.model_fields.items()]


def _type(annotation: Any) -> Any:
    """Return the Arrow type of a field of a record."""
    import pyarrow as pa

    plain = {int: pa.int64(), float: pa.float64(), str: pa.string(), bytes: pa.binary()}
    if annotation in plain:
        return plain[annotation]
    arguments = [each for each in get_args(annotation) if each is not type(None)]
    if get_origin(annotation) is list:
        return pa.list_(_type(arguments[0]))
    if get_origin(annotation) is dict:
        return pa.map_(pa.string(), pa.string())
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return pa.struct(_fields(annotation))
    if all(isinstance(each, str) for each in arguments):  # of a Literal
        return pa.string()
    return _type(arguments[0])  # or null
