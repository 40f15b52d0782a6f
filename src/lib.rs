//! Malachor keeps the computers of small healthcare practices within the HIPAA Security Rule, and proves every act.
//!
//! One program, several roles; a role is a function over one [`app::App`] of capabilities. This page is the map.
//!
//! # One drift, end to end
//!
//! 1. The schedule ([`agent`]) says that a check is due. [`checks`] reads facts from the [`host`]: facts only, and for
//!    every fact that could not be learned, why.
//! 2. The [`domain::runbook`] judges them: a [`domain::finding::Finding`], pure, with its reasons. A fact that is not
//!    there gives `unknown`, never a pass.
//! 3. [`heal`] records it: finding, [`domain::incident`] and entry in one transaction of the [`store`].
//! 4. The first L1 [`domain::rule`] that matches gives a [`domain::plan::Plan`]: every argument filled in. `heal
//!    --dry-run` stops here and prints that value.
//! 5. The [`domain::guard`]s answer: switch, mode, exceptions, prerequisites, flapping, attempts, cooldown, window,
//!    approval. A refusal is an outcome, and recorded.
//! 6. The executor journals *before* it acts, keeps a snapshot, applies the steps, runs the same check again, and either
//!    commits the outcome or puts the snapshot back.
//! 7. State change, signed entry, tree head and outbox row commit together. `kill -9` anywhere: an execution that had
//!    started is verified at the next start, never blindly run again.
//! 8. [`uplink`] hands the entries over, oldest first; the [`server`] verifies them anew, keeps them in WORM ([`blob`]) and
//!    in its [`fleet`] store, and cosigns the head: the receipt. Orders come the other way and enter at 5.
//! 9. [`evidence`] verifies the log offline, with a public key and nothing else.
//!
//! # What never happens
//!
//! - [`domain`] reads no clock, no file, no randomness.
//! - Nothing leaves that is not [`phi::Scrubbed`].
//! - No argument of a step passes through a shell.
//! - No code path changes or deletes an entry; the database refuses it too.
//! - `unknown` never counts as pass, and nothing observed is "no data", never 100 %.
//!
//! # Layers
//!
//! A module uses only what stands above it here: domain, shown; crypto, phi, config, telemetry, wire; store, fleet, lock,
//! blob, net, host, catalog; app, evidence, checks, heal; agent, uplink, server; cli. A test reads the source and fails otherwise.

pub mod agent;
pub mod app;
pub mod blob;
pub mod catalog;
pub mod checks;
pub mod cli;
pub mod config;
pub mod crypto;
pub mod domain;
pub mod evidence;
pub mod fleet;
pub mod heal;
pub mod host;
pub mod lock;
pub mod net;
pub mod phi;
pub mod server;
pub mod shown;
pub mod store;
pub mod telemetry;
pub mod uplink;
pub mod wire;
