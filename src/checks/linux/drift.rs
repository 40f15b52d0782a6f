//! NixOS: whether what runs is what was set, and what was set is what is expected.

use serde_json::Value;

use super::nixos;
use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;

/// Facts: `nixos`, `system`.
pub(super) fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let is_nixos = nixos::is_nixos(context.host);
    facts.set("nixos", is_nixos);
    if is_nixos {
        facts.learn("system", nixos::generations(context));
    } else {
        facts.set("system", Value::Null);
    }
    facts.into()
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::super::fixture::Tree;
    use crate::domain::runbook::Action;

    const ID: &str = "RB-DRIFT-001";

    /// NixOS whose profile, current and booted systems are these.
    pub(in super::super) fn machine(profile: &str, current: &str, booted: &str) -> Tree {
        let systems = ["a", "b"].iter().fold(Tree::new().file("/etc/NIXOS", ""), |tree, name| {
            ["kernel", "initrd", "kernel-modules"].iter().fold(tree, |tree, part| {
                tree.link(&format!("/nix/store/{name}/{part}"), &format!("/nix/store/{part}-of-{name}"))
            })
        });
        systems
            .link("/nix/var/nix/profiles/system", "system-42-link")
            .link("/nix/var/nix/profiles/system-42-link", &format!("/nix/store/{profile}"))
            .link("/run/current-system", &format!("/nix/store/{current}"))
            .link("/run/booted-system", &format!("/nix/store/{booted}"))
    }

    #[test]
    fn what_runs_is_compared_with_what_was_set_and_what_is_expected() {
        assert_eq!(machine("a", "a", "a").judge(ID, &json!({})), ("pass", vec![]));
        assert_eq!(machine("a", "b", "a").judge(ID, &json!({})).1, ["not_activated"]);
        let expected = json!({"expected": "/nix/store/b"});
        assert_eq!(machine("a", "a", "a").judge(ID, &expected).1, ["unexpected_system"]);
        assert_eq!(machine("b", "b", "a").judge(ID, &expected), ("pass", vec![]));
    }

    /// Whatever may restart the agent runs in a unit of its own, going back as well.
    #[test]
    fn switching_outlives_the_agent() {
        let catalog = crate::catalog::Catalog::load(None).unwrap();
        let heal = catalog.runbooks[&ID.parse().unwrap()].remediate.as_ref().unwrap();
        let steps: Vec<_> = heal.steps.iter().chain(&heal.rollback).collect();
        assert_eq!(steps.len(), 2);
        for step in steps {
            let Action::Exec { argv, .. } = &step.action else { panic!("{step:?}") };
            let argv: Vec<&str> = argv.iter().map(|word| word.source()).collect();
            assert_eq!(argv[..3], ["systemd-run", "--wait", "--collect"], "{argv:?}");
        }
    }

    #[test]
    fn elsewhere_it_does_not_apply_and_without_links_it_is_unknown() {
        assert_eq!(Tree::new().judge(ID, &json!({})), ("not_applicable", vec!["not_nixos".into()]));
        assert_eq!(Tree::new().file("/etc/NIXOS", "").judge(ID, &json!({})).0, "unknown");
        let odd = Tree::new().file("/etc/NIXOS", "").link("/nix/var/nix/profiles/system", "elsewhere");
        assert_eq!(odd.judge(ID, &json!({})).0, "unknown");
    }
}
