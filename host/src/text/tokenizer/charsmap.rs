//! SentencePiece's `precompiled_charsmap`: a trie of character sequences and what replaces them.
//!
//! Layout, little-endian: u32 byte size of the trie; the trie as u32 units; then replacement
//! strings, each ended by NUL. The trie is a double array (Darts-clone): a unit holds the label of
//! its edge in bits 0–7, "has a leaf" in bit 8, and the offset to its children in bits 10–30,
//! shifted by 8 more when bit 9 is set; a leaf unit has bit 31 set and a position in the strings.
//! Source: sentencepiece `normalizer.cc`, darts-clone `darts.h`.

/// Longest sequence that is looked up, in bytes. A trie that leads back into itself has endless
/// ones; real ones have a few characters.
const MAX_KEY: usize = 256;

/// Longest replacement, in bytes, so that a text grows within reason. Real ones have up to 33.
const MAX_REPLACEMENT: usize = 256;

/// A checked character map: whatever its units say, lookups stay inside it.
#[derive(Debug)]
pub(super) struct CharsMap {
    units: Vec<u32>,
    replacements: String,
}

impl CharsMap {
    /// Reads the blob of `tokenizer.ggml.precompiled_charsmap`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(blob: &[u8]) -> Result<Self, String> {
        let Some((size, rest)) = blob.split_first_chunk::<4>() else {
            return Err(format!("has {} bytes, expected at least 4", blob.len()));
        };
        let size = u32::from_le_bytes(*size) as usize;
        if size > rest.len() || !size.is_multiple_of(4) {
            return Err(format!("claims a trie of {size} bytes, {} are left", rest.len()));
        }
        let (trie, replacements) = rest.split_at(size);
        let (units, _) = trie.as_chunks::<4>();
        let replacements = std::str::from_utf8(replacements)
            .map_err(|e| format!("has replacements that are not UTF-8: {e}"))?;
        if let Some(long) = replacements.split('\0').find(|text| text.len() > MAX_REPLACEMENT) {
            let found = long.len();
            return Err(format!(
                "has a replacement of {found} bytes, expected at most {MAX_REPLACEMENT}"
            ));
        }
        Ok(Self {
            units: units.iter().map(|unit| u32::from_le_bytes(*unit)).collect(),
            replacements: replacements.to_owned(),
        })
    }

    /// The whole text with every longest match replaced.
    pub(super) fn normalize(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let used = match self.longest(rest) {
                Some((len, replacement)) => {
                    out.push_str(replacement);
                    len
                }
                None => {
                    out.push(c);
                    c.len_utf8()
                }
            };
            rest = &rest[used..];
        }
        out
    }

    /// Bytes of the longest prefix of `text` in the map, and what replaces it.
    pub(super) fn longest(&self, text: &str) -> Option<(usize, &str)> {
        let children = |unit: u32| (unit >> 10) << ((unit & (1 << 9)) >> 6);
        let mut node = children(*self.units.first()?);
        let mut best = None;
        for (i, byte) in text.bytes().take(MAX_KEY).enumerate() {
            node ^= u32::from(byte);
            let Some(&unit) = self.units.get(node as usize) else { break };
            if byte == 0 || unit & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            node ^= children(unit);
            if unit >> 8 & 1 == 1 && text.is_char_boundary(i + 1) {
                let leaf = self.units.get(node as usize);
                best = leaf.map(|leaf| (i + 1, leaf & !(1 << 31))).or(best);
            }
        }
        let (len, at) = best?;
        let tail = self.replacements.get(at as usize..)?;
        Some((len, &tail[..tail.find('\0')?]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trie by hand for "ab" → "X" and "a" → "" (positions 0 and 2 of "X\0\0").
    fn map() -> CharsMap {
        let mut units = vec![0u32; 256];
        let unit = |label: u8, offset: u32, leaf: u32| u32::from(label) | leaf << 8 | offset << 10;
        units[0] = unit(0, 1, 0);
        let a = 1 ^ u32::from(b'a');
        units[a as usize] = unit(b'a', a ^ 200, 1); // children at 200
        units[200] = 1 << 31 | 2;
        let b = 200 ^ u32::from(b'b');
        units[b as usize] = unit(b'b', b ^ 10, 1); // children at 10
        units[10] = 1 << 31;
        let mut blob = 1024u32.to_le_bytes().to_vec();
        blob.extend(units.iter().flat_map(|u| u.to_le_bytes()));
        blob.extend(b"X\0\0");
        CharsMap::parse(&blob).unwrap()
    }

    #[test]
    fn the_longest_match_is_replaced() {
        assert_eq!(map().normalize("cabaé\0ab"), "cXé\0X");
    }

    #[test]
    fn blobs_that_lie_are_refused_or_harmless() {
        assert!(CharsMap::parse(&[1, 2]).is_err());
        assert!(CharsMap::parse(&[9, 0, 0, 0, 1]).is_err());
        assert!(CharsMap::parse(&[4, 0, 0, 0, 1, 2, 3, 4, 0xff]).is_err());
        let long = [&[0; 4][..], &[b'x'; MAX_REPLACEMENT + 1], &[0]].concat();
        assert!(CharsMap::parse(&long).unwrap_err().contains("257 bytes"));
        assert_eq!(CharsMap::parse(&[0; 4]).unwrap().normalize("abc"), "abc");
        // Every unit claims a match and points far away.
        let mut blob = 1024u32.to_le_bytes().to_vec();
        for label in 0..256u32 {
            blob.extend((0x7fff_ff00 | label).to_le_bytes());
        }
        let wild = CharsMap::parse(&blob).unwrap();
        assert_eq!(wild.normalize("abcé"), "abcé");
    }

    #[test]
    fn a_trie_that_leads_back_into_itself_takes_linear_time() {
        let mut units = vec![0u32; 256];
        units[0] = 1 << 10;
        // Its children start where the same letter leads back to it.
        units[usize::from(1 ^ b'a')] = u32::from(b'a') | u32::from(b'a') << 10;
        let mut blob = 1024u32.to_le_bytes().to_vec();
        blob.extend(units.iter().flat_map(|u| u.to_le_bytes()));
        let circle = CharsMap::parse(&blob).unwrap();
        let text = "a".repeat(1 << 20);
        // Seconds at most; with every rest of the text walked to its end it takes many minutes.
        let start = std::time::Instant::now();
        assert_eq!(circle.normalize(&text), text);
        assert!(start.elapsed() < std::time::Duration::from_secs(60), "{:?}", start.elapsed());
    }
}
