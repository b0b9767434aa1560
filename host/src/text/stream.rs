//! Token ids → text as they come, never splitting a UTF-8 character.

use super::Tokenizer;

/// Holds back the bytes of an unfinished character.
///
/// The texts given out, in order, are those of the whole sequence decoded at once, without
/// control tokens. Made for the continuation of a prompt: the space that a SentencePiece token
/// starts with belongs to the text, also on the first token.
#[derive(Debug, Default)]
pub struct DetokenStream {
    /// Control tokens that have text all the same, ascending.
    shown: Vec<u32>,
    /// The head of a character; under four bytes.
    pending: Vec<u8>,
}

impl DetokenStream {
    /// Gives the text of these control tokens too: what reads the text needs them as markers.
    pub fn showing(mut shown: Vec<u32>) -> Self {
        shown.sort_unstable();
        Self { shown, ..Self::default() }
    }

    /// Text that `id` completes, possibly none. Control tokens give no text but for those to be shown.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        if tokenizer.is_special(id) && self.shown.binary_search(&id).is_err() {
            return String::new();
        }
        self.push_bytes(tokenizer.piece(id))
    }

    fn push_bytes(&mut self, piece: &[u8]) -> String {
        self.pending.extend_from_slice(piece);
        let mut text = String::new();
        let mut held = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
            held = invalid.len();
        }
        // The last chunk may be the head of a character whose rest is still to come.
        let tail = &self.pending[self.pending.len() - held..];
        let unfinished =
            held > 0 && std::str::from_utf8(tail).is_err_and(|e| e.error_len().is_none());
        if unfinished {
            text.pop();
            self.pending.drain(..self.pending.len() - held);
        } else {
            self.pending.clear();
        }
        text
    }

    /// What is left at the end; an unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(pieces: &[&[u8]]) -> Vec<String> {
        let mut stream = DetokenStream::default();
        let mut texts: Vec<_> = pieces.iter().map(|piece| stream.push_bytes(piece)).collect();
        texts.push(stream.finish());
        texts
    }

    #[test]
    fn characters_are_held_until_complete() {
        assert_eq!(stream(&[b"a\xe4", b"\xbd", b"\xa0b"]), ["a", "", "你b", ""]);
        assert_eq!(stream(&[b"\xf0\x9f", b"\x9a\x80"]), ["", "🚀", ""]);
    }

    #[test]
    fn what_can_be_no_character_is_replaced_at_once() {
        assert_eq!(stream(&[b"\xff", b"x"]), ["\u{fffd}", "x", ""]);
        assert_eq!(stream(&[b"\xe4\xbd", b"x"]), ["", "\u{fffd}x", ""]);
        assert_eq!(stream(&[b"a\xe4\xbd"]), ["a", "\u{fffd}"]);
    }

    proptest! {
        #[test]
        fn any_cut_of_any_bytes_gives_the_lossy_text(pieces: Vec<Vec<u8>>) {
            let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let whole = pieces.concat();
            prop_assert_eq!(stream(&slices).concat(), String::from_utf8_lossy(&whole));
        }
    }
}
