"""Published weights of PSPNet, SSD300 and their backbones, by the names of their tensors.

hszhao/semseg publishes PSPNets and the ResNets with three 3 x 3 convolutions that they start from;
amdegroot/ssd.pytorch publishes SSD300 (``ssd300_mAP_77.43_v2.pth``) and VGG16 with the layers fc6
and fc7 that DeepLab cut out of VGG16's classifier (``vgg16_reducedfc.pth``). Only the names differ
from those of this repository's networks.
"""

from collections.abc import Mapping

from torch import Tensor

State = Mapping[str, Tensor]

# Numbers of the convolutions among VGG16's layers, as torchvision and ssd.pytorch count them.
VGG_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
FC6, FC7 = "backbone.extra.0.7.1.", "backbone.extra.0.7.3."

SEMSEG_PSPNET = {
    "layer0.7.": "body.bn1.",
    "layer0.": "body.conv1.",
    **{f"layer{i}.": f"body.layer{i}." for i in (1, 2, 3, 4)},
    "ppm.features.": "head.0.bins.",
    "cls.0.": "head.1.",
    "cls.1.": "head.2.",
    "cls.4.": "head.5.",
}
SEMSEG_RESNET = {
    "conv1.": "conv1.0.",
    "bn1.": "conv1.1.",
    "conv2.": "conv1.3.",
    "bn2.": "conv1.4.",
    "conv3.": "conv1.6.",
    "bn3.": "bn1.",
}


def _vgg_layer(number: int) -> str:
    if number < 23:  # the fourth pooling
        return f"backbone.features.{number}."
    return f"backbone.extra.0.{number - 23}."


VGG_CLASSIFIER = {f"features.{i}.": _vgg_layer(i) for i in VGG_CONVOLUTIONS}
VGG_REDUCED = {f"{i}.": _vgg_layer(i) for i in VGG_CONVOLUTIONS} | {"31.": FC6, "33.": FC7}
SSD_PYTORCH = {
    **{f"vgg.{name}": own for name, own in VGG_REDUCED.items()},
    "L2Norm.weight": "backbone.scale_weight",
    **{f"extras.{i}.": f"backbone.extra.{1 + i // 2}.{i % 2 * 2}." for i in range(8)},
    "loc.": "head.regression_head.module_list.",
    "conf.": "head.classification_head.module_list.",
}


def pspnet_weights(state: State, weights: str, stem: str) -> tuple[State, bool]:
    """Return weights under the names of PSPNet, or of its body, and whether they are all of it.

    Args:
        state: Of semseg's PSPNet or ResNet, torchvision's ResNet, or a PSPNet of this repository.
        weights: The setting ``model.weights``, for messages.
        stem: The network's.

    Raises:
        ValueError: They have another stem.
    """
    complete = any(name.startswith("body.") for name in state)
    if "layer0.0.weight" in state:
        state, complete = _rename(state, SEMSEG_PSPNET), True
    elif "conv3.weight" in state:
        state = _rename(state, SEMSEG_RESNET)
    prefix = "body." if complete else ""
    for name, found in (("conv1.weight", "plain"), ("conv1.0.weight", "deep")):
        if prefix + name in state and found != stem:
            raise ValueError(
                f"model.stem must be {found} with model.weights={weights}, got {stem}: add "
                f"+model.stem={found}"
            )
    return state, complete


def ssd300_weights(
    state: State, weights: str, clip_priors: bool, decimate_fc: bool
) -> tuple[State, bool]:
    """Return weights under the names of SSD300, and whether they are all of it.

    Args:
        state: Of SSD300 or VGG16 of ssd.pytorch, torchvision's VGG16, or an SSD300 of this
            repository.
        weights: The setting ``model.weights``, for messages.
        clip_priors: Whether the network clips its priors.
        decimate_fc: Whether to subsample fc6 and fc7 from the classifier of torchvision's VGG16.

    Raises:
        ValueError: They do not go with the network's settings.
    """
    if any(name.startswith("backbone.") for name in state):
        return state, True
    if decimate_fc and "classifier.0.weight" not in state:
        raise ValueError(
            "model.decimate_fc must have the classifier of VGG16 (classifier.0.weight), got "
            f"model.weights={weights} with {describe_names(state)}"
        )
    if "vgg.0.weight" in state:
        if not clip_priors:
            raise ValueError(
                "model.clip_priors must be true with the weights of ssd.pytorch's SSD300, which "
                "are for clipped priors, got false: add +model.clip_priors=true"
            )
        return _rename(state, SSD_PYTORCH), True
    if "31.weight" in state:
        return _rename(state, VGG_REDUCED), False
    features = {n: t for n, t in state.items() if not n.startswith("classifier.")}
    return _rename(features, VGG_CLASSIFIER) | (_decimate(state) if decimate_fc else {}), False


def describe_names(state: State) -> str:
    """Return how many tensors there are, and the names of the first."""
    return f"{len(state)} tensors: {', '.join([*state][:3])}, ..."


def _decimate(state: State) -> dict[str, Tensor]:
    """Return fc6 and fc7 of SSD, every fourth unit and every third place of VGG16's 7 x 7 (Liu et
    al., 2016, section 3, after DeepLab).

    Raises:
        ValueError: The classifier is not VGG16's, or holds NaN, as in torchvision's weights of the
            features alone.
    """
    taken: dict[str, Tensor] = {}
    for layer, own, shape in ((0, FC6, (4096, 25088)), (3, FC7, (4096, 4096))):
        name = f"classifier.{layer}."
        weight, bias = (state.get(name + kind) for kind in ("weight", "bias"))
        if weight is None or bias is None or weight.shape != shape or not weight.isfinite().all():
            found = "none" if weight is None else f"{tuple(weight.shape)}"
            raise ValueError(
                f"model.decimate_fc must have {name}weight of VGG16, {shape} and finite, with its "
                f"bias, got {found}"
            )
        side = 7 if layer == 0 else 1
        kernel = weight.view(4096, -1, side, side)[::4, :, ::3, ::3]
        taken[own + "weight"] = kernel if layer == 0 else kernel[:, ::4]
        taken[own + "bias"] = bias[::4]
    return taken


def _rename(state: State, prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """Replace the first of ``prefixes`` that each name has; other names stay."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        found = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        renamed[prefixes.get(found, "") + name.removeprefix(found)] = tensor
    return renamed
