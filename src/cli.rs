//! The command line: one file per subcommand; `output` is the only place that prints.

mod agent;
mod baseline;
mod check;
mod config;
mod decisions;
mod dev;
mod doctor;
mod enroll;
mod evidence;
mod examples;
mod exceptions;
mod failure;
mod fleet;
mod generate;
mod heal;
mod incident;
mod keys;
mod output;
mod quarantine;
mod rule;
mod runbook;
mod server;
mod session;
mod tenants;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use failure::{Exit, Failure};
use output::{ColorChoice, Printer};
use session::Session;

use crate::config::Role;

/// Keeps the computers of a healthcare practice within the HIPAA Security Rule, and proves every act.
#[derive(Debug, Parser)]
#[command(name = "malachor", version, propagate_version = true, after_help = AFTER)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER: &str = "Without a command the configured role runs (role = \"agent\").\n\n\
Examples:\n  malachor dev --once                      check this host once, with state in ./malachor-dev\n  \
malachor heal --dry-run                  what would be done, and which guards would let it\n  \
malachor evidence verify DIR --key FILE  check a log offline\n\n\
Exit status:\n  0 all well; 1 it found something; 2 usage or configuration; 3 not enough to say, or refused by a guard;\n  \
4 input unreadable or something unreachable; 5 internal; 130 interrupted";

/// Options of every command.
#[derive(Debug, Clone, Args)]
struct Global {
    /// Configuration file [default: /etc/malachor/config.toml if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON for programs
    #[arg(long, global = true)]
    json: bool,
    /// When to colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
    /// Print only what was asked for
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more in the log; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::Dev),
    Agent(agent::Agent),
    /// Run or list checks
    #[command(subcommand)]
    Check(check::Check),
    Heal(heal::Heal),
    /// Open and past drift
    #[command(subcommand)]
    Incident(incident::Incident),
    /// Runbooks: list, show, lint, test
    #[command(subcommand)]
    Runbook(runbook::Runbook),
    /// L1 rules: list, test
    #[command(subcommand)]
    Rule(rule::Rule),
    /// Say yes to the plan an incident waits with
    ///
    /// The yes holds for exactly the plan that `malachor incident show` prints, for this drift, and once. Another plan
    /// asks again.
    Approve(decisions::Approve),
    /// Say no to the plan an incident waits with
    Reject(decisions::Reject),
    Mode(decisions::Mode),
    KillSwitch(decisions::KillSwitch),
    /// Waivers with scope, reason, owner and expiry
    #[command(subcommand)]
    Exception(exceptions::Exception),
    /// What was accepted as right, and what differs from it
    #[command(subcommand)]
    Baseline(baseline::Baseline),
    /// The signed log: list, show, verify, export
    #[command(subcommand)]
    Evidence(evidence::Evidence),
    /// The appliance's signing keys
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(config::Config),
    Doctor(doctor::Doctor),
    Server(server::Server),
    /// Sites of the fleet: add, list (on the server)
    #[command(subcommand)]
    Site(tenants::Site),
    EnrollToken(tenants::EnrollToken),
    /// Appliances of the fleet: list, revoke, release (on the server)
    #[command(subcommand)]
    Appliance(fleet::Appliance),
    #[command(subcommand)]
    Publish(fleet::Publish),
    Enroll(enroll::Enroll),
    /// Evidence that contradicts itself, kept as proof: list, export (on the server)
    #[command(subcommand)]
    Quarantine(quarantine::Quarantine),
    /// People who may act on the server: add, list, end
    #[command(subcommand)]
    User(tenants::User),
    /// API tokens of people: add, list, revoke (on the server)
    #[command(subcommand)]
    Token(tenants::Token),
    /// Shell completions
    #[command(hide = true)]
    Completions(generate::Completions),
    /// Manual pages
    #[command(hide = true)]
    Man(generate::Man),
}

/// Parses the process's arguments, runs, and gives the exit status.
pub fn main() -> ExitCode {
    run(std::env::args_os(), std::env::vars_os())
}

/// The environment as text. What is no text is none of ours, unless it bears our name.
fn readable(env: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<(String, String)>, Failure> {
    let mut out = Vec::new();
    for (name, value) in env {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => out.push((name, value)),
            (Ok(name), Err(_)) if name.starts_with("MALACHOR__") => {
                return Err(Failure::new(Exit::Usage, format!("{name}: its value is not UTF-8")));
            }
            (Ok(_) | Err(_), _) => {}
        }
    }
    Ok(out)
}

fn run(args: impl IntoIterator<Item = OsString>, env: impl Iterator<Item = (OsString, OsString)>) -> ExitCode {
    let cli = match described().try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            // clap prints help to stdout and mistakes to stderr, in its own form.
            let printed = error.print();
            let lost = printed.err().filter(|_| !error.use_stderr()).and_then(|error| output::lost(&error));
            return lost.map_or_else(|| Exit::from_clap(&error), |lost| failed(&lost)).into();
        }
    };
    let printer = Printer::new(&cli.global);
    let done = readable(env).and_then(|env| dispatch(cli, env, &printer));
    let done = done.and_then(|exit| printer.trouble().map_or(Ok(exit), Err));
    done.unwrap_or_else(|failure| failed(&failure)).into()
}

/// The command line as it is parsed and described.
fn described() -> clap::Command {
    examples::with_examples(Cli::command())
}

fn failed(failure: &Failure) -> Exit {
    Printer::failure(failure);
    failure.exit
}

fn dispatch(cli: Cli, env: Vec<(String, String)>, out: &Printer) -> Result<Exit, Failure> {
    let session = Session::new(cli.global, env, out)?;
    match cli.command {
        None => match session.role()? {
            Role::Agent => agent::Agent {}.run(&session),
            Role::Server => server::Server { command: None }.run(&session),
        },
        Some(Command::Dev(command)) => command.run(&session),
        Some(Command::Agent(command)) => command.run(&session),
        Some(Command::Check(command)) => command.run(&session),
        Some(Command::Heal(command)) => command.run(&session),
        Some(Command::Incident(command)) => command.run(&session),
        Some(Command::Runbook(command)) => command.run(&session),
        Some(Command::Rule(command)) => command.run(&session),
        Some(Command::Approve(command)) => command.run(&session),
        Some(Command::Reject(command)) => command.run(&session),
        Some(Command::Mode(command)) => command.run(&session),
        Some(Command::KillSwitch(command)) => command.run(&session),
        Some(Command::Exception(command)) => command.run(&session),
        Some(Command::Baseline(command)) => command.run(&session),
        Some(Command::Evidence(command)) => command.run(&session),
        Some(Command::Keys(command)) => command.run(&session),
        Some(Command::Config(command)) => command.run(&session),
        Some(Command::Doctor(command)) => command.run(&session),
        Some(Command::Server(command)) => command.run(&session),
        Some(Command::Site(command)) => command.run(&session),
        Some(Command::EnrollToken(command)) => command.run(&session),
        Some(Command::Appliance(command)) => command.run(&session),
        Some(Command::Publish(command)) => command.run(&session),
        Some(Command::Enroll(command)) => command.run(&session),
        Some(Command::Quarantine(command)) => command.run(&session),
        Some(Command::User(command)) => command.run(&session),
        Some(Command::Token(command)) => command.run(&session),
        Some(Command::Completions(command)) => Ok(command.run(&session, &mut described())),
        Some(Command::Man(command)) => command.run(&session, described()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        described().debug_assert();
    }
}
