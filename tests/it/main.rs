//! Integration tests: one binary, one module per subject.
#![expect(clippy::disallowed_methods, reason = "tests start programs and read the environment")]

#[cfg(test)]
mod backup;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod caller;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod conversation;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod decided;
#[cfg(test)]
mod dependencies;
#[cfg(test)]
mod enrolled;
#[cfg(test)]
mod evidence;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod grown;
#[cfg(test)]
mod hardening;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod layering;
#[cfg(test)]
mod limiter;
#[cfg(test)]
mod meanwhile;
#[cfg(test)]
mod outage;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod place;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod routes;
#[cfg(test)]
mod server;
#[cfg(test)]
mod serving;
#[cfg(test)]
mod skip;
#[cfg(test)]
mod vectors;
#[cfg(test)]
mod words;
#[cfg(test)]
mod worm;
