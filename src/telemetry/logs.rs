//! Setting up `tracing`: text for people, JSON lines for the journal, always on standard error.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

use crate::config::{Format, Level, Telemetry};

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
        registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()
    } else {
        registry
            .with(fmt::layer().compact().with_target(false).with_ansi(false).with_writer(std::io::stderr))
            .try_init()
    };
    // Someone else set up logging in this process: theirs is used.
    started.ok();
}
