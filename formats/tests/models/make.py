#!/usr/bin/env python3
"""Makes the models here, by the formats' own libraries, and `damages.json`: what is done to them.

    python3 -m venv V && V/bin/pip install safetensors==0.8.0 gguf==0.19.0 onnx==1.23.2 numpy==2.4.6
    V/bin/python make.py

A checkpoint of PyTorch is a zip with a fixed layout, which Python's own zipfile writes: PyTorch itself is too
large to be asked for it. What is damaged is what a check looks at: headers, lists, lengths, ends. The bytes of
tensors have no checksums, and are left alone.
"""
import io, json, os, pickle, zipfile
import gguf, numpy, onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from safetensors.numpy import save_file

os.chdir(os.path.dirname(os.path.abspath(__file__)))
random = numpy.random.default_rng(7)
damages = []


def array(shape, kind="float32"):
    return (random.standard_normal(shape) * 50).astype(kind)


def read(name):
    with open(name, "rb") as file:
        return file.read()


def damage(file, what, changed):
    """The change from the file to `changed`: what both begin and end with is left out. None: it is removed."""
    if changed is None:
        return damages.append({"file": file, "what": what, "remove": True})
    whole = read(file)
    assert changed != whole, (file, what)
    begin = 0
    while begin < min(len(whole), len(changed)) and whole[begin] == changed[begin]:
        begin += 1
    end = 0
    while end < min(len(whole), len(changed)) - begin and whole[-1 - end] == changed[-1 - end]:
        end += 1
    put = changed[begin : len(changed) - end]
    damages.append({"file": file, "what": what, "at": begin, "drop": len(whole) - end - begin, "put": put.hex()})


def cuts(file, count=20):
    whole = read(file)
    for nth in range(count):
        at = len(whole) * nth // count
        damage(file, f"cut off at byte {at}", whole[:at])
    # What a GGUF ends with only fills up to a multiple of 32 bytes.
    end = 32 if file.endswith(".gguf") else 1
    damage(file, f"cut off before its last {end}", whole[:-end])


def set_at(file, at, value, what):
    whole = bytearray(read(file))
    whole[at : at + len(value)] = value
    damage(file, what, bytes(whole))


# safetensors: one file, and a model of two with their list.
save_file({"a": array((4, 6)), "b": array((3,), "float16"), "c": array((2, 2), "int64"), "d": array((0, 5), "int8")}, "one.safetensors", {"format": "pt"})
shards = [{"w0": array((8, 4)), "b0": array((4,))}, {"w1": array((4, 8)), "b1": array((8,))}]
index = {"metadata": {"total_size": sum(t.nbytes for shard in shards for t in shard.values())}, "weight_map": {}}
for nth, shard in enumerate(shards, 1):
    name = f"model-{nth:05}-of-00002.safetensors"
    save_file(shard, name, {"format": "pt"})
    index["weight_map"].update({tensor: name for tensor in shard})
with open("model.safetensors.index.json", "w") as file:
    json.dump(index, file, indent=2)

# GGUF: settings of several kinds, plain and quantized tensors.
writer = gguf.GGUFWriter("small.gguf", "llama")
writer.add_context_length(128)
writer.add_token_list(["<s>", "</s>", "hello"])
writer.add_token_scores([0.0, 0.5, 1.0])
writer.add_tensor("token_embd.weight", array((3, 64)))
writer.add_tensor("output_norm.weight", array((64,), "float16"))
packed = gguf.quants.quantize(array((4, 64)), gguf.GGMLQuantizationType.Q8_0)
writer.add_tensor("blk.0.ffn_up.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()


# ONNX: tensors within, and tensors in a file beside it.
def onnx_model():
    weights = [numpy_helper.from_array(array((4, 6)), "w"), numpy_helper.from_array(array((6,), "float64"), "b")]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph([node], "small", [value("x", [1, 4])], [value("y", [1, 6])], weights)
    return helper.make_model(graph, producer_name="make.py")


onnx.save(onnx_model(), "within.onnx")
for old in ["beside.onnx.data"]:
    if os.path.exists(old):
        os.unlink(old)
onnx.save(onnx_model(), "beside.onnx", save_as_external_data=True, all_tensors_to_one_file=True, location="beside.onnx.data", size_threshold=0)


# A checkpoint of PyTorch: pickle that names storages, and a part for each.
class Storage:
    def __init__(self, key, count):
        self.id = ("storage", "FloatStorage", key, "cpu", count)


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.id if isinstance(value, Storage) else None


tensors = [array((16, 8)), array((8,))]
text = io.BytesIO()
Pickler(text, protocol=2).dump({f"t{nth}": Storage(str(nth), tensor.size) for nth, tensor in enumerate(tensors)})
with zipfile.ZipFile("checkpoint.pt", "w", zipfile.ZIP_STORED) as archive:
    parts = [("data.pkl", text.getvalue()), ("byteorder", b"little")]
    parts += [(f"data/{nth}", tensor.tobytes()) for nth, tensor in enumerate(tensors)]
    parts += [("version", b"3\n"), (".data/serialization_id", b"0" * 40)]
    for name, content in parts:
        archive.writestr(zipfile.ZipInfo(f"checkpoint/{name}", (1980, 1, 1, 0, 0, 0)), content)

# Every file cut off in twenty places and before its last byte.
for name in ["one.safetensors", "model-00002-of-00002.safetensors", "small.gguf", "within.onnx", "beside.onnx.data", "checkpoint.pt"]:
    cuts(name)

# safetensors: its header's length, and each number and kind in it.
for name in ["one.safetensors", "model-00001-of-00002.safetensors"]:
    whole = read(name)
    length = int.from_bytes(whole[:8], "little")
    for other in [0, length - 8, length + 8, len(whole), 2**32, 2**63 + 1]:
        set_at(name, 0, other.to_bytes(8, "little"), f"its header has {other} bytes")
    header = whole[8 : 8 + length]
    damage(name, "a byte more at its end", whole + b"\0")
    damage(name, "zeros at its beginning", bytes(64) + whole[64:])
    at = 0
    for word in [b'"data_offsets":[', b'"shape":[']:
        at = 0
        while (at := header.find(word, at)) >= 0:
            at += len(word)
            end = header.index(b"]", at)
            for digit in range(at, end):
                if header[digit : digit + 1].isdigit():
                    new = b"%d" % ((int(header[digit : digit + 1]) + 3) % 10)
                    # A tensor with no elements has none with five or eight in the other dimension.
                    if word == b'"shape":[' and b"0" in header[at:end].split(b","):
                        continue
                    set_at(name, 8 + digit, new, f"another digit at byte {8 + digit}")
    for kind, other in [(b'"F32"', b'"F64"'), (b'"F16"', b'"F64"'), (b'"I64"', b'"I32"'), (b'"F32"', b'"Q32"')]:
        if kind in header:
            set_at(name, 8 + header.index(kind), other, f"{kind} is {other}")

# The list of a model of two files.
damage("model-00002-of-00002.safetensors", "it is gone", None)
listed = read("model.safetensors.index.json")
damage("model.safetensors.index.json", "cut off", listed[: len(listed) // 2])
damage("model.safetensors.index.json", "a tensor more", listed.replace(b'"weight_map": {', b'"weight_map": { "w9": "model-00001-of-00002.safetensors",'))
damage("model.safetensors.index.json", "a tensor in the other file", listed.replace(b'"w0": "model-00001', b'"w0": "model-00002'))
damage("model.safetensors.index.json", "a file that never was", listed.replace(b'"w0": "model-00001', b'"w0": "model-00003'))

# GGUF: where its own reader finds each number.
reader = gguf.GGUFReader("small.gguf")
whole = read("small.gguf")
for at in range(4):
    set_at("small.gguf", at, bytes([whole[at] ^ 1]), f"another byte {at} of its magic")
set_at("small.gguf", 4, (99).to_bytes(4, "little"), "version 99")
for at, what in [(8, "tensors"), (16, "settings")]:
    count = int.from_bytes(whole[at : at + 8], "little")
    for other in [count + 1, 2**40]:
        set_at("small.gguf", at, other.to_bytes(8, "little"), f"{other} {what}")
for tensor in reader.tensors:
    parts, at = tensor.field.parts, tensor.field.offset
    spots = []
    for part in parts:
        spots.append(at)
        at += part.nbytes
    # The length of its name, the name, the number of dimensions, dimensions, the kind, the offset.
    set_at("small.gguf", spots[0], (2**40).to_bytes(8, "little"), f"{tensor.name}: a name of 2^40 bytes")
    set_at("small.gguf", spots[2], (9).to_bytes(4, "little"), f"{tensor.name}: nine dimensions")
    set_at("small.gguf", spots[3], (2**40).to_bytes(8, "little"), f"{tensor.name}: 2^40 in a row")
    set_at("small.gguf", spots[4], (200).to_bytes(4, "little"), f"{tensor.name}: no kind that there is")
    set_at("small.gguf", spots[5], (2**20).to_bytes(8, "little"), f"{tensor.name}: it lies beyond the end")
    set_at("small.gguf", spots[5], (int(parts[5][0]) + 1).to_bytes(8, "little"), f"{tensor.name}: it is not aligned")

# ONNX: what its own library can be made to write.
def changed(name, what, change):
    model = onnx.load(name, load_external_data=False)
    change(model)
    damage(name, what, model.SerializeToString())


def set_dims(tensor, dims):
    def change(model):
        model.graph.initializer[tensor].ClearField("dims")
        model.graph.initializer[tensor].dims.extend(dims)
    return change


def set_raw(tensor, raw):
    def change(model):
        model.graph.initializer[tensor].raw_data = raw
    return change


def set_external(tensor, key, value):
    def change(model):
        for entry in model.graph.initializer[tensor].external_data:
            if entry.key == key:
                entry.value = value
    return change


for dims in [[4, 7], [5, 6], [4], [2**40, 2**40], [-1, 6]]:
    changed("within.onnx", f"dimensions {dims}", set_dims(0, dims))
    changed("beside.onnx", f"dimensions {dims}", set_dims(0, dims))
for raw in [b"", b"1234", bytes(97)]:
    changed("within.onnx", f"{len(raw)} bytes for a tensor", set_raw(0, raw))
    changed("within.onnx", f"{len(raw)} bytes for another tensor", set_raw(1, raw))
for key, value in [("offset", "999999"), ("offset", "x"), ("length", "999999"), ("location", "gone.data"), ("location", "../beside.onnx.data"), ("location", "/etc/passwd")]:
    for tensor in [0, 1]:
        changed("beside.onnx", f"tensor {tensor}: {key} {value}", set_external(tensor, key, value))
damage("beside.onnx.data", "it is gone", None)

# The checkpoint: the numbers of its list that say where parts are.
whole = read("checkpoint.pt")
with zipfile.ZipFile("checkpoint.pt") as archive:
    infos = archive.infolist()
at = archive.start_dir
for info in infos:
    assert whole[at : at + 4] == b"PK\1\2"
    for offset, bytes_, what in [(20, 4, "its packed length"), (24, 4, "its length"), (42, 4, "where it begins")]:
        spot = at + offset
        number = int.from_bytes(whole[spot : spot + bytes_], "little")
        set_at("checkpoint.pt", spot, (number + 9).to_bytes(bytes_, "little"), f"{info.filename}: {what} is 9 more")
    set_at("checkpoint.pt", info.header_offset, b"XX", f"{info.filename}: it does not begin as a part")
    at += 46 + len(info.filename) + len(info.extra) + len(info.comment)
end = whole.rindex(b"PK\5\6")
for offset, what in [(0, "its mark"), (8, "parts here"), (10, "parts"), (12, "the list's length"), (16, "where the list begins")]:
    set_at("checkpoint.pt", end + offset, bytes([whole[end + offset] ^ 0x11]), f"the end: {what}")

unique = {json.dumps(one, sort_keys=True): one for one in damages}
with open("damages.json", "w") as file:
    file.write("[\n" + ",\n".join(json.dumps(one) for one in unique.values()) + "\n]\n")
print(len(unique), "damages")
