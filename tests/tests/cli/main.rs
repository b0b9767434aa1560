//! `imp-cli` as its user meets it: the real binary on tiny models.

mod answers;
mod arguments;
mod chat;
mod configuration;
mod hostile;
mod inspect;
mod manual;
mod measuring;
mod synth;

/// The model of most tests: random weights, a SentencePiece vocabulary of 768 tokens, a context of
/// 512, a chat template. Paths are relative to the directory the program is started in.
const LLAMA: &str = "tiny/llama/llama-f32.gguf";
