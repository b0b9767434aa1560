//! The manual tells of every option, and of no other.

use std::collections::BTreeSet;

use tests::run;

fn options(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    words
        .filter(|w| {
            w.strip_prefix("--").is_some_and(|w| w.starts_with(|c: char| c.is_ascii_lowercase()))
        })
        .collect()
}

#[test]
fn the_manual_names_the_options_of_help() {
    let manual = tests::data("../../docs/CLI.md");
    let manual = std::fs::read_to_string(manual).expect("docs/CLI.md");
    let help = run(&["--help"]).out;
    // Only the first word of a line of `--help` is an option that it describes.
    let described: BTreeSet<&str> =
        help.lines().filter_map(|l| l.strip_prefix("  ")?.split_whitespace().next()).collect();
    let described: BTreeSet<&str> =
        described.into_iter().flat_map(|w| w.split(',')).filter(|w| w.starts_with("--")).collect();
    assert!(described.len() > 50, "{described:?}");
    // The options a table of the manual describes: first in their line.
    let rows = manual.lines().filter_map(|l| l.strip_prefix("| `")?.split(['`', ' ']).next());
    let rows: BTreeSet<&str> = rows.filter(|w| w.starts_with("--")).collect();
    assert_eq!(rows, described, "left: docs/CLI.md, right: --help");
    // Options of other programs have no place there.
    let known: BTreeSet<&str> = &described | &BTreeSet::from(["--help"]);
    let unknown: Vec<_> = options(&manual).difference(&known).copied().collect::<Vec<_>>();
    assert!(unknown.is_empty(), "docs/CLI.md: {unknown:?}");
}

#[test]
fn the_exit_codes_are_those_of_help() {
    let help = run(&["--help"]).out;
    let manual = std::fs::read_to_string(tests::data("../../docs/CLI.md")).expect("docs/CLI.md");
    let codes = help.lines().skip_while(|l| !l.starts_with("Error codes")).skip(1);
    let codes: Vec<&str> = codes.map(str::trim).take_while(|l| !l.is_empty()).collect();
    assert_eq!(codes.len(), 9, "{help}");
    for line in codes {
        let (code, meaning) = line.split_once(' ').expect(line);
        let row = format!("| {code} | {}", meaning.trim());
        assert!(manual.contains(&row), "docs/CLI.md has no {row:?}");
    }
}
