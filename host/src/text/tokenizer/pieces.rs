//! Token id → the bytes it stands for.

use super::alphabet::{char_to_byte, parse_byte_token};
use super::source::TokenKind;

/// How the texts of normal tokens spell bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// GPT-2's byte alphabet.
    Bytes,
    /// UTF-8 with U+2581 for a space.
    Metaspace,
    /// UTF-8 as it stands.
    Plain,
}

/// The bytes of every token, in one buffer.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// `ends[id]`: where the bytes of token `id` end, and those of the next begin.
    ends: Vec<u32>,
}

impl Pieces {
    pub(super) fn with_capacity(tokens: usize) -> Self {
        Self { bytes: Vec::with_capacity(8 * tokens), ends: Vec::with_capacity(tokens) }
    }

    /// Appends the next token. Texts that do not follow `spelling` stand for themselves.
    pub(super) fn push(&mut self, text: &str, kind: TokenKind, spelling: Spelling) {
        match kind {
            TokenKind::Unused => {}
            TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined => {
                self.bytes.extend_from_slice(text.as_bytes());
            }
            TokenKind::Byte => match parse_byte_token(text) {
                Some(byte) => self.bytes.push(byte),
                None => self.bytes.extend_from_slice(text.as_bytes()),
            },
            TokenKind::Normal => self.push_normal(text, spelling),
        }
        // A vocabulary of 4 GiB of text cannot come from a checked file; ids beyond stay empty.
        self.ends.push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
    }

    fn push_normal(&mut self, text: &str, spelling: Spelling) {
        match spelling {
            Spelling::Plain => self.bytes.extend_from_slice(text.as_bytes()),
            Spelling::Metaspace => {
                for (i, part) in text.split('\u{2581}').enumerate() {
                    if i > 0 {
                        self.bytes.push(b' ');
                    }
                    self.bytes.extend_from_slice(part.as_bytes());
                }
            }
            Spelling::Bytes => {
                let start = self.bytes.len();
                for c in text.chars() {
                    let Some(byte) = char_to_byte(c) else {
                        self.bytes.truncate(start);
                        self.bytes.extend_from_slice(text.as_bytes());
                        return;
                    };
                    self.bytes.push(byte);
                }
            }
        }
    }

    /// The bytes of a token; none for ids out of range.
    pub(super) fn get(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        self.bytes.get(start as usize..end as usize).unwrap_or(&[])
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_bytes() {
        let mut pieces = Pieces::default();
        let cases: &[(&str, TokenKind, Spelling, &[u8])] = &[
            ("Ġa", TokenKind::Normal, Spelling::Bytes, b" a"),
            ("ĠÃ", TokenKind::Normal, Spelling::Bytes, b" \xc3"),
            ("你", TokenKind::Normal, Spelling::Bytes, "你".as_bytes()),
            ("▁a▁▁", TokenKind::Normal, Spelling::Metaspace, b" a  "),
            ("<s>", TokenKind::Control, Spelling::Metaspace, b"<s>"),
            ("▁▁", TokenKind::UserDefined, Spelling::Metaspace, "▁▁".as_bytes()),
            ("<0xE4>", TokenKind::Byte, Spelling::Metaspace, b"\xe4"),
            ("<0xGG>", TokenKind::Byte, Spelling::Metaspace, b"<0xGG>"),
            ("x", TokenKind::Unused, Spelling::Plain, b""),
        ];
        for &(text, kind, spelling, _) in cases {
            pieces.push(text, kind, spelling);
        }
        for (id, case) in cases.iter().enumerate() {
            assert_eq!(pieces.get(id as u32), case.3);
        }
        assert_eq!(pieces.get(9), b"");
        assert_eq!(pieces.get(u32::MAX), b"");
    }
}
