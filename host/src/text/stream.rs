//! Token ids → text as they come, never splitting a UTF-8 character.

use super::Tokenizer;

/// Holds back the bytes of an unfinished character.
#[derive(Debug, Default)]
pub struct DetokenStream {}

impl DetokenStream {
    /// Text that `id` completes, possibly none. Control tokens give no text.
    pub fn push(&mut self, _tokenizer: &Tokenizer, _id: u32) -> String {
        String::new()
    }
    /// What is left at the end; an unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        String::new()
    }
}
