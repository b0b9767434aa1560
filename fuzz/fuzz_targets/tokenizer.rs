//! Tokenizer: any vocabulary and any text end in ids or an error, in linear time.
//!
//! The input takes one of four forms. `GGUF…` is a file whose metadata holds the vocabulary;
//! `{…` is a `tokenizer.json`; both encode a text of the target's own. `P`, a byte that chooses
//! the rule of cutting words, and a text: goes through a vocabulary of all bytes, made once, for
//! compiling the rule takes longer than all else. Anything else is a vocabulary written out: four
//! bytes of choices, the text, then one entry each behind 0xff (see [`Vocabulary::read`]).

#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use host::checkpoint::{Bytes, Checkpoint};
use host::text::DetokenStream;
use host::text::tokenizer::{TokenKind, Tokenizer, VocabSource};
use libfuzzer_sys::fuzz_target;

/// Texts for the forms that bring none: spaces, line ends, digits, marks, scripts, specials.
const TEXTS: [&str; 4] = [
    "",
    "Hello  world's\n\n 1234\t<s></s><|im_end|><0x0A>\u{2581}a e\u{301}\u{0} 你好😀",
    "\u{2581}\u{2581} aaaa abababab ' 's ##a [UNK] \r\n \n",
    "\u{fffd}\u{10ffff}\u{200d}İıßſ\u{1f1e9}\u{1f1ea}",
];
/// A text this long shows work that grows faster than the text.
const LONG: usize = 16 << 10;
/// Most processor time for it; linear work takes a tenth, also instrumented.
const LONG_SECONDS: f64 = 1.5;
/// Those of [`PRE`] that are byte-level BPE.
const RULES: usize = 18;
/// A name for every rule of cutting words, and one that none has.
const PRE: [&str; 20] = [
    "default",
    "gpt-2",
    "smollm",
    "llama-bpe",
    "smaug-bpe",
    "glm4",
    "qwen2",
    "qwen35",
    "seed-coder",
    "bailingmoe",
    "exaone-moe",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
    "falcon",
    "tekken",
    "gpt-4o",
    "kimi-k2",
    "gemma4",
    "nobody knows it",
];

fuzz_target!(|data: &[u8]| {
    if data.starts_with(b"GGUF") {
        let bytes = Bytes::owned(data.to_vec());
        let Ok(checkpoint) = Checkpoint::from_gguf(Path::new("m.gguf"), bytes) else { return };
        try_texts(&checkpoint);
    } else if data.starts_with(b"{") {
        let directory = model_directory();
        fs::write(directory.join("tokenizer.json"), data).expect("the directory is ours");
        let checkpoint = Checkpoint::open(directory).expect("the rest of the directory is right");
        try_texts(&checkpoint);
    } else if let Some((&choice, text)) = data.strip_prefix(b"P").and_then(<[u8]>::split_first) {
        any_text(choice, &String::from_utf8_lossy(text));
    } else if let Some(vocabulary) = Vocabulary::read(data) {
        let Ok(tokenizer) = vocabulary.source().build() else { return };
        if vocabulary.long {
            in_linear_time(&tokenizer, &vocabulary.text);
        } else {
            round_trip(&tokenizer, &vocabulary.text);
        }
    }
});

/// A long text of the same kind ends soon.
fn in_linear_time(tokenizer: &Tokenizer, text: &str) {
    let long = text.repeat(LONG / text.len().max(1));
    let start = cpu_seconds();
    let _ = tokenizer.encode(&long, true, true);
    let seconds = cpu_seconds() - start;
    assert!(seconds < LONG_SECONDS, "{} bytes took {seconds:.1} s", long.len());
}

/// Cuts `text` by a rule and gets it back.
fn any_text(choice: u8, text: &str) {
    static TOKENIZERS: [OnceLock<Tokenizer>; RULES] = [const { OnceLock::new() }; RULES];
    let rule = usize::from(choice & 0x1f) % RULES;
    let tokenizer = TOKENIZERS[rule].get_or_init(|| all_bytes(PRE[rule]));
    if choice >= 0xe0 {
        in_linear_time(tokenizer, text);
    } else {
        round_trip(tokenizer, text);
        let ids = tokenizer.encode(text, false, false).expect("every byte has a token");
        assert_eq!(tokenizer.decode(&ids, false), text);
    }
}

/// Byte-level BPE over all bytes with a few merges.
fn all_bytes(pre: &str) -> Tokenizer {
    let printable = |b: &u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let (themselves, others): (Vec<u8>, Vec<u8>) = (0..=255u8).partition(printable);
    let numbered = (0..others.len() as u32).filter_map(|n| char::from_u32(0x100 + n));
    let mut tokens: Vec<String> =
        themselves.into_iter().map(char::from).chain(numbered).map(String::from).collect();
    let merges =
        ["a b", "\u{120} a", "\u{120}a b", "\u{120} \u{120}", "\u{10a} \u{10a}", "' s", "1 2"];
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    tokens.extend(["<s>".into(), "<tag>".into()]);
    let mut kinds = vec![TokenKind::Normal; tokens.len()];
    kinds[tokens.len() - 2..].copy_from_slice(&[TokenKind::Control, TokenKind::UserDefined]);
    let source = VocabSource {
        origin: "bytes".into(),
        model: "gpt2",
        pre: Some(pre),
        tokens: tokens.iter().map(String::as_str).collect(),
        kinds,
        merges: Some(merges.to_vec()),
        bos: Some(tokens.len() as u32 - 2),
        ..VocabSource::default()
    };
    source.build().expect("the vocabulary is right")
}

fn try_texts(checkpoint: &Checkpoint) {
    let Ok(Some(tokenizer)) = Tokenizer::from_checkpoint(checkpoint) else { return };
    for text in TEXTS {
        round_trip(&tokenizer, text);
    }
    // Its own spellings, run together.
    let ids = 0..tokenizer.vocab_size().min(64) as u32;
    let own: Vec<u8> = ids.flat_map(|id| tokenizer.piece(id)).copied().take(4096).collect();
    round_trip(&tokenizer, &String::from_utf8_lossy(&own));
}

/// Encodes with every choice of specials, and decodes what comes out, whole and in a stream.
fn round_trip(tokenizer: &Tokenizer, text: &str) {
    for (add, parse) in [(false, false), (false, true), (true, false), (true, true)] {
        let Ok(ids) = tokenizer.encode(text, add, parse) else { continue };
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()), "{ids:?}");
        for skip in [false, true] {
            tokenizer.decode(&ids, skip);
        }
        let mut stream = DetokenStream::default();
        let mut streamed: String = ids.iter().map(|&id| stream.push(tokenizer, id)).collect();
        streamed.push_str(&stream.finish());
        let bytes = ids.iter().filter(|&&id| !tokenizer.is_special(id));
        let bytes: Vec<u8> = bytes.flat_map(|&id| tokenizer.piece(id)).copied().collect();
        assert_eq!(streamed, String::from_utf8_lossy(&bytes));
    }
    tokenizer.decode(&[u32::MAX, 0, tokenizer.vocab_size() as u32], false);
    for id in tokenizer.bos().into_iter().chain(tokenizer.eos()) {
        assert!((id as usize) < tokenizer.vocab_size());
    }
}

/// A model directory without a tokenizer, made once a process.
fn model_directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let name = format!("imp-fuzz-tokenizer-{}", std::process::id());
        let shared = Path::new("/dev/shm");
        let parent = if shared.is_dir() { shared.into() } else { std::env::temp_dir() };
        let directory = parent.join(name);
        fs::create_dir_all(&directory).expect("temporary files can be made");
        fs::write(directory.join("config.json"), "{}").expect("as above");
        let header = br#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header);
        file.extend_from_slice(&[0; 4]);
        fs::write(directory.join("model.safetensors"), file).expect("as above");
        directory
    })
}

/// Processor time of this thread: what other processes do does not count.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on every Linux, and `time` is a place for its answer.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(failed, 0);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// A vocabulary written out.
#[derive(Default)]
struct Vocabulary {
    model: u8,
    pre: u8,
    flags: u8,
    lists: u8,
    long: bool,
    text: String,
    tokens: Vec<String>,
    kinds: Vec<TokenKind>,
    scores: Vec<f32>,
    merges: Vec<String>,
    ids: [Option<u32>; 6],
    charsmap: Option<Vec<u8>>,
}

impl Vocabulary {
    /// Bytes: model, pre-tokenizer, flags, lists; then entries that 0xff separates. The first is
    /// the text. Each other starts with a byte that says what it is:
    ///
    /// | byte | the rest |
    /// |---|---|
    /// | `0`–`6` | a score (i8), then the spelling of a token of that kind |
    /// | `m` | a merge |
    /// | `i` | which special id (a digit), then the id (a byte) |
    /// | `c` | the normalization table: all bytes to the end of the input |
    fn read(data: &[u8]) -> Option<Self> {
        let (&[model, pre, flags, lists], mut rest) = data.split_first_chunk::<4>()?;
        let mut v =
            Self { model, pre, flags, lists, long: lists & 0xc0 == 0xc0, ..Self::default() };
        let next = |rest: &mut &[u8]| {
            let end = rest.iter().position(|&b| b == 0xff).unwrap_or(rest.len());
            let entry = String::from_utf8_lossy(&rest[..end]).into_owned();
            *rest = rest.get(end + 1..).unwrap_or_default();
            entry
        };
        v.text = next(&mut rest);
        while let Some(&what) = rest.first() {
            match what {
                b'0'..=b'6' => {
                    v.kinds.extend(TokenKind::from_gguf(i32::from(what - b'0')));
                    v.scores.push(rest.get(1).map_or(0.0, |&b| f32::from(b.cast_signed())));
                    rest = rest.get(2..).unwrap_or_default();
                    v.tokens.push(next(&mut rest));
                }
                b'm' => {
                    rest = &rest[1..];
                    v.merges.push(next(&mut rest));
                }
                b'i' => {
                    if let Some(&[which, id]) = rest.get(1..3) {
                        v.ids[usize::from(which) % 6] = Some(u32::from(id));
                    }
                    next(&mut rest);
                }
                b'c' => {
                    v.charsmap = Some(rest[1..].to_vec());
                    rest = &[];
                }
                _ => drop(next(&mut rest)),
            }
        }
        Some(v)
    }

    fn source<'a>(&'a self) -> VocabSource<'a> {
        let flag = |bit: u8| match self.flags >> bit & 3 {
            0 => Some(true),
            1 => Some(false),
            _ => None,
        };
        let has = |bit: u8| self.lists & bit == 0;
        let texts = |list: &'a [String]| list.iter().map(String::as_str).collect::<Vec<_>>();
        VocabSource {
            origin: "v.gguf".into(),
            name: if self.lists & 0x20 != 0 { "phi-3" } else { "" },
            model: ["gpt2", "llama", "t5", "bert", "gemma4"][usize::from(self.model) % 5],
            pre: PRE.get(usize::from(self.pre)).copied(),
            tokens: texts(&self.tokens),
            kinds: if has(1) { self.kinds.clone() } else { vec![] },
            scores: if has(2) { self.scores.clone() } else { vec![] },
            merges: has(4).then(|| texts(&self.merges)),
            bos: self.ids[0],
            eos: self.ids[1],
            eot: self.ids[2],
            eom: self.ids[3],
            unk: self.ids[4],
            sep: self.ids[5],
            add_bos: flag(0),
            add_eos: flag(2),
            add_space_prefix: flag(4),
            remove_extra_whitespaces: self.lists & 8 != 0,
            precompiled_charsmap: self.charsmap.clone(),
            lowercase: flag(6),
            strip_accents: (self.lists & 0x10 != 0).then_some(true),
        }
    }
}
