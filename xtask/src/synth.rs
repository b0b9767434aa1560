//! Models with true shapes and random weights, for measuring speed without a download.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use argh::FromArgs;
use gpu_kernels::formats::Format;
use host::checkpoint::{GgufWriter, Value};

use crate::TaskError;

/// Write a GGUF file with a real model's shapes and random weights (no vocabulary, unless asked for).
#[derive(FromArgs)]
#[argh(subcommand, name = "synth")]
pub struct Synth {
    /// shape: smollm2-135m, qwen3-0.6b, qwen3-8b, llama3-8b
    #[argh(option)]
    shape: String,
    /// a weight format by its GGUF name (F16, Q8_0, IQ4_XS, …) or the recipe Q4_K_M
    #[argh(option)]
    format: String,
    /// the file to write
    #[argh(option)]
    out: PathBuf,
    /// seed of the weights (default: 0)
    #[argh(option, default = "0")]
    seed: u64,
    /// with a vocabulary of made-up words, as a server needs one
    #[argh(switch)]
    vocab: bool,
}

/// Sizes of a published model.
struct Shape {
    name: &'static str,
    architecture: &'static str,
    num_layers: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    vocab_size: usize,
    rope_theta: f32,
    qk_norm: bool,
    tied: bool,
}

const SHAPES: [Shape; 4] = [
    Shape {
        name: "smollm2-135m",
        architecture: "llama",
        num_layers: 30,
        hidden_size: 576,
        intermediate_size: 1536,
        num_heads: 9,
        num_kv_heads: 3,
        head_dim: 64,
        vocab_size: 49152,
        rope_theta: 1e5,
        qk_norm: false,
        tied: true,
    },
    Shape {
        name: "qwen3-0.6b",
        architecture: "qwen3",
        num_layers: 28,
        hidden_size: 1024,
        intermediate_size: 3072,
        num_heads: 16,
        num_kv_heads: 8,
        head_dim: 128,
        vocab_size: 151936,
        rope_theta: 1e6,
        qk_norm: true,
        tied: true,
    },
    Shape {
        name: "qwen3-8b",
        architecture: "qwen3",
        num_layers: 36,
        hidden_size: 4096,
        intermediate_size: 12288,
        num_heads: 32,
        num_kv_heads: 8,
        head_dim: 128,
        vocab_size: 151936,
        rope_theta: 1e6,
        qk_norm: true,
        tied: false,
    },
    Shape {
        name: "llama3-8b",
        architecture: "llama",
        num_layers: 32,
        hidden_size: 4096,
        intermediate_size: 14336,
        num_heads: 32,
        num_kv_heads: 8,
        head_dim: 128,
        vocab_size: 128256,
        rope_theta: 5e5,
        qk_norm: false,
        tied: false,
    },
];

/// Which format each tensor gets.
#[derive(Clone, Copy)]
struct Recipe {
    most: Format,
    /// For the logits, and for `v` and `down` of the layers that matter most.
    better: Format,
}

/// Writes the file.
///
/// # Errors
/// An unknown shape or format, with the known ones; what the system says while writing.
pub fn run(options: &Synth) -> Result<(), TaskError> {
    let shape = SHAPES.iter().find(|s| s.name == options.shape).ok_or_else(|| {
        let known = SHAPES.map(|s| s.name).join(", ");
        TaskError::Other(format!("--shape {}: unknown; known: {known}", options.shape))
    })?;
    let recipe = recipe(&options.format)?;
    let io = |source| TaskError::Io { path: options.out.clone(), source };
    let (file, tensors) = plan(shape, recipe, options).map_err(io)?;
    let target = File::create(&options.out).map_err(io)?;
    in_parallel(&target, |out| write(&file, &tensors, options.seed, out)).map_err(io)
}

/// The file of a model written `shape:format` in `folder`, made if it is not there.
///
/// # Errors
/// As of [`run`]; when it is written otherwise.
pub fn make(model: &str, vocab: bool, folder: &Path) -> Result<PathBuf, TaskError> {
    let bad = || TaskError::Other(format!("--synth {model}: expected shape:format"));
    let (shape, format) = model.split_once(':').ok_or_else(bad)?;
    let text = if vocab { "-vocab" } else { "" };
    let path = folder.join(format!("synth-{shape}-{format}{text}.gguf"));
    if !path.exists() {
        let start = std::time::Instant::now();
        // Under another name until it is whole.
        let out = path.with_extension("part");
        run(&Synth {
            shape: shape.into(),
            format: format.into(),
            out: out.clone(),
            seed: 0,
            vocab,
        })?;
        std::fs::rename(&out, &path)
            .map_err(|source| TaskError::Io { path: path.clone(), source })?;
        eprintln!("xtask: made {} in {:.1?}", path.display(), start.elapsed());
    }
    Ok(path)
}

fn recipe(name: &str) -> Result<Recipe, TaskError> {
    if name.eq_ignore_ascii_case("q4_k_m") {
        return Ok(Recipe { most: Format::Q4_K, better: Format::Q6_K });
    }
    let found = Format::ALL.iter().copied().find(|f| f.name().eq_ignore_ascii_case(name));
    found.map(|f| Recipe { most: f, better: f }).ok_or_else(|| {
        let known = Format::ALL.iter().map(|f| f.name()).collect::<Vec<_>>().join(", ");
        TaskError::Other(format!("--format {name}: unknown; known: Q4_K_M, {known}"))
    })
}

/// A tensor to be filled.
struct Planned {
    format: Format,
    bytes: usize,
    norm: bool,
}

/// The header: keys and tensors.
fn plan(s: &Shape, recipe: Recipe, options: &Synth) -> io::Result<(GgufWriter, Vec<Planned>)> {
    let mut file = GgufWriter::new();
    keys(s, options, &mut file);
    let mut planned = vec![];
    let mut add = |name: &str, format: Format, dims: &[usize]| {
        let number = file.tensor(name, format, dims)?;
        planned.push(Planned {
            format,
            bytes: file.tensor_bytes(number),
            norm: name.ends_with("norm.weight"),
        });
        io::Result::Ok(())
    };
    let Shape { hidden_size: hidden, intermediate_size: inner, head_dim, .. } = *s;
    let (q, kv) = (s.num_heads * head_dim, s.num_kv_heads * head_dim);
    add("token_embd.weight", recipe.most, &[s.vocab_size, hidden])?;
    add("output_norm.weight", Format::F32, &[hidden])?;
    if !s.tied {
        add("output.weight", recipe.better, &[s.vocab_size, hidden])?;
    }
    for layer in 0..s.num_layers {
        let name = |tensor: &str| format!("blk.{layer}.{tensor}.weight");
        let better = if matters(layer, s.num_layers) { recipe.better } else { recipe.most };
        add(&name("attn_norm"), Format::F32, &[hidden])?;
        add(&name("ffn_norm"), Format::F32, &[hidden])?;
        if s.qk_norm {
            add(&name("attn_q_norm"), Format::F32, &[head_dim])?;
            add(&name("attn_k_norm"), Format::F32, &[head_dim])?;
        }
        add(&name("attn_q"), recipe.most, &[q, hidden])?;
        add(&name("attn_k"), recipe.most, &[kv, hidden])?;
        add(&name("attn_v"), better, &[kv, hidden])?;
        add(&name("attn_output"), recipe.most, &[hidden, q])?;
        add(&name("ffn_gate"), recipe.most, &[inner, hidden])?;
        add(&name("ffn_up"), recipe.most, &[inner, hidden])?;
        add(&name("ffn_down"), better, &[hidden, inner])?;
    }
    Ok((file, planned))
}

fn write(file: &GgufWriter, tensors: &[Planned], seed: u64, out: &mut dyn Write) -> io::Result<()> {
    let mut pools: Vec<((Format, bool), Vec<u8>)> = vec![];
    file.write(out, |number, out| {
        let tensor = &tensors[number];
        let kind = (tensor.format, tensor.norm);
        if !pools.iter().any(|(k, _)| *k == kind) {
            pools.push((kind, pool(tensor.format, tensor.norm, seed)));
        }
        let pool = &pools.iter().find(|(k, _)| *k == kind).expect("pushed above").1;
        fill(pool, tensor.format.block_bytes(), number, tensor.bytes, out)
    })
}

/// Bytes of a piece that is written at once.
const PIECE_BYTES: usize = 8 << 20;
/// Threads that write: one copies two gigabytes a second into the system's memory.
const WRITERS: usize = 8;

/// A piece of a file, and where it begins.
type Piece = (u64, Vec<u8>);

/// Gives `body` something to write to, from where several threads write to the file.
fn in_parallel(file: &File, body: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let (pieces, receiver) = sync_channel::<Piece>(WRITERS);
    let receiver = Mutex::new(receiver);
    std::thread::scope(|scope| {
        let writer = || {
            let mut result = Ok(());
            // To the end also after an error: somebody has to take the pieces.
            while let Some((at, piece)) = next(&receiver) {
                result = result.and_then(|()| file.write_all_at(&piece, at));
            }
            result
        };
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(writer)).collect();
        let mut out = Pieces { pieces, at: 0, piece: Vec::with_capacity(PIECE_BYTES) };
        let written = body(&mut out).and_then(|()| out.send());
        drop(out); // the writers end
        for writer in writers {
            writer.join().expect("writing does not panic")?;
        }
        written
    })
}

fn next(receiver: &Mutex<Receiver<Piece>>) -> Option<Piece> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// Cuts what is written into pieces.
struct Pieces {
    pieces: SyncSender<Piece>,
    /// Where `piece` begins.
    at: u64,
    piece: Vec<u8>,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        let len = piece.len() as u64;
        let closed = |_| io::Error::other("no thread writes");
        self.pieces.send((self.at, piece)).map_err(closed)?;
        self.at += len;
        Ok(())
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..n]);
        if self.piece.len() == PIECE_BYTES {
            self.send()?;
        }
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Q4_K_M's choice: the first and last eighth of the layers, and every third between.
fn matters(layer: usize, num_layers: usize) -> bool {
    let eighth = num_layers / 8;
    layer < eighth || layer >= 7 * eighth || (layer - eighth) % 3 == 2
}

fn keys(s: &Shape, options: &Synth, file: &mut GgufWriter) {
    let a = s.architecture;
    let count = |n: usize| Value::U32(n as u32);
    file.key("general.architecture", Value::string(a));
    file.key("general.name", Value::string(&format!("synth-{}-{}", s.name, options.format)));
    for (name, value) in [
        ("block_count", count(s.num_layers)),
        ("context_length", count(40960)),
        ("embedding_length", count(s.hidden_size)),
        ("feed_forward_length", count(s.intermediate_size)),
        ("attention.head_count", count(s.num_heads)),
        ("attention.head_count_kv", count(s.num_kv_heads)),
        ("attention.key_length", count(s.head_dim)),
        ("attention.value_length", count(s.head_dim)),
        ("rope.dimension_count", count(s.head_dim)),
        ("vocab_size", count(s.vocab_size)),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
        ("rope.freq_base", Value::F32(s.rope_theta)),
    ] {
        file.key(format!("{a}.{name}"), value);
    }
    if options.vocab {
        words(s.vocab_size, file);
    } else {
        file.key("tokenizer.ggml.model", Value::string("no_vocab"));
    }
}

/// A vocabulary in which each token is a word, so that each has text to show by itself.
fn words(vocab_size: usize, file: &mut GgufWriter) {
    const UNKNOWN: i32 = 2;
    const NORMAL: i32 = 1;
    let word = |id| if id == 0 { "<unk>".to_owned() } else { format!("\u{2581}w{id}") };
    let kind = |id| if id == 0 { UNKNOWN } else { NORMAL };
    let tokens: Vec<String> = (0..vocab_size).map(word).collect();
    let kinds: Vec<i32> = (0..vocab_size).map(kind).collect();
    file.key("tokenizer.ggml.model", Value::string("llama"));
    file.key("tokenizer.ggml.tokens", Value::strings(&tokens));
    file.key("tokenizer.ggml.token_type", Value::i32s(&kinds));
    file.key("tokenizer.ggml.scores", Value::f32s(&vec![0.0; vocab_size]));
    file.key("tokenizer.ggml.unknown_token_id", Value::U32(0));
    file.key("tokenizer.ggml.add_bos_token", Value::Bool(false));
}

/// Weights in a pool; every tensor repeats it from a place of its own.
const POOL_LEN: usize = 1 << 18;

/// Encoded weights of the size that trained ones have: normal, deviation 0.02, around 1 for norms.
fn pool(format: Format, norm: bool, seed: u64) -> Vec<u8> {
    let mean = if norm { 1.0 } else { 0.0 };
    let mut state = seed;
    let values: Vec<f32> = (0..POOL_LEN).map(|_| mean + 0.02 * normal(&mut state)).collect();
    let mut bytes = vec![0; POOL_LEN / format.block_len() * format.block_bytes()];
    format.encode(&values, &mut bytes);
    bytes
}

fn fill(
    pool: &[u8],
    block_bytes: usize,
    number: usize,
    bytes: usize,
    out: &mut dyn Write,
) -> io::Result<()> {
    let blocks = pool.len() / block_bytes;
    let mut at = (number * 7919) % blocks * block_bytes; // a prime apart, so that no two agree
    let mut left = bytes;
    while left > 0 {
        let n = left.min(pool.len() - at);
        out.write_all(&pool[at..at + n])?;
        left -= n;
        at = 0;
    }
    Ok(())
}

/// Box–Muller over SplitMix64 (Steele et al. 2014).
fn normal(state: &mut u64) -> f32 {
    let mut uniform = || {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    let (a, b) = (1.0 - uniform(), uniform());
    ((-2.0 * a.ln()).sqrt() * (2.0 * std::f64::consts::PI * b).cos()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use host::checkpoint::{Bytes, Checkpoint};

    const TINY: Shape = Shape {
        name: "tiny",
        architecture: "qwen3",
        num_layers: 1,
        hidden_size: 256,
        intermediate_size: 512,
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 128,
        vocab_size: 64,
        rope_theta: 1e4,
        qk_norm: true,
        tied: false,
    };

    fn synth(seed: u64) -> Synth {
        let (shape, format, out) = (String::new(), String::new(), PathBuf::new());
        Synth { shape, format, out, seed, vocab: false }
    }

    #[test]
    fn each_word_of_a_vocabulary_is_shown_by_itself() {
        let options = Synth { format: "Q8_0".into(), vocab: true, ..synth(1) };
        let (file, tensors) = plan(&TINY, recipe("Q8_0").unwrap(), &options).unwrap();
        let mut bytes = vec![];
        write(&file, &tensors, options.seed, &mut bytes).unwrap();
        let checkpoint = Checkpoint::from_gguf(Path::new("words"), Bytes::owned(bytes)).unwrap();
        let tokenizer = host::text::Tokenizer::from_checkpoint(&checkpoint).unwrap().unwrap();
        assert_eq!(tokenizer.vocab_size(), 64);
        assert_eq!(tokenizer.decode(&[5, 63, 7], false), "w5 w63 w7");
    }

    #[test]
    fn every_format_makes_a_checkpoint_of_a_known_architecture() {
        for format in Format::ALL.iter().map(|f| f.name()).chain(["Q4_K_M"]) {
            let options = Synth { shape: "tiny".into(), format: format.into(), ..synth(1) };
            let (file, tensors) = plan(&TINY, recipe(format).unwrap(), &options).unwrap();
            let mut bytes = vec![];
            write(&file, &tensors, options.seed, &mut bytes).unwrap();
            let path = Path::new(format);
            let checkpoint = Checkpoint::from_gguf(path, Bytes::owned(bytes)).unwrap();
            let overrides = config::RopeOverride::default();
            let (family, spec) = host::models::describe(&checkpoint, &overrides).unwrap();
            assert_eq!((family.name, spec.vocab_size), ("qwen3", 64), "{format}");
        }
    }

    #[test]
    fn pieces_come_together() {
        let name = format!("imp-synth-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let file = File::create(&path).unwrap();
        let bytes: Vec<u8> = (0..3 * PIECE_BYTES + 77).map(|i| (i / 251) as u8).collect();
        in_parallel(&file, |out| bytes.chunks(100_003).try_for_each(|part| out.write_all(part)))
            .unwrap();
        let found = std::fs::read(&path);
        let error = in_parallel(&File::open(&path).unwrap(), |out| out.write_all(&bytes));
        std::fs::remove_file(&path).unwrap();
        assert!(found.unwrap() == bytes);
        // A file that cannot be written to.
        assert!(error.is_err());
    }

    #[test]
    fn unknown_formats_and_rows_that_are_not_whole_blocks_are_refused() {
        assert!(recipe("Q9_9").err().unwrap().to_string().contains("Q4_K_M"));
        let options = synth(0);
        let narrow = Shape { hidden_size: 96, ..TINY };
        assert!(plan(&narrow, recipe("Q4_K").unwrap(), &options).is_err());
    }
}
