"""OFFLINE=1: the stack starts and answers, and sends no packet to anything outside this machine."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.e2e.stacks import REPOSITORY

pytestmark = pytest.mark.slow

# A network of its own whose only way out leads nowhere: whatever tries it is counted, name look-ups too.
NAMESPACE = """
set -e
sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
ip link set lo up
ip link add out type veth peer name nowhere
ip addr add 10.99.0.2/24 dev out
ip link set out up
ip link set nowhere up
ip route add default via 10.99.0.1 dev out
exec "$@"
"""
# Up, a question, documents, down; then the count, and the same after one attempt on purpose.
VISIT = """
import json, socket, subprocess, sys
def sparkstack(*words):
    done = subprocess.run([sys.executable, "-m", "services.cli.main", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
def sent():
    (link,) = json.loads(subprocess.check_output(["ip", "-json", "-stats", "link", "show", "out"]))
    return link["stats64"]["tx"]["packets"]
sparkstack("up")
sparkstack("rag", "ingest", sys.argv[1], "--collection", "notes")
answer = sparkstack("rag", "ask", "notes", "When is the pump cleaned?")
sparkstack("down")
counted = sent()
try:
    socket.create_connection(("192.0.2.1", 80), timeout=2)
except OSError:
    pass
print(json.dumps({"answer": answer, "sent": counted, "sent_on_purpose": sent() - counted}))
"""


@pytest.mark.only("embedded")
@pytest.mark.timeout(300)
def test_processes_send_nothing_outside(new_stack, tmp_path):
    if os.geteuid() or not all(map(shutil.which, ("unshare", "ip", "sysctl"))):
        pytest.skip("optional: needs root, unshare and ip, to make a network of its own")
    stack = new_stack(OFFLINE="1")
    del stack.environment["HTTP_PROXY"]
    note = tmp_path / "pump.md"
    note.write_text("The pump is cleaned with vinegar every Tuesday.\n")
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", NAMESPACE, "sh", sys.executable, "-c", VISIT, str(note)],
        cwd=REPOSITORY, env=stack.environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr + stack.all_logs()
    found = json.loads(done.stdout)
    assert "vinegar" in found["answer"]
    assert found["sent_on_purpose"] > 0, "an attempt would be seen"
    assert found["sent"] == 0


def iptables(*arguments):
    done = subprocess.run(["iptables", "--wait", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def counting(subnets, comment):
    """Give a function that says how many packets have left these subnets, since this began."""
    rules = [["--source", net, "!", "--destination", net, "-m", "comment", "--comment", comment] for net in subnets]
    for rule in rules:
        iptables("--insert", "DOCKER-USER", *rule, "--jump", "RETURN")
    try:
        yield lambda: sum(
            int(line.split()[0])
            for line in iptables("--list", "DOCKER-USER", "--verbose", "--numeric", "--exact").splitlines()
            if comment in line
        )
    finally:
        for rule in rules:
            iptables("--delete", "DOCKER-USER", *rule, "--jump", "RETURN")


CONNECT = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=2)"


@pytest.mark.only("compose")
def test_containers_send_nothing_outside(new_stack, tmp_path):
    if os.geteuid() or not shutil.which("iptables"):
        pytest.skip("optional: needs root and iptables, to count packets")
    stack = new_stack(OFFLINE="1")
    assert "OFFLINE=1: nothing is pulled or built, and no network leads outside" in stack.up()
    docker = stack.docker
    networks = json.loads(docker.ask("network", "inspect", *stack.networks()))
    subnets = [config["Subnet"] for network in networks for config in network["IPAM"]["Config"]]
    note = tmp_path / "pump.md"
    note.write_text("The pump is cleaned with vinegar every Tuesday.\n")
    with counting(subnets, stack.project) as sent:
        # All start once more, now that it is counted.
        stack.run("restart", timeout_s=200)
        stack.run("rag", "ingest", str(note), "--collection", "notes")
        assert "vinegar" in stack.run("rag", "ask", "notes", "When is the pump cleaned?")
        assert "Paris" in stack.ask()["choices"][0]["message"]["content"]
        assert sent() == 0
        problems = {}
        for name, container in stack.containers().items():
            done = docker.run("exec", container.id, "python3", "-c", CONNECT)
            problems[name] = re.sub(r"\s+", " ", done.stderr.decode())[-200:]
            assert done.returncode != 0, f"{name} reached the outside"
        assert all("OSError" in each or "TimeoutError" in each for each in problems.values()), problems
        assert sent() > 0, "an attempt by the gateway, whose network is published, would have been seen"


@pytest.mark.only("compose")
def test_what_is_not_here_is_named_before_anything_starts(new_stack):
    said = new_stack(OFFLINE="1", SPARKSTACK_VERSION="0.0.1").run("up", code=1)
    assert "OFFLINE=1, and these images are not here: " in said
    assert "sparkstack/gateway:0.0.1" in said
    assert "BUNDLE=/folder make unbundle" in said
