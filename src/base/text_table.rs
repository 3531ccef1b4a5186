//! Tables of text for people: columns lined up, cells between bars.

use std::fmt::Write as _;

/// Returns head and rows, each on its line.
pub fn text_table<const N: usize>(head: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut widths = head.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let mut out = String::new();
    for row in std::iter::once(head.map(str::to_owned)).chain(rows) {
        for (width, cell) in widths.iter().zip(&row) {
            let _infallible = write!(out, "| {cell:width$} ");
        }
        out.push_str("|\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rendered = text_table(["A", "BB"], vec![["xyz".to_owned(), "1".to_owned()]]);
        assert_eq!(rendered, "| A   | BB |\n| xyz | 1  |\n");
    }
}
