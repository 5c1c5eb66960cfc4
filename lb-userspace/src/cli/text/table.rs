//! Tables that fit: the widest of the elastic columns give way, from their middle.

use tabled::builder::Builder;
use tabled::settings::{Padding, Style};

use super::format::safe_line;

/// Columns narrower than this say nothing any more.
const NARROWEST: usize = 8;
/// Between columns.
const GAP: usize = 2;

pub(super) struct Table {
    headers: Vec<&'static str>,
    /// Columns that may be shortened.
    elastic: &'static [usize],
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(headers: &[&'static str], elastic: &'static [usize]) -> Self {
        Self { headers: headers.to_vec(), elastic, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| safe_line(&cell)).collect());
    }

    pub(super) fn render(self, width: usize) -> String {
        let widths = self.widths(width);
        let mut builder = Builder::default();
        builder.push_record(self.headers.iter().copied());
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| shorten(cell, *width));
            builder.push_record(cells);
        }
        let mut table = builder.build();
        // The style's column separator is a blank itself.
        table.with(Style::blank()).with(Padding::new(0, GAP - 1, 0, 0));
        let mut out = String::new();
        for line in table.to_string().lines() {
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    fn widths(&self, width: usize) -> Vec<usize> {
        let mut widths: Vec<usize> = self.headers.iter().map(|header| header.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let total = |widths: &[usize]| -> usize {
            widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)
        };
        while total(&widths) > width {
            let widest = self.elastic.iter().copied().max_by_key(|column| widths[*column]);
            match widest {
                Some(column) if widths[column] > NARROWEST => widths[column] -= 1,
                _ => break,
            }
        }
        widths
    }
}

/// Names and addresses differ at both ends: the middle goes.
fn shorten(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(1);
    let tail = kept / 2;
    let head: String = text.chars().take(kept - tail).collect();
    let end: String = text.chars().skip(length - tail).collect();
    format!("{head}…{end}")
}
