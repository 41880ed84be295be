"""A desktop that is worked by clicks: what a user sees is found by name, and pressed."""

import numpy as np
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractButton, QApplication, QComboBox, QFileDialog, QLineEdit, QScrollBar, QWidget


class Desktop:
    """A window of napari with our panel, and hands on its mouse and keyboard.

    Attributes
    ----------
    viewer, panel
        As `cryomamba_gui.qt.app` puts them together.
    pump
        Lets Qt take turns until something has come true.
    """

    def __init__(self, viewer, panel, pump):
        self.viewer = viewer
        self.panel = panel
        self.pump = pump

    @property
    def bench(self):
        return self.panel.workplace.bench

    @property
    def host(self):
        return self.panel.workplace.desk.host

    @property
    def jobs(self):
        return self.panel.workplace.desk.jobs

    @property
    def link(self):
        return self.panel.workplace.desk.link

    def find(self, name, kind=QWidget):
        """The widget that is called so; it must be there."""
        found = [widget for widget in QApplication.allWidgets() if widget.objectName() == f"cryomamba.{name}"]
        found = [widget for widget in found if isinstance(widget, kind)]
        assert found, f"there is no {kind.__name__} called {name}"
        shown = [widget for widget in found if widget.isVisible()]
        return (shown or found)[-1]

    def text(self, name):
        return self.find(name).text()

    def click(self, name):
        """Press a button, once it can be pressed, as a mouse does."""
        self.pump(lambda: self.find(name, QAbstractButton).isEnabled())
        button = self.find(name, QAbstractButton)
        assert button.isVisible(), f"{name} is not to be seen"
        QTest.mouseClick(button, Qt.MouseButton.LeftButton, pos=_spot(button))

    def type(self, name, text):
        """Write into a field, in the place of what was there."""
        self.pump(lambda: self.find(name).isVisible())
        field = self.find(name)
        if isinstance(field, QComboBox):
            field = field.lineEdit()
        field.setFocus()
        QTest.keyClick(field, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
        first, *more = text.split("\n")
        QTest.keyClicks(field, first)
        for line in more:
            QTest.keyClick(field, Qt.Key.Key_Return)
            QTest.keyClicks(field, line)

    def turn_to(self, title):
        """Press the tab that is called so."""
        tabs = self.find("tabs")
        titles = [tabs.tabText(index) for index in range(tabs.count())]
        bar = tabs.tabBar()
        QTest.mouseClick(bar, Qt.MouseButton.LeftButton, pos=bar.tabRect(titles.index(title)).center())
        assert tabs.tabText(tabs.currentIndex()) == title

    def choose(self, name, text):
        """Choose an entry of a list, by keyboard."""
        box = self.find(name, QComboBox)
        box.setFocus()
        QTest.keyClick(box, Qt.Key.Key_Home)
        for _ in range(box.count()):
            if box.currentText() == text:
                return
            QTest.keyClick(box, Qt.Key.Key_Down)
        assert box.currentText() == text

    def save_as(self, path):
        """Answer the file dialog that has opened."""
        dialog = self.find("home.dialog", QFileDialog)
        self.pump(dialog.isVisible)
        dialog.findChild(QLineEdit, "fileNameEdit").setText(str(path))
        dialog.accept()

    def open(self, path):
        """Drop a file onto the window, as napari hands it on."""
        self.viewer.open(str(path), plugin="cryomamba")
        self.pump(lambda: self.bench.at(path) is not None)
        return self.bench.at(path)

    def connect(self, url, token=None):
        """Connect with a server, with a token that is pasted."""
        self.type("connect.address", url)
        if token is None:
            self.click("connect.go")
        else:
            self.click("connect.login")
            self.type("dialog.token", token)
            self.click("dialog.go")
        self.pump(lambda: self.link.connected)

    def paint(self, place, start, stop):
        """Draw a stroke with napari's tool on the section in view, from one voxel (y, x) to another."""
        canvas = self._canvas
        first, last = (self._on_canvas(canvas, place.tomogram.grid.position((0, *spot))[1:]) for spot in (start, stop))
        left = Qt.MouseButton.LeftButton
        QTest.mousePress(canvas, left, pos=first)
        for part in range(1, 11):
            QTest.mouseMove(canvas, first + (last - first) * part / 10)
        QTest.mouseRelease(canvas, left, pos=last)

    def press(self, key, modifier=Qt.KeyboardModifier.NoModifier):
        """Press a key while the canvas has the keyboard."""
        QTest.keyClick(self._canvas, key, modifier)

    def slide(self, part):
        """Click on the slider below the canvas, at a part of its length."""
        [slider] = [each for each in QApplication.allWidgets() if isinstance(each, QScrollBar) and _is_of_dims(each)]
        spot = QPoint(round(part * slider.width()), slider.height() // 2)
        QTest.mouseClick(slider, Qt.MouseButton.LeftButton, pos=spot)

    def turn(self, steps=2):
        """Turn the volume in 3D by the mouse, and draw it at each step.

        The mouse goes on until the volume has turned: at the first draw of a canvas that has another size than
        before, napari puts the camera back to where it was.
        """
        canvas, camera = self._canvas, self.viewer.scene.camera
        spot, left = canvas.rect().center(), Qt.MouseButton.LeftButton
        QTest.mousePress(canvas, left, pos=spot)
        for _ in range(steps):
            before = camera.angles

            def turned(before=before):
                nonlocal spot
                if camera.angles == before:
                    spot += QPoint(2, 1)
                    QTest.mouseMove(canvas, spot)
                return camera.angles != before

            self.pump(turned)
            self.picture()
        QTest.mouseRelease(canvas, left, pos=spot)

    @property
    def _canvas(self):
        return self.viewer.window._qt_viewer.canvas.native

    def _on_canvas(self, canvas, position):
        """Where a position (y, x) in Å is on the canvas, in 2D."""
        camera = self.viewer.scene.camera
        y, x = (camera.zoom * (part - middle) for part, middle in zip(position, camera.center[-2:], strict=True))
        return QPoint(round(canvas.width() / 2 + x), round(canvas.height() / 2 + y))

    def picture(self):
        """What the canvas shows, (height, width, RGBA)."""
        return np.asarray(self.viewer.screenshot(canvas_only=True, flash=False))


def _is_of_dims(bar):
    return type(bar.parent()).__name__ == "QtDimSliderWidget" and bar.isVisible()


def _spot(button):
    return QPoint(min(10, button.width() // 2), button.height() // 2)
