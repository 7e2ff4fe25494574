"""MVAD's networks in PyTorch, written from the released code's formulas: teacher, neck with its attention, student.

Modules carry the names of the released checkpoints, so that their state dictionaries go into our loaders. Maps are
[N,C,H,W], sample by sample; B samples, V views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, pad, relu, scaled_dot_product_attention

from mvead_jax.methods.mvad.modeling import NetworkConfig


class BasicBlock(nn.Module):
    """A block of a ResNet-34; `upsample` makes it the first block of the student's layers."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, upsample: bool = False):
        super().__init__()
        if upsample:
            self.conv1 = nn.ConvTranspose2d(inputs, outputs, 2, 2, bias=False)
            shortcut = nn.ConvTranspose2d(inputs, outputs, 2, 2, bias=False)
            self.upsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))
        else:
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        if stride != 1:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)), inplace=True)))
        for name in ("upsample", "downsample"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return relu(y + x, inplace=True)


class Teacher(nn.Module):
    """A ResNet-34 up to its third layer."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1)
        width = 64
        for number, (blocks, outputs) in enumerate(((3, 64), (4, 128), (6, 256)), start=1):
            first = BasicBlock(width, outputs, stride=1 + (number > 1))
            rest = [BasicBlock(outputs, outputs) for _ in range(blocks - 1)]
            setattr(self, f"layer{number}", nn.Sequential(first, *rest))
            width = outputs

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.pool(relu(self.bn1(self.conv1(images))))
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3):
            x = layer(x)
            maps.append(x)
        return maps


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn3(self.conv3(relu(self.bn2(self.conv2(y)), inplace=True)))
        return relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class Neck(nn.Module):
    """Attention over views at each scale, and the convolutions that join the scales."""

    def __init__(self, config: NetworkConfig, views: int):
        super().__init__()
        self.config, self.views = config, views
        for scale, (width, blocks) in enumerate(zip(config.widths, config.blocks, strict=True)):
            for block in range(blocks):
                number = str(block) if block else ""
                for norm in "12":
                    setattr(self, f"norm{scale}{norm}{number}", nn.LayerNorm(width, eps=1e-6))
                dropout = [nn.Dropout(config.dropout) for _ in range(2)]
                first, second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
                mlp = nn.Sequential(first, nn.ReLU(inplace=True), dropout[0], second, dropout[1])
                setattr(self, f"mlp{scale}{number}", mlp)
        fine, middle, coarse = config.widths
        self.conv1, self.bn1 = nn.Conv2d(fine, middle, 3, 2, 1, bias=False), nn.BatchNorm2d(middle)
        self.conv21, self.bn21 = nn.Conv2d(middle, middle, 1), nn.BatchNorm2d(middle)
        self.conv2, self.bn2 = nn.Conv2d(middle, coarse, 3, 2, 1, bias=False), nn.BatchNorm2d(coarse)
        self.conv31, self.bn31 = nn.Conv2d(coarse, coarse, 1), nn.BatchNorm2d(coarse)
        self.convf, self.bnf = nn.Conv2d(coarse, coarse, 1), nn.BatchNorm2d(coarse)
        inner, outputs = coarse // 2, 2 * coarse
        first = Bottleneck(coarse, inner, outputs, 2)
        self.bn_layer = nn.Sequential(first, *(Bottleneck(outputs, inner, outputs, 1) for _ in range(2)))

    def forward(self, teacher: Sequence[Tensor]) -> Tensor:
        e0, e1, e2 = (self.fused(scale, x) for scale, x in enumerate(teacher))
        x = relu(self.bn1(self.conv1(e0))) + relu(self.bn21(self.conv21(e1)))
        x = relu(self.bn2(self.conv2(x))) + relu(self.bn31(self.conv31(e2)))
        return self.bn_layer(relu(self.bnf(self.convf(x))))

    def fused(self, scale: int, teacher: Tensor) -> Tensor:
        maps = teacher.permute(0, 2, 3, 1).unflatten(0, (-1, self.views))  # [B,V,H,W,C]
        position = position_map(*maps.shape[2:]).to(maps.dtype)
        windows, top = self.config.windows[scale], self.config.top[scale]
        fused = []
        for view in range(self.views):
            x = maps[:, view]
            others = maps[:, [other for other in range(self.views) if other != view]]
            keys = cut(others, windows).flatten(1, 2)  # [B,(V-1) n²,P,C]
            for block in range(self.config.blocks[scale]):
                number = str(block) if block else ""
                attended = attend(x + position, keys, windows, top, self.config.heads)
                if self.training and self.config.drop_path:
                    kept = 1 - self.config.drop_path
                    attended = attended * (torch.rand(len(x), 1, 1, 1) < kept) / kept
                x = getattr(self, f"norm{scale}1{number}")(x + attended)
                x = getattr(self, f"norm{scale}2{number}")(x + getattr(self, f"mlp{scale}{number}")(x))
            fused.append(x)
        return torch.stack(fused, 1).flatten(0, 1).permute(0, 3, 1, 2).contiguous()


class Student(nn.Module):
    def __init__(self, config: NetworkConfig):
        super().__init__()
        fine, middle, coarse = config.widths
        widths = ((2 * coarse, coarse), (coarse, middle), (middle, fine))
        for number, ((inputs, outputs), blocks) in enumerate(
            zip(widths, config.decoder_blocks, strict=True), start=1
        ):
            first = BasicBlock(inputs, outputs, upsample=True)
            rest = [BasicBlock(outputs, outputs) for _ in range(blocks - 1)]
            setattr(self, f"layer{number}", nn.Sequential(first, *rest))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3):
            x = layer(x)
            maps.append(x)
        return maps[::-1]


class Network(nn.Module):
    """The trained part: the teacher's three maps -> the student's, from fine to coarse."""

    def __init__(self, config: NetworkConfig, views: int):
        super().__init__()
        self.mff_oce, self.net_s = Neck(config, views), Student(config)

    def forward(self, teacher: Sequence[Tensor]) -> list[Tensor]:
        return self.net_s(self.mff_oce(teacher))


def position_map(height: int, width: int, channels: int) -> Tensor:
    """Sines and cosines of the row, then of the column: [H,W,C]."""
    k = torch.arange(channels // 2)
    divisors = 10000 ** (2 * (k // 2) / (channels // 2))
    axes = []
    for size in (height, width):
        angles = (torch.arange(1, size + 1) / (size + 1e-6) * 2 * math.pi)[:, None] / divisors
        axes.append(torch.where(k % 2 == 0, angles.sin(), angles.cos()))
    rows, columns = axes
    rows, columns = rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)
    return torch.cat([rows, columns], -1)


def cut(x: Tensor, windows: int) -> Tensor:
    """Maps [...,H,W,C] -> windows [...,n²,P,C], padded with zeros below and at the right."""
    height, width = x.shape[-3:-1]
    x = pad(x, (0, 0, 0, -width % windows, 0, -height % windows))
    x = x.unflatten(-2, (windows, -1)).unflatten(-4, (windows, -1))  # [...,n,h,n,w,C]
    return x.transpose(-4, -3).flatten(-5, -4).flatten(-3, -2)


def attend(query: Tensor, keys: Tensor, windows: int, top: int, heads: int) -> Tensor:
    """Maps [B,H,W,C] of what each pixel attends to in the windows [B,M,P,C] that are most like its own."""
    batch, height, width, channels = query.shape
    tall, wide = -(-height // windows), -(-width // windows)
    query = cut(query, windows)  # [B,n²,P,C]
    with torch.no_grad():
        scores = query.mean(2) * channels**-0.5 @ keys.mean(2).transpose(1, 2)
        chosen = scores.topk(top).indices  # [B,n²,K]
    taken = keys[torch.arange(batch)[:, None, None], chosen].flatten(2, 3)  # [B,n²,K P,C]

    def split(x: Tensor) -> Tensor:
        return x.flatten(0, 1).unflatten(-1, (heads, -1)).transpose(1, 2)  # [B n²,h,P,d]

    taken = split(taken)
    found = scaled_dot_product_attention(split(query), taken, taken, scale=channels**-0.5)
    found = found.transpose(1, 2).flatten(2).reshape(batch, windows, windows, tall, wide, channels)
    found = found.transpose(2, 3).reshape(batch, windows * tall, windows * wide, channels)
    return found[:, :height, :width]


def loss_of(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    return 5 * sum(mse_loss(s, t) for t, s in zip(teacher, student, strict=True))


def anomaly_maps(teacher: Sequence[Tensor], student: Sequence[Tensor], size: int) -> Tensor:
    """The sum of the enlarged maps of 1 - cosine, by 9: [N,size,size] float64."""
    total = 0
    for t, s in zip(teacher, student, strict=True):
        distance = 1 - nn.functional.cosine_similarity(t, s)
        enlarged = nn.functional.interpolate(distance[:, None], size, mode="bilinear", align_corners=True)
        total = total + enlarged[:, 0].double()
    return total / len(teacher) ** 2
