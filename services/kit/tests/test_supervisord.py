import socket
import time

import pytest
from supervisor import xmlrpc

from services.kit.supervisord import Faults, SupervisordClient, SupervisordGone, Unquotable, program, section


def test_faults_are_supervisors_own():
    ours = {name: value for name, value in vars(Faults).items() if name.isupper()}
    assert ours == {name: getattr(xmlrpc.Faults, name) for name in ours}


def test_one_that_never_answers_holds_nobody(tmp_path):
    """Its process is stopped: the system still takes connections for it, as many as its queue holds."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        client = SupervisordClient(tmp_path / "s", timeout_s=0.2)
        waiting = []
        for _ in range(4):  # from the third on it doesn't even connect
            started = time.monotonic()
            with pytest.raises(SupervisordGone):
                client.call("getState")
            assert time.monotonic() - started < 10
            held = socket.socket(socket.AF_UNIX)
            held.setblocking(False)
            held.connect_ex(str(tmp_path / "s"))
            waiting.append(held)
        for held in waiting:
            held.close()


def test_one_that_is_not_there_is_gone(tmp_path):
    with pytest.raises(SupervisordGone, match="No such file"):
        SupervisordClient(tmp_path / "s", timeout_s=5).processes()


def test_values_are_written_so_that_supervisord_reads_them_unharmed(tmp_path):
    from supervisor.options import ServerOptions

    log = tmp_path / "100% of it.log"
    text = program("p", ["/bin/echo", "a b", "%(here)s", "50%", '"'], log=log, directory=tmp_path)
    (tmp_path / "s.conf").write_text(section("supervisord", nodaemon="true") + "\n" + text)
    options = ServerOptions()
    options.configfile = str(tmp_path / "s.conf")
    options.realize([])
    (group,) = options.process_group_configs
    (found,) = group.process_configs
    assert found.name == "p"
    assert found.command == "/bin/echo 'a b' '%(here)s' 50% '\"'"
    assert found.stdout_logfile == str(log)


@pytest.mark.parametrize("value", ["/a ;b", "/a\nb"])
def test_values_that_supervisord_would_misread_are_refused(value):
    with pytest.raises(Unquotable, match="/a"):
        section("x", path=value)
