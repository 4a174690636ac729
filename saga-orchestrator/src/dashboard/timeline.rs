//! A saga's steps drawn to scale. Short ones stay visible: each has a least width, and the others share the rest.

use maud::{Markup, html};

use super::format::duration;
use crate::views::saga::{HistoryBody, SagaBody};

/// The drawing's width, in its own units.
const WIDTH: f64 = 1000.0;
/// The least width of a step.
const LEAST: f64 = 14.0;
const ROW: f64 = 30.0;
/// Left of the bars: the steps' names.
const NAMES: f64 = 190.0;
/// Right of the bars: the durations.
const TIMES: f64 = 100.0;

/// One bar.
#[derive(Debug, PartialEq)]
struct Bar<'a> {
    step: &'a str,
    kind: &'static str,
    ms: f64,
    x: f64,
    width: f64,
}

/// Bars for the moves that have a duration, one below the other.
fn bars(history: &[HistoryBody], width: f64) -> Vec<Bar<'_>> {
    let steps: Vec<(&HistoryBody, f64)> =
        history.iter().filter_map(|entry| Some((entry, entry.duration_ms?))).collect();
    let widths = widths(&steps.iter().map(|(_, ms)| *ms).collect::<Vec<_>>(), width);
    let mut x = 0.0;
    let mut bars = Vec::new();
    for ((entry, ms), width) in steps.into_iter().zip(widths) {
        let kind = if entry.status == "COMPENSATING" { "back" } else { "ahead" };
        bars.push(Bar { step: &entry.step, kind, ms, x, width });
        x += width;
    }
    bars
}

/// Widths that add up to `width`, as the durations do; none below the least.
fn widths(ms: &[f64], width: f64) -> Vec<f64> {
    let least = LEAST.min(width / ms.len().max(1) as f64);
    let share = |ms_left: f64, width_left: f64, ms: f64| if ms_left > 0.0 { ms / ms_left * width_left } else { 0.0 };
    let mut short = vec![false; ms.len()];
    loop {
        let few = short.iter().filter(|short| **short).count() as f64;
        let ms_left: f64 = ms.iter().zip(&short).filter(|(_, short)| !**short).map(|(ms, _)| ms).sum();
        let width_left = width - few * least;
        let newly: Vec<usize> =
            (0..ms.len()).filter(|at| !short[*at] && share(ms_left, width_left, ms[*at]) < least).collect();
        if newly.is_empty() {
            let of = |(ms, short): (&f64, &bool)| if *short { least } else { share(ms_left, width_left, *ms) };
            return ms.iter().zip(&short).map(of).collect();
        }
        newly.into_iter().for_each(|at| short[at] = true);
    }
}

/// The drawing, with a text for those who can't see it.
pub fn draw(saga: &SagaBody) -> Markup {
    let bars = bars(&saga.history, WIDTH - NAMES - TIMES);
    let height = ROW * bars.len() as f64 + 4.0;
    let spoken: Vec<String> = bars.iter().map(|bar| format!("{} {}", bar.step, duration(bar.ms))).collect();
    let label = format!("Timeline: {}", spoken.join(", "));
    html! {
        svg.timeline viewBox={ "0 0 " (WIDTH) " " (height) } role="img" aria-label=(label) {
            @for (bar, row) in bars.iter().zip(0..) {
                @let y = f64::from(row) * ROW + 2.0;
                @let is_now = row + 1 == bars.len() as i32 && saga.pending.is_some();
                line.guide x1=(NAMES) x2=(WIDTH - TIMES) y1=(y + ROW / 2.0) y2=(y + ROW / 2.0) {}
                text.name x=(NAMES - 10.0) y=(y + 19.0) text-anchor="end" { (bar.step) }
                rect class={ "bar " (bar.kind) @if is_now { " now" } } x=(format!("{:.1}", NAMES + bar.x)) y=(y + 4.0)
                    width=(format!("{:.1}", bar.width.max(2.0))) height=(ROW - 10.0) rx="4" {
                    title { (bar.step) ": " (duration(bar.ms)) }
                }
                text.ms x=(WIDTH - TIMES + 10.0) y=(y + 19.0) { (duration(bar.ms)) @if is_now { " …" } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(widths: &[f64]) -> f64 {
        widths.iter().sum()
    }

    #[test]
    fn widths_are_as_the_durations_are() {
        assert_eq!(widths(&[100.0, 300.0], 400.0), [100.0, 300.0]);
    }

    #[test]
    fn a_short_step_can_be_seen_and_the_others_share_what_is_left() {
        let widths = widths(&[1.0, 60_000.0, 2.0, 30_000.0], 700.0);
        assert_eq!((widths[0], widths[2]), (LEAST, LEAST));
        assert!((widths[1] - 2.0 * widths[3]).abs() < 1e-9, "{widths:?}");
        assert!((sum(&widths) - 700.0).abs() < 1e-9, "{widths:?}");
    }

    #[test]
    fn nothing_and_nothing_but_moments_are_drawn_too() {
        assert_eq!(widths(&[], 700.0), [0.0; 0]);
        let moments = widths(&[0.0, 0.0], 700.0);
        assert!(moments.iter().all(|width| *width >= 0.0 && width.is_finite()), "{moments:?}");
        let many = widths(&[1.0; 100], 700.0);
        assert!(sum(&many) <= 700.0 + 1e-6, "{many:?}");
    }
}
