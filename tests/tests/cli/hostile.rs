//! Damaged and hostile model files: one line that names the file, the right exit code, no panic,
//! little memory.

use std::path::Path;
use std::process::Command;

use host::checkpoint::Value;
use tests::{Ran, Running, Scratch, data, imp_cli, run};

use crate::synth::{Model, Noise};

/// Runs a greedy answer of two tokens under a limit of 3 GB of address space (threads and maps
/// included), so that an allocation by a claimed size ends the program.
fn limited(model: &str, more: &[&str]) -> Ran {
    let program = imp_cli();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v 3000000; exec \"$@\"", "sh"]).arg(program.get_program());
    command.args(["--model", model, "--threads", "1", "--max-tokens", "2"]).args(more);
    command.current_dir(data("")).env_remove("IMP_CONFIG").env("HOME", data(""));
    Running::start(&mut command, b"").end()
}

fn answer(model: &str) -> Ran {
    limited(model, &["--prompt-tokens", "1,2,3", "--temperature", "0"])
}

/// A model that cannot be opened: `--prompt` and `--inspect` say the same.
fn refused(model: &str, codes: &[i32], what: &str) -> String {
    let ran = answer(model);
    assert!(codes.contains(&ran.code.unwrap_or(-1)), "{what}: {:?}: {}", ran.code, ran.err);
    assert_eq!(ran.out, "", "{what}");
    let notice =
        |l: &&str| l.contains("all layers run on the CPU") || l.contains("imp-cli: warn: ");
    let errors: Vec<&str> = ran.err.lines().filter(|l| !notice(l)).collect();
    assert_eq!(errors.len(), 1, "{what}: {}", ran.err);
    let name = Path::new(model).file_name().expect("a name").to_str().expect("UTF-8");
    assert!(ran.err.contains(name), "{what} does not name {name}: {}", ran.err);
    ran.err
}

#[test]
fn truncated_files() {
    let scratch = Scratch::new("truncated");
    let synthetic = Model::llama().bytes();
    let real = std::fs::read(data("tiny/llama/llama-q4_0.gguf")).expect("a model");
    // A vocabulary fills the first 40 KB of the real one; its tensors are the synthetic one's case.
    let places = |file: &[u8], step| (0..file.len()).step_by(step).collect::<Vec<_>>();
    for (file, step) in [(&synthetic, 97), (&real, 997)] {
        for at in places(file, step) {
            let model = scratch.file("cut.gguf", &file[..at]);
            refused(&model, &[5], &format!("cut at {at} of {}", file.len()));
        }
    }
    let model = scratch.file("whole.gguf", &synthetic);
    assert_eq!(answer(&model).code, Some(0));
}

#[test]
fn what_is_not_a_model() {
    let scratch = Scratch::new("garbage");
    let mut noise = Noise(7);
    let noise: Vec<u8> = (0..4096).map(|_| (noise.next() * 256.0) as i32 as u8).collect();
    let after_magic = [&b"GGUF\x03\0\0\0"[..], &noise].concat();
    for (what, bytes) in [
        ("empty", &b""[..]),
        ("the magic alone", b"GGUF"),
        ("the magic of the other byte order", b"FUGG"),
        ("an older container", b"GGML\x01\0\0\0"),
        ("version 1", b"GGUF\x01\0\0\0\0\0\0\0\0\0\0\0"),
        ("version 4", b"GGUF\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ("text", b"once upon a time"),
        ("noise", &noise),
        ("noise after the magic", &after_magic),
    ] {
        refused(&scratch.file("garbage.gguf", bytes), &[5, 6], what);
    }
}

#[test]
fn claimed_sizes_are_not_believed() {
    let scratch = Scratch::new("claims");
    let header = |tensors: u64, keys: u64| {
        [&b"GGUF\x03\0\0\0"[..], &tensors.to_le_bytes(), &keys.to_le_bytes()].concat()
    };
    let key = |kind: u32| [&1u64.to_le_bytes()[..], b"k", &kind.to_le_bytes()].concat();
    let array = |kind: u32, len: u64| [&kind.to_le_bytes()[..], &len.to_le_bytes()].concat();
    let tensor = |dims: u32, dim: u64, kind: u32, offset: u64| {
        let sizes: Vec<u8> = (0..dims).flat_map(|_| dim.to_le_bytes()).collect();
        let (dims, kind, offset) = (dims.to_le_bytes(), kind.to_le_bytes(), offset.to_le_bytes());
        [&1u64.to_le_bytes()[..], b"t", &dims, &sizes, &kind, &offset].concat()
    };
    const STRING: u32 = 8;
    const ARRAY: u32 = 9;
    let nested = array(ARRAY, 1).repeat(3000);
    for (what, bytes) in [
        ("2⁶³ keys", header(0, 1 << 63)),
        ("2⁶⁴ − 1 tensors", header(u64::MAX, 0)),
        ("2⁴⁰ of both", header(1 << 40, 1 << 40)),
        ("a key of 2⁶³ bytes", [header(0, 1), (1u64 << 63).to_le_bytes().to_vec()].concat()),
        ("a text of 2⁶³ bytes", [header(0, 1), key(STRING), vec![255; 8]].concat()),
        ("2⁶³ bytes", [header(0, 1), key(ARRAY), array(0, 1 << 63)].concat()),
        ("2⁶³ texts", [header(0, 1), key(ARRAY), array(STRING, 1 << 63)].concat()),
        ("2⁶¹ numbers of 8 bytes", [header(0, 1), key(ARRAY), array(12, 1 << 61)].concat()),
        ("nested arrays", [header(0, 1), key(ARRAY), nested].concat()),
        ("an unknown type of value", [header(0, 1), key(77), vec![0; 64]].concat()),
        ("no dimension", [header(1, 0), tensor(0, 1, 0, 0), vec![0; 64]].concat()),
        ("2³² dimensions", [header(1, 0), tensor(0, 1, 0, 0), vec![255; 64]].concat()),
        ("9 dimensions", [header(1, 0), tensor(9, 1, 0, 0), vec![0; 64]].concat()),
        ("a dimension of 0", [header(1, 0), tensor(2, 0, 0, 0), vec![0; 64]].concat()),
        ("a negative dimension", [header(1, 0), tensor(1, u64::MAX, 0, 0), vec![0; 64]].concat()),
        ("a product of 2¹²⁸", [header(1, 0), tensor(4, 1 << 32, 0, 0), vec![0; 64]].concat()),
        ("a tensor of 2⁴⁰ bytes", [header(1, 0), tensor(1, 1 << 38, 0, 0), vec![0; 64]].concat()),
        (
            "an offset near 2⁶⁴",
            [header(1, 0), tensor(1, 8, 0, u64::MAX - 31), vec![0; 64]].concat(),
        ),
        ("an odd offset", [header(1, 0), tensor(1, 8, 0, 7), vec![0; 64]].concat()),
        ("an unknown type of tensor", [header(1, 0), tensor(1, 32, 999, 0), vec![0; 64]].concat()),
    ] {
        refused(&scratch.file("claims.gguf", bytes), &[5, 6], what);
    }
}

#[test]
fn keys_that_contradict() {
    let scratch = Scratch::new("keys");
    let set = |key: &str, value: Value| Model::llama().key(key, value);
    let count = |key: &str, n: u32| set(key, Value::U32(n));
    let mut twice = Model::llama();
    twice.keys.push(("llama.block_count".to_owned(), Value::U32(2)));
    let mut overlong = Model::llama();
    overlong.tensors.truncate(7);
    for (model, part) in [
        (Model::llama().without("general.architecture"), "general.architecture is missing"),
        (Model::llama().without("llama.block_count"), "llama.block_count"),
        (Model::llama().without("llama.attention.head_count"), "head_count"),
        (twice, "llama.block_count"),
        (overlong, "tensor"),
        (set("general.architecture", Value::U32(1)), "general.architecture"),
        (set("llama.block_count", Value::string("one")), "llama.block_count"),
        (set("llama.block_count", Value::I32(-1)), "llama.block_count"),
        (count("llama.block_count", 0), "block_count"),
        (count("llama.block_count", 2), "blk.1"),
        (count("llama.block_count", u32::MAX), "block_count"),
        (count("llama.embedding_length", 64), "token_embd.weight"),
        (count("llama.embedding_length", 0), "embedding_length"),
        (count("llama.feed_forward_length", 65), "ffn_"),
        (count("llama.attention.head_count", 0), "head_count"),
        (count("llama.attention.head_count", 5), "head_count"),
        (count("llama.attention.head_count_kv", 3), "head_count"),
        (count("llama.attention.head_count_kv", 0), "head_count"),
        (count("llama.rope.dimension_count", 9), "rope.dimension_count"),
        (count("llama.vocab_size", 95), "vocab"),
        (count("llama.vocab_size", u32::MAX), "vocab"),
        (count("llama.context_length", 0), "context_length"),
        (set("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::NAN)), "epsilon"),
        (count("general.alignment", 0), "general.alignment"),
        (count("general.alignment", 3), "general.alignment"),
        (set("general.alignment", Value::string("32")), "general.alignment"),
        (set("split.count", Value::U16(3)), "split"),
        (set("tokenizer.ggml.model", Value::string("abacus")), "tokenizer.ggml"),
        (set("tokenizer.ggml.model", Value::string("gpt2")), "tokenizer.ggml"),
        (Model::llama().tensor("output.weight", |t| t.shape = vec![32, 96]), "output.weight"),
        (
            Model::llama().tensor("output_norm.weight", |t| t.name = "blk.0.attn_q.weight".into()),
            "blk.0.attn_q.weight",
        ),
        (Model::llama().tensor("output_norm.weight", |t| t.name = "a.b".into()), "output_norm"),
    ] {
        let error = refused(&model.file(&scratch), &[5, 6], part);
        assert!(error.contains(part), "no {part}: {error}");
    }
    // Written by hand: the writer would honour it, with gigabytes of padding.
    let mut huge = count("general.alignment", 32).bytes();
    let name = b"general.alignment";
    let at = huge.windows(name.len()).position(|w| w == name).expect("the key");
    let value = at + name.len() + 4; // after the type
    huge[value..value + 4].copy_from_slice(&(1u32 << 31).to_le_bytes());
    let error = refused(&scratch.file("huge.gguf", huge), &[5], "alignment 2³¹");
    assert!(error.contains("huge.gguf"), "{error}");

    let unknown = set("general.architecture", Value::string("frobnicator"));
    let error = refused(&unknown.file(&scratch), &[6], "architecture");
    assert!(error.contains("frobnicator") && error.contains("known: llama"), "{error}");
}

#[test]
fn changed_bytes_never_crash() {
    let scratch = Scratch::new("flips");
    let file = Model::llama().bytes();
    // The header is where bytes have a meaning: about 1.2 KB.
    for at in (8..1300).step_by(13) {
        for value in [0x00, 0x80, 0xff] {
            let mut changed = file.clone();
            changed[at] = value;
            let ran = answer(&scratch.file("changed.gguf", changed));
            let code = ran.code.unwrap_or(-1);
            assert!(matches!(code, 0 | 1 | 5 | 6), "byte {at} is {value}: {code}: {}", ran.err);
        }
    }
}

#[test]
fn weights_that_are_not_numbers_end_the_answer() {
    let scratch = Scratch::new("nan");
    for value in [f32::NAN, f32::INFINITY] {
        let model = Model::llama().tensor("output.weight", |t| t.values[40] = value);
        let ran = answer(&model.file(&scratch));
        assert_eq!((ran.code, ran.out.as_str()), (Some(5), ""), "{}", ran.err);
        assert!(ran.err.contains("NaN"), "{}", ran.err);
    }
}

/// A copy of the tiny SafeTensors llama.
fn directory(scratch: &Scratch) -> String {
    for entry in std::fs::read_dir(data("tiny/llama")).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e != "gguf") {
            let name = path.file_name().expect("a name");
            std::fs::copy(&path, scratch.dir().join(name)).expect("a copy");
        }
    }
    scratch.dir().to_str().expect("UTF-8").to_owned()
}

#[test]
fn damaged_directories() {
    let scratch = Scratch::new("directory");
    let model = directory(&scratch);
    assert_eq!(answer(&model).code, Some(0));
    let damages: [(&str, Option<&[u8]>, &str); 12] = [
        ("config.json", None, "config.json"),
        ("config.json", Some(b"{"), "config.json"),
        ("config.json", Some(b"[]"), "config.json"),
        ("config.json", Some(b"{\"architectures\": [\"Frobnicator\"]}"), "Frobnicator"),
        ("tokenizer.json", Some(b"{"), "tokenizer.json"),
        ("tokenizer.json", Some(b"{\"model\": {\"type\": \"BPE\"}}"), "tokenizer.json"),
        ("tokenizer.json", Some(b"\xff\xfe"), "tokenizer.json"),
        ("model.safetensors", None, "model.safetensors"),
        ("model.safetensors", Some(b""), "model.safetensors"),
        ("model.safetensors", Some(&[255; 64]), "model.safetensors"),
        ("model.safetensors", Some(b"\x02\0\0\0\0\0\0\0{}"), "tensor"),
        ("tokenizer_config.json", Some(b"no"), "tokenizer_config.json"),
    ];
    for (name, content, part) in damages {
        let path = scratch.dir().join(name);
        let whole = std::fs::read(&path).expect("a file of the model");
        match content {
            Some(content) => std::fs::write(&path, content).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let ran = answer(&model);
        let what = format!("{name} as {content:?}: {:?}: {}", ran.code, ran.err);
        assert!(matches!(ran.code, Some(4..=6)) && ran.out.is_empty(), "{what}");
        assert!(ran.err.contains(part), "no {part}: {what}");
        std::fs::write(&path, whole).unwrap();
    }
    // Every cut of the weights.
    let path = scratch.dir().join("model.safetensors");
    let whole = std::fs::read(&path).expect("the weights");
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        std::fs::write(&path, &whole[..at]).unwrap();
        let ran = answer(&model);
        assert_eq!((ran.code, ran.out.as_str()), (Some(5), ""), "cut at {at}: {}", ran.err);
        assert!(ran.err.contains("model.safetensors"), "{}", ran.err);
    }
}

#[test]
fn hostile_chat_templates_end() {
    let scratch = Scratch::new("template");
    let model = directory(&scratch);
    std::fs::remove_file(scratch.dir().join("tokenizer_config.json")).unwrap();
    let endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) \
                   %}{% set x = i * j %}{% endfor %}{% endfor %}{% endfor %}";
    let nested = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    let huge = "{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}";
    let product = "{% set x = 'x' * 9999999999 %}{{ x }}";
    let broken = "{% for message in messages %}";
    let deep = "(".repeat(5000);
    let deep = format!("{{{{ {deep} }}}}");
    for template in [endless, nested, huge, product, broken, &deep, "{{ nothing.there.at.all }}"] {
        std::fs::write(scratch.dir().join("chat_template.jinja"), template).unwrap();
        let ran = limited(&model, &["--prompt", "hello"]);
        let shown: String = template.chars().take(40).collect();
        assert!(matches!(ran.code, Some(1 | 5)), "{shown}: {:?}: {}", ran.code, ran.err);
        assert_eq!(ran.out, "", "{shown}");
        assert!(ran.err.contains("template"), "{shown}: {}", ran.err);
        // The way out that the error names.
        assert!(ran.err.contains("--chat-template"), "{shown}: {}", ran.err);
        let ran = limited(&model, &["--prompt", "hello", "--chat-template", "none"]);
        assert_eq!(ran.code, Some(0), "{shown}: {}", ran.err);
    }
}

#[test]
fn files_that_cannot_be_read() {
    let scratch = Scratch::new("unreadable");
    // An empty directory, and a directory where a file is expected.
    let ran = run(&["--model", scratch.dir().to_str().unwrap(), "--prompt", "a"]);
    assert!(matches!(ran.code, Some(4 | 5)), "{:?}: {}", ran.code, ran.err);
    let part = scratch.dir().join("model.gguf");
    std::fs::create_dir(&part).unwrap();
    let ran = run(&["--model", part.to_str().unwrap(), "--inspect"]);
    assert!(matches!(ran.code, Some(4 | 5)), "{:?}: {}", ran.code, ran.err);
    assert!(ran.err.contains("model.gguf"), "{}", ran.err);
}
