//! Columns for people.

/// Lays out rows under a head: columns as wide as their widest cell, numbers to the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut width: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (w, cell) in width.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let number = |c: usize| {
        !rows.is_empty() && rows.iter().all(|r| r.get(c).is_some_and(|v| v.is_empty() || v.parse::<f64>().is_ok()))
    };
    let right: Vec<bool> = (0..head.len()).map(number).collect();
    let mut out = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for ((cell, width), right) in cells.zip(&width).zip(&right) {
            let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
            if !text.is_empty() {
                text.push_str("  ");
            }
            let (before, after) = if *right { (pad.as_str(), "") } else { ("", pad.as_str()) };
            text.push_str(before);
            text.push_str(cell);
            text.push_str(after);
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(&mut head.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_fit_their_widest_cell_and_numbers_stand_right() {
        let rows = vec![vec!["a".into(), "1".into()], vec!["long".into(), "1000".into()]];
        assert_eq!(table(&["Name", "Ipkts"], &rows), "Name  Ipkts\na         1\nlong   1000\n");
    }
}
