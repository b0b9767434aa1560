//! The known name nearest to a mistyped one.

/// The candidate that `word` is most likely a misspelling of: the one with the fewest edits, at
/// most a third of its length; `None` when none is that close.
pub fn nearest<S: AsRef<str>>(word: &str, candidates: impl Iterator<Item = S>) -> Option<S> {
    let word = word.to_lowercase();
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&word, candidate.as_ref()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.as_ref().len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_names_are_not_suggested() {
        let names = ["temperature", "top_p", "seed"];
        assert_eq!(nearest("temprature", names.into_iter()), Some("temperature"));
        assert_eq!(nearest("topp", names.into_iter()), Some("top_p"));
        assert_eq!(nearest("quality", names.into_iter()), None);
    }
}
