"""An application that uses a folder: it has a file open for writing, and answers over a socket with what is
there. For tests of restores, which stop and start it by its commands.

    restore_app.py COMMAND FOLDER RUN

COMMAND: start, stop, is-running, healthy, serve, get, set=TEXT. RUN is a folder of its own: `hold-COMMAND` in it
holds the next such command, which then has made `at-COMMAND`; `fail-COMMAND` lets it fail;
`late-stop` lets the next stop fail and happen a second later.
Healthy is every value that does not begin with `bad`.
"""
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit("waited in vain")
        time.sleep(0.005)


def is_locked(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def process(run):
    """The id of the process that serves, if one does: it holds the lock for as long as it lives."""
    try:
        file = open(f"{run}/pid", "r+")
    except FileNotFoundError:
        return None
    with file:
        return None if is_locked(file) else int(file.read() or 0) or None


def serve(folder, run):
    lock = open(f"{run}/pid", "a+")
    # Whoever looks whether it runs holds the lock for a moment: that is nobody who serves.
    wait_until(lambda: is_locked(lock), 1)
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    # Opened for writing, and written only if it is not there: a folder that was restored stays as it is.
    held = open(f"{folder}/held", "a+")
    if held.tell() == 0:
        held.write("held")
        held.flush()
    place = f"{run}/socket"
    if os.path.exists(place):
        os.unlink(place)
    door = socket.socket(socket.AF_UNIX)
    door.bind(place)
    door.listen(8)
    with open(f"{run}/starts", "a") as starts:
        starts.write("x")
    door.settimeout(1)
    # Whoever made the folder may be gone, and the folder with it.
    while os.path.exists(place):
        try:
            caller, _ = door.accept()
        except TimeoutError:
            continue
        with caller:
            asked = caller.recv(1000).decode()
            if asked.startswith("set="):
                with open(f"{folder}/value", "w") as value:
                    value.write(asked[4:])
            with open(f"{folder}/value") as value:
                caller.sendall(value.read().encode())


def ask(run, text):
    caller = socket.socket(socket.AF_UNIX)
    caller.settimeout(5)
    caller.connect(f"{run}/socket")
    caller.sendall(text.encode())
    return caller.recv(1000).decode()


def main(command, folder, run):
    name = command.split("=")[0]
    if os.path.exists(f"{run}/hold-{name}"):
        open(f"{run}/at-{name}", "w").close()
        wait_until(lambda: not os.path.exists(f"{run}/hold-{name}"), 60)
    if os.path.exists(f"{run}/late-{name}"):
        # Told to stop, it does so when nobody waits for it any more.
        os.unlink(f"{run}/late-{name}")
        kill = (
            f"import os, time; time.sleep(1); open({run + '/was-late'!r}, 'w').close(); "
            f"os.kill({process(run)}, 15)"
        )
        subprocess.Popen(
            [sys.executable, "-c", kill], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )
        sys.exit(f"{name} was told to be late")
    if os.path.exists(f"{run}/fail-{name}"):
        sys.exit(f"{name} was told to fail")
    if command == "serve":
        serve(folder, run)
    elif command == "start":
        subprocess.Popen(
            [sys.executable, "-IS", __file__, "serve", folder, run],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(lambda: process(run))
    elif command == "stop":
        if running := process(run):
            os.kill(running, signal.SIGTERM)
            wait_until(lambda: not process(run))
    elif command == "is-running":
        sys.exit(0 if process(run) else 1)
    elif command == "healthy":
        value = ask(run, "get")
        if value.startswith("bad"):
            sys.exit(f"the value is {value}")
    else:
        print(ask(run, command))


main(*sys.argv[1:])
