//! An example for every command's help, each of them one that the program understands.

use clap::Command;

/// The words of a command, and how it is used.
const EXAMPLES: &[(&str, &str)] = &[
    ("dev", "malachor dev --once --dir ./malachor-dev"),
    ("agent", "malachor agent --config /etc/malachor/config.toml"),
    ("check run", "malachor check run RB-DISK-001"),
    ("check list", "malachor check list --json"),
    ("heal", "malachor heal --dry-run --check RB-DISK-001"),
    ("incident list", "malachor incident list --all"),
    ("incident show", "malachor incident show INC-0123456789abcdef"),
    ("runbook list", "malachor runbook list"),
    ("runbook show", "malachor runbook show RB-DISK-001"),
    ("runbook lint", "malachor runbook lint my-runbook.yaml my-rules.yaml"),
    ("runbook test", "malachor runbook test my-runbook.yaml"),
    ("rule list", "malachor rule list"),
    ("rule test", "malachor rule test my-rules.yaml my-runbook.yaml"),
    ("reject", "malachor reject INC-0123456789abcdef --by dr.lee"),
    ("mode", "malachor mode approve --by dr.lee"),
    (
        "exception add",
        "malachor exception add --runbook RB-DISK-001 --reason 'new disk ordered' --owner lee --approver ortiz --expires 2027-01-31",
    ),
    ("exception list", "malachor exception list"),
    ("exception remove", "malachor exception remove EXC-0123456789abcdef --by dr.lee"),
    ("baseline list", "malachor baseline list"),
    ("baseline show", "malachor baseline show RB-LNX-FIM-001"),
    ("baseline accept", "malachor baseline accept RB-LNX-FIM-001 --reason 'installed today' --by dr.lee"),
    ("evidence list", "malachor evidence list --from 100 --limit 20"),
    ("evidence show", "malachor evidence show 17"),
    ("evidence verify", "malachor evidence verify ./handed-over --key entry.vkey --key head.vkey"),
    ("evidence export", "malachor evidence export --out ./handed-over"),
    ("keys init", "malachor keys init --recovery /media/usb/recovery.pem"),
    ("keys show", "malachor keys show"),
    ("config check", "malachor config check --config ./new.toml"),
    ("config show", "malachor config show --origin"),
    ("doctor", "malachor doctor --json"),
    ("enroll", "malachor enroll mle1.eyJ1cmwi"),
    ("server check-worm", "malachor server check-worm"),
    ("server keys list", "malachor server keys list"),
    ("server keys rotate", "malachor server keys rotate --by lee"),
    ("server keys retire", "malachor server keys retire --by lee"),
    ("appliance list", "malachor appliance list"),
    ("appliance revoke", "malachor appliance revoke clinic/box-1 --by lee"),
    ("appliance release", "malachor appliance release clinic/box-1 --reason 'a newer backup was restored' --by lee"),
    ("publish content", "malachor publish content ./our-runbooks --by lee"),
    ("publish config", "malachor publish config ./clinic.toml --site clinic --by lee"),
    ("publish list", "malachor publish list"),
    ("site add", "malachor site add clinic --name 'Elm Street Clinic' --tier professional"),
    ("site list", "malachor site list"),
    ("enroll-token", "malachor enroll-token --site clinic --appliance box-1"),
    ("quarantine list", "malachor quarantine list"),
    ("quarantine export", "malachor quarantine export 1 --out ./contradiction"),
    ("user add", "malachor user add lee --name 'Dana Lee' --role technician --site clinic"),
    ("user list", "malachor user list"),
    ("user end", "malachor user end lee"),
    ("token add", "malachor token add --user lee --name laptop --days 30"),
    ("token list", "malachor token list"),
    ("token revoke", "malachor token revoke TOK-0123456789ab"),
    ("completions", "malachor completions bash"),
    ("man", "malachor man --out ./man"),
];

/// The command line with its examples.
pub(super) fn with_examples(mut command: Command) -> Command {
    for (path, example) in EXAMPLES {
        let words: Vec<&str> = path.split(' ').collect();
        command = at(command, &words, example);
    }
    command
}

fn at(command: Command, path: &[&str], example: &'static str) -> Command {
    match path {
        [] => command.after_help(format!("Example:\n  {example}")),
        [word, rest @ ..] if command.find_subcommand(word).is_some() => {
            command.mut_subcommand(*word, |inner| at(inner, rest, example))
        }
        [..] => command,
    }
}

#[cfg(test)]
mod tests {
    use super::super::described;

    fn leaves(command: &clap::Command, path: &str, out: &mut Vec<(String, Option<String>)>) {
        for inner in command.get_subcommands() {
            let path = format!("{path} {}", inner.get_name()).trim().to_owned();
            if inner.has_subcommands() {
                leaves(inner, &path, out);
            } else {
                out.push((path, inner.get_after_help().map(ToString::to_string)));
            }
        }
    }

    #[test]
    fn every_command_has_an_example_that_is_understood() {
        let mut all = Vec::new();
        leaves(&described(), "", &mut all);
        assert!(all.len() > 30);
        for (path, help) in all {
            let help = help.unwrap_or_else(|| panic!("`{path}` has no example"));
            let example = help.lines().find(|line| line.contains(&format!("malachor {path}"))).expect("its own").trim();
            let mut words = Vec::new();
            for (index, part) in example.split('\'').enumerate() {
                if index % 2 == 1 { words.push(part) } else { words.extend(part.split_whitespace()) }
            }
            let parsed = described().try_get_matches_from(words);
            assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
        }
    }
}
