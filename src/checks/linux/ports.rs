//! Sets of ports.

/// A set of ports as merged, ascending ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// Every port.
    pub(super) fn all() -> Self {
        Self(vec![(0, u16::MAX)])
    }

    /// The ports of some ranges, ends included.
    pub(super) fn of(ranges: impl IntoIterator<Item = (u16, u16)>) -> Self {
        let mut ranges: Vec<(u16, u16)> = ranges.into_iter().filter(|(from, to)| from <= to).collect();
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (from, to) in ranges {
            match merged.last_mut() {
                Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        Self(merged)
    }

    /// Ports in either.
    pub(super) fn or(&self, other: Option<&Self>) -> Self {
        Self::of(self.0.iter().chain(other.into_iter().flat_map(|other| &other.0)).copied())
    }

    /// Ports in both.
    pub(super) fn and(&self, other: &Self) -> Self {
        let pairs = self.0.iter().flat_map(|a| other.0.iter().map(move |b| (a.0.max(b.0), a.1.min(b.1))));
        Self::of(pairs)
    }

    /// Whether a port is among them.
    pub(super) fn has(&self, port: u16) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&port))
    }

    /// Every port on its own where a range is short; longer ranges as `from-to`.
    pub(super) fn split(&self) -> (Vec<u16>, Vec<String>) {
        const SHORT: u16 = 64;
        let (mut single, mut ranges) = (Vec::new(), Vec::new());
        for (from, to) in &self.0 {
            if to - from < SHORT {
                single.extend(*from..=*to);
            } else {
                ranges.push(format!("{from}-{to}"));
            }
        }
        (single, ranges)
    }
}
