"""The sets of data that `tests/bench` measures on: each is made, and about 1 % of it changed, the same for all.

`main`     what `make-dataset` makes: 2 GiB in 24,000 files of all components
`million`  1,000,000 files of 4 KiB that do not compress, in 1,000 folders
`sparse`   one file of 20 GiB of which 512 MiB are there, in pieces of 1 MiB that do not compress
"""
import os, pathlib, random, subprocess

HERE = pathlib.Path(__file__).resolve().parent
MIB = 1 << 20


def make_main(top, scale):
    subprocess.run([HERE / 'make-dataset', top, '--scale', str(scale)], check=True)


def change_main(top, seed):
    subprocess.run([HERE / 'make-dataset', top, '--mutate', str(seed)], check=True)


def make_million(top, scale):
    noise = random.Random(20230102)
    for folder in range(round(1000 * scale)):
        place = f'{top}/models/{folder:03d}'
        os.makedirs(place)
        for name in range(1000):
            with open(f'{place}/{name:03d}.bin', 'wb', buffering=0) as file:
                file.write(noise.randbytes(4096))


def make_sparse(top, scale):
    noise = random.Random(20230103)
    length = round(20 * 1024 * scale)
    os.makedirs(f'{top}/models')
    with open(f'{top}/models/disk.img', 'wb') as file:
        file.truncate(length * MIB)
        for place in sorted(noise.sample(range(length), length // 40)):
            file.seek(place * MIB)
            file.write(noise.randbytes(MIB))


def change_sparse(top, seed):
    noise = random.Random(seed)
    with open(f'{top}/models/disk.img', 'r+b') as file:
        length = file.seek(0, 2) // MIB
        for place in noise.sample(range(length), max(1, length // 4000)):
            file.seek(place * MIB)
            file.write(noise.randbytes(MIB))


# name → (make it, change it, whether each program has the place for itself: two copies would not fit)
SETS = {'main': (make_main, change_main, False), 'million': (make_million, change_main, True),
        'sparse': (make_sparse, change_sparse, True)}
