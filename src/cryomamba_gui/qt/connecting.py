"""With which engine the window is connected, and how it gets connected with another one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from cryomamba_core.interfaces import Credentials
from cryomamba_core.known_servers import known_servers
from cryomamba_gui.desk.link import LinkState
from cryomamba_gui.desk.proofs import LOCAL, address_of, is_local
from cryomamba_gui.qt.connection_words import THIS_COMPUTER, error_of, grouped, mark_of, place_of, words_of
from cryomamba_gui.qt.pieces import ErrorNote, alive, fixed_pitch, hear, named, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryomamba_gui.qt.workplace import Workplace

#: Milliseconds between two looks at the clock while an engine is waited for.
INTERVAL = 1000
#: Codes of refusals that a token may turn, so that one is asked for.
WANTS_TOKEN = ("access/unauthenticated", "access/forbidden")


class ConnectBar(QWidget):
    """How the connection stands, in words, and what changes it.

    Parameters
    ----------
    workplace
        Whose desk.
    """

    def __init__(self, workplace: Workplace) -> None:
        super().__init__()
        self._workplace = workplace
        self._link = workplace.desk.link
        self._asked = False
        self._since = 0.0
        self._shown_url: str | None = None
        self._dialog: ConnectDialog | None = None
        self._timer = QTimer(self)
        self._timer.setInterval(INTERVAL)
        self._timer.timeout.connect(self._say)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(self._draw_state())
        layout.addLayout(self._draw_address())
        self._note = ErrorNote("connect.error")
        layout.addWidget(self._note)
        named(self, "connect", spoken="connection")
        self._write(workplace.desk.history.engine or LOCAL)
        hear(self, self._link.changed, self._show)
        self._show()
        workplace.desk.soon(self._learn, name="listing the servers that are known")

    def connect_to(self, url: str) -> None:
        """Connect with an engine, as if its address had been entered."""
        self._write(url)
        self._connect()

    def open_dialog(self) -> None:
        """Ask for address and token, in a dialog that leaves the window usable."""
        if self._dialog is None or not alive(self._dialog):
            self._dialog = ConnectDialog(self._workplace, self)
        self._dialog.ask(self._entered())

    def _draw_state(self) -> QHBoxLayout:
        self._mark = named(QLabel(), "connect.mark")
        self._words = named(wrapped(), "connect.state", spoken="state of the connection")
        self._retry = named(QPushButton("&Try now"), "connect.retry", tip="Ask the engine again at once")
        self._retry.clicked.connect(self._link.retry_now)
        row = QHBoxLayout()
        row.setSpacing(2)
        row.addWidget(self._mark, 0, Qt.AlignmentFlag.AlignTop)
        row.addWidget(self._words, 1)
        row.addWidget(self._retry, 0, Qt.AlignmentFlag.AlignTop)
        return row

    def _draw_address(self) -> QHBoxLayout:
        self._address = named(
            _address_field(), "connect.address", tip="Address of a server, or this computer", spoken="engine"
        )
        self._go = named(QPushButton(), "connect.go")
        self._go.clicked.connect(self._clicked)
        self._login = named(
            QPushButton("Lo&g in…"),
            "connect.login",
            tip="Say who you are to a server: paste a token",
        )
        self._login.clicked.connect(lambda: self.open_dialog())
        line = self._address.lineEdit()
        assert line is not None, "it can be edited"
        line.returnPressed.connect(self._connect)
        row = QHBoxLayout()
        row.addWidget(self._address, 1)
        row.addWidget(self._go)
        row.addWidget(self._login)
        self._address.editTextChanged.connect(lambda _: self._label())
        return row

    def _write(self, url: str) -> None:
        """Put an address into its field, and show its beginning."""
        self._address.setEditText(place_of(url, whole=True))
        line = self._address.lineEdit()
        assert line is not None, "it can be edited"
        line.setCursorPosition(0)

    def _entered(self) -> str:
        return _url_of(self._address.currentText())

    def _clicked(self) -> None:
        if self._busy():
            self._asked = False
            self._link.disconnect()
        else:
            self._connect()

    def _connect(self) -> None:
        self._asked = True
        self._link.connect(self._entered())

    def _busy(self) -> bool:
        """Whether there is something to leave; with another address entered, the button goes there instead."""
        active = self._link.state in (LinkState.CONNECTED, LinkState.CONNECTING, LinkState.WAITING)
        return active and address_of(self._entered()) == self._link.url

    def _show(self) -> None:
        link = self._link
        self._follow()
        waiting = link.state is LinkState.WAITING
        if waiting and not self._timer.isActive():
            self._since = time.monotonic()
            self._timer.start()
        elif not waiting:
            self._timer.stop()
        self._retry.setVisible(waiting)
        self._note.show_error(error_of(link))
        self._say()
        self._label()
        if link.state is LinkState.CONNECTED:
            self._asked = False
            self._offer([link.url or LOCAL])
        elif link.state is LinkState.REFUSED and self._asked:
            self._asked = False
            code = link.error.code if link.error else ""
            if code in WANTS_TOKEN or link.strange_certificate or link.other_certificate:
                self.open_dialog()

    def _follow(self) -> None:
        """Put the engine's address into its field, if somebody else has connected the window with another one."""
        url = self._link.url
        if url != self._shown_url and url is not None and address_of(self._entered()) != url:
            self._write(url)
        self._shown_url = url

    def _say(self) -> None:
        """Put the state into words; while an engine is waited for, they tell since when, and when it is asked again."""
        self._mark.setText(mark_of(self._link.state))
        self._mark.setAccessibleName(self._link.state)
        waited, left = time.monotonic() - self._since, self._link.seconds_to_next_try
        self._words.setText(words_of(self._link, waited=waited, left=left))
        self._words.setToolTip("\n".join(self._link.info.problems) if self._link.info else "")

    def _label(self) -> None:
        leaves = self._busy()
        connecting = self._link.state is LinkState.CONNECTING
        self._go.setText("Cancel" if leaves and connecting else "Dis&connect" if leaves else "&Connect")
        self._go.setToolTip("Leave this engine; jobs go on there" if leaves else "Connect with this engine")
        self._login.setVisible(not leaves and not is_local(self._entered()))

    async def _learn(self) -> None:
        known = await trio.to_thread.run_sync(known_servers, abandon_on_cancel=True)
        if alive(self):
            self._offer(known)

    def _offer(self, urls: Iterable[str]) -> None:
        known = {self._address.itemText(place) for place in range(self._address.count())}
        written = self._address.currentText()
        self._address.addItems([url for url in urls if place_of(url, whole=True) not in known])
        self._address.setEditText(written)


class ConnectDialog(QDialog):
    """Asks for a token, and whether a certificate that nobody vouches for is that of the server.

    Parameters
    ----------
    workplace
        Whose desk.
    parent
        The window that it belongs to, or a part of it.
    """

    def __init__(self, workplace: Workplace, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._link = workplace.desk.link
        self._asked = False
        self._trusted: dict[str, str] = {}
        self.setWindowTitle("Connect with a server")
        self.setModal(False)
        layout = QVBoxLayout(self)
        layout.addLayout(self._draw_fields())
        self._state = named(wrapped(), "dialog.state", spoken="state of the connection")
        self._note = ErrorNote("dialog.error")
        layout.addWidget(self._state)
        layout.addWidget(self._note)
        layout.addWidget(self._draw_certificate())
        layout.addStretch()
        layout.addLayout(self._draw_buttons())
        named(self, "dialog")
        self.setMinimumWidth(64 * self.fontMetrics().averageCharWidth())
        hear(self, self._link.changed, self._show)

    def ask(self, url: str) -> None:
        """Show it, with an address filled in; what the link said of the same address stands in it already."""
        self._asked = self._link.state is LinkState.REFUSED and address_of(url) == self._link.url
        self._address.setText("" if is_local(url) else url)
        self._token.clear()
        self._shown.setChecked(False)
        self._show()
        self.show()
        self.raise_()
        (self._token if self._address.text() else self._address).setFocus()

    def reject(self) -> None:
        """Give up; what the dialog began is not gone on with."""
        if self._asked and self._link.state is not LinkState.CONNECTED:
            self._link.disconnect()
        self._asked = False
        self._token.clear()
        self._trusted.clear()
        super().reject()

    def _draw_fields(self) -> QFormLayout:
        self._address = named(QLineEdit(), "dialog.address", tip="As cryomamba serve printed it")
        self._address.setPlaceholderText("https://HOST:8765")
        self._token = named(
            QLineEdit(),
            "dialog.token",
            tip="From whoever runs the server; empty for a kept one",
            spoken="token",
        )
        self._token.setEchoMode(QLineEdit.EchoMode.Password)
        self._token.setPlaceholderText("paste it here")
        self._shown = named(QCheckBox("&Show"), "dialog.show", tip="Show the token while it is entered")
        self._shown.toggled.connect(self._reveal)
        self._keep = named(
            QCheckBox("&Keep it on this computer"),
            "dialog.keep",
            tip="In the keyring of your system, or in a file that only you can read; once it has worked",
        )
        self._keep.setChecked(True)
        token = QHBoxLayout()
        token.addWidget(self._token, 1)
        token.addWidget(self._shown)
        fields = QFormLayout()
        fields.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        fields.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        fields.addRow("&Address", self._address)
        fields.addRow("&Token", token)
        fields.addRow("", self._keep)
        label = fields.labelForField(token)
        if isinstance(label, QLabel):
            label.setBuddy(self._token)
        return fields

    def _draw_certificate(self) -> QWidget:
        self._about = named(wrapped(), "dialog.about")
        self._fingerprint = named(wrapped(selectable=True), "dialog.fingerprint", spoken="fingerprint")
        fixed_pitch(self._fingerprint).setWordWrap(False)  # it has its lines already
        self._certificate = named(QWidget(), "dialog.certificate")
        layout = QVBoxLayout(self._certificate)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._about)
        layout.addWidget(self._fingerprint, 0, Qt.AlignmentFlag.AlignHCenter)
        return self._certificate

    def _draw_buttons(self) -> QHBoxLayout:
        self._go = named(QPushButton("&Connect"), "dialog.go")
        self._go.setDefault(True)
        self._go.clicked.connect(lambda: self._connect())
        self._trust = named(QPushButton("T&rust this server"), "dialog.trust", tip="Only if both are the same")
        self._trust.setAutoDefault(False)
        self._trust.clicked.connect(self._trust_it)
        cancel = named(QPushButton("Cancel"), "dialog.cancel")
        cancel.setAutoDefault(False)
        cancel.clicked.connect(self.reject)
        row = QHBoxLayout()
        row.addStretch()
        for button in (self._trust, self._go, cancel):
            row.addWidget(button)
        return row

    def _reveal(self, shown: bool) -> None:  # noqa: FBT001  # a slot
        self._token.setEchoMode(QLineEdit.EchoMode.Normal if shown else QLineEdit.EchoMode.Password)

    def _trust_it(self) -> None:
        fingerprint = self._link.strange_certificate or self._link.other_certificate
        if fingerprint is not None and self._link.url is not None:
            self._address.setText(self._link.url)  # it was this one's, whatever has been written since
            self._trusted[self._link.url] = fingerprint
        self._connect()

    def _connect(self) -> None:
        self._asked = True
        url = _url_of(self._address.text())
        fingerprint = self._trusted.get(address_of(url))
        credentials = Credentials(token=self._token.text().strip() or None, fingerprint=fingerprint)
        self._link.connect(url, credentials, remember=self._keep.isChecked())

    def _show(self) -> None:
        """Show what the link says, if this dialog has asked for it."""
        link = self._link
        if self._asked and link.state is LinkState.CONNECTED:
            self._asked = False
            self._token.clear()
            self.accept()
            return
        foreign = link.other_certificate if self._asked else None
        strange = link.strange_certificate or foreign if self._asked else None
        trying = self._asked and link.state in (LinkState.CONNECTING, LinkState.WAITING)
        self._state.setText(f"{mark_of(link.state)} {words_of(link)}")
        self._state.setVisible(trying)
        self._note.show_error(error_of(link) if self._asked and (foreign or not strange) else None)
        self._about.setText(OTHER_CERTIFICATE if foreign else STRANGE_CERTIFICATE)
        self._fingerprint.setText(grouped(strange or ""))
        self._certificate.setVisible(strange is not None)
        self._trust.setVisible(strange is not None)
        self._go.setVisible(strange is None)
        self._go.setEnabled(not trying)
        self.adjustSize()


STRANGE_CERTIFICATE = (
    "No authority vouches for this server: it made its certificate itself. Compare this fingerprint with the one "
    "that cryomamba serve printed, behind sha256:. The token is not sent before you trust the server."
)
OTHER_CERTIFICATE = (
    "The certificate is another one than before. If nobody has renewed it, do not go on. If somebody has, compare "
    "this fingerprint with the one that cryomamba serve printed, behind sha256:."
)


def _address_field() -> QComboBox:
    field = QComboBox()
    field.setEditable(True)
    field.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
    field.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    field.setMinimumContentsLength(8)
    field.addItem(THIS_COMPUTER)
    return field


def _url_of(text: str) -> str:
    return LOCAL if text.strip().lower() in (THIS_COMPUTER, "") else text.strip()
