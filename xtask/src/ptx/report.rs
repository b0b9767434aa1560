//! What each entry needs, as a Markdown table.

use std::fmt::Write;

use cuda_builder::Resources;

use super::Needs;

/// Matrix instructions of SASS.
const MATRIX: &[&str] = &["HMMA", "IMMA", "QMMA", "OMMA"];

/// One row an entry, by architecture.
pub fn table(needs: &[Needs]) -> String {
    let mut out = String::from(
        "| arch | entry | registers | spilled bytes | stack bytes | shared bytes | matrix \
         instructions | instructions |\n|---|---|---:|---:|---:|---:|---|---:|\n",
    );
    for (arch, resources) in needs {
        for r in resources {
            let Resources { entry, registers, spill_bytes, stack_bytes, shared_bytes, .. } = r;
            let (name, all) = (arch.name, r.instructions.values().sum::<u32>());
            let matrix =
                MATRIX.iter().filter_map(|m| Some(format!("{m} {}", r.instructions.get(*m)?)));
            let matrix = matrix.collect::<Vec<_>>().join(", ");
            let _ = writeln!(
                out,
                "| {name} | {entry} | {registers} | {spill_bytes} | {stack_bytes} | {shared_bytes} \
                 | {matrix} | {all} |"
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_an_entry_needs() {
        let r = Resources {
            entry: "gemm_f16".into(),
            registers: 128,
            shared_bytes: 512,
            instructions: [("HMMA".into(), 64), ("LDG".into(), 6)].into(),
            ..Resources::default()
        };
        let text = table(&[(&cuda_builder::ARCHS[0], vec![r])]);
        let row = "| sm_80 | gemm_f16 | 128 | 0 | 0 | 512 | HMMA 64 | 70 |";
        assert_eq!(text.lines().nth(2), Some(row));
    }
}
