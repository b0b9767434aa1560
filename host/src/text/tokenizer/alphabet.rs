//! The two ways in which token texts spell bytes: GPT-2's byte alphabet, and `<0x0A>`.

/// The character that stands for a byte in byte-level vocabularies.
///
/// Printable Latin-1 stands for itself; the other 68 bytes are numbered from U+0100 on, in order.
/// Source: `bytes_to_unicode` of GPT-2's `encoder.py`.
pub(super) const fn byte_to_char(byte: u8) -> char {
    let offset = match byte {
        0..=0x20 => byte,
        0x7f..=0xa0 => 0x21 + (byte - 0x7f),
        0xad => 0x43,
        _ => return byte as char,
    };
    // U+0100 to U+0143 are characters.
    match char::from_u32(0x100 + offset as u32) {
        Some(c) => c,
        None => byte as char,
    }
}

/// The byte that a character of the alphabet stands for.
pub(super) const fn char_to_byte(c: char) -> Option<u8> {
    match c as u32 {
        n @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(n as u8),
        n @ 0x100..=0x120 => Some((n - 0x100) as u8),
        n @ 0x121..=0x142 => Some((n - 0x121) as u8 + 0x7f),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// Writes `text` into `out` in the byte alphabet, replacing what was there.
pub(super) fn spell(text: &str, out: &mut String) {
    out.clear();
    out.extend(text.bytes().map(byte_to_char));
}

/// The byte of a byte token: exactly `<0xHH>`, two hexadecimal digits.
pub(super) fn parse_byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let plain = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if plain { u8::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_gpt2s_and_reversible() {
        // encoder.py: `bs` are the printable bytes, the others get 256, 257, … in order.
        let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let mut next = 256;
        for byte in 0..=255u8 {
            let expected = if printable(byte) {
                u32::from(byte)
            } else {
                next += 1;
                next - 1
            };
            assert_eq!(byte_to_char(byte) as u32, expected);
            assert_eq!(char_to_byte(byte_to_char(byte)), Some(byte));
        }
        assert_eq!(char_to_byte('\u{144}'), None);
        assert_eq!(char_to_byte(' '), None);
        assert_eq!(char_to_byte('\u{ad}'), None);
    }

    #[test]
    fn only_two_hexadecimal_digits_make_a_byte_token() {
        assert_eq!(parse_byte_token("<0x0A>"), Some(10));
        assert_eq!(parse_byte_token("<0xff>"), Some(255));
        for wrong in ["<0x-1>", "<0xGG>", "<0x+1>", "<0xA>", "<0x0A", "0x0A", "<0x0AB>", "<0x é>"]
        {
            assert_eq!(parse_byte_token(wrong), None, "{wrong}");
        }
    }
}
