//! Where a model is.

use std::path::{Path, PathBuf};

use crate::engine::ErrorKind;

/// Why `--model` names no model.
#[derive(Debug, thiserror::Error)]
pub enum ModelPathError {
    /// A name on a hub.
    #[error(
        "--model {name}: downloading from a hub is not supported yet; give a file or a directory"
    )]
    Hub {
        /// What was given.
        name: String,
    },
    /// Nothing there.
    #[error("--model: there is no {places}{hint}")]
    NotFound {
        /// Every path that was tried.
        places: String,
        /// The way out, if one is known.
        hint: &'static str,
    },
}

impl ModelPathError {
    /// What it means to the outside.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Hub { .. } => ErrorKind::Unsupported,
            Self::NotFound { .. } => ErrorKind::NotFound,
        }
    }
}

/// The file or directory that `given` means: a path, or a name in the directory `models` (with or
/// without `.gguf`), unless that is empty.
///
/// # Errors
/// Names every place that was looked at.
pub fn find_model(given: &Path, models: &Path) -> Result<PathBuf, ModelPathError> {
    if given.to_string_lossy().starts_with("hf:") && !given.exists() {
        return Err(ModelPathError::Hub { name: given.display().to_string() });
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
    let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    let hint = if is_name && models.as_os_str().is_empty() {
        " (names are looked up in the directory of paths.models, which is not set)"
    } else {
        ""
    };
    Err(ModelPathError::NotFound { places: places.join(", "), hint })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_found_by_path_and_by_name() {
        let dir = std::env::temp_dir().join(format!("imp-program-model-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("directory")).unwrap();
        std::fs::write(dir.join("small.gguf"), "").unwrap();
        let none = Path::new("");
        assert_eq!(find_model(&dir.join("small.gguf"), none).unwrap(), dir.join("small.gguf"));
        assert_eq!(find_model(Path::new("small"), &dir).unwrap(), dir.join("small.gguf"));
        assert_eq!(find_model(Path::new("small.gguf"), &dir).unwrap(), dir.join("small.gguf"));
        assert_eq!(find_model(Path::new("directory"), &dir).unwrap(), dir.join("directory"));
        let error = find_model(Path::new("missing"), &dir).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("missing.gguf"), "{error}");
        let error = find_model(Path::new("small"), none).unwrap_err();
        assert!(error.to_string().contains("paths.models"), "{error}");
        // a path is not a name, even when a model of that name exists
        assert_eq!(
            find_model(Path::new("./other/small"), &dir).unwrap_err().kind(),
            ErrorKind::NotFound
        );
        assert_eq!(
            find_model(Path::new("hf:org/repo"), &dir).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
