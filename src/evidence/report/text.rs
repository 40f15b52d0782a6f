//! The report as a person reads it.

use std::fmt::Write as _;

use serde_json::Value;

use super::{At, Bad, Check, Report, Row};
use crate::crypto::hex;
use crate::evidence::trust::Pin;
use crate::shown;
use crate::store::log::instant;

/// What this input cannot speak to; printed so that nobody takes silence for a pass.
const ABSENT: [&str; 5] = ["witness cosignatures", "time bounds", "coverage", "sealed / pruned", "OTS"];

pub(super) fn write(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail; the result is only there for the trait.
    let written = sections(report, &mut out);
    debug_assert!(written.is_ok());
    out
}

fn sections(report: &Report, out: &mut String) -> std::fmt::Result {
    writeln!(out, "Malachor evidence verification                     {}", shown::piece(&report.label))?;
    trust(report, out)?;
    if let Some((first, last)) = report.period {
        writeln!(out, "Period   {} .. {}   as claimed by the appliance's clock", instant(first), instant(last))?;
    }
    if report.container.is_some() {
        writeln!(out, "Log      {} entries   root {}", grouped(report.entries), hex(&report.root))?;
        table(report, out)?;
    }
    if let Some(first) = report.first_bad() {
        bad(first, report.bad_total, out)?;
    }
    for shortfall in &report.shortfalls {
        writeln!(out, "SHORT    {}: {}", shortfall.reason.as_str(), shown::piece(&shortfall.say))?;
    }
    not_proved(report, out)?;
    writeln!(out, "RESULT   {} (exit {})", report.verdict.as_str(), report.exit_code())
}

fn trust(report: &Report, out: &mut String) -> std::fmt::Result {
    let keys = |role: &str| -> Vec<String> {
        let listed = report.trust.get(role).and_then(Value::as_array).into_iter().flatten();
        listed.filter_map(Value::as_str).map(|print| format!("spki sha256 {print}")).collect()
    };
    let whose = match report.pin {
        Pin::Auditor => "given by you",
        Pin::Appliance => "held by this appliance: whoever can change its log can change them, too",
        Pin::Log => "found in the log itself: says nothing about its maker",
    };
    if let Some(origin) = report.trust.get("origin").and_then(Value::as_str) {
        writeln!(out, "Origin   {}", shown::piece(origin))?;
    }
    for (role, name) in [("entryKeys", "entries"), ("headKeys", "heads")] {
        for key in keys(role) {
            writeln!(out, "Trust    {name:<8} {}", shown::piece(&key))?;
        }
    }
    writeln!(out, "         {whose}   assurance {}", report.assurance())
}

fn table(report: &Report, out: &mut String) -> std::fmt::Result {
    writeln!(out, "  {:<26}{:<9}done / total", "check", "result")?;
    for (check, row) in &report.rows {
        line(*check, *row, out)?;
    }
    for absent in ABSENT {
        writeln!(out, "  {absent:<26}{:<9}not part of this input", "n/a")?;
    }
    if report.declared_gaps > 0 {
        writeln!(out, "  {:<26}{:<9}{}", "declared gaps", "INFO", grouped(report.declared_gaps))?;
    }
    if report.lint_total > 0 {
        let say = "signed bytes not in canonical form";
        writeln!(out, "  {:<26}{:<9}{}   {say}", "NON_CANONICAL", "LINT", grouped(report.lint_total))?;
    }
    Ok(())
}

fn line(check: Check, row: Row, out: &mut String) -> std::fmt::Result {
    let name = match check {
        Check::Signatures => "signatures (strict)",
        Check::Chain => "chain prev/seq",
        Check::Origin => "origin of entries",
        Check::Stored => "stored leaves and nodes",
        Check::HeadSignatures => "head signatures",
        Check::Heads => "Merkle root, consistency",
        Check::Expected => "expected checkpoint",
    };
    let (status, absent) =
        (row.status(), if check == Check::Expected { "none given" } else { "not part of this input" });
    match row.total {
        0 => writeln!(out, "  {name:<26}{status:<9}{absent}"),
        _ => writeln!(out, "  {name:<26}{status:<9}{} / {}", grouped(row.done), grouped(row.total)),
    }
}

fn bad(first: &Bad, total: u64, out: &mut String) -> std::fmt::Result {
    let at = match first.at {
        At::Entry(seq) => format!("seq {}", grouped(seq)),
        At::Head(size) => format!("head of {} entries", grouped(size)),
    };
    let line = first.line.map(|line| format!(" line {line}")).unwrap_or_default();
    writeln!(out, "FIRST BAD  {at}  {}  {}{line}", first.reason.as_str(), shown::piece(&first.file))?;
    writeln!(out, "  expected {}\n  found    {}", shown::piece(&first.expected), shown::piece(&first.actual))?;
    for note in &first.notes {
        writeln!(out, "  signed head:")?;
        note.lines().try_for_each(|line| writeln!(out, "  | {}", shown::piece(line)))?;
    }
    if total > 1 { writeln!(out, "  and {} more; --json lists them", grouped(total - 1)) } else { Ok(()) }
}

fn not_proved(report: &Report, out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "NOT PROVED  that the collectors told the truth; that the clock was right: no witness or anchor speaks here;"
    )?;
    writeln!(out, "            that every scheduled check ran; that nothing was ever cut off together with its heads")?;
    if report.rows.get(&Check::Expected).is_some_and(|row| row.total == 0) {
        writeln!(out, "            (hold a checkpoint from outside against it: --expect-checkpoint)")?;
    }
    if report.pin != Pin::Auditor {
        writeln!(out, "            who made this log: its keys were not given from outside")?;
    }
    Ok(())
}

/// A number with commas between thousands.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let lead = digits.len() % 3;
    let comma = |(i, c): (usize, char)| (i > 0 && i % 3 == lead).then_some(',').into_iter().chain([c]);
    digits.chars().enumerate().flat_map(comma).collect()
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_grouped() {
        let shown = [0, 12, 123, 1_234, 12_345, 123_456, 1_234_567].map(grouped);
        assert_eq!(shown, ["0", "12", "123", "1,234", "12,345", "123,456", "1,234,567"]);
    }
}
