//! From arguments to a loaded engine.

use std::path::{Path, PathBuf};

use config::{Config, Loaded, LogLevel};
use host::engine::{Engine, EngineOptions};

use crate::args::Args;
use crate::error::CliError;
use crate::progress::LoadBar;

/// Reads imp.conf with `--set`, the flags that stand for settings, and `more` settings.
///
/// # Errors
/// `Config`.
pub(crate) fn configuration(args: &Args, more: &[&str]) -> Result<Loaded, CliError> {
    let mut sets = args.sets();
    sets.extend(more.iter().map(|set| (*set).to_owned()));
    Ok(Config::load(args.config.as_deref(), &sets)?)
}

/// Context and KV room of a task that needs other ones than the flags say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Room {
    /// Stands in for a missing `--max-seq-len`.
    pub(crate) max_seq_len: Option<usize>,
}

/// Opens the model that `--model` names, with progress on stderr.
///
/// # Errors
/// `Engine`, `File`, `Unsupported`.
pub(crate) fn load(args: &Args, config: &Config, room: Room) -> Result<Engine, CliError> {
    let options = EngineOptions {
        model: model_path(args, config)?,
        config: config.clone(),
        device: args.device,
        gpu_layers: args.gpu_layers.unwrap_or(-1),
        threads: threads(args, config),
        max_seq_len: args.max_seq_len.or(configured_length(config)).or(room.max_seq_len),
        min_kv_tokens: args.min_kv_tokens,
        chat_template: args.chat_template.clone().unwrap_or_else(|| "auto".to_owned()),
        max_concurrent: 1,
        max_waiting: 63,
    };
    let engine = {
        let mut bar = LoadBar::new();
        Engine::load(options, &mut bar)?
    };
    Ok(engine)
}

/// Tells what the user should know of a loaded model, as far as `diagnostics.log_level` lets it.
pub(crate) fn announce(engine: &Engine, config: &Config) {
    if config.diagnostics.log_level >= LogLevel::Info {
        for notice in engine.notices() {
            note!("imp-cli: {notice}");
        }
    }
}

/// `runtime.max_seq_len`, where 0 means that nothing was said.
pub(crate) fn configured_length(config: &Config) -> Option<usize> {
    match config.runtime.max_seq_len {
        0 => None,
        tokens => Some(tokens as usize),
    }
}

/// CPU threads: the flag, else the setting; 0 is all cores.
pub(crate) fn threads(args: &Args, config: &Config) -> usize {
    args.threads.unwrap_or(config.runtime.num_cpu_threads as usize)
}

/// The file or directory of `--model`: a path, or a name in the models directory.
///
/// # Errors
/// `File` naming every place that was looked at; `Unsupported` for `hf:` names.
pub(crate) fn model_path(args: &Args, config: &Config) -> Result<PathBuf, CliError> {
    let Some(given) = &args.model else {
        return Err(CliError::Internal("a task without --model was let through".to_owned()));
    };
    find_model(given, &config.paths.models)
}

fn find_model(given: &Path, models: &Path) -> Result<PathBuf, CliError> {
    if given.to_string_lossy().starts_with("hf:") && !given.exists() {
        return Err(CliError::Unsupported(format!(
            "--model {}: downloading from a hub is not supported yet; give a file or a directory",
            given.display()
        )));
    }
    let is_name = given.components().count() == 1;
    let mut places = vec![given.to_owned()];
    if is_name && !models.as_os_str().is_empty() {
        places.push(models.join(given));
        places.push(models.join(format!("{}.gguf", given.display())));
    }
    if let Some(found) = places.iter().find(|place| place.exists()) {
        return Ok(found.clone());
    }
    Err(CliError::ModelNotFound {
        places: places
            .iter()
            .map(|place| place.display().to_string())
            .collect::<Vec<_>>()
            .join(", "),
        hint: if is_name && models.as_os_str().is_empty() {
            " (names are looked up in the directory of paths.models, which is not set)"
        } else {
            ""
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_found_by_path_and_by_name() {
        let dir = std::env::temp_dir().join(format!("imp-cli-session-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("directory")).unwrap();
        std::fs::write(dir.join("small.gguf"), "").unwrap();
        let none = Path::new("");
        assert_eq!(find_model(&dir.join("small.gguf"), none).unwrap(), dir.join("small.gguf"));
        assert_eq!(find_model(Path::new("small"), &dir).unwrap(), dir.join("small.gguf"));
        assert_eq!(find_model(Path::new("small.gguf"), &dir).unwrap(), dir.join("small.gguf"));
        assert_eq!(find_model(Path::new("directory"), &dir).unwrap(), dir.join("directory"));
        let error = find_model(Path::new("missing"), &dir).unwrap_err();
        assert_eq!(error.code(), 4);
        assert!(error.to_string().contains("missing.gguf"), "{error}");
        let error = find_model(Path::new("small"), none).unwrap_err();
        assert!(error.to_string().contains("paths.models"), "{error}");
        // a path is not a name, even when a model of that name exists
        assert_eq!(find_model(Path::new("./other/small"), &dir).unwrap_err().code(), 4);
        assert_eq!(find_model(Path::new("hf:org/repo"), &dir).unwrap_err().code(), 6);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
