"""Trunks that bring the network back up to one fine map: encoder-decoders and hourglasses.

They keep the signature of a backbone: forward(images [B,C,H,W]) -> list with one map, attributes `strides`, `channels`
and besides `divisor`, of which the input's height and width must be multiples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from tercel.config import Hourglass, SmpNet
from tercel.core.finding import TercelError
from tercel.models.layers import Conv, Norm, init_weights

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish)
"""What counts as an activation; gates (sigmoid, hard sigmoid) are something else."""


# -- one activation in a whole network ------------------------------------------------------------------------------


def activations(module: nn.Module) -> Counter[type[nn.Module]]:
    """How often each type of activation occurs in a module."""
    return Counter(type(m) for m in module.modules() if isinstance(m, ACTIVATIONS))


def set_activation(module: nn.Module, kind: type[nn.Module]) -> None:
    """Replace every activation within `module` by one of type `kind`; weights and names stay as they are.

    A SiLU encoder before a ReLU decoder trained slowly or diverged, and nothing said so.
    """
    for name, child in module.named_children():
        if isinstance(child, ACTIVATIONS):
            setattr(module, name, kind())
        else:
            set_activation(child, kind)


# -- segmentation-models-pytorch ------------------------------------------------------------------------------------

DECODER_STRIDE = {"unet": 1, "unetplusplus": 1, "deeplabv3plus": 4}


class SmpTrunk(nn.Module):
    """U-Net, U-Net++ or DeepLabV3+ over a timm encoder, without its segmentation head.

    The decoder gets the encoder's own (commonest) type of activation, which `activation` names. DeepLabV3+ runs at
    output stride 16 and without dropout, so that training and evaluation compute the same.

    Raises:
        TercelError: the library is missing, an encoder that it cannot use, weights that cannot be fetched, or strides
            other than the decoder's one.
    """

    divisor = 32

    def __init__(self, config: SmpNet, strides: Sequence[int], in_channels: int = 3) -> None:
        super().__init__()
        self.strides = _only_stride(f"SmpNet with {config.decoder}", strides, DECODER_STRIDE[config.decoder])
        self.channels = (config.width,)
        self.encoder, self.decoder = _build_smp(config, in_channels)
        kinds = activations(self.encoder)
        if not kinds:
            raise TercelError(
                f"the encoder {config.encoder!r} has no activation that the decoder could take over",
                "use another encoder, such as resnet18 or efficientnet_b0",
            )
        self.activation = kinds.most_common(1)[0][0]
        set_activation(self.decoder, self.activation)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.decoder(self.encoder(x))]


def _build_smp(config: SmpNet, in_channels: int) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of the library's network. Encoders are timm's: the licences of its own ones vary."""
    try:
        import segmentation_models_pytorch as smp
    except ImportError as e:
        raise TercelError("SmpNet needs segmentation-models-pytorch", "pip install segmentation-models-pytorch") from e
    w = config.width
    options = {
        "encoder_name": f"tu-{config.encoder}",
        "encoder_weights": True if config.weights else None,
        "in_channels": in_channels,
    }
    try:
        if config.decoder == "deeplabv3plus":
            more = {"decoder_channels": w, "encoder_output_stride": 16, "decoder_aspp_dropout": 0.0}
            net = smp.DeepLabV3Plus(**options, **more)
        else:
            kind = smp.Unet if config.decoder == "unet" else smp.UnetPlusPlus
            net = kind(**options, decoder_channels=(8 * w, 4 * w, 2 * w, w, w))
    except OSError as e:  # the hub client raises its connection errors as OSError
        raise TercelError(
            f"the weights of {config.encoder!r} could not be fetched: {e}",
            "train from scratch with --set model.backbone.weights=false, or fetch them once while online",
        ) from e
    except (RuntimeError, ValueError, KeyError, TypeError, NotImplementedError) as e:
        raise TercelError(
            f"{config.decoder} cannot be built on the timm encoder {config.encoder!r}: {e}",
            "`timm.list_models()` lists the names; resnet18 and efficientnet_b0 work with all three decoders",
        ) from e
    return net.encoder, net.decoder


def _only_stride(name: str, strides: Sequence[int], stride: int) -> tuple[int, ...]:
    if tuple(strides) != (stride,):
        raise TercelError(
            f"{name} has one map, at stride {stride}, and model.strides is {tuple(strides)}",
            f"--set model.strides=[{stride}]",
        )
    return (stride,)


# -- hourglass ------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """y = relu(skip(x) + conv(conv(x))), 3x3 (He et al. 2016); the skip is a 1x1 convolution where shapes change."""

    def __init__(self, i: int, o: int, stride: int = 1, *, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(Conv(i, o, 3, stride, norm=norm), Conv(o, o, norm=norm, act=False))
        same = i == o and stride == 1
        self.skip = nn.Identity() if same else Conv(i, o, 1, stride, norm=norm, act=False)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.skip(x) + self.body(x))
        return y


def _blocks(i: int, o: int, n: int, norm: Norm, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(Block(i, o, stride, norm=norm), *[Block(o, o, norm=norm) for _ in range(n - 1)])


class _Level(nn.Module):
    """One level of an hourglass and all below it: y = side(x) + up(back(inner(down(x)))), at the width of x."""

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], norm: Norm) -> None:
        super().__init__()
        (here, below), n = widths[:2], blocks[0]
        self.side = _blocks(here, here, n, norm)
        self.down = _blocks(here, below, n, norm, stride=2)
        deeper = len(widths) > 2
        self.inner = _Level(widths[1:], blocks[1:], norm) if deeper else _blocks(below, below, blocks[1], norm)
        # The width changes in the last block on the way up, as it does in the first one on the way down.
        self.back = nn.Sequential(
            *[Block(below, below, norm=norm) for _ in range(n - 1)], Block(below, here, norm=norm)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.back(self.inner(self.down(x)))
        out: Tensor = self.side(x) + F.interpolate(y, scale_factor=2.0, mode="nearest")
        return out


class HourglassTrunk(nn.Module):
    """Stacked residual hourglasses at stride 4 (Newell et al. 2016, with the strided blocks of Law and Deng 2018).

    A 7x7 stem with stride 2 and a block with stride 2; then per stack an hourglass and a 3x3 convolution. Between two
    stacks the input and the output of the first go through 1x1 convolutions, are added, and pass one more block. Only
    the last stack's map comes out: supervision of the others is not offered.

    Raises:
        TercelError: other strides than (4,), fewer than two widths, or as many blocks as there are not widths.
    """

    def __init__(self, config: Hourglass, strides: Sequence[int], norm: Norm, in_channels: int = 3) -> None:
        super().__init__()
        if len(config.widths) < 2 or len(config.blocks) != len(config.widths):
            raise TercelError(
                f"an hourglass of {len(config.widths)} widths and {len(config.blocks)} numbers of blocks",
                "give model.backbone.widths and model.backbone.blocks one entry per level, two at least",
            )
        self.strides = _only_stride("Hourglass", strides, 4)
        width = config.widths[0]
        self.channels, self.divisor = (width,), hourglass_divisor(config)
        self.stem = nn.Sequential(
            Conv(in_channels, config.stem, 7, 2, norm=norm), Block(config.stem, width, 2, norm=norm)
        )
        self.stacks = nn.ModuleList(_Level(config.widths, config.blocks, norm) for _ in range(config.stacks))
        self.after = nn.ModuleList(Conv(width, width, norm=norm) for _ in range(config.stacks))

        def plain() -> Conv:
            return Conv(width, width, 1, norm=norm, act=False)

        self.before = nn.ModuleList(plain() for _ in range(config.stacks - 1))
        self.onward = nn.ModuleList(plain() for _ in range(config.stacks - 1))
        self.between = nn.ModuleList(Block(width, width, norm=norm) for _ in range(config.stacks - 1))
        init_weights(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        y = self.after[0](self.stacks[0](x))
        for i, (before, onward, between) in enumerate(zip(self.before, self.onward, self.between, strict=True), 1):
            x = between(F.relu(before(x) + onward(y)))
            y = self.after[i](self.stacks[i](x))
        return [y]


def hourglass_divisor(config: Hourglass) -> int:
    """What the input's sides must be multiples of: the stride of the deepest level."""
    return int(4 * 2 ** (len(config.widths) - 1))
