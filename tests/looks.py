"""What of a panel is cut, what in it has no name, and what the keys do not reach, as Qt has laid it out."""

from collections import Counter
from itertools import combinations, pairwise

from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QScrollArea,
    QScrollBar,
    QTabBar,
    QWidget,
)

from cryomamba_gui.qt.pieces import ElidedLabel

#: What somebody works with.
WORKED_WITH = (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QLineEdit,
    QPlainTextEdit,
    QTabBar,
)
DIRECT = Qt.FindChildOption.FindDirectChildrenOnly
#: What Qt makes of several widgets, which it names and reaches itself.
WHOLE = (QAbstractItemView, QAbstractSpinBox, QComboBox, QTabBar)
#: Pixels by which widgets of one row may lie higher or lower.
ROW = 10


def cut(panel):
    """Labels and buttons that have less room than their words take; not those that end in … by intention."""
    found = []
    for widget in _seen(panel, (QLabel, QAbstractButton)):
        if isinstance(widget, ElidedLabel) or not widget.text():
            continue
        width, height = _needed(widget)
        if widget.width() < width or widget.height() < height:
            found.append(f"cut: {_called(widget)} is {widget.width()} × {widget.height()} and takes {width} × {height}")
        elif not _between_edges(panel, widget):
            found.append(f"cut: {_called(widget)} reaches beyond the edge")
    return found


def overlapping(panel):
    """Widgets that lie over others of the same layout."""
    found = []
    for parent in (panel, *panel.findChildren(QWidget)):
        inside = [each for each in parent.findChildren(QWidget, options=DIRECT) if _is_laid_out(each)]
        found += [
            f"overlapping: {_called(one)} and {_called(other)}"
            for one, other in combinations(inside, 2)
            if one.geometry().intersects(other.geometry())
        ]
    return found


def nameless(panel):
    """What one works with and a screen reader cannot name."""
    buddies = {label.buddy() for label in panel.findChildren(QLabel)}
    return [
        f"nameless: {_called(widget)}"
        for widget in _seen(panel, WORKED_WITH)
        if not (widget.accessibleName() or _words(widget) or widget in buddies)
    ]


def doubled_keys(panel, menus):
    """Letters that, with Alt, lead to several things that are shown, or to one and a menu of the window."""
    labels = [label for label in _seen(panel, QLabel) if label.buddy() is not None]
    letters = Counter(_letter(text) for text in menus)
    letters.update(_letter(widget.text()) for widget in (*_seen(panel, QAbstractButton), *labels))
    return [f"doubled: Alt+{letter}" for letter, times in letters.items() if letter and times > 1]


def walk(panel, first):
    """The widgets of a panel that have the keyboard one after the other, when Tab is pressed again and again."""
    first.setFocus(Qt.FocusReason.TabFocusReason)
    order = []
    while (widget := panel.window().focusWidget()) not in order and panel.isAncestorOf(widget):
        order.append(widget)
        QTest.keyClick(widget, Qt.Key.Key_Tab)
    return order


def unreached(panel, order):
    """What one works with and is not in the order of the Tab key; one of a group of buttons stands for all."""
    return [
        f"unreached: {_called(widget)}"
        for widget in _seen(panel, WORKED_WITH)
        if widget.isEnabled() and not any(_has_keyboard(each, order) for each in _group(widget))
    ]


def going_back(panel, order):
    """Where the Tab key goes up, or to the left in a row."""
    return [
        f"going back: {_called(after)} after {_called(before)}"
        for before, after in pairwise(order)
        if _is_before(_spots(panel, after), _spots(panel, before))
    ]


def _seen(panel, kinds):
    """The widgets of some kinds that are shown, without what Qt itself makes others of."""
    return [
        widget
        for widget in panel.findChildren(QWidget)
        if isinstance(widget, kinds)
        and not isinstance(widget, QScrollBar)
        and widget.isVisible()
        and widget.window() is panel.window()
        and not _within(panel, widget, WHOLE)
    ]


def _is_laid_out(widget):
    layout = widget.parentWidget().layout()
    return widget.isVisible() and layout is not None and _holds(layout, widget)


def _holds(layout, widget):
    items = [layout.itemAt(place) for place in range(layout.count())]
    inner = [item.layout() for item in items if item.layout() is not None]
    return any(item.widget() is widget for item in items) or any(_holds(each, widget) for each in inner)


def _ancestors(panel, widget):
    while (widget := widget.parentWidget()) is not None and widget is not panel:
        yield widget


def _within(panel, widget, kinds):
    return any(isinstance(each, kinds) for each in _ancestors(panel, widget))


def _needed(widget):
    """Width and height that the words of a widget take."""
    hint = widget.sizeHint()
    if isinstance(widget, QLabel) and widget.wordWrap():
        return 1, widget.heightForWidth(widget.width())
    return hint.width(), hint.height()


def _between_edges(panel, widget):
    """Whether nothing of a widget is beyond the right or the left edge of what it is shown in."""
    areas = [each.viewport() for each in _ancestors(panel, widget) if isinstance(each, QScrollArea)]
    for around in (panel, *areas):
        left = widget.mapTo(panel, QPoint(0, 0)).x() - around.mapTo(panel, QPoint(0, 0)).x()
        if left < 0 or left + widget.width() > around.width():
            return False
    return True


def _words(widget):
    if isinstance(widget, QTabBar):
        return all(widget.tabText(place) for place in range(widget.count()))
    return isinstance(widget, QAbstractButton) and any(letter.isalpha() for letter in widget.text())


def _letter(text):
    return text.replace("&&", "").partition("&")[2][:1].lower()


def _group(widget):
    group = widget.group() if isinstance(widget, QAbstractButton) else None
    return group.buttons() if group is not None and group.exclusive() else [widget]


def _has_keyboard(widget, order):
    return any(each is widget or widget.isAncestorOf(each) for each in order)


def _spots(panel, widget):
    """Where the middle of a widget's left edge is: of the areas that scroll, from the outermost on, then its own."""
    spots = []
    while widget is not panel:
        area = next((each for each in _ancestors(panel, widget) if isinstance(each, QScrollArea)), None)
        around = panel if area is None else area.widget()
        spots.append(widget.mapTo(around, QPoint(0, widget.height() // 2)))
        widget = panel if area is None else area
    return spots[::-1]


def _is_before(one, other):
    for here, there in zip(one, other, strict=False):
        if here != there:
            return here.y() < there.y() - ROW or (abs(here.y() - there.y()) <= ROW and here.x() < there.x())
    return False


def _called(widget):
    words = widget.text() if isinstance(widget, QAbstractButton | QLabel) else ""
    return f"{type(widget).__name__} {widget.objectName().removeprefix('cryomamba.')} {words[:40]!r}"
