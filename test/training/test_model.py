"""Every architecture as its library builds it, depth beside RGB, and what the graph decides."""

import numpy as np
import pytest
from tiny_model import DEPTH, FAMILIES, model_section, settled
import torch
from torch import nn
from torch.nn import functional
import torchvision

from training.networks.architectures import ModelError
from training.networks.depth_filters import encode_depth
from training.networks.network import SegmentationNetwork
from training.networks.upsampling import bilinear, by_phase, in_place
from training.networks.vehicle_graph import VehicleGraph
from training.recipes.schema import DepthSection, ModelSection


def _network(*named: object, seed: int = 0, **changes: object) -> SegmentationNetwork:
    torch.manual_seed(seed)
    return SegmentationNetwork(model_section(*named, **changes), 8).eval()  # type: ignore[arg-type]


def _stem(network: SegmentationNetwork, channels: int) -> nn.Conv2d:
    found = [
        module
        for module in network.network.encoder.modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == channels
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize('family', FAMILIES, ids=lambda family: f'{family[0]}-{family[1]}')
def test_depth_leaves_the_rgb_network_as_it_is(family: tuple[str, str, int, int, int]) -> None:
    *named, stride = family
    depth = {**DEPTH, 'validity_channel': True, 'auxiliary_head': True}
    rgb, rgbd = settled(_network(*named)), _network(*named, depth=depth)
    filters = _stem(rgb, 3).weight
    state = rgb.state_dict()
    widened = {name: value for name, value in rgbd.state_dict().items() if name in state}
    # The same RGB network below: only the stem differs, by its filters for depth.
    for name, value in widened.items():
        value.copy_(
            torch.cat([state[name], torch.zeros_like(state[name][:, :2])], dim=1)
            if value.shape != state[name].shape
            else state[name]
        )
    assert torch.equal(_stem(rgbd, 5).weight[:, :3], filters)
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2, 3, 64, 96, generator=generator) * 255
    metres = torch.rand(2, 1, 64, 96, generator=generator) * 12
    with torch.inference_mode():
        logits, predicted = rgbd.forward_with_depth(image, metres)
        assert logits.shape == (2, 8, 64 // stride, 96 // stride)
        assert predicted.shape == (2, 1, 64 // stride, 96 // stride)
        assert 0.0 <= predicted.min() <= predicted.max() <= 1.0
        # Bit for bit, at all strides and in the end.
        assert rgbd.depth_input is not None
        encoded = encode_depth(metres, rgbd.depth_input)
        seen = torch.cat([(image - rgbd.mean) / rgbd.std, encoded], dim=1)
        ours, plain = _features(rgbd, seen), _features(rgb, seen[:, :3])
        assert all(feature.std() > 1e-3 for feature in plain if feature.numel())
        assert logits.std() > 1e-3
        for with_depth, without in zip(ours, plain, strict=True):
            assert torch.equal(with_depth, without)
        assert torch.equal(logits, rgb(image))


def _features(network: SegmentationNetwork, x: torch.Tensor) -> list[torch.Tensor]:
    features = network.network.encoder(x)
    return list(features.values()) if isinstance(features, dict) else features[1:]


@pytest.mark.parametrize('init', ['zero', 'rgb_mean', 'rgb_contrast'])
def test_depth_filters_start_as_the_recipe_says(init: str) -> None:
    network = _network(depth={**DEPTH, 'stem_init': init, 'validity_channel': True})
    weight = _stem(network, 5).weight
    mean, zero = weight[:, :3].mean(dim=1), torch.zeros_like(weight[:, 0])
    contrast = mean - mean.mean(dim=(1, 2), keepdim=True)
    expected = {'zero': zero, 'rgb_mean': mean, 'rgb_contrast': contrast}[init]
    assert torch.equal(weight[:, 3], expected)
    assert torch.equal(weight[:, 4], contrast if init == 'rgb_contrast' else zero)
    assert contrast.sum(dim=(1, 2)).abs().max() < 1e-5
    assert contrast.abs().max() > 0.01
    assert weight[:, :3].abs().max() > 0.0


def test_an_rgb_stage_gets_filters_for_depth() -> None:
    rgb = settled(_network())
    depth = {**DEPTH, 'validity_channel': True}
    rgbd = _network(depth=depth, seed=1)
    rgbd.load_state_dict(rgbd.stage_state(rgb.state_dict()))
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(1, 3, 64, 96, generator=generator) * 255
    metres = torch.rand(1, 1, 64, 96, generator=generator) * 12
    with torch.inference_mode():
        expected = rgb(image)
        for shown in (torch.zeros_like(metres), metres):
            # Five channels are added up in another order than three; it is 6e-5 here.
            torch.testing.assert_close(rgbd(image, shown), expected, atol=5e-4, rtol=0.0)
        # Other filters see depth, but nothing where all of it is missing.
        steep = _network(depth={**depth, 'stem_init': 'rgb_contrast'}, seed=1)
        steep.load_state_dict(steep.stage_state(rgb.state_dict()))
        torch.testing.assert_close(steep(image, 0 * metres), expected, atol=5e-4, rtol=0.0)
        assert (steep(image, metres) - expected).abs().max() > 0.01
    assert expected.std() > 0.05
    # A stage that has them is taken as it is, and an RGB network takes an RGB stage so.
    own = rgbd.state_dict()
    assert all(torch.equal(own[name], value) for name, value in rgbd.stage_state(own).items())
    assert rgb.stage_state(rgb.state_dict()).keys() == rgb.state_dict().keys()


def test_new_filters_for_depth_are_not_frozen() -> None:
    depth = {**DEPTH, 'validity_channel': True}
    network = _network(depth=depth, frozen_encoder=1, initial_checkpoint='earlier.pt')
    with pytest.raises(ModelError, match='frozen_encoder 1 would keep new filters for depth'):
        network.stage_state(_network().state_dict())
    network.stage_state(_network(depth=depth).state_dict())


def test_depth_filters_learn_from_zero() -> None:
    network = _network(encoder='mobilenet_v2', depth=DEPTH).train()
    image, metres = torch.rand(2, 3, 64, 96) * 255, 0.5 + torch.rand(2, 1, 64, 96) * 9
    network(image, metres).square().mean().backward()
    grad = _stem(network, 4).weight.grad
    assert grad is not None
    assert grad[:, 3].abs().max() > 0.0


@pytest.mark.parametrize('encoder', ['mobilenet_v3_large', 'resnet50'])
def test_deeplabv3_is_torchvisions(encoder: str) -> None:
    stride = {'mobilenet_v3_large': 16, 'resnet50': 8}[encoder]
    ours = settled(_network('deeplabv3', encoder, stride, 256))
    build = getattr(torchvision.models.segmentation, f'deeplabv3_{encoder}')
    theirs = build(weights=None, weights_backbone=None, num_classes=8, aux_loss=False).eval()
    values = list(ours.state_dict().values())
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    _assert_same(ours, theirs)


def test_lraspp_is_torchvisions() -> None:
    ours = settled(_network('lraspp', 'mobilenet_v3_large', 16, 128))
    theirs = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=8
    ).eval()
    network = ours.network
    theirs.backbone.load_state_dict(network.encoder.state_dict())
    theirs.classifier.cbr.load_state_dict(network.decoder.cbr.state_dict())
    theirs.classifier.scale.load_state_dict(network.decoder.scale.state_dict())
    head = network.segmentation_head[0]
    low = theirs.classifier.low_classifier.in_channels
    with torch.no_grad():
        theirs.classifier.low_classifier.weight.copy_(head.weight[:, :low])
        theirs.classifier.high_classifier.weight.copy_(head.weight[:, low:])
        theirs.classifier.low_classifier.bias.copy_(head.bias)
        theirs.classifier.high_classifier.bias.zero_()
    _assert_same(ours, theirs)


def _assert_same(ours: SegmentationNetwork, theirs: nn.Module) -> None:
    """Compare on a size that no stride divides; torchvision's own are resized to the image."""
    # In double precision, so that only what is computed can differ, not how.
    ours, theirs = ours.double(), theirs.double()
    image = torch.rand(1, 3, 70, 101, dtype=torch.float64) * 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (image / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.inference_mode():
        logits = functional.interpolate(ours(image), (70, 101), mode='bilinear')
        expected = theirs(normalised)['out']
    assert (logits - expected).abs().max() < 1e-4 * expected.std()


@pytest.mark.parametrize(
    ('encoder', 'normalisation', 'mean', 'std'),
    [
        ('tu-tf_efficientnet_lite0', 'encoder', 127.5, 127.5),
        ('mobilenet_v2', 'symmetric', 127.5, 127.5),
        ('mobilenet_v2', 'encoder', 0.485 * 255, 0.229 * 255),
        ('tu-convnext_atto', 'encoder', 0.485 * 255, 0.229 * 255),
    ],
)
def test_normalisation_is_that_of_the_weights(
    encoder: str, normalisation: str, mean: float, std: float
) -> None:
    network = _network(encoder=encoder, normalisation=normalisation)
    assert network.mean[0, 0].item() == pytest.approx(mean)
    assert network.std[0, 0].item() == pytest.approx(std)
    assert not {'mean', 'std'} & set(network.state_dict())


def test_at_stride_32_the_encoder_computes_a_quarter_of_the_same() -> None:
    """TensorFlow's models pad a stride of 2 on the right: they keep the odd places."""
    dense = settled(_network(output_stride=16))
    strided = _network(output_stride=32)
    strided.load_state_dict(dense.state_dict())
    image = torch.rand(1, 3, 320, 384, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        every, second = (each.network.encoder(image)[-1] for each in (dense, strided))
        assert strided(255 * image).shape == (1, 8, 80, 96)
    assert second.shape[-2:] == (10, 12)
    # Away from the border, where zeros are padded at other places.
    inner = (..., slice(3, -3), slice(3, -3))
    torch.testing.assert_close(every[..., 1::2, 1::2][inner], second[inner])


@pytest.mark.parametrize('encoder', ['efficientnet-b0', 'timm-tf_efficientnet_lite0'])
def test_all_that_is_trained_gets_a_gradient(encoder: str) -> None:
    section = model_section('fpn', encoder, 32, normalisation='symmetric')
    network = SegmentationNetwork(section, num_classes=2).train()
    network(torch.zeros(2, 3, 64, 96)).sum().backward()
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    got = {name for name, value in network.named_parameters() if value.grad is not None}
    assert trained == got


def test_frozen_batch_norm_trains_what_is_inferred() -> None:
    networks = [settled(_network(frozen_batch_norm=frozen)) for frozen in (True, False)]
    image = 255 * torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    same = []
    for network in networks:
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        before = {name: value.clone() for name, value in network.named_buffers()}
        inferred = network(image)
        trained = network.train()(image)
        trained.sum().backward()
        after = dict(network.named_buffers())
        kept = all(torch.equal(value, after[name]) for name, value in before.items())
        same.append((torch.allclose(inferred, trained, atol=1e-4), kept))
        norm = network.network.decoder.block1[1]
        assert norm.weight.grad is not None
        assert norm.weight.grad.abs().max() > 0
    assert same == [(True, True), (False, False)]


# Of transformers, whose frames have one size.
_SWIN = {'architecture': 'fpn', 'encoder': 'tu-swin_tiny_patch4_window7_224', 'output_stride': 32}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'architecture': 'fpn'}, 'expected 32 and a multiple of 64'),
        ({'architecture': 'deeplabv3', 'encoder': 'resnet50'}, 'torchvision builds 256'),
        (
            {'architecture': 'deeplabv3', 'encoder': 'resnet18', 'decoder_channels': 256},
            "encoder 'resnet18' .* mobilenet_v3_large .* resnet50 or resnet101",
        ),
        ({'architecture': 'lraspp', 'encoder': 'resnet50'}, "encoder 'resnet50' with output_str"),
        ({'encoder': 'tf_efficientnet_lite0'}, 'timm encoders are written tu-NAME'),
        ({'encoder': 'tu-hf-hub:timm/resnet18.a1_in1k'}, r"'tu-hf-hub:timm/.*timm's own encoders"),
        ({'encoder': 'tu-no_such_network'}, "cannot be built on encoder 'tu-no_such_network'"),
        ({'encoder': 'resnet18', 'drop_path': 0.1}, 'only timm encoders'),
        ({'encoder': 'xception'}, 'does not support dilated mode'),
        ({'encoder': 'tu-hrnet_w18_small'}, 'output_stride 16: AssertionError. timm encoders'),
        ({**_SWIN, 'frozen_encoder': 1}, "'tu-swin_.*224' has no stages of convolutions"),
        (
            {'architecture': 'fpn', 'output_stride': 32, 'encoder': 'inceptionv4'},
            'normalisation: symmetric',
        ),
        ({'encoder': 'resnet18', 'frozen_encoder': 5}, "'resnet18' has 4 stages"),
        ({'encoder': 'mobileone_s0', 'depth': DEPTH}, 'has 2 convolutions of 3 channels'),
        ({'frozen_encoder': 2, 'depth': DEPTH}, 'keep new filters for depth at their start'),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        _network(**changes)


def test_an_encoder_of_one_size_says_which() -> None:
    with pytest.raises(ModelError, match=r"'tu-swin.* no frames of 64x96: .*model \(224\)\. Set"):
        _network(**_SWIN)(torch.zeros(1, 3, 64, 96))


def test_calls_that_lack_something_are_refused() -> None:
    with pytest.raises(ModelError, match='no depth was given'):
        _network(encoder='mobilenet_v2', depth=DEPTH)(torch.zeros(1, 3, 64, 96))
    with pytest.raises(ModelError, match='no auxiliary depth head'):
        _network(encoder='mobilenet_v2').forward_with_depth(torch.zeros(1, 3, 64, 96))
    with pytest.raises(RuntimeError, match='divisible by 16'):
        _network(encoder='mobilenet_v2')(torch.zeros(1, 3, 60, 96))


def test_an_rgb_network_may_predict_depth_that_it_is_not_shown() -> None:
    network = _network(
        encoder='mobilenet_v2', depth={**DEPTH, 'as_input': False, 'auxiliary_head': 1}
    )
    image = torch.rand(1, 3, 64, 96) * 255
    alone, shown = (
        network.forward_with_depth(image),
        network.forward_with_depth(image, image[:, :1]),
    )
    assert torch.equal(alone[0], shown[0])
    assert torch.equal(alone[1], shown[1])
    assert VehicleGraph(network, np.zeros(8, np.uint8), 1.0).modality == 'rgb'


def test_inference_needs_no_depth_head() -> None:
    depth = {**DEPTH, 'auxiliary_head': True}
    network = _network(encoder='mobilenet_v2', depth=depth)
    image, metres = torch.rand(1, 3, 64, 96) * 255, torch.rand(1, 1, 64, 96)
    expected, whole = network(image, metres), set(network.state_dict())
    assert torch.equal(network.drop_depth_head()(image, metres), expected)
    assert whole - set(network.state_dict()) == {'depth_head.weight', 'depth_head.bias'}
    plain = _network(encoder='mobilenet_v2', depth=DEPTH, seed=1)
    plain.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(plain(image, metres), expected)


def test_inverse_depth_by_hand() -> None:
    metres = torch.tensor([0.25, 0.5, 1.0, 2.0, 10.0, 60.0, 0.0, -1.0])
    special = torch.tensor([float('nan'), float('inf'), float('-inf')])
    depth = torch.cat([metres, special]).view(1, 1, 1, -1)
    # (1 / d - 0.1) / (2 - 0.1) within 0.5 to 10 m; 0, negative and NaN are missing, +Inf is far.
    expected = [1.0, 1.0, 0.9 / 1.9, 0.4 / 1.9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    section = DepthSection.model_validate({**DEPTH, 'validity_channel': True})
    encoded = encode_depth(depth, section)
    assert encoded[0, 0, 0].tolist() == pytest.approx(expected, abs=1e-6)
    assert encoded[0, 1, 0].tolist() == [1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 0]
    louder = encode_depth(depth, section.model_copy(update={'gain': 8.0}))
    assert louder[0, 0, 0].tolist() == pytest.approx([8 * value for value in expected], abs=1e-5)
    assert torch.equal(louder[:, 1], encoded[:, 1])
    alone = encode_depth(depth, section.model_copy(update={'validity_channel': False}))
    assert torch.equal(alone, encoded[:, :1])


_STAGES = [
    ('deeplabv3plus', 'tu-tf_efficientnet_lite0', ['conv_stem', 'bn1', 'blocks.0', 'blocks.1']),
    ('deeplabv3plus', 'resnet18', ['conv1', 'bn1', 'layer1', 'layer2']),
    ('deeplabv3plus', 'mobilenet_v2', ['features.0', 'features.1', 'features.2']),
    ('deeplabv3plus', 'tu-convnext_atto', ['stem_0', 'stem_1', 'stages_0', 'stages_1']),
    ('lraspp', 'mobilenet_v3_large', ['0', '1', '2']),
]


@pytest.mark.parametrize(('architecture', 'encoder', 'expected'), _STAGES)
def test_the_stem_and_first_stages_are_frozen(
    architecture: str, encoder: str, expected: list[str]
) -> None:
    network = _network(architecture, encoder, frozen_encoder=2).train()
    body = getattr(network.network.encoder, 'model', network.network.encoder)
    frozen = [body.get_submodule(name) for name in expected]
    assert network.frozen_modules() == frozen
    still = {id(p) for module in frozen for p in module.parameters()}
    for parameter in network.parameters():
        assert parameter.requires_grad == (id(parameter) not in still)
    assert not any(module.training for part in frozen for module in part.modules())
    assert network.network.decoder.training


@pytest.mark.parametrize(
    ('architecture', 'encoder'),
    [('deeplabv3plus', 'tu-tf_efficientnet_lite0'), ('deeplabv3plus', 'tu-convnext_atto')],
)
def test_only_filters_for_depth_train_and_no_frame_without_depth_changes(
    architecture: str, encoder: str
) -> None:
    depth = {**DEPTH, 'validity_channel': True}
    network = _network(architecture, encoder, depth=depth, frozen_encoder='all_but_depth')
    before = {name: value.clone() for name, value in network.state_dict().items()}
    image = torch.rand(2, 3, 64, 96) * 255
    metres = torch.full((2, 1, 64, 96), 3.0)
    without = network(image, torch.zeros_like(metres))
    with_depth = network(image, metres)

    network.train()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.0)
    for _ in range(2):
        optimizer.zero_grad()
        network(image, metres).square().mean().backward()
        optimizer.step()
    network.eval()

    after = network.state_dict()
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    assert len(changed) == 1
    assert torch.equal(before[changed[0]][:, :3], after[changed[0]][:, :3])
    assert (before[changed[0]][:, 3:] != after[changed[0]][:, 3:]).any(dim=(0, 2, 3)).all()
    assert torch.equal(network(image, torch.zeros_like(metres)), without)
    assert not torch.allclose(network(image, metres), with_depth)


def test_a_frozen_encoder_keeps_its_statistics() -> None:
    network = _network(encoder='mobilenet_v2', frozen_encoder='all')
    before = {name: value.clone() for name, value in network.network.encoder.state_dict().items()}
    network.train()(torch.rand(2, 3, 64, 96) * 255).square().mean().backward()
    for name, value in network.network.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in network.encoder_parameters())
    assert len(network.encoder_parameters()) > 0
    assert network.network.segmentation_head[0].weight.grad is not None


def test_a_class_bias_is_added_to_every_pixel() -> None:
    for named in (('lraspp', 'mobilenet_v3_large'), ('deeplabv3plus', 'mobilenet_v2')):
        network = _network(*named)
        image, bias = torch.rand(1, 3, 64, 96) * 255, torch.arange(8.0)
        before = network(image)
        network.add_class_bias(bias)
        torch.testing.assert_close(network(image), before + bias.view(1, 8, 1, 1))


class _FixedLogits(SegmentationNetwork):
    """Stands in for a network: the same logits (0, 2, 1) at every pixel, and the depth it saw."""

    def __init__(self, section: ModelSection) -> None:
        nn.Module.__init__(self)
        self.section = section
        self.seen: torch.Tensor | None = None

    def forward(self, image: torch.Tensor, depth: torch.Tensor | None = None) -> torch.Tensor:
        """Return (1, 3, h / 4, w / 4)."""
        self.seen = depth
        size = (image.shape[2] // 4, image.shape[3] // 4)
        return torch.tensor([0.0, 2.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, *size)

    def train(self, mode: bool = True) -> '_FixedLogits':
        """Do nothing: there is no encoder."""
        return self


def test_mask_confidence_and_cost_by_hand() -> None:
    costs = np.array([254, 10, 100], np.uint8)
    graph = VehicleGraph(_FixedLogits(model_section()), costs, temperature=2.0)
    mask, confidence, cost, probabilities = graph(torch.zeros((1, 71, 33, 3), dtype=torch.uint8))
    # Softmax of (0, 1, 0.5): e^0, e^1, e^.5 over their sum 5.36700.
    p = np.exp([0, 1, 0.5]) / np.exp([0, 1, 0.5]).sum()
    assert mask.shape == confidence.shape == cost.shape == (1, 71, 33)
    assert mask.dtype == confidence.dtype == cost.dtype == torch.uint8
    assert mask.unique().tolist() == [1]
    assert confidence.unique().tolist() == [round(255 * p[1])] == [129]
    assert cost.unique().tolist() == [round(float(p @ costs))]
    assert (probabilities.shape, probabilities.dtype) == ((1, 3, 64, 96), torch.uint8)
    assert [plane.unique().tolist() for plane in probabilities[0]] == [
        [round(255 * share)] for share in p
    ]


class _RandomLogits(_FixedLogits):
    """Stands in for a network: the same random logits at stride 4, whatever it is shown."""

    def forward(self, image: torch.Tensor, depth: torch.Tensor | None = None) -> torch.Tensor:
        """Return (1, 3, h / 4, w / 4)."""
        return torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 4


@pytest.mark.parametrize('size_hw', [(128, 192), (150, 301), (40, 50)])
def test_each_camera_pixel_is_decided_where_the_network_sees_it(size_hw: tuple[int, int]) -> None:
    costs = np.array([254, 10, 100], np.uint8)
    graph = VehicleGraph(_RandomLogits(model_section()), costs, temperature=1.0)
    height, width = size_hw
    planes = graph(torch.zeros((1, height, width, 3), dtype=torch.uint8))
    seen = graph.logits(torch.zeros((1, 64, 96, 3), dtype=torch.uint8))  # at the network's size
    p = torch.softmax(seen[0], dim=0)
    cost = torch.einsum('chw,c->hw', p, torch.from_numpy(costs).float())
    expected = (p.argmax(0), (255 * p.max(0).values).round(), cost.round())
    rows, columns = np.arange(height) * 64 // height, np.arange(width) * 96 // width
    assert (planes[3][0].int() - (255 * p).round().int()).abs().max() <= 1
    for plane, decided in zip(planes[:3], expected, strict=True):
        found = plane[0].int() - decided.int()[rows][:, columns]
        assert found.abs().max() <= (0 if decided is expected[0] else 1)  # one for rounding


@pytest.mark.parametrize(
    ('size_hw', 'phases'),
    [((20, 28), 16), ((80, 112), 256), ((5, 7), 1), ((10, 28), 1), ((21, 30), 1)],
    ids=['four times', 'sixteen times', 'as it is', 'each side its own', 'no whole number'],
)
def test_logits_by_phase_are_bilinear(size_hw: tuple[int, int], phases: int) -> None:
    logits = torch.randn(1, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    pixels = by_phase(logits, size_hw)
    assert pixels.shape[:2] == (phases, 3)
    torch.testing.assert_close(in_place(pixels), bilinear(logits, size_hw))


@pytest.mark.parametrize('size_hw', [(480, 640), (543, 1023), (65, 97), (64, 96)])
def test_depth_is_resized_without_mixing(size_hw: tuple[int, int]) -> None:
    network = _FixedLogits(model_section(depth=DEPTH))
    graph = VehicleGraph(network, np.zeros(3, np.uint8), 1.0)
    height, width = size_hw
    # Every pixel its own depth, so that each found one says where it came from.
    depth = torch.arange(1.0, 1 + height * width).view(1, height, width)
    graph(torch.zeros((1, height, width, 3), dtype=torch.uint8), depth)
    assert network.seen is not None
    found = network.seen[0, 0].long().numpy() - 1  # (64, 96)
    rows, columns = np.divmod(found, width)
    # The pixel whose area holds the centre of the network's pixel, as the image's resize has it.
    assert (rows == np.floor((np.arange(64) + 0.5) * height / 64)[:, None]).all()
    assert (columns == np.floor((np.arange(96) + 0.5) * width / 96)[None]).all()


@pytest.mark.parametrize('depth', [None, DEPTH], ids=['rgb', 'rgbd'])
def test_the_graph_gives_the_network_what_training_does(depth: dict[str, object] | None) -> None:
    """A frame of the network's size needs no resizing: channels, values and depth stay."""
    graph = VehicleGraph(_network(depth=depth), np.zeros(8, np.uint8), 1.0)
    height, width = graph.size_hw
    torch.manual_seed(0)
    image = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8)
    metres = torch.rand(1, height, width) * 10
    x, given = graph.network_input(image, metres)
    assert torch.equal(x[0, 0], image[0, :, :, 0].float())  # red first
    assert torch.equal(x, image.permute(0, 3, 1, 2).float())
    if depth is None:
        assert given is None
    else:
        assert given is not None
        assert torch.equal(given, metres[:, None])
