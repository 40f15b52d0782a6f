//! Which Linux this is, and until when its makers repair it.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::host::{Host, HostError};

/// Public end of free security support, as of 2026-10. Debian with its LTS (column `eol-lts`) and Ubuntu without paid
/// extensions (`eol`): distro-info-data 0.58+deb12u7. NixOS: one month after the next release, from its release notes.
const ENDS: &[(&str, &str, &str)] = &[
    ("debian", "10", "2024-06-30"),
    ("debian", "11", "2026-08-31"),
    ("debian", "12", "2028-06-30"),
    ("debian", "13", "2030-06-30"),
    ("nixos", "23.05", "2023-12-31"),
    ("nixos", "23.11", "2024-06-30"),
    ("nixos", "24.05", "2024-12-31"),
    ("nixos", "24.11", "2025-06-30"),
    ("nixos", "25.05", "2025-12-31"),
    ("nixos", "25.11", "2026-06-30"),
    ("nixos", "26.05", "2026-12-31"),
    ("ubuntu", "18.04", "2023-05-31"),
    ("ubuntu", "20.04", "2025-05-29"),
    ("ubuntu", "22.04", "2027-06-01"),
    ("ubuntu", "22.10", "2023-07-20"),
    ("ubuntu", "23.04", "2024-01-25"),
    ("ubuntu", "23.10", "2024-07-11"),
    ("ubuntu", "24.04", "2029-05-31"),
    ("ubuntu", "24.10", "2025-07-10"),
    ("ubuntu", "25.04", "2026-01-15"),
    ("ubuntu", "25.10", "2026-07-09"),
    ("ubuntu", "26.04", "2031-05-29"),
    ("ubuntu", "26.10", "2027-07-15"),
];

/// The running system as `os-release` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Release {
    pub(super) id: String,
    /// Empty for rolling ones.
    pub(super) version: String,
    pub(super) name: String,
    /// Built on Debian's packages.
    pub(super) apt: bool,
}

impl Release {
    /// Reads `/etc/os-release`.
    pub(super) fn read(host: &Host) -> Result<Self, HostError> {
        const PATH: &str = "/etc/os-release";
        let text = host.read(PATH)?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.map(|value| value.trim_matches(['"', '\'']).to_owned())
        };
        let id = field("ID").filter(|id| !id.is_empty());
        let id = id.ok_or(HostError::Garbage { what: PATH.to_owned(), why: "no ID in it".to_owned() })?;
        let like = field("ID_LIKE").unwrap_or_default();
        let apt =
            [id.as_str(), like.as_str()].iter().any(|word| word.split(' ').any(|id| id == "debian" || id == "ubuntu"));
        let version = field("VERSION_ID").unwrap_or_default();
        Ok(Self { name: field("PRETTY_NAME").unwrap_or_else(|| id.clone()), id, version, apt })
    }

    /// When support ends; an error where this release is not in the table.
    pub(super) fn end(&self) -> Result<Date, HostError> {
        let known = ENDS.iter().find(|(id, version, _)| *id == self.id && *version == self.version);
        known.and_then(|(_, _, end)| end.parse().ok()).ok_or_else(|| {
            HostError::Missing(format!("the end of support of {} {}", self.id, self.version).trim_end().to_owned())
        })
    }

    /// Whole days of support left; negative after its end.
    pub(super) fn days_left(&self, now: Timestamp) -> Result<i64, HostError> {
        let today = now.to_zoned(TimeZone::UTC).date();
        Ok(self.end()?.duration_since(today).as_hours() / 24)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Tree, now};
    use super::*;

    fn release(text: &str) -> Result<Release, HostError> {
        let tree = Tree::new().file("/etc/os-release", text);
        Release::read(&tree.host())
    }

    #[test]
    fn releases_have_an_end() {
        let bookworm =
            release("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n").unwrap();
        assert!(bookworm.apt && bookworm.days_left(now()).unwrap() > 700);
        let old = release("ID=nixos\nVERSION_ID=\"24.11\"\n").unwrap();
        assert!(!old.apt && old.days_left(now()).unwrap() < 0);
        let interim = release("ID=ubuntu\nVERSION_ID=\"25.04\"\n").unwrap();
        assert!(interim.days_left(now()).unwrap() < 0, "an interim release has an end, too");
        let sid = release("ID=debian\n").unwrap();
        assert!(sid.days_left(now()).unwrap_err().to_string().contains("end of support of debian"));
        assert!(release("").is_err());
    }

    #[test]
    fn every_date_in_the_table_is_one() {
        for (id, version, end) in ENDS {
            assert!(end.parse::<Date>().is_ok(), "{id} {version}");
        }
    }
}
