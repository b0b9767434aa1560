//! Markdown tables.

use std::fmt;

/// A table: the first column is text, the others are numbers or words to the right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// One without rows.
    pub fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|h| (*h).to_owned()).collect(), rows: vec![] }
    }
    /// Adds a row.
    ///
    /// # Panics
    /// When it has another length than the header.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.header.len());
        self.rows.push(cells);
    }
    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |i: usize| {
            let cells = self.rows.iter().map(|row| row[i].chars().count());
            cells.chain([self.header[i].chars().count(), 3]).max().unwrap_or(3)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let line = |f: &mut fmt::Formatter<'_>, cells: &[String]| {
            for (i, (cell, &width)) in cells.iter().zip(&widths).enumerate() {
                if i == 0 {
                    write!(f, "| {cell:<width$} |")?;
                } else {
                    write!(f, " {cell:>width$} |")?;
                }
            }
            writeln!(f)
        };
        line(f, &self.header)?;
        for (i, &width) in widths.iter().enumerate() {
            if i == 0 {
                write!(f, "| {} |", "-".repeat(width))?;
            } else {
                write!(f, " {}: |", "-".repeat(width - 1))?;
            }
        }
        writeln!(f)?;
        self.rows.iter().try_for_each(|row| line(f, row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let mut table = Table::new(&["kernel", "µs"]);
        table.row(vec!["gemv_q4_0_m1".into(), "12.5".into()]);
        table.row(vec!["empty".into(), "1234".into()]);
        let expected = "\
| kernel       |   µs |
| ------------ | ---: |
| gemv_q4_0_m1 | 12.5 |
| empty        | 1234 |
";
        assert_eq!(table.to_string(), expected);
    }
}
