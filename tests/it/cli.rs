//! The program as people and programs meet it: help, exit statuses, JSON, the documentation's examples.

mod programs;
mod terminal;

use std::path::Path;

use crate::place::{FILE, Place, facts, program, stderr, stdout, with_file};

#[test]
fn help_says_what_there_is() {
    insta::assert_snapshot!("help", stdout(&program(&["--help"])));
    insta::assert_snapshot!("help_heal", stdout(&program(&["heal", "--help"])));
    insta::assert_snapshot!("help_evidence_verify", stdout(&program(&["evidence", "verify", "--help"])));
}

#[test]
fn each_exit_status_is_reached() {
    let status = |args: &[&str]| program(args).status.code();
    assert_eq!(status(&["--version"]), Some(0));
    assert_eq!(status(&["no-such-command"]), Some(2));
    assert_eq!(status(&["--config", "/no/such/file", "config", "check"]), Some(2));
    assert_eq!(status(&["evidence", "verify", "/no/such/log"]), Some(4));
    let place = with_file("heal", "bad");
    place.ok(&["mode"]);
    let absent = place.run(&["evidence", "show", "999"]);
    assert_eq!((absent.status.code(), stderr(&absent).contains("no entry 999")), (Some(2), true));
    assert_eq!(place.run(&["check", "run", FILE]).status.code(), Some(1));
    std::fs::remove_file(place.dir.path().join("facts.json")).unwrap();
    assert_eq!(place.run(&["check", "run", FILE]).status.code(), Some(3), "unknown is not enough to say");
}

#[test]
fn dry_run_shows_the_plan_and_changes_nothing() {
    let place = with_file("heal", "bad");
    place.run(&["check", "run", FILE]);
    let before = tree(place.dir.path());
    let output = place.run(&["heal", "--dry-run", "--check", FILE]);
    assert_eq!(output.status.code(), Some(1));
    let shown = stdout(&output);
    assert!(
        shown.contains("kill_switch") && shown.contains("-{\"state\": \"bad\"}") && shown.contains("would run now"),
        "{shown}"
    );
    assert_eq!(tree(place.dir.path()), before, "not even the state directory changes");
}

/// Every file below a directory with its bytes.
fn tree(dir: &Path) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut files = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(tree(&path));
        } else {
            files.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    files
}

#[test]
fn the_plan_that_is_printed_is_the_plan_that_runs() {
    let place = with_file("heal", "bad");
    let steps = |text: &str| -> Vec<serde_json::Value> {
        text.lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["plan"]["steps"].clone())
            .collect()
    };
    let planned = steps(&stdout(&place.run(&["--json", "heal", "--dry-run", "--check", FILE])));
    let applied = place.run(&["--json", "heal", "--apply", "--by", "tester", "--check", FILE]);
    assert_eq!((applied.status.code(), steps(&stdout(&applied))), (Some(0), planned));
    assert_eq!(facts(&place), "{\"state\": \"good\"}");
    let verdict = place.run(&["evidence", "verify"]);
    assert_eq!(verdict.status.code(), Some(0), "{}", stdout(&verdict));
}

#[test]
fn a_guard_that_says_no_is_status_three_and_nothing_happens() {
    let observing = with_file("observe", "bad");
    observing.ok(&["mode", "heal", "--by", "tester"]);
    assert_eq!(observing.run(&["heal", "--apply", "--by", "tester", "--check", FILE]).status.code(), Some(3));
    assert_eq!(facts(&observing), "{\"state\": \"bad\"}", "the strictest mode wins");
    let place = with_file("heal", "bad");
    place.ok(&["kill-switch", "on", "--by", "tester"]);
    assert_eq!(place.run(&["heal", "--apply", "--by", "tester", "--check", FILE]).status.code(), Some(3));
    assert_eq!(facts(&place), "{\"state\": \"bad\"}");
    place.ok(&["kill-switch", "off", "--by", "tester"]);
    place.ok(&["heal", "--apply", "--by", "tester", "--check", FILE]);
    assert_eq!(facts(&place), "{\"state\": \"good\"}");
}

/// Whoever wants everything to stop is not told to mend a file first.
#[test]
fn the_kill_switch_works_when_the_content_does_not() {
    let place = with_file("heal", "bad");
    assert!(place.ok(&["kill-switch"]).starts_with("kill switch off"));
    let sound = std::fs::read_to_string(place.dir.path().join("malachor.toml")).unwrap();
    let mut word = ["on", "off"].into_iter().cycle();
    for broken in
        ["catalog", "[runbooks.RB-NOT-001]\n", "[runbooks.RB-DISK-001]\nevry = 1\n", "[runbooks]\nRB-DISK-001 = 3\n"]
    {
        if broken == "catalog" {
            place.write("catalog/rules.yaml", "rules: [{");
        } else {
            place.write("malachor.toml", &format!("{sound}{broken}"));
        }
        assert_eq!(place.run(&["incident", "list"]).status.code(), Some(2), "{broken}");
        let state = word.next().unwrap();
        let thrown = place.run(&["kill-switch", state, "--by", "dana"]);
        let said = stderr(&thrown);
        assert_eq!(thrown.status.code(), Some(0), "{broken}: {said}");
        assert!(said.contains("with the built-in content"), "{broken}: {said}");
        assert!(stdout(&thrown).starts_with(&format!("kill switch {state}")), "{}", stdout(&thrown));
        let shown: serde_json::Value = serde_json::from_str(&place.ok(&["--json", "kill-switch"])).unwrap();
        assert_eq!((&shown["state"], &shown["by"]), (&state.into(), &"dana".into()), "{shown}");
        let mode = place.ok(&["mode", "approve", "--by", "dana"]);
        assert!(mode.starts_with("mode approve") && mode.contains("kill switch on") == (state == "on"), "{mode}");
        place.write("malachor.toml", &sound);
    }
    place.write("malachor.toml", "[agent\n");
    assert_eq!(place.run(&["kill-switch", "on", "--by", "dana"]).status.code(), Some(2), "nobody knows whose");
}

#[test]
fn an_exception_keeps_healing_away_until_it_is_removed() {
    let place = with_file("heal", "bad");
    let refused = [
        "exception",
        "add",
        "--runbook",
        FILE,
        "--reason",
        "r",
        "--owner",
        "lee",
        "--approver",
        "Lee",
        "--expires",
        "2099-01-01",
    ];
    let output = place.run(&refused);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("cannot approve an exception they own"), "{}", stderr(&output));
    let output = place.run(&[&refused[..], &["--target", "nosuch"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("nothing here is called `nosuch`"), "{}", stderr(&output));
    let soon = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(48)).to_string();
    let add = [
        "exception",
        "add",
        "--runbook",
        FILE,
        "--reason",
        "r",
        "--owner",
        "lee",
        "--approver",
        "ortiz",
        "--expires",
        &soon,
        "--effect",
        "no-heal",
    ];
    let id = place.ok(&add).split(' ').next().unwrap().to_owned();
    assert!(place.ok(&["exception", "list"]).contains(&id));
    let output = place.run(&["heal", "--apply", "--by", "tester", "--check", FILE]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stdout(&output).contains(&id), "{}", stdout(&output));
    place.ok(&["exception", "remove", &id, "--by", "ortiz"]);
    place.ok(&["heal", "--apply", "--by", "tester", "--check", FILE]);
}

#[test]
fn a_silenced_failure_is_shown_and_does_not_count() {
    let place = with_file("heal", "bad");
    let soon = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(48)).strftime("%Y-%m-%d").to_string();
    let add = |effect: &str| {
        let who = ["--reason", "r", "--owner", "lee", "--approver", "ortiz", "--expires", &soon, "--effect", effect];
        place.ok(&[&["exception", "add", "--runbook", FILE], &who[..]].concat())
    };
    add("no-heal");
    assert_eq!(place.run(&["check", "run", FILE]).status.code(), Some(1), "it counts unless it is silenced");
    let id = add("silence").split(' ').next().unwrap().to_owned();
    let said = place.ok(&["check", "run", FILE]);
    assert!(said.starts_with(&format!("✖ fail (excepted by {id} until {}", &soon[..8])), "{said}");
    let json: serde_json::Value = serde_json::from_str(&place.ok(&["--json", "check", "run", FILE])).unwrap();
    assert_eq!((&json["excepted"], &json["finding"]["verdict"]), (&true.into(), &"fail".into()), "{json}");
    place.write("facts.json", "{\"state\": \"good\"}");
    let json: serde_json::Value = serde_json::from_str(&place.ok(&["--json", "check", "run", FILE])).unwrap();
    assert_eq!(json["excepted"], false, "{json}");
}

const FIM: &str = "RB-LNX-FIM-001";

/// What is under `watched` is compared; nothing else of the machine is looked at.
fn watching() -> (Place, String) {
    let place = Place::new("");
    let file = place.write("watched/sshd_config", "PermitRootLogin no\n");
    let watched = place.dir.path().join("watched").display().to_string();
    let state = place.dir.path().join("state").display().to_string();
    let config = format!(
        "[site]\nid = \"clinic\"\n[agent]\nstate_dir = {state:?}\n[runbooks.{FIM}]\nsettings = {{ paths = [{watched:?}] }}\n"
    );
    place.write("malachor.toml", &config);
    place.ok(&["keys", "init"]);
    (place, file)
}

#[test]
fn what_a_person_accepted_is_right_until_it_changes() {
    let (place, file) = watching();
    let early = place.run(&["baseline", "accept", FIM, "--reason", "new", "--by", "dana"]);
    assert_eq!(early.status.code(), Some(2));
    assert!(stderr(&early).contains("nothing was looked at yet; run `malachor check run"), "{}", stderr(&early));
    assert!(place.ok(&["check", "run", FIM]).contains("Nobody has accepted"));
    let accepted = place.ok(&["baseline", "accept", FIM, "--reason", "installed today", "--by", "dana"]);
    assert!(accepted.contains("version 1 accepted by dana"), "{accepted}");
    assert!(place.ok(&["check", "run", FIM]).contains("pass"));
    assert!(place.ok(&["baseline", "show", FIM]).is_empty());

    std::fs::write(&file, "PermitRootLogin yes\n").unwrap();
    let found = place.run(&["check", "run", FIM]);
    assert_eq!(found.status.code(), Some(1));
    assert!(stdout(&found).contains(&file), "{}", stdout(&found));
    let shown = place.run(&["baseline", "show", FIM]);
    assert_eq!((shown.status.code(), stdout(&shown).contains(&format!("~ {file}"))), (Some(1), true));

    place.ok(&["baseline", "accept", FIM, "--reason", "root login is wanted", "--by", "lee"]);
    place.ok(&["check", "run", FIM]);
    let list = place.ok(&["baseline", "list"]);
    assert!(list.contains("lee") && list.contains("root login is wanted"), "{list}");
    let entry = place.ok(&["evidence", "show", "2"]);
    assert!(entry.contains("baseline accepted") && entry.contains("installed today"), "{entry}");
    place.ok(&["evidence", "verify"]);
}

#[test]
fn a_baseline_needs_a_check_that_compares_and_a_reason() {
    let (place, _) = watching();
    for (args, says) in [
        (vec!["baseline", "show", "RB-DISK-001"], "has no `detect.baseline`"),
        (vec!["baseline", "accept", "RB-NOT-001", "--reason", "r", "--by", "d"], "no runbook is called"),
        (vec!["baseline", "accept", FIM, "--reason", " ", "--by", "d"], "needs a reason"),
        (vec!["baseline", "accept", FIM, "--reason", "r", "--by", " "], "needs a name"),
    ] {
        let output = place.run(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
}

#[test]
fn evidence_is_listed_shown_exported_and_verified_from_files() {
    let place = with_file("heal", "bad");
    place.ok(&["heal", "--apply", "--by", "tester", "--check", FILE]);
    assert!(place.ok(&["evidence", "list"]).contains("repaired"));
    assert!(place.ok(&["evidence", "show", "0"]).contains("genesis"));
    let out = place.dir.path().join("handed over").display().to_string();
    place.ok(&["evidence", "export", "--out", &out]);
    let key = |name: &str| place.dir.path().join("state/keys").join(name).display().to_string();
    let (entry, head) = (key("entry.vkey"), key("head.pub.pem"));
    assert_eq!(program(&["evidence", "verify", &out, "--key", &entry, "--key", &head]).status.code(), Some(0));
    assert_eq!(
        program(&["evidence", "verify", &out]).status.code(),
        Some(3),
        "a key from the log itself proves little"
    );
    let other = tempfile::tempdir().unwrap();
    let stranger = Place { dir: other };
    stranger.write(
        "malachor.toml",
        &format!("[site]\nid = \"clinic\"\n[agent]\nstate_dir = {:?}\n", stranger.dir.path().join("s")),
    );
    stranger.ok(&["keys", "init"]);
    let foreign = stranger.dir.path().join("s/keys/entry.vkey").display().to_string();
    assert_eq!(program(&["evidence", "verify", &out, "--key", &foreign]).status.code(), Some(1));
}

#[test]
fn dev_once_checks_this_host_and_proves_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("dev");
    let output = program(&["--json", "dev", "--once", "--dir", state.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let lines: Vec<serde_json::Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let findings = lines.iter().filter(|line| line["schema"] == "malachor.finding/1").count();
    assert_eq!(findings, malachor::catalog::Catalog::load(None).unwrap().runbooks.len());
    assert_eq!(lines.last().unwrap()["exit"], 0);
    let known = lines.iter().find(|line| line["schema"] == "malachor.known/1").unwrap();
    assert!(known["held"].as_u64() > Some(20), "{known}");
    assert_eq!(known["held"], known["log_size"]);
    // Again, at another port: the same server knows the same appliance, and both can be looked at.
    let again = program(&["--json", "dev", "--once", "--dir", state.to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    let config = state.join("malachor.toml").display().to_string();
    let listed = stdout(&program(&["--config", &config, "--json", "appliance", "list"]));
    let one: serde_json::Value = serde_json::from_str(listed.trim()).unwrap();
    assert_eq!((&one["appliance"]["id"], &one["appliance"]["state"]), (&"this-host".into(), &"active".into()));
}

#[test]
fn the_page_about_the_server_names_what_the_program_takes() {
    let doc = include_str!("../../docs/server.md");
    let config = doc.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let place = Place::new("");
    place.write("malachor.toml", config);
    place.ok(&["config", "check"]);
    // Only this machine reaches the three, by the ports the configuration names.
    let compose = include_str!("../../docs/compose.yaml");
    for port in ["5432", "6379", "8333"] {
        assert!(compose.contains(&format!("\"127.0.0.1:{port}:{port}\"")), "{port}");
        assert!(config.contains(&format!("127.0.0.1:{port}")), "{port}");
    }
    assert_eq!(compose.matches("127.0.0.1:").count(), 3);
}

#[test]
fn the_documentation_lints_and_its_examples_hold() {
    let place = Place::new("");
    let doc = include_str!("../../docs/runbooks.md");
    let blocks: Vec<&str> = doc.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let [runbook, rules] = blocks.as_slice() else { panic!("the page has a runbook and rules") };
    place.write("catalog/banner.yaml", runbook);
    place.write("catalog/rules.yaml", rules);
    let catalog = place.dir.path().join("catalog");
    place.write("malachor.toml", &format!("[catalog]\ndir = {catalog:?}\n"));
    place.ok(&["runbook", "test", "RB-MY-BANNER-001"]);
    place.ok(&["rule", "test", "L1-BANNER"]);
    let file = catalog.join("banner.yaml").display().to_string();
    place.ok(&["runbook", "lint", &file]);
    let broken = place.write("broken.yaml", &runbook.replace("drift  ", "drfit  "));
    let output = place.run(&["runbook", "lint", &broken]);
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!("lint", stdout(&output).replace(&broken, "broken.yaml"));
}

#[test]
fn generated_pages_come_out() {
    assert!(stdout(&program(&["completions", "bash"])).contains("_malachor"));
    assert!(stdout(&program(&["man"])).contains(".TH malachor"));
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(program(&["man", "--out", dir.path().to_str().unwrap()]).status.code(), Some(0));
    assert!(dir.path().join("malachor-heal.1").exists());
}

/// Neither where it is written as it must be nor where a mistake left it in the open.
#[test]
fn the_configuration_shows_no_secret() {
    let place = Place::new(
        "[runbooks.RB-BACKUP-001.settings]\nrepository = \"s3:hunter2\"\nunit = \"backup.service\"\nrepositry = \"s3:hunter2\"\n\
         [runbooks.RB-RESTORE-001.settings]\nrepository = { file = \"/nowhere/repository\", password = \"hunter2\" }\n\
         [runbooks.RB-NOT-001.settings]\nsecret = \"hunter2\"\n",
    );
    for args in
        [&["config", "show", "--origin"][..], &["--json", "config", "show"], &["config", "check"], &["check", "list"]]
    {
        let output = place.run(args);
        let said = stdout(&output) + &stderr(&output);
        assert!(!said.contains("hunter2"), "{args:?}: {said}");
        if args.contains(&"show") {
            assert!(
                said.contains("***") && said.contains("backup.service") && said.contains("/nowhere/repo"),
                "{said}"
            );
        }
    }
    let values = place.ok(&["--json", "config", "show"]);
    let values = values.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let at = |key: &str| values.clone().find(|one| one["key"] == key).unwrap()["value"].clone();
    assert_eq!(at("runbooks.RB-BACKUP-001.settings.repository"), "***");
    assert_eq!(at("heal.flap_count"), 3);
    place.append("[catalog]\ndir = \"/nowhere/runbooks\"\n");
    let shown = place.ok(&["config", "show"]);
    assert!(!shown.contains("hunter2") && shown.contains("***"), "{shown}");
}

#[test]
fn show_origin_says_where_a_value_came_from() {
    let place = Place::new("heartbeat = \"2h\"\n");
    let shown = place.ok(&["config", "show", "--origin"]);
    assert!(
        shown.lines().any(|line| line.starts_with("agent.heartbeat = \"2h\"  # ") && line.ends_with("malachor.toml:5")),
        "{shown}"
    );
    assert!(shown.contains("heal.flap_count = 3  # default"));
}
