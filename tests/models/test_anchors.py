"""The anchor head: its coder against torchvision's and by hand, the layout of its outputs, and that it learns."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes, sigmoid_focal_loss
from torchvision.ops import box_iou as torchvision_iou

from tercel.config import AnchorHead, Atss, Data, Evaluate, FreeAnchor, MaxIou, Model, Pan, Recipe, SmallNet
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.schema import Schema
from tercel.engine.tasks import task_of
from tercel.models.detector import Detector
from tercel.models.heads.anchors import AnchorBoxes, AnchorNet, AnchorRaw, anchor_shapes, boxes_of, deltas_of
from tercel.models.heads.upright import BoxTargets


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


def test_cell_coder_by_hand() -> None:
    """YOLOv3: x = (sigmoid(tx) + column) stride, width = anchor width exp(tw)."""
    head = AnchorBoxes(AnchorHead(coder="cell", sizes=(10, 24)), 1, (8,))
    raw = head.ideal(head.encode([Objects.empty((32, 48))]), (32, 48))
    row, column, said = 2, 4, torch.tensor([1.0, -2.0, math.log(3), math.log(0.5)])
    raw.deltas[0, row * 6 + column] = said
    x, y = (column + 1 / (1 + math.exp(-1))) * 8, (row + 1 / (1 + math.exp(2))) * 8
    expected = [x - 15, y - 6, x + 15, y + 6]
    assert head.boxes(raw)[0, row * 6 + column].tolist() == pytest.approx(expected, abs=1e-4)
    wild = raw._replace(deltas=torch.full_like(raw.deltas, 1e4))
    centre = head.boxes(wild)[0].unflatten(1, (2, 2)).mean(1)
    assert head.boxes(wild).isfinite().all()
    torch.testing.assert_close(centre, raw.anchors.centres + 4)  # the far corner of its cell, however loud


def test_with_cells_every_truth_is_said_in_its_own_cell() -> None:
    """Three persons whose centres lie in one cell have an anchor each, of that cell, on one map or another."""
    head = AnchorBoxes(AnchorHead(coder="cell", ratios=(1.0, 2.4), base=3), 1, (8, 16, 32))
    boxes = [[50.0, 10, 74, 70], [51, 12, 75, 72], [52, 8, 76, 70], [3, 3, 9, 15]]
    targets = head.encode([Objects((96, 128), [0] * 4, boxes)])
    raw = head.ideal(targets, (96, 128))
    a = head.assign(raw, head.boxes(raw), targets)
    middle = (targets.truths.boxes[:, :2] + targets.truths.boxes[:, 2:]) / 2
    away = (raw.anchors.centres[a.prior] - middle[a.truth]).abs() / raw.anchors.priors.strides[a.prior, None]
    assert (away <= 0.5).all()
    assert set(a.truth.tolist()) == {0, 1, 2, 3}
    torch.testing.assert_close(head.boxes(raw)[0, a.prior], targets.truths.boxes[a.truth], rtol=0, atol=1e-3)


def test_sizes_are_shared_out_among_the_maps() -> None:
    """As Darknet lists them: px, width before height, the finest map first."""
    config = AnchorHead(sizes=(10, 24, 16, 40, 33, 80, 50, 120))
    head = AnchorBoxes(config, 1, (8, 16))
    raw = head.ideal(head.encode([Objects.empty((64, 64))]), (64, 64))
    size = (raw.anchors.boxes[:, 2:] - raw.anchors.boxes[:, :2]).unique_consecutive(dim=0)
    assert size.round().tolist() == [[10, 24], [16, 40], [33, 80], [50, 120]]
    assert len(raw.anchors.boxes) == 2 * 64 + 2 * 16
    with pytest.raises(TercelError, match="8 numbers for 3 maps"):
        AnchorBoxes(config, 1, (8, 16, 32)).net(8, Model())
    with pytest.raises(TercelError, match="in px above 0"):
        AnchorBoxes(AnchorHead(sizes=(0, 24)), 1, (8,)).net(8, Model())


def test_objectness_scales_the_class_and_classes_learn_from_positives_alone() -> None:
    head = AnchorBoxes(AnchorHead(objectness=True, gamma=0, alpha=0.5), 3, (8, 16, 32))
    targets = head.encode([Objects((96, 128), [2], [[40, 30, 80, 62]])])
    raw = head.ideal(targets, (96, 128))
    a = head.assign(raw, head.boxes(raw), targets)
    noise = torch.ones_like(raw.logits, dtype=torch.bool)
    noise[a.image, a.prior] = False
    loud = raw._replace(logits=torch.where(noise, 9.0, raw.logits))  # classes of no object
    assert float(head.loss(loud, targets).total) < 1e-3
    half = raw._replace(logits=torch.zeros_like(raw.logits))
    loss = head.loss(half, targets)
    assert float(loss.sums["class"] / loss.weight) == pytest.approx(3 * math.log(2))  # BCE of three classes at .5
    assert float(loss.sums["object"]) < 1e-3
    assert head.scores(half).max().item() == pytest.approx(0.5)
    net = head.net(16, Model(norm="group"))
    maps = [torch.zeros(1, 16, 96 // s, 128 // s) for s in (8, 16, 32)]
    fresh = net(maps, (96, 128))
    assert fresh.objectness.sigmoid().mean().item() == pytest.approx(0.01, rel=0.01)
    assert fresh.logits.abs().max() == 0


def test_refusals() -> None:
    with pytest.raises(TercelError, match="Atss takes others"):
        AnchorBoxes(AnchorHead(coder="cell", assigner=Atss()), 1, (8,))
    with pytest.raises(TercelError, match="has no objectness"):
        AnchorBoxes(AnchorHead(objectness=True, assigner=FreeAnchor()), 1, (8,))


def test_shapes() -> None:
    """Three scales by three ratios: areas (4 scale)^2 strides, height / width the ratio."""
    shapes = anchor_shapes(AnchorHead(), (8,))[0]
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
    w, h = anchor_shapes(config, strides)[level][shape]
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


# -- crowd-26: RetinaNet's parts, each against torchvision's, on the same input ---------------------------------------

TALL = AnchorHead(base=4, scales=(1, 2), ratios=(1, 4), assigner=MaxIou(positive=0.5, negative=0.4))


def retina() -> tuple[AnchorBoxes, AnchorRaw, BoxTargets]:
    """Random answers for three persons, on maps of strides 8 and 16."""
    head = AnchorBoxes(TALL, 2, (8, 16))
    targets = head.encode([Objects((96, 128), [0, 1, 0], [[10, 12, 30, 80], [60, 20, 84, 90], [90, 40, 120, 72]])])
    raw = head.ideal(targets, (96, 128))
    g = torch.Generator().manual_seed(0)
    logits, deltas = torch.randn(raw.logits.shape, generator=g), 0.3 * torch.randn(raw.deltas.shape, generator=g)
    return head, raw._replace(logits=logits - 2, deltas=deltas), targets


def test_anchors_are_those_of_torchvision() -> None:
    """Theirs stand on the corner of a cell and lie cell by cell; ours in its middle and shape by shape."""
    _, raw, _ = retina()
    maker = AnchorGenerator(((32, 64), (64, 128)), ((1.0, 4.0),) * 2)
    pictures = ImageList(torch.zeros(1, 3, 96, 128), [(96, 128)])
    theirs = maker(pictures, [torch.zeros(1, 1, 12, 16), torch.zeros(1, 1, 6, 8)])[0]
    start = 0
    for (h, w), stride in (((12, 16), 8), ((6, 8), 16)):
        count = h * w * 4
        some = theirs[start : start + count].view(h * w, 4, 4) + stride / 2
        ours = raw.anchors.boxes[start : start + count].view(4, h * w, 4).transpose(0, 1)
        key = [sorted(map(tuple, cell)) for cell in some.tolist()], [sorted(map(tuple, cell)) for cell in ours.tolist()]
        assert key[0] == key[1]
        start += count


def test_assignment_is_that_of_torchvision_where_no_anchor_is_wanted_twice() -> None:
    head, raw, targets = retina()
    iou = torchvision_iou(targets.truths.boxes, raw.anchors.boxes)
    a = head.assign(raw, head.boxes(raw), targets)
    theirs = Matcher(0.5, 0.4, allow_low_quality_matches=True)(iou)
    forced = Matcher(0.5, 0.4)(iou) != theirs  # theirs forces every anchor that ties for a truth's best, ours one
    ours = torch.full_like(theirs, Matcher.BELOW_LOW_THRESHOLD)
    assert a.between is not None
    ours[a.between[0]] = Matcher.BETWEEN_THRESHOLDS
    ours[a.prior] = a.truth
    assert torch.equal(ours[~forced], theirs[~forced])
    assert sum(int((ours[iou[m] == iou[m].max()] == m).sum() > 0) for m in range(3)) == 3
    assert int((theirs >= 0).sum()) > 5


def test_loss_is_that_of_torchvision() -> None:
    head, raw, targets = retina()
    a = head.assign(raw, head.boxes(raw), targets)
    yes = torch.zeros_like(raw.logits)
    yes[0, a.prior, targets.truths.labels[a.truth]] = 1
    assert a.between is not None
    classes = sigmoid_focal_loss(raw.logits, yes, alpha=0.25, gamma=2.0)[~a.between].sum()
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    wanted = coder.encode_single(targets.truths.boxes[a.truth], raw.anchors.boxes[a.prior])
    boxes = F.smooth_l1_loss(raw.deltas[0, a.prior], wanted, reduction="sum", beta=0.1)
    loss = head.loss(raw, targets)
    assert loss.sums["class"].item() == pytest.approx(classes.item(), rel=1e-4)
    assert loss.sums["box"].item() == pytest.approx(boxes.item(), rel=1e-4)
    assert loss.weight.item() == len(a.prior)


def test_answers_are_those_of_torchvision() -> None:
    head, raw, _ = retina()
    found, _ = head.decode(raw, Evaluate(score_floor=0.3, suppress_iou=0.5))
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    boxes = clip_boxes_to_image(coder.decode_single(raw.deltas[0], raw.anchors.boxes), (96, 128))
    anchor, label = (raw.logits[0].sigmoid() > 0.3).nonzero(as_tuple=True)
    some = remove_small_boxes(boxes[anchor], 1e-6)  # those off the canvas
    anchor, label = anchor[some], label[some]
    score = raw.logits[0].sigmoid()[anchor, label]
    keep = batched_nms(boxes[anchor], score, label, 0.5)
    assert found[0].labels.tolist() == label[keep].tolist()
    assert found[0].boxes == pytest.approx(boxes[anchor][keep].numpy(), abs=1e-3)
    assert found[0].scores == pytest.approx(score[keep].numpy(), abs=1e-6)
    assert len(keep) > 10


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
