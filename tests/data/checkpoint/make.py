"""Writes the files beside it with the public `gguf` (0.19) and `safetensors` (0.8) packages."""

import json

import gguf
import numpy as np
import safetensors

w = gguf.GGUFWriter("every_type.gguf", "test", endianess=gguf.GGUFEndian.LITTLE)
w.add_custom_alignment(64)
w.add_uint8("a.u8", 255)
w.add_int8("a.i8", -128)
w.add_uint16("a.u16", 65535)
w.add_int16("a.i16", -32768)
w.add_uint32("a.u32", 2**32 - 1)
w.add_int32("a.i32", -(2**31))
w.add_float32("a.f32", 0.1)
w.add_bool("a.true", True)
w.add_bool("a.false", False)
w.add_string("a.string", "Grüße, 世界 🌍")
w.add_uint64("a.u64", 2**64 - 1)
w.add_int64("a.i64", -(2**63))
w.add_float64("a.f64", 0.1)
w.add_array("b.strings", ["one", "zwei", "三", " four"])
w.add_array("b.i32s", [-1, 0, 2**31 - 1])
w.add_array("b.f32s", [0.5, -1.5])
w.add_array("b.bools", [True, False, True])
w.add_tensor("f32", np.arange(15, dtype=np.float32).reshape(3, 5))
w.add_tensor("f16", np.arange(24, dtype=np.float16).reshape(2, 3, 4))
w.add_tensor("vector", np.array([1.5], dtype=np.float32))
w.add_tensor("i32", np.arange(6, dtype=np.int32).reshape(2, 3))
q8 = gguf.quantize(np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64), gguf.GGMLQuantizationType.Q8_0)
w.add_tensor("q8_0", q8, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()

def write(path, rows):
    arrays = {n: np.array(v, dtype=t) for n, _, _, v, t in rows}
    specs = {
        n: safetensors.TensorSpec(dtype=d, shape=s, data_ptr=arrays[n].ctypes.data, data_len=arrays[n].nbytes)
        for n, d, s, _, _ in rows
    }
    open(path, "wb").write(safetensors.serialize(specs, metadata={"format": "pt"}))

parts = {
    "model-00001-of-00002.safetensors": [
        ("a.f32", "float32", [2, 3], range(6), np.float32),
        ("a.bf16", "bfloat16", [2, 2], [0x3F80, 0x4000, 0x4040, 0x4080], np.uint16),
        ("a.u8", "uint8", [3], [1, 2, 3], np.uint8),
        ("a.i64", "int64", [2], [-1, 7], np.int64),
    ],
    "model-00002-of-00002.safetensors": [
        ("b.f16", "float16", [1, 4], [1, 2, 3, 4], np.float16),
        ("b.scalar", "float32", [], 2.5, np.float32),
        ("b.f8", "float8_e4m3fn", [2, 2], [1, 2, 3, 4], np.uint8),
    ],
}
for file, rows in parts.items():
    write(f"sharded/{file}", rows)
weight_map = {row[0]: file for file, rows in parts.items() for row in rows}
json.dump({"metadata": {"total_size": 76}, "weight_map": weight_map}, open("sharded/model.safetensors.index.json", "w"), indent=1)
json.dump({"model_type": "test", "hidden_size": 3, "text_config": {"rope_theta": 10000.0}}, open("sharded/config.json", "w"), indent=1)
