"""The graph of a bundle around a network of another program."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import compose
from onnx.utils import Extractor
import torch

from training.network_imports.source import ForeignNetwork
from training.networks.vehicle_graph import FrameGraph

_DOMAIN = 'desertmind_seg.imported'
_PREFIX = 'imported.'
# Of a class that rounds to 0; its logarithm is that of the smallest that half precision has.
_LEAST_PROBABILITY = 2.0**-24


@dataclass(frozen=True)
class Normalisation:
    """What is done to an image before the network: (x - mean) / std, each in RGB.

    Attributes:
        mean: of values 0..255.
        std: likewise.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


NO_NORMALISATION = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class ImportedGraph(FrameGraph):
    """Runs a network as it stands in its file between a camera's bytes and a mask.

    Args:
        network: to run.
        normalisation: that it was trained with.
        costs: uint8 (C,), of each class.
        bgr: whether it takes blue first.

    Attributes:
        of_probabilities: whether its scores have been through a softmax or a sigmoid.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        network: ForeignNetwork,
        normalisation: Normalisation,
        costs: npt.NDArray[np.uint8],
        *,
        bgr: bool,
    ) -> None:
        super().__init__(network.size_hw, 'rgb', costs, temperature=1.0)
        self.network = network
        self.normalisation = normalisation
        self.bgr = bgr
        self.of_probabilities = False
        for name in ('mean', 'std'):
            values = torch.tensor(getattr(normalisation, name)).view(1, 3, 1, 1)
            self.register_buffer(name, values)

    def of_network(self, image: torch.Tensor, depth: torch.Tensor | None) -> torch.Tensor:
        """See `FrameGraph.of_network`."""
        scores = self.scores(image)
        if self.network.classes_last:
            scores = scores.permute(0, 3, 1, 2)
        if scores.shape[1] == 1:  # of the second class of two
            rest = 1 - scores if self.of_probabilities else torch.zeros_like(scores)
            scores = torch.cat([rest, scores], dim=1)
        if self.of_probabilities:
            scores = scores.clamp(min=_LEAST_PROBABILITY).log()
        return scores

    def scores(self, image: torch.Tensor) -> torch.Tensor:
        """Return what the network gives for float32 (1, 3, h, w) RGB in 0..255, as float32."""
        x = (image - self.mean) / self.std
        if self.bgr:
            x = x.flip(1)
        if self.network.input_channels_last:
            x = x.permute(0, 2, 3, 1)
        element = np.dtype(self.network.input_type)
        if element == np.uint8:
            x = x.round().clamp(0, 255)
        x = x.to(_torch_type(element)).contiguous()
        if torch.onnx.is_in_onnx_export():  # `with_network` puts the network there
            found = torch.onnx.ops.symbolic(
                f'{_DOMAIN}::Network',
                (x,),
                dtype=_torch_type(self.network.output_type),
                shape=self.network.output_shape,
                version=1,
            )
        else:
            found = torch.from_numpy(self.network.scores(x.numpy()))
        return found.float()


def _torch_type(element: npt.DTypeLike) -> torch.dtype:
    return torch.from_numpy(np.zeros(0, element)).dtype


def with_network(model: onnx.ModelProto, network: ForeignNetwork) -> onnx.ModelProto:
    """Put a network where the export of its `ImportedGraph` has a node for it."""
    # Without what other outputs need, such as auxiliary heads.
    needed = Extractor(network.model).extract_model([network.input], [network.output])
    inner = compose.add_prefix(needed, _PREFIX).graph
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    nodes = list(whole.graph.node)
    (place,) = (place for place, node in enumerate(nodes) if node.domain == _DOMAIN)
    renamed = {
        inner.input[0].name: nodes[place].input[0],
        inner.output[0].name: nodes[place].output[0],
    }
    for node in inner.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    del whole.graph.node[:]
    whole.graph.node.extend([*nodes[:place], *inner.node, *nodes[place + 1 :]])
    whole.graph.initializer.extend(inner.initializer)
    known = [each for each in whole.opset_import if each.domain != _DOMAIN]
    del whole.opset_import[:]
    whole.opset_import.extend(known)
    return whole
