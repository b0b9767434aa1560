#!/usr/bin/env python3
"""Writes the seeds of the targets tokenizer, template and model under fuzz/corpus.

Usage, from the root of the repository: python3 fuzz/seeds.py
Takes templates, conversations and small tokenizers from tests/data; makes the rest.
"""

import json
import pathlib
import struct

DATA = pathlib.Path("tests/data")
CORPUS = pathlib.Path("fuzz/corpus")


def seed(target, name, data):
    directory = CORPUS / target
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"seed-{name}").write_bytes(data)


# GGUF, for both targets that read it.

U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5
CODES = {U32: "<I", F32: "<f", BOOL: "<?", I32: "<i"}


def string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def scalar(kind, value):
    return string(value) if kind == STRING else struct.pack(CODES[kind], value)


def gguf(keys, tensors=()):
    """`keys`: (name, type, value), a list being an array. `tensors`: (name, id, dims, data)."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for name, kind, value in keys:
        out += string(name)
        if isinstance(value, list):
            out += struct.pack("<IIQ", ARRAY, kind, len(value))
            out += b"".join(scalar(kind, item) for item in value)
        else:
            out += struct.pack("<I", kind) + scalar(kind, value)
    data = b""
    for name, type_id, dims, values in tensors:
        data += b"\0" * (-len(data) % 32)
        out += string(name) + struct.pack("<I", len(dims))
        out += b"".join(struct.pack("<Q", dim) for dim in reversed(dims))
        out += struct.pack("<IQ", type_id, len(data))
        data += values
    return out + b"\0" * (-len(out) % 32) + data


# Tokenizers: one vocabulary a model, as a description and as metadata.

SP = "\u2581"
BYTES = [(6, f"<0x{byte:02X}>") for byte in (0x0A, 0xC3, 0xA9)]
SPM = [(2, "<unk>"), (3, "<s>"), (3, "</s>"), (1, "a"), (1, "b"), (1, "ab"), (1, SP), (1, SP + "a"),
       (4, "  "), (5, "x"), *BYTES]
BPE = [(3, "<s>"), (1, "a"), (1, "b"), (1, "ab"), (1, "\u0120"), (1, "\u0120ab"), (1, "\u010a"), (1, "1"),
       (1, "'"), (1, "s"), (1, "'s"), (4, "<t>"), (3, "<|im_end|>"), (3, "</s>")]
WORDS = [(3, "[PAD]"), (3, "[UNK]"), (3, "[CLS]"), (3, "[SEP]"), (1, SP + "a"), (1, SP + "ab"), (1, "b"),
         (1, SP + "!"), (1, SP + "1")]
GEMMA = [(3, "<pad>"), (3, "<bos>"), (2, "<unk>"), (1, SP), (1, "a"), (1, SP + "a"), (1, "\n"), (1, "\n\n"),
         *BYTES]
VOCABULARIES = {
    "gpt2": (0, BPE, ["a b", "\u0120 ab", "' s"], {0: 0, 1: 13}),
    "llama": (1, SPM, [], {0: 1, 1: 2, 4: 0}),
    "t5": (2, SPM, [], {1: 2, 4: 0}),
    "bert": (3, WORDS, [], {0: 2, 4: 1, 5: 3}),
    "gemma4": (4, GEMMA, [SP + " a", "\n \n"], {0: 1, 4: 2}),
}
TEXTS = ["ab a b\n  ab<s>\u00e9 1's", "ababab" * 4, " \t\r\n\n  a!", "<|im_end|>[UNK]\u0130\u4f60\U0001f600e\u0301\0"]
RULES = 20


def charsmap():
    """A trie for "ab" -> "X" and "a" -> ""."""
    units = [0] * 256
    units[0] = 1 << 10
    a = 1 ^ 0x61
    units[a] = 0x61 | 1 << 8 | (a ^ 200) << 10
    units[200] = 1 << 31 | 2
    b = 200 ^ 0x62
    units[b] = 0x62 | 1 << 8 | (b ^ 10) << 10
    units[10] = 1 << 31
    return struct.pack("<I256I", 1024, *units) + b"X\0\0"


def description(model, pre, text, lists, vocabulary, merges, ids, table=None):
    entries = [text.encode()]
    entries += [b"%d" % kind + bytes([256 - i % 20 - 2]) + t.encode() for i, (kind, t) in enumerate(vocabulary)]
    entries += [b"m" + merge.encode() for merge in merges]
    entries += [b"i" + bytes([which, number]) for which, number in ids.items()]
    if table:
        entries.append(b"c" + table)
    return bytes([model, pre, 0xAA, lists]) + b"\xff".join(entries)


def tokenizers():
    for name, (model, vocabulary, merges, ids) in VOCABULARIES.items():
        for i, text in enumerate(TEXTS):
            seed("tokenizer", f"{name}-{i}", description(model, 1, text, 0, vocabulary, merges, ids))
        for lists in (0xC0, 0x08, 0x20, 0x01):
            data = description(model, 2, TEXTS[0], lists, vocabulary, merges, ids)
            seed("tokenizer", f"{name}-lists{lists}", data)
        keys = [
            ("tokenizer.ggml.model", STRING, name),
            ("tokenizer.ggml.pre", STRING, "qwen2"),
            ("tokenizer.ggml.tokens", STRING, [text for _, text in vocabulary]),
            ("tokenizer.ggml.token_type", I32, [kind for kind, _ in vocabulary]),
            ("tokenizer.ggml.scores", F32, [-float(i) for i in range(len(vocabulary))]),
            ("tokenizer.ggml.merges", STRING, merges),
            ("tokenizer.ggml.bos_token_id", U32, 1),
            ("tokenizer.ggml.unknown_token_id", U32, 0),
            ("tokenizer.ggml.add_bos_token", BOOL, True),
        ]
        seed("tokenizer", f"{name}-gguf", gguf(keys))
    model, vocabulary, merges, ids = VOCABULARIES["t5"]
    seed("tokenizer", "t5-map", description(model, 0, TEXTS[1], 0, vocabulary, merges, ids, charsmap()))
    seed("tokenizer", "t5-map-long", description(model, 0, TEXTS[1], 0xC0, vocabulary, merges, ids, charsmap()))
    _, vocabulary, merges, ids = VOCABULARIES["gpt2"]
    for pre in (0, 3, 13, RULES - 1):
        seed("tokenizer", f"pre{pre}", description(0, pre, TEXTS[pre % 4], 0, vocabulary, merges, ids))
    for rule in range(RULES - 2):
        text = (DATA / "real/ppl_text.txt").read_bytes()[rule * 200 : rule * 200 + 120]
        seed("tokenizer", f"rule{rule}-long", b"P" + bytes([rule | 0xE0]) + text)
        for i, text in enumerate([text, *map(str.encode, TEXTS)]):
            seed("tokenizer", f"rule{rule}-{i}", b"P" + bytes([rule]) + text)
    json_tokenizers()


def json_tokenizers():
    """Small `tokenizer.json` files, one for each kind of part."""
    added = [{"id": 9, "content": "<s>", "single_word": False, "lstrip": True, "rstrip": True,
              "normalized": False, "special": True}]
    vocab = {"a": 0, "b": 1, "ab": 2, "\u0120": 3, SP: 4, "<0x0A>": 5, "<unk>": 6}
    bpe = {"type": "BPE", "vocab": vocab, "merges": [["a", "b"]], "unk_token": "<unk>", "byte_fallback": True,
           "fuse_unk": True, "ignore_merges": False}
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], [SP, -1.0], ["a", -2.0], ["ab", -3.0]],
               "byte_fallback": False}
    words = {"type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1, "##b": 2}, "unk_token": "[UNK]",
             "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    level = {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    split = {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}|\\s+(?!\\S)|\\w+"}, "behavior": "Isolated",
             "invert": False}
    metaspace = {"type": "Metaspace", "replacement": SP, "prepend_scheme": "first", "split": False}
    pres = [None, byte_level, {"type": "Sequence", "pretokenizers": [split, byte_level | {"use_regex": False}]},
            metaspace, {"type": "Whitespace"}, {"type": "Digits", "individual_digits": True},
            {"type": "BertPreTokenizer"}, {"type": "Punctuation", "behavior": "Isolated"},
            {"type": "FixedLength", "length": 2}, {"type": "CharDelimiterSplit", "delimiter": " "},
            {"type": "UnicodeScripts"}, {"type": "WhitespaceSplit"}]
    norms = [None, {"type": "NFC"}, {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SP},
             {"type": "Replace", "pattern": {"String": " "}, "content": SP}]},
             {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
              "lowercase": True}, {"type": "Strip", "strip_left": True, "strip_right": False},
             {"type": "Replace", "pattern": {"Regex": "(?!b)a|"}, "content": "ab"}, {"type": "StripAccents"}]
    decoders = [None, byte_level, metaspace, {"type": "WordPiece", "prefix": "##", "cleanup": True},
                {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": SP}, "content": " "},
                 {"type": "ByteFallback"}, {"type": "Fuse"},
                 {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}]
    posts = [None, {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
             {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
             "special_tokens": {"<s>": {"id": "<s>", "ids": [9], "tokens": ["<s>"]}}},
             {"type": "BertProcessing", "sep": ["<s>", 9], "cls": ["a", 0]}, byte_level]
    parts = {"model": [bpe, unigram, words, level], "pre_tokenizer": pres, "normalizer": norms,
             "decoder": decoders, "post_processor": posts}
    count = 0
    for model in range(4):
        for turn in range(12):
            whole = {"version": "1.0", "added_tokens": added if turn else []}
            for i, (key, choices) in enumerate(parts.items()):
                at = model if key == "model" else turn + i + 1
                whole[key] = choices[at % len(choices)]
            data = json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()
            seed("tokenizer", f"json-{count}", data)
            count += 1


# Templates.


def templates():
    conversations = json.loads((DATA / "chat/conversations.json").read_text())
    conversations = list(conversations.values()) if isinstance(conversations, dict) else conversations
    for i, path in enumerate(sorted((DATA / "chat/templates").glob("*.jinja"))):
        source = path.read_bytes()
        seed("template", path.stem, source)
        chosen = conversations[i % len(conversations)]
        messages = chosen.get("messages", []) if isinstance(chosen, dict) else chosen
        parts = [source, json.dumps(messages).encode()]
        if isinstance(chosen, dict) and chosen.get("tools"):
            parts.append(json.dumps(chosen["tools"]).encode())
        if len(source) < 6000:
            seed("template", path.stem + "-messages", b"\xff".join(parts))
    small = [
        "{% for m in messages %}{{ m.role }}: {{ m['content'] | trim }}\n{% endfor %}",
        "{% macro f(x, y=1) %}{{ x ~ y }}{% endmacro %}{{ f(2) }}{{ f(y=3, x='a') }}",
        "{% set ns = namespace(a=[]) %}{% for i in range(3) %}{% set ns.a = ns.a + [i] %}{% endfor %}{{ ns.a }}",
        "{{ messages | tojson(indent=2) }}{{ 'a,b'.split(',') | join('-') | upper }}",
        "{{ raise_exception('no ' + bos_token) }}",
        "{{ strftime_now('%d %b %Y') }}{{ 'x' if messages[0].role == 'system' else loop }}",
        "{%- call(x) f() -%}{{ x }}{%- endcall -%}{% filter upper %}a{% endfilter %}",
        "{% for k, v in {'a': 1, 'b': [2]}.items() if v is defined %}{{ loop.index0 }}{{ k }}{{ v }}{% endfor %}",
        "{{ 'abc'[::-1] }}{{ [1, 2, 3][1:] }}{{ '%5.2f|%-4s' | format(1.5, 'a') }}{{ '{:>4}'.format('a') }}",
        "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }}",
        "{{ [3, 1] | sort | unique | batch(2) | list }}{{ 7 // 2 % 3 ** 2 }}{{ not 1 < 2 <= 3 }}",
        "{% generation %}{{ 'a'.replace('a', 'b', 1).rstrip('b').count('') }}{% endgeneration %}",
    ]
    for i, source in enumerate(small):
        seed("template", f"small-{i}", source.encode())


# Models: the smallest of each family.

HIDDEN, INNER, HEADS, DIM, VOCAB = 32, 32, 4, 8, 6
FAMILIES = {
    # family: (norms after, norm of q and k, fused, further keys)
    "llama": (False, None, False, ["rope.freq_base f32 10000", "vocab_size u32 6", "rope.dimension_count u32 8"]),
    "qwen2": (False, None, False, ["rope.freq_base f32 1000000"]),
    "qwen3": (False, DIM, False, ["attention.key_length u32 8", "attention.value_length u32 8"]),
    "gemma2": (True, None, False, ["attn_logit_softcapping f32 50", "final_logit_softcapping f32 30",
                                   "attention.sliding_window u32 2"]),
    "gemma3": (True, DIM, False, ["attention.sliding_window u32 2", "rope.scaling.type str linear",
                                  "rope.scaling.factor f32 8"]),
    "phi3": (False, None, True, ["rope.dimension_count u32 8", "rope.scaling.original_context_length u32 16",
                                 "rope.scaling.attn_factor f32 1.19"]),
    "smollm3": (False, None, False, []),
    "granite": (False, None, False, ["attention.scale f32 0.1", "embedding_scale f32 12",
                                     "residual_scale f32 0.2", "logit_scale f32 8"]),
    "olmo2": (True, 0, False, ["rope.scaling.type str yarn", "rope.scaling.factor f32 4",
                               "rope.scaling.original_context_length u32 16"]),
}


def model_lines(family, layers, format_name):
    after, qk_norm, fused, further = FAMILIES[family]
    lines = [f"general.architecture str {family}"]
    counts = {"block_count": layers, "context_length": 64, "embedding_length": HIDDEN,
              "feed_forward_length": INNER, "attention.head_count": HEADS, "attention.head_count_kv": HEADS // 2}
    lines += [f"{family}.{name} u32 {count}" for name, count in counts.items()]
    lines.append(f"{family}.attention.layer_norm_rms_epsilon f32 0.00001")
    lines += [f"{family}.{line}" for line in further]
    q, kv = HEADS * DIM, HEADS // 2 * DIM
    lines += [f"token_embd.weight {format_name} {VOCAB} {HIDDEN}", f"output_norm.weight F32 {HIDDEN}"]
    for layer in range(layers):
        matrices = {"attn_output": (HIDDEN, q), "ffn_down": (HIDDEN, INNER)}
        if fused:
            matrices |= {"attn_qkv": (q + 2 * kv, HIDDEN), "ffn_up": (2 * INNER, HIDDEN)}
        else:
            matrices |= {"attn_q": (q, HIDDEN), "attn_k": (kv, HIDDEN), "attn_v": (kv, HIDDEN),
                         "ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN)}
        lines += [f"blk.{layer}.{name}.weight {format_name} {r} {c}" for name, (r, c) in matrices.items()]
        norms = {} if family == "olmo2" else {"attn_norm": HIDDEN, "ffn_norm": HIDDEN}
        if after:
            norms |= {"post_attention_norm": HIDDEN, "post_ffw_norm": HIDDEN}
        if qk_norm is not None:
            norms |= {"attn_q_norm": qk_norm or q, "attn_k_norm": qk_norm or kv}
        lines += [f"blk.{layer}.{name}.weight F32 {length}" for name, length in norms.items()]
        if family == "qwen2":
            lines += [f"blk.{layer}.{name}.bias F32 {n}" for name, n in
                      {"attn_q": q, "attn_k": kv, "attn_v": kv}.items()]
    if family == "phi3":
        lines += ["rope_factors_short.weight F32 4", "rope_factors_long.weight F32 4"]
    return lines


def model_file(lines):
    """The description as GGUF, its matrices in F32."""
    keys, tensors = [], []
    for line in lines:
        name, what, *words = line.split(" ")
        if what == "u32":
            keys.append((name, U32, int(words[0])))
        elif what == "f32":
            keys.append((name, F32, float(words[0])))
        elif what == "str":
            keys.append((name, STRING, words[0]))
        else:
            dims = [int(word) for word in words]
            count = 1
            for dim in dims:
                count *= dim
            data = b"".join(struct.pack("<f", (i * 37 % 101 - 50) / 250 + 0.25) for i in range(count))
            tensors.append((name, 0, dims, data))
    return gguf(keys, tensors)


def models():
    fills = [b"\0\x3c\0\x3c", struct.pack("<ff", 0.5, 1.5), bytes(range(1, 60)), b"\x7f\x80"]
    formats = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4"]
    for i, family in enumerate(FAMILIES):
        for fill in (0, 1):
            lines = model_lines(family, 1 + i % 2, "F32")
            data = "\n".join(lines).encode() + b"\0" + fills[fill]
            seed("model", f"{family}-{fill}", data)
        seed("model", f"{family}-gguf", model_file(model_lines(family, 1, "F32")))
    for i, name in enumerate(formats):
        lines = model_lines("llama", 1, name)
        seed("model", f"llama-{name}", "\n".join(lines).encode() + b"\0" + fills[i % 4])
    blocks = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S",
              "IQ3_XXS", "IQ3_S", "IQ4_XS", "TQ1_0", "TQ2_0"]
    for i, name in enumerate(blocks):
        lines = [line.replace(f" {HIDDEN}", " 256") if "weight" not in line else line
                 for line in model_lines("llama", 1, name)]
        lines = [wide(line, name) for line in lines]
        seed("model", f"llama-{name}", "\n".join(lines).encode() + b"\0" + fills[i % 4])


def wide(line, format_name):
    """The same with a hidden state of one block of 256; what is narrower stays F32."""
    if line.startswith("llama.embedding_length"):
        return "llama.embedding_length u32 256"
    if line.startswith(("llama.feed_forward", "llama.rope.dim")):
        return line.replace(" 256", " 32")
    if line.startswith("llama.block_count"):
        return line + "\nllama.attention.key_length u32 8"
    if "norm.weight" in line:
        return line.replace(" 32", " 256")
    if "attn_output" in line or "ffn_down" in line:
        return line.replace(format_name, "F32").replace(" 32 32", " 256 32")
    if line.endswith(" 32"):
        return line[:-3] + " 256"
    return line


if __name__ == "__main__":
    tokenizers()
    templates()
    models()
    for target in ("tokenizer", "template", "model"):
        files = list((CORPUS / target).glob("seed-*"))
        print(target, len(files), "seeds,", sum(f.stat().st_size for f in files), "bytes")
