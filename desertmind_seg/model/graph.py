"""What the graph of a bundle may consist of, and the hash by which damage to it is noticed."""

from collections.abc import Iterator
import hashlib
from pathlib import Path

import onnx

from desertmind_seg.model.errors import DesertmindError

# The shipped graphs have 156 to 386; ONNX Runtime takes minutes to load a chain of 10,000.
MAX_NODES = 5000
# Of ModelProto in onnx.proto: the entries that ONNX calls metadata.
_METADATA_FIELD = 14
_STANDARD = ('', 'ai.onnx')


class GraphError(DesertmindError):
    """A graph is of a kind that no bundle has; the message says what is in it."""


def graph_sha256(content: bytes) -> str:
    """Hash graph and weights: all bytes of an ONNX file but its ``metadata_props``.

    The bytes as they stand in the file, field by field; so the hash does not depend on how some
    version of protobuf writes a message.

    Args:
        content: of a file that protobuf has parsed.

    Returns:
        SHA-256, 64 hexadecimal digits.

    Raises:
        GraphError: the file has fields of a form that ONNX does not use.
    """
    digest, view, end = hashlib.sha256(), memoryview(content), 0
    while end < len(content):
        begin = end
        tag, end = _varint(content, begin)
        field, kind = tag >> 3, tag & 7
        if kind == 2:  # bytes, text, messages: their length comes first
            length, end = _varint(content, end)
            end += length
        elif kind == 0:
            _, end = _varint(content, end)
        elif kind in (1, 5):
            end += 8 if kind == 1 else 4
        else:
            raise GraphError(f'field {field} at byte {begin} is a group')
        if field != _METADATA_FIELD:
            digest.update(view[begin:end])
    return digest.hexdigest()


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Read protobuf's integer of seven bits a byte; returns it and where it ends."""
    value = shift = 0
    while True:
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


def check_graph_is_plain(model: onnx.ModelProto, path: Path) -> None:
    """Raise GraphError unless a graph is one that ends, from one file, on every backend.

    Nothing that loops or branches, no operators but those of ONNX, no weights in other files or
    without their zeros, and not more nodes than can be loaded in seconds. Each node takes what
    stands before it, and each value is given once.
    """
    graph = model.graph
    if len(graph.node) > MAX_NODES:
        raise GraphError(
            f'{path}: its graph has {len(graph.node)} nodes, expected at most {MAX_NODES}'
        )
    if model.functions:
        raise GraphError(
            f'{path}: its graph defines functions, {model.functions[0].name!r} first; inline them '
            '(onnx.inliner) before the export'
        )
    if graph.sparse_initializer:
        raise GraphError(f'{path}: its graph has sparse weights; export it with all of them')
    known = {'', *(value.name for value in (*graph.input, *graph.initializer))}
    for node in graph.node:
        names = (node.name, node.op_type, node.domain, *node.input, *node.output)
        if any(isinstance(name, bytes) for name in names):  # what protobuf makes of such text
            raise GraphError(f'{path}: the name of a node is not UTF-8: {names}')
        if node.domain not in _STANDARD:
            raise GraphError(
                f'{path}: node {node.name!r} is {node.domain}.{node.op_type}; a bundle has the '
                'operators of ONNX only, which every backend knows'
            )
        if any(attribute.HasField('g') or attribute.graphs for attribute in node.attribute):
            raise GraphError(
                f'{path}: node {node.name!r} is a {node.op_type}, which loops or branches; a '
                'bundle takes every frame through the same nodes. Export the network without it.'
            )
        for wrong, how in (
            (set(node.input) - known, 'takes {}, which no node before it gives'),
            (set(node.output) & known - {''}, 'gives {}, which is there already'),
        ):
            if wrong:
                what = how.format(repr(min(wrong)))
                raise GraphError(f'{path}: node {node.name!r}, a {node.op_type}, {what}')
        known.update(node.output)
    outside = [tensor.name for tensor in _tensors(graph) if _is_outside(tensor)]
    if outside:
        raise GraphError(
            f'{path}: {len(outside)} weights, {outside[0]!r} first, lie outside the ONNX file; a '
            'bundle is one file, so load the model with its external data before writing it'
        )


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _is_outside(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data)
