"""The worst mistakes, drawn on the pictures: confident false positives and objects that were missed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Finding, Ledger, Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame
from tercel.metrics.match import Mistake
from tercel.report.draw import crop, draw
from tercel.report.judge import HIT, IGNORED, Judged
from tercel.report.strokes import Picture

CROP = 288  # px, side of a gallery picture
CONTEXT = 2.2  # a crop shows this many times the longer side of the object
LEAST = 40.0  # px of the original that a crop shows at least: a speck without surroundings says nothing
NEIGHBOURS = 6  # other predictions in a crop: enough to explain a mistake, too few to hide it
PER_PICTURE = 3  # so that one bad picture cannot fill the wall


@dataclass(frozen=True, eq=False)
class Exhibit:
    """One gallery picture with its caption.

    Attributes:
        picture: u8 RGB [CROP,CROP,3].
        id: picture id.
        name: class name.
        score: of the false positive; of the detection that came closest for a miss, NaN when there is none.
        kind: what went wrong, in words.
        size: (width, height), or (length, width) of an oriented box, in px of the original picture.
    """

    picture: Picture
    id: str
    name: str
    score: float
    kind: str
    size: tuple[float, float]


class Gallery:
    """Draws mistakes; what cannot be shown (pictures gone or changed since) is counted in `findings`.

    Args:
        data: the pictures' truth.
        preds: one per record of `data`, in its order.
        judged: the verdicts on them.
        read: loads a frame as RGB u8 (tercel.data.video.read_frame).
        measure: what the overlaps of the verdicts are: IoU, or OKS of points.
    """

    def __init__(
        self,
        data: Dataset,
        preds: Sequence[Objects],
        judged: Judged,
        read: Callable[[Frame], Picture],
        measure: str = "IoU",
    ) -> None:
        self.data, self.preds, self.judged, self.read, self.measure = data, preds, judged, read, measure
        self._ledger = Ledger()
        self._pictures: dict[int, Picture | None] = {}

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self._ledger.findings()

    def false_positives(self, count: int = 12, among: NDArray[np.bool_] | None = None) -> list[Exhibit]:
        """The false positives with the highest scores; `among` bool [N] leaves the choice to some detections."""
        j = self.judged
        wrong = (j.kind != HIT) & (j.kind != IGNORED)
        rows = np.flatnonzero(wrong if among is None else wrong & among)
        order = rows[np.argsort(-j.score[rows], kind="stable")]
        return self._collect(order, j.pred_picture, j.pred_row, count, self._false_positive)

    def misses(
        self, thresholds: NDArray[np.float64], count: int = 12, among: NDArray[np.bool_] | None = None
    ) -> list[Exhibit]:
        """Missed objects: the largest of each class and of each third of the sizes in turn, large ones first.

        Args:
            thresholds: f64 [C], the score from which a detection of a class counts; NaN = none does.
            among: bool [M], leaves the choice to some truths.
        """
        j = self.judged
        lost = ~j.found(thresholds)
        missed = np.flatnonzero(lost if among is None else lost & among)
        edges = np.quantile(j.truth_size, [1 / 3, 2 / 3]) if len(j.truth_size) else np.zeros(2)
        third = np.digitize(j.truth_size, edges)
        groups: dict[tuple[int, int], list[int]] = {}
        for i in missed[np.argsort(-j.truth_size[missed], kind="stable")]:
            groups.setdefault((-int(third[i]), int(j.truth_label[i])), []).append(int(i))
        turns = [rows for _, rows in sorted(groups.items())]
        order = [rows[k] for k in range(max(map(len, turns), default=0)) for rows in turns if k < len(rows)]
        return self._collect(np.array(order, np.int64), j.truth_picture, j.truth_row, count, self._miss)

    def detections(self, rows: NDArray[np.int64], words: Sequence[str], count: int = 8) -> list[Exhibit]:
        """Detections i64 [n] in this order, with what is to be said of each."""
        j = self.judged
        said = dict(zip(zip(j.pred_picture[rows].tolist(), j.pred_row[rows].tolist(), strict=True), words, strict=True))

        def show(p: int, row: int, image: Picture) -> Exhibit:
            return self._exhibit(p, row, image, said[p, row])

        return self._collect(rows, j.pred_picture, j.pred_row, count, show)

    def _collect(
        self,
        order: NDArray[np.int64],
        picture_of: NDArray[np.int64],
        row_of: NDArray[np.int64],
        count: int,
        show: Callable[[int, int, Picture], Exhibit],
    ) -> list[Exhibit]:
        out: list[Exhibit] = []
        for i in _at_most(order, picture_of, PER_PICTURE):
            if len(out) >= count:
                break
            image = self._picture(int(picture_of[i]))
            if image is not None:
                out.append(show(int(picture_of[i]), int(row_of[i]), image))
        return out

    def _picture(self, p: int) -> Picture | None:
        """The pixels of record p, or None (with a finding) when they cannot be had any more."""
        if p in self._pictures:
            return self._pictures[p]
        record, frame = self.data.records[p], self.data.records[p].frames[0]
        self._pictures[p] = None
        try:
            image = self.read(frame)
        except TercelError as e:
            message = "pictures cannot be read any more, so their mistakes are not shown"
            self._ledger.add("report.picture", Severity.WARNING, message, e.message)
            return None
        if image.shape[:2] != record.size:
            where = f"{frame}: {image.shape[0]}x{image.shape[1]}, was {record.size[0]}x{record.size[1]}"
            message = "pictures have another size than when they were judged, so their mistakes are not shown"
            self._ledger.add("report.picture_size", Severity.WARNING, message, where)
            return None
        self._pictures[p] = image
        return image

    def _false_positive(self, p: int, row: int, image: Picture) -> Exhibit:
        record, v, classes = self.data.records[p], self.judged.verdicts[p], self._classes
        about, overlap = int(v.about[row]), f"{self.measure} {v.iou[row]:.2f}"
        other = classes[int(record.objects.labels[about])] if about >= 0 else ""
        text = {
            Mistake.DUPLICATE: f"duplicate ({overlap}): the object was found already",
            Mistake.LOCALISATION: f"badly placed: {overlap} < {self.judged.iou:g}",
            Mistake.CLASS: f"confused with {other} ({overlap})",
            Mistake.BOTH: f"confused with {other} and badly placed ({overlap})",
            Mistake.BACKGROUND: "background",
        }[Mistake(str(v.kind[row]))]
        return self._exhibit(p, row, image, text)

    def _exhibit(self, p: int, row: int, image: Picture, text: str) -> Exhibit:
        """Detection `row` of picture p."""
        pred = self.preds[p]
        score = 1.0 if pred.scores is None else float(pred.scores[row])
        subject = np.arange(len(pred)) == row
        picture = self._scene(image, p, pred.boxes[row], subject, pred[subject])
        name = self._classes[int(pred.labels[row])]
        return Exhibit(picture, self.data.records[p].id, name, score, text, _extent(pred, row))

    def _miss(self, p: int, row: int, image: Picture) -> Exhibit:
        record, pred, v, classes = self.data.records[p], self.preds[p], self.judged.verdicts[p], self._classes
        truth = record.objects
        scores = np.ones(len(pred)) if pred.scores is None else pred.scores
        near = np.flatnonzero(v.about == row)
        best = int(near[np.argmax(scores[near])]) if len(near) else -1
        score = float(scores[best]) if best >= 0 else float("nan")
        if v.hit_by[row] >= 0:
            text, score = "found, but below the threshold", float(scores[v.hit_by[row]])
        elif best < 0:
            text = "nothing detected there"
        elif v.kind[best] in (Mistake.CLASS, Mistake.BOTH):
            text = f"taken for {classes[int(pred.labels[best])]} ({self.measure} {v.iou[best]:.2f})"
        else:
            text = f"badly placed: {self.measure} {v.iou[best]:.2f} < {self.judged.iou:g}"
        picture = self._scene(image, p, truth.boxes[row], np.zeros(len(pred), np.bool_), truth[[row]])
        return Exhibit(picture, record.id, classes[int(truth.labels[row])], score, text, _extent(truth, row))

    @property
    def _classes(self) -> tuple[str, ...]:
        return self.data.schema.classes

    def _scene(
        self, image: Picture, p: int, box: NDArray[np.float32], subject: NDArray[np.bool_], one: Objects
    ) -> Picture:
        """The crop around `box`: truth dashed, the mistake bold, other confident predictions thin."""
        truth, pred, size = self.data.records[p].objects, self.preds[p], self.data.records[p].size
        extent = float(max(box[2:] - box[:2]))
        side = min(max(LEAST, CONTEXT * extent), max(min(size), 1.2 * extent))
        corner = (box[:2] + box[2:]) / 2 - side / 2
        for axis, length in ((0, size[1]), (1, size[0])):  # as little as possible beyond the border
            if side <= length:
                corner[axis] = np.clip(corner[axis], 0, length - side)
        x, y = float(corner[0]), float(corner[1])
        window = (x, y, x + side, y + side)
        scores = np.ones(len(pred)) if pred.scores is None else pred.scores
        inside = ((pred.boxes[:, :2] < (x + side, y + side)) & (pred.boxes[:, 2:] > (x, y))).all(axis=1)
        shown = np.flatnonzero((scores >= 0.3) & ~subject & inside)
        context = pred[shown[np.argsort(-scores[shown], kind="stable")][:NEIGHBOURS]]
        view, (t, others, main) = crop(image, [truth, context, one], window, (CROP, CROP))
        view = draw(view, others.replace(scores=None), self.data.schema, truth=t, labels=False, width=1)
        if one.scores is None and not subject.any():  # truth is dashed white everywhere; the one in question is bold
            return draw(view, main[:0], self.data.schema, truth=main, labels=False, width=5)
        return draw(view, main, self.data.schema, labels=False, width=3, min_score=0.0)


def _extent(o: Objects, row: int) -> tuple[float, float]:
    if o.obbs is not None:
        return float(o.obbs[row, 2]), float(o.obbs[row, 3])
    box = o.boxes[row]
    return float(box[2] - box[0]), float(box[3] - box[1])


def _at_most(order: NDArray[np.int64], picture: NDArray[np.int64], n: int) -> list[int]:
    """The rows in order, the first n of each picture before all others."""
    seen: dict[int, int] = {}
    first: list[int] = []
    later: list[int] = []
    for i in order:
        p = int(picture[i])
        seen[p] = seen.get(p, 0) + 1
        (first if seen[p] <= n else later).append(int(i))
    return first + later
