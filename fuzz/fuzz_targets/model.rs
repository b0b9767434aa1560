//! Model: any GGUF file ends in logits or an error; memory stays near the size of the file.
//!
//! The input is a file (`GGUF…`), or its description: lines `key type value` and
//! `tensor FORMAT dimensions` (outermost first), from which the file is written, and behind a
//! zero byte the data of all tensors, repeated as often as it takes.

#![no_main]

use std::path::Path;
use std::sync::Arc;

use gpu_kernels::formats::Format;
use host::checkpoint::{Bytes, Checkpoint, GgufWriter, Value};
use host::engine::LoadProgress;
use host::layers::decoder::{BatchLimits, Decoder, Placement};
use host::models::describe;
use host::ops::cpu::CpuOps;
use host::ops::{Batch, KvDtype, Span};
use libfuzzer_sys::fuzz_target;

/// Largest file that is written from a description.
const MAX_FILE: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let file = match data.starts_with(b"GGUF") {
        true => Some(data.to_vec()),
        false => write(data),
    };
    let Some(file) = file else { return };
    for exact in [true, false] {
        run(&file, exact);
    }
});

/// Loads the model and computes a prompt of two tokens and a third.
fn run(file: &[u8], exact: bool) -> Option<()> {
    let checkpoint =
        Checkpoint::from_gguf(Path::new("m.gguf"), Bytes::owned(file.to_vec())).ok()?;
    let (family, spec) = describe(&checkpoint, &config::RopeOverride::default()).ok()?;
    let all = [Placement { ops: Arc::new(CpuOps::new(1, exact)), layers: spec.layers.len() }];
    let limits = BatchLimits { rows: 2, logit_rows: 1, sequences: 1 };
    let mut decoder =
        Decoder::load(&checkpoint, family.name, spec, &all, limits, &mut Silent).ok()?;
    let dtype = if exact { KvDtype::F32 } else { KvDtype::F16 };
    decoder.allocate_kv(1, 1, dtype).ok()?;
    let vocab_size = decoder.spec().vocab_size;
    let last = vocab_size as u32 - 1;
    let mut logits = vec![];
    for (tokens, context_len) in [(vec![0, last], 2), (vec![last / 2], 3)] {
        let rows = tokens.len();
        let span = Span { first_row: 0, rows, context_len, rope_len: context_len, pages: vec![0] };
        let batch = Batch { tokens, spans: vec![span], logit_rows: vec![rows - 1] };
        decoder.forward(&batch).ok()?;
        decoder.read_logits(0..1, &mut logits).ok()?;
        assert_eq!(logits.len(), vocab_size);
    }
    Some(())
}

struct Silent;

impl LoadProgress for Silent {
    fn tensor(&mut self, _: &str, done: u64, total: u64) {
        assert!(done <= total);
    }
}

/// The file of a description; `None` when it would be too large.
fn write(data: &[u8]) -> Option<Vec<u8>> {
    let end = data.iter().position(|&b| b == 0).unwrap_or(data.len());
    let fill = data.get(end + 1..).filter(|fill| !fill.is_empty()).unwrap_or(&[0]);
    let mut writer = GgufWriter::new();
    let mut sizes = vec![];
    for line in String::from_utf8_lossy(&data[..end]).lines() {
        let mut words = line.split(' ');
        let (Some(name), Some(what)) = (words.next(), words.next()) else { continue };
        if let Some(&format) = Format::ALL.iter().find(|format| format.name() == what) {
            let shape: Vec<usize> = words.filter_map(|w| w.parse().ok()).collect();
            let Ok(number) = writer.tensor(name, format, &shape) else { continue };
            sizes.push(writer.tensor_bytes(number));
        } else if let Some(value) = value(what, words) {
            writer.key(name, value);
        }
    }
    let total = sizes.iter().try_fold(data.len(), |sum, &size| sum.checked_add(size))?;
    if total > MAX_FILE {
        return None;
    }
    let mut file = vec![];
    let written = writer.write(&mut file, |number, out| {
        let bytes: Vec<u8> = fill.iter().copied().cycle().take(sizes[number]).collect();
        out.write_all(&bytes)
    });
    written.ok().map(|()| file)
}

fn value<'a>(what: &str, mut words: impl Iterator<Item = &'a str>) -> Option<Value> {
    fn all<'a, T: std::str::FromStr>(words: impl Iterator<Item = &'a str>) -> Vec<T> {
        words.filter_map(|word| word.parse().ok()).collect()
    }
    Some(match what {
        "u32" => Value::U32(words.next()?.parse().ok()?),
        "i32" => Value::I32(words.next()?.parse().ok()?),
        "u64" => Value::U64(words.next()?.parse().ok()?),
        "f32" => Value::F32(words.next()?.parse().ok()?),
        "f64" => Value::F64(words.next()?.parse().ok()?),
        "bool" => Value::Bool(words.next()?.parse().ok()?),
        "str" => Value::string(words.next()?),
        "u32s" => Value::u32s(&all(words)),
        "f32s" => Value::f32s(&all(words)),
        "bools" => Value::bools(&all(words)),
        _ => return None,
    })
}
