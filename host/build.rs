//! Puts the PTX of `ptx-cache/` into the program: each module deflated, as it lies there, and a table
//! of them with the layout hash of each entry, from the manifest. Without the folder the table is
//! empty.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The folder that `cargo xtask ptx` writes, beside this crate.
const PTX_CACHE: &str = "../ptx-cache";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PTX_CACHE}");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let cache = Path::new(PTX_CACHE);
    let mut table = String::from("&[\n");
    if cache.join("manifest.toml").exists() {
        modules(cache, &out, &mut table)?;
    }
    table.push_str("]\n");
    std::fs::write(out.join("ptx_table.rs"), table)?;
    Ok(())
}

/// Writes the rows of all modules into `table` and their bytes into `out`.
fn modules(cache: &Path, out: &Path, table: &mut String) -> Result<(), Box<dyn Error>> {
    let text = std::fs::read_to_string(cache.join("manifest.toml"))?;
    let manifest: toml_edit::DocumentMut = text.parse()?;
    let arches = manifest.get("arch").and_then(|a| a.as_table_like());
    for (arch, modules) in arches.ok_or("manifest.toml has no [arch]")?.iter() {
        for (module, row) in modules.as_table_like().ok_or("an arch is not a table")?.iter() {
            let path = cache.join(arch).join(format!("{module}.ptx.gz"));
            let gzipped = std::fs::read(&path)?;
            let (deflated, len) =
                body(&gzipped).ok_or(format!("{}: not as xtask writes it", path.display()))?;
            let file = out.join(format!("{arch}-{module}.deflate"));
            std::fs::write(&file, deflated)?;
            writeln!(table, "Ptx {{ arch: {arch:?}, module: {module:?}, entries: &[")?;
            let entries = row.get("entries").and_then(|e| e.as_table_like());
            for (entry, layout) in entries.ok_or("a module without entries")?.iter() {
                let layout = layout.as_str().ok_or("a layout is not a string")?;
                let layout = u64::from_str_radix(layout, 16)?;
                writeln!(table, "    ({entry:?}, {layout:#x}),")?;
            }
            writeln!(table, "], len: {len}, deflated: include_bytes!({:?}) }},", file)?;
        }
    }
    Ok(())
}

/// The deflated bytes of a gzip file without a name in its head, and the length they inflate to.
/// Source: RFC 1952, section 2.3.
fn body(gzipped: &[u8]) -> Option<(&[u8], u32)> {
    const HEAD: usize = 10;
    let (rest, tail) = gzipped.split_last_chunk::<8>()?;
    let (head, deflated) = rest.split_first_chunk::<HEAD>()?;
    let [.., a, b, c, d] = *tail;
    (head[..4] == [0x1f, 0x8b, 8, 0]).then_some((deflated, u32::from_le_bytes([a, b, c, d])))
}
