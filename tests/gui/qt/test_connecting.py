"""The bar and the dialog by which the window gets connected, at real servers."""

import json
import socket
from types import SimpleNamespace

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QCheckBox, QComboBox, QLabel, QLineEdit, QPushButton, QWidget

from cryomamba_core.credentials import CredentialStore, default_file
from cryomamba_core.interfaces import Credentials
from cryomamba_core.known_servers import note_server
from cryomamba_gui.desk.link import LinkState
from cryomamba_gui.qt.connecting import ConnectBar, ConnectDialog
from cryomamba_gui.qt.connection_words import words_of

LEFT = Qt.MouseButton.LeftButton


class Window:
    """A bar as its user meets it."""

    def __init__(self, bar, qtbot, find):
        self.bar, self.qtbot, self._find = bar, qtbot, find

    @property
    def dialog(self):
        """The dialog, if it is open."""
        [dialog] = self.bar.findChildren(ConnectDialog) or [None]
        return dialog if dialog is not None and dialog.isVisible() else None

    def text(self, name):
        label = self._find(self.bar, QLabel, name)
        return label.text() if label.isVisible() else None

    def button(self, name):
        return self._find(self.bar, QPushButton, name)

    def click(self, name):
        button = self.button(name)
        assert button.isVisible(), name
        assert button.isEnabled(), name
        self.qtbot.mouseClick(button, LEFT)

    def enter(self, address):
        line = self._find(self.bar, QComboBox, "connect.address").lineEdit()
        line.selectAll()
        self.qtbot.keyClicks(line, address)
        return line

    def paste(self, token):
        QApplication.clipboard().setText(token)
        line = self._find(self.bar, QLineEdit, "dialog.token")
        line.setFocus()
        line.selectAll()
        self.qtbot.keyClick(line, Qt.Key.Key_V, Qt.KeyboardModifier.ControlModifier)
        assert line.text() == token
        return line

    def check(self, name, wanted):
        box = self._find(self.bar, QCheckBox, name)
        if box.isChecked() != wanted:
            self.qtbot.mouseClick(box, LEFT, pos=box.rect().topLeft() + box.rect().center() * 0.2)
        assert box.isChecked() == wanted

    def field(self, kind, name):
        return self._find(self.bar, kind, name)


@pytest.fixture
def window(workplace, show, qtbot, find):
    return Window(show(ConnectBar(workplace), height=120), qtbot, find)


def test_before_anything_is_said_there_is_no_connection(window):
    assert window.text("connect.state") == "not connected"
    assert window.text("connect.mark") == "○"
    assert window.field(QComboBox, "connect.address").currentText() == "this computer"
    assert window.button("connect.go").text() == "&Connect"
    assert not window.button("connect.retry").isVisible()
    assert not window.button("connect.login").isVisible(), "nobody need say to this computer who one is"
    assert window.text("connect.error.message") is None


def test_this_computer_is_connected_by_a_click(window, eventually):
    window.click("connect.go")
    eventually(lambda: window.text("connect.mark") == "●")
    assert window.text("connect.state").startswith("connected to this computer · CryoMamba ")
    assert window.text("connect.state").endswith(" · CPU")
    assert window.button("connect.go").text() == "Dis&connect"
    window.click("connect.go")
    assert window.text("connect.state") == "not connected"


def test_a_server_asks_for_a_token_which_is_pasted_and_kept(window, workplace, eventually, server_process):
    window.enter(server_process.url)
    window.click("connect.go")
    eventually(lambda: window.dialog)
    assert window.text("dialog.error.message").startswith("✕ ")
    assert window.field(QLineEdit, "dialog.address").text() == server_process.url
    token = server_process.token()
    line = window.paste(token)
    assert line.echoMode() == QLineEdit.EchoMode.Password
    window.click("dialog.go")
    eventually(lambda: workplace.desk.link.connected)
    assert window.dialog is None
    assert line.text() == "", "it is not kept in a field"
    place = server_process.url.partition("//")[2]
    assert window.text("connect.state").startswith(f"connected to {place} · CryoMamba ")
    eventually(lambda: CredentialStore().find(server_process.url))
    assert CredentialStore().find(server_process.url).token == token
    assert workplace.desk.history.engine == server_process.url


def test_a_server_that_is_known_asks_for_nothing(window, eventually, server_process):
    CredentialStore().keep(server_process.url, Credentials(token=server_process.token()))
    line = window.enter(server_process.url)
    window.qtbot.keyClick(line, Qt.Key.Key_Return)
    eventually(lambda: window.text("connect.mark") == "●")
    assert window.dialog is None


def test_servers_of_earlier_logins_are_offered(workplace, show, find, eventually):
    note_server("https://lab:8765")
    box = find(show(ConnectBar(workplace)), QComboBox, "connect.address")
    eventually(lambda: box.count() == 2)
    assert [box.itemText(place) for place in range(2)] == ["this computer", "https://lab:8765"]
    assert box.currentText() == "this computer"


def test_a_wrong_token_is_said_in_the_dialog_which_stays_open(window, eventually, server_process):
    window.enter(server_process.url)
    window.click("connect.go")
    eventually(lambda: window.dialog)
    window.paste("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln")
    window.click("dialog.go")
    eventually(lambda: window.bar._link.state is LinkState.REFUSED)
    assert window.dialog is not None
    assert window.text("dialog.error.message")
    assert window.text("dialog.error.hint")
    assert not default_file().exists(), "what has not worked is not kept"
    window.paste(server_process.token())
    window.click("dialog.go")
    eventually(lambda: window.dialog is None)
    assert window.text("connect.mark") == "●"


def test_the_token_is_seen_only_on_demand(window, find):
    window.enter("https://lab:8765")
    window.click("connect.login")
    line = window.paste("a-token")
    assert line.echoMode() == QLineEdit.EchoMode.Password
    window.check("dialog.show", wanted=True)
    assert line.echoMode() == QLineEdit.EchoMode.Normal
    window.click("dialog.cancel")
    assert window.dialog is None
    window.click("connect.login")
    assert (line.text(), line.echoMode()) == ("", QLineEdit.EchoMode.Password)


def test_nothing_is_kept_that_should_not_be(window, workplace, eventually, server_process):
    window.enter(server_process.url)
    window.click("connect.login")
    window.paste(server_process.token())
    window.check("dialog.keep", wanted=False)
    window.click("dialog.go")
    eventually(lambda: workplace.desk.link.connected)
    assert not default_file().exists()
    assert workplace.desk.history.engine is None


def test_a_strange_certificate_is_trusted_once_it_was_compared(window, workplace, eventually, tls_server_process):
    server = tls_server_process
    window.enter(server.url)
    window.click("connect.go")
    eventually(lambda: window.dialog)
    shown = window.text("dialog.fingerprint")
    assert shown.replace(" ", "").replace("\n", "") == server.fingerprint
    assert [len(group) for group in shown.split()] == [4] * 16
    assert window.text("connect.state").startswith("not connected to ")
    window.paste(server.token())
    window.click("dialog.trust")
    eventually(lambda: window.dialog is None)
    assert workplace.desk.link.connected
    eventually(lambda: CredentialStore().find(server.url))
    assert CredentialStore().find(server.url).fingerprint == server.fingerprint


def test_a_server_that_is_trusted_but_wants_a_token_is_not_compared_again(window, eventually, tls_server_process):
    server = tls_server_process
    window.enter(server.url)
    window.click("connect.go")
    eventually(lambda: window.dialog)
    window.click("dialog.trust")
    eventually(lambda: window.text("dialog.error.message"))
    assert not window.field(QWidget, "dialog.certificate").isVisible()
    assert not default_file().exists(), "it has not worked yet"
    window.paste(server.token())
    window.click("dialog.go")
    eventually(lambda: window.dialog is None)
    assert window.text("connect.mark") == "●"


def test_a_strange_certificate_that_is_not_trusted_leaves_no_connection(window, eventually, tls_server_process):
    window.enter(tls_server_process.url)
    window.click("connect.go")
    eventually(lambda: window.dialog)
    window.click("dialog.cancel")
    assert window.dialog is None
    assert window.text("connect.state") == "not connected"
    assert not default_file().exists()


def test_another_certificate_than_before_is_warned_of(window, eventually, tls_server_process):
    server = tls_server_process
    CredentialStore().keep(server.url, Credentials(token=server.token(), fingerprint="ab" * 32))
    window.enter(server.url)
    window.click("connect.go")
    eventually(lambda: window.dialog)
    assert "another certificate" in window.text("dialog.error.message")
    assert "do not go on" in window.text("dialog.about")
    window.click("dialog.trust")
    eventually(lambda: window.dialog is None)
    assert window.text("connect.mark") == "●"
    eventually(lambda: CredentialStore().find(server.url).fingerprint == server.fingerprint)


def test_a_server_that_stops_and_comes_back(window, workplace, eventually, server_process):
    CredentialStore().keep(server_process.url, Credentials(token=server_process.token()))
    window.enter(server_process.url)
    window.click("connect.go")
    eventually(lambda: window.text("connect.mark") == "●")
    server_process.kill()
    workplace.desk.link.retry_now()
    eventually(lambda: window.text("connect.mark") == "◐")
    place = server_process.url.partition("//")[2]
    assert window.text("connect.state").startswith(f"{place} does not answer, trying again")
    assert window.text("connect.error.message")
    assert window.button("connect.go").text() == "Dis&connect"
    eventually(lambda: window.text("connect.state").startswith(f"{place} has not answered for "))
    server_process.restart()
    window.click("connect.retry")
    eventually(lambda: window.text("connect.mark") == "●")
    assert window.text("connect.error.message") is None
    assert not window.button("connect.retry").isVisible()


def test_waiting_for_a_server_can_be_given_up(window, eventually):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        window.enter(f"http://127.0.0.1:{nobody.getsockname()[1]}")
        window.click("connect.go")
        eventually(lambda: window.text("connect.mark") == "◐")
        window.click("connect.go")
        assert window.text("connect.state") == "not connected"


def test_it_says_when_a_server_that_does_not_answer_is_asked_again(window, workplace, eventually):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        workplace.desk.link.connect(f"http://127.0.0.1:{nobody.getsockname()[1]}", remember=False)
        eventually(lambda: window.text("connect.state").endswith((", trying again in 1 s", ", trying again in 2 s")))


@pytest.mark.parametrize(
    ("waited", "left", "words"),
    [
        (0.4, None, "lab:8765 does not answer, trying again"),
        (0.4, 0.9, "lab:8765 does not answer, trying again in 1 s"),
        (12, 6.2, "lab:8765 has not answered for 12 s, trying again in 7 s"),
        (100, 0.0, "lab:8765 has not answered for 1:40, trying again"),
    ],
)
def test_waiting_is_put_into_words(waited, left, words):
    link = SimpleNamespace(state=LinkState.WAITING, url="https://lab:8765", info=None)
    assert words_of(link, waited=waited, left=left) == words


def test_the_address_is_that_of_the_engine_whoever_has_connected(window, workplace, server_process, eventually):
    address = window.field(QComboBox, "connect.address")
    workplace.desk.link.connect(server_process.url, Credentials(token=server_process.token()), remember=False)
    eventually(lambda: window.text("connect.mark") == "●")
    assert address.currentText() == server_process.url
    assert window.button("connect.go").text() == "Dis&connect"
    window.enter("https://other:8765")
    server_process.kill()
    workplace.desk.link.retry_now()
    eventually(lambda: window.text("connect.mark") == "◐")
    assert address.currentText() == "https://other:8765", "what is being entered is left alone"
    workplace.desk.link.connect("local:", remember=False)
    assert address.currentText() == "this computer"


def test_an_address_that_is_none_is_said_beside_with_what_to_write(window, eventually):
    window.enter("lab:8765")
    window.click("connect.go")
    eventually(lambda: window.text("connect.error.message"))
    assert window.text("connect.mark") == "✕"
    assert window.text("connect.state") == "not connected to lab:8765"
    assert "https://" in window.text("connect.error.hint")
    assert window.dialog is None


def test_another_server_can_be_entered_while_one_is_connected(window, eventually, server_process):
    CredentialStore().keep(server_process.url, Credentials(token=server_process.token()))
    window.click("connect.go")
    eventually(lambda: window.text("connect.mark") == "●")
    window.enter(server_process.url)
    assert window.button("connect.go").text() == "&Connect"
    window.click("connect.go")
    eventually(lambda: window.text("connect.mark") == "●")
    assert "127.0.0.1" in window.text("connect.state")
    box = window.field(QComboBox, "connect.address")
    assert [box.itemText(place) for place in range(box.count())] == ["this computer", server_process.url]


def test_the_token_stands_in_no_report_and_no_history(window, workplace, eventually, server_process, tmp_path):
    token = server_process.token()
    window.enter(server_process.url)
    window.click("connect.login")
    window.paste(token)
    window.click("dialog.go")
    eventually(lambda: workplace.desk.link.connected)
    assert token not in workplace.desk.journal.report()
    assert token not in json.dumps([str(entry) for entry in workplace.desk.journal.entries])


def test_the_bar_fits_a_narrow_panel(window):
    assert window.bar.minimumSizeHint().width() <= 320
