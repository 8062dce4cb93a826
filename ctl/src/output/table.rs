//! Tables for people: upper-case headers, two spaces between columns, no lines.

use std::io::IsTerminal;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};

/// A table with these headers; a header that starts with `>` is of a column of figures.
pub(crate) struct Rows {
    table: Table,
    is_figure: Vec<bool>,
}

impl Rows {
    pub(crate) fn new(headers: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        // Off a terminal a row is one line, however long, so that `grep` and `awk` see all of it.
        let arrangement = match std::io::stdout().is_terminal() {
            true => ContentArrangement::Dynamic,
            false => ContentArrangement::Disabled,
        };
        table.set_content_arrangement(arrangement);
        let is_figure: Vec<bool> = headers.iter().map(|header| header.starts_with('>')).collect();
        let cells =
            headers.iter().map(|header| cell(header.trim_start_matches('>'), header.starts_with('>')));
        table.set_header(cells.collect::<Vec<_>>());
        Self { table, is_figure }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.is_figure.len(), "a row has a cell for each header");
        let cells = cells.iter().zip(&self.is_figure).map(|(text, figure)| cell(text, *figure));
        self.table.add_row(cells.collect::<Vec<_>>());
    }

    /// The table, or `nothing` if it has no rows.
    pub(crate) fn finish_or(mut self, nothing: &str) -> String {
        if self.table.is_empty() {
            return nothing.to_owned();
        }
        for (at, column) in self.table.column_iter_mut().enumerate() {
            column.set_padding((if at == 0 { 0 } else { 1 }, 1));
        }
        self.table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }
}

fn cell(text: &str, figure: bool) -> Cell {
    let alignment = if figure { CellAlignment::Right } else { CellAlignment::Left };
    Cell::new(text).set_alignment(alignment)
}

/// `text`, or `-` where there is nothing to say.
pub(crate) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_right_and_words_left() {
        let mut rows = Rows::new(&["NAME", ">SIZE"]);
        rows.row(["a".to_owned(), "1 B".to_owned()]);
        rows.row(["long name".to_owned(), "10.0 MiB".to_owned()]);
        assert_eq!(rows.finish_or("none"), "NAME           SIZE\na               1 B\nlong name  10.0 MiB");
        assert_eq!(Rows::new(&["NAME"]).finish_or("none"), "none");
    }
}
