"""The anchor head: its coder against torchvision's and by hand, the layout of its outputs, and that it learns."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from tercel.config import AnchorHead, Data, Evaluate, Model, Pan, Recipe, SmallNet
from tercel.core.objects import Objects
from tercel.core.schema import Schema
from tercel.engine.tasks import task_of
from tercel.models.detector import Detector
from tercel.models.heads.anchors import AnchorBoxes, AnchorNet, anchor_shapes, boxes_of, deltas_of


def pairs(count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    boxes = []
    for _ in range(2):
        low, extent = torch.rand(count, 2, generator=g) * 300, 1 + torch.rand(count, 2, generator=g) * 90
        boxes.append(torch.cat([low, low + extent], 1))
    return boxes[0], boxes[1]


def test_coder_by_hand() -> None:
    """Anchor 10 x 20 around (15, 30); a box twice as wide and half as high, 5 px to the right and 4 px up."""
    anchor, box = torch.tensor([[10.0, 20, 20, 40]]), torch.tensor([[10.0, 21, 30, 31]])
    deltas = deltas_of(box, anchor)
    torch.testing.assert_close(deltas, torch.tensor([[5 / 10, -4 / 20, math.log(2), -math.log(2)]]))
    torch.testing.assert_close(boxes_of(deltas, anchor), box)


def test_coder_is_that_of_torchvision() -> None:
    boxes, anchors = pairs()
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    deltas = deltas_of(boxes, anchors)
    torch.testing.assert_close(deltas, coder.encode_single(boxes, anchors), rtol=1e-4, atol=1e-5)
    noisy = deltas + torch.randn(deltas.shape, generator=torch.Generator().manual_seed(1))
    theirs = coder.decode_single(noisy, anchors)
    torch.testing.assert_close(boxes_of(noisy, anchors), theirs, rtol=1e-4, atol=1e-3)


def test_coder_stays_finite() -> None:
    """An empty truth, and an output that would blow a box up to infinity (aerial-17, aerial-29)."""
    anchor = torch.tensor([[0.0, 0, 32, 32]], requires_grad=True)
    assert deltas_of(torch.tensor([[5.0, 5, 5, 9]]), anchor).isfinite().all()
    large = torch.tensor([[0.0, 0, 500, -500]], requires_grad=True)
    box = boxes_of(large, anchor)
    box.sum().backward()
    assert box.isfinite().all()
    assert large.grad is not None
    assert large.grad.isfinite().all()
    assert (box[0, 2] - box[0, 0]).item() == pytest.approx(32 * 1000 / 16, rel=1e-5)


def test_shapes() -> None:
    """Three scales by three ratios: areas (4 scale)^2 strides, height / width the ratio."""
    shapes = anchor_shapes(AnchorHead())
    assert len(set(shapes)) == 9
    assert shapes[0] == pytest.approx((4 * math.sqrt(2), 2 * math.sqrt(2)))
    for k, (w, h) in enumerate(shapes):
        assert w * h == pytest.approx(16 * 2 ** (2 * (k // 3) / 3))
        assert h / w == pytest.approx((0.5, 1, 2)[k % 3])


def test_an_output_belongs_to_the_anchor_of_its_cell_and_shape() -> None:
    """What the network says at a cell reaches the anchors around this cell; the channel of a shape those of its size.

    The ceiling cannot see a wrong order here, for encoder and decoder would share it.
    """
    config, strides = AnchorHead(width=8, depth=0), (8, 16)
    net = AnchorNet(config, 2, 8, strides, Model())
    row, column, level, shape, label = 3, 5, 0, 4, 1
    with torch.no_grad():
        for tower in (net.class_tower, net.delta_tower):
            for p in tower.parameters():
                p.zero_()
        weight, kind = net.class_tower.out[0].weight, net.delta_tower.out[0].weight
        weight[shape * 2 + label, 0, 1, 1] = 1.0
        kind[shape * 4 + 2, 0, 1, 1] = 1.0
    maps = [torch.zeros(2, 8, 6, 9), torch.zeros(2, 8, 3, 5)]
    maps[level][1, 0, row, column] = 1.0
    raw = net(maps, (48, 72))
    assert raw.logits.shape == (2, 9 * (6 * 9 + 3 * 5), 2)
    at = raw.logits.nonzero().tolist()
    assert at == [[1, at[0][1], label]]
    assert raw.deltas.nonzero().tolist() == [[1, at[0][1], 2]]
    box = raw.anchors.boxes[at[0][1]]
    assert ((box[:2] + box[2:]) / 2).tolist() == [(column + 0.5) * 8, (row + 0.5) * 8]
    w, h = anchor_shapes(config)[shape]
    assert (box[2:] - box[:2]).tolist() == pytest.approx([8 * w, 8 * h])


def test_batch_norm_has_numbers_of_its_own_per_map_and_weights_are_shared() -> None:
    net = AnchorNet(AnchorHead(width=16, depth=2), 3, 8, (8, 16, 32), Model(norm="batch"))
    assert [len(norms) for norms in net.class_tower.norms] == [3, 3]
    assert len(net.class_tower.convs) == 2
    group = AnchorNet(AnchorHead(width=16, depth=2, separable=True), 3, 8, (8, 16, 32), Model(norm="group"))
    assert [len(norms) for norms in group.class_tower.norms] == [1, 1]
    maps = [torch.randn(2, 8, 8 >> k, 8 >> k) * 10**k for k in range(3)]
    net.train()(maps, (64, 64))
    spread = [float(norm.running_var.mean()) for norm in net.class_tower.norms[0]]
    assert spread[0] < spread[1] < spread[2]


def test_anchors_between_are_not_asked() -> None:
    """A loud anchor between the thresholds costs nothing; the same one without its truth does."""
    head = AnchorBoxes(AnchorHead(), 1, (8, 16, 32))
    targets = head.encode([Objects((96, 128), [0], [[40, 30, 80, 62]])])
    raw = head.ideal(targets, (96, 128))
    from tercel.models.assign_iou import assign_by_iou

    between = assign_by_iou(head.config.assigner, raw.anchors, targets.truths, 1).between
    assert between.any()
    loud = raw._replace(logits=torch.where(between[..., None], 5.0, raw.logits))
    assert float(head.loss(loud, targets).total) < 1e-3
    assert float(head.loss(loud, head.encode([Objects.empty((96, 128))])).total) > 1


def test_learns_one_picture() -> None:
    """A few dozen steps on two pictures: their boxes are found, in the right class, and come first."""
    torch.manual_seed(0)
    small = SmallNet(stem=16, widths=(16, 32, 32, 32), depths=(0, 1, 1, 1))
    head = AnchorHead(width=32, depth=1, base=3)
    model = Model(backbone=small, neck=Pan(width=32), head=head, norm="group")
    d = Detector(model, Schema(("a", "b")))
    boxes = [[[10, 12, 40, 40], [80, 40, 112, 70]], [[50, 20, 90, 50]]]
    images = torch.zeros(2, 1, 3, 96, 128, dtype=torch.uint8)
    for i, some in enumerate(boxes):
        for k, (x1, y1, x2, y2) in enumerate(some):
            images[i, 0, k, y1:y2, x1:x2] = 255
    truth = [Objects((96, 128), [0, 1], boxes[0]), Objects((96, 128), [0], boxes[1])]
    optimizer = torch.optim.AdamW(d.parameters(), lr=3e-3)
    for _ in range(80):
        loss = d.head.loss(d(images), d.head.encode(truth))
        optimizer.zero_grad()
        (loss.total / loss.weight.clamp(min=1)).backward()
        optimizer.step()
    found, _ = d.head.decode(d(images), Evaluate(suppress_iou=0.5))
    from tercel.core.geometry import box_iou

    for t, f in zip(truth, found, strict=True):
        first = f[: len(t)]
        iou = box_iou(t.boxes, first.boxes)
        assert (iou.max(1) > 0.7).all()
        assert first.labels[iou.argmax(1)].tolist() == t.labels.tolist()


def test_belongs_to_the_task_boxes() -> None:
    recipe = Recipe(name="x", data=Data(size=(64, 64)), model=Model(head=AnchorHead()))
    assert task_of(recipe) is not None
