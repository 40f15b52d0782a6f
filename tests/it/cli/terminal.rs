//! What other people wrote never acts on the terminal, and output that is lost is said to be lost.

use std::fs::File;
use std::process::{Command, Stdio};

use crate::place::{FILE, change, program, stderr, stdout, with_file};

/// Whether only what we mean to print acts.
fn quiet(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t' || c == '\u{202e}')
}

#[test]
fn what_a_check_says_and_how_a_file_is_called_does_not_act() {
    let place = with_file("heal", "\\u001b[2Jgone\\u0007\\u202e\\u009b");
    let shows = [vec!["check", "run", FILE], vec!["--json", "check", "run", FILE], vec!["evidence", "show", "1"]];
    for args in shows {
        let output = place.run(&args);
        let said = stdout(&output) + &stderr(&output);
        assert!(quiet(&said) && said.contains("gone"), "{args:?}: {said:?}");
    }
    change(&place, "title: The file says so", "title: \"The file\\e[2J says so\"");
    let list = place.ok(&["--color", "always", "runbook", "list"]);
    assert!(quiet(&list) && list.contains("The file\\u{1b}[2J says so"), "{list:?}");
    let named = place.dir.path().join("a\u{1b}[2J\nRESULT   VERIFIED (exit 0)").display().to_string();
    for args in [["evidence", "verify", &named], ["runbook", "lint", &named], ["evidence", "list", &named]] {
        let output = program(&args);
        let said = stdout(&output) + &stderr(&output);
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(quiet(&said) && !said.contains("\nRESULT   VERIFIED"), "{args:?}: {said:?}");
    }
}

#[test]
fn names_and_reasons_are_readable_or_refused() {
    let place = with_file("heal", "bad");
    let soon = "2099-01-01";
    let add = |reason, owner, approver| {
        let flags =
            ["--runbook", FILE, "--reason", reason, "--owner", owner, "--approver", approver, "--expires", soon];
        [vec!["exception", "add"], flags.to_vec()].concat()
    };
    for args in [
        vec!["mode", "observe", "--by", "dr\u{1b}[2J"],
        vec!["kill-switch", "on", "--by", "a\nb"],
        vec!["heal", "--apply", "--by", "\u{202e}eel", "--check", FILE],
        vec!["baseline", "accept", FILE, "--reason", "a\u{7}", "--by", "dana"],
        add("r\u{9b}", "lee", "ortiz"),
        add("r", "le\re", "ortiz"),
        add("r", "lee", "or\ttiz"),
    ] {
        let output = place.run(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains("control characters are not recorded"), "{}", stderr(&output));
        assert!(quiet(&stderr(&output)), "{:?}", stderr(&output));
    }
}

#[test]
fn output_that_is_lost_is_an_error_and_a_reader_that_went_away_is_none() {
    let place = with_file("heal", "good");
    let config = place.dir.path().join("malachor.toml");
    let to = |args: &[&str], out: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_malachor"));
        command.arg("--config").arg(&config).args(args).stdout(out).output().unwrap()
    };
    for args in [vec!["runbook", "list"], vec!["--json", "config", "show"], vec!["--help"], vec!["man"]] {
        let full = to(&args, File::options().write(true).open("/dev/full").unwrap().into());
        assert_eq!(full.status.code(), Some(4), "{args:?}");
        assert!(stderr(&full).contains("standard output: No space left on device"), "{}", stderr(&full));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let gone = to(&args, writer.into());
        assert_eq!((gone.status.code(), stderr(&gone)), (Some(0), String::new()), "{args:?}");
    }
}

#[test]
fn colours_are_ours() {
    let place = with_file("heal", "good");
    let run = |name: &str, value: &str| {
        let config = place.dir.path().join("malachor.toml");
        let mut command = Command::new(env!("CARGO_BIN_EXE_malachor"));
        command.arg("--config").arg(config).args(["check", "run"]).env_remove("NO_COLOR").env(name, value);
        stdout(&command.output().unwrap())
    };
    assert!(run("CLICOLOR_FORCE", "1").contains("\u{1b}[32m✔ pass"), "{}", run("CLICOLOR_FORCE", "1"));
    assert!(quiet(&run("CLICOLOR_FORCE", "0")));
    assert!(quiet(&run("NO_COLOR", "1")));
}

#[test]
fn tables_end_where_the_terminal_ends() {
    let place = with_file("heal", "good");
    let why = "the new disk is ordered and comes in the next quarter, until then the old one is emptied by hand";
    place.ok(&[
        "exception",
        "add",
        "--runbook",
        FILE,
        "--reason",
        why,
        "--owner",
        "lee",
        "--approver",
        "ortiz",
        "--expires",
        &(jiff::Timestamp::now() + jiff::SignedDuration::from_hours(48)).to_string(),
    ]);
    let config = place.dir.path().join("malachor.toml");
    let run = |args: &[&str], columns: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_malachor"));
        command.arg("--config").arg(&config).args(args).env_remove("COLUMNS");
        stdout(&command.envs(columns.map(|columns| ("COLUMNS", columns))).output().unwrap())
    };
    let widest = |text: &str| text.lines().map(|line| line.chars().count()).max().unwrap();
    for args in [["check", "list"], ["rule", "list"], ["runbook", "list"], ["exception", "list"], ["evidence", "list"]]
    {
        for (columns, most) in [(None, 80), (Some("90"), 90)] {
            let shown = run(&args, columns);
            assert!(widest(&shown) <= most, "{args:?}: {shown}");
        }
    }
    let wide = run(&["rule", "list"], Some("2000"));
    assert!(widest(&wide) > 100, "{wide}");
    let doctor = run(&["doctor"], None);
    assert!(widest(&doctor) <= 80 || doctor.contains(place.dir.path().to_str().unwrap()), "{doctor}");
}
