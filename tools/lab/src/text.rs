//! Numbers as people read them, and tables.

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

/// A size in bytes: `512 B`, `1.5 KiB`, `20 MiB`.
pub fn bytes(n: f64) -> String {
    match n {
        n if n < 1024.0 => format!("{n:.0} B"),
        n if n < 10.0 * 1024.0 => format!("{:.1} KiB", n / 1024.0),
        n if n < 1024.0 * 1024.0 => format!("{:.0} KiB", n / 1024.0),
        n => format!("{:.1} MiB", n / 1024.0 / 1024.0),
    }
}

/// A count with its magnitude: `950`, `12.3 k`, `1.26 M`.
pub fn count(n: f64) -> String {
    match n {
        n if n < 1e3 => format!("{n:.0}"),
        n if n < 1e6 => format!("{:.1} k", n / 1e3),
        n if n < 1e9 => format!("{:.2} M", n / 1e6),
        n => format!("{:.2} G", n / 1e9),
    }
}

/// A time: `12.3 ms`, `1.20 s`.
pub fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms < 0.1 => format!("{:.1} us", ms * 1e3),
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.2} s", ms / 1e3),
    }
}

/// A share as percent, or a dash.
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |s| format!("{:.2} %", s * 100.0))
}

/// Decibels, or a dash.
pub fn decibels(db: Option<f64>) -> String {
    db.map_or_else(|| "-".to_owned(), |db| format!("{db:.1} dB"))
}

/// A table with `headers`; columns whose header ends in `>` are aligned to the right.
pub fn table(headers: &[&str]) -> Table {
    let mut table = Table::new();
    let line = LineStyle::none().fill('-').junction('-');
    table.load_style(TableStyle::new().header_separator(line)).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headers.iter().map(|h| h.trim_end_matches('>')));
    for (index, header) in headers.iter().enumerate() {
        if let (true, Some(column)) = (header.ends_with('>'), table.column_mut(index)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The end of `text` within `width` characters.
pub fn tail(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        text.to_owned()
    } else {
        format!("~{}", text.chars().skip(length - width + 1).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!([bytes(1.0), bytes(1536.0), bytes(65536.0)], ["1 B", "1.5 KiB", "64 KiB"]);
        assert_eq!([count(999.0), count(12_345.0), count(1.257e9)], ["999", "12.3 k", "1.26 G"]);
        assert_eq!([milliseconds(0.05), milliseconds(1.234), milliseconds(2500.0)], ["50.0 us", "1.23 ms", "2.50 s"]);
    }

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(tail("/blocks.0/attn/MatMul", 10), "~tn/MatMul");
        assert_eq!(tail("short", 10), "short");
    }
}
