//! Integration tests: one binary, one module per subject.
#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests start programs, read the environment and fail by panicking, in helpers too"
)]

mod evidence;
mod lab;
mod layering;
mod skip;
mod vectors;
mod words;
