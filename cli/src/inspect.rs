//! `--inspect`: what a checkpoint holds, without loading its weights. A file viewer: it also shows
//! models that nothing here can run.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::Path;

use host::checkpoint::{Checkpoint, Metadata, Value as GgufValue};
use host::models::describe;
use host::text::Tokenizer;
use serde_json::{Value, json};

use host::program::chain;

use crate::error::CliError;
use crate::output;

/// Lines of the chat template that the text shows.
const TEMPLATE_LINES: usize = 8;

/// Prints what the model at `path` holds.
///
/// # Errors
/// When it cannot be opened, and what stdout reports.
pub(crate) fn inspect(path: &Path, json: bool) -> Result<(), CliError> {
    let checkpoint = Checkpoint::open(path)?;
    let report = Report::of(&checkpoint);
    if json { output::show_json(&report.to_json()) } else { output::show(&report.to_string()) }
}

/// A row of the tensor table.
#[derive(Debug, PartialEq)]
struct TensorRow {
    name: String,
    kind: String,
    shape: Vec<usize>,
    bytes: usize,
}

/// What is shown.
struct Report {
    path: String,
    container: &'static str,
    architecture: Option<String>,
    /// The family that would run it, or why none can.
    family: Result<&'static str, String>,
    metadata: Vec<(String, Value)>,
    tensors: Vec<TensorRow>,
    tokenizer: Result<Option<TokenizerRow>, String>,
    template: Option<String>,
}

/// The vocabulary in one line.
struct TokenizerRow {
    kind: String,
    vocab_size: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    adds_bos: bool,
    end_of_generation: Vec<u32>,
    control: usize,
}

impl Report {
    fn of(checkpoint: &Checkpoint) -> Self {
        let (container, metadata, template) = match checkpoint.metadata() {
            Metadata::Gguf(gguf) => {
                let entries = gguf.iter().filter(|(key, _)| *key != TEMPLATE_KEY);
                let metadata =
                    entries.map(|(key, value)| (key.to_owned(), gguf_json(value))).collect();
                let template = match gguf.get(TEMPLATE_KEY) {
                    Some(GgufValue::String(bytes)) => {
                        Some(String::from_utf8_lossy(bytes).into_owned())
                    }
                    _ => None,
                };
                ("GGUF", metadata, template)
            }
            Metadata::HuggingFace(hf) => {
                let mut metadata = Vec::new();
                flatten("", &Value::Object(hf.config.clone()), &mut metadata);
                ("SafeTensors", metadata, hf.chat_template.clone())
            }
        };
        let family = describe(checkpoint, &config::RopeOverride::default());
        Self {
            path: checkpoint.path().display().to_string(),
            container,
            architecture: architecture(checkpoint),
            family: family.map(|(family, _)| family.name).map_err(|error| chain(&error)),
            metadata,
            tensors: rows(checkpoint),
            tokenizer: tokenizer(checkpoint),
            template,
        }
    }

    fn parameters(&self) -> u128 {
        self.tensors.iter().map(|tensor| elements(&tensor.shape)).sum()
    }

    fn bytes(&self) -> u128 {
        self.tensors.iter().map(|tensor| tensor.bytes as u128).sum()
    }

    /// Tensors and bytes a type.
    fn totals(&self) -> BTreeMap<&str, (usize, u128)> {
        let mut totals = BTreeMap::new();
        for tensor in &self.tensors {
            let entry: &mut (usize, u128) = totals.entry(tensor.kind.as_str()).or_default();
            entry.0 += 1;
            entry.1 += tensor.bytes as u128;
        }
        totals
    }

    fn to_json(&self) -> Value {
        let tensors = self
            .tensors
            .iter()
            .map(|t| json!({"name": t.name, "type": t.kind, "shape": t.shape, "bytes": t.bytes}));
        let totals = self.totals().into_iter().map(|(kind, (count, bytes))| {
            (kind.to_owned(), json!({"tensors": count, "bytes": number(bytes)}))
        });
        json!({
            "path": self.path,
            "container": self.container,
            "architecture": self.architecture,
            "supported": self.family.is_ok(),
            "family": self.family.as_ref().ok(),
            "problem": self.family.as_ref().err(),
            "parameters": number(self.parameters()),
            "bytes": number(self.bytes()),
            "metadata": Value::Object(self.metadata.iter().cloned().collect()),
            "tensors": tensors.collect::<Value>(),
            "types": Value::Object(totals.collect()),
            "tokenizer": match &self.tokenizer {
                Ok(row) => row.as_ref().map_or(Value::Null, TokenizerRow::to_json),
                Err(error) => json!({"error": error}),
            },
            "chat_template": self.template,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let architecture = self.architecture.as_deref().unwrap_or("not named");
        writeln!(f, "file          {}", self.path)?;
        writeln!(f, "container     {}", self.container)?;
        writeln!(f, "architecture  {}", printable(architecture))?;
        match &self.family {
            Ok(family) => writeln!(f, "family        {family}")?,
            Err(problem) => writeln!(f, "family        not supported: {}", printable(problem))?,
        }
        writeln!(
            f,
            "tensors       {}, {} parameters, {} bytes",
            self.tensors.len(),
            self.parameters(),
            self.bytes()
        )?;
        writeln!(f, "\nmetadata")?;
        let width = self.metadata.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
        for (key, value) in &self.metadata {
            writeln!(f, "  {key:<width$}  {}", shortened(value))?;
        }
        writeln!(f, "\ntensors")?;
        let width = self.tensors.iter().map(|tensor| tensor.name.len()).max().unwrap_or(0);
        for TensorRow { name, kind, shape, bytes } in &self.tensors {
            writeln!(f, "  {name:<width$}  {kind:<8}  {bytes:>13}  {shape:?}")?;
        }
        writeln!(f, "\ntypes")?;
        for (kind, (count, bytes)) in self.totals() {
            writeln!(f, "  {kind:<8}  {count:>6} tensors  {bytes:>13} bytes")?;
        }
        match &self.tokenizer {
            Ok(Some(row)) => writeln!(f, "\ntokenizer\n  {row}")?,
            Ok(None) => writeln!(f, "\ntokenizer\n  none")?,
            Err(error) => writeln!(f, "\ntokenizer\n  not usable: {error}")?,
        }
        writeln!(f, "\nchat template")?;
        let Some(template) = &self.template else { return writeln!(f, "  none") };
        for line in template.lines().take(TEMPLATE_LINES) {
            writeln!(f, "  {}", cut(&printable(line)))?;
        }
        match template.lines().count().saturating_sub(TEMPLATE_LINES) {
            0 => Ok(()),
            more => writeln!(f, "  … {more} more lines (all with --json)"),
        }
    }
}

impl TokenizerRow {
    fn to_json(&self) -> Value {
        json!({
            "kind": self.kind,
            "vocab_size": self.vocab_size,
            "bos": self.bos,
            "eos": self.eos,
            "adds_bos": self.adds_bos,
            "end_of_generation": self.end_of_generation,
            "control_tokens": self.control,
        })
    }
}

impl fmt::Display for TokenizerRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = |id: Option<u32>| id.map_or("none".to_owned(), |id| id.to_string());
        write!(f, "{}, {} ids, {} control tokens", self.kind, self.vocab_size, self.control)?;
        write!(f, ", BOS {}", id(self.bos))?;
        f.write_str(if self.adds_bos { " (added)" } else { " (not added)" })?;
        write!(f, ", EOS {}, end of generation {:?}", id(self.eos), self.end_of_generation)
    }
}

const TEMPLATE_KEY: &str = "tokenizer.chat_template";

fn architecture(checkpoint: &Checkpoint) -> Option<String> {
    match checkpoint.metadata() {
        Metadata::Gguf(gguf) => gguf.str("general.architecture").ok().flatten().map(str::to_owned),
        Metadata::HuggingFace(hf) => {
            let first = hf.config.get("architectures").and_then(|names| names.get(0));
            first.or_else(|| hf.config.get("model_type")).and_then(Value::as_str).map(str::to_owned)
        }
    }
}

fn rows(checkpoint: &Checkpoint) -> Vec<TensorRow> {
    let weights = checkpoint.tensors().iter().map(|tensor| TensorRow {
        name: tensor.name.clone(),
        kind: tensor.format.name().to_owned(),
        shape: tensor.shape.clone(),
        bytes: tensor.bytes,
    });
    let others = checkpoint.others().iter().map(|tensor| TensorRow {
        name: tensor.name.clone(),
        kind: tensor.dtype.clone(),
        shape: tensor.shape.clone(),
        bytes: tensor.bytes,
    });
    weights.chain(others).collect()
}

fn tokenizer(checkpoint: &Checkpoint) -> Result<Option<TokenizerRow>, String> {
    let Some(tokenizer) = Tokenizer::from_checkpoint(checkpoint).map_err(|error| chain(&error))?
    else {
        return Ok(None);
    };
    let ids = 0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
    Ok(Some(TokenizerRow {
        kind: tokenizer.kind(),
        vocab_size: tokenizer.vocab_size(),
        bos: tokenizer.bos(),
        eos: tokenizer.eos(),
        adds_bos: tokenizer.adds_bos(),
        end_of_generation: ids.clone().filter(|id| tokenizer.is_end_of_generation(*id)).collect(),
        control: ids.filter(|id| tokenizer.is_special(*id)).count(),
    }))
}

/// A value of a GGUF header; arrays longer than a few numbers as their type and length.
fn gguf_json(value: &GgufValue) -> Value {
    const SHOWN: usize = 64; // one entry a layer fits, a vocabulary does not
    if let Some(integer) = value.as_integer() {
        return i64::try_from(integer)
            .map(Value::from)
            .or_else(|_| u64::try_from(integer).map(Value::from))
            .unwrap_or(Value::Null);
    }
    match value {
        GgufValue::F32(v) => output::shortest(*v),
        GgufValue::F64(v) => Value::from(*v),
        GgufValue::Bool(v) => Value::from(*v),
        GgufValue::String(bytes) => Value::from(String::from_utf8_lossy(bytes)),
        GgufValue::Array(array) if array.len() <= SHOWN && array.numbers().is_some() => {
            array.numbers().into_iter().flatten().map(|value| gguf_json(&value)).collect()
        }
        GgufValue::Array(array) if array.len() <= SHOWN => {
            let strings = array.strings().into_iter().flatten();
            strings.map(|bytes| Value::from(String::from_utf8_lossy(bytes))).collect()
        }
        GgufValue::Array(array) => {
            Value::from(format!("{} × {}", array.len(), array.element_type()))
        }
        _ => Value::Null, // integers, handled above
    }
}

/// Nested objects as dotted keys.
fn flatten(prefix: &str, value: &Value, into: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, into);
            }
        }
        _ => into.push((prefix.to_owned(), value.clone())),
    }
}

fn elements(shape: &[usize]) -> u128 {
    shape.iter().map(|dim| *dim as u128).product()
}

fn number(value: u128) -> Value {
    u64::try_from(value).map_or_else(|_| Value::from(value as f64), Value::from)
}

/// A value on one line of the terminal; JSON escapes what is not printable.
fn shortened(value: &Value) -> String {
    cut(&printable(&value.to_string()))
}

fn cut(text: &str) -> String {
    const WIDTH: usize = 100;
    match text.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Control characters escaped: a file must not steer the terminal.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\t' {
            let _ = write!(out, "{}", c.escape_default()); // writing to a String cannot fail
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use host::checkpoint::GgufWriter;

    use super::*;

    fn report() -> Report {
        Report {
            path: "model.gguf".to_owned(),
            container: "GGUF",
            architecture: Some("frobnicator".to_owned()),
            family: Err("architecture frobnicator is not supported".to_owned()),
            metadata: vec![("general.name".to_owned(), json!("a\u{1b}[31m"))],
            tensors: vec![
                TensorRow {
                    name: "a".to_owned(),
                    kind: "F32".to_owned(),
                    shape: vec![2, 3],
                    bytes: 24,
                },
                TensorRow {
                    name: "b".to_owned(),
                    kind: "F32".to_owned(),
                    shape: vec![4],
                    bytes: 16,
                },
                TensorRow {
                    name: "c".to_owned(),
                    kind: "I32".to_owned(),
                    shape: vec![1],
                    bytes: 4,
                },
            ],
            tokenizer: Ok(None),
            template: Some((0..10).map(|line| format!("line {line}\n")).collect()),
        }
    }

    #[test]
    fn the_text_shows_what_there_is() {
        let text = report().to_string();
        for expected in [
            "architecture  frobnicator",
            "not supported: architecture frobnicator",
            "3, 11 parameters, 44 bytes",
            "F32            2 tensors             40 bytes",
            "[2, 3]",
            "line 7\n",
            "… 2 more lines",
        ] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
        assert!(!text.contains("line 8"));
        assert!(!text.contains('\u{1b}'), "a file must not steer the terminal");
    }

    #[test]
    fn the_object_holds_everything() {
        let object = report().to_json();
        assert_eq!(object["parameters"], 11);
        assert_eq!(
            object["tensors"][0],
            json!({"name": "a", "type": "F32", "shape": [2, 3], "bytes": 24})
        );
        assert_eq!(object["types"]["F32"], json!({"tensors": 2, "bytes": 40}));
        assert_eq!(object["supported"], false);
        assert_eq!(object["metadata"]["general.name"], "a\u{1b}[31m");
        assert!(object["chat_template"].as_str().unwrap().ends_with("line 9\n"));
    }

    #[test]
    fn gguf_values_keep_their_meaning() {
        assert_eq!(gguf_json(&GgufValue::U64(u64::MAX)), json!(u64::MAX));
        assert_eq!(gguf_json(&GgufValue::I32(-3)), json!(-3));
        assert_eq!(gguf_json(&GgufValue::F32(1e-5)), json!(1e-5));
        assert_eq!(gguf_json(&GgufValue::F32(f32::NAN)), Value::Null);
        assert_eq!(gguf_json(&GgufValue::i32s(&[1, 2])), json!([1, 2]));
        assert_eq!(gguf_json(&GgufValue::i32s(&[1; 65])), json!("65 × i32"));
        assert_eq!(gguf_json(&GgufValue::strings(&["a", "b"])), json!(["a", "b"]));
    }

    #[test]
    fn nested_configurations_become_dotted_keys() {
        let mut flat = Vec::new();
        flatten("", &json!({"a": {"b": 1, "c": [1, {"d": 2}]}, "e": null}), &mut flat);
        let keys: Vec<&str> = flat.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["a.b", "a.c", "e"]);
    }

    #[test]
    fn a_file_of_unknown_architecture_is_shown() {
        let path =
            std::env::temp_dir().join(format!("imp-cli-inspect-{}.gguf", std::process::id()));
        let mut writer = GgufWriter::new();
        writer.key("general.architecture", GgufValue::string("frobnicator"));
        write(&mut writer, &path);
        let report = Report::of(&Checkpoint::open(&path).unwrap());
        assert_eq!(report.architecture.as_deref(), Some("frobnicator"));
        assert!(report.family.unwrap_err().contains("frobnicator"));
        std::fs::remove_file(&path).unwrap();
    }

    fn write(writer: &mut GgufWriter, path: &Path) {
        let mut file = std::fs::File::create(path).unwrap();
        writer.write(&mut file, |_, _| Ok(())).unwrap();
    }
}
