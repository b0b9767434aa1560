//! Finds a marker in the text of tokens, whichever tokens spell it.

/// Watches for one marker.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    marker: Vec<u8>,
    /// The last bytes, fewer than the marker has.
    tail: Vec<u8>,
}

impl Watch {
    pub fn new(marker: &str) -> Self {
        Self { marker: marker.as_bytes().to_vec(), tail: vec![] }
    }

    /// What it watches for.
    pub fn marker(&self) -> &[u8] {
        &self.marker
    }

    /// Takes the text of a token. Whether the marker is complete with it.
    pub fn push(&mut self, text: &[u8]) -> bool {
        self.tail.extend_from_slice(text);
        let len = self.marker.len();
        if len == 0 || self.tail.windows(len).any(|window| window == self.marker) {
            self.tail.clear();
            return true;
        }
        let kept = self.tail.len().min(len - 1);
        self.tail.drain(..self.tail.len() - kept);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_found_across_tokens() {
        let mut watch = Watch::new("</think>");
        for (text, found) in [
            ("a </", false),
            ("thi", false),
            ("nk>\n", true),
            ("<", false),
            ("/think></think>", true),
            ("x</think", false),
            ("</think>", true),
        ] {
            assert_eq!(watch.push(text.as_bytes()), found, "{text}");
        }
    }
}
