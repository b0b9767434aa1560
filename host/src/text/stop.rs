//! Stop strings over a stream of text pieces.
//!
//! [`StopMatcher`] runs every stop string as an automaton over the bytes, so that each piece costs
//! its length times the number of stops, and what was shown never has to be taken back.

/// Finds the first stop string, also across pieces; text that may be the head of one is held back.
///
/// The stop that is complete first wins; of several that end at one place the longest, so that no
/// part of it is shown. How the text was cut into pieces changes nothing. At most the length of the
/// longest stop, less one byte, is held back.
#[derive(Debug, Default)]
pub struct StopMatcher {
    stops: Vec<Stop>,
    held: String,
    reached: bool,
}

/// One stop string and how much of it the text ends with.
#[derive(Debug)]
struct Stop {
    text: String,
    /// `borders[n]`: the longest proper prefix of `text[..n + 1]` that is also its suffix.
    borders: Vec<usize>,
    /// Bytes of `text` that end the stream so far; less than all of it between steps.
    matched: usize,
}

impl StopMatcher {
    /// Watches for any of `stops`; empty strings are ignored.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).map(|stop| Stop::new(stop));
        Self { stops: stops.collect(), ..Self::default() }
    }

    /// Text safe to show now, and the stop string that was reached, if any.
    ///
    /// The stop itself and what follows it are dropped; after it, nothing comes any more.
    pub fn push(&mut self, text: &str) -> (String, Option<String>) {
        if self.reached {
            return (String::new(), None);
        }
        for (index, byte) in text.bytes().enumerate() {
            let complete = self.stops.iter_mut().filter_map(|stop| stop.step(byte));
            let Some(stop) = complete.max_by_key(|stop| stop.len()) else { continue };
            let stop = stop.to_owned();
            self.held.push_str(&text[..=index]);
            self.held.truncate(self.held.len() - stop.len());
            self.reached = true;
            return (std::mem::take(&mut self.held), Some(stop));
        }
        self.held.push_str(text);
        let kept = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        // The kept bytes are the head of a stop, so they start at a character.
        let kept = self.held.split_off(self.held.len() - kept);
        (std::mem::replace(&mut self.held, kept), None)
    }

    /// The text held back, when generation ended without a stop string.
    pub fn finish(&mut self) -> String {
        self.stops.iter_mut().for_each(|stop| stop.matched = 0);
        std::mem::take(&mut self.held)
    }
}

impl Stop {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut borders = vec![0; bytes.len()];
        let mut border = 0;
        for end in 1..bytes.len() {
            while border > 0 && bytes[end] != bytes[border] {
                border = borders[border - 1];
            }
            border += usize::from(bytes[end] == bytes[border]);
            borders[end] = border;
        }
        Self { text: text.to_owned(), borders, matched: 0 }
    }

    /// Takes the next byte; the stop when it is complete with it.
    ///
    /// Source: Knuth, Morris and Pratt 1977.
    fn step(&mut self, byte: u8) -> Option<&str> {
        let bytes = self.text.as_bytes();
        while self.matched > 0 && bytes[self.matched] != byte {
            self.matched = self.borders[self.matched - 1];
        }
        self.matched += usize::from(bytes[self.matched] == byte);
        if self.matched < bytes.len() {
            return None;
        }
        // A complete stop ends the search; zero keeps the invariant of the field.
        self.matched = 0;
        Some(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(stops: &[&str]) -> Vec<String> {
        stops.iter().map(|stop| (*stop).to_owned()).collect()
    }

    /// All text shown for `pieces`, and the stop.
    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let mut matcher = StopMatcher::new(&owned(stops));
        let mut shown = String::new();
        let mut reached = None;
        for piece in pieces {
            let (text, stop) = matcher.push(piece);
            assert!(reached.is_none() || text.is_empty() && stop.is_none());
            shown.push_str(&text);
            reached = reached.or(stop);
        }
        shown.push_str(&matcher.finish());
        (shown, reached)
    }

    /// The same by search over the whole text: the shortest head of it that ends with a stop.
    fn search(stops: &[&str], text: &str) -> (String, Option<String>) {
        for end in 1..=text.len() {
            let head = &text.as_bytes()[..end];
            let ending = stops.iter().filter(|stop| !stop.is_empty());
            let ending = ending.filter(|stop| head.ends_with(stop.as_bytes()));
            if let Some(stop) = ending.max_by_key(|stop| stop.len()) {
                return (text[..end - stop.len()].to_owned(), Some((*stop).to_owned()));
            }
        }
        (text.to_owned(), None)
    }

    #[test]
    fn a_stop_is_found_wherever_the_pieces_are_cut() {
        let stop = |text: &str, stop: &str| (text.to_owned(), Some(stop.to_owned()));
        assert_eq!(run(&["END"], &["some E", "N", "D more", "x"]), stop("some ", "END"));
        assert_eq!(run(&["END"], &["ENDEND"]), stop("", "END"));
        assert_eq!(run(&["END"], &["EN", "EN", "D"]), stop("EN", "END"));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]), stop("a", "aab"));
        // Prefixes of each other: the shorter is complete first.
        assert_eq!(run(&["ab", "abc"], &["xabc"]), stop("x", "ab"));
        // One inside another: complete first; ending together: the longer hides all of itself.
        assert_eq!(run(&["abcd", "c"], &["ab", "cd"]), stop("ab", "c"));
        assert_eq!(run(&["abc", "c"], &["ab", "c"]), stop("", "abc"));
        assert_eq!(run(&["用户："], &["好用", "户", "：x"]), stop("好", "用户："));
        assert_eq!(run(&["", ""], &["a", "b"]), ("ab".to_owned(), None));
        assert_eq!(run(&[], &["a", "", "b"]), ("ab".to_owned(), None));
        assert_eq!(run(&["END"], &["an EN"]), ("an EN".to_owned(), None));
    }

    #[test]
    fn text_is_shown_as_soon_as_it_cannot_be_a_stop() {
        let mut matcher = StopMatcher::new(&owned(&["\n\nUser:"]));
        assert_eq!(matcher.push("Hi\n"), ("Hi".to_owned(), None));
        assert_eq!(matcher.push("\n"), (String::new(), None));
        assert_eq!(matcher.push("\n"), ("\n".to_owned(), None));
        assert_eq!(matcher.push("Us"), (String::new(), None));
        assert_eq!(matcher.push("ual"), ("\n\nUsual".to_owned(), None));
        assert_eq!(matcher.finish(), "");
    }

    #[test]
    fn nothing_follows_a_stop() {
        let mut matcher = StopMatcher::new(&owned(&["."]));
        assert_eq!(matcher.push("a.b"), ("a".to_owned(), Some(".".to_owned())));
        assert_eq!(matcher.push("c."), (String::new(), None));
        assert_eq!(matcher.finish(), "");
    }

    /// SplitMix64.
    fn next(state: &mut u64) -> usize {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)) as usize >> 33
    }

    #[test]
    fn random_texts_stops_and_cuts_agree_with_a_search_of_the_whole_text() {
        // Few letters, so that stops overlap; two share their first byte of UTF-8.
        let letters = ["a", "b", "é", "è", "🚀"];
        let word = |state: &mut u64, most: usize| -> String {
            (0..next(state) % (most + 1)).map(|_| letters[next(state) % letters.len()]).collect()
        };
        for seed in 0..20_000u64 {
            let state = &mut seed.clone();
            let text = word(state, 24);
            let stops: Vec<String> = (0..next(state) % 4).map(|_| word(state, 5)).collect();
            let longest = stops.iter().map(String::len).max().unwrap_or(0);
            let mut matcher = StopMatcher::new(&stops);
            let (mut shown, mut reached, mut rest) = (String::new(), None, text.as_str());
            while !rest.is_empty() {
                let cut = rest.char_indices().map(|(at, _)| at).nth(1 + next(state) % 4);
                let (piece, left) = rest.split_at(cut.unwrap_or(rest.len()));
                let (safe, stop) = matcher.push(piece);
                assert!(reached.is_none() || safe.is_empty() && stop.is_none(), "seed {seed}");
                shown.push_str(&safe);
                reached = reached.or(stop);
                let pushed = text.len() - left.len();
                let held = pushed - shown.len();
                assert!(reached.is_some() || held < longest.max(1), "seed {seed}: {held} held");
                rest = left;
            }
            shown.push_str(&matcher.finish());
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            assert_eq!((shown, reached), search(&stops, &text), "seed {seed}: {stops:?} in {text}");
        }
    }
}
