//! Durations as people write them: `30s`, `5m`, `26h`, `30d`.

use std::time::Duration;

/// Reads `<number><s|m|h|d>`; zero and anything else is refused.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).filter(|total| *total > 0 && *total <= 3660 * 86_400).map(Duration::from_secs)
}

/// Writes a duration the way [`parse_duration`] reads it, in its largest whole unit.
pub fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    for (unit, size) in [("d", 86_400), ("h", 3600), ("m", 60)] {
        if seconds >= size && seconds.is_multiple_of(size) {
            return format!("{}{unit}", seconds / size);
        }
    }
    format!("{seconds}s")
}

/// A duration of the standard library as jiff's.
pub fn signed(duration: Duration) -> jiff::SignedDuration {
    jiff::SignedDuration::try_from(duration).unwrap_or(jiff::SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_written() {
        for text in ["30s", "5m", "26h", "30d"] {
            assert_eq!(show_duration(parse_duration(text).unwrap()), text);
        }
        for bad in ["", "5", "m", "0s", "-5m", "5 m", "1.5h", "99999999999999999999d", "5é"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
