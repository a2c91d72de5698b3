//! Plain tables: a line for the headings, a line a row, numbers to the right.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets::NOTHING};

/// A table as text, without a last newline. `numbers` are the columns of numbers.
pub(crate) fn table<const N: usize>(headings: [&str; N], numbers: &[usize], rows: Vec<[String; N]>) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(headings);
    for row in rows {
        table.add_row(row);
    }
    for &column in numbers {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A time as operators read it: to the second, in UTC.
pub(crate) fn time(at: chrono::DateTime<chrono::Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right_and_lines_end_with_their_text() {
        let rows = vec![["order".to_owned(), "7".to_owned()], ["a".to_owned(), "1234".to_owned()]];
        let text = table(["workflow", "runs"], &[1], rows);
        assert_eq!(text, "workflow  runs\norder        7\na         1234");
    }
}
