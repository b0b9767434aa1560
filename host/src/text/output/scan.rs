//! Markers in a text that comes in pieces.

/// Where one of `markers` begins first, and which; of two at one place the longer.
pub(super) fn find<'a>(text: &str, markers: &[&'a str]) -> Option<(usize, &'a str)> {
    let places = markers.iter().filter_map(|marker| Some((text.find(marker)?, *marker)));
    places.min_by_key(|(at, marker)| (*at, usize::MAX - marker.len()))
}

/// Bytes at the end of `text` that may be the head of one of `markers`.
pub(super) fn held(text: &str, markers: &[&str]) -> usize {
    let longest = |marker: &&str| {
        let heads = marker.char_indices().map(|(at, _)| at).rev();
        heads.take_while(|at| *at > 0).find(|at| text.ends_with(&marker[..*at])).unwrap_or(0)
    };
    markers.iter().map(longest).max().unwrap_or(0)
}

/// How `text` begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Begins<'a> {
    /// With this one of the markers.
    With(&'a str),
    /// It may yet, when more of it comes.
    Perhaps,
    Not,
}

/// Whether `text` begins with one of `markers`, the longest of them.
pub(super) fn begins<'a>(text: &str, markers: &[&'a str], end: bool) -> Begins<'a> {
    if !end && markers.iter().any(|marker| marker.len() > text.len() && marker.starts_with(text)) {
        return Begins::Perhaps;
    }
    let found = markers.iter().filter(|marker| text.starts_with(**marker));
    found.max_by_key(|marker| marker.len()).map_or(Begins::Not, |marker| Begins::With(marker))
}

/// Bytes of white space that `text` begins with.
pub(super) fn white(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_marker_is_found_and_heads_are_held() {
        let markers = ["<a>", "<ab>"];
        assert_eq!(find("x<ab><a>", &markers), Some((1, "<ab>")));
        assert_eq!(find("x<b>", &markers), None);
        assert_eq!((held("x<a", &markers), held("x<", &markers), held("x", &markers)), (2, 1, 0));
        assert_eq!(held("x<｜t", &["<｜tool"]), "<｜t".len());
    }

    #[test]
    fn a_beginning_is_known_as_soon_as_it_can_be() {
        assert_eq!(begins("<", &["<a>"], false), Begins::Perhaps);
        assert_eq!(begins("", &["<a>"], false), Begins::Perhaps);
        assert_eq!(begins("<", &["<a>"], true), Begins::Not);
        assert_eq!(begins("<b", &["<a>"], false), Begins::Not);
        assert_eq!(begins("<a>b", &["<a>"], false), Begins::With("<a>"));
    }
}
