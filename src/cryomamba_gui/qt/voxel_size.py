"""The field in which the user says how large a voxel is, where the header says it wrongly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QLineEdit, QPushButton, QVBoxLayout, QWidget

from cryomamba_gui.qt.pieces import ErrorNote, named

if TYPE_CHECKING:
    from cryomamba_core.geometry import Vector3

#: What a user can believe a voxel to be as large as, in Å.
SMALLEST, LARGEST = 0.01, 10_000.0


class VoxelSizeField(QWidget):
    """Shows lengths as the rows of the header do, x first.

    Attributes
    ----------
    chosen
        Emitted with a voxel size, z, y and x in Å, that is another one than is in use.
    """

    chosen = Signal(float, float, float)

    def __init__(self) -> None:
        super().__init__()
        self._now: Vector3 | None = None
        self._field = named(
            QLineEdit(), "tomogram.true-voxel-size", tip="One length in Å, or three: x, y, z", spoken="voxel size in Å"
        )
        self._field.textChanged.connect(self._judge)
        self._field.returnPressed.connect(self._choose)
        self._use = named(QPushButton("&Use"), "tomogram.use-voxel-size", tip="Open it anew with this voxel size")
        self._use.clicked.connect(self._choose)
        self._label = QLabel("Vo&xel size in Å")
        self._label.setBuddy(self._field)
        self.setFocusProxy(self._field)
        self._error = ErrorNote("tomogram.voxel-size-error")
        row = QHBoxLayout()
        row.addWidget(self._label)
        row.addWidget(self._field, 1)
        row.addWidget(self._use)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(row)
        layout.addWidget(self._error)

    def show_lengths(self, voxel_size: Vector3 | None, *, given: bool = False) -> None:
        """Show the voxel size that is in use.

        Parameters
        ----------
        voxel_size
            z, y, x in Å; None if there is none.
        given
            Whether the user has said so, not the header.
        """
        self._now = voxel_size
        words = [f"{length:.6g}" for length in reversed(voxel_size or ())] or [""]
        self._field.setText(words[0] if len(set(words)) == 1 else ", ".join(words))
        self._label.setToolTip("As you have said" if given else "As the header says; change it where that is wrong")
        self._judge()

    def _judge(self) -> None:
        lengths = lengths_in(self._field.text())
        self._use.setEnabled(lengths is not None and not _are_alike(lengths, self._now))
        wrong = lengths is None and bool(self._field.text().strip())
        self._error.show_words(
            f"this is no length between {SMALLEST:g} and {LARGEST:,.0f} Å" if wrong else "",
            "write one length such as 7.84, or three as x, y, z",
        )

    def _choose(self) -> None:
        lengths = lengths_in(self._field.text())
        if lengths is not None and not _are_alike(lengths, self._now):
            self.chosen.emit(*lengths)


def lengths_in(text: str) -> Vector3 | None:
    """What was written as a voxel size, one length or x, y and z.

    Returns
    -------
    voxel_size
        z, y, x in Å; None if it is none.
    """
    try:
        numbers = [float(part) for part in text.replace(",", " ").replace("×", " ").split()]
    except ValueError:
        return None
    numbers = numbers * 3 if len(numbers) == 1 else numbers
    if len(numbers) != 3 or not all(SMALLEST <= number <= LARGEST for number in numbers):
        return None
    x, y, z = numbers
    return z, y, x


def _are_alike(one: Vector3, other: Vector3 | None) -> bool:
    """Whether both would be shown in the same words: headers have digits that nobody sees."""
    return other is not None and all(f"{a:.6g}" == f"{b:.6g}" for a, b in zip(one, other, strict=True))
