//! Setting up `tracing`: text for people, JSON lines for the journal, always on standard error, and always scrubbed.

use std::io::{IsTerminal, Write};
use std::sync::LazyLock;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

use ring::rand::{SecureRandom, SystemRandom};

use crate::config::{Format, Level, Telemetry};
use crate::phi::Scrubber;

/// The scrubber of this process' log lines; its tags can be compared within one run only.
static SCRUBBER: LazyLock<Option<Scrubber>> = LazyLock::new(|| {
    let mut random = [0; 32];
    SystemRandom::new().fill(&mut random).ok().map(|()| Scrubber::ephemeral(random))
});

/// Standard error behind the scrubber. `tracing` hands over each event in one piece.
#[derive(Debug)]
struct Scrubbing<W>(W);

impl<W: Write> Write for Scrubbing<W> {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        match &*SCRUBBER {
            Some(scrubber) => self.0.write_all(scrubber.text(&text).as_bytes())?,
            // Without randomness there are no tags, and without tags nothing is said.
            None => self.0.write_all(b"a log line is left out: the system gave no randomness\n")?,
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Starts logging; a second call changes nothing.
pub fn init(config: &Telemetry) {
    let filter = match config.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let json = match config.format {
        Format::Json => true,
        Format::Text => false,
        Format::Auto => !std::io::stderr().is_terminal(),
    };
    let registry = tracing_subscriber::registry().with(filter);
    let started = if json {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(|| Scrubbing(std::io::stderr()))).try_init()
    } else {
        registry
            .with(
                fmt::layer().compact().with_target(false).with_ansi(false).with_writer(|| Scrubbing(std::io::stderr())),
            )
            .try_init()
    };
    // Someone else set up logging in this process: theirs is used.
    started.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_leave_a_line_and_it_stays_a_line() {
        for line in ["WARN SSN 123-45-6789 of somebody\n", "{\"message\":\"SSN 123-45-6789\",\"level\":\"WARN\"}\n"] {
            let mut out = Scrubbing(Vec::new());
            out.write_all(line.as_bytes()).unwrap();
            let said = String::from_utf8(out.0).unwrap();
            assert!(!said.contains("6789") && said.contains("WARN") && said.ends_with('\n'), "{said}");
        }
    }
}
