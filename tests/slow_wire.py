"""A wire with a delay between two network namespaces, for `tests/bench --delay MS`.

Each namespace has one TUN device; what it sends reaches the other one MS milliseconds later, in both directions, so a
question and its answer take twice as long. Packets are carried whole and in order, nothing is lost but what does not
fit into the wire (64 MiB in each direction). The kernel's own delay (netem) is not in every kernel.
"""
import collections, contextlib, fcntl, os, select, struct, subprocess, threading, time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
MTU, MOST = 65535, 64 << 20
WIRE = 'wire'
# name → its address
SIDES = {'agent': '10.99.0.1', 'controller': '10.99.0.2'}


def _open_tun(namespace):
    """A TUN device that lies in a namespace."""
    device = os.open('/dev/net/tun', os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack('16sH22x', WIRE.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(['ip', 'link', 'set', WIRE, 'netns', namespace], check=True)
    return device


def _carry(source, target, delay, ended, broken):
    try:
        _carry_on(source, target, delay, ended)
    except OSError as error:
        broken.append(error)
        ended.set()


def _carry_on(source, target, delay, ended):
    waiting, held = collections.deque(), 0
    while not ended.is_set():
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            packet = waiting.popleft()[1]
            held -= len(packet)
            os.write(target, packet)
        left = max(0, waiting[0][0] - time.monotonic()) if waiting else 0.2
        ready, _, _ = select.select([source] if held < MOST else [], [], [], left)
        if ready:
            packet = os.read(source, MTU + 1)
            held += len(packet)
            waiting.append((time.monotonic() + delay, packet))


@contextlib.contextmanager
def slow_wire(milliseconds):
    """Gives the words that run a program at each side: {'agent': ['ip', 'netns', 'exec', …], …}."""
    names = {side: f'bench-{side}-{os.getpid()}' for side in SIDES}
    ended, threads, devices, broken = threading.Event(), [], [], []
    try:
        for side, name in names.items():
            subprocess.run(['ip', 'netns', 'add', name], check=True)
            devices.append(_open_tun(name))
            there = ['ip', '-n', name]
            for words in (['link', 'set', 'lo', 'up'], ['addr', 'add', f'{SIDES[side]}/24', 'dev', WIRE],
                          ['link', 'set', WIRE, 'mtu', str(MTU), 'txqueuelen', '2000', 'up']):
                subprocess.run(there + words, check=True)
        for source, target in (devices, devices[::-1]):
            threads.append(threading.Thread(target=_carry, args=(source, target, milliseconds / 1000, ended, broken)))
            threads[-1].start()
        yield {side: ['ip', 'netns', 'exec', name] for side, name in names.items()}
        if broken:
            raise broken[0]
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        for device in devices:
            os.close(device)
        for name in names.values():
            subprocess.run(['ip', 'netns', 'delete', name], check=False)
