//! The files of `ptx-cache/`: PTX is long and repeats itself, so each module is kept gzipped, a tenth
//! of its size (`zcat` shows it).

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use crate::TaskError;

/// Name of a module's file.
pub fn file_name(module: &str) -> String {
    format!("{module}.ptx.gz")
}

/// Writes a module.
///
/// # Errors
/// What the system says.
pub fn write(folder: &Path, module: &str, ptx: &str) -> Result<(), TaskError> {
    let path = folder.join(file_name(module));
    let io = |source| TaskError::Io { path: path.clone(), source };
    // Without a time or a name in its head, the same PTX is the same file.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(ptx.as_bytes()).map_err(io)?;
    let bytes = encoder.finish().map_err(io)?;
    fs::write(&path, bytes).map_err(io)
}

/// Reads a module; one that is not there is empty.
///
/// # Errors
/// What the system says, or what is wrong with the file.
pub fn read(folder: &Path, module: &str) -> Result<String, TaskError> {
    let path: PathBuf = folder.join(file_name(module));
    let bytes = match fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        other => other.map_err(|source| TaskError::Io { path: path.clone(), source })?,
    };
    let mut text = String::new();
    let read = GzDecoder::new(&bytes[..]).read_to_string(&mut text);
    read.map_err(|source| TaskError::Io { path, source })?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_back_and_missing_ones_are_empty() {
        let folder = std::env::temp_dir().join(format!("imp-ptx-cache-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let ptx = ".version 8.6\n".repeat(1000);
        write(&folder, "gated", &ptx).unwrap();
        let bytes = fs::read(folder.join("gated.ptx.gz")).unwrap();
        assert!(bytes.len() < ptx.len() / 10);
        assert_eq!(read(&folder, "gated").unwrap(), ptx);
        assert_eq!(read(&folder, "other").unwrap(), "");
        write(&folder, "again", &ptx).unwrap();
        assert_eq!(fs::read(folder.join("again.ptx.gz")).unwrap(), bytes);
        fs::write(folder.join("gated.ptx.gz"), &bytes[..20]).unwrap();
        assert!(read(&folder, "gated").is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
