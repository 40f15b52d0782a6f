//! Maintenance windows in the practice's local time, across midnight and through clock changes.

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// A recurring window: on these days, from `start` until the next `end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    days: Vec<Weekday>,
    start: Time,
    end: Time,
}

/// The windows of a site; none means disruptive work never runs by itself.
#[derive(Debug, Clone)]
pub struct Windows {
    zone: TimeZone,
    windows: Vec<Window>,
}

/// Where an instant stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowState {
    /// Inside; it ends then.
    OpenUntil(Timestamp),
    /// Outside; the next one starts then.
    ClosedUntil(Timestamp),
    /// There is no window.
    Never,
}

impl Window {
    /// A window; `end` at or before `start` means the next day. A window without days or without length is refused.
    pub fn new(days: Vec<Weekday>, start: Time, end: Time) -> Result<Self, String> {
        if days.is_empty() {
            return Err("a window needs at least one day".to_owned());
        }
        if start == end {
            return Err("a window that ends when it starts has no length".to_owned());
        }
        Ok(Self { days, start, end })
    }

    /// The instants of the occurrence that begins on a local date. A time that the clock skips is moved to after the
    /// gap; a time that comes twice means its first occurrence.
    fn on(&self, date: Date, zone: &TimeZone) -> Option<(Timestamp, Timestamp)> {
        if !self.days.contains(&date.weekday()) {
            return None;
        }
        let last = if self.end <= self.start { date.checked_add(1.day()).ok()? } else { date };
        let instant = |date: Date, time: Time| Some(date.to_datetime(time).to_zoned(zone.clone()).ok()?.timestamp());
        let (from, until) = (instant(date, self.start)?, instant(last, self.end)?);
        (from < until).then_some((from, until))
    }
}

impl Windows {
    /// The windows of a site in its time zone.
    pub fn new(zone: TimeZone, windows: Vec<Window>) -> Self {
        Self { zone, windows }
    }

    /// When the window that is open, else the next one, ends; `None` without windows.
    pub fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        match self.state(now) {
            WindowState::OpenUntil(end) => Some(end),
            WindowState::ClosedUntil(from) => match self.state(from) {
                WindowState::OpenUntil(end) => Some(end),
                WindowState::ClosedUntil(_) | WindowState::Never => None,
            },
            WindowState::Never => None,
        }
    }

    /// Whether disruptive work may run at `now`, and until or from when.
    pub fn state(&self, now: Timestamp) -> WindowState {
        let today = now.to_zoned(self.zone.clone()).date();
        let occurrences = (-2_i32..=9)
            .filter_map(|offset| today.checked_add(offset.days()).ok())
            .flat_map(|date| self.windows.iter().filter_map(move |window| window.on(date, &self.zone)));
        let (mut open, mut next) = (None::<Timestamp>, None::<Timestamp>);
        for (from, until) in occurrences {
            if from <= now && now < until {
                open = open.max(Some(until));
            } else if now < from {
                next = Some(next.map_or(from, |next| next.min(from)));
            }
        }
        match (open, next) {
            (Some(until), _) => WindowState::OpenUntil(until),
            (None, Some(from)) => WindowState::ClosedUntil(from),
            (None, None) => WindowState::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn newyork(days: &[Weekday], start: &str, end: &str) -> Windows {
        let window = Window::new(days.to_vec(), start.parse().unwrap(), end.parse().unwrap()).unwrap();
        Windows::new(TimeZone::get("America/New_York").unwrap(), vec![window])
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_it_starts() {
        let windows = newyork(&[Weekday::Saturday], "22:00", "04:00");
        assert_eq!(windows.state(at("2026-01-11T03:30:00Z")), WindowState::OpenUntil(at("2026-01-11T09:00:00Z")));
        assert_eq!(windows.state(at("2026-01-11T08:59:59Z")), WindowState::OpenUntil(at("2026-01-11T09:00:00Z")));
        assert_eq!(windows.state(at("2026-01-11T09:00:00Z")), WindowState::ClosedUntil(at("2026-01-18T03:00:00Z")));
        assert_eq!(windows.state(at("2026-01-10T12:00:00Z")), WindowState::ClosedUntil(at("2026-01-11T03:00:00Z")));
    }

    #[test]
    fn clock_changes_neither_lose_nor_double_a_window() {
        let spring = newyork(&[Weekday::Sunday], "02:30", "04:00");
        // 2026-03-08 02:30 does not exist in New York: the window starts after the gap, at 03:30 EDT.
        assert_eq!(spring.state(at("2026-03-08T07:00:00Z")), WindowState::ClosedUntil(at("2026-03-08T07:30:00Z")));
        assert_eq!(spring.state(at("2026-03-08T07:45:00Z")), WindowState::OpenUntil(at("2026-03-08T08:00:00Z")));
        // 2026-11-01 01:30 comes twice: one window, from the first 01:30 (EDT) to 03:00 EST.
        let autumn = newyork(&[Weekday::Sunday], "01:30", "03:00");
        assert_eq!(autumn.state(at("2026-11-01T05:30:00Z")), WindowState::OpenUntil(at("2026-11-01T08:00:00Z")));
        assert_eq!(autumn.state(at("2026-11-01T06:30:00Z")), WindowState::OpenUntil(at("2026-11-01T08:00:00Z")));
        assert_eq!(autumn.state(at("2026-11-01T08:00:00Z")), WindowState::ClosedUntil(at("2026-11-08T06:30:00Z")));
    }

    #[test]
    fn without_a_window_it_is_never_open() {
        assert_eq!(Windows::new(TimeZone::UTC, Vec::new()).state(at("2026-01-01T00:00:00Z")), WindowState::Never);
        assert!(Window::new(vec![], Time::midnight(), Time::midnight()).is_err());
        assert!(Window::new(vec![Weekday::Monday], Time::midnight(), Time::midnight()).is_err());
    }

    proptest! {
        /// Whatever it says holds: inside stays inside until the named end, outside stays outside until the named start.
        #[test]
        fn the_named_instant_is_where_it_changes(start in 0i8..24, length in 1i8..24, day in 0usize..7, second in 0i64..40_000_000) {
            let days = [Weekday::Monday, Weekday::Tuesday, Weekday::Wednesday, Weekday::Thursday, Weekday::Friday, Weekday::Saturday, Weekday::Sunday];
            let windows = newyork(&[days[day]], &format!("{start:02}:15"), &format!("{:02}:15", (start + length) % 24));
            let now = Timestamp::from_second(1_767_225_600 + second).unwrap();
            match windows.state(now) {
                WindowState::OpenUntil(end) => {
                    prop_assert!(end > now);
                    prop_assert!(matches!(windows.state(end - 1.second()), WindowState::OpenUntil(same) if same == end));
                    prop_assert!(matches!(windows.state(end), WindowState::ClosedUntil(_)));
                }
                WindowState::ClosedUntil(start) => {
                    prop_assert!(start > now);
                    prop_assert!(matches!(windows.state(start), WindowState::OpenUntil(_)));
                    prop_assert!(matches!(windows.state(start - 1.second()), WindowState::ClosedUntil(same) if same == start));
                }
                WindowState::Never => prop_assert!(false, "a weekly window is never never"),
            }
        }
    }
}
