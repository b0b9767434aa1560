//! Every bound of the server, in one place. A request beyond one of them gets a 4xx that names it.

use std::time::Duration;

/// Connections at a time; further ones get a 503 and are closed.
pub const CONNECTIONS: usize = 800;
/// Bytes of a request's head, and of hyper's read buffer.
pub const HEAD_BYTES: usize = 64 * 1024;
/// Lines of a request's head.
pub const HEADERS: usize = 100;
/// Time for a request's head to arrive; a kept-alive connection that stays silent as long is closed.
pub const HEAD_TIME: Duration = Duration::from_secs(15);
/// Bytes of a body.
pub const BODY_BYTES: usize = 32 << 20;
/// Bytes of all bodies whose requests are not answered.
pub const ALL_BODY_BYTES: usize = 256 << 20;
/// Time for a body to arrive.
pub const BODY_TIME: Duration = Duration::from_secs(60);
/// Time in which a client must take something of an answer.
pub const WRITE_TIME: Duration = Duration::from_secs(60);
/// Values in a JSON body, all levels counted: each takes far more memory than its text.
pub const JSON_VALUES: usize = 1 << 20;
/// Requests that wait for their turn behind the running ones.
pub const QUEUE: usize = 256;
/// Answers that are computed together where `--max-concurrent` does not say.
pub const CONCURRENT: usize = 64;
/// Answers that wait in the engine for one of those to end.
pub const ENGINE_QUEUE: usize = 64;
/// Answers to one request (`n`).
pub const CHOICES: u64 = 16;
/// Prompts in one request of `/v1/completions`.
pub const PROMPTS: usize = 256;
/// Texts in one request of `/v1/embeddings`, as OpenAI bounds them.
pub const EMBEDDINGS: usize = 2048;
/// Numbers of all vectors in one answer: texts, times the size of a vector.
pub const EMBEDDED_NUMBERS: usize = 4 << 20;
/// `top_logprobs`, as the APIs bound it; also `logprobs` of `/v1/completions`.
pub const TOP_LOGPROBS: u64 = 20;
/// Log-probabilities of prompts in one answer: tokens, times those told of each, times `n`.
pub const PROMPT_SCORES: usize = 4 << 20;
/// Tokens that `/tokenize` lists.
pub const LISTED_TOKENS: usize = 1 << 20;
/// Stop strings, and the bytes of one.
pub const STOPS: usize = 16;
/// Bytes of a stop string.
pub const STOP_BYTES: usize = 1024;
/// Tokens that end an answer.
pub const STOP_TOKENS: usize = 256;
/// Texts that an answer never says.
pub const BAD_WORDS: usize = 256;
/// Bytes of one of them.
pub const BAD_WORD_BYTES: usize = 256;
/// Texts of which an answer is one.
pub const GUIDED_CHOICES: usize = 4096;
/// Entries of `logit_bias`.
pub const LOGIT_BIAS: usize = 1024;
/// Messages of a conversation.
pub const MESSAGES: usize = 16_384;
/// Tool definitions.
pub const TOOLS: usize = 512;
/// Largest `max_tokens`; the context ends an answer earlier.
pub const MAX_TOKENS: u64 = i32::MAX as u64;
/// A stream says something at least this often.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Addresses whose rate is remembered.
pub const RATE_ENTRIES: usize = 65_536;
/// Lines of `--log-requests` that wait for the disk.
pub const LOG_LINES: usize = 1024;
/// Seconds in the `retry-after` of an overload.
pub const RETRY_AFTER_S: u64 = 1;
