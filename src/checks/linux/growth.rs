//! When a file system will be full, if it goes on as it did.

use jiff::SignedDuration;
use serde_json::{Map, Value, json};

use super::history::{History, Sample};
use crate::checks::run::Context;

/// Samples lie this far apart, and so many are kept: two weeks.
const APART: SignedDuration = SignedDuration::from_hours(6);
const SAMPLES: usize = 60;
/// File systems in one sample.
const MOUNTS: usize = 64;
/// Fewer samples, or a shorter time, say nothing about a trend.
const ENOUGH: usize = 4;
const SPAN_S: i64 = 24 * 3600;
const DAY_S: i128 = 86_400;

/// Used bytes of one file system, and those still free.
#[derive(Debug, Clone)]
pub(super) struct Use {
    pub(super) mount: String,
    pub(super) used: u64,
    pub(super) free: u64,
}

/// Whole days until it is full; `None` where it does not grow or too little is known.
pub(super) fn days_to_full(context: Context<'_>, history: &History, now: &Use) -> Option<u64> {
    let used = |sample: &Sample| sample.value.get(&now.mount).and_then(Value::as_u64);
    let mut points: Vec<(i64, u64)> =
        history.0.iter().filter_map(|sample| Some((context.seconds_since(sample.at), used(sample)?))).collect();
    // Seconds before now, so that now is zero.
    points.push((0, now.used));
    let span_s = points.iter().map(|(ago_s, _)| *ago_s).max()?;
    if points.len() < ENOUGH || span_s < SPAN_S {
        return None;
    }
    let (rise, run) = slope(&points)?;
    if rise <= 0 {
        return None;
    }
    let days = i128::from(now.free).checked_mul(run)?.checked_div(rise.checked_mul(DAY_S)?)?;
    u64::try_from(days).ok()
}

/// Bytes per second by least squares, as a fraction; `None` where the numbers are out of all bounds.
fn slope(points: &[(i64, u64)]) -> Option<(i128, i128)> {
    let count = i128::try_from(points.len()).ok()?;
    let (mut sum_x, mut sum_y, mut product, mut square) = (0_i128, 0_i128, 0_i128, 0_i128);
    for (ago_s, used) in points {
        let (x, y) = (-i128::from(*ago_s), i128::from(*used));
        sum_x = sum_x.checked_add(x)?;
        sum_y = sum_y.checked_add(y)?;
        product = product.checked_add(x.checked_mul(y)?)?;
        square = square.checked_add(x.checked_mul(x)?)?;
    }
    let rise = count.checked_mul(product)?.checked_sub(sum_x.checked_mul(sum_y)?)?;
    let run = count.checked_mul(square)?.checked_sub(sum_x.checked_mul(sum_x)?)?;
    (run > 0).then_some((rise, run))
}

/// Remembers the use of now. As a fact: `[{at, value: {mount: used bytes}}]`.
pub(super) fn remember(context: Context<'_>, history: &mut History, now: &[Use]) {
    let sample: Map<String, Value> = now.iter().take(MOUNTS).map(|one| (one.mount.clone(), json!(one.used))).collect();
    history.add(context.now, Value::Object(sample), APART, SAMPLES);
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Tree, now};
    use super::*;

    const GB: u64 = 1_000_000_000;

    fn days(free: u64, used: u64, before: &[(i64, u64)]) -> Option<u64> {
        let tree = Tree::new();
        let context =
            Context { host: &tree.host(), settings: &Map::new(), now: now(), own: &Value::Null, before: None };
        let sample = |(hours, used): &(i64, u64)| Sample {
            at: now() - SignedDuration::from_hours(*hours),
            value: json!({"/srv": used, "/": 1}),
        };
        let history = History(before.iter().map(sample).collect());
        days_to_full(context, &history, &Use { mount: "/srv".to_owned(), used, free })
    }

    #[test]
    fn steady_growth_has_an_end() {
        let before = [(48, 90 * GB), (24, 100 * GB), (12, 105 * GB)];
        assert_eq!(days(70 * GB, 110 * GB, &before), Some(7), "ten a day, seventy left");
        assert_eq!(days(0, 110 * GB, &before), Some(0));
        let noisy = [(48, 91 * GB), (36, 94 * GB), (24, 101 * GB), (12, 104 * GB)];
        assert!(matches!(days(70 * GB, 110 * GB, &noisy), Some(6..=8)));
    }

    #[test]
    fn what_does_not_grow_or_is_not_known_long_enough_has_none() {
        assert_eq!(days(GB, 100, &[(48, 100), (24, 100), (12, 100)]), None);
        assert_eq!(days(GB, 50, &[(48, 100), (24, 80), (12, 60)]), None);
        assert_eq!(days(GB, 90, &[(48, 10), (24, 50)]), None, "three samples");
        assert_eq!(days(GB, 90, &[(23, 10), (12, 30), (6, 50), (1, 70)]), None, "less than a day");
        assert_eq!(days(GB, 90, &[]), None);
    }

    #[test]
    fn absurd_numbers_end_in_no_answer() {
        let absurd = [(48_000_000, 0), (24, u64::MAX), (12, 0)];
        days(u64::MAX, u64::MAX, &absurd);
        assert_eq!(days(GB, 90, &[(0, 1), (0, 2), (0, 3)]), None);
    }
}
