//! Plain tables for people.

/// Rows of text; the first column is left-aligned, the last too when it is free text, all others right-aligned.
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(title: &str) -> Table {
        Table { title: title.into(), rows: Vec::new() }
    }

    /// Appends a row.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Self {
        self.rows.push(cells.into_iter().map(Into::into).collect());
        self
    }

    /// The table as lines.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        if !self.title.is_empty() {
            out += &format!("{}\n{}\n", self.title, "-".repeat(self.title.chars().count()));
        }
        for row in &self.rows {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                let w = widths[i];
                // Text after the second column explains; numbers stand in the second.
                line += &if i == 1 { format!("  {cell:>w$}") } else { format!("  {cell:<w$}") };
            }
            out += line.trim_end();
            out.push('\n');
        }
        out
    }
}

/// 1234567 as "1,234,567".
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(d);
    }
    out
}

/// Microseconds as text with a fitting unit.
pub fn micros(us: f64) -> String {
    if us >= 1e6 {
        format!("{:.2} s", us / 1e6)
    } else if us >= 10_000.0 {
        format!("{:.1} ms", us / 1e3)
    } else {
        format!("{us:.0} us")
    }
}

#[cfg(test)]
mod tests {
    use super::{Table, micros, thousands};

    #[test]
    fn numbers_are_grouped_and_aligned() {
        assert_eq!(
            (thousands(0), thousands(999), thousands(1_234_567)),
            ("0".into(), "999".into(), "1,234,567".into())
        );
        let mut t = Table::new("t");
        t.row(["sent", "10"]).row(["lost", "0", "none"]);
        assert_eq!(t.render(), "t\n-\n  sent  10\n  lost   0  none\n");
        assert_eq!((micros(12.4), micros(12_400.0)), ("12 us".into(), "12.4 ms".into()));
    }
}
