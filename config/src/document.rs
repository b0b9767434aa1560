//! The schema written out: `imp.conf.example` and the reference page.

use std::fmt::Write;

use crate::schema::SECTIONS;
use crate::{Config, Key};

/// Width of comment lines in the example.
const WIDTH: usize = 100;

impl Config {
    /// A file with every key at its default under its documentation: the text of `imp.conf.example`.
    pub fn example() -> String {
        let mut out = String::from(
            "# imp.conf: every key with its default.\n\
             #\n\
             # The first of these that exists is read: --config FILE, $IMP_CONFIG, ./imp.conf,\n\
             # ~/.config/imp/imp.conf. For one run: --set section.key=value.\n",
        );
        let defaults = Self::default();
        for (section, docs) in SECTIONS {
            let _ = write!(out, "\n# {}\n[{section}]\n", paragraph(docs));
            for key in keys_of(section) {
                comment(&mut out, &paragraph(key.docs));
                comment(&mut out, &format!("{}.", capitalised(&key.expected())));
                let _ = writeln!(out, "{} = {}", key.name, key.value(&defaults));
            }
        }
        out
    }

    /// A table of all keys in Markdown: the text of `docs/CONFIG.md`.
    pub fn reference() -> String {
        let mut out = String::from(
            "# imp.conf\n\n\
             The first of these that exists is read: `--config FILE`, `$IMP_CONFIG`, `./imp.conf`, \
             `~/.config/imp/imp.conf`; without one the defaults below hold. A file is TOML. \
             `--set section.key=value` changes a key for one run, and a string needs no quotes there. \
             An unknown key or a value of the wrong type is an error.\n\n\
             This page and `imp.conf.example` are written from the schema in `config/src/schema.rs`.\n",
        );
        let defaults = Self::default();
        for (section, docs) in SECTIONS {
            let _ = write!(out, "\n## [{section}]\n\n{}\n\n", paragraph(docs));
            out.push_str("| Key | Default | Value | Meaning |\n|---|---|---|---|\n");
            for key in keys_of(section) {
                let (value, expected) = (key.value(&defaults), key.expected());
                let meaning = paragraph(key.docs).replace('|', "\\|");
                let _ = writeln!(out, "| `{}` | `{value}` | {expected} | {meaning} |", key.name);
            }
        }
        out
    }
}

fn keys_of(section: &str) -> impl Iterator<Item = &'static Key> {
    Key::all().iter().filter(move |key| key.section == section)
}

/// Documentation lines as one.
fn paragraph(docs: &[&str]) -> String {
    docs.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// Appends `text` as comment lines, broken between words.
fn comment(out: &mut String, text: &str) {
    let mut column = 0;
    for word in text.split(' ') {
        if column == 0 || column + 1 + word.len() > WIDTH {
            out.push_str(if column == 0 { "#" } else { "\n#" });
            column = 1;
        }
        out.push(' ');
        out.push_str(word);
        column += 1 + word.len();
    }
    out.push('\n');
}
