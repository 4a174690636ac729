//! What is told of the runs: Markdown that can be read as it is.

use std::fmt::Write as _;

use crate::run::{OURS, Run};

/// All runs as one table. After a run of ours that follows another's under the same load comes how they compare.
pub fn runs(runs: &[Run]) -> String {
    let Some(first) = runs.first() else { return String::new() };
    let mut header: Vec<String> = ["load", "", "checkouts/s", "p50 ms", "p99 ms", "p99.9 ms"].map(str::to_owned).into();
    header.extend(first.cpu_ms.iter().map(|(name, _)| format!("CPU {name}")));
    header.extend(["CPU sum", "WAL kB", "flushes", "answers"].map(str::to_owned));
    let mut rows = Vec::new();
    for (nth, run) in runs.iter().enumerate() {
        rows.push(row(run));
        let before = nth.checked_sub(1).and_then(|before| runs.get(before));
        if let Some(other) = before.filter(|before| before.who != OURS && run.who == OURS) {
            rows.push(comparison(run, other));
        }
    }
    table(&header, &rows)
}

fn row(run: &Run) -> Vec<String> {
    let mut row = vec![run.load.to_string(), run.who.to_owned(), format!("{:.0}", run.per_second)];
    row.extend([run.seen.p50_ms, run.seen.p99_ms, run.seen.p999_ms].map(|ms| format!("{ms:.1}")));
    row.extend(run.cpu_ms.iter().map(|(_, ms)| format!("{ms:.2}")));
    row.extend([format!("{:.2}", run.cpu_ms_sum()), format!("{:.1}", run.wal_bytes / 1000.0)]);
    row.push(format!("{:.2}", run.wal_flushes));
    let answers: Vec<String> = run.seen.answers.iter().map(|(status, count)| format!("{status}: {count}")).collect();
    row.push(answers.join(", ") + if run.wrong.is_some() { " DOES NOT COUNT" } else { "" });
    row
}

/// Ours divided by the other's.
fn comparison(ours: &Run, other: &Run) -> Vec<String> {
    let ratio = |ours: f64, other: f64| if other > 0.0 { format!("{:.2}", ours / other) } else { "-".to_owned() };
    let mut row =
        vec![ours.load.to_string(), format!("ours / {}", other.who), ratio(ours.per_second, other.per_second)];
    row.push(ratio(ours.seen.p50_ms, other.seen.p50_ms));
    row.push(ratio(ours.seen.p99_ms, other.seen.p99_ms));
    row.push(ratio(ours.seen.p999_ms, other.seen.p999_ms));
    row.extend(ours.cpu_ms.iter().zip(&other.cpu_ms).map(|((_, ours), (_, other))| ratio(*ours, *other)));
    row.push(ratio(ours.cpu_ms_sum(), other.cpu_ms_sum()));
    row.push(ratio(ours.wal_bytes, other.wal_bytes));
    row.push(ratio(ours.wal_flushes, other.wal_flushes));
    row.push(String::new());
    row
}

/// A Markdown table with columns of even width; all but the last are set to the right.
pub fn table(header: &[String], rows: &[Vec<String>]) -> String {
    let all = || std::iter::once(header).chain(rows.iter().map(Vec::as_slice));
    let width =
        |column: usize| all().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0).max(2);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    for (nth, row) in all().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if column + 1 == header.len() {
                write!(text, "| {cell:<width$} ")
            } else {
                write!(text, "| {cell:>width$} ")
            };
        }
        text.push_str("|\n");
        if nth == 0 {
            let rule = |(column, width): (usize, &usize)| {
                if column + 1 == header.len() {
                    format!("|{}", "-".repeat(width + 2))
                } else {
                    format!("|{}:", "-".repeat(width + 1))
                }
            };
            text.push_str(&widths.iter().enumerate().map(rule).collect::<String>());
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = table(&["load".to_owned(), "answers".to_owned()], &[vec!["1".to_owned(), "200: 5".to_owned()]]);
        assert_eq!(text, "| load | answers |\n|-----:|---------|\n|    1 | 200: 5  |\n");
    }
}
