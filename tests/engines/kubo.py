"""A genuine Kubo repository (flatfs and LevelDB), opened in this process; nothing listens and nobody is dialled.

  make FOLDER    makes one with some files; prints its identity, its pins and its files as JSON
  busy FOLDER    opens it, prints READY, adds and unpins until its input ends: a line `ADDED CID N` for each file that
                 stays pinned; prints as `make` at the end
  check FOLDER   opens it; what `make` or `busy` printed comes by its input: the identity, every pin and every
                 pinned file must be there with the same bytes; prints how many pins there are
  content N      the bytes of the file that is called by this number
"""
import ctypes as C
import hashlib
import json
import os
import select
import sys
import time



def content(n):
    """Some are one block, some are many."""
    return b"".join(hashlib.sha256(b"%d-%d" % (n, k)).digest() for k in range(1 + n % 7 * (9000 if n % 7 == 3 else 90)))


if sys.argv[1] == "content":
    sys.stdout.buffer.write(content(int(sys.argv[2])))
    sys.exit()

L = C.CDLL(os.environ["LIBKUBO"])


def function(name, result, *arguments):
    f = getattr(L, name)
    f.restype, f.argtypes = result, arguments
    return f


s = C.c_char_p
create, run, clean = function("CreateRepo", C.c_int, s), function("RunNode", C.c_int, s), function("CleanupNode", C.c_int, s)
add, pin, unpin = function("AddFile", s, s, s, C.c_bool), function("PinCID", C.c_int, s, s), function("UnpinCID", C.c_int, s, s)
pins, get, identity = function("ListPins", s, s), function("Download", C.c_int, s, s, s), function("GetNodeID", s, s)


def ok(result, what, wanted=0):
    if result != wanted:
        sys.exit(f"{what} failed: {result}")


def quiet(folder):
    path = f"{folder}/config"
    with open(path) as file:
        c = json.load(file)
    c["Addresses"].update(Swarm=[], API=[], Gateway=[], Announce=[])
    c["Bootstrap"] = []
    c["Discovery"]["MDNS"]["Enabled"] = False
    c["Routing"] = {"Type": "none"}
    c["Swarm"].update(DisableNatPortMap=True, RelayClient={"Enabled": False}, RelayService={"Enabled": False})
    c["AutoNAT"] = {"ServiceMode": "disabled"}
    with open(path, "w") as file:
        json.dump(c, file, indent=2)


def put(repository, folder, n):
    name = f"{folder}.adding"
    with open(name, "wb") as file:
        file.write(content(n))
    cid = add(repository, name.encode(), False)
    os.unlink(name)
    return cid.decode() or sys.exit("AddFile failed")


def main(verb, folder):
    folder = os.path.abspath(folder)
    r = folder.encode()
    if verb == "check":
        wanted = json.load(sys.stdin)
    if verb == "make":
        ok(create(r), "CreateRepo", 1)
        quiet(folder)
    ok(run(r), "RunNode", 1)
    if verb == "check":
        if identity(r).decode() != wanted["id"]:
            sys.exit("the identity differs")
        there = set(json.loads(pins(r)))
        if lacking := set(wanted["pins"]) - there:
            sys.exit(f"pins are missing: {sorted(lacking)}")
        out = f"{folder}.out"
        for cid, n in wanted["files"].items():
            ok(get(r, cid.encode(), out.encode()), "Download " + cid)
            with open(out, "rb") as file:
                if file.read() != content(n):
                    sys.exit("other bytes: " + cid)
            os.unlink(out)
        print(len(there))
    else:
        files = {}
        if verb == "make":
            files = {put(r, folder, n): n for n in range(12)}
            gone = next(cid for cid, n in files.items() if n == 11)
            ok(unpin(r, gone.encode()), "UnpinCID")
            del files[gone]
        else:
            print("READY", flush=True)
            n = 1000
            while not select.select([sys.stdin], [], [], 0)[0]:
                cid = put(r, folder, n)
                if n % 5 == 4:
                    ok(unpin(r, cid.encode()), "UnpinCID")
                else:
                    files[cid] = n
                    print("ADDED", cid, n, flush=True)
                n += 1
                # Every copy is read whole: what grows for minutes grows slowly.
                time.sleep(0.03 if n < 1150 else 1)
        print(json.dumps({"id": identity(r).decode(), "files": files, "pins": sorted(json.loads(pins(r)))}))
    ok(clean(r), "CleanupNode")


main(*sys.argv[1:3])
