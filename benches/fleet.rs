//! A fleet of simulated appliances against the real server: `cargo bench --bench fleet -- [SCENARIO…] [--store sqlite|postgres]
//! [--appliances N]`.
//!
//! Appliances have real keys and certificates and speak mTLS to the real program in a process of its own, so that its
//! processor time and memory are measured apart from what makes the load. Figures in seconds depend on the machine; those
//! per core-second of the server, and ratios to a limit timed in the same run, do so much less.
#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench times things, starts programs, prints a table, and stops at once where something is wrong"
)]

#[path = "fleet/database.rs"]
mod database;
#[path = "fleet/evidence.rs"]
mod evidence;
#[path = "fleet/line.rs"]
mod line;
#[path = "fleet/orders.rs"]
mod orders;
#[path = "fleet/presence.rs"]
mod presence;
#[path = "fleet/process.rs"]
mod process;
#[path = "fleet/stage.rs"]
mod stage;

use database::Databases;

/// What there is to measure.
const SCENARIOS: [&str; 4] = ["idle", "check-ins", "evidence", "orders"];

fn main() {
    let asked = Asked::read(std::env::args().skip(1));
    process::allow_many_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!("{:<44} {:<9} {:>15}  {:<62} goal", "what", "store", "measured", "beside");
    for store in &asked.stores {
        let databases = match store.as_str() {
            "postgres" => Databases::postgres(),
            _ => Databases::Sqlite,
        };
        for scenario in &asked.scenarios {
            runtime.block_on(async {
                match scenario.as_str() {
                    "idle" => presence::idle(&databases, asked.appliances).await,
                    "check-ins" => presence::check_ins(&databases, asked.appliances).await,
                    "evidence" => evidence::taken(&databases).await,
                    _ => orders::in_hand(&databases, asked.appliances).await,
                }
            });
        }
    }
}

/// The command line.
struct Asked {
    scenarios: Vec<String>,
    stores: Vec<String>,
    appliances: usize,
}

impl Asked {
    fn read(mut words: impl Iterator<Item = String>) -> Self {
        let mut asked = Self { scenarios: Vec::new(), stores: Vec::new(), appliances: 2000 };
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap_or_else(|| panic!("{word} takes a value"));
            match word.as_str() {
                "--store" => asked.stores.push(value()),
                "--appliances" => asked.appliances = value().parse().expect("a number of appliances"),
                // Cargo says so to every bench.
                "--bench" => {}
                scenario if SCENARIOS.contains(&scenario) => asked.scenarios.push(word),
                other => panic!("`{other}` is no scenario; there are {SCENARIOS:?}"),
            }
        }
        if asked.scenarios.is_empty() {
            asked.scenarios = SCENARIOS.map(str::to_owned).to_vec();
        }
        if asked.stores.is_empty() {
            asked.stores.push("sqlite".to_owned());
        }
        asked
    }
}

/// One line of the table.
fn row(what: &str, databases: &Databases, measured: &str, beside: &str, goal: &str) {
    println!("{what:<44} {:<9} {measured:>15}  {beside:<62} {goal}", databases.word());
}

/// The value below which `part` (0 to 1) of the values lie.
fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index of a few thousand values"
    )]
    let at = (values.len() as f64 * part) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// A count as a number to divide.
#[expect(clippy::cast_precision_loss, reason = "counts of a bench are far below 2^52")]
fn real(count: usize) -> f64 {
    count as f64
}
