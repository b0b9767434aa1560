//! Finding the file: `--config`, `$IMP_CONFIG`, `./imp.conf`, `~/.config/imp/imp.conf`, built-in values.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::parse::Source;
use crate::{Config, ConfigError};

/// Most bytes read: far above any configuration, so that naming a model or `/dev/zero` ends at once.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What of the process decides where the file is.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `$IMP_CONFIG`; empty counts as unset.
    pub imp_config: Option<OsString>,
    /// Working directory, where relative paths start.
    pub working_dir: PathBuf,
    /// `$HOME`; empty counts as unset.
    pub home: Option<OsString>,
}

impl Environment {
    /// That of this process.
    pub fn current() -> Self {
        Self {
            imp_config: std::env::var_os("IMP_CONFIG"),
            working_dir: PathBuf::new(), // relative paths start there by themselves
            home: std::env::var_os("HOME"),
        }
    }
}

/// A configuration and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// The file read; `None` when there was none.
    pub source: Option<PathBuf>,
}

impl Config {
    /// Reads the first file of the search order and applies `sets` (each `section.key=value`) in order.
    ///
    /// `explicit` is the file of `--config`.
    ///
    /// # Errors
    /// A file that was named and cannot be read, or found and cannot be read; anything wrong in it or in `sets`.
    pub fn load(explicit: Option<&Path>, sets: &[String]) -> Result<Loaded, ConfigError> {
        Self::load_in(&Environment::current(), explicit, sets)
    }

    /// [`Config::load`] in a given environment.
    ///
    /// # Errors
    /// As there.
    pub fn load_in(
        environment: &Environment,
        explicit: Option<&Path>,
        sets: &[String],
    ) -> Result<Loaded, ConfigError> {
        let mut config = Self::default();
        let found = find(environment, explicit)?;
        if let Some((path, text)) = &found {
            config.apply_toml(path, text)?;
        }
        for argument in sets {
            config.set(argument)?;
        }
        config.check()?;
        Ok(Loaded { config, source: found.map(|(path, _)| path) })
    }
}

/// The first file that was named or exists, with its text.
fn find(
    environment: &Environment,
    explicit: Option<&Path>,
) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let set = |value: &Option<OsString>| value.clone().filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = explicit {
        return read(environment, path, "named by --config").map(Some);
    }
    if let Some(path) = set(&environment.imp_config) {
        return read(environment, &path, "named by $IMP_CONFIG").map(Some);
    }
    let in_home = set(&environment.home).map(|home| home.join(".config/imp/imp.conf"));
    for path in std::iter::once(PathBuf::from("imp.conf")).chain(in_home) {
        match read(environment, &path, "found in the search order") {
            Err(ConfigError::Read { source, .. }) if is_absent(&source) => {}
            found => return found.map(Some),
        }
    }
    Ok(None)
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn read(
    environment: &Environment,
    path: &Path,
    named_by: &'static str,
) -> Result<(PathBuf, String), ConfigError> {
    let path = environment.working_dir.join(path);
    let mut bytes = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|source| ConfigError::Read { path: path.clone(), named_by, source })?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(ConfigError::TooLarge { path, limit: MAX_FILE_BYTES });
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok((path, text)),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
            Err(ConfigError::NotUtf8 { origin: Source { path: &path, text: &text }.origin(valid) })
        }
    }
}
