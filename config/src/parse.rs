//! Text → settings: a TOML document, or `section.key=value`.

use std::path::Path;

use toml_edit::{Document, Item, Value};

use crate::schema::SECTIONS;
use crate::{Config, ConfigError, Key, Origin, nearest};

impl Config {
    /// Applies the text of a file to `self`. `path` names it in errors.
    ///
    /// # Errors
    /// The first thing wrong, with its line and column; `self` then holds the settings before it.
    pub fn apply_toml(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let source = Source { path, text };
        let document = Document::parse(text).map_err(|e| source.syntax_error(&e))?;
        for (section, item) in document.iter() {
            let at = document.as_table().key(section).and_then(|k| k.span());
            let origin = source.origin(at.map_or(0, |span| span.start));
            let Some(table) = item.as_table_like() else {
                return Err(not_a_section(origin, section, item));
            };
            if !SECTIONS.iter().any(|(name, _)| *name == section) {
                return Err(unknown_section(origin, section));
            }
            for (name, item) in table.iter() {
                let at = table.key(name).and_then(|k| k.span());
                let origin = source.origin(at.map_or(0, |span| span.start));
                let key = find(section, name)
                    .ok_or_else(|| unknown_key(origin.clone(), section, name))?;
                let at = item.span().map(|span| source.origin(span.start)).unwrap_or(origin);
                if !item.as_value().is_some_and(|value| key.store(self, value)) {
                    return Err(bad_value(at, key, source.describe(item)));
                }
            }
        }
        Ok(())
    }

    /// Applies `section.key=value`, where a string may stand without quotes.
    ///
    /// # Errors
    /// When the argument has another shape, names no key, or the value is not the key's; `self` is unchanged.
    pub fn set(&mut self, argument: &str) -> Result<(), ConfigError> {
        let origin = Origin::Set(shortened(argument));
        let (path, value) = argument
            .split_once('=')
            .and_then(|(path, value)| Some((path.trim().split_once('.')?, value.trim())))
            .ok_or_else(|| ConfigError::SetSyntax { origin: origin.clone() })?;
        let (section, name) = (path.0.trim(), path.1.trim());
        let Some(key) = find(section, name) else {
            return Err(if SECTIONS.iter().any(|(s, _)| *s == section) {
                unknown_key(origin, section, name)
            } else {
                unknown_section(origin, section)
            });
        };
        // Quotes are the shell's business as often as the user's: what is inside them may be any type.
        let bare = match value.parse::<Value>() {
            Ok(Value::String(quoted)) => quoted.into_value(),
            _ => value.to_owned(),
        };
        let stored = key.store(self, &Value::from(bare.as_str()))
            || bare.parse::<Value>().is_ok_and(|value| key.store(self, &value));
        if stored { Ok(()) } else { Err(bad_value(origin, key, format!("{:?}", shortened(&bare)))) }
    }

    /// Settings that exclude each other. [`Config::load`] calls it; call it again after changing fields.
    ///
    /// # Errors
    /// [`ConfigError::Conflict`].
    pub fn check(&self) -> Result<(), ConfigError> {
        use crate::{KvDtype, RopeOverride, RopeScaling};

        if self.runtime.exact && !matches!(self.kv_cache.dtype, KvDtype::Auto | KvDtype::Fp32) {
            return Err(ConfigError::Conflict {
                first: "runtime.exact = true".into(),
                second: format!("kv_cache.dtype = {:?}", self.kv_cache.dtype.as_str()),
                way_out: "exact mode keeps an F32 cache; leave kv_cache.dtype at \"auto\"",
            });
        }
        if self.rope.scaling == RopeScaling::Model && self.rope != RopeOverride::default() {
            let written = |key: &&Key| {
                key.section == "rope" && key.value(self) != key.value(&Self::default())
            };
            let key =
                Key::all().iter().find(written).expect("a rope field differs from its default");
            return Err(ConfigError::Conflict {
                first: format!("{} = {}", key.path(), key.value(self)),
                second: "rope.scaling = \"\"".into(),
                way_out: "the model's own scaling is kept; set rope.scaling to \"linear\" or \"yarn\"",
            });
        }
        let (r, plain) = (&self.rope, RopeOverride::default());
        let yarn = |r: &RopeOverride| (r.attn_factor, r.beta_fast, r.beta_slow);
        if r.scaling == RopeScaling::Linear && yarn(r) != yarn(&plain) {
            return Err(ConfigError::Conflict {
                first: "rope.scaling = \"linear\"".into(),
                second: "rope.attn_factor, rope.beta_fast or rope.beta_slow".into(),
                way_out: "these belong to \"yarn\"; leave them out",
            });
        }
        Ok(())
    }
}

/// A file's text, to say where in it something stands.
pub(crate) struct Source<'a> {
    pub path: &'a Path,
    pub text: &'a str,
}

impl Source<'_> {
    pub fn origin(&self, offset: usize) -> Origin {
        let before = &self.text[..self.text.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        Origin::File {
            path: self.path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    /// Type and text of what stands where a value should.
    fn describe(&self, item: &Item) -> String {
        match item.as_value() {
            Some(Value::Array(_) | Value::InlineTable(_)) => format!("an {}", item.type_name()),
            Some(value) => {
                let text = value.span().and_then(|span| self.text.get(span)).unwrap_or_default();
                format!("the {} {}", value.type_name(), shortened(text))
            }
            None => format!("a {}", item.type_name()),
        }
    }

    fn syntax_error(&self, error: &toml_edit::TomlError) -> ConfigError {
        let offset = error.span().map_or(0, |span| span.start);
        let hint = self.quoting_hint(offset).unwrap_or_default();
        let message = error.message().trim_end().replace('\n', "; ");
        ConfigError::Syntax { origin: self.origin(offset), message, hint }
    }

    /// `dtype = fp8` is the usual mistake: TOML wants strings quoted.
    fn quoting_hint(&self, offset: usize) -> Option<String> {
        let offset = self.text.floor_char_boundary(offset);
        let line_start = self.text[..offset].rfind('\n').map_or(0, |i| i + 1);
        let (name, value) = self.text[line_start..].lines().next()?.split_once('=')?;
        let value = value.split('#').next()?.trim();
        let bare = value.chars().all(|c| c.is_alphanumeric() || "_-./~".contains(c));
        let key = Key::all().iter().find(|key| key.name == name.trim())?;
        (bare && !value.is_empty() && key.expected().contains('"') || value.starts_with(['/', '~']))
            .then(|| format!("; a string needs quotes: {} = {value:?}", key.name))
    }
}

fn find(section: &str, name: &str) -> Option<&'static Key> {
    Key::all().iter().find(|key| key.section == section && key.name == name)
}

fn bad_value(origin: Origin, key: &Key, found: String) -> ConfigError {
    ConfigError::Value { origin, key: key.path(), found, expected: key.expected() }
}

fn not_a_section(origin: Origin, name: &str, item: &Item) -> ConfigError {
    let suggestion = match Key::all().iter().find(|key| key.name == name) {
        Some(key) if item.is_value() => format!("write {name} under [{}]", key.section),
        _ if item.is_array_of_tables() => format!("write [{name}] in single brackets"),
        _ => "every key stands under a [section]".into(),
    };
    ConfigError::UnknownKey { origin, key: shortened(name), suggestion }
}

fn unknown_section(origin: Origin, section: &str) -> ConfigError {
    let names = SECTIONS.iter().map(|(name, _)| (*name).to_owned());
    let suggestion = match nearest(&shortened(section), names.clone()) {
        Some(name) => format!("did you mean [{name}]?"),
        None => format!("the sections are {}", names.collect::<Vec<_>>().join(", ")),
    };
    ConfigError::UnknownSection { origin, section: shortened(section), suggestion }
}

fn unknown_key(origin: Origin, section: &str, name: &str) -> ConfigError {
    let moved = Key::all().iter().find(|key| key.name == name).map(Key::path);
    let here =
        Key::all().iter().filter(|key| key.section == section).map(|key| key.name.to_owned());
    let elsewhere = Key::all().iter().map(|key| key.name.to_owned());
    let path_of = |name: String| {
        let at = |s: &str| {
            Key::all().iter().find(|k| k.name == name && (s.is_empty() || k.section == s))
        };
        at(section).or_else(|| at("")).map(Key::path)
    };
    let near = || {
        nearest(&shortened(name), here.clone())
            .or_else(|| nearest(&shortened(name), elsewhere))
            .and_then(path_of)
    };
    let suggestion = match moved.or_else(near) {
        Some(path) => format!("did you mean {path}?"),
        None => format!("[{section}] has {}", here.collect::<Vec<_>>().join(", ")),
    };
    ConfigError::UnknownKey { origin, key: shortened(&format!("{section}.{name}")), suggestion }
}

/// At most 80 characters of what a user wrote.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
